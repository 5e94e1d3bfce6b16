from dataclasses import replace

import numpy as np
import pytest

from common.labels import (
    BRATS_2018,
    BRATS_2023,
    BRATS_2024,
    CLASSES_WITH_CAVITY,
    CONVENTIONS,
    MSD,
    REGIONS,
    LabelConvention,
    convention_from_names,
    infer_convention,
)

# What each release's documentation says its values mean: NCR, ED, ET.
DOCUMENTED = {"brats2018": (1, 2, 4), "brats2023": (1, 2, 3), "msd": (2, 1, 3), "brats2024": (1, 2, 3, 4)}


def test_regions_are_the_brats_definition():
    as_brats = {name: {BRATS_2018.values[c] for c in classes} for name, classes in REGIONS.items()}
    assert as_brats == {"ET": {4}, "TC": {1, 4}, "WT": {1, 2, 4}}
    with pytest.raises(TypeError):
        REGIONS["ET"] = (1,)


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float32, np.float64, ">i2"])
def test_to_classes_follows_the_documented_values_voxel_by_voxel(name, dtype):
    values = (0, *DOCUMENTED[name])
    tissue = dict(zip(values, map(CLASSES_WITH_CAVITY.index, ("background", "NCR", "ED", "ET", "RC")), strict=False))
    mask = np.random.default_rng(3).choice(values, size=(4, 3, 5)).astype(dtype)
    classes = CONVENTIONS[name].to_classes(mask)
    assert classes.dtype == np.uint8
    for index in np.ndindex(mask.shape):
        assert classes[index] == tissue[int(mask[index])]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("convention", [*CONVENTIONS.values(), LabelConvention("own", 7, 254, 1)], ids=str)
def test_round_trip(convention, seed):
    classes = np.random.default_rng(seed).integers(0, len(convention.values), size=(5, 6, 7))
    mask = convention.from_classes(classes)
    assert set(np.unique(mask)) == set(convention.values)
    np.testing.assert_array_equal(convention.to_classes(mask), classes)


def test_to_classes_keeps_the_memory_order():
    assert BRATS_2018.to_classes(np.zeros((3, 4, 5), np.int16, order="F")).flags.f_contiguous


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (np.array([0, 5], np.uint8), "[5]"),
        (np.array([1, -1], np.int8), "[-1]"),
        (np.array([1, 255], np.uint8), "[255]"),
        (np.array([1, 257], np.int16), "[257]"),  # 257 is 1 in eight bits
        (np.array([1, 65537], np.int32), "[65537]"),
        (np.array([1, 1.5], np.float32), "[1.5]"),
        (np.array([1, np.nan], np.float32), "[nan]"),
        (np.array([1, np.inf]), "[inf]"),
        (np.arange(100, dtype=np.int16), "... 96 in all]"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_unknown_values_are_named(mask, named):
    with pytest.raises(ValueError, match="mask values") as raised:
        BRATS_2018.to_classes(mask)
    assert named in str(raised.value)


def test_a_3_in_a_brats_2018_mask_names_both_readings():
    with pytest.raises(ValueError, match="mask values") as raised:
        BRATS_2018.to_classes(np.array([0, 1, 2, 3]))
    assert "brats2023 (1 NCR, 2 ED, 3 ET) or msd (1 ED, 2 NCR, 3 ET)" in str(raised.value)


@pytest.mark.parametrize("convention", [BRATS_2018, BRATS_2023, MSD], ids=str)
def test_a_mask_with_3_and_4_can_be_read_with_a_cavity_only(convention):
    with pytest.raises(ValueError, match=r"could be read as brats2024 \(1 NCR, 2 ED, 3 ET, 4 RC\): name"):
        convention.to_classes(np.array([0, 1, 2, 3, 4]))


def test_the_cavity_is_a_class_or_background_as_the_reading_says():
    mask = np.array([0, 1, 2, 3, 4, 4], np.int16)
    background = replace(BRATS_2024, rc_is_background=True)
    assert BRATS_2024.to_classes(mask).tolist() == [0, 1, 2, 3, 4, 4]
    assert background.to_classes(mask).tolist() == [0, 1, 2, 3, 0, 0]
    assert (BRATS_2024.has_cavity, background.has_cavity, BRATS_2023.has_cavity) == (True, False, False)
    assert len({BRATS_2024.reading, background.reading, BRATS_2023.reading}) == 3
    assert str(background) == "brats2024 (1 NCR, 2 ED, 3 ET, 4 RC, which is read as background)"
    with pytest.raises(ValueError, match="expected classes 0 to 4, found 5 to 5"):
        background.from_classes(np.array([5]))
    with pytest.raises(ValueError, match=r"\[5\] are not in brats2024"):
        background.to_classes(np.array([4, 5]))


@pytest.mark.parametrize("classes", [np.array([0, 4]), np.array([-1]), np.array([1.0]), np.array([True])])
def test_from_classes_refuses_what_is_no_class(classes):
    with pytest.raises(ValueError, match="expected classes"):
        MSD.from_classes(classes)


@pytest.mark.parametrize("values", [(1, 1, 2), (0, 1, 2), (1, 2, 255), (1, 2, -4), (1.0, 2, 3)])
def test_impossible_conventions_are_refused(values):
    with pytest.raises(ValueError, match="distinct whole numbers"):
        LabelConvention("bad", *values)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, MSD),
        ({"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}, MSD),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, BRATS_2023),
        ({"0": "Background", "1": "NCR/NET", "2": "Oedema", "4": "Enhancing"}, BRATS_2018),
        ({"background": 0, "necrotic core": 1, "peritumoral tissue": 2, "enhancing core": 3}, BRATS_2023),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3}, BRATS_2023),
        (
            {
                "background": 0,
                "non-enhancing tumor core": 1,
                "surrounding non-enhancing FLAIR hyperintensity": 2,
                "enhancing tissue": 3,
            },
            BRATS_2023,
        ),
        ({"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}, MSD),
        ({"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}, BRATS_2023),
        ({"background": 0, "WT": [1, 2, 4], "TC": [1, 4], "ET": [4]}, BRATS_2018),
        ({"ED": 3, "NCR": 2, "ET": 1}, LabelConvention("dataset.json", ncr=2, ed=3, et=1)),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, BRATS_2024),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3, "resection cavity": 4}, BRATS_2024),
        ({"ET": 1, "NCR": 2, "ED": 4, "cavity": 3}, LabelConvention("dataset.json", ncr=2, ed=4, et=1, rc=3)),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "ignore": 4}, replace(BRATS_2023, ignored=4)),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3, "ignore": 4}, replace(BRATS_2023, ignored=4)),
    ],
)
def test_names_of_a_dataset_json(names, expected):
    assert convention_from_names(names) == expected
    assert infer_convention("nnU-Net", names=names) == expected
    assert infer_convention("BraTS 2018-2021", names=names) == expected


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"background": 0, "tumor": 1}, "'tumor' is not a known name"),
        ({"background": 0, "NCR": 1, "ED": 2}, "one label each"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "cyst": 4}, "'cyst' is not a known name"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "cavity": [3, 4]}, "one label each"),
        ({"background": 0, "WT": [1, 2, 3, 4], "TC": [1, 3], "ET": 3, "RC": 4}, "one label each"),
        ({"background": 0, "edema and necrosis": 1, "ET": 2}, "could mean NCR or ED"),
        ({"background": 1, "NCR": 0, "ED": 2, "ET": 3}, "background to be 0"),
        ({"background": 0, "NCR": 1, "necrosis": 2, "ED": 3, "ET": 4}, "two labels mean NCR"),
        ({"background": 0, "NCR": 1, "ED": 1, "ET": 3}, "distinct"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "ignore": 3}, "NCR, ED, ET, ignore need distinct"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3, "ignore": [4, 5]}, "one label each"),
        ("NCR, ED, ET", "expected labels as an object of names and values"),
        ({"WT": [1, 2, 3], "TC": [3], "ET": [3]}, "inside one another"),
        ({"WT": [1, 2, 3, 4], "TC": [1, 3], "ET": [3]}, "one label each"),
        ({"WT": [1, 2], "TC": [2, 4], "ET": [4]}, "inside one another"),
        ({}, "one label each"),
    ],
)
def test_names_that_do_not_settle_the_labels_are_refused(names, why):
    with pytest.raises(ValueError, match=why):
        convention_from_names(names)


@pytest.mark.parametrize(
    ("layout", "values", "expected"),
    [
        ("BraTS 2018-2021", (), BRATS_2018),
        ("BraTS 2018-2021", (0, 1, 2, 4), BRATS_2018),
        ("BraTS 2018-2021", (0, 1, 2), BRATS_2018),
        ("BraTS 2018-2021", (0,), BRATS_2018),
        ("BraTS 2023", (0, 1, 2, 3), BRATS_2023),
        ("BraTS 2023", (0, 1), BRATS_2023),
    ],
)
def test_inference_from_layout_and_values(layout, values, expected):
    assert infer_convention(layout, values) == expected


BOTH = r"brats2023 \(1 NCR, 2 ED, 3 ET\) or msd \(1 ED, 2 NCR, 3 ET\)"


@pytest.mark.parametrize(
    ("layout", "values", "why"),
    [
        ("BraTS 2018-2021", (0, 1, 2, 3), BOTH),
        ("BraTS 2018-2021", (0, 1, 2, 3, 4), "both 3 and 4"),
        ("BraTS 2018-2021", (0, 1, 2, 3, 4), r"could be read as brats2024 \(1 NCR, 2 ED, 3 ET, 4 RC\)"),
        ("BraTS 2018-2021", (0, 7), "no known convention"),
        ("BraTS 2023", (0, 1, 2, 4), r"could be read as brats2018"),
        ("BraTS 2023", (3, 4), "both 3 and 4"),
        ("MSD", (), BOTH),
        ("MSD", (0, 1, 2, 3), BOTH),
        ("nnU-Net", (0, 1, 2, 3), BOTH),
        ("nnU-Net", (3, 4), "both 3 and 4"),
    ],
)
def test_inference_refuses_and_names_the_readings(layout, values, why):
    with pytest.raises(ValueError, match=why):
        infer_convention(layout, values)


def test_values_that_contradict_the_names_are_refused():
    with pytest.raises(ValueError, match=r"\[4\] are not in msd"):
        infer_convention("MSD", (0, 1, 4), names={"1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"})


def test_what_scaling_leaves_of_whole_numbers_is_read_and_what_interpolation_leaves_is_not():
    classes = np.arange(24).reshape(2, 3, 4) % 4
    scaled = (np.rint(BRATS_2018.from_classes(classes) / (4 / 255)) * (4 / 255)).astype(np.float32)
    assert 0.003 < np.abs(scaled - np.rint(scaled)).max() < 0.01
    np.testing.assert_array_equal(BRATS_2018.to_classes(scaled), classes)
    for spoiled in (
        scaled + np.float32(0.02),
        np.where(classes == 2, np.nan, scaled),
        np.where(classes, scaled, np.inf),
    ):
        with pytest.raises(ValueError, match="mask values"):
            BRATS_2018.to_classes(spoiled)


def test_voxels_to_be_ignored_are_of_no_class_and_masks_without_any_are_read():
    convention = convention_from_names({"background": 0, "edema": 1, "NCR": 2, "ET": 3, "ignore": 4})
    mask = np.array([0, 1, 2, 3], np.uint8)
    np.testing.assert_array_equal(convention.to_classes(mask), [0, 2, 1, 3])
    for one in (np.append(mask, [4, 4]), np.append(mask, [4, 4]).astype(float)):
        with pytest.raises(ValueError, match=r"^2 voxels have the value 4, which is named ignore: .* leave the"):
            convention.to_classes(one)
    with pytest.raises(ValueError, match=r"mask values \[4, 5\] are not in msd"):
        convention.to_classes(np.append(mask, [4, 5]))

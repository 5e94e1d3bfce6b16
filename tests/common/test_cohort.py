import gzip
import json
import os
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from common import walk
from common.cohort import CohortError, audit, find_subjects
from common.labels import BRATS_2018, BRATS_2023, MSD
from common.nifti import ScanError
from common.subject import CONTRASTS, Subject, examine, examine_arrays, stack_images
from tests.cohorts import write_cohort

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.0, -1, 1, 1])
BRATS_2018_NAMES = {"FLAIR": "_flair", "T1": "_t1", "T1ce": "_t1ce", "T2": "_t2", "label": "_seg"}
BRATS_2023_NAMES = {"FLAIR": "-t2f", "T1": "-t1n", "T1ce": "-t1c", "T2": "-t2w", "label": "-seg"}
MSD_JSON = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}


def volume(contrast, shape=SHAPE):
    """A different image for each contrast, on a background of 0."""
    inner = np.random.default_rng(CONTRASTS.index(contrast)).integers(1, 1000, [n - 2 for n in shape[:3]])
    return np.pad(inner, 1).astype(np.int16)


def classes(shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape) % 4


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def subject_2018(folder, name, *, suffix=".nii.gz", names=BRATS_2018_NAMES, convention=BRATS_2018, label=True):
    for contrast in CONTRASTS:
        save(folder / name / f"{name}{names[contrast]}{suffix}", volume(contrast))
    if label:
        save(folder / name / f"{name}{names['label']}{suffix}", convention.from_classes(classes()))
    return folder / name


def table(folder, described):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(described))


def msd(folder, names=("BRATS_001", "BRATS_002"), described=MSD_JSON):
    for name in names:
        save(folder / "imagesTr" / f"{name}.nii.gz", np.stack([volume(c) for c in CONTRASTS], axis=3))
        save(folder / "labelsTr" / f"{name}.nii.gz", MSD.from_classes(classes()))
    if described is not None:
        table(folder, described)
    return folder


def nnunet(folder, described, *, order=CONTRASTS, convention=MSD, name="case_7"):
    for index, contrast in enumerate(order):
        save(folder / "imagesTr" / f"{name}_{index:04d}.nii.gz", volume(contrast))
    save(folder / "labelsTr" / f"{name}.nii.gz", convention.from_classes(classes()))
    if described is not None:
        table(folder, described)
    return folder


def check_content(found, layout, ids, convention):
    """Every subject gives the four images and the classes that were written, in the order of CONTRASTS."""
    assert found.layout == layout
    assert [s.id for s in found.subjects] == ids
    assert found.incomplete == ()
    for subject in found.subjects:
        assert subject.convention == convention
        images, first = subject.load_images()
        assert images.dtype == np.int16
        for image, contrast in zip(images, CONTRASTS, strict=True):
            np.testing.assert_array_equal(image, volume(contrast))
        np.testing.assert_array_equal(first.data, volume("FLAIR"))
        np.testing.assert_array_equal(first.affine, AFFINE)
        np.testing.assert_array_equal(subject.load_labels(), classes())
        assert subject.load_labels().dtype == np.uint8
        some, first = subject.load_images(("T2", "T1"))
        np.testing.assert_array_equal(some, np.stack([volume("T2"), volume("T1")]))
        np.testing.assert_array_equal(first.data, volume("T2"))
    assert audit(found, n_jobs=2).problems == ()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("below", ["", "HGG", "MICCAI/HGG"])
def test_brats_2018(tmp_path, suffix, below):
    subject_2018(tmp_path / below, "Brats18_2013_2_1", suffix=suffix)
    subject_2018(tmp_path / "LGG", "BraTS2021_00006", suffix=suffix)
    save(tmp_path / "LGG" / "BraTS2021_00006" / "mask.nii.gz", classes().astype(np.uint8))  # not part of the layout
    (tmp_path / "LGG" / "BraTS2021_00006" / "._BraTS2021_00006_t1.nii.gz").write_bytes(b"\0\5\x16\7")
    (tmp_path / "name_mapping.csv").write_text("id\n")
    check_content(find_subjects(tmp_path), "BraTS 2018-2021", ["BraTS2021_00006", "Brats18_2013_2_1"], BRATS_2018)


def test_brats_2023(tmp_path):
    ids = ["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"]
    for name in ids:
        subject_2018(tmp_path, name, names=BRATS_2023_NAMES, convention=BRATS_2023)
    check_content(find_subjects(tmp_path), "BraTS 2023", ids, BRATS_2023)


def test_files_all_in_one_folder(tmp_path):
    for name in ("BraTS2021_00001", "BraTS2021_00002"):
        for file in subject_2018(tmp_path / "made", name).iterdir():
            file.rename(tmp_path / file.name)
    shutil.rmtree(tmp_path / "made")
    check_content(find_subjects(tmp_path), "BraTS 2018-2021", ["BraTS2021_00001", "BraTS2021_00002"], BRATS_2018)


def test_mask_of_brats_2020_case_355(tmp_path):
    subject_2018(tmp_path, "BraTS20_Training_354", suffix=".nii")
    folder = subject_2018(tmp_path, "BraTS20_Training_355", suffix=".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    ids = ["BraTS20_Training_354", "BraTS20_Training_355"]
    check_content(find_subjects(tmp_path), "BraTS 2018-2021", ids, BRATS_2018)


@pytest.mark.parametrize(
    ("names", "convention", "layout"),
    [(BRATS_2018_NAMES, BRATS_2018, "BraTS 2018-2021"), (BRATS_2023_NAMES, BRATS_2023, "BraTS 2023")],
)
def test_folders_named_like_files(tmp_path, names, convention, layout):
    # seen in redistributions: BraTS-GLI-00000-000-t1c.nii/00000057_brain_t1ce.nii
    name = "BraTS-GLI-00017-000" if names is BRATS_2023_NAMES else "case-1-000"
    folder = subject_2018(tmp_path, name, suffix=".nii", names=names, convention=convention)
    for contrast, other in zip((*CONTRASTS, "label"), ("flair", "t1", "t1ce", "t2", "final_seg"), strict=True):
        file = folder / f"{name}{names[contrast]}.nii"
        file.rename(folder / "held")
        file.mkdir()
        (folder / "held").rename(file / f"00000057_brain_{other}.nii")
    check_content(find_subjects(tmp_path), layout, [name], convention)


def test_msd(tmp_path):
    msd(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / "._BRATS_001.nii.gz").write_bytes(b"\0\5\x16\7")
    save(tmp_path / "imagesTs" / "BRATS_485.nii.gz", np.stack([volume(c) for c in CONTRASTS], axis=3))
    found = find_subjects(tmp_path)
    check_content(found, "MSD", ["BRATS_001", "BRATS_002"], MSD)
    assert set(found.subjects[0].images.values()) == {tmp_path / "imagesTr" / "BRATS_001.nii.gz"}


def test_msd_order_comes_from_dataset_json(tmp_path):
    described = {**MSD_JSON, "modality": {"0": "T2w", "1": "T1w", "2": "t1gd", "3": "FLAIR"}}
    (subject,) = find_subjects(msd(tmp_path, ["BRATS_001"], described)).subjects
    np.testing.assert_array_equal(subject.load_images(["FLAIR"])[0][0], volume("T2"))


def test_msd_without_dataset_json(tmp_path):
    msd(tmp_path, described=None)
    both = r"brats2023 \(1 NCR, 2 ED, 3 ET\) or msd \(1 ED, 2 NCR, 3 ET\)"
    with pytest.raises(CohortError, match=both):
        find_subjects(tmp_path)
    with pytest.raises(CohortError, match=both):
        find_subjects(tmp_path, convention="brats2023")  # the order of contrasts stays unknown
    check_content(find_subjects(tmp_path, convention="msd"), "MSD", ["BRATS_001", "BRATS_002"], MSD)


NNUNET_LABELS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


@pytest.mark.parametrize(
    ("described", "order", "convention"),
    [
        (
            {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}, "labels": NNUNET_LABELS},
            ("T1", "T1ce", "T2", "FLAIR"),
            MSD,
        ),
        (
            {"channel_names": ["t2f", "t1n", "t1c", "t2w"], "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3}},
            CONTRASTS,
            BRATS_2023,
        ),
        ({**MSD_JSON, "modality": {"0": "T2-FLAIR", "1": "T1w", "2": "T1_Gd", "3": "T2w"}}, CONTRASTS, MSD),
        (
            {**MSD_JSON, "channel_names": {"1": "T2", "2": "T1", "0": "FLAIR", "3": "T1CE"}},
            ("FLAIR", "T2", "T1", "T1ce"),
            MSD,
        ),
    ],
)
def test_nnunet(tmp_path, described, order, convention):
    nnunet(tmp_path, described, order=order, convention=convention)
    check_content(find_subjects(tmp_path), "nnU-Net", ["case_7"], convention)


def test_nnunet_ignores_further_channels(tmp_path):
    nnunet(tmp_path, {**MSD_JSON, "modality": {**MSD_JSON["modality"], "4": "ADC"}})
    save(tmp_path / "imagesTr" / "case_7_0004.nii.gz", np.zeros((2, 2, 2), np.int16))
    check_content(find_subjects(tmp_path), "nnU-Net", ["case_7"], MSD)


@pytest.mark.parametrize(
    ("described", "why"),
    [
        (None, "without a dataset.json"),
        ({"labels": MSD_JSON["labels"]}, "each of FLAIR, T1, T1ce, T2 once"),
        ({**MSD_JSON, "modality": {"0": "FLAIR", "1": "T1w", "2": "T1", "3": "T2w"}}, "once among its channel names"),
        ({**MSD_JSON, "modality": {"0": "MRI", "1": "MRI", "2": "MRI", "3": "MRI"}}, "once among its channel names"),
        ({"modality": MSD_JSON["modality"]}, r"brats2023 \(1 NCR, 2 ED, 3 ET\) or msd \(1 ED, 2 NCR, 3 ET\)"),
        ({**MSD_JSON, "labels": {"0": "background", "1": "tumour"}}, "'tumour' is not a known name"),
        ([1], "expected a dict in JSON, found a list"),
        ({**MSD_JSON, "labels": ["background"]}, r"expected labels as an object of names .* found \['background'\]"),
    ],
)
def test_dataset_json_that_settles_nothing(tmp_path, described, why):
    nnunet(tmp_path, described)
    with pytest.raises(CohortError, match=why) as raised:
        find_subjects(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_broken_dataset_json(tmp_path):
    msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(CohortError, match=r"dataset\.json"):
        find_subjects(tmp_path)


def test_the_named_convention_wins(tmp_path):
    subject_2018(tmp_path, "BraTS2021_00001", convention=MSD)
    check_content(find_subjects(tmp_path, convention="msd"), "BraTS 2018-2021", ["BraTS2021_00001"], MSD)
    with pytest.raises(CohortError, match="'brats2019', expected one of brats2018, brats2023, msd"):
        find_subjects(tmp_path, convention="brats2019")


def test_the_named_convention_may_not_contradict_dataset_json(tmp_path):
    nnunet(tmp_path, MSD_JSON)
    check_content(find_subjects(tmp_path, convention="msd"), "nnU-Net", ["case_7"], MSD)
    with pytest.raises(CohortError, match=r"dataset\.json says msd .* contradicts the named convention brats2023"):
        find_subjects(tmp_path, convention="brats2023")
    table(tmp_path, {**MSD_JSON, "labels": {"0": "background", "1": "a", "2": "b", "3": "c"}})
    check_content(find_subjects(tmp_path, convention="msd"), "nnU-Net", ["case_7"], MSD)


def test_validation_set_has_no_labels(tmp_path):
    for name in ("BraTS2021_00001", "BraTS2021_00002"):
        subject_2018(tmp_path, name, label=False)
    found = find_subjects(tmp_path)
    assert [(s.label, s.convention) for s in found.subjects] == [(None, None)] * 2
    assert audit(found, n_jobs=1).problems == ()
    assert found.subjects[0].load_images()[0].shape == (4, *SHAPE)
    with pytest.raises(ValueError, match="BraTS2021_00001: expected a mask"):
        found.subjects[0].load_labels()


def test_max_subjects(tmp_path):
    for number in range(4):
        subject_2018(tmp_path, f"BraTS2021_0000{number}")
    (tmp_path / "BraTS2021_00001" / "BraTS2021_00001_t1.nii.gz").unlink()
    found = find_subjects(tmp_path, max_subjects=2)
    assert [s.id for s in found.subjects] == ["BraTS2021_00000", "BraTS2021_00002"]
    assert [p.subject for p in found.incomplete] == ["BraTS2021_00001"]
    assert [s.id for s in find_subjects(tmp_path, max_subjects=9).subjects][-1] == "BraTS2021_00003"
    assert find_subjects(tmp_path, max_subjects=1).incomplete == ()
    with pytest.raises(CohortError, match="at least 1, received 0"):
        find_subjects(tmp_path, max_subjects=0)


def test_what_is_no_cohort(tmp_path):
    with pytest.raises(CohortError, match="no folder"):
        find_subjects(tmp_path / "absent")
    with pytest.raises(CohortError, match=r"BraTS 2018-2021.*MSD or nnU-Net.*found an empty folder"):
        find_subjects(tmp_path)
    (tmp_path / "patient.dcm").write_bytes(b"")
    with pytest.raises(CohortError, match=r"found patient\.dcm"):
        find_subjects(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    table(tmp_path, MSD_JSON)
    with pytest.raises(CohortError, match="no subject is complete: there is none"):
        find_subjects(tmp_path)


def test_mixed_layouts(tmp_path):
    subject_2018(tmp_path, "BraTS2021_00001")
    subject_2018(tmp_path, "BraTS-GLI-00000-000", names=BRATS_2023_NAMES, convention=BRATS_2023)
    with pytest.raises(
        CohortError, match=r"BraTS 2018-2021 \(BraTS2021_00001\) and BraTS 2023 \(BraTS-GLI-00000-000\)"
    ):
        find_subjects(tmp_path)
    shutil.rmtree(tmp_path / "BraTS-GLI-00000-000")
    msd(tmp_path)
    with pytest.raises(CohortError, match=r"BraTS2021_00001\) and MSD"):
        find_subjects(tmp_path)
    shutil.rmtree(tmp_path / "BraTS2021_00001")
    save(tmp_path / "imagesTr" / "case_0000.nii.gz", volume("FLAIR"))
    with pytest.raises(CohortError, match="imagesTr mixes"):
        find_subjects(tmp_path)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00000"),
        ("BraTS-GLI-00000-001", "BraTS-GLI-00000"),
        ("BraTS-SSA-00012-000", "BraTS-SSA-00012"),
        ("BraTS-MEN-RT-0003-1", "BraTS-MEN-RT-0003"),
        ("UCSF-PDGM-0431_FU016d", "UCSF-PDGM-0431"),
        ("UCSF-PDGM-0431", "UCSF-PDGM-0431"),
        ("UPENN-GBM-00577_21", "UPENN-GBM-00577"),
        ("UPENN-GBM-00577_11", "UPENN-GBM-00577"),
        ("PatientID_0192_Timepoint_3", "PatientID_0192"),
        ("sub-07_ses-2_run-1", "sub-07"),
        ("Brats18_TCIA01_131_1", "Brats18_TCIA01_131"),
        ("Brats18_CBICA_APR_1", "Brats18_CBICA_APR"),
        ("BraTS19_2013_10_1", "BraTS19_2013_10"),
        ("BraTS2021_00006", "BraTS2021_00006"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BRATS_001", "BRATS_001"),
        ("case_7", "case_7"),
        ("brats-gli-00001-001", "brats-gli-00001"),
        ("upenn-gbm-00577_21", "upenn-gbm-00577"),
        ("ucsf-pdgm-0138", "UCSF-PDGM-0429"),
    ],
)
def test_patient(name, patient):
    assert Subject(name, {}).patient == patient


def test_fingerprint_follows_content_and_its_reading(tmp_path):
    folder = subject_2018(tmp_path / "a", "BraTS2021_00001")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    here, there = (find_subjects(tmp_path / name).subjects[0] for name in "ab")
    assert here.fingerprint() == there.fingerprint()
    swapped = replace(here, images={**here.images, "T1": here.images["T2"], "T2": here.images["T1"]})
    others = [swapped, replace(here, convention=MSD), replace(here, label=None)]
    for contrast in ("FLAIR", "T2"):
        changed = volume(contrast)
        changed[1, 2, 3] += 1
        save(tmp_path / f"{contrast}.nii.gz", changed)
        others.append(replace(here, images={**here.images, contrast: tmp_path / f"{contrast}.nii.gz"}))
    assert len({here.fingerprint(), *(s.fingerprint() for s in others)}) == 1 + len(others)
    save(folder / "BraTS2021_00001_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    assert here.fingerprint() != there.fingerprint()


def test_fingerprint_sees_the_order_inside_a_4d_file(tmp_path):
    (subject,) = find_subjects(msd(tmp_path, ["BRATS_001"])).subjects
    other = replace(subject, channels=dict(zip(reversed(CONTRASTS), range(4), strict=True)))
    assert subject.fingerprint() != other.fingerprint()


def damage(folder):
    """A cohort with every kind of damage: subject -> what its problem must say. Subject 00 is sound."""
    paths = {}
    for number in range(18):
        name = f"BraTS2021_{number:05d}"
        paths[number] = (subject_2018(folder, name), name)

    def file(number, suffix):
        return paths[number][0] / f"{paths[number][1]}{suffix}.nii.gz"

    file(1, "_t1ce").unlink()
    save(file(2, "_t1"), volume("T1", (6, 5, 3)))
    save(file(3, "_t2"), volume("T2"), np.diag([-1.0, -1, 1.1, 1]))
    content = file(4, "_flair").read_bytes()
    file(4, "_flair").write_bytes(content[:-20])
    content = bytearray(file(5, "_seg").read_bytes())
    content[len(content) // 2] ^= 4
    file(5, "_seg").write_bytes(bytes(content))
    save(file(6, "_seg"), np.full(SHAPE, 5, np.uint8))
    image = volume("T1").astype(np.float32)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    save(file(7, "_t1"), image)
    header = nib.Nifti1Header()
    header.set_data_shape((32767, 32767, 32767))
    header["vox_offset"] = 352
    file(8, "_t2").write_bytes(gzip.compress(header.binaryblock))
    save(file(9, "_flair"), np.zeros(SHAPE, np.int16))
    save(file(10, "_flair"), np.full(SHAPE, 7, np.float32))
    save(file(11, "_seg"), np.zeros((6, 5, 3), np.uint8))
    save(file(12, "_t1").with_suffix(""), volume("T1"))  # both .nii and .nii.gz
    shutil.copytree(paths[13][0], folder / "LGG" / paths[13][1])
    file(14, "_seg").unlink()
    file(15, "_t2").write_bytes(b"")
    save(file(16, "_t1"), np.stack([volume("T1")] * 2, axis=3))
    save(file(17, "_seg"), MSD.from_classes(classes()))
    return {
        1: ["missing T1ce"],
        2: [r"shape \(6, 5, 3\) differs from \(6, 5, 4\) of FLAIR.*_t1\.nii"],
        3: [r"its affine places voxels up to 0\.3 mm from those of FLAIR: resample it to that grid, .*_t2"],
        4: ["_flair.*truncated"],
        5: ["_seg.*(damaged|truncated|begins with)"],
        6: [r"mask values \[5\]"],
        7: ["T1 has 3 voxels that are NaN or infinite"],
        8: ["_t2.*limit"],
        9: ["FLAIR is empty: every voxel is 0"],
        10: [r"FLAIR is empty: every voxel is 7\.0"],
        11: [r"shape \(6, 5, 3\).*_seg"],
        12: [r"2 files claim to be its T1: BraTS2021_00012_t1\.nii, BraTS2021_00012_t1\.nii\.gz"],
        13: ["duplicate id.*LGG"],
        14: ["missing its mask"],
        15: [r"_t2\.nii\.gz"],
        16: [r"one volume.*\(6, 5, 4, 2\)"],
        17: [r"mask values \[3\].*brats2023 .* or msd "],
    }


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_the_audit_lists_every_damage_at_once(tmp_path, n_jobs):
    expected = damage(tmp_path)
    problems = audit(find_subjects(tmp_path), n_jobs=n_jobs).problems
    assert [p.subject for p in problems] == [f"BraTS2021_{number:05d}" for number in expected]
    for problem, (why,) in zip(problems, expected.values(), strict=True):
        assert re.search(why, str(problem))


def test_all_problems_of_one_subject(tmp_path):
    folder = subject_2018(tmp_path, "BraTS2021_00001")
    save(folder / "BraTS2021_00001_flair.nii.gz", np.zeros(SHAPE, np.int16))
    save(folder / "BraTS2021_00001_t1.nii.gz", volume("T1", (4, 4, 4)))
    (folder / "BraTS2021_00001_t2.nii.gz").write_bytes(b"\x1f\x8b")
    (subject,) = find_subjects(tmp_path).subjects
    assert sorted(p.file.name.split("_")[-1] for p in examine(subject).problems) == [
        "flair.nii.gz",
        "t1.nii.gz",
        "t2.nii.gz",
    ]


def test_a_damaged_4d_file_is_one_problem(tmp_path):
    path = msd(tmp_path, ["BRATS_001"]) / "imagesTr" / "BRATS_001.nii.gz"
    (subject,) = find_subjects(tmp_path).subjects
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert [p.file for p in examine(subject).problems] == [path]
    save(path, np.stack([volume(c) for c in ("FLAIR", "T1", "T2")], axis=3))
    assert ["expected at least 4 contrasts" in p.what for p in examine(subject).problems] == [True]
    with pytest.raises(ScanError, match="expected at least 4 contrasts"):
        subject.load_images()


def test_empty_masks_are_sound(tmp_path):
    folder = subject_2018(tmp_path, "BraTS2021_00001")
    save(folder / "BraTS2021_00001_seg.nii.gz", np.zeros(SHAPE, np.int16))
    found = find_subjects(tmp_path)
    assert audit(found, n_jobs=1).problems == ()
    assert found.subjects[0].load_labels().sum() == 0


def test_a_cohort_whose_et_is_3_leaves_no_mask_certain(tmp_path):
    for number in (1, 2, 3):
        folder = subject_2018(tmp_path, f"BraTS2021_0000{number}", convention=MSD)
    without_et = MSD.from_classes(np.minimum(classes(), 2))
    save(folder / f"{folder.name}_seg.nii.gz", without_et)
    problems = audit(find_subjects(tmp_path), n_jobs=1).problems
    assert [p.subject[-1] for p in problems] == ["1", "2", "3"]
    assert "in the cohort as a whole" in problems[-1].what
    assert all("brats2023 (1 NCR, 2 ED, 3 ET) or msd (1 ED, 2 NCR, 3 ET)" in p.what for p in problems)
    assert audit(find_subjects(tmp_path, convention="msd"), n_jobs=1).problems == ()
    # one mask that confirms the layout's convention makes the mask without ET certain again
    subject_2018(tmp_path, "BraTS2021_00001")
    assert [p.subject[-1] for p in audit(find_subjects(tmp_path), n_jobs=1).problems] == ["2"]


def test_loading_names_the_file_and_both_readings(tmp_path):
    subject_2018(tmp_path, "BraTS2021_00001", convention=MSD)
    (subject,) = find_subjects(tmp_path).subjects
    with pytest.raises(ScanError, match=r"_seg\.nii\.gz: mask values \[3\].*brats2023 .* or msd "):
        subject.load_labels()


@pytest.mark.parametrize(("number", "what"), [(2, "shape"), (3, "affine"), (4, "truncated"), (8, "limit")])
def test_loading_refuses_damaged_images(tmp_path, number, what):
    damage(tmp_path)
    subject = next(s for s in find_subjects(tmp_path).subjects if s.id.endswith(f"{number:05d}"))
    with pytest.raises(ScanError, match=what):
        subject.load_images()


def test_loading_refuses_a_mask_on_another_grid(tmp_path):
    damage(tmp_path)
    subject = next(s for s in find_subjects(tmp_path).subjects if s.id == "BraTS2021_00011")
    with pytest.raises(ScanError, match=r"_seg\.nii\.gz: shape \(6, 5, 3\) differs"):
        subject.load_labels()


@pytest.mark.parametrize(("off_mm", "is_taken"), [(0.01, True), (0.09, True), (0.11, False), (2.0, False)])
def test_a_mask_whose_origin_is_off_by_far_less_than_a_voxel_lies_on_its_scans_grid(tmp_path, off_mm, is_taken):
    folder = subject_2018(tmp_path, "BraTS2021_00001")
    moved = AFFINE + np.array([[0, 0, 0, off_mm], [0] * 4, [0] * 4, [0] * 4])
    save(folder / "BraTS2021_00001_seg.nii.gz", BRATS_2018.from_classes(classes()), moved)
    (subject,) = find_subjects(tmp_path).subjects
    problems = [problem.what for problem in examine(subject).problems]
    if is_taken:
        assert problems == []
        np.testing.assert_array_equal(subject.load_labels(), classes())
    else:
        (said,) = problems
        assert f"its affine places voxels up to {off_mm:g} mm from those of FLAIR" in said
        with pytest.raises(ScanError, match=f"up to {off_mm:g} mm"):
            subject.load_labels()


def test_images_of_different_types_are_stacked_without_loss(tmp_path):
    folder = subject_2018(tmp_path, "BraTS2021_00001")
    save(folder / "BraTS2021_00001_t1.nii.gz", volume("T1").astype(np.float32) + np.float32(0.25))
    save(folder / "BraTS2021_00001_t2.nii.gz", volume("T2")[..., None])
    images, _ = find_subjects(tmp_path).subjects[0].load_images()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[1], volume("T1") + 0.25)
    np.testing.assert_array_equal(images[3], volume("T2"))


def test_arrays_read_once_serve_check_and_images(tmp_path):
    subject_2018(tmp_path, "BraTS2021_00001")
    (subject,) = find_subjects(tmp_path).subjects
    scans, mask = subject.read()
    shutil.rmtree(tmp_path / "BraTS2021_00001")
    assert examine_arrays(subject, scans, mask).problems == ()
    np.testing.assert_array_equal(stack_images(subject, scans)[0], np.stack([volume(c) for c in CONTRASTS]))
    np.testing.assert_array_equal(subject.convention.to_classes(mask.data), classes())
    bad = {**scans, "T1": replace(scans["T1"], data=scans["T1"].data * 0)}
    assert [p.what for p in examine_arrays(subject, bad, mask).problems] == ["T1 is empty: every voxel is 0"]


def cohort_2023(folder, names, values=(0, 1, 2, 3)):
    for name in names:
        subject_2018(folder, name, names=BRATS_2023_NAMES, convention=BRATS_2023)
        mask = np.array(values, np.uint8)[np.arange(np.prod(SHAPE)).reshape(SHAPE) % len(values)]
        save(folder / name / f"{name}-seg.nii.gz", mask)
    return folder


@pytest.mark.parametrize("name", ["BraTS-GLI-01666-000", "BraTS-SSA-00191-000", "BraTS-MEN-00004-000", "BraTS-MET-2-0"])
def test_ids_tell_the_collection_and_the_notes_say_so(tmp_path, name):
    found = find_subjects(cohort_2023(tmp_path, [name]))
    check_content(found, "BraTS 2023", [name], BRATS_2023)
    (note,) = found.notes
    assert "1 mask is read as brats2023 (1 NCR, 2 ED, 3 ET)" in note
    assert name[:9] in note


@pytest.mark.parametrize("name", ["BraTS-PED-00030-000", "BraTS-PEDs-030-000", "BraTS-MEN-RT-0007-1", "child-7", "x"])
def test_names_of_2023_with_other_meanings_are_refused(tmp_path, name):
    cohort_2023(tmp_path, [name])
    with pytest.raises(CohortError, match=r"cannot be told for certain.*BraTS-PED 2024 has 1 ET, 2 NET, 3 CC, 4 ED"):
        find_subjects(tmp_path)
    assert find_subjects(tmp_path, convention="brats2023").notes == (
        "1 mask is read as brats2023 (1 NCR, 2 ED, 3 ET), as the user says",
    )
    for mask in tmp_path.rglob("*-seg.nii.gz"):
        mask.unlink()
    assert find_subjects(tmp_path).subjects[0].label is None  # without masks there is nothing to misread


def test_a_paediatric_subject_among_adults_is_a_problem_of_its_own(tmp_path):
    cohort_2023(tmp_path, ["BraTS-PED-00002-000", "BraTS-GLI-00002-000"])
    found = find_subjects(tmp_path)
    assert [s.id for s in found.subjects] == ["BraTS-GLI-00002-000"]
    assert [p.subject for p in found.incomplete] == ["BraTS-PED-00002-000"]


def test_an_id_of_2023_under_names_of_2018_settles_nothing(tmp_path):
    subject_2018(tmp_path, "BraTS-GLI-00001-000")
    with pytest.raises(CohortError, match="ids like BraTS-GLI-00001-000 are of BraTS 2023"):
        find_subjects(tmp_path)


def test_one_scan_under_two_ids_is_named(tmp_path):
    for number, name in enumerate(("Brats17_A_1", "BraTS19_B_1", "Brats18_C_1")):
        folder = subject_2018(tmp_path, name)
        for contrast in CONTRASTS:
            rng = np.random.default_rng([number, CONTRASTS.index(contrast)])
            own = np.pad(rng.integers(1, 90, [n - 2 for n in SHAPE]), 1).astype(np.int16)
            save(folder / f"{name}_{contrast.lower()}.nii.gz", own)
    other = nib.load(tmp_path / "Brats17_A_1" / "Brats17_A_1_t1.nii.gz")
    again = other.as_reoriented(nib.orientations.axcodes2ornt("PSR"))
    assert audit(find_subjects(tmp_path)).equal == ()
    folder = tmp_path / "BraTS19_B_1"
    save(folder / "BraTS19_B_1_t1.nii.gz", other.get_fdata().astype(np.float32), AFFINE)
    assert audit(find_subjects(tmp_path)).equal == (("BraTS19_B_1", "Brats17_A_1"),)
    for contrast in CONTRASTS:  # all of it on other axes
        image = nib.load(tmp_path / "Brats17_A_1" / f"Brats17_A_1_{contrast.lower()}.nii.gz")
        again = image.as_reoriented(nib.orientations.axcodes2ornt("PSR"))
        save(folder / f"BraTS19_B_1_{contrast.lower()}.nii.gz", np.asarray(again.dataobj), again.affine)
    (folder / "BraTS19_B_1_seg.nii.gz").unlink()
    mask = nib.Nifti1Image(np.zeros(again.shape, np.uint8), again.affine)
    mask.to_filename(folder / "BraTS19_B_1_seg.nii.gz")
    assert audit(find_subjects(tmp_path)).equal == (("BraTS19_B_1", "Brats17_A_1"),)


def test_patients_of_a_table(tmp_path):
    for name in ("one", "two", "three"):
        subject_2018(tmp_path / "data", name)
    table = tmp_path / "patients.csv"
    table.write_text("id,patient\none,P\ntwo,P\nthree,Q\n")
    found = find_subjects(tmp_path / "data", patients=table)
    assert {s.id: s.patient for s in found.subjects} == {"one": "P", "two": "P", "three": "Q"}
    table.write_text("id,patient\none,P\ntwo,P\n")
    with pytest.raises(CohortError, match=r"patients\.csv: expected a patient for every subject, found none for three"):
        find_subjects(tmp_path / "data", patients=table)


def test_a_patient_in_two_cases_stays_on_one_side_and_nobody_else_has_another_name(tmp_path):
    names = ["BraTS-GLI-00005-000", "brats-gli-00005-001", "brats-gli-00006-000", "BraTS-GLI-00007-000"]
    for name in names:
        subject_2018(tmp_path, name, names=BRATS_2023_NAMES, convention=BRATS_2023)
    found = find_subjects(tmp_path, convention="brats2023")
    patients = {s.id: s.patient for s in found.subjects}
    assert [patients[name] for name in names] == [
        *("BraTS-GLI-00005", "BraTS-GLI-00005", "brats-gli-00006", "BraTS-GLI-00007")
    ]
    assert [note for note in found.notes if "capital letters" in note] == [
        f"ids of one patient but for capital letters are taken as one patient's: {names[0]} and {names[1]}"
    ]
    table = tmp_path / "patients.csv"
    table.write_text("id,patient\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))
    found = find_subjects(tmp_path, convention="brats2023", patients=table)
    assert len({s.patient for s in found.subjects}) == 4
    assert not any("capital letters" in note for note in found.notes)


@pytest.mark.parametrize("factor", [1, 0.37, "uint8"])
def test_a_contrast_that_is_a_copy_is_named(tmp_path, factor):
    folder = subject_2018(tmp_path, "BraTS2021_00001")
    copy = volume("T1ce").astype(np.float32)
    copy = (copy * 255 / copy.max()).astype(np.uint8) if factor == "uint8" else copy * np.float32(factor)
    save(folder / "BraTS2021_00001_t1.nii.gz", copy)
    (problem,) = audit(find_subjects(tmp_path)).problems
    assert problem.file.name == "BraTS2021_00001_t1ce.nii.gz"
    assert problem.what == "T1ce is a copy of T1, expected two different images"


def test_what_lies_in_a_folder_is_listed_with_its_subject(tmp_path, monkeypatch):
    for name in ("A", "B", "C", "D", "=1+1"):
        subject_2018(tmp_path, name)
    (tmp_path / "B" / "B_t1.nii.gz").unlink()
    os.mkfifo(tmp_path / "B" / "B_t1.nii.gz")
    (tmp_path / "C" / "C_seg.nii.gz").unlink()
    (tmp_path / "C" / "C_seg.nii.gz").symlink_to("annex")
    os.rename(tmp_path / "D", os.fsencode(tmp_path) + b"/D\xe4")
    (tmp_path / "again").symlink_to(".")
    found = find_subjects(tmp_path)
    assert [s.id for s in found.subjects] == ["A"]
    listed = "\n".join(map(str, found.incomplete))
    listed.encode("utf-8")
    assert {p.subject for p in found.incomplete} == {"=1+1", "B", "C", r"D\udce4"}
    for what in (
        "a named pipe",
        "leads nowhere",
        "no plain text",
        "begins with no =",
        "missing T1",
        "missing its mask",
    ):
        assert what in listed
    with pytest.raises(CohortError, match="path is plain text"):
        find_subjects(os.fsdecode(os.fsencode(tmp_path) + b"/D\xe4"))
    monkeypatch.setattr(walk.os, "scandir", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(CohortError, match="cannot be listed: Input/output error"):
        find_subjects(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"channel_names": 4, "labels": {}}',
        '{"channel_names": null}',
        '{"channel_names": {"FLAIR": 0}}',
        '{"channel_names": [[], {}, 1, null]}',
        '{"labels": {"0": "background", "1": {}}}',
        '{"labels": {"background": 0, "NCR": {"a": 1}, "ED": 2, "ET": 3}}',
        '{"labels": {"background": 0, "NCR": [[1]], "ED": true, "ET": 3.0}}',
        '{"labels": 7}',
        "\x00",
        "",
    ],
)
def test_dataset_json_of_odd_types_is_an_error_that_names_it(tmp_path, text):
    nnunet(tmp_path, None)
    channels = {"channel_names": ["t2f", "t1n", "t1c", "t2w"]}
    if text.startswith('{"labels'):
        text = json.dumps({**channels, **json.loads(text)})
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(CohortError, match=re.escape(str(tmp_path))):
        find_subjects(tmp_path)


def test_a_pipe_among_the_files_of_a_table_is_its_subjects(tmp_path):
    nnunet(tmp_path, MSD_JSON)
    for contrast in range(4):
        os.mkfifo(tmp_path / "imagesTr" / f"case_8_{contrast:04d}.nii.gz")
    save(tmp_path / "labelsTr" / "case_8.nii.gz", classes().astype(np.uint8))
    found = find_subjects(tmp_path)
    assert [s.id for s in found.subjects] == ["case_7"]
    assert {p.subject for p in found.incomplete} == {"case_8"}
    assert [p.file.name[7:11] for p in found.incomplete if p.file] == ["0000", "0001", "0002", "0003"]


def test_dataset_json_with_a_byte_order_mark(tmp_path):
    nnunet(tmp_path, None)
    (tmp_path / "dataset.json").write_text(json.dumps(MSD_JSON), encoding="utf-8-sig")
    check_content(find_subjects(tmp_path), "nnU-Net", ["case_7"], MSD)


def test_real_subjects_against_nibabel(real_data):
    found = find_subjects(real_data / "brats")
    assert found.layout == "BraTS 2018-2021"
    assert len(found.subjects) == 4
    assert [s.id for s in found.subjects] == sorted(p.name for p in (real_data / "brats").iterdir())
    assert audit(found, n_jobs=2).problems == ()
    for subject in found.subjects:
        images, first = subject.load_images()
        folder = real_data / "brats" / subject.id
        for image, suffix in zip(images, ("flair", "t1", "t1ce", "t2"), strict=True):
            oracle = nib.load(folder / f"{subject.id}_{suffix}.nii.gz")
            np.testing.assert_array_equal(image, np.asarray(oracle.dataobj))
        np.testing.assert_array_equal(first.affine, nib.load(folder / f"{subject.id}_flair.nii.gz").affine)
        stored = np.asarray(nib.load(folder / f"{subject.id}_seg.nii.gz").dataobj)
        labels = subject.load_labels()
        for value, number in ((0, 0), (1, 1), (2, 2), (4, 3)):
            np.testing.assert_array_equal(labels == number, stored == value)


COMPOSED, APART = "J\u00e4ger_1", "Ja\u0308ger_1"  # ä as one character, and as a Mac writes it


def test_a_name_of_a_mac_is_the_id_that_everything_else_writes(tmp_path):
    lines = [f'{role} = "J\u00e4ger_{{patient}}/*{word}.nii.gz"\n' for role, word in BRATS_2018_NAMES.items()][:4]
    (tmp_path / "mapping.toml").write_text("".join(lines), encoding="utf-8")
    subject_2018(tmp_path / "2018", APART)
    msd(tmp_path / "msd", names=(APART,))
    nnunet(tmp_path / "nnunet", {**MSD_JSON, "channel_names": list(CONTRASTS)}, name=APART)
    for found, id in (
        (find_subjects(tmp_path / "2018"), COMPOSED),
        (find_subjects(tmp_path / "msd"), COMPOSED),
        (find_subjects(tmp_path / "nnunet"), COMPOSED),
        (find_subjects(tmp_path / "2018", layout=tmp_path / "mapping.toml", masks=False), "1"),
    ):
        (subject,) = found.subjects
        assert (subject.id, subject.patient) == (id, id)
        assert APART in str(subject.images["T2"])  # the file's own name, by which it is opened
        np.testing.assert_array_equal(subject.load_images(("T2",))[0][0], volume("T2"))
    subject_2018(tmp_path / "2018", COMPOSED)
    with pytest.raises(CohortError, match=f"{COMPOSED}: duplicate id, its files lie in .*{APART} and in .*{COMPOSED}"):
        find_subjects(tmp_path / "2018")


def test_a_folder_of_the_contrasts_that_are_asked_for(tmp_path):
    asked_for = ("T1ce", "FLAIR")
    described = {"channel_names": {"0": "FLAIR", "1": "T1Gd"}, "labels": MSD_JSON["labels"]}
    nnunet(tmp_path / "nnunet", described, order=("FLAIR", "T1ce"))
    more = {**described, "channel_names": {"0": "FLAIR", "1": "T1Gd", "2": "T1", "3": "T2", "4": "T2"}}
    nnunet(tmp_path / "more", more, order=("FLAIR", "T1ce", "T1", "T2", "T2"))
    subject_2018(tmp_path / "2018", "a_1")
    (tmp_path / "2018" / "a_1" / "a_1_t2.nii.gz").unlink()
    lines = [f'{contrast} = "*/{{patient}}{BRATS_2018_NAMES[contrast]}.nii.gz"\n' for contrast in asked_for]
    for name, further in (("two", ""), ("three", 'T2 = "*/{patient}_t2.nii.gz"\n')):
        (tmp_path / f"{name}.toml").write_text("".join(lines) + further)
    for name, layout in (("nnunet", None), ("more", None), ("2018", None), ("2018", "two"), ("2018", "three")):
        given = {"layout": layout and tmp_path / f"{layout}.toml", "masks": False}
        found = find_subjects(tmp_path / name, contrasts=asked_for, **given)
        assert found.incomplete == ()
        (subject,) = found.subjects
        assert set(subject.images) == set(asked_for)
        images, _ = subject.load_images(asked_for)
        np.testing.assert_array_equal(images, np.stack([volume(contrast) for contrast in asked_for]))
        with pytest.raises(CohortError, match=r"each of FLAIR, T1, T1ce, T2|missing T2"):
            find_subjects(tmp_path / name, **given)
    (tmp_path / "2018" / "a_1" / "a_1_t1ce.nii.gz").unlink()
    with pytest.raises(CohortError, match="missing T1ce; found none of them"):
        find_subjects(tmp_path / "2018", contrasts=("T1ce",), masks=False)


def test_names_in_capitals_count_and_other_scans_are_counted(tmp_path):
    capitals = {contrast: name.upper() for contrast, name in BRATS_2018_NAMES.items()}
    subject_2018(tmp_path, "Brats18_AB_1")
    folder = subject_2018(tmp_path, "Brats18_CD_1", names=capitals)
    for file in folder.iterdir():
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    save(folder / "brainmask.nii.gz", volume("T1"))
    nib.Nifti1Pair(volume("T2"), AFFINE).to_filename(tmp_path / "Brats18_EF_1_t2.img")
    found = find_subjects(tmp_path)
    assert [subject.id for subject in found.subjects] == ["Brats18_AB_1", "Brats18_CD_1"]
    assert found.notes[1] == (
        "2 other scans take no part, as their names or formats have no place: Brats18_CD_1/brainmask.nii.gz, "
        "Brats18_EF_1_t2.img"
    )
    assert audit(found).problems == ()
    shutil.copy(folder / "Brats18_CD_1_T1.NII.GZ", folder / "Brats18_CD_1_t1.nii.gz")
    assert "2 files claim to be its T1" in str(find_subjects(tmp_path).incomplete[0])


def test_a_channel_has_no_negative_number(tmp_path):
    names = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "-1": "T2w"}
    with pytest.raises(CohortError, match="expected each of"):
        find_subjects(msd(tmp_path, described=MSD_JSON | {"modality": names}))


def test_a_folder_that_is_one_patients_own_is_noted_where_others_lie_beside_it(tmp_path):
    folder = write_cohort(tmp_path / "cohort", 3)
    said = "BraTS_000 is one patient's own folder, and 2 others lie beside it"
    assert said in find_subjects(folder / "BraTS_000").notes
    assert not any("own folder" in note for note in find_subjects(folder, max_subjects=1).notes)
    alone = write_cohort(tmp_path / "alone", 1)
    assert not any("own folder" in note for note in find_subjects(alone / "BraTS_000").notes)

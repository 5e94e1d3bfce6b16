"""One's own patient, for a network that is nothing but a rule: what is refused, and where the answer is written."""

import json
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from common.patient import PatientArguments, check_files, report, seen_scans, segment, synthetic_mark
from common.recipe import Recipe
from tests.cohorts import LPS_AFFINE, make_subject

SHAPE = (40, 48, 36)
CROP = ((4, 30), (6, 40), (3, 33))
RECIPE = Recipe(contrasts=("FLAIR", "T1ce"), crop=CROP, extent=SHAPE, intensity="maximum")


def save(path, data, affine=LPS_AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def patient(tmp_path):
    """Arguments with the two scans that the recipe needs, and the scans' voxels."""
    images, _ = make_subject(3)
    files = {name: save(tmp_path / f"{name}.nii.gz", images[name]) for name in ("flair", "t1ce")}
    return PatientArguments(run=tmp_path / "run", output=tmp_path / "seg.nii.gz", **files), images


def bright(volume):
    """Class 3 where T1ce, divided by its maximum, exceeds 0.6; 1 where FLAIR does; on the scan's own grid."""
    values, region = volume.on_working_grid(volume.image(), volume.box)
    return volume.to_source(np.select([values[1] > 0.6, values[0] > 0.6], [3, 1]), region)


def expected_labels(images):
    """The same rule on the scans themselves: nothing is found outside the crop."""
    inside = np.zeros(images["flair"].shape, bool)
    inside[tuple(slice(*ends) for ends in CROP)] = True
    flair, t1ce = (images[name] / images[name].max() > 0.6 for name in ("flair", "t1ce"))
    return np.select([t1ce & inside, flair & inside], [3, 1])


@pytest.mark.parametrize(("convention", "ncr", "et"), [("brats2018", 1, 4), ("brats2023", 1, 3), ("msd", 2, 3)])
def test_the_answer_is_written_in_the_wanted_labels_at_the_crops_place(patient, convention, ncr, et, capsys):
    arguments, images = patient
    arguments = replace(arguments, labels=convention)
    volumes_ml = segment(arguments, RECIPE, bright)
    classes = expected_labels(images)
    written = np.asarray(nib.load(arguments.output).dataobj)
    np.testing.assert_array_equal(written, np.select([classes == 3, classes == 1], [et, ncr]))
    counts = [np.count_nonzero(classes == value) for value in (1, 3)]
    assert min(counts) > 20
    assert volumes_ml == pytest.approx({
        "NCR": counts[0] / 1000, "ED": 0, "ET": counts[1] / 1000, "TC": sum(counts) / 1000, "WT": sum(counts) / 1000,
    })  # fmt: skip
    report(volumes_ml, arguments.output)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["ET", f"{counts[1] / 1000:.2f}", "ml"]
    assert lines[-1] == f"written: {arguments.output}"


def test_the_crop_is_cut_in_the_axes_of_brats_however_the_scans_lie(patient):
    arguments, images = patient
    for name in ("flair", "t1ce"):
        image = nib.Nifti1Image(images[name], LPS_AFFINE)
        turned = image.as_reoriented(nib.orientations.io_orientation(LPS_AFFINE)).as_reoriented(
            nib.orientations.axcodes2ornt(("S", "R", "A")).astype(int)
        )
        save(getattr(arguments, name), np.asarray(turned.dataobj), turned.affine)
    assert nib.load(arguments.flair).shape != images["flair"].shape
    segment(arguments, RECIPE, bright)
    written = nib.load(arguments.output)
    np.testing.assert_array_equal(written.affine, nib.load(arguments.flair).affine)
    back = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(written.affine), nib.orientations.io_orientation(LPS_AFFINE)
    )
    found = nib.orientations.apply_orientation(np.asarray(written.dataobj), back)
    np.testing.assert_array_equal(np.where(found == 4, 3, found), expected_labels(images))


def test_a_missing_contrast_is_named_with_the_options_that_are_needed(patient, tmp_path):
    arguments, _ = patient
    with pytest.raises(ValueError, match="expected --flair, --t1ce for this network, received no T1ce"):
        segment(replace(arguments, t1ce=None), RECIPE, bright)
    with pytest.raises(ValueError, match=r"expected --t1, --t2 for this network, received no T1, T2"):
        segment(arguments, Recipe(contrasts=("T1", "T2")), bright)
    # one that the network does not need is not even looked for
    segment(replace(arguments, t2=tmp_path / "nowhere.nii.gz"), RECIPE, bright)


def test_a_brain_that_does_not_fit_the_grid_is_named(patient):
    arguments, images = patient
    for name in ("flair", "t1ce"):
        save(getattr(arguments, name), images[name].repeat(2, axis=1))
    wanted = r"flair\.nii\.gz: its brain measures 33 x 82 x 31 voxels, which do not fit into the grid of 40 x 48 x 36"
    with pytest.raises(ValueError, match=wanted):
        segment(arguments, RECIPE, bright)
    assert not arguments.output.exists()


def test_the_scan_without_brain_in_the_crop_is_the_one_that_is_named(patient):
    arguments, images = patient
    corner = np.zeros_like(images["t1ce"])
    corner[:3] = images["t1ce"][18:21]
    save(arguments.t1ce, corner)
    with pytest.raises(ValueError, match=r"t1ce\.nii\.gz: T1ce: expected brain inside the crop, found zeros only"):
        segment(arguments, RECIPE, bright)
    save(arguments.t1ce, -images["t1ce"])
    with pytest.raises(ValueError, match=r"T1ce: no voxel is above 0, the largest is 0: .*t1ce\.nii\.gz"):
        segment(arguments, RECIPE, bright)
    assert not arguments.output.exists()


def test_a_scan_is_never_written_over(patient, tmp_path):
    arguments, _ = patient
    before = arguments.flair.read_bytes()
    soft, hard = tmp_path / "soft.nii.gz", tmp_path / "hard.nii.gz"
    soft.symlink_to(arguments.flair)
    hard.hardlink_to(arguments.flair)
    spelled = tmp_path / "x" / ".." / "flair.nii.gz"
    (tmp_path / "x").mkdir()
    for output in (arguments.flair, soft, hard, spelled):
        with pytest.raises(ValueError, match="expected another file to write to, this one is the FLAIR scan"):
            check_files(replace(arguments, output=output))
    with pytest.raises(ValueError, match=r"expected a scan of its own for T1ce, found the one given for FLAIR"):
        check_files(replace(arguments, t1ce=soft))
    # one that the network does not need, too
    with pytest.raises(ValueError, match="this one is the T2 scan"):
        segment(replace(arguments, t2=arguments.output), RECIPE, bright)
    assert arguments.flair.read_bytes() == before


def test_an_output_that_cannot_be_written_is_refused_first(patient, tmp_path):
    arguments, _ = patient
    (tmp_path / "folder.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")
    for name, wanted in {
        "seg.mha": r"expected a name that ends in \.nii or \.nii\.gz",
        "folder.nii.gz": "expected the name of a file to write, found a folder",
        "pipe.nii": "found a device or a pipe",
        "flair.nii.gz/seg.nii.gz": "cannot be written",
    }.items():
        with pytest.raises((ValueError, OSError), match=wanted):
            check_files(replace(arguments, output=tmp_path / name))
    check_files(replace(arguments, output=tmp_path / "new" / "deeper" / "seg.nii.gz"))


def test_a_network_trained_on_another_grid_is_refused(patient, capsys):
    arguments, _ = patient
    arguments.run.mkdir()
    told = {"axes": "LPS", "spacing_mm": 1.0, "extent": list(SHAPE)}
    for change, refused in (({}, False), ({"axes": "RAS"}, True), ({"extent": None}, True), ({"spacing_mm": 2}, True)):
        (arguments.run / "config.json").write_text(json.dumps({"grid": told | change}))
        if refused:
            with pytest.raises(ValueError, match="expected a network trained on the grid"):
                segment(arguments, RECIPE, bright)
        else:
            segment(arguments, RECIPE, bright)
            assert "does not say on which grid" not in capsys.readouterr().err
    (arguments.run / "config.json").write_text("{}")
    segment(arguments, RECIPE, bright)
    assert "does not say on which grid" in capsys.readouterr().err


def test_a_padded_scan_is_answered_on_its_own_grid(patient, capsys):
    arguments, images = patient
    for name in ("flair", "t1ce"):
        data = np.pad(images[name], ((7, 2), (0, 5), (11, 3)))
        save(
            getattr(arguments, name),
            data,
            np.diag([-1.0, -1, 1, 1]) + np.pad([[50.0], [20], [9], [0]], ((0, 0), (3, 0))),
        )
    segment(arguments, replace(RECIPE, crop=tuple((0, n) for n in SHAPE)), bright)
    written = np.asarray(nib.load(arguments.output).dataobj)
    flair, t1ce = (images[name] / images[name].max() > 0.6 for name in ("flair", "t1ce"))
    expected = np.pad(np.select([t1ce, flair], [4, 1]), ((7, 2), (0, 5), (11, 3)))
    np.testing.assert_array_equal(written, expected)
    assert "brought from 49 x 53 x 50 to 40 x 48 x 36 voxels by its brain's box" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [synthetic_mark, seen_scans])
def test_what_a_run_says_of_itself_and_is_damaged_is_named(tmp_path, asked):
    (tmp_path / "split.json").write_text("{}")
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json: expected JSON, found: "):
        asked(tmp_path)

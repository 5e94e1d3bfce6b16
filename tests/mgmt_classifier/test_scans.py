"""A head as DICOM series and as NIfTI, in whatever axes it is stored, gives the networks the same images."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from common.cohort import find_subjects
from common.dicom.mgmt_cohort import Patient
from common.subject import Subject
from mgmt_classifier import data, scans
from mgmt_classifier.data import SliceRecipe
from mgmt_classifier.scans import Cut, ScanRecipe, cut, cut_of
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, tilted, write_series

SPACING_MM = (1.5, 2.0, 2.5)  # to the left, back and head
SHAPE = (36, 30, 24)
RECIPE = SliceRecipe(contrast="T1w", slices="central", images=5, percentile=99.0, image_size=(20, 24))
PLANES = {  # how DICOM writes them: images from (left, back, head), and the spacing between images, rows, columns
    "axial": (AXIAL, lambda v: v.transpose(2, 1, 0), (2.5, 2.0, 1.5)),
    "sagittal": (SAGITTAL, lambda v: v[::-1, :, ::-1].transpose(0, 2, 1), (1.5, 2.5, 2.0)),
    "coronal": (CORONAL, lambda v: v[:, :, ::-1].transpose(1, 2, 0), (2.0, 2.5, 1.5)),
}


def head():
    """uint16 (left, back, head), no two directions alike, with a bright spot off every middle."""
    grid = np.indices(SHAPE)
    middle = (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2
    brain = (((grid - middle) / (0.42 * np.array(SHAPE).reshape(3, 1, 1, 1))) ** 2).sum(0) < 1
    values = 300 + 7 * grid[0] + 3 * grid[1] + 11 * grid[2]
    values[8:13, 9:14, 14:18] += 700
    return np.where(brain, values, 0).astype(np.uint16)


def subject_of(folder, volume, axes="LPS"):
    """A subject whose volume is stored along other axes."""
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    image = nib.Nifti1Image(volume, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(turn), folder / f"{axes}_t1.nii.gz")
    return Subject(f"s_{axes}", {"T1": folder / f"{axes}_t1.nii.gz"})


@pytest.mark.parametrize("choice", ["central", "tumour"])
@pytest.mark.parametrize("plane", PLANES)
def test_both_ways_give_the_same_images(plane, choice, tmp_path):
    orientation, images_of, spacing_mm = PLANES[plane]
    recipe = replace(RECIPE, slices=choice)
    folder = write_series(tmp_path / "p" / "T1w", images_of(head()), orientation=orientation, spacing_mm=spacing_mm)
    patient = Patient("p", {"T1w": folder})
    expected, geometry = data.make(patient, recipe)
    wanted = cut_of([patient], "T1w", n_jobs=1)
    assert wanted == Cut(
        plane=plane, between_mm=spacing_mm[0], extent_mm=tuple(np.multiply(images_of(head()).shape, spacing_mm))
    )
    for axes in ("LPS", "RAS", "SPL", "AIR"):
        found, own = scans.make(subject_of(tmp_path, head(), axes), ScanRecipe(slices=recipe, cut=wanted))
        np.testing.assert_array_equal(found, expected)
        assert own["indices"] == geometry["indices"]
        assert own["plane"] == geometry["plane"]
        assert own["spacing_mm"] == pytest.approx(geometry["spacing_mm"])
        assert (own["mean"], own["sd"]) == (geometry["mean"], geometry["sd"])


def test_images_lie_as_far_apart_as_in_the_training_and_hold_the_means_between():
    """A ramp from feet to head: an image's value is that of its place, linear interpolation's only right answer."""
    volume = np.zeros((12, 12, 40), np.float32)
    volume[2:10, 3:9] = 100 + np.arange(40)
    wanted = Cut(plane="axial", between_mm=4.0, extent_mm=(48.0, 12.0, 12.0))
    images = cut(volume, (1.0, 1.0, 1.0), wanted)
    assert images.shape == (12, 12, 12)
    assert not images[0].any()  # the brain's ten images lie in the middle of twelve
    places = np.arange(10) * 4 + 1.5  # middles of four voxels each
    np.testing.assert_allclose(images[2:10, 6, 6], 100 + places[1:-1], atol=1e-3)
    assert (images[1:11] != 0).sum() == 10 * 8 * 6  # its edge stays an edge


@pytest.mark.parametrize("place", [0, 5, 11])
def test_the_brain_comes_to_the_middle_wherever_it_lies(place):
    volume = np.zeros((30, 20, 20), np.float32)
    volume[place : place + 8, 4:12, 2:14] = 50
    images = cut(volume, (1.0, 1.0, 1.0), Cut(plane="axial", between_mm=1.0, extent_mm=(16.0, 12.0, 20.0)))
    assert images.shape == (16, 12, 20)
    assert [(axis.min(), axis.max()) for axis in np.nonzero(images)] == [(2, 13), (2, 9), (6, 13)]
    small = cut(volume, (1.0, 1.0, 1.0), Cut(plane="axial", between_mm=1.0, extent_mm=(4.0, 4.0, 4.0)), fewest=15)
    assert small.shape == (15, 8, 8)  # a field of view is never smaller than the brain
    assert (small != 0).sum() == (volume != 0).sum()


def test_the_cut_is_that_of_most_series(tmp_path):
    shapes = {"a": (AXIAL, (3.0, 1.0, 1.0), 5), "b": (tilted(12), (4.0, 1.0, 1.0), 7), "c": (AXIAL, (6.0, 1, 1), 6)}
    shapes |= {"d": (CORONAL, (9.0, 1, 1), 9), "e": (tilted(42), (9.0, 1, 1), 9)}
    patients = []
    for name, (orientation, spacing_mm, n) in shapes.items():
        pixels = np.full((n, 8, 10), 7, np.uint16)
        write_series(tmp_path / name / "FLAIR", pixels, orientation=orientation, spacing_mm=spacing_mm)
        patients.append(Patient(name, {"FLAIR": tmp_path / name / "FLAIR"}))
    assert cut_of(patients, "FLAIR", n_jobs=1) == Cut(plane="axial", between_mm=4.0, extent_mm=(28.0, 8.0, 10.0))
    with pytest.raises(ValueError, match="expected axial, sagittal or coronal series of FLAIR, found none in 1"):
        cut_of(patients[-1:], "FLAIR", n_jobs=1)


def test_a_bad_scan_is_named_and_nothing_of_it_is_stored(tmp_path):
    recipe = ScanRecipe(slices=RECIPE, cut=Cut(plane="axial", between_mm=2.5, extent_mm=(60.0, 60.0, 54.0)))
    good, empty = subject_of(tmp_path, head()), subject_of(tmp_path, np.zeros(SHAPE, np.uint16), "RAS")
    torn = subject_of(tmp_path, head(), "LAS")
    whole = torn.images["T1"].read_bytes()
    torn.images["T1"].write_bytes(whole[: len(whole) // 2])
    found = scans.prepare([good, empty, torn], recipe, tmp_path / "store", n_jobs=1)
    assert set(found.entries) == {"s_LPS"}
    assert {problem.subject for problem in found.problems} == {"s_RAS", "s_LAS"}
    assert "T1 is empty" in str(found.problems[0])
    again = scans.prepare([good], recipe, tmp_path / "store", n_jobs=1)
    assert again.prepared == 0


def test_real_scans_lie_as_nibabel_says(real_data, tmp_path):
    """The middle image of a central cut, cut out by nibabel's canonical axes: rows to the back, columns to the left."""
    subjects = find_subjects(real_data / "brats", masks=False).subjects
    wanted = Cut(plane="axial", between_mm=1.0, extent_mm=(155.0, 240.0, 240.0))
    flair = replace(RECIPE, contrast="FLAIR", images=1, image_size=(240, 240))
    found = scans.prepare(subjects, ScanRecipe(slices=flair, cut=wanted), tmp_path, n_jobs=1)
    assert found.problems == ()
    for subject in subjects:
        image = nib.as_closest_canonical(nib.load(subject.images["FLAIR"]))  # axes to the right, front and head
        volume = np.asarray(image.dataobj)
        box = [(inside.min() + inside.max() + 1) / 2 for inside in np.nonzero(volume)]
        stored = found.entries[subject.id].open()[0]
        own = volume[::-1, ::-1, int(box[2])].T  # rows to the back, columns to the left
        here, there = (np.argwhere(each != 0).mean(axis=0) for each in (stored, own))
        moved = np.roll(own, np.rint(here - there).astype(int), axis=(0, 1))
        assert np.corrcoef(moved.ravel(), stored.ravel())[0, 1] > 0.98

"""The working grid: what comes through untouched, what is turned, resampled, padded or refused, and the way back."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from common.cohort import find_subjects
from common.grid import BRATS_AFFINE, BRATS_EXTENT, Grid, bring
from common.nifti import Scan, ScanError
from common.prepared import prepare
from common.recipe import Recipe
from tests.cohorts import LPS_AFFINE, make_subject

EXTENT = (40, 48, 36)
OWN = Grid(extent=EXTENT)


def scan(data, affine=LPS_AFFINE):
    return Scan(data, affine, nib.Nifti1Image(data, affine).header)


@pytest.fixture(scope="module")
def flair():
    images, labels = make_subject(4)
    return images["flair"], np.where(labels == 4, 3, labels)


def turned(data, affine, axes):
    image = nib.Nifti1Image(data, affine)
    ornt = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    image = image.as_reoriented(ornt)
    return np.asarray(image.dataobj), image.affine


def test_a_scan_on_the_grid_is_passed_on_as_it_is(flair):
    image, labels = flair
    scans = {"FLAIR": scan(image)}
    brought = bring(scans, labels, OWN)
    assert brought.scans["FLAIR"] is scans["FLAIR"]
    assert brought.labels is not None
    assert np.shares_memory(brought.labels, labels)
    assert str(brought.placement) == ""
    assert np.shares_memory(brought.placement.to_source(labels), labels)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "SRA", "PIR", "AIL", "LPI"])
@pytest.mark.parametrize("extent", [None, EXTENT])
def test_axes_are_turned_and_turned_back_without_loss(flair, axes, extent):
    image, labels = flair
    stored, affine = turned(image, LPS_AFFINE, axes)
    mask, _ = turned(labels, LPS_AFFINE, axes)
    brought = bring({"FLAIR": scan(stored, affine)}, mask, Grid(extent=extent))
    np.testing.assert_array_equal(brought.scans["FLAIR"].data, image)
    np.testing.assert_allclose(brought.scans["FLAIR"].affine, LPS_AFFINE)
    np.testing.assert_array_equal(brought.labels, labels)
    np.testing.assert_array_equal(brought.placement.to_source(labels), mask)
    # A box of the grid holds the same voxels in the scan as stored.
    box = (slice(7, 21), slice(11, 30), slice(5, 17))
    there = np.zeros(EXTENT, np.uint8)
    there[box] = 1
    here = np.zeros(stored.shape, np.uint8)
    here[brought.placement.source_box(box)] = 1
    np.testing.assert_array_equal(brought.placement.to_source(there), here)


@pytest.mark.parametrize(("shape", "start"), [((61, 70, 52), (9, 4, 13)), ((36, 90, 36), (-2, 31, 0))])
def test_padding_and_cutting_by_the_affine_are_undone(flair, shape, start):
    image, labels = flair
    usual = np.eye(4)
    usual[:3, 3] = [-s for s in start]
    affine = BRATS_AFFINE @ usual  # the extent's first voxel lies where BraTS has it
    stored, mask = (np.zeros(shape, each.dtype) for each in flair)
    there = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, EXTENT, shape, strict=True))
    here = tuple(slice(t.start - s, t.stop - s) for t, s in zip(there, start, strict=True))
    stored[there], mask[there] = image[here], labels[here]
    brought = bring({"FLAIR": scan(stored, affine)}, mask, OWN)
    np.testing.assert_array_equal(brought.scans["FLAIR"].data, image)
    np.testing.assert_array_equal(brought.labels, labels)
    np.testing.assert_array_equal(brought.placement.to_source(labels), mask)
    assert str(brought.placement).endswith("by its affine")


def test_elsewhere_the_middle_of_the_brain_decides():
    data = np.zeros((256, 200, 256), np.int16)
    data[70:200, 10:180, 90:230] = 50  # middle 135, 95, 160
    brought = bring({"FLAIR": scan(data)}, None, Grid(extent=BRATS_EXTENT))
    found = np.argwhere(brought.scans["FLAIR"].data)
    assert brought.scans["FLAIR"].data.shape == BRATS_EXTENT
    np.testing.assert_allclose((found.min(axis=0) + found.max(axis=0) + 1) / 2, (118.6, 129.5, 71.8), atol=0.6)
    assert str(brought.placement).endswith("by its brain's box")
    np.testing.assert_array_equal(brought.placement.to_source(np.uint8(brought.scans["FLAIR"].data > 0)), data > 0)


def test_a_brain_or_labels_that_do_not_fit_are_refused_with_numbers():
    data = np.zeros((150, 190, 230), np.int16)
    data[10:140, 10:180, 20:200] = 1
    with pytest.raises(ScanError, match=r"brain measures 130 x 170 x 180 voxels, .* the grid of 240 x 240 x 155"):
        bring({"FLAIR": scan(data)}, None, Grid(extent=BRATS_EXTENT))
    data[:, :, 100:] = 0
    labels = np.zeros(data.shape, np.uint8)
    labels[60, 60, 229] = 2
    with pytest.raises(ScanError, match="some of its labels lie outside the 240 x 240 x 155 voxels"):
        bring({"FLAIR": scan(data)}, labels, Grid(extent=BRATS_EXTENT))


@pytest.mark.parametrize("sides", [(0.8, 0.8, 0.8), (1.2, 1.2, 1.2), (0.5, 1.0, 3.0)])
def test_other_voxel_sizes_are_resampled_where_the_voxels_lie(sides):
    """A linear field keeps its values at every place, the background stays 0, and labels come back to their place."""
    shape = tuple(round(n / side) for n, side in zip((60, 48, 54), sides, strict=True))
    affine = np.diag([-sides[0], -sides[1], sides[2], 1.0])
    affine[:3, 3] = 11, -7, 5
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    field = places @ (1.5, -0.75, 2.0) + 500
    middle = affine[:3, :3] @ (np.array(shape) / 2 - 0.5) + affine[:3, 3]
    brain = np.linalg.norm(places - middle, axis=-1) < 19
    labels = np.uint8(np.linalg.norm(places - middle - 3, axis=-1) < 9) * np.uint8(3)
    brought = bring({"FLAIR": scan((field * brain).astype(np.float32), affine)}, labels, Grid())
    found = brought.scans["FLAIR"]
    assert found.data.shape == (60, 48, 54)
    np.testing.assert_allclose(found.spacing_mm, 1, atol=0.02)
    there = np.stack(np.meshgrid(*map(np.arange, (60, 48, 54)), indexing="ij"), axis=-1)
    there = there @ found.affine[:3, :3].T + found.affine[:3, 3]
    inner = ndimage.binary_erosion(found.data > 0, iterations=4)
    assert inner.sum() > 5000
    np.testing.assert_allclose(found.data[inner], (there @ (1.5, -0.75, 2.0) + 500)[inner], rtol=1e-3)
    inside = np.linalg.norm(there - middle, axis=-1)
    assert not found.data[inside > 21].any()
    assert (found.data[inside < 17] > 400).all()  # no edge is blended with the background
    assert set(np.unique(brought.labels)) == {0, 3}
    back = brought.placement.to_source(brought.labels)
    assert 2 * (back & labels > 0).sum() / ((back > 0).sum() + (labels > 0).sum()) > 0.93


def test_what_a_recipe_makes_is_the_same_however_the_scan_is_stored(tmp_path):
    """Turned, and padded in any way, a subject gives the same prepared voxels; sums in another order cost a step."""
    images, labels = make_subject(2)
    folder = tmp_path / "scans"
    for number, (axes, widths) in enumerate([("LPS", 0), ("RAS", 0), ("SLP", 3), ("ARI", 8)]):
        name = f"BraTS2021_{number:05d}"
        (folder / name).mkdir(parents=True)
        for suffix, data in {**images, "seg": labels}.items():
            affine = BRATS_AFFINE.copy()
            affine[:3, 3] -= affine[:3, :3] @ np.full(3, widths)
            stored, affine = turned(np.pad(data, widths), affine, axes)
            nib.save(nib.Nifti1Image(stored, affine), folder / name / f"{name}_{suffix}.nii.gz")
    for recipe in (Recipe(), Recipe(crop=((4, 36), (3, 40), (9, 30)), extent=EXTENT, intensity="maximum")):
        store = prepare(find_subjects(folder).subjects, recipe, tmp_path / "store", n_jobs=1)
        assert not store.problems
        first, *others = (entry.open() for entry in store.entries.values())
        for other in others:
            assert other.steps == pytest.approx(first.steps, rel=1e-6)
            assert np.abs(other.voxels.astype(int) - first.voxels).max() <= 1

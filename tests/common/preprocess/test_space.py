"""Where voxels lie, by the standard's own formula, and what becomes of values and labels on another grid."""

import nibabel as nib
import numpy as np
import pydicom
import pytest

sitk = pytest.importorskip("SimpleITK")

from common import nifti  # noqa: E402
from common.dicom.pixels import DicomError  # noqa: E402
from common.dicom.series import look  # noqa: E402
from common.preprocess import registration, space  # noqa: E402
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, noise, tilted, write_enhanced, write_series  # noqa: E402

SPACING_MM = (2.5, 0.5, 0.75)
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, tilted(33, CORONAL), (-1, 0, 0, 0, -1, 0)])
def test_a_voxel_lies_where_its_file_says(tmp_path, orientation):
    """PS3.3 C.7.6.2.1.1: position + column index x spacing x row direction + row index x spacing x column direction."""
    pixels = noise(5, (6, 7), seed=4)
    write_series(tmp_path, pixels, orientation=orientation, spacing_mm=SPACING_MM, order=[3, 1, 5, 2, 4])
    image = space.series_image(look(tmp_path))
    for file in tmp_path.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        row_direction, column_direction = np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3))
        place = np.array(dataset.ImagePositionPatient, float) + 4 * 0.75 * row_direction + 2 * 0.5 * column_direction
        index = image.TransformPhysicalPointToIndex(place.tolist())
        assert image.GetPixel(index) == dataset.pixel_array[2, 4]
        ras = nib.affines.apply_affine(space.affine_of(image), index)
        np.testing.assert_allclose(ras, place * (-1, -1, 1), atol=1e-4)


def test_an_enhanced_file_lies_where_the_classic_ones_do(tmp_path):
    pixels = noise(5)
    write_series(tmp_path / "classic", pixels, orientation=SAGITTAL)
    write_enhanced(tmp_path / "enhanced" / "a.dcm", pixels, orientation=SAGITTAL, order=[2, 0, 1, 4, 3])
    one, other = (space.series_image(look(tmp_path / name)) for name in ("classic", "enhanced"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    np.testing.assert_allclose(space.affine_of(one), space.affine_of(other))


def test_images_that_lie_on_no_grid_are_refused(tmp_path):
    write_series(tmp_path, noise(6))
    file = tmp_path / "Image-3.dcm"
    dataset = pydicom.dcmread(file)
    dataset.ImagePositionPatient[0] += 0.8
    dataset.save_as(file)
    with pytest.raises(DicomError, match=r"expected images at even distances .*Image-3\.dcm 0\.8 mm"):
        space.series_image(look(tmp_path))


def test_the_working_grid_holds_all_of_a_tilted_series(tmp_path):
    write_series(tmp_path, noise(5, (20, 30)), orientation=tilted(30), spacing_mm=SPACING_MM)
    image = space.series_image(look(tmp_path))
    grid = space.working_grid(image)
    assert grid.GetSpacing() == (1.0, 1.0, 1.0)
    assert grid.GetDirection() == (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    for corner in np.ndindex(2, 2, 2):
        place = image.TransformIndexToPhysicalPoint(
            [int(c * (n - 1)) for c, n in zip(corner, image.GetSize(), strict=True)]
        )
        index = grid.TransformPhysicalPointToContinuousIndex(place)
        assert all(-0.5 <= i <= n - 0.5 for i, n in zip(index, grid.GetSize(), strict=True))


def test_the_background_stays_0_and_the_edge_an_edge():
    data = np.zeros((6, 8, 8), np.float32)
    data[1:5, 2:6, 2:6] = 100
    image = space.like(data, sitk.Image([8, 8, 6], sitk.sitkFloat32))
    grid = sitk.Image([16, 16, 12], sitk.sitkFloat32)
    grid.SetSpacing([0.5] * 3)
    grid.SetOrigin([-0.25] * 3)
    found = sitk.GetArrayFromImage(space.to_grid(image, grid, IDENTITY))
    expected = np.kron(data, np.ones((2, 2, 2)))
    expected[np.ix_((2, 9), (4, 11), (4, 11))] = 0  # of the corners 0.75 ** 3 comes from the brain, less than half
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_thick_voxel_has_the_class_that_fills_the_most_of_it():
    labels = np.random.default_rng(2).integers(0, 4, (12, 8, 9)).astype(np.uint8)
    series = sitk.Image([3, 4, 3], sitk.sitkUInt8)
    series.SetSpacing([3.0, 2.0, 4.0])
    series.SetOrigin([1.0, 0.5, 1.5])  # the middle of the first 3, 2 and 4 voxels of 1 mm
    found = space.labels_to_series(space.like(labels, sitk.Image([9, 8, 12], sitk.sitkUInt8)), series, IDENTITY)
    for z, y, x in np.ndindex(found.shape):
        inside = labels[4 * z : 4 * z + 4, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3]
        assert found[z, y, x] == np.bincount(inside.ravel(), minlength=4).argmax()
    assert found.shape == (3, 4, 3)


def test_a_scan_keeps_its_place_through_nifti(tmp_path):
    image = space.like(np.arange(60, dtype=np.int16).reshape(3, 4, 5), sitk.Image([5, 4, 3], sitk.sitkInt16))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.1)
    image.SetDirection(turn.GetMatrix())
    image.SetSpacing([0.7, 1.1, 3.0])
    image.SetOrigin([5, -6, 7])
    space.write_nifti(tmp_path / "a.nii.gz", image)
    again = space.from_scan(nifti.read(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(space.affine_of(again), space.affine_of(image), atol=1e-5)
    image = nib.load(tmp_path / "a.nii.gz")
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    image.affine[0] += 0.2 * image.affine[1]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / "sheared.nii.gz")
    with pytest.raises(nifti.ScanError, match="at right angles"):
        space.from_scan(nifti.read(tmp_path / "sheared.nii.gz"))


def test_what_cannot_be_registered_is_an_error_in_words():
    one = sitk.Image([20, 20, 20], sitk.sitkFloat32)
    with pytest.raises(ValueError, match="expected two images of one head to register"):
        registration.register(one, one)


@pytest.mark.parametrize("error", [RuntimeError("sitk::ERROR:\nallocation failed"), MemoryError()])
def test_what_cannot_be_resampled_is_an_error_in_words(monkeypatch, error):
    def fails(*_):
        raise error

    one, still = sitk.Image([4, 4, 4], sitk.sitkFloat32), sitk.Euler3DTransform()
    monkeypatch.setattr(sitk, "Resample", fails)
    for expected, resampled in {
        "a series": lambda: space.to_grid(one, one, still),
        "a mask": lambda: space.mask_to_grid(one, one),
        "classes": lambda: space.labels_to_series(one, one, still),
    }.items():
        with pytest.raises(ValueError, match=f"expected {expected} that can be resampled, found: (alloc|MemoryE)"):
            resampled()

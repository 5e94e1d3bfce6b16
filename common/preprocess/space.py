"""Images in the patient's space: series, the working grid, and what is carried from one grid to another.

SimpleITK carries the geometry; its axes are DICOM's (to the patient's left, back and head, in mm), its indices run
along a row, along a column and from image to image, and its arrays are (image, row, column) as a series is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from common import nifti
from common.dicom import checks
from common.dicom.extras import load_module
from common.dicom.planes import normal
from common.dicom.series import DicomError, Folder
from common.labels import CLASSES
from common.nifti import Scan
from common.walk import shown

if TYPE_CHECKING:
    import SimpleITK as sitk

WORKING_MM = 1.0
MOST_OFF_GRID_MM = 0.5
"""How far the middle of an image's first pixel may lie from where evenly spaced images would have it."""
LEAST_SHARE = 0.5
"""Of a voxel of the working grid that must come from where a series is not 0, for it not to be 0 there."""
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_sitk() -> ModuleType:
    """SimpleITK. Raises MissingToolError where it is not installed."""
    return load_module("SimpleITK", extra="preprocess")


@contextlib.contextmanager
def in_words(expected: str) -> Iterator[None]:
    """What SimpleITK raises of everything, RuntimeError, and too little memory as ValueError; also a decorator."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise ValueError(f"expected {expected}, found: {reason}") from error


@in_words("a series that becomes an image")
def series_image(folder: Folder) -> sitk.Image:
    """A series' grey values, float32, in the patient's space.

    Raises DicomError when its images are no stack, cannot be decoded, or do not lie on one grid at even distances.
    """
    sitk = load_sitk()
    series = folder.series()
    positions, images = checks.in_order(folder.images)
    first = images[0]
    axis = np.array(normal(first.orientation))
    step_mm = float(positions[-1] - positions[0]) / (len(images) - 1)
    even = np.array(first.position_mm) + np.outer(np.arange(len(images)) * step_mm, axis)
    apart = np.linalg.norm(np.array([image.position_mm for image in images]) - even, axis=1)
    if (off := float(apart.max())) > MOST_OFF_GRID_MM:
        worst = images[int(apart.argmax())].path.name
        raise DicomError(
            f"{shown(folder.path)}: expected images at even distances on top of each other, found {shown(worst)} "
            f"{off:.2g} mm from there"
        )
    image = sitk.GetImageFromArray(series.read())
    image.SetSpacing((first.spacing_mm[1], first.spacing_mm[0], step_mm))
    image.SetOrigin(first.position_mm)
    directions = np.column_stack([first.orientation[:3], first.orientation[3:], axis])
    image.SetDirection(_orthogonal(directions))
    return image


def _orthogonal(directions: np.ndarray) -> list[float]:
    """Rounded directions, (3, 3) with one per column, at right angles; row by row."""
    orthogonal = np.linalg.qr(directions)[0]
    return (orthogonal * np.sign((orthogonal * directions).sum(axis=0))).ravel().tolist()


@in_words("a series that fits a grid of cubic voxels")
def working_grid(image: sitk.Image, *, spacing_mm: float = WORKING_MM) -> sitk.Image:
    """An empty image of cubic voxels along the patient's own axes that holds all of another's field of view."""
    sitk = load_sitk()
    size = np.array(image.GetSize())
    corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in size))).reshape(3, -1).T
    places = np.array([image.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners])
    low, high = places.min(axis=0), places.max(axis=0)
    shape = np.maximum(1, np.round((high - low) / spacing_mm)).astype(int)
    grid = sitk.Image(shape.tolist(), sitk.sitkFloat32)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin(((low + high) / 2 - (shape - 1) / 2 * spacing_mm).tolist())
    return grid


@in_words("a series that can be resampled")
def to_grid(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Grey values on another grid: linear, and between voxels that are not 0 alone, so that a background of 0 stays 0.

    transform: from the grid's space to the image's. One interpolation, whatever it is composed of.
    """
    sitk = load_sitk()
    there = sitk.Cast(image != 0, sitk.sitkFloat32)
    values, share = (
        sitk.GetArrayFromImage(sitk.Resample(part, grid, transform, sitk.sitkLinear, 0.0)) for part in (image, there)
    )
    found = np.zeros_like(values)
    np.divide(values, share, out=found, where=share >= LEAST_SHARE)
    return like(found, grid)


@in_words("a mask that can be resampled")
def mask_to_grid(mask: sitk.Image, grid: sitk.Image) -> np.ndarray:
    """Where a mask (not 0) fills half of a voxel of another grid or more: bool (image, row, column)."""
    sitk = load_sitk()
    share = sitk.Resample(
        sitk.Cast(mask != 0, sitk.sitkFloat32), grid, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear
    )
    return sitk.GetArrayFromImage(share) >= 0.5


@in_words("classes that can be resampled")
def labels_to_series(labels: sitk.Image, series: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    """Classes on a series' own grid, uint8 (image, row, column): each voxel has the class that fills the most of it.

    labels: classes on the working grid. transform: from the series' space to the working grid's. A voxel is looked at
    in parts no larger than the working grid's: the middle of a thick one says little about the rest.
    """
    sitk = load_sitk()
    size, spacing = np.array(series.GetSize()), np.array(series.GetSpacing())
    parts = np.maximum(1, np.ceil(spacing / min(labels.GetSpacing()) - 1e-3)).astype(int)
    fine = sitk.Image((size * parts).tolist(), sitk.sitkUInt8)
    fine.SetSpacing((spacing / parts).tolist())
    fine.SetDirection(series.GetDirection())
    fine.SetOrigin(series.TransformContinuousIndexToPhysicalPoint(((1 / parts - 1) / 2).tolist()))
    found = sitk.GetArrayFromImage(sitk.Resample(labels, fine, transform, sitk.sitkNearestNeighbor, 0))
    (x, y, z), (a, b, c) = size, parts
    found = found.reshape(z, c, y, b, x, a)
    filled = np.stack([(found == value).sum(axis=(1, 3, 5), dtype=np.int32) for value in range(len(CLASSES))])
    return filled.argmax(axis=0).astype(np.uint8)


def like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array (image, row, column) as an image that lies where another one does."""
    found = load_sitk().GetImageFromArray(array)
    found.CopyInformation(image)
    return found


def affine_of(image: sitk.Image) -> np.ndarray:
    """(4, 4), from indices (x, y, z) to mm, to the patient's right, front and head as in NIfTI."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return TO_RAS @ affine


def write_nifti(path: Path, image: sitk.Image) -> None:
    """An image as NIfTI, whole or not at all, with its place in scanner coordinates."""
    data = load_sitk().GetArrayFromImage(image).transpose(2, 1, 0)
    nifti.write(path, data, like=nifti_header(data.shape, affine_of(image)))


def nifti_header(shape: Sequence[int], affine: np.ndarray) -> nib.Nifti1Header:
    """A header for scans of a shape and place, in mm and scanner coordinates."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    return header


def from_scan(scan: Scan) -> sitk.Image:
    """A checked scan (x, y, z), however its axes run, as an image in the patient's space.

    Raises ScanError when it is more than one volume, not finite, or its axes are not at right angles.
    """
    sitk = load_sitk()
    if scan.data.ndim > 3 and scan.data.shape[3] > 1:
        raise nifti.ScanError(f"expected one volume (x, y, z), found shape {scan.data.shape}")
    if not np.isfinite(scan.data).all():
        raise nifti.ScanError("expected finite values, found NaN or infinity")
    affine = TO_RAS @ scan.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > checks.ORIENTATION_TOLERANCE:
        raise nifti.ScanError("expected axes at right angles, found them sheared")
    data = scan.data.reshape(scan.data.shape[:3])
    kind = np.float32 if data.dtype.kind == "f" else data.dtype
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0), dtype=kind))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(_orthogonal(directions))
    return image

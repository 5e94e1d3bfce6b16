"""MRI series of a phantom: the plane, size and spacing that each one is scanned with, and its images.

Coordinates are DICOM's: mm, the axes running to the patient's left, back (posterior) and head (superior). The box's own
axes do the same, so that only its first voxel's place is needed to go from one to the other.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.dicom.series import Plane
from common.phantom.anatomy import noise

_PLANES: dict[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {  # directions of a row and of a column
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((1, 0, 0), (0, 1, 0)),
}
_SHARES = {  # of the planes, in the order above: mostly axial, as in clinical protocols
    "FLAIR": (0.70, 0.10, 0.12, 0.08),
    "T1w": (0.62, 0.20, 0.10, 0.08),
    "T1wCE": (0.50, 0.20, 0.22, 0.08),
    "T2w": (0.70, 0.06, 0.16, 0.08),
}
# FLAIR in thin slices: the report's final model takes 31 images of it
_SPACING_MM = {"FLAIR": (3.6, 4.0), "T1w": (5.0, 6.0), "T1wCE": (4.5, 5.0, 6.0), "T2w": (5.0, 6.0, 6.5)}
SCALE = {"FLAIR": (260, 0.35), "T1w": (420, 0.25), "T1wCE": (450, 0.20), "T2w": (240, 0.40)}  # median, SD of its log
NOISE = {"FLAIR": 0.07, "T1w": 0.04, "T1wCE": 0.04, "T2w": 0.06}  # SD, of the brain's median
_LARGEST = 2**12 - 1


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a series lie. axes: (3, 3), its rows the unit directions between images, along growing row
    index and along growing column index; origin_mm: middle of the first pixel; spacing_mm and shape in axes' order."""

    plane: Plane
    axes: np.ndarray
    origin_mm: np.ndarray
    spacing_mm: np.ndarray
    shape: tuple[int, int, int]
    thickness_mm: float

    def position_mm(self, image: int) -> np.ndarray:
        """Middle of the first pixel of one image."""
        return self.origin_mm + image * self.spacing_mm[0] * self.axes[0]


@dataclass(frozen=True)
class Volume:
    """A phantom's grid of cubic voxels: where the middle of the first one lies, which hold brain, which tumour."""

    first_mm: np.ndarray
    voxel_mm: int
    brain: np.ndarray
    tumour: np.ndarray

    def sample(self, field: np.ndarray, geometry: Geometry) -> np.ndarray:
        """float32 (images, rows, columns): the field, linearly interpolated and averaged over the slice thickness."""
        images = np.zeros(geometry.shape, np.float32)
        window = self._window(field, geometry)
        shape = images[window].shape
        first = geometry.axes.T @ (geometry.spacing_mm * [part.start for part in window])
        matrix = geometry.axes.T * geometry.spacing_mm / self.voxel_mm
        for place in (-0.25, 0.25):
            start_mm = geometry.origin_mm + first + place * geometry.thickness_mm * geometry.axes[0]
            offset = (start_mm - self.first_mm) / self.voxel_mm
            images[window] += ndimage.affine_transform(
                field, matrix, offset, shape, np.float32, order=1, prefilter=False
            )
        return images / 2

    def _window(self, field: np.ndarray, geometry: Geometry) -> tuple[slice, ...]:
        """The part of the images that sees anything of the field but zeros: the rest need not be computed."""
        ends = [
            np.flatnonzero(field.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] + (-1, 1) for axis in range(field.ndim)
        ]
        corners_mm = self.first_mm + self.voxel_mm * np.array(list(itertools.product(*ends)))
        index = (corners_mm - geometry.origin_mm) @ geometry.axes.T / geometry.spacing_mm
        low = np.clip(np.floor(index.min(axis=0)) - 1, 0, geometry.shape).astype(int)
        high = np.clip(np.ceil(index.max(axis=0)) + 2, 0, geometry.shape).astype(int)
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


@dataclass(frozen=True)
class PhantomSeries:
    """pixels: uint16 (images, rows, columns) in geometric order, 0 outside the brain; tumour: bool, the same shape,
    core and oedema; slope: what a stored pixel is to be multiplied by, None where the header is not to say."""

    geometry: Geometry
    pixels: np.ndarray
    tumour: np.ndarray
    slope: float | None


def draw_geometry(rng: np.random.Generator, contrast: str, brain_mm: np.ndarray, *, field: float = 1.0) -> Geometry:
    """How one contrast is scanned so that its images hold all of the brain, brain_mm: (n, 3) coordinates of its voxels,
    and one to four more at either end hold nothing. field: sides of the images, as a multiple of the usual."""
    plane: Plane = list(_PLANES)[int(rng.choice(len(_PLANES), p=_SHARES[contrast]))]
    row, column = (np.array(direction, float) for direction in _PLANES[plane])
    tilt = rng.uniform(40, 46) * rng.choice((-1, 1)) if plane == "oblique" else rng.normal(0, 6)
    turn = (
        _rotation(row, tilt) @ _rotation(column, rng.normal(0, 2)) @ _rotation(np.cross(row, column), rng.normal(0, 2))
    )
    row, column = turn @ row, turn @ column
    axes = np.stack([np.cross(row, column), column, row])
    along = axes @ brain_mm.T
    low, high = along.min(axis=1), along.max(axis=1)

    between = float(rng.choice(_SPACING_MM[contrast]))
    before, after = rng.integers(1, 5, 2)
    n_brain = int(np.ceil((high[0] - low[0]) / between))
    extent = (high[1:] - low[1:] + rng.uniform(8, 30)) * field
    longest = int(rng.choice((64, 72, 80, 96)))
    pixel = round(float(extent.max()) / longest, 4)
    size = np.full(2, longest)
    pixels_mm = np.full(2, pixel)
    form = rng.choice(("square", "rectangular", "oblong pixels"), p=(0.6, 0.3, 0.1))
    if form == "rectangular":
        size = np.ceil(extent / pixel).astype(int)
    elif form == "oblong pixels":
        size[1] = int(longest * 0.75)
        pixels_mm[1] = round(pixel / 0.75, 4)
    spacing_mm = np.array([between, *pixels_mm])
    shape = (int(before + n_brain + after), int(size[0]), int(size[1]))
    first = (low + high) / 2 - (np.array([2 * before + n_brain, *size]) - 1) / 2 * spacing_mm
    first[1:] += rng.normal(0, 1.5, 2)
    thickness = between * float(rng.choice((1.0, 0.8)))
    return Geometry(plane, axes, first @ axes, spacing_mm, shape, thickness)


def _rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3) rotation about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def acquire(
    rng: np.random.Generator, contrast: str, image: np.ndarray, volume: Volume, geometry: Geometry
) -> PhantomSeries:
    """One contrast as a scanner stores it: inhomogeneous, in slices, with Rician noise, in twelve bits.

    image: float32, the volume's shape, relative to the median of normal brain.
    """
    image = image * np.exp(np.float32(rng.uniform(0.03, 0.10)) * noise(rng, image.shape, 30 / volume.voxel_mm))
    inside = volume.sample(volume.brain.astype(np.float32), geometry)
    brain = inside > 0.5
    signal = volume.sample(image, geometry)[brain] / inside[brain]
    sigma = np.float32(NOISE[contrast] * np.exp(rng.normal(0, 0.2)))
    real, imaginary = rng.standard_normal((2, *geometry.shape), np.float32)[:, brain] * sigma
    signal = np.sqrt(np.square(signal + real) + np.square(imaginary))
    median, spread = SCALE[contrast]
    pixels = np.zeros(geometry.shape, np.uint16)
    pixels[brain] = np.clip(np.rint(signal * np.float32(median * np.exp(rng.normal(0, spread)))), 1, _LARGEST)
    tumour = brain & (volume.sample(volume.tumour.astype(np.float32), geometry) > 0.5)
    # no intercept: it would lift the black of the background off zero
    slope = (None, 1.0, round(float(rng.uniform(0.3, 3.0)), 4))[int(rng.integers(3))]
    return PhantomSeries(geometry, pixels, tumour, slope)

"""A DICOM series as a stack of images in the order in which they lie in the patient.

The order is that of ImagePositionPatient along the normal of ImageOrientationPatient (row direction x column
direction), as in GDCM, dcmstack and highdicom; file names and InstanceNumber say nothing. A folder that is no such
stack is refused with every reason; what a folder holds, good or not, is told by :func:`look`.
Opening reads headers only, in one thread: they are parsed by Python code, which threads would take in turns.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.dicom.file import DicomError, Image, NotAnImageError, Stored, decode, normal, read_header

__all__ = ["DicomError", "Folder", "Frame", "Plane", "Series", "look", "plane_of", "read_series"]

Plane = Literal["axial", "sagittal", "coronal", "oblique"]
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")  # by the patient's axis that the normal follows: x, y, z
# Clinical planes are tilted by 10 to 30 degrees (along the skull base, across the hippocampus) and keep their names. A
# normal within 36.9 degrees of an axis names the plane, the limit of GDCM and PixelMed; past 45 another axis is nearer.
PLANE_COSINE = 0.8
MINIMUM_IMAGES = 3
# Rounded cosines of one stack differ by 1e-6; 1e-3 moves the far edge of a head by a quarter of a millimetre.
ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-3  # of the pixel spacing, as a fraction
SAME_POSITION_MM = 0.01  # thinner than any slice, coarser than what rounding makes of one position


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of a series: the ``index``-th of a file, at ``position_mm`` along the series' normal."""

    path: Path
    index: int
    position_mm: float
    slope: float
    intercept: float
    stored: Stored


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series by its headers: small and picklable.

    frames: in geometric order. shape: rows, columns of each image. spacing_mm: between images (median), rows, columns.
    ignored: names in the folder that are no DICOM images.
    """

    folder: Path
    frames: tuple[Frame, ...]
    plane: Plane
    shape: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def gaps_mm(self) -> np.ndarray:
        """Distance between each image and the next, (images - 1,)."""
        return np.diff([frame.position_mm for frame in self.frames])

    def read(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Grey values of the images at ``indices`` of the geometric order (all by default), in the order asked for.

        Returns float32 (images, rows, columns), rescaled by each image's slope and intercept. Only these are decoded.
        Raises DicomError when a file cannot be decoded, IndexError for an image that the series does not have.
        """
        frames = self.frames if indices is None else [self.frames[index] for index in indices]
        images = np.empty((len(frames), *self.shape), np.float32)
        places: dict[Path, list[int]] = {}
        for place, frame in enumerate(frames):
            places.setdefault(frame.path, []).append(place)
        for path, own in places.items():
            decoded = decode(path, frames[own[0]].stored, [frames[place].index for place in own])
            for place, pixels in zip(own, decoded, strict=True):
                images[place] = _rescaled(pixels, frames[place])
        return images


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder of DICOM files holds. unreadable: why, per file; ignored: names that are no DICOM images."""

    path: Path
    images: tuple[Image, ...]
    unreadable: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have which rows and columns."""
        return Counter(image.shape for image in self.images)

    @property
    def orientations(self) -> list[list[Image]]:
        """The images in groups of one orientation, the largest group first."""
        return _groups(self.images, [image.orientation for image in self.images], ORIENTATION_TOLERANCE)

    @property
    def duplicates(self) -> list[tuple[Image, Image]]:
        """Pairs of images of one orientation that lie at the same position along its normal."""
        pairs = []
        for group in self.orientations:
            positions, ordered = _ordered(group)
            same = np.flatnonzero(np.diff(positions) < SAME_POSITION_MM)
            pairs += [(ordered[i], ordered[i + 1]) for i in same]
        return pairs

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that keeps the images from being one stack, in words."""
        found = list(self.unreadable)
        if len(self.images) < MINIMUM_IMAGES:
            also = f" beside {len(self.ignored)} other files" if self.ignored else ""
            found.append(
                f"expected at least {MINIMUM_IMAGES} images, found {len(self.images)}{also}: fewer have no two "
                "distances to compare, so a missing image would go unnoticed"
            )
        if len(self.sizes) > 1:
            sizes = (f"{rows} x {columns} ({n})" for (rows, columns), n in self.sizes.most_common())
            found.append(f"expected images of one size, found {' and '.join(sizes)}")
        spacings = np.array([image.spacing_mm for image in self.images]).reshape(-1, 2)
        if len(kinds := _groups(self.images, np.log(spacings), SPACING_TOLERANCE)) > 1:
            kinds = ("{:.4g} x {:.4g} mm".format(*kind[0].spacing_mm) + f" ({len(kind)})" for kind in kinds)
            found.append(f"expected one pixel spacing, found {' and '.join(kinds)}")
        if len(groups := self.orientations) > 1:
            kinds = (f"{_name(group[0].orientation)} ({len(group)}, as {group[0].path.name})" for group in groups)
            found.append(f"expected one orientation, found {len(groups)}: {' and '.join(kinds)}")
        if pairs := self.duplicates:
            first = " and ".join(f"{image.path.name}, image {image.index + 1}" for image in pairs[0])
            found.append(f"expected one image per position, found {len(pairs)} too many, the first pair {first}")
        return tuple(found)

    def series(self) -> Series:
        """The images as one stack. Raises DicomError with all problems where they are none."""
        if problems := self.problems:
            more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise DicomError(f"{self.path}: {'; '.join(problems[:3])}{more}")
        positions, images = _ordered(self.images)
        between = float(np.median(np.diff(positions)))
        return Series(
            folder=self.path,
            frames=tuple(
                Frame(
                    path=image.path,
                    index=image.index,
                    position_mm=float(position),
                    slope=image.slope,
                    intercept=image.intercept,
                    stored=image.stored,
                )
                for position, image in zip(positions, images, strict=True)
            ),
            plane=plane_of(images[0].orientation),
            shape=images[0].shape,
            spacing_mm=(between, *images[0].spacing_mm),
            ignored=self.ignored,
        )


def read_series(folder: str | Path) -> Series:
    """The series in a folder (not in folders below it), from its files' headers.

    Raises DicomError with the reasons: fewer than three images, several sizes, pixel spacings or orientations, several
    images at one position, a file that is damaged, truncated or compressed without the plugin to decode it.
    """
    return look(folder).series()


def look(folder: str | Path) -> Folder:
    """Read the header of every file in a folder, bad ones included. Raises DicomError when it cannot be listed."""
    folder = Path(folder)
    try:
        with os.scandir(folder) as entries:
            files = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DicomError(f"{folder}: expected a folder of DICOM files, found: {error.strerror or error}") from error
    images: list[Image] = []
    unreadable, ignored = [], []
    for file in files:
        if file.is_dir():
            ignored.append(file.name)
            continue
        try:
            images += read_header(Path(file.path))
        except NotAnImageError:
            ignored.append(file.name)
        except DicomError as error:
            unreadable.append(str(error))
    return Folder(path=folder, images=tuple(images), unreadable=tuple(unreadable), ignored=tuple(ignored))


def plane_of(orientation: Sequence[float]) -> Plane:
    """The plane's name by the patient's axis nearest to its normal; oblique when that is more than 36.9 degrees away.

    orientation: ImageOrientationPatient, the directions along a row and along a column.
    """
    cosines = np.abs(normal(orientation))
    return PLANES[int(cosines.argmax())] if cosines.max() > PLANE_COSINE else "oblique"


def _ordered(images: Sequence[Image]) -> tuple[np.ndarray, list[Image]]:
    """Positions along the normal of the first image, ascending, and the images in that order."""
    positions = np.array([image.position_mm for image in images]) @ normal(images[0].orientation)
    order = np.argsort(positions, kind="stable")
    return positions[order], [images[index] for index in order]


def _groups(images: Sequence[Image], values: Sequence[Sequence[float]], tolerance: float) -> list[list[Image]]:
    """The images in groups whose values differ from the group's first by the tolerance at most, the largest first."""
    left, groups = np.arange(len(images)), []
    table = np.asarray(values)
    while left.size:
        near = np.abs(table[left] - table[left[0]]).max(axis=1) <= tolerance
        groups.append([images[index] for index in left[near]])
        left = left[~near]
    return sorted(groups, key=len, reverse=True)


def _name(orientation: Sequence[float]) -> str:
    return f"{plane_of(orientation)} {tuple(round(cosine, 3) for cosine in orientation)}"


def _rescaled(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    if (frame.slope, frame.intercept) == (1.0, 0.0):
        return pixels
    return pixels * np.float64(frame.slope) + frame.intercept

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

import numpy as np

from common.dicom import checks
from common.dicom.file import Image, NotAnImageError, read_header
from common.dicom.pixels import Decoded, DicomError, Stored, decode
from common.dicom.planes import Plane, plane_of
from common.walk import irregular, shown
from common.words import listed

__all__ = ["DicomError", "Folder", "Frame", "Plane", "Series", "look", "plane_of", "read_series"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of a series: the ``index``-th of a file, at ``position_mm`` along the series' normal.

    mirror: where low is bright, the sum of a stored value and of the one that takes its place; None elsewhere.
    """

    path: Path
    index: int
    position_mm: float
    slope: float
    intercept: float
    mirror: int | None
    stored: Stored


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series by its headers: small and picklable.

    frames: in geometric order. shape: rows, columns of each image. spacing_mm: between images (median), rows, columns.
    ignored: names in the folder that are no DICOM images. notes: what the headers say that its user should know.
    """

    folder: Path
    frames: tuple[Frame, ...]
    plane: Plane
    shape: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Grey values of the images at ``indices`` of the geometric order (all by default), in the order asked for.

        Returns float32 (images, rows, columns), rescaled by each image's slope and intercept; padding is 0, and bright
        is high. Only these images are decoded.
        Raises DicomError when a file cannot be decoded, IndexError for an image that the series does not have.
        """
        return self.read_noted(indices)[0]

    def read_noted(self, indices: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        """As :meth:`read`, and the notes on the series and on these images' pixels."""
        frames = self.frames if indices is None else [self.frames[index] for index in indices]
        images = np.empty((len(frames), *self.shape), np.float32)
        places: dict[Path, list[int]] = {}
        for place, frame in enumerate(frames):
            places.setdefault(frame.path, []).append(place)
        n_more_bits = 0
        for path, own in places.items():
            decoded = decode(path, frames[own[0]].stored, [frames[place].index for place in own])
            for place, image in zip(own, decoded, strict=True):
                images[place] = grey_values(image, frames[place], frames[place].mirror)
                n_more_bits += image.has_more_bits
        return images, (*self.notes, *checks.pixel_notes(n_more_bits, images.min(initial=0)))


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder of DICOM files holds. unreadable: why, per file; ignored: names that are no DICOM images; deeper:
    of these, folders with images in them, where the folder itself has none."""

    path: Path
    images: tuple[Image, ...]
    unreadable: tuple[str, ...]
    ignored: tuple[str, ...]
    deeper: tuple[str, ...] = ()

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many images have which rows and columns."""
        return Counter(image.shape for image in self.images)

    @property
    def orientations(self) -> list[list[Image]]:
        """The images in groups of one orientation, the largest group first."""
        return checks.orientations(self.images)

    @property
    def duplicates(self) -> list[tuple[Image, Image]]:
        """Pairs of images of one orientation that lie at the same position along its normal."""
        return checks.duplicates(self.images)

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that keeps the images from being one stack, in words."""
        found = list(self.unreadable)
        if self.deeper:
            found.append(
                f"expected images in the folder itself, found them one folder deeper, in {listed(self.deeper)}"
            )
        elif len(self.images) < checks.MINIMUM_IMAGES:
            also = f" beside {len(self.ignored)} other files" if self.ignored else ""
            found.append(
                f"expected at least {checks.MINIMUM_IMAGES} images, found {len(self.images)}{also}: fewer have no two "
                "distances to compare, so a missing image would go unnoticed"
            )
        return (*found, *checks.problems(self.images))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user of a stack should know. Only of a folder without problems."""
        return (*checks.notes(self.images), *self.notes_on_others)

    @property
    def notes_on_others(self) -> tuple[str, ...]:
        """What lies beside the images, in words."""
        more = ", ..." if len(self.ignored) > 3 else ""
        return (f"no DICOM images: {', '.join(self.ignored[:3])}{more}",) if self.ignored else ()

    def series(self) -> Series:
        """The images as one stack. Raises DicomError with all problems where they are none."""
        if problems := self.problems:
            more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise DicomError(f"{shown(self.path)}: {'; '.join(problems[:3])}{more}")
        positions, images = checks.in_order(self.images)
        between = float(np.median(np.diff(positions)))
        mirror = checks.mirror(images)
        return Series(
            folder=self.path,
            frames=tuple(
                Frame(
                    path=image.path,
                    index=image.index,
                    position_mm=float(position),
                    slope=image.slope,
                    intercept=image.intercept,
                    mirror=mirror,
                    stored=image.stored,
                )
                for position, image in zip(positions, images, strict=True)
            ),
            plane=plane_of(images[0].orientation),
            shape=images[0].shape,
            spacing_mm=(between, *images[0].spacing_mm),
            ignored=self.ignored,
            notes=self.notes,
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
        raise DicomError(
            f"{shown(folder)}: expected a folder of DICOM files, found: {error.strerror or error}"
        ) from error
    images: list[Image] = []
    unreadable, ignored, folders = [], [], []
    for file in files:
        kind = irregular(file)
        if kind == "a folder":
            ignored.append(shown(file.name))
            folders.append(file)
            continue
        try:
            if kind is not None:  # opening a pipe waits for ever
                raise DicomError(f"{file.path}: expected a readable file, found {kind}")
            images += read_header(Path(file.path))
        except NotAnImageError:
            ignored.append(shown(file.name))
        except DicomError as error:
            unreadable.append(shown(str(error)))
    deeper = () if images else tuple(shown(inner.name) for inner in folders if _holds_an_image(inner))
    return Folder(
        path=folder, images=tuple(images), unreadable=tuple(unreadable), ignored=tuple(ignored), deeper=deeper
    )


def _holds_an_image(folder: os.DirEntry[str]) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(irregular(entry) is None and _is_image(Path(entry.path)) for entry in entries)
    except OSError:
        return False


def _is_image(file: Path) -> bool:
    try:
        return bool(read_header(file))
    except DicomError:
        return False


def grey_values(image: Decoded, place: Frame | Image, mirror: int | None = None) -> np.ndarray:
    """Decoded pixels (rows, columns) as grey values: mirrored where low is bright, rescaled, padding 0."""
    pixels = image.pixels if mirror is None else mirror - image.pixels.astype(np.int64)
    if (place.slope, place.intercept) != (1.0, 0.0):
        pixels = pixels * np.float64(place.slope) + place.intercept
    return pixels if image.padded is None else np.where(image.padded, 0, pixels)

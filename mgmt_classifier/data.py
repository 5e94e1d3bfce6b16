"""The prepared slices of a series, and training samples from them without decoding anything again.

Of each patient's series the chosen images are kept, resized to one size, as 16-bit integers: the largest absolute value
is 32767, so a step is finer than the scanner's own (12 bits). The networks see them normalised, so that the integers'
unit has no meaning. Nothing here needs PyTorch: samples are arrays, which its loaders collate.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from common import store, volumes
from common.dicom.mgmt_cohort import Patient
from common.dicom.series import DicomError, Series, read_series
from common.store import Store, UnusableError
from common.subject import Problem
from mgmt_classifier import slices

FORMAT = 2  # part of every entry's key: raise it when the meaning of the stored numbers changes
STEPS = np.iinfo(np.int16).max

Intensity = Literal["zscore", "maximum"]
Position = tuple[int, int]
Item = TypeVar("Item")
Recipe = TypeVar("Recipe")


@dataclass(frozen=True, kw_only=True)
class SliceRecipe:
    """What is kept of a patient. Every field is part of the entries' names."""

    contrast: str
    """The series."""
    slices: Literal["central", "tumour"]
    """Which of its images."""
    images: int
    """How many of them."""
    percentile: float
    """Of the series' non-zero pixels; only for slices = tumour."""
    image_size: tuple[int, int]
    """Rows and columns after resizing; the image is stretched where its sides have another ratio (D)."""

    @property
    def bytes_per_patient(self) -> int:
        """Of an entry's array."""
        return self.images * math.prod(self.image_size) * np.dtype(np.int16).itemsize


@dataclass(frozen=True)
class Entry(store.StoredArray):
    """A patient in the store. geometry: ``indices`` of the images in their series of ``series_images``, its ``plane``
    and ``spacing_mm``, ``mean``, ``sd`` and ``maximum`` of the stored pixels that are not zero, and ``notes`` on the
    series."""

    def open(self) -> np.ndarray:
        """The chosen images, int16 (images, rows, columns), memory-mapped, read-only."""
        return self.array()

    @property
    def content(self) -> tuple[float, ...]:
        """What only equal images have in common: mean, sd and maximum of some 100 000 pixels, to the last digit."""
        return tuple(self.geometry[name] for name in ("mean", "sd", "maximum"))


def prepare(
    patients: Iterable[Patient],
    recipe: SliceRecipe,
    folder: str | Path,
    *,
    n_jobs: int = -1,
    local_copy: Path | None = None,
) -> Store[Entry]:
    """Bring every patient into the store at ``folder``, in parallel processes, with a progress bar.

    All patients are read, and the problems of all bad ones are returned: contrast missing, series refused by
    :func:`common.dicom.series.read_series`, too few images, pixels that cannot be decoded or show nothing. Nothing of a
    bad patient is stored. local_copy: as for :func:`common.prepared.prepare`.
    Raises StoreError when a disk is full or a folder cannot be written.
    """
    # Processes: DICOM headers are parsed by Python code, which threads would take in turns.
    return fill(
        FORMAT,
        recipe,
        _fingerprint,
        make,
        patients,
        folder,
        n_jobs=n_jobs,
        prefer="processes",
        local_copy=local_copy,
    )


def fill(
    number: int,
    recipe: Recipe,
    fingerprint: Callable[[Item, Recipe], str],
    make: Callable[[Item, Recipe], tuple[np.ndarray, dict]],
    items: Iterable[Item],
    folder: str | Path,
    *,
    n_jobs: int,
    prefer: Literal["threads", "processes"],
    local_copy: Path | None,
) -> Store[Entry]:
    """:func:`common.store.fill` with entries of images. number, recipe, fingerprint, make: of its Kind, the latter two
    of an item and the recipe."""
    kind = store.Kind(
        number=number,
        recipe=recipe,
        entry=Entry,
        fingerprint=partial(fingerprint, recipe=recipe),
        make=partial(make, recipe=recipe),
    )
    return store.fill(kind, items, folder, n_jobs=n_jobs, prefer=prefer, local_copy=local_copy)


def make(patient: Patient, recipe: SliceRecipe) -> tuple[np.ndarray, dict]:
    """The chosen images, int16 (images, rows, columns), and their geometry, as an Entry has it.

    Images are resized linearly, antialiased where they shrink (:func:`common.volumes.resize`).
    Raises UnusableError with the reason.
    """
    folder = _folder(patient, recipe)
    try:
        series = read_series(folder)
        if len(series) < recipe.images:
            raise UnusableError(
                Problem(patient.id, folder, f"expected at least {recipe.images} images, found {len(series)}")
            )
        indices, images, notes = _choose(series, recipe)
    except (DicomError, OSError) as error:
        raise UnusableError(Problem(patient.id, folder, str(error))) from error
    stored, statistics = stored_images(images, recipe)
    if statistics is None:
        raise UnusableError(
            Problem(
                patient.id,
                folder,
                f"expected several positive grey values in the {len(images)} images from {indices[0] + 1} of "
                f"{len(series)}, found values from {images.min():g} to {images.max():g}",
            )
        )
    geometry = {
        "indices": tuple(map(int, indices)),
        "series_images": len(series),
        "plane": series.plane,
        "spacing_mm": series.spacing_mm,
        **statistics,
        "notes": notes,
    }
    return stored, geometry


def stored_images(images: np.ndarray, recipe: SliceRecipe) -> tuple[np.ndarray, dict[str, float] | None]:
    """Chosen grey values (images, rows, columns) as they are kept, int16, with mean, sd and maximum of those that are
    not zero; None for them where the images show nothing."""
    largest = float(np.abs(images).max())
    resized = volumes.resize(images, (len(images), *recipe.image_size))
    resized *= np.float32(STEPS / largest if largest > 0 else 0)
    stored = np.rint(resized, out=resized).astype(np.int16)
    mean, sd = volumes.nonzero_mean_and_sd(stored) if stored.any() else (0.0, 0.0)
    if sd == 0 or stored.max() <= 0:
        return stored, None
    return stored, {"mean": float(mean), "sd": float(sd), "maximum": float(stored.max())}


def network_input(images: np.ndarray, geometry: dict, *, intensity: Intensity) -> np.ndarray:
    """Stored images (images, rows, columns) as the network sees them: float32 (1, images, rows, columns).

    zscore: all non-zero pixels of the images together have mean 0 and standard deviation 1. maximum: divided by the
    largest. Zero stays zero.
    """
    offset, scale = (geometry["mean"], geometry["sd"]) if intensity == "zscore" else (0.0, geometry["maximum"])
    return volumes.normalise_nonzero(images, offset, scale)[None]


class Slices:
    """Training samples: item (epoch, index) is patient ``index`` as the network sees it in that epoch.

    An item is ``{"image": float32 (1, images, rows, columns), "label": float32, "id"}``. Nothing is kept between items,
    so memory does not grow with the cohort. A flip turns the columns around: left and right in axial, coronal and most
    oblique images, front and back in sagittal ones; it is a function of (seed, epoch, patient).
    """

    def __init__(
        self,
        patients: Sequence[tuple[Entry, int]],
        *,
        intensity: Intensity = "zscore",
        flip_probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.patients = list(patients)
        self.intensity = intensity
        self.flip_probability = flip_probability
        self.seed = seed

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, position: Position) -> dict[str, object]:
        epoch, index = position
        entry, label = self.patients[index]
        images = entry.open()
        if np.random.default_rng([self.seed, epoch, zlib.crc32(entry.id.encode())]).random() < self.flip_probability:
            images = np.flip(images, 2)
        image = network_input(images, entry.geometry, intensity=self.intensity)
        return {"image": image, "label": np.float32(label), "id": entry.id}


class Order:
    """Positions (epoch, index) of all patients in an order that is a function of (seed, epoch).

    Lightning calls ``set_epoch``; no other state exists, so a resumed run goes through the same order.
    """

    def __init__(self, n_patients: int, *, seed: int) -> None:
        self.n_patients, self.seed = n_patients, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_patients

    def __iter__(self) -> Iterator[Position]:
        for index in np.random.default_rng([self.seed, self.epoch]).permutation(self.n_patients):
            yield self.epoch, int(index)


class Batches:
    """An order cut into steps of ``batch_size`` patients.

    One patient left over joins the step before: alone, it would be its own mean and variance in batch normalisation.
    """

    def __init__(self, order: Order, *, batch_size: int) -> None:
        self.sampler, self.batch_size = order, batch_size  # Lightning looks for set_epoch under this name

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Position]]:
        positions = list(self.sampler)
        starts = self._starts()
        for start, end in zip(starts, [*starts[1:], len(positions)], strict=True):
            yield positions[start:end]

    def _starts(self) -> list[int]:
        starts = list(range(0, len(self.sampler), self.batch_size))
        one_left = self.batch_size > 1 and len(starts) > 1 and len(self.sampler) - starts[-1] == 1
        return starts[:-1] if one_left else starts


def _folder(patient: Patient, recipe: SliceRecipe) -> Path:
    if recipe.contrast not in patient.folders:
        found = ", ".join(patient.folders) or "none"
        raise UnusableError(Problem(patient.id, None, f"expected a series {recipe.contrast}, found {found}"))
    return patient.folders[recipe.contrast]


def _fingerprint(patient: Patient, recipe: SliceRecipe) -> str:
    folder = _folder(patient, recipe)
    try:
        return patient.fingerprint(recipe.contrast)
    except OSError as error:
        raise UnusableError(Problem(patient.id, folder, str(error))) from error


def _choose(series: Series, recipe: SliceRecipe) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Indices of the chosen images, their grey values (images, rows, columns), and the notes on them."""
    if recipe.slices == "central":
        indices = slices.central(len(series), recipe.images)
        return indices, *series.read_noted(indices)
    images, notes = series.read_noted()
    if not images.any():
        raise DicomError(f"{series.folder}: expected images that show something, found {len(series)} that are all zero")
    indices = slices.tumour(images, recipe.images, percentile=recipe.percentile)
    return indices, images[indices], notes

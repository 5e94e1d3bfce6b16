"""NIfTI scans as the images that a model was trained on.

A model has seen images of DICOM series: a plane, a distance between images, a field of view. A volume (UCSF-PDGM,
UPENN-GBM, BraTS) is cut into such images: the same plane, images in the same order along its normal, rows and columns
running the same way, as far apart and as large as in most series of the training, the brain in their middle. Then
images are chosen, resized and stored by the functions that do it for DICOM.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from common import volumes
from common.dicom.mgmt_cohort import Patient
from common.dicom.series import Plane, read_series
from common.grid import Grid, bring
from common.nifti import ScanError
from common.store import Store, UnusableError
from common.subject import Problem, Subject, examine_arrays
from mgmt_classifier import slices
from mgmt_classifier.data import Entry, SliceRecipe, fill, stored_images

FORMAT = 1  # part of every entry's key: raise it when the meaning of the stored numbers changes
CONTRASTS = {"FLAIR": "FLAIR", "T1w": "T1", "T1wCE": "T1ce", "T2w": "T2"}
"""Of the competition -> of a subject's scans."""
_AXES: dict[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((2, 1, 0), (1, 1, 1)),
    "sagittal": ((0, 2, 1), (-1, -1, 1)),
    "coronal": ((1, 2, 0), (1, -1, 1)),
}
"""Of a volume whose axes point to the patient's left, back and head: which of them runs between images, along rows'
numbers and along columns', and whether forwards. As DICOM writes these planes: columns to the left or to the back, rows
to the back or to the feet, images along the normal of row direction x column direction."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How images lie in a volume. extent_mm: of the whole series between images, over rows and over columns."""

    plane: Plane
    between_mm: float
    extent_mm: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class ScanRecipe:
    """What is kept of a subject's scan. Every field is part of the entries' names."""

    slices: SliceRecipe
    cut: Cut


def cut_of(patients: Sequence[Patient], contrast: str, *, n_jobs: int = -1) -> Cut:
    """How most series of a contrast lie: their most frequent plane, and the medians of the series in that plane.

    Oblique series are in no plane that could be cut, and count for none. Raises ValueError where all are.
    """
    found = Parallel(n_jobs=n_jobs)(delayed(_lies)(patient.folders[contrast]) for patient in patients)
    planes = Counter(plane for plane, *_ in found if plane in _AXES)
    if not planes:
        raise ValueError(f"expected axial, sagittal or coronal series of {contrast}, found none in {len(found)}")
    plane = max(planes, key=lambda each: (planes[each], each))
    between, *extent = np.median([numbers for own, *numbers in found if own == plane], axis=0)
    return Cut(
        plane=plane,
        between_mm=round(float(between), 4),
        extent_mm=tuple(round(float(side), 4) for side in extent),
    )


def prepare(
    subjects: Iterable[Subject],
    recipe: ScanRecipe,
    folder: str | Path,
    *,
    n_jobs: int = -1,
    local_copy: Path | None = None,
) -> Store[Entry]:
    """Bring every subject into the store at ``folder``, as :func:`mgmt_classifier.data.prepare` does patients."""
    return fill(
        FORMAT,
        recipe,
        _fingerprint,
        make,
        subjects,
        folder,
        n_jobs=n_jobs,
        prefer="threads",
        local_copy=local_copy,
    )


def make(subject: Subject, recipe: ScanRecipe) -> tuple[np.ndarray, dict]:
    """The chosen images, int16 (images, rows, columns), and their geometry, as an Entry has it.

    Raises UnusableError with everything that is wrong with the scan.
    """
    own = _of_contrast(subject, recipe)
    (contrast,) = own.images
    try:
        scans, _ = own.read((contrast,))
        if problems := examine_arrays(own, scans, None).problems:
            raise UnusableError(*problems)
        # to the working grid's axes, on the scan's own voxels
        scan = bring(scans, None, Grid(spacing_mm=None)).scans[contrast]
        images = cut(scan.data, scan.spacing_mm, recipe.cut, fewest=recipe.slices.images)
    except (ScanError, OSError) as error:
        raise UnusableError(Problem(subject.id, own.images[contrast], str(error))) from error
    if recipe.slices.slices == "central":
        indices = slices.central(len(images), recipe.slices.images)
    else:
        indices = slices.tumour(images, recipe.slices.images, percentile=recipe.slices.percentile)
    stored, statistics = stored_images(images[indices], recipe.slices)
    if statistics is None:
        what = f"expected several positive grey values in the {len(indices)} images chosen, found none"
        raise UnusableError(Problem(subject.id, own.images[contrast], what))
    axes, _ = _AXES[recipe.cut.plane]
    geometry = {
        "indices": tuple(map(int, indices)),
        "series_images": len(images),
        "plane": recipe.cut.plane,
        "spacing_mm": (recipe.cut.between_mm, *(scan.spacing_mm[axis] for axis in axes[1:])),
        **statistics,
        "notes": (),
    }
    return stored, geometry


def cut(volume: np.ndarray, spacing_mm: Sequence[float], wanted: Cut, *, fewest: int = 1) -> np.ndarray:
    """Images float32 (images, rows, columns) of a volume (x, y, z) whose axes point to the left, back and head.

    Resampled between images only, over the brain alone, so that its edge stays an edge; rows and columns keep the
    volume's voxels. The middle of the brain's box comes to the middle of the field of view, which grows where the brain
    needs more. fewest: images, black ones added at the ends where the series would have fewer.
    """
    axes, ways = _AXES[wanted.plane]
    images = volume.transpose(axes)[tuple(slice(None, None, way) for way in ways)]
    between, *pixels_mm = (spacing_mm[axis] for axis in axes)
    images = _spaced(np.asarray(images, np.float32), max(1, round(len(images) * between / wanted.between_mm)))
    sides = zip(wanted.extent_mm, (wanted.between_mm, *pixels_mm), (fewest, 1, 1), strict=True)
    size, start = [], []
    for (extent, side, least), box in zip(sides, volumes.bounding_box(images != 0), strict=True):
        n = max(round(extent / side), box.stop - box.start, least)
        size.append(n)
        # its middle in the middle; of an even number of voxels more the one half comes first
        start.append(-((n - (box.stop - box.start)) // 2) + box.start)
    return np.ascontiguousarray(volumes.window(images, start, size))


def _spaced(images: np.ndarray, n: int) -> np.ndarray:
    """So many images over the same distance; a pixel belongs to the brain where half of it does."""
    if n == len(images):
        return images
    shape, brain = (n, *images.shape[1:]), (images != 0).astype(np.float32)
    values, share = volumes.resize(images, shape), volumes.resize(brain, shape)
    return np.divide(values, share, out=np.zeros_like(values), where=share >= 0.5)


def _of_contrast(subject: Subject, recipe: ScanRecipe) -> Subject:
    """The subject with the one scan that the recipe needs."""
    contrast = CONTRASTS[recipe.slices.contrast]
    return replace(subject, images={contrast: subject.images[contrast]}, label=None, convention=None)


def _fingerprint(subject: Subject, recipe: ScanRecipe) -> str:
    own = _of_contrast(subject, recipe)
    try:
        return own.fingerprint()
    except (ScanError, OSError) as error:
        raise UnusableError(Problem(subject.id, next(iter(own.images.values())), str(error))) from error


def _lies(folder: Path) -> tuple[Plane, float, float, float, float]:
    """Plane of a series, its distance between images, and its extent between images, over rows and over columns."""
    series = read_series(folder)
    between, row, column = series.spacing_mm
    rows, columns = series.shape
    return series.plane, between, len(series) * between, rows * row, columns * column

"""The prepared store of the segmentation networks: what a recipe makes of a subject's scans, made once.

What an entry is worth after a kill, a full disk or a fading one is told in :mod:`common.store`.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from common import nifti, store
from common.exchanged import exchanged
from common.grid import Placement, bring
from common.identity import contents
from common.mismatch import mismatch
from common.nifti import ScanError
from common.recipe import Recipe, Volume, misfit, transform
from common.store import Store, StoreError, UnusableError
from common.subject import Problem, Subject, examine, examine_arrays

__all__ = ["Entry", "Store", "StoreError", "expected_bytes", "prepare"]

FORMAT = 6  # part of every entry's key: raise it when the meaning of the stored numbers changes

BRAIN_MM = (140.0, 175.0, 140.0)
"""Sides (x, y, z) of the box around an adult's brain. By them stores of four BraTS patients and of the phantoms are
estimated within 20 %."""

_PLACEMENT = tuple(field.name for field in fields(Placement))
_CONTENTS = "contents"
_LABEL_POSITIONS = "label_positions"
_EXCHANGED, _MISMATCH = "exchanged", "mismatch"
_OWN = (_CONTENTS, _LABEL_POSITIONS, _EXCHANGED, _MISMATCH)  # not the volume's
_POSITIONS_PER_CLASS = 256


@dataclass(frozen=True)
class Entry(store.StoredArray):
    """A subject in the store. Small and picklable: the voxels are mapped when ``open`` is called."""

    @property
    def placement(self) -> Placement:
        """How the subject's scans were brought to the recipe's working grid."""
        return Placement(**{name: self.geometry[name] for name in _PLACEMENT})

    def open(self) -> Volume:
        """The subject with its voxels memory-mapped, read-only."""
        own = {name: value for name, value in self.geometry.items() if name not in (*_PLACEMENT, *_OWN)}
        return Volume(id=self.id, voxels=self.array(), placement=self.placement, **own)

    @property
    def contents(self) -> dict[str, str]:
        """Content digest of each contrast that the recipe takes (see `common.identity`)."""
        return self.geometry[_CONTENTS]

    @property
    def exchanged(self) -> tuple[str, ...]:
        """What of its contrasts looks exchanged (see `common.exchanged`); nothing in entries of earlier versions."""
        return tuple(self.geometry.get(_EXCHANGED, ()))

    @property
    def mismatch(self) -> tuple[str, ...]:
        """What speaks against its mask being of its scans (see `common.mismatch`); nothing in entries of earlier
        versions."""
        return tuple(self.geometry.get(_MISMATCH, ()))

    @property
    def doubts(self) -> tuple[str, ...]:
        """All that is to be said of its files before they are used."""
        return (*self.exchanged, *self.mismatch)

    @property
    def label_positions(self) -> dict[int, np.ndarray]:
        """Voxels (n, 3) of the recipe's grid for each class of tumour that is there: at most 256, drawn evenly."""
        return {int(value): np.array(positions) for value, positions in self.geometry[_LABEL_POSITIONS].items()}


def prepare(
    subjects: Iterable[Subject], recipe: Recipe, folder: str | Path, *, n_jobs: int = -1, local_copy: Path | None = None
) -> Store[Entry]:
    """Bring every subject into the store at ``folder``, in parallel threads, with a progress bar.

    All subjects are read to the end, and the problems of all bad ones are returned; nothing of a bad subject is stored.
    local_copy: folder of this machine to which the entries are copied, where they are not there, and in which they are
    found. Raises StoreError when a disk is full or a folder cannot be written, ValueError where RC is a class of a
    mask's own: what becomes of the cavity is decided when the subjects are found.
    """
    subjects = list(subjects)
    if own := [subject.id for subject in subjects if subject.convention is not None and subject.convention.has_cavity]:
        raise ValueError(
            f"expected masks of NCR, ED and ET, found {len(own)} in which RC is a class: {', '.join(own[:5])}"
        )
    kind = store.Kind(
        number=FORMAT, recipe=recipe, entry=Entry, fingerprint=_fingerprint, make=partial(_make, recipe=recipe)
    )
    return store.fill(kind, subjects, folder, n_jobs=n_jobs, prefer="threads", local_copy=local_copy)


def expected_bytes(subjects: Iterable[Subject], recipe: Recipe) -> int:
    """About what entries of the subjects take: the first one's field of view, and in it a brain's box of BRAIN_MM.

    0 where no header can be read; what is wrong with it is said when the subjects are prepared.
    """
    subjects = list(subjects)
    for subject in subjects:
        try:
            header = nifti.read_header(next(iter(subject.images.values())))
        except (ScanError, OSError):
            continue
        affine = nifti.affine_mm(header)
        sides_mm = np.empty(3)
        sides_mm[nib.io_orientation(affine)[:, 0].astype(int)] = header.get_data_shape()[:3] * voxel_sizes(affine)
        if recipe.extent is not None:
            sides_mm = np.array(recipe.extent, float)  # its voxels have 1 mm
        if recipe.crop is not None:
            sides_mm = np.ptp(recipe.crop, axis=1).astype(float)
        voxels = recipe.shape or sides_mm / (recipe.spacing_mm or 1.0)
        box = np.prod(voxels * np.minimum(1, BRAIN_MM / sides_mm))
        channels = len(recipe.contrasts) + (subject.label is not None)
        return round(len(subjects) * channels * box * np.dtype(np.int16).itemsize)
    return 0


def _fingerprint(subject: Subject) -> str:
    try:
        return subject.fingerprint()
    except (ScanError, OSError) as error:
        raise _unreadable(subject, error) from error


def _make(subject: Subject, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        scans, mask = subject.read(recipe.contrasts)
    except (ScanError, OSError) as error:
        raise _unreadable(subject, error) from error
    found = examine_arrays(subject, scans, mask)
    if problems := found.problems + found.copies:
        raise UnusableError(*problems)
    try:
        brought = bring(scans, found.labels, recipe.grid)
    except ScanError as error:
        raise UnusableError(Problem(subject.id, None, str(error))) from error
    if reason := misfit(brought.scans, recipe):
        raise UnusableError(Problem(subject.id, None, reason))
    volume = transform(subject.id, brought, recipe)
    own = {name: value for name, value in vars(volume).items() if name not in ("id", "voxels", "placement")}
    images = {name: scan.data for name, scan in scans.items()}
    odd = exchanged(images)
    return volume.voxels, {
        **own,
        **asdict(volume.placement),
        _CONTENTS: contents(scans),
        _LABEL_POSITIONS: _label_positions(volume),
        _EXCHANGED: odd,
        _MISMATCH: () if odd or found.labels is None else mismatch(images, found.labels),
    }


def _label_positions(volume: Volume) -> dict[str, list[list[int]]]:
    """Some voxels of each class, the same for the same labels."""
    if not volume.has_label:
        return {}
    labels = volume.voxels[-1].ravel()
    labelled = np.flatnonzero(labels)
    classes = labels[labelled]
    positions = {}
    for value in np.unique(classes):
        of_class = labelled[classes == value]
        drawn = np.random.default_rng(0).choice(
            of_class, min(len(of_class), _POSITIONS_PER_CLASS), replace=False, shuffle=False
        )
        where = np.stack(np.unravel_index(np.sort(drawn), volume.box_shape), axis=1) + volume.box_start
        positions[str(value)] = where.tolist()
    return positions


def _unreadable(subject: Subject, error: ScanError | OSError) -> UnusableError:
    """Every file's problem; the error itself where a second look finds none, so that no subject drops out unnamed."""
    return UnusableError(*(examine(subject).problems or (Problem(subject.id, None, str(error)),)))

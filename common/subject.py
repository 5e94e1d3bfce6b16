"""One subject's files: read them, each once and checked, and name everything that is wrong with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import background, geometry, nifti
from common.exchanged import exchanged
from common.identity import contents, copied_contrasts, masks_among, sketch
from common.labels import LabelConvention
from common.mismatch import mismatch
from common.nifti import Scan, ScanError
from common.plausibility import Layers, layers
from common.volumes import bounding_box
from common.walk import shown
from common.words import listed

CONTRASTS = ("FLAIR", "T1", "T1ce", "T2")
LABEL = "label"
# BraTS-GLI-00000-000 and -001, Brats18_TCIA01_131_1 and _2, UCSF-PDGM-0004 and UCSF-PDGM-0004_FU016d,
# UPENN-GBM-00001_11 and _21 (before and after surgery), sessions as in BIDS: time points of one patient.
_TIME_POINT = re.compile(
    r"(BraTS-[A-Za-z]+(?:-RT)?-\d+)-\d+|(BraTS1[789]_.+)_\d+"
    r"|(UCSF-PDGM-\d+)(?:_FU\d+d)?(?:_nifti)?|(UPENN-GBM-\d+)_\d+|(PatientID_\d+)_Timepoint_\d+"
    r"|(sub-[A-Za-z0-9]+)_ses-[A-Za-z0-9]+.*",
    re.IGNORECASE,
)
# Scans of UCSF-PDGM that its first two versions list under numbers of their own: later ones rename them, as
# UCSF-PDGM-0391_FU016d.
_SAME_PATIENT = {
    "UCSF-PDGM-0138": "UCSF-PDGM-0429",
    "UCSF-PDGM-0175": "UCSF-PDGM-0396",
    "UCSF-PDGM-0181": "UCSF-PDGM-0409",
    "UCSF-PDGM-0278": "UCSF-PDGM-0431",
    "UCSF-PDGM-0289": "UCSF-PDGM-0391",
    "UCSF-PDGM-0315": "UCSF-PDGM-0433",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a subject. file: None when the subject as a whole is meant."""

    subject: str
    file: Path | None
    what: str

    def __str__(self) -> str:
        is_named = self.file is None or self.what.startswith(f"{self.file}: ")
        return shown(f"{self.subject}: {self.what}" + ("" if is_named else f" [{self.file}]"))


def lines(problems: Iterable[Problem]) -> list[str]:
    """A line for each problem; what several subjects have in the same words stands in one, with the first file."""
    by_words: dict[str, list[Problem]] = {}
    for problem in problems:
        by_words.setdefault(problem.what, []).append(problem)
    return [
        str(replace(alike[0], subject=listed(list(dict.fromkeys(problem.subject for problem in alike)))))
        for alike in by_words.values()
    ]


@dataclass(frozen=True)
class Subject:
    """One subject's files.

    channels: index of each contrast in a 4-D file that holds them all, None for 3-D files. known_patient: whose scans
    they are, where the id does not tell.
    """

    id: str
    images: Mapping[str, Path]
    label: Path | None = None
    convention: LabelConvention | None = None
    channels: Mapping[str, int] | None = None
    known_patient: str | None = None

    @property
    def patient(self) -> str:
        """The patient's identifier, shared by all time points: splits are made by patient."""
        if self.known_patient is not None:
            return self.known_patient
        match = _TIME_POINT.fullmatch(self.id)
        patient = self.id if match is None else match[match.lastindex or 0]
        return _SAME_PATIENT.get(patient.upper(), patient)

    def fingerprint(self) -> str:
        """Hexadecimal digest of the content of all files and of how it is read, wherever the files lie."""
        parts: list[list[object]] = [
            [c, nifti.content_fingerprint(p), (self.channels or {}).get(c)] for c, p in sorted(self.images.items())
        ]
        if self.label is not None:
            parts.append([LABEL, nifti.content_fingerprint(self.label), self.convention and self.convention.reading])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, contrasts: Sequence[str] = CONTRASTS) -> tuple[dict[str, Scan], Scan | None]:
        """The scans (x, y, z) of the contrasts and the mask as stored (None without one), each file decoded once.

        Files are read on threads (decompression releases the interpreter lock). Raises ScanError or OSError for the
        first file that cannot be read; `examine_arrays` judges what is returned.
        """
        scans, mask, failures = _read(self, contrasts)
        for error in failures.values():
            raise error
        return scans, mask

    def load_images(self, contrasts: Sequence[str] = CONTRASTS) -> tuple[np.ndarray, Scan]:
        """Images (contrast, x, y, z) in the files' common type, and the first contrast's scan for its geometry.

        Raises ScanError when a file cannot be trusted or lies on another grid than the first contrast.
        """
        scans, _ = replace(self, label=None).read(contrasts)
        return stack_images(self, scans)

    def load_labels(self) -> np.ndarray:
        """Classes 0..3, or 0..4 where the convention has RC, uint8 (x, y, z).

        Raises ScanError when the mask cannot be trusted, holds values that its convention lacks or lies on another
        grid than the first contrast; ValueError when the subject has no mask or no convention.
        """
        if self.label is None or self.convention is None:
            raise ValueError(
                f"{self.id}: expected a mask with a known convention, found {self.label}, {self.convention}"
            )
        mask = _volume(nifti.read(self.label), self.label, None)
        image = self.images[CONTRASTS[0]]
        header = nifti.read_header(image)
        if what := _grid_difference(mask, header.get_data_shape()[:3], nifti.affine_mm(header), image.name):
            raise ScanError(f"{self.label}: {what}")
        try:
            return self.convention.to_classes(mask.data)
        except ValueError as error:
            raise ScanError(f"{self.label}: {error}") from error


def stack_images(subject: Subject, scans: Mapping[str, Scan]) -> tuple[np.ndarray, Scan]:
    """Scans as `Subject.read` returns them -> (contrast, x, y, z) and the first scan. Raises as `load_images`."""
    first_name, first = next(iter(scans.items()))
    for contrast, scan in scans.items():
        if what := _grid_difference(scan, first.data.shape, first.affine, first_name):
            raise ScanError(f"{subject.images[contrast]}: {what}")
    dtype = np.result_type(*(scan.data.dtype for scan in scans.values()))
    # Each contrast keeps the files' own memory order (x fastest): copying across orders costs more than decoding.
    images = np.empty((len(scans), *first.data.shape[::-1]), dtype).transpose(0, 3, 2, 1)
    for image, scan in zip(images, scans.values(), strict=True):
        image[...] = scan.data
    return images, replace(first, data=images[0])


@dataclass(frozen=True)
class Examination:
    """What a look at every voxel of a subject found. labels: uint8 classes (x, y, z), None without a good mask.

    copies: contrasts that are another one's copy, which no cohort should have and one's own patient may.
    """

    problems: tuple[Problem, ...]
    copies: tuple[Problem, ...]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Findings:
    """What an audit keeps of a subject.

    values: which of 1 to 4 its mask holds, whatever they mean. contents: see `common.identity`. layers: of a good mask.
    classes: that it holds, None without a good mask. notes: what is odd in its images.
    sketches: see `common.identity`. exchanged, mismatch: see the modules of `common` of that name.
    """

    problems: tuple[Problem, ...]
    values: frozenset[int]
    contents: Mapping[str, str]
    layers: Layers | None
    classes: frozenset[str] | None
    notes: tuple[str, ...]
    sketches: Mapping[str, np.ndarray]
    exchanged: tuple[str, ...]
    mismatch: tuple[str, ...]


def examine_arrays(subject: Subject, scans: Mapping[str, Scan], mask: Scan | None) -> Examination:
    """Everything wrong with a subject's decoded files, as `Subject.read` returns them, and the mask's classes."""
    problems = []
    with ThreadPoolExecutor(2) as threads:
        looks = threads.map(lambda contrast: _look(subject, contrast, scans[contrast]), scans)
        labels, wrong = _classes(subject, mask)
        problems = [problem for problem in looks if problem]
    problems += wrong
    items = [(contrast, subject.images[contrast], scan) for contrast, scan in scans.items()]
    if mask is not None and subject.label is not None:
        items.append((LABEL, subject.label, mask))
    for _, file, scan in items[1:]:
        name, _, first = items[0]
        if what := _grid_difference(scan, first.data.shape, first.affine, name):
            problems.append(Problem(subject.id, file, what))
    for contrast, n in masks_among(scans).items():
        what = f"{contrast} holds {n} values besides 0, as a mask: expected a scan, as the other contrasts are"
        problems.append(Problem(subject.id, subject.images[contrast], what))
    copies = tuple(
        Problem(subject.id, subject.images[other], f"{other} is a copy of {one}, expected two different images")
        for other, one in copied_contrasts(scans).items()
    )
    # Of a 4-D file's header each contrast says the same.
    return Examination(tuple(dict.fromkeys(problems)), copies, labels)


def examine(subject: Subject) -> Findings:
    """Everything wrong with one subject: reads every voxel of every file."""
    scans, mask, failures = _read(subject, CONTRASTS)
    unreadable = tuple(Problem(subject.id, file, str(error)) for file, error in failures.items())
    values = frozenset() if mask is None else frozenset(value for value in range(1, 5) if (mask.data == value).any())
    looked = examine_arrays(subject, scans, mask)
    problems = unreadable + looked.problems + looked.copies
    digests = {} if problems else contents(scans)
    odd: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    notes, sketches = [], {}
    if not problems:
        sketches = {contrast: drawn for contrast, scan in scans.items() if (drawn := sketch(scan)) is not None}
        notes = [f"{contrast}: {note}" for contrast, scan in scans.items() for note in background.notes(scan.data)]
        images = {contrast: scan.data for contrast, scan in scans.items()}
        notes += filter(None, [background.coverage_note(images)])
        odd = exchanged(images)
        if looked.labels is not None and not odd:  # where FLAIR has another's name nothing can be told by it
            unlike = mismatch(images, looked.labels)
    own = there = None
    if looked.labels is not None and subject.convention is not None:
        own = layers(looked.labels)
        there = frozenset(
            name for value, name in enumerate(subject.convention.classes) if value and (looked.labels == value).any()
        )
    said = tuple(f"{subject.id}: {note}" for note in notes)
    return Findings(problems, values, digests, own, there, said, sketches, odd, unlike)


def _look(subject: Subject, contrast: str, scan: Scan) -> Problem | None:
    file = subject.images[contrast]
    if scan.data.dtype.kind == "f" and not (finite := np.isfinite(scan.data)).all():
        count = scan.data.size - np.count_nonzero(finite)
        return Problem(subject.id, file, f"{contrast} has {count} voxels that are NaN or infinite")
    if (low := scan.data.min()) == scan.data.max():
        return Problem(subject.id, file, f"{contrast} is empty: every voxel is {low}")
    if what := geometry.problem(scan):
        return Problem(subject.id, file, what)
    if what := background.problem(scan.data, spacing_mm=scan.spacing_mm):
        return Problem(subject.id, file, f"{contrast}: {what}")
    return None


def _classes(subject: Subject, mask: Scan | None) -> tuple[np.ndarray | None, list[Problem]]:
    if mask is None or subject.convention is None:
        return None, []
    inside = bounding_box(mask.data)
    classes = np.zeros_like(mask.data, np.uint8)
    try:
        classes[inside] = subject.convention.to_classes(mask.data[inside])
        return classes, []
    except ValueError as error:
        return None, [Problem(subject.id, subject.label, str(error))]


def _volume(scan: Scan, file: Path, channel: int | None) -> Scan:
    """The 3-D scan of one contrast. Raises ScanError when the file does not hold it."""
    if channel is None:
        if scan.data.ndim == 4 and scan.data.shape[3] > 1:
            raise ScanError(f"{file}: expected one volume (x, y, z), found shape {scan.data.shape}")
        return replace(scan, data=scan.data.reshape(scan.data.shape[:3], order="F"))
    if scan.data.ndim != 4 or scan.data.shape[3] <= channel:
        raise ScanError(
            f"{file}: expected at least {channel + 1} contrasts (x, y, z, contrast), found {scan.data.shape}"
        )
    return replace(scan, data=scan.data[..., channel])


def _read(
    subject: Subject, contrasts: Sequence[str]
) -> tuple[dict[str, Scan], Scan | None, dict[Path, ScanError | OSError]]:
    """Scans by contrast, mask, and the error of each file that gave none."""
    roles = {contrast: subject.images[contrast] for contrast in contrasts}
    if subject.label is not None:
        roles[LABEL] = subject.label
    failures: dict[Path, ScanError | OSError] = {}

    def attempt(file: Path) -> Scan | None:
        try:
            return nifti.read(file)
        except (ScanError, OSError) as error:
            failures[file] = error
            return None

    files = list(dict.fromkeys(roles.values()))
    with ThreadPoolExecutor(max_workers=len(files)) as pool:
        decoded = dict(zip(files, pool.map(attempt, files), strict=True))
    scans = {}
    for role, file in roles.items():
        if (scan := decoded[file]) is not None:
            try:
                scans[role] = _volume(scan, file, (subject.channels or {}).get(role))
            except ScanError as error:
                failures.setdefault(file, error)
    mask = scans.pop(LABEL, None)
    return scans, mask, failures


def _grid_difference(scan: Scan, shape: tuple[int, ...], affine: np.ndarray, other: str) -> str | None:
    if scan.data.shape != tuple(shape):
        return f"shape {scan.data.shape} differs from {tuple(shape)} of {other}"
    if (apart := geometry.apart_mm(shape, scan.affine, affine)) > geometry.GRID_TOLERANCE_MM:
        return (
            f"its affine places voxels up to {apart:.3g} mm from those of {other}: resample it to that grid, or where "
            f"its header alone is wrong, write it with the affine of {other}"
        )
    return None

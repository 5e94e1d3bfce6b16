"""Who is whom by the voxels: scans with equal content under several ids, and contrasts that are copies.

Names say which time points are one patient's (`common.subject`); they do not say that a scan comes again under another.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from common.nifti import Scan, to_axes
from common.volumes import bounding_box


class HasPatient(Protocol):
    """A dataclass with a field known_patient, as `common.subject.Subject` is."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...

    @property
    def patient(self) -> str: ...


S = TypeVar("S", bound=HasPatient)
# Fewer grey values make a drawing, not a scan: drawings of the same shape are alike without being copies.
MINIMUM_GREY_VALUES = 16
# Rounding a scan to 256 grey values leaves 0.9997; T1 before and after contrast agent reached 0.68 in four real brains.
COPY_CORRELATION = 0.999
# Of sketches: rounding to 256 grey values or noise leaves 0.9999, two of 22 patients of BraTS 2018 reach 0.97.
NEAR_CORRELATION = 0.995
_SKETCH_BLOCKS = 12
_SAMPLES = 2**17  # voxels that are compared: some 17000 of them lie in the brain


def content_digest(scan: Scan) -> str:
    """Hexadecimal digest of the grey values other than 0 and of how often each occurs.

    The same in another file format, compression, type, orientation or frame of zeros. Of grey values that repeat, as
    those of stored scans do, only how often each occurs in ascending order counts, so rescaling changes nothing either.
    """
    values, counts = scan.grey_values
    digest = hashlib.blake2b(counts.astype("<i8").tobytes(), digest_size=16)
    if not MINIMUM_GREY_VALUES <= len(values) <= counts.sum() // 2:
        digest.update(values.astype("<f8").tobytes())
    return digest.hexdigest()


def contents(scans: Mapping[str, Scan]) -> dict[str, str]:
    """Content digest of each contrast."""
    return {contrast: content_digest(scan) for contrast, scan in scans.items()}


def equal_content(digests: Mapping[str, Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Groups of two ids or more that share an image, directly or through others; digests: by id and contrast."""
    owners: dict[str, set[str]] = {}
    for subject, own in digests.items():
        for digest in own.values():
            owners.setdefault(digest, set()).add(subject)
    groups: list[set[str]] = []
    for group in (ids for ids in owners.values() if len(ids) > 1):
        touching = [other for other in groups if other & group]
        groups = [other for other in groups if not other & group] + [group.union(*touching)]
    return sorted(tuple(sorted(group)) for group in groups)


def sketch(scan: Scan) -> np.ndarray | None:
    """Means of 12 x 12 x 12 blocks of the brain's box, LPS, about 0 with length 1, float32; None of what is no scan."""
    image = to_axes(scan.data, scan.affine)
    image = image[bounding_box(image != 0)].astype(np.float64)
    if min(image.shape) < _SKETCH_BLOCKS or len(np.unique(image[::3, ::3, ::3])) < MINIMUM_GREY_VALUES:
        return None
    for axis, n in enumerate(image.shape):
        starts = np.arange(_SKETCH_BLOCKS) * n // _SKETCH_BLOCKS
        lengths = np.diff(starts, append=n).reshape([-1 if other == axis else 1 for other in range(3)])
        image = np.add.reduceat(image, starts, axis=axis) / lengths
    image -= image.mean()
    return (image / np.linalg.norm(image)).ravel().astype(np.float32)


def nearly_equal(sketches: Mapping[str, Mapping[str, np.ndarray]]) -> list[tuple[str, str, str]]:
    """Pairs of ids whose images of a contrast are alike beyond any two patients', and that contrast (the first)."""
    found: dict[tuple[str, str], str] = {}
    for contrast in dict.fromkeys(contrast for own in sketches.values() for contrast in own):
        ids = [subject for subject, own in sketches.items() if contrast in own]
        drawn = np.array([sketches[subject][contrast] for subject in ids])
        for one, other in np.argwhere(np.triu(drawn @ drawn.T > NEAR_CORRELATION, 1)):
            found.setdefault((ids[one], ids[other]), contrast)
    return [(*pair, contrast) for pair, contrast in sorted(found.items())]


def as_one_patient(subjects: Iterable[S], equal: Iterable[Iterable[str]]) -> list[S]:
    """The subjects (`common.subject.Subject`), those of equal content and all of their patients' as one patient's."""
    subjects = list(subjects)
    patient = {subject.id: subject.patient for subject in subjects}
    for group in equal:
        together = {patient[subject] for subject in group if subject in patient}
        patient = {subject: min(together) if own in together else own for subject, own in patient.items()}
    return [s if s.patient == patient[s.id] else replace(s, known_patient=patient[s.id]) for s in subjects]


def copied_contrasts(scans: Mapping[str, Scan]) -> dict[str, str]:
    """Contrasts that hold the image of one before them, be it rescaled, rounded or brighter by a constant: of which."""
    shapes = {scan.data.shape for scan in scans.values()}
    if len(shapes) != 1:
        return {}  # no common grid, which is a problem of its own
    sampled = {contrast: _sampled(scan.data) for contrast, scan in scans.items()}
    copies: dict[str, str] = {}
    for one, other in itertools.combinations(sampled, 2):
        if not {one, other} & set(copies) and _correlation(sampled[one], sampled[other]) > COPY_CORRELATION:
            copies[other] = one
    return copies


def masks_among(scans: Mapping[str, Scan]) -> dict[str, int]:
    """Contrasts that are masks by their values, a few whole numbers, beside others that are scans: how many values.

    Altogether such contrasts are a drawing, and of fewer than 1000 voxels nothing can be told.
    """
    few = {}
    for contrast, scan in scans.items():
        some = _sampled(scan.data)
        values = np.unique(some[some != 0])
        if (
            len(values) < MINIMUM_GREY_VALUES
            and (values == np.rint(values)).all()
            and np.count_nonzero(scan.data) > 999
        ):
            few[contrast] = len(values)
    return few if len(few) < len(scans) else {}


def _sampled(image: np.ndarray) -> np.ndarray:
    return image.ravel(order="F")[:: max(1, image.size // _SAMPLES)].copy()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of the voxels that are not 0 in both; 0 where there are too few grey values to tell."""
    inside = (a != 0) & (b != 0) & np.isfinite(a) & np.isfinite(b)
    a, b = a[inside].astype(np.float64), b[inside].astype(np.float64)
    if a.size < MINIMUM_GREY_VALUES:
        return 0.0
    # Of values near the end of the range nothing can be told, nor of one value only.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        correlation = float(np.corrcoef(a, b)[0, 1])
    # Counting grey values takes ten times longer, so only of what is alike.
    if correlation > COPY_CORRELATION and min(len(np.unique(a)), len(np.unique(b))) < MINIMUM_GREY_VALUES:
        return 0.0
    return correlation

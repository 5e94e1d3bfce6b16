"""What becomes of subjects whose masks may hold the resection cavity, where RC cannot be a class of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from common import nifti
from common.labels import ROUNDING, Cavity
from common.nifti import ScanError
from common.progress import counted
from common.subject import Subject


def decided(subjects: Sequence[Subject], cavity: Cavity) -> tuple[list[Subject], list[str]]:
    """The subjects without class RC, and the ids of those left out, as a user has decided; reads masks for leave-out.

    A mask that cannot be read stays, to be met as a problem of its subject.
    """
    concerned = [(s, own) for s in subjects if (own := s.convention) is not None and own.has_cavity]
    left_out: set[str] = set()
    if cavity == "leave-out":
        looks = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
            delayed(_holds)(s.label, own.rc) for s, own in concerned
        )
        shown = counted(looks, "looking for cavities", total=len(concerned), unit="mask")
        left_out = {s.id for (s, _), holds in zip(concerned, shown, strict=True) if holds}
    without = {s.id: replace(s, convention=replace(own, rc_is_background=True)) for s, own in concerned}
    return [without.get(s.id, s) for s in subjects if s.id not in left_out], sorted(left_out)


def _holds(file: Path, value: int) -> bool:
    try:
        mask = nifti.read(file).data
    except (ScanError, OSError):
        return False
    return bool((np.abs(mask - value) <= ROUNDING if mask.dtype.kind == "f" else mask == value).any())

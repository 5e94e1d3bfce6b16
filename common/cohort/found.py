"""What was found in a folder: files by subject and role, and what took no part."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.labels import LabelConvention
from common.subject import Problem
from common.walk import Trouble, composed, shown

SCANS = (".nii", ".nii.gz")
Claims = dict[str, dict[str, list[Path]]]  # subject -> contrast or label -> the files that claim to be it


class CohortError(ValueError):
    """A folder that cannot be read as a cohort; the message says what was looked for and what was found."""


@dataclass(frozen=True)
class Found:
    """A folder in one layout. channels: place of each contrast in a 4-D file; described: its dataset.json.

    left_out: scans whose names or formats have no place in the layout. kinds: what must be known of a subject's mask,
    where a layout has several. without_mask: subjects that have none by the collection's design. convention: that a
    mapping file names. patients: whose scans they are, where the ids do not tell. notes: on the choice of files.
    """

    layout: str
    claims: Claims
    problems: tuple[Problem, ...]
    channels: Mapping[str, int] | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[Path, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    without_mask: frozenset[str] = frozenset()
    convention: LabelConvention | None = None
    patients: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def of_no_subject(trouble: Trouble) -> Problem:
    """What a walk could not take, as a problem of the subject that its name is likely to be."""
    return Problem(
        re.sub(r"(_\d{4})?\.nii(\.gz)?$", "", composed(trouble.name), flags=re.IGNORECASE), trouble.path, trouble.what
    )


def stem(file: Path) -> str:
    """A scan's name without its suffix, as an id."""
    return re.sub(r"\.nii(\.gz)?$", "", composed(file.name), flags=re.IGNORECASE)


def listing(folder: Path) -> str:
    """The first names in a folder."""
    try:
        names = sorted(map(shown, os.listdir(folder)))
    except OSError as error:
        return f"that it cannot be listed ({error.strerror or error})"
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" or "an empty folder"

"""The one layout that a folder has."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.cohort.described import find_by_table
from common.cohort.found import CohortError, Found, listing
from common.cohort.names import FILE_NAMES, find_by_name

# What lies beside a known layout's scans and is taken for them: a name, and why it is none.
_NEAR = {
    re.compile(r"UPENN-GBM-\d+_\d+_(FLAIR|T1|T1GD|T2)_unstripped\.nii(\.gz)?"): (
        "the scans of UPENN-GBM with the skull; its masks and every network here belong to those in images_structural"
    ),
}


def find_files(folder: Path, convention: str | None, contrasts: Sequence[str]) -> Found:
    """The one layout that a folder has. convention: the name of the user's, which tells MSD's without a dataset.json.
    contrasts: that a dataset.json must name.

    Raises CohortError when it has none or several, or a dataset.json does not say what the files are.
    """
    found, problems, others = find_by_name(folder)
    if os.path.isdir(folder / "imagesTr"):
        found.append(find_by_table(folder, convention, contrasts))
    if len(found) == 1:
        return found[0]
    if found:
        raise CohortError(
            f"{folder}: expected files of one layout, found {' and '.join(_examples(found))}: files were renamed, or "
            "it holds several collections; name the folder of one, or say which files are meant (--layout)"
        )
    known = ", ".join(f"{layout} ({names.example})" for layout, names in sorted(FILE_NAMES.items()))
    raise CohortError(
        f"{folder}: expected one of {known}, MSD or nnU-Net (imagesTr), or any with a mapping file (--layout); found "
        + " and ".join([listing(folder), *map(str, problems[:5]), *_near(others)])
    )


def _examples(found: list[Found]) -> list[str]:
    """Each layout with a subject; where two layouts share one, with one of its files."""
    names = [next(iter(one.claims), "none") for one in found]
    shared = set(names[:1]).intersection(*(one.claims for one in found)) if found else set()
    for name in shared:
        names = [next(iter(one.claims[name].values()))[0].name for one in found]
    return [f"{one.layout} ({name})" for one, name in zip(found, names, strict=True)]


def _near(others: tuple[Path, ...]) -> list[str]:
    return [why for pattern, why in _NEAR.items() if any(pattern.fullmatch(file.name) for file in others)]

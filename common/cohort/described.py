"""Layouts that a dataset.json describes: MSD Task01 and nnU-Net raw (`imagesTr`, `labelsTr`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cohort.found import SCANS, Claims, CohortError, Found, listing, stem
from common.cohort.names import problem_of
from common.files import read_json
from common.labels import BRATS_2023, MSD
from common.subject import CONTRASTS, LABEL
from common.walk import walk

_CHANNEL_NAMES = {
    "FLAIR": {"flair", "t2flair", "t2f"},
    "T1": {"t1", "t1w", "t1n", "t1pre"},
    "T1ce": {"t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1cew", "t1post", "t1km"},
    "T2": {"t2", "t2w"},
}


def find_by_table(folder: Path, convention: str | None, wanted: Sequence[str]) -> Found:
    """MSD or nnU-Net, as its dataset.json says. wanted: contrasts that it must name."""
    walked, labels = walk(folder / "imagesTr", suffixes=SCANS), None
    if os.path.lexists(folder / "labelsTr"):
        labels = walk(folder / "labelsTr", suffixes=SCANS)
    images = walked.files
    numbered = [re.fullmatch(r"(.+)_(\d{4})", stem(file)) for file in images]
    if any(numbered) and not all(numbered):
        raise CohortError(
            f"{folder}: imagesTr mixes nnU-Net names (*_0000.nii.gz) with others, as {listing(folder / 'imagesTr')}"
        )
    layout = "nnU-Net" if any(numbered) else "MSD"
    table = folder / "dataset.json"
    described: dict[str, Any] = {}
    channels = dict(zip(CONTRASTS, range(4), strict=True))
    if table.is_file():
        try:
            described = read_json(table, dict)
        except (OSError, ValueError) as error:
            raise CohortError(str(error)) from error
        try:
            channels = _channels(described.get("channel_names", described.get("modality", {})), wanted)
        except ValueError as error:
            raise CohortError(f"{table}: {error}") from error
    elif layout == "nnU-Net" or convention != MSD.name:
        raise CohortError(
            f"{folder}: {layout} folder without a dataset.json, which says what its contrasts and labels are; "
            f"mask values 1, 2, 3 could be read as {BRATS_2023} or {MSD}"
        )
    claims: Claims = {}
    left_out: list[Path] = []
    contrasts: Sequence[str]
    for file, match in zip(images, numbered, strict=True):
        if match is None:
            contrasts, name = CONTRASTS, stem(file)
        else:
            contrasts, name = [c for c, index in channels.items() if index == int(match[2])], match[1]
        left_out += [] if contrasts else [file]
        for contrast in contrasts:
            claims.setdefault(name, {}).setdefault(contrast, []).append(file)
    for file in labels.files if labels else ():
        claims.setdefault(stem(file), {}).setdefault(LABEL, []).append(file)
    troubles = walked.troubles + (labels.troubles if labels else ())
    problems = tuple(map(problem_of, troubles))
    return Found(layout, claims, problems, None if layout == "nnU-Net" else channels, described, tuple(left_out))


def _channels(names: object, wanted: Sequence[str]) -> dict[str, int]:
    """Place of each contrast that the names of a dataset.json, {"0": "T1", ...} or a list, hold exactly once. Raises
    ValueError unless the wanted ones are among them."""
    if not isinstance(names, Mapping | Sequence):
        raise ValueError(f"expected the names of its channels by number, found {names!r}")
    items = names.items() if isinstance(names, Mapping) else enumerate(names)
    plain = {int(index): re.sub(r"[^a-z0-9]", "", str(name).lower()) for index, name in items}
    places = {c: [index for index, name in plain.items() if name in known] for c, known in _CHANNEL_NAMES.items()}
    once = {contrast: place[0] for contrast, place in places.items() if len(place) == 1 and place[0] >= 0}
    if not once.keys() >= set(wanted):
        raise ValueError(f"expected each of {', '.join(wanted)} once among its channel names, found {names}")
    return once

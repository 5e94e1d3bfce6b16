"""Which files of a folder claim to be which subject's contrast or mask, by the layouts that are known."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.labels import BRATS_2023, MSD
from common.subject import CONTRASTS, LABEL, Problem
from common.walk import Trouble, shown, walk

FILE_NAMES = {
    "BraTS 2018-2021": (
        re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?", re.IGNORECASE),
        dict(zip(("flair", "t1", "t1ce", "t2", "seg"), (*CONTRASTS, LABEL), strict=True)),
    ),
    "BraTS 2023": (
        re.compile(r"(.+)-(t2f|t1n|t1c|t2w|seg)\.nii(?:\.gz)?", re.IGNORECASE),
        dict(zip(("t2f", "t1n", "t1c", "t2w", "seg"), (*CONTRASTS, LABEL), strict=True)),
    ),
}
_STRAY_MASK = re.compile(
    r".+_Segm\.nii(?:\.gz)?", re.IGNORECASE
)  # BraTS 2020 case 355 has W39_1998.09.19_Segm.nii as its mask
_CHANNEL_NAMES = {
    "FLAIR": {"flair", "t2flair", "t2f"},
    "T1": {"t1", "t1w", "t1n", "t1pre"},
    "T1ce": {"t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1cew", "t1post", "t1km"},
    "T2": {"t2", "t2w"},
}
_SCANS = (".nii", ".nii.gz")
_OTHER_FORMATS = (".img", ".img.gz", ".nrrd", ".mha", ".mgz")
Claims = dict[str, dict[str, list[Path]]]  # subject -> contrast or label -> the files that claim to be it


class CohortError(ValueError):
    """A folder that cannot be read as a cohort; the message says what was looked for and what was found."""


@dataclass(frozen=True)
class Found:
    """A folder in one layout. channels: place of each contrast in a 4-D file; described: its dataset.json.

    left_out: scans whose names or formats have no place in the layout.
    """

    layout: str
    claims: Claims
    troubles: tuple[Trouble, ...]
    channels: Mapping[str, int] | None = None
    described: Mapping[str, object] = field(default_factory=dict)
    left_out: tuple[Path, ...] = ()

    @property
    def problems(self) -> list[Problem]:
        """What the walk could not take, each of the subject whose file or folder it is by its name."""
        return [_problem(trouble) for trouble in self.troubles]


def find_files(folder: Path, convention: str | None) -> Found:
    """The one layout that a folder has. convention: the name of the user's, which tells MSD's without a dataset.json.

    Raises CohortError when it has none or several, or a dataset.json does not say what the files are.
    """
    by_name, troubles, left_out = _find_by_name(folder)
    found = [Found(layout, claims, troubles, left_out=left_out) for layout, claims in by_name.items() if claims]
    if os.path.isdir(folder / "imagesTr"):
        found.append(_find_by_table(folder, convention))
    if len(found) != 1:
        examples = [f"{one.layout} ({next(iter(one.claims), 'none')})" for one in found]
        examples = examples or [_listing(folder), *(str(_problem(trouble)) for trouble in troubles[:5])]
        raise CohortError(
            f"{folder}: expected one of BraTS 2018-2021 (*_flair.nii.gz, _t1, _t1ce, _t2), BraTS 2023 (*-t2f.nii.gz, "
            f"-t1n, -t1c, -t2w), MSD or nnU-Net (imagesTr); found {' and '.join(examples)}"
        )
    return found[0]


def _find_by_name(folder: Path) -> tuple[dict[str, Claims], tuple[Trouble, ...], tuple[Path, ...]]:
    """Claims by layout, what the walk could not take, and the scans that are nobody's."""
    found: dict[str, Claims] = {layout: {} for layout in FILE_NAMES}
    by_folder: dict[Path, list[dict[str, list[Path]]]] = {}
    stray, left_out = [], []
    walked = walk(folder, suffixes=(*_SCANS, *_OTHER_FORMATS))
    for file in walked.files:
        # Some redistributions hold a folder X_flair.nii with a file of another name inside: the folder's name counts.
        for name in (file.parent.name, file.name):
            for layout, (pattern, roles) in FILE_NAMES.items():
                if match := pattern.fullmatch(name):
                    files = found[layout].setdefault(match[1], {})
                    files.setdefault(roles[match[2].lower()], []).append(file)
                    by_folder.setdefault(file.parent, []).append(files)
                    break
            else:
                continue
            break
        else:
            (stray if _STRAY_MASK.fullmatch(file.name) else left_out).append(file)
    for file in stray:
        owners = {id(files): files for files in by_folder.get(file.parent, [])}
        if len(owners) == 1:
            next(iter(owners.values())).setdefault(LABEL, []).append(file)
        else:
            left_out.append(file)
    return found, walked.troubles, tuple(left_out)


def _find_by_table(folder: Path, convention: str | None) -> Found:
    """MSD or nnU-Net, as its dataset.json says."""
    walked, labels = walk(folder / "imagesTr", suffixes=_SCANS), None
    if os.path.lexists(folder / "labelsTr"):
        labels = walk(folder / "labelsTr", suffixes=_SCANS)
    images = walked.files
    numbered = [re.fullmatch(r"(.+)_(\d{4})\.nii(?:\.gz)?", file.name, re.IGNORECASE) for file in images]
    if any(numbered) and not all(numbered):
        raise CohortError(
            f"{folder}: imagesTr mixes nnU-Net names (*_0000.nii.gz) with others, as {_listing(folder / 'imagesTr')}"
        )
    layout = "nnU-Net" if any(numbered) else "MSD"
    table = folder / "dataset.json"
    described: dict = {}
    channels = dict(zip(CONTRASTS, range(4), strict=True))
    if table.is_file():
        try:
            described = json.loads(table.read_text(encoding="utf-8-sig"))
            if not (isinstance(described, dict) and isinstance(described.get("labels", {}), dict)):
                raise ValueError("expected an object with an object of labels")
            channels = _channels(described.get("channel_names", described.get("modality", {})))
        except (OSError, ValueError, RecursionError) as error:
            raise CohortError(f"{table}: {error}") from error
    elif layout == "nnU-Net" or convention != MSD.name:
        raise CohortError(
            f"{folder}: {layout} folder without a dataset.json, which says what its contrasts and labels are; "
            f"mask values 1, 2, 3 could be read as {BRATS_2023} or {MSD}"
        )
    claims: Claims = {}
    left_out = []
    for file, match in zip(images, numbered, strict=True):
        if match is None:
            contrasts, name = CONTRASTS, _stem(file)
        else:
            contrasts, name = [c for c, index in channels.items() if index == int(match[2])], match[1]
        left_out += [] if contrasts else [file]
        for contrast in contrasts:
            claims.setdefault(name, {}).setdefault(contrast, []).append(file)
    for file in labels.files if labels else ():
        claims.setdefault(_stem(file), {}).setdefault(LABEL, []).append(file)
    troubles = walked.troubles + (labels.troubles if labels else ())
    return Found(layout, claims, troubles, None if layout == "nnU-Net" else channels, described, tuple(left_out))


def _channels(names: object) -> dict[str, int]:
    """Place of each contrast by the names of a dataset.json: {"0": "T1", ...} or a list. Raises ValueError unless each
    occurs exactly once."""
    if not isinstance(names, Mapping | Sequence):
        raise ValueError(f"expected the names of its channels by number, found {names!r}")
    items = names.items() if isinstance(names, Mapping) else enumerate(names)
    plain = {int(index): re.sub(r"[^a-z0-9]", "", str(name).lower()) for index, name in items}
    places = {c: [index for index, name in plain.items() if name in known] for c, known in _CHANNEL_NAMES.items()}
    if any(len(place) != 1 or place[0] < 0 for place in places.values()):
        raise ValueError(f"expected each of {', '.join(CONTRASTS)} once among its channel names, found {names}")
    return {contrast: place[0] for contrast, place in places.items()}


def _problem(trouble: Trouble) -> Problem:
    """What the walk could not take, as a problem of the subject whose file or folder it is by its name."""
    for pattern, _ in FILE_NAMES.values():
        if match := pattern.fullmatch(trouble.name):
            return Problem(match[1], trouble.path, trouble.what)
    return Problem(re.sub(r"(_\d{4})?\.nii(\.gz)?$", "", trouble.name, flags=re.IGNORECASE), trouble.path, trouble.what)


def _stem(file: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", file.name, flags=re.IGNORECASE)


def _listing(folder: Path) -> str:
    try:
        names = sorted(map(shown, os.listdir(folder)))
    except OSError as error:
        return f"that it cannot be listed ({error.strerror or error})"
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" or "an empty folder"

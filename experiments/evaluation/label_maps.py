"""A method's label maps in a folder: which case each of them is of, and what its values mean."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import nifti
from common.cohort.found import stem
from common.cohort.names import FILE_NAMES
from common.files import read_json
from common.labels import (
    CONVENTIONS,
    READ_OTHERWISE,
    LabelConvention,
    convention_from_names,
    convention_of_id,
    infer_convention,
)
from common.nifti import ScanError
from common.subject import LABEL
from common.walk import composed, shown, walk
from experiments.base.options import Refused

SUFFIXES = (".nii", ".nii.gz")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*(?:_[A-Za-z0-9.+-]+)*")
"""Of a method: part of files' and results' names, in which two underscores divide."""
LONGEST_NAME = 60
ID = "id"
"""Stands in braces for a case, in a path to label maps."""
LAYOUTS = {"_": "BraTS 2018-2021", "-": "BraTS 2023"}
"""By what stands between a case's id and ``seg``."""
OF_PHANTOMS = "its network has seen synthetic phantoms only; what it makes of patients is no result"
TABLE, RECORD = "dataset.json", "predictions.json"
LOOKED_AT = 3
"""Label maps whose values are named where nothing says what they mean."""


@dataclass(frozen=True)
class Method:
    """A method's label maps. files, conventions: by case. ground: how their values are read, and why.

    surplus: label maps of other cases, by file name. scans: further files that take no part. training: what made its
    networks, in a sentence. of_phantoms: these have seen synthetic phantoms only, as its predictions.json says. run:
    the folder or file of its network, as that says. seen: cases that it was trained or validated on.
    """

    name: str
    source: Path
    files: Mapping[str, Path]
    conventions: Mapping[str, LabelConvention]
    ground: str
    surplus: tuple[str, ...] = ()
    scans: int = 0
    training: str = "its training is not known to the suite, nor whether it has seen these patients"
    of_phantoms: bool = False
    run: Path | None = None
    seen: frozenset[str] = frozenset()

    def without_cavity(self) -> "Method":
        """The same, the resection cavity read as background."""
        return replace(self, conventions={case: _without_cavity(each) for case, each in self.conventions.items()})


def _without_cavity(convention: LabelConvention) -> LabelConvention:
    return convention if convention.rc is None else replace(convention, rc_is_background=True)


def named(given: str, *, option: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE. Raises Refused for anything else, or for a name that no file can bear."""
    name, _, value = given.partition("=")
    if not value or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise Refused(
            f"expected {option} NAME=... with a name of letters, digits, single underscores, -, + and ., received "
            f"{given!r}"
        )
    return name, value


def plain(text: str) -> str:
    """A text as a part of a method's name."""
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text).strip("-.+") or "run"


def find(
    name: str, place: Path, cases: Collection[str], convention: str | None, *, option: str = "--convention"
) -> Method:
    """A method's label maps of the cases: ``CASE.nii.gz``, ``CASE_seg.nii.gz`` or ``CASE-seg.nii.gz``, at any depth.

    place: a folder, or a path in which ``{id}`` stands for the case, as ``maps/{id}/seg.nii.gz``. option: by which the
    user names a convention.
    convention: the name of one, as the user says. Otherwise a dataset.json beside the label maps (nnU-Net's output; of
    a folder ``labels…`` also above it), a predictions.json (of this suite's predict) or BraTS's names say what the
    values mean, as of a cohort's masks.
    Raises Refused when there are none, two for one case, or their values cannot be told for certain.
    """
    folder, pattern = _parted(name, place)
    if not os.path.isdir(folder):
        raise Refused(f"{folder}: expected a folder of {name}'s label maps, found no folder")
    claims: dict[str, list[Path]] = {}
    layouts: dict[str, str | None] = {}
    surplus, scans = [], 0
    walked = walk(folder, suffixes=SUFFIXES)
    for file in walked.files:
        own = stem(file)
        with_seg = re.fullmatch(r"(.+)([_-])seg", own, re.IGNORECASE)
        if pattern is not None:
            placed = pattern.fullmatch(composed(file.relative_to(folder).as_posix()))
            if placed is None:
                scans += 1
            elif placed[ID] in cases:
                claims.setdefault(placed[ID], []).append(file)
                layouts[placed[ID]] = None
            else:
                surplus.append(shown(file.relative_to(folder)))
        elif own in cases:
            claims.setdefault(own, []).append(file)
            layouts[own] = None
        elif with_seg and with_seg[1] in cases:
            claims.setdefault(with_seg[1], []).append(file)
            layouts[with_seg[1]] = LAYOUTS[with_seg[2]]
        elif _is_contrast(file.name):
            scans += 1
        else:
            surplus.append(shown(file.relative_to(folder)))
    if walked.troubles:
        raise Refused("\n".join(f"{shown(trouble.path)}: {trouble.what}" for trouble in walked.troubles))
    if not claims:
        example = min(cases)
        others = f"{', '.join(surplus[:3])}{', ...' * (len(surplus) > 3)}"
        there = f"{len(surplus)} with other names: {others}" if surplus else f"{scans} other files"
        if not (surplus or scans):
            there = "no file that ends in .nii or .nii.gz"
        usual = f"{example}.nii.gz, {example}_seg.nii.gz or {example}-seg.nii.gz; other names: {name}=FOLDER/{{id}}/..."
        wanted = usual if pattern is None else str(place).replace(f"{{{ID}}}", example)
        raise Refused(f"{folder}: expected {name}'s label maps, named as the cohort's cases ({wanted}), found {there}")
    if twice := [files for files in claims.values() if len(files) > 1]:
        listed = "; ".join(" and ".join(str(file.relative_to(folder)) for file in files) for files in twice[:3])
        raise Refused(f"{folder}: expected one label map of each case, found several of {len(twice)}: {listed}")
    files = {case: claims[case][0] for case in sorted(claims)}
    conventions, ground = _conventions(name, folder, files, layouts, convention, option)
    found = Method(name, folder, files, conventions, ground, tuple(surplus), scans)
    record = read_json(folder / RECORD, dict) if (folder / RECORD).is_file() else {}
    of_run = folder.parent if (folder.parent / "split.json").is_file() else None  # its test part's
    found = replace(found, run=Path(record["run"]) if "run" in record else of_run)
    return replace(found, of_phantoms=True, training=OF_PHANTOMS) if record.get("synthetic") else found


def _parted(name: str, place: Path) -> tuple[Path, re.Pattern[str] | None]:
    """The folder to look through, and what the paths below it must fit where ``{id}`` stands in the place."""
    parts = place.parts
    first = next((number for number, part in enumerate(parts) if f"{{{ID}}}" in part), None)
    if first is None:
        return place, None
    if not place.name.lower().endswith(SUFFIXES):
        raise Refused(f"{place}: expected {name}'s path with {{{ID}}} to end in .nii or .nii.gz")
    text = re.escape(composed("/".join(parts[first:]))).replace(re.escape(f"{{{ID}}}"), f"(?P<{ID}>[^/]+)", 1)
    return Path(*parts[:first]), re.compile(text.replace(re.escape(f"{{{ID}}}"), f"(?P={ID})"))


def _is_contrast(name: str) -> bool:
    """Whether a file is named as a scan of one of BraTS's layouts."""
    found = [(names.match(name), names.words) for names in FILE_NAMES.values()]
    return any(matched and words[matched[1]] != LABEL for matched, words in found)


def _conventions(
    name: str,
    folder: Path,
    files: Mapping[str, Path],
    layouts: Mapping[str, str | None],
    wanted: str | None,
    option: str,
) -> tuple[dict[str, LabelConvention], str]:
    if wanted is not None and wanted not in CONVENTIONS:
        raise Refused(f"expected {option} {name}= one of {', '.join(CONVENTIONS)}, received {wanted!r}")
    chosen, ground = CONVENTIONS.get(wanted or ""), "as the user says"
    table = _table(folder)
    if table is not None:
        try:
            described = _described(table)
        except (OSError, ValueError) as error:
            if chosen is None:
                raise Refused(f"{error}; {_choice(option, name)}") from error
            described = chosen
        if chosen is not None and chosen.values != described.values:
            raise Refused(f"{table}: says {described}, which contradicts {option} {name}={wanted}")
        chosen, ground = described, ground if wanted else f"by {table.name}"
    by_name, why = {}, ""
    for case in files:
        try:
            if (layout := layouts[case]) is not None:
                by_name[case] = convention_of_id(layout, case)[0]
        except ValueError as error:
            why = why or str(error)
    if chosen is not None:
        others = {str(each) for each in by_name.values() if each.values != chosen.values}
        if others and wanted is None:
            raise Refused(
                f"{folder}: {table.name} says {chosen}, and the names of its files {others.pop()}; "
                f"{_choice(option, name)}"
            )
        _require_fitting(name, folder, files, dict.fromkeys(files, chosen), option)
        return dict.fromkeys(files, chosen), f"{chosen}, {ground}"
    if missing := [case for case in files if case not in by_name]:
        what = why or _unsettled(files, missing)
        if (folder.parent / "split.json").is_file():
            what += f"; they are a run's own, which --runs-of {folder.parent} reads with all that is known of them"
        raise Refused(f"{folder}: {what}; {_choice(option, name, what)}")
    _require_fitting(name, folder, files, by_name, option)
    return by_name, f"{' or '.join(sorted({str(each) for each in by_name.values()}))}, by their names"


def _require_fitting(
    name: str, folder: Path, files: Mapping[str, Path], conventions: Mapping[str, LabelConvention], option: str
) -> None:
    """Raises Refused where most of the first label maps hold values of another convention, before any is scored."""
    looked = list(files)[:LOOKED_AT]
    said = []
    for case in looked:
        try:
            conventions[case].to_classes(nifti.read(files[case]).data)
        except (ScanError, OSError):
            continue  # said with the case when it is met
        except ValueError as error:
            if READ_OTHERWISE in str(error):
                said.append(f"{files[case].name}: {error}")
    if 2 * len(said) > len(looked):
        convention = conventions[looked[0]]
        choice = _choice(option, name, said[0].partition(READ_OTHERWISE)[2])
        raise Refused(f"{folder}: expected {name}'s values as in {convention}, found in {said[0]}; {choice}")


def _table(folder: Path) -> Path | None:
    """The file that says what a folder's label maps hold."""
    places = [folder / TABLE, folder / RECORD]
    if folder.resolve().name.startswith("labels"):
        places.append(folder.parent / TABLE)
    return next((place for place in places if place.is_file()), None)


def _described(table: Path) -> LabelConvention:
    """What such a file says. Raises ValueError, which names it, where it says nothing that is known."""
    labels = read_json(table, dict).get("labels", {})
    if isinstance(labels, str) and labels in CONVENTIONS:
        return CONVENTIONS[labels]
    try:
        return convention_from_names(labels)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from error


def _choice(option: str, name: str, said: str = "") -> str:
    """How to name a method's convention, of those that the sentence before names, where it names any."""
    fitting = [each for each in CONVENTIONS if f"{each} (" in said] or list(CONVENTIONS)
    first, *others = sorted(fitting, key=lambda each: each != "brats2023")
    return f"where you know it: {option} {name}={first}" + (f" (or {', '.join(others)})" if others else "")


def _unsettled(files: Mapping[str, Path], cases: list[str]) -> str:
    """What the values of some label maps leave open."""
    values: set[int] = set()
    try:
        for case in cases[:LOOKED_AT]:
            values |= set(np.unique(nifti.read(files[case]).data).tolist())
        infer_convention("plain", values)
    except (ScanError, ValueError) as error:
        return str(error)
    raise AssertionError("a folder's values alone settle nothing")

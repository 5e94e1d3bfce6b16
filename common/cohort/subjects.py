"""The subjects in a folder of scans, whatever its layout.

Layouts: BraTS 2018-2021, BraTS 2023 and later, UCSF-PDGM and UPENN-GBM (told by file names, at any depth), MSD Task01
and nnU-Net raw (`imagesTr`, `labelsTr`, `dataset.json`). What cannot be told for certain is refused with every possible
reading named, unless the caller names the label convention. Finding opens no scan: a mask that contradicts its layout
is met when it is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.cohort.found import CohortError
from common.cohort.layout import find_files
from common.labels import (
    BY_FILE_NAMES,
    CONVENTIONS,
    LabelConvention,
    convention_of_id,
    infer_convention,
)
from common.splits import read_patients
from common.subject import CONTRASTS, LABEL, Problem, Subject
from common.walk import shown

_FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that begins so


@dataclass(frozen=True)
class Cohort:
    """Subjects sorted by id, all of them with four contrasts.

    incomplete: what kept other subjects out of it. notes: how its masks are read, and why; scans left out.
    """

    folder: Path
    layout: str
    subjects: tuple[Subject, ...]
    incomplete: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def find_subjects(
    folder: str | Path,
    *,
    convention: str | None = None,
    max_subjects: int | None = None,
    patients: str | Path | None = None,
    masks: bool = True,
) -> Cohort:
    """Find the subjects in a folder. convention: a name in CONVENTIONS, where the folder alone does not settle it.

    max_subjects: the first so many by id. patients: a CSV with the columns id and patient, where the ids do not tell
    which scans are one patient's. A folder without a single mask is a validation set: label is None. masks: False takes
    any folder for one, so that subjects need no mask.
    Raises CohortError when no layout or more than one is found, no subject is complete, the contrasts or labels of
    the files cannot be told for certain, or the table of patients cannot be used.
    """
    folder = Path(folder)
    if convention is not None and convention not in CONVENTIONS:
        raise CohortError(f"unknown label convention {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    if max_subjects is not None and max_subjects < 1:
        raise CohortError(f"max_subjects must be at least 1, received {max_subjects}")
    if not os.path.isdir(folder):
        raise CohortError(f"{folder}: expected a folder of scans, found no folder")
    if shown(folder.resolve()) != str(folder.resolve()):
        raise CohortError(f"{shown(folder.resolve())}: expected a folder whose path is plain text (UTF-8): rename it")
    found = find_files(folder, convention)
    layout, claims = found.layout, found.claims
    problems = list(found.problems)
    if not masks:
        claims = {name: {role: files[role] for role in files if role != LABEL} for name, files in claims.items()}
    has_labels = any(LABEL in files for files in claims.values())
    settled, reasons, undecided = {}, {}, {}
    if has_labels:
        chosen = CONVENTIONS.get(convention or "")
        settled, reasons, undecided = _conventions(folder, layout, claims, found.described, chosen)
    subjects, unlabelled = [], 0
    for name, files in sorted(claims.items()):
        if max_subjects is not None and len(subjects) == max_subjects:
            break
        if has_labels and LABEL not in files and name in found.without_mask:
            unlabelled += 1
        elif what := list(_incomplete(name, files, has_labels)):
            problems += what
        elif name in undecided:
            problems.append(Problem(name, files[LABEL][0], undecided[name]))
        else:
            label = files[LABEL][0] if LABEL in files else None
            images = {contrast: files[contrast][0] for contrast in CONTRASTS}
            subjects.append(Subject(name, images, label, settled.get(name) if label else None, found.channels))
    if not subjects:
        why = "; ".join(map(str, problems)) or "there is none"
        raise CohortError(f"{folder}: looks like {layout}, but no subject is complete: {why}")
    if patients is not None:
        try:
            known = read_patients(patients, [subject.id for subject in subjects])
        except ValueError as error:
            raise CohortError(str(error)) from error
        subjects = [replace(subject, known_patient=known[subject.id]) for subject in subjects]
    kinds = {name: f"{note}, {found.masks[name]}" if name in found.masks else note for name, note in reasons.items()}
    counts = Counter(kinds[subject.id] for subject in subjects if subject.label)
    notes = [f"{n} masks are read as {note}" for note, n in sorted(counts.items())] + [*found.notes]
    if unlabelled:
        notes.append(f"{unlabelled} scans take no part: {layout} has no masks of them")
    if found.left_out:
        names = ", ".join(str(file.relative_to(folder)) for file in found.left_out[:3])
        notes.append(
            f"{len(found.left_out)} other scans take no part, as their names or formats have no place: {names}"
            + ", ..." * (len(found.left_out) > 3)
        )
    return Cohort(folder, layout, tuple(subjects), tuple(problems), tuple(notes))


def _conventions(
    folder: Path, layout: str, names: Iterable[str], described: Mapping, chosen: LabelConvention | None
) -> tuple[dict[str, LabelConvention], dict[str, str], dict[str, str]]:
    """By id: the convention of its mask, on what ground, or why there is none. chosen: the one that the user named.

    Raises CohortError where no mask has one, or the user's contradicts a dataset.json.
    """
    if layout in BY_FILE_NAMES and chosen is None:
        settled, reasons, undecided = {}, {}, {}
        for name in sorted(names):
            try:
                settled[name], ground = convention_of_id(layout, name)
                reasons[name] = f"{settled[name]}, by their names: {ground}"
            except ValueError as error:
                undecided[name] = f"the values of its mask cannot be told for certain: {error}"
        if not settled:
            what = next(iter(undecided.values())).replace("its mask", "the masks")
            raise CohortError(f"{folder}: {what}; where you know that they are those of a convention, name it")
        return settled, reasons, undecided
    ground = "as the user says"
    if layout not in BY_FILE_NAMES and (chosen is None or "labels" in described):
        try:
            inferred = infer_convention(layout, names=described.get("labels"))
            ground = "by dataset.json"
        except ValueError as error:
            if chosen is None:
                raise CohortError(f"{folder}: {error}") from error
            inferred = chosen
        if chosen is not None and chosen.values != inferred.values:
            raise CohortError(
                f"{folder}: dataset.json says {inferred}, which contradicts the named convention {chosen}"
            )
        chosen = inferred
    return dict.fromkeys(names, chosen), dict.fromkeys(names, f"{chosen}, {ground}"), {}


def _incomplete(name: str, files: Mapping[str, Sequence[Path]], has_labels: bool) -> Iterator[Problem]:
    """What keeps a subject out of the cohort, from its files' names alone."""
    if name.startswith(_FORMULA):
        yield Problem(
            name, None, f"expected an id that begins with no {name[0]}, as spreadsheets compute it: rename it"
        )
    if missing := [contrast for contrast in CONTRASTS if contrast not in files]:
        yield Problem(name, None, f"missing {', '.join(missing)}; found {', '.join(files)}")
    if has_labels and LABEL not in files:
        yield Problem(name, None, "missing its mask, which other subjects of the cohort have")
    folders: dict[tuple[Path, ...], None] = {}
    for role, claimants in files.items():
        parents = tuple(dict.fromkeys(path.parent for path in claimants))
        if len(parents) > 1:
            folders[parents] = None
        elif len(claimants) > 1:
            names = ", ".join(path.name for path in claimants)
            yield Problem(name, claimants[0], f"{len(claimants)} files claim to be its {role}: {names}")
    for parents in folders:
        yield Problem(name, None, f"duplicate id, its files lie in {' and in '.join(map(str, parents))}")

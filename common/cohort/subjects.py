"""The subjects in a folder of scans, whatever its layout.

Layouts: BraTS 2018-2021, BraTS 2023 and later, UCSF-PDGM and UPENN-GBM (told by file names, at any depth), MSD Task01
and nnU-Net raw (`imagesTr`, `labelsTr`, `dataset.json`), or what a mapping file describes. What cannot be told for
certain is refused with every possible reading named, unless the caller names the label convention. Finding opens no
scan (a mask that contradicts its layout is met when it is read), but the masks where some are to be left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.cohort.cavity import decided
from common.cohort.found import CohortError, Found
from common.cohort.layout import find_files
from common.cohort.mapping import find_by_mapping, read_mapping
from common.cohort.own_tables import read_patients
from common.identity import as_one_patient
from common.labels import (
    BY_FILE_NAMES,
    CONVENTIONS,
    Cavity,
    LabelConvention,
    convention_of_id,
    infer_convention,
)
from common.subject import CONTRASTS, LABEL, Problem, Subject
from common.walk import shown
from common.words import listed, plural

_SHOWN = 20
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes a cell that begins so


@dataclass(frozen=True)
class Cohort:
    """Subjects sorted by id, all of them with every contrast that was asked for.

    incomplete: what kept other subjects out of it. notes: how its masks are read, and why; scans left out. cavities:
    subjects that were left out for the resection cavity in their masks.
    """

    folder: Path
    layout: str
    subjects: tuple[Subject, ...]
    incomplete: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    cavities: tuple[str, ...] = ()

    @property
    def with_cavity(self) -> int:
        """Number of subjects in whose masks RC would be a class of its own."""
        return sum(subject.convention is not None and subject.convention.has_cavity for subject in self.subjects)


def find_subjects(
    folder: str | Path,
    *,
    layout: str | Path | None = None,
    convention: str | None = None,
    cavity: Cavity | None = None,
    max_subjects: int | None = None,
    patients: str | Path | None = None,
    contrasts: Sequence[str] = CONTRASTS,
    masks: bool = True,
) -> Cohort:
    """Find the subjects in a folder. convention: a name in CONVENTIONS, where the folder alone does not settle it.

    layout: a mapping file (`common.cohort.mapping`), for a folder in none of the known layouts. cavity: what becomes of
    the resection cavity; by default RC is a class of its own where masks have it. max_subjects: the first so many by
    id. patients: a CSV with the columns id and patient, where the ids do not tell which scans are one patient's.
    contrasts: that each subject must have; others are not looked at. A folder without a single mask is a validation
    set: label is None. masks: False takes any folder for one, so that subjects need no mask.
    Raises CohortError when no layout or more than one is found, no subject is complete, the contrasts or labels of
    the files cannot be told for certain, or the mapping file or table of patients cannot be used.
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
    if layout is None:
        found = find_files(folder, convention, contrasts)
    else:
        found = find_by_mapping(folder, read_mapping(layout, contrasts), contrasts, masks=masks)
    roles, problems = (*contrasts, *([LABEL] if masks else [])), list(found.problems)
    claims = {name: {role: files[role] for role in files if role in roles} for name, files in found.claims.items()}
    has_labels = any(LABEL in files for files in claims.values())
    settled: Mapping[str, LabelConvention | None] = {}
    grounds: Mapping[str, str] = {}
    undecided: Mapping[str, str] = {}
    if has_labels:
        settled, grounds, undecided = _conventions(folder, found, CONVENTIONS.get(convention or ""))
    subjects: list[Subject] = []
    unlabelled = 0
    for name, files in sorted(claims.items()):
        if max_subjects is not None and len(subjects) == max_subjects:
            break
        if has_labels and LABEL not in files and name in found.without_mask:
            unlabelled += 1
        elif what := list(_incomplete(name, files, contrasts, has_labels)):
            problems += what
        elif name in undecided:
            problems.append(Problem(name, files[LABEL][0], undecided[name]))
        else:
            label = files[LABEL][0] if LABEL in files else None
            images = {contrast: files[contrast][0] for contrast in contrasts}
            own = settled.get(name) if label else None
            subjects.append(Subject(name, images, label, own, found.channels, found.patients.get(name)))
    if not subjects:
        why = "; ".join(map(str, problems[:_SHOWN])) or "there is none"
        why += f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        other = "" if layout is not None else "; a folder in another layout needs a mapping file (--layout)"
        raise CohortError(f"{folder}: looks like {found.layout}, but no subject is complete: {why}{other}")
    cavities: list[str] = []
    if cavity is not None:
        subjects, cavities = decided(subjects, cavity)
        if not subjects:
            raise CohortError(
                f"{folder}: expected subjects without a resection cavity (RC), all {len(cavities)} have one"
            )
    if patients is not None:
        known = read_patients(patients, [subject.id for subject in subjects])
        subjects = [replace(subject, known_patient=known[subject.id]) for subject in subjects]
    alike = [] if patients is not None else _alike_but_for_case(subjects)
    subjects = as_one_patient(subjects, alike)
    notes = _notes(found, subjects, grounds, folder)
    notes += _own_folder(folder, subjects)
    if alike:
        said = listed([" and ".join(group) for group in alike])
        notes.append(f"ids of one patient but for capital letters are taken as one patient's: {said}")
    if unlabelled:
        notes.append(f"{plural(unlabelled, 'scan takes', 'scans take')} no part: {found.layout} has no masks of them")
    if cavities:
        who = plural(
            len(cavities), "subject takes no part, as its mask holds", "subjects take no part, as their masks hold"
        )
        notes.append(f"{who} the resection cavity (RC)")
    return Cohort(folder, found.layout, tuple(subjects), tuple(problems), tuple(notes), tuple(cavities))


def _own_folder(folder: Path, subjects: Sequence[Subject]) -> Iterator[str]:
    """That a folder is the only patient's own, where others lie beside it."""
    place = folder.resolve()
    if len(subjects) == 1 and all(file.resolve().parent == place for file in subjects[0].images.values()):
        try:
            with os.scandir(place.parent) as entries:
                beside = sum(entry.is_dir() for entry in entries) - 1
        except OSError:
            return  # of a folder that must not be listed nothing is known
        if beside:
            others = plural(beside, "other lies", "others lie")
            yield f"{place.name} is one patient's own folder, and {others} beside it"


def _alike_but_for_case(subjects: Iterable[Subject]) -> list[list[str]]:
    """Ids by patient, of those whose names differ by case only. Most likely they are one patient, and where they are
    not, nothing is lost with them on one side of a split; names of others must not change, as splits depend on them."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.patient.casefold(), []).append(subject)
    return [[s.id for s in group] for group in groups.values() if len({s.patient for s in group}) > 1]


def _notes(found: Found, subjects: Iterable[Subject], grounds: Mapping[str, str], folder: Path) -> list[str]:
    """How the masks are read, and which files take no part."""
    read = Counter(
        ", ".join(filter(None, [f"{s.convention}, {grounds[s.id]}", found.kinds.get(s.id)]))
        for s in subjects
        if s.label
    )
    notes = [f"{plural(n, 'mask is', 'masks are')} read as {how}" for how, n in sorted(read.items())] + [*found.notes]
    if found.left_out:
        names = ", ".join(str(file.relative_to(folder)) for file in found.left_out[:3])
        notes.append(
            f"{plural(len(found.left_out), 'other scan takes', 'other scans take')} no part, as their names or "
            f"formats have no place: {names}" + ", ..." * (len(found.left_out) > 3)
        )
    return notes


def _conventions(
    folder: Path, found: Found, chosen: LabelConvention | None
) -> tuple[Mapping[str, LabelConvention | None], Mapping[str, str], Mapping[str, str]]:
    """By id: the convention of its mask, on what ground, or why there is none. chosen: the one that the user named.

    Raises CohortError where no mask has one, or the user's contradicts a dataset.json or a mapping file.
    """
    layout, names = found.layout, sorted(found.claims)
    if layout in BY_FILE_NAMES and chosen is None:
        settled, grounds, undecided = {}, {}, {}
        for name in names:
            try:
                settled[name], ground = convention_of_id(layout, name)
                grounds[name] = f"by their names: {ground}"
            except ValueError as error:
                undecided[name] = f"the values of its mask cannot be told for certain: {error}"
        if not settled:
            what = next(iter(undecided.values())).replace("its mask", "the masks")
            raise CohortError(f"{folder}: {what}; where you know that they are those of a convention, name it")
        return settled, grounds, undecided
    said, ground, source = None, "as the user says", "dataset.json"
    if found.convention is not None:
        said, source = found.convention, layout
    elif layout not in BY_FILE_NAMES and (chosen is None or "labels" in found.described):
        try:
            said = infer_convention(layout, names=found.described.get("labels"))
        except ValueError as error:
            if chosen is None:
                raise CohortError(f"{folder}: {error}") from error
    if said is not None:
        if chosen is not None and chosen.values != said.values:
            raise CohortError(
                f"{folder}: {source} says {said}, which contradicts the named convention {chosen}: correct one of them"
            )
        chosen, ground = said, f"by {source}"
    return dict.fromkeys(names, chosen), dict.fromkeys(names, ground), {}


def _incomplete(
    name: str, files: Mapping[str, Sequence[Path]], contrasts: Sequence[str], has_labels: bool
) -> Iterator[Problem]:
    """What keeps a subject out of the cohort, from its files' names alone."""
    if name.startswith(_FORMULA):
        yield Problem(
            name, None, f"expected an id that begins with no {name[0]}, as spreadsheets compute it: rename it"
        )
    if missing := [contrast for contrast in contrasts if contrast not in files]:
        yield Problem(name, None, f"missing {', '.join(missing)}; found {', '.join(files) or 'none of them'}")
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

"""Find the subjects in a folder of scans, whatever its layout, and name everything that is wrong with them.

Layouts: BraTS 2018-2021 and BraTS 2023 (told by file names, at any depth), MSD Task01 and nnU-Net raw (`imagesTr`,
`labelsTr`, `dataset.json`). What cannot be told for certain is refused with every possible reading named, unless the
caller names the label convention. Finding opens no scan: a mask that contradicts its layout is met when it is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from common.identity import equal_content, nearly_equal
from common.labels import (
    BY_FILE_NAMES,
    CONVENTIONS,
    LabelConvention,
    convention_of_id,
    infer_convention,
)
from common.layouts import CohortError, find_files
from common.plausibility import absences, doubts
from common.splits import read_patients
from common.subject import CONTRASTS, LABEL, Problem, Subject, examine
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


@dataclass(frozen=True)
class Audit:
    """What a look at every voxel found.

    problems: sorted by subject. equal: groups of good subjects that hold the same scan under several ids. notes: what
    is odd in the images, and what contradicts the anatomy in most masks.
    """

    problems: tuple[Problem, ...]
    equal: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def audit(cohort: Cohort, *, n_jobs: int = 1) -> Audit:
    """Everything wrong with a cohort, all subjects at once; reads every voxel (n_jobs threads).

    When masks contradict the layout's label convention and no mask in the whole cohort confirms it (BraTS 2018-2021
    names, but ET stored as 3), masks without ET are as doubtful as those with it and are listed too.
    """
    checks = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(examine)(subject) for subject in cohort.subjects
    )
    problems, values, digests, sketches = list(cohort.incomplete), set(), {}, {}
    masks, classes, notes = [], [], []
    progress = tqdm(checks, total=len(cohort.subjects), desc="checking", unit="subject", leave=False)
    for subject, found in zip(cohort.subjects, progress, strict=True):
        problems += found.problems
        values |= found.values
        digests[subject.id] = found.contents
        sketches[subject.id] = found.sketches
        masks += [found.layers] if found.layers else []
        classes += [] if found.classes is None else [found.classes]
        notes += found.notes
    convention = BY_FILE_NAMES.get(cohort.layout)
    bad = {problem.subject for problem in problems}
    doubtful = [s for s in cohort.subjects if s.label and s.convention == convention and s.id not in bad]
    if convention is not None and doubtful and convention.et not in values:
        try:
            infer_convention(cohort.layout, values)
        except ValueError as error:
            problems += [Problem(s.id, s.label, f"in the cohort as a whole, {error}") for s in doubtful]
    problems.sort(key=lambda problem: (problem.subject, str(problem.file), problem.what))
    equal = equal_content(digests)
    notes += [
        f"{one} and {other}: {contrast} is nearly equal, as of one scan stored or processed in two ways; a table of "
        "patients keeps them on one side of a split"
        for one, other, contrast in nearly_equal(sketches)
        if not any({one, other} <= set(group) for group in equal)
    ]
    return Audit(tuple(problems), tuple(equal), (*notes, *absences(classes), *doubts(masks)))


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
    which scans are one patient's. A folder without a single mask is a validation set: label is None, as it is for
    every subject where masks are not wanted.
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
    if not masks:
        claims = {name: {what: at for what, at in files.items() if what != LABEL} for name, files in claims.items()}
    problems = found.problems
    has_labels = any(LABEL in files for files in claims.values())
    settled, reasons, undecided = {}, {}, {}
    if has_labels:
        chosen = CONVENTIONS.get(convention or "")
        settled, reasons, undecided = _conventions(folder, layout, claims, found.described, chosen)
    subjects = []
    for name, files in sorted(claims.items()):
        if max_subjects is not None and len(subjects) == max_subjects:
            break
        if what := list(_incomplete(name, files, has_labels)):
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
    counts = Counter(reasons[subject.id] for subject in subjects if subject.id in reasons)
    notes = [f"{n} masks are read as {note}" for note, n in sorted(counts.items())]
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

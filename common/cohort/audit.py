"""Everything that is wrong with a cohort, from a look at every voxel."""

from __future__ import annotations

from dataclasses import dataclass

from joblib import Parallel, delayed

from common.cohort.subjects import Cohort
from common.identity import equal_content, nearly_equal
from common.labels import BY_FILE_NAMES, infer_convention
from common.plausibility import absences, doubts
from common.progress import counted
from common.subject import Problem, examine
from common.words import by_note


@dataclass(frozen=True)
class Audit:
    """What a look at every voxel found.

    problems: sorted by subject. equal: groups of good subjects that hold the same scan under several ids. notes: what
    is odd in the images, and what contradicts the anatomy in most masks. exchanged: ids of subjects whose contrasts do
    not look like their names.
    """

    problems: tuple[Problem, ...]
    equal: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    exchanged: tuple[str, ...] = ()


def audit(cohort: Cohort, *, n_jobs: int = 1) -> Audit:
    """Everything wrong with a cohort, all subjects at once; reads every voxel (n_jobs threads).

    When masks contradict the layout's label convention and no mask in the whole cohort confirms it (BraTS 2018-2021
    names, but ET stored as 3), masks without ET are as doubtful as those with it and are listed too.
    """
    checks = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(examine)(subject) for subject in cohort.subjects
    )
    problems, values = list(cohort.incomplete), set()
    digests, sketches, doubted, unlike = {}, {}, {}, {}
    masks, classes, notes = [], [], []
    progress = counted(checks, "checking", total=len(cohort.subjects), unit="subject")
    for subject, found in zip(cohort.subjects, progress, strict=True):
        problems += found.problems
        values |= found.values
        digests[subject.id] = found.contents
        sketches[subject.id] = found.sketches
        doubted[subject.id] = found.exchanged
        unlike[subject.id] = found.mismatch
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
    notes += [*by_note(doubted), *by_note(unlike), *absences(classes), *doubts(masks)]
    odd = tuple(subject for subject, said in doubted.items() if said)
    return Audit(tuple(problems), tuple(equal), tuple(notes), odd)

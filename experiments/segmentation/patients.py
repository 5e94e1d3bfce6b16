"""The patients of a segmentation experiment: found, checked, prepared and split, before a run's folder is opened."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common import prepared, splits
from common.cohort import Cohort
from common.cohort.own_tables import read_published
from common.prepared import Store
from common.recipe import Recipe
from common.subject import Problem, Subject
from common.words import plural
from experiments.base.options import Refused, leave_out, refuse_phantoms
from experiments.base.progress import say_store, step
from experiments.base.reading import refuse_cavity, refuse_unlabelled
from experiments.segmentation.options import Options, refuse_contradictions
from experiments.segmentation.phantoms import phantom_cohort

FRACTIONS = (0.6, 0.2, 0.2)
"""Of the patients, to train, validate and test."""


def find_patients(
    options: Options,
    recipes: Sequence[Recipe],
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    out_of_fold: bool = False,
    local_copy: Path | None = None,
) -> tuple[Cohort, list[Store], tuple[Problem, ...]]:
    """The cohort, its store for each recipe, and what is wrong with those that are left out.

    Raises Refused or CohortError for what the user can mend, before anything but the store is written.
    """
    refuse_contradictions(options)
    with step(1):
        folder, most = options.data, options.max_subjects
        if folder is None:
            folder = phantom_cohort(options.phantoms, jobs=options.jobs, max_subjects=most)
        cohort = options.find(folder, max_subjects=most, patients=options.patients)
        print(f"    {plural(len(cohort.subjects), 'subject')} in {cohort.folder} ({cohort.layout})", file=sys.stderr)
    if options.data is not None and cohort.subjects:
        refuse_phantoms(options.data, next(iter(cohort.subjects[0].images.values())))
    refuse_unlabelled(cohort)
    refuse_cavity(cohort)
    try:  # what is too few before the scans are looked at is too few after it
        split_of(list(cohort.subjects), set(), options, fractions, out_of_fold=out_of_fold)
    except (ValueError, OSError) as error:
        raise Refused("\n".join([str(error), *(f"  not counted: {each}" for each in cohort.incomplete)])) from error
    with step(2):
        distinct = dict.fromkeys(recipes)
        say_store(options.prepared, sum(prepared.expected_bytes(cohort.subjects, recipe) for recipe in distinct))
        stores = [
            prepared.prepare(cohort.subjects, recipe, options.prepared, n_jobs=options.jobs, local_copy=local_copy)
            for recipe in recipes
        ]
    problems = tuple(dict.fromkeys((*cohort.incomplete, *(problem for each in stores for problem in each.problems))))
    leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="subject")
    return cohort, stores, problems


def split_of(
    subjects: list[Subject],
    excluded: set[str],
    options: Options,
    fractions: tuple[float, float, float],
    *,
    out_of_fold: bool,
) -> splits.Split:
    """The split that the options ask for; excluded: ids that are in none of its parts.

    Raises ValueError or OSError where these subjects cannot be split so.
    """
    if options.subjects is not None:
        # A published split knows nothing of the exclusion rule: its excluded subjects leave their parts.
        return read_published(options.subjects, subjects).without(excluded)
    subjects = [subject for subject in subjects if subject.id not in excluded]
    if out_of_fold and options.folds is not None:
        name = f"{options.folds}folds_seed{options.split_seed}"
        return splits.Split(name, train=tuple(sorted(subject.id for subject in subjects)), validation=(), test=())
    if options.folds is not None:
        if options.fold is None or not 1 <= options.fold <= options.folds:
            raise ValueError(f"expected --fold between 1 and {options.folds}, received {options.fold}")
        return splits.k_folds(subjects, k=options.folds, seed=options.split_seed)[options.fold - 1]
    return splits.split_by_fractions(subjects, fractions=fractions, seed=options.split_seed)

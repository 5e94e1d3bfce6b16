"""Randomised synthetic patients beside the training part of real ones."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from common import prepared
from common.cohort import find_subjects
from common.phantom.randomised import KINDS, Kind, kind_of, name_of, write_randomised
from common.prepared import Entry
from common.recipe import Recipe
from common.runs import RunError
from experiments.base.options import Refused

SEED = 2026


@dataclass(frozen=True, kw_only=True)
class Added:
    """Synthetic patients in the prepared store, and the fingerprints of their files by id. folder: None without any."""

    folder: Path | None = None
    entries: tuple[Entry, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def add(
    phantoms: Path,
    number: int,
    *,
    without: Container[Kind],
    minimum_mask_fraction: float,
    recipe: Recipe,
    prepared_in: Path,
    n_jobs: int,
    local_copy: Path | None = None,
) -> Added:
    """The first ``number`` randomised patients that are of no kind in ``without``, made where they are missing.

    phantoms: folder of the embedded cohort, beside which theirs lies. minimum_mask_fraction: those with less of the
    recipe's crop labelled are left out. Raises Refused when no kind is left, or the folder holds something else.
    """
    if not number:
        return Added()
    if all(kind in without for kind in KINDS):
        raise Refused(f"expected --synthetic-without to leave one of the kinds {', '.join(KINDS)}, received them all")
    numbers = list(itertools.islice((n for n in itertools.count() if kind_of(n) not in without), number))
    try:
        folder = write_randomised(
            phantoms.with_name(f"{phantoms.name}_randomised"), n_subjects=numbers[-1] + 1, seed=SEED, n_jobs=n_jobs
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    added = _prepared(folder, {name_of(n) for n in numbers}, recipe, prepared_in, n_jobs, local_copy)
    kept = tuple(entry for entry in added.entries if entry.geometry["labelled_fraction"] >= minimum_mask_fraction)
    return replace(added, entries=kept, fingerprints={entry.id: added.fingerprints[entry.id] for entry in kept})


def restore(
    written: Mapping, *, recipe: Recipe, prepared_in: Path, n_jobs: int, local_copy: Path | None
) -> tuple[Entry, ...]:
    """Those that a training's data.json names. Raises RunError when their files have changed since."""
    if not written.get("subjects"):
        return ()
    added = _prepared(Path(written["folder"]), set(written["subjects"]), recipe, prepared_in, n_jobs, local_copy)
    if added.fingerprints != written["subjects"]:
        raise RunError(f"{added.folder}: expected the synthetic patients that this training was made for, found others")
    return added.entries


def _prepared(
    folder: Path, names: Container[str], recipe: Recipe, prepared_in: Path, n_jobs: int, local_copy: Path | None
) -> Added:
    subjects = [subject for subject in find_subjects(folder).subjects if subject.id in names]
    store = prepared.prepare(subjects, recipe, prepared_in, n_jobs=n_jobs, local_copy=local_copy)
    if store.problems:
        raise RunError(f"{store.problems[0]}; delete the folder of this synthetic patient, and it is made again")
    return Added(
        folder=folder.resolve(),
        entries=tuple(store.entries[subject.id] for subject in subjects),
        fingerprints={subject.id: subject.fingerprint() for subject in subjects},
    )

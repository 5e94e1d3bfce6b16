"""A cohort in shards, each prepared by a process of its own, on this machine or on others, and counted.

The store needs no lock, so shards fill it side by side. A shard's folder holds what it is given (config.json) and, once
all of it is there, what has become of every subject (prepared.json): the same command does what is missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.files import read_json, typed, write_json
from common.runs import Run, RunError, is_in_use
from common.store import Store
from experiments.base.trainings import Training, given, python

RESULT = "prepared.json"
Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Count:
    """What has become of a cohort's subjects under one recipe. problems: of those that cannot be used."""

    subjects: int
    made: int
    found: int
    remade: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        remade = f", {self.remade} of them for damaged ones" if self.remade else ""
        there = self.made + self.found
        return f"{there} of {self.subjects} prepared: {self.made} made{remade}, {self.found} found intact"


def shards(
    kind: str, subjects: Sequence[str], number: int, folder: Path, recipes: Iterable[object], **settings: object
) -> list[Training]:
    """At most ``number`` shards of equal size as trainings, each described in a folder of its own below ``folder``.

    kind: of :mod:`experiments.train`. settings: further entries of config.json. A shard whose entries have been deleted
    since it was finished is done again.
    """
    number = min(number, len(subjects))
    found = []
    for first in range(number):
        place = folder / f"{first + 1}of{number}"
        argv = python("-m", "experiments.train", place)
        shard = Training(name=f"{kind} {first + 1} of {number}", argv=argv, folder=place, gpus=0, result=RESULT)
        if shard.is_finished and any(
            # What could not be read may have been mended since, or the disk may be back.
            row["problems"] or not all(Path(path).exists() for path in row["entries"])
            for row in _rows(place)
        ):
            (place / RESULT).unlink(missing_ok=True)  # two commands may look at once
        if not shard.is_finished and not is_in_use(place):
            described = {"subjects": subjects[first::number], "recipes": list(recipes), **settings}
            write_json(place / "config.json", {"experiment": "cohort", "kind": kind, **described})
        found.append(shard)
    return found


def fill(folder: Path, kind: type[Recipe], prepare: Callable[[Mapping, Recipe], Store]) -> None:
    """Prepare a shard as its folder describes it. prepare: gives the store of its subjects for a recipe."""
    with Run(folder):
        if (folder / RESULT).exists():  # another command was faster
            return
        described = given(folder, subjects=list, recipes=list)
        rows = []
        for recipe in described["recipes"]:
            store = prepare(described, typed(kind, recipe))
            row = {"subjects": len(described["subjects"]), "made": store.prepared, "remade": len(store.remade)}
            row["problems"] = [str(problem) for problem in store.problems]
            rows.append(row | {"entries": sorted(str(entry.path.resolve()) for entry in store.entries.values())})
        write_json(folder / RESULT, rows)


def counts(shards: Iterable[Training]) -> list[Count]:
    """Of every recipe, in the order in which the shards were given them."""
    found = []
    for rows in zip(*(_rows(shard.folder) for shard in shards), strict=True):
        made, there = (
            sum(values) for values in zip(*((row["made"], len(row["entries"])) for row in rows), strict=True)
        )
        problems = tuple(sorted(problem for row in rows for problem in row["problems"]))
        subjects, remade = sum(row["subjects"] for row in rows), sum(row["remade"] for row in rows)
        found.append(Count(subjects, made, there - made, remade, problems))
    return found


def _rows(folder: Path) -> list[dict]:
    rows = read_json(folder / RESULT, list)
    if not all(isinstance(row, dict) and isinstance(row.get("entries"), list) for row in rows):
        raise RunError(f"{folder / RESULT}: expected what a shard has prepared, found something else; delete it")
    return rows

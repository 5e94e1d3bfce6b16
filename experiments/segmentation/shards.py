"""Shards of a segmentation cohort, which are prepared by processes of their own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path

from common import prepared
from common.cohort import Cohort
from common.recipe import Recipe
from common.runs import RunError
from common.store import Store
from experiments.base.reading import Reading, kept
from experiments.base.shards import fill, shards
from experiments.base.trainings import Training

KIND = "prepare"


def shards_of(
    cohort: Cohort, recipes: Iterable[Recipe], number: int, folder: Path, *, store: Path, reading: Reading, jobs: int
) -> list[Training]:
    """The cohort's subjects in shards. store: folder of the prepared store; jobs: threads of a shard."""
    how = {field.name: getattr(reading, field.name) for field in fields(Reading)}
    how["layout"] = None if reading.layout is None else reading.layout.resolve()
    place = {"data": cohort.folder.resolve(), "prepared": store.resolve(), "jobs": jobs}
    return shards(KIND, [subject.id for subject in cohort.subjects], number, folder, recipes, **how, **place)


def prepare(folder: Path) -> None:
    """The shard that a folder describes. Raises RunError when one of its subjects is not there any more."""
    fill(folder, Recipe, _find)


def _find(described: Mapping) -> Callable[[Recipe], Store]:
    wanted = set(described["subjects"])
    cohort = kept(described).find(Path(described["data"]))
    subjects = [subject for subject in cohort.subjects if subject.id in wanted]
    if lost := sorted(wanted - {subject.id for subject in subjects}):
        raise RunError(f"{cohort.folder}: expected the subjects of a shard, lost: {', '.join(lost)}")
    return partial(prepared.prepare, subjects, folder=described["prepared"], n_jobs=described["jobs"])

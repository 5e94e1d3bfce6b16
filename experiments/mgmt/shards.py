"""Shards of an MGMT cohort, which are prepared by processes of their own."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from common.dicom.mgmt_cohort import MgmtCohort, find_patients
from common.runs import RunError
from common.store import Store
from experiments.base.shards import fill, shards
from experiments.base.trainings import Training
from mgmt_classifier import data
from mgmt_classifier.data import SliceRecipe

KIND = "prepare_mgmt"


def shards_of(
    cohort: MgmtCohort,
    recipes: Iterable[SliceRecipe],
    number: int,
    folder: Path,
    *,
    store: Path,
    labels: Path | None,
    jobs: int,
) -> list[Training]:
    """The cohort's labelled patients in shards. store: folder of the prepared store; jobs: processes of a shard."""
    patients = [patient.id for patient in cohort.patients if patient.label is not None]
    table = None if labels is None else labels.resolve()
    place = {"data": cohort.folder.resolve(), "labels": table, "prepared": store.resolve(), "jobs": jobs}
    return shards(KIND, patients, number, folder, recipes, **place)


def prepare(folder: Path) -> None:
    """The shard that a folder describes. Raises RunError when one of its patients is not there any more."""
    fill(folder, SliceRecipe, _find)


def _find(described: Mapping) -> Callable[[SliceRecipe], Store]:
    wanted = set(described["subjects"])
    cohort = find_patients(described["data"], described["labels"] and Path(described["labels"]))
    patients = [patient for patient in cohort.patients if patient.id in wanted]
    if lost := sorted(wanted - {patient.id for patient in patients}):
        raise RunError(f"{cohort.folder}: expected the patients of a shard, lost: {', '.join(lost)}")
    return partial(data.prepare, patients, folder=described["prepared"], n_jobs=described["jobs"])

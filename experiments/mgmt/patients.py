"""The competition's patients, as every experiment on them finds and prepares them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from common.dicom.copies import copies
from common.dicom.mgmt_cohort import DOUBTFUL, MgmtCohort, Patient, find_patients
from common.store import Store
from common.subject import Problem
from experiments.base.options import Refused, refuse_phantoms
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.phantoms import phantom_patients

if TYPE_CHECKING:
    from mgmt_classifier.data import SliceRecipe


def find_cohort(options: MgmtOptions) -> MgmtCohort:
    """The cohort of --data, or the embedded one. Raises CohortError, and Refused where --data names phantoms."""
    if options.data is None:
        return find_patients(phantom_patients(options), options.labels)
    cohort = find_patients(options.data, options.labels)
    refuse_phantoms(options.data, cohort.any_series)
    return cohort


def labelled(cohort: MgmtCohort, options: MgmtOptions) -> tuple[list[Patient], list[str]]:
    """The patients with a label that the options leave in, and ids of the doubtful ones that they leave out.

    Raises Refused when there is no patient.
    """
    doubtful = set(DOUBTFUL) if options.leave_out_doubtful else set()
    patients = [patient for patient in cohort.patients if patient.label is not None and patient.id not in doubtful]
    if not patients:
        raise Refused(f"{cohort.folder}: expected patients with a label, found none; --labels names the table")
    return patients[: options.max_patients], sorted(doubtful & {patient.id for patient in cohort.patients})


def prepare_patients(
    patients: Sequence[Patient], recipes: "Iterable[SliceRecipe]", options: MgmtOptions
) -> "tuple[dict[SliceRecipe, Store], tuple[Problem, ...]]":
    """Every recipe's prepared slices, and what is wrong with whom, each problem once.

    A patient whose series is another's, or a copy of another contrast's, is a bad one: in two parts of a split it would
    be tested by who has seen it.
    """
    from mgmt_classifier import data

    stores = {recipe: data.prepare(patients, recipe, options.prepared, n_jobs=options.jobs) for recipe in recipes}
    problems = [problem for store in stores.values() for problem in store.problems]
    good = [patient for patient in patients if all(patient.id in store.entries for store in stores.values())]
    contents = (
        ((patient.id, recipe.contrast), store.entries[patient.id].content)
        for patient in good
        for recipe, store in stores.items()
    )
    folders = {patient.id: patient.folders for patient in good}
    for (id, contrast), what in copies(contents, {patient.id: patient.label for patient in good}).items():
        problems.append(Problem(id, folders[id][contrast], f"{contrast} {what}"))
    return stores, tuple(dict.fromkeys(problems))

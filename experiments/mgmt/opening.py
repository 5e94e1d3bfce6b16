"""An MGMT study is opened: patients found and prepared, split, and the run's folder, which records all of it."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from common import splits
from common.dicom.mgmt_cohort import MgmtCohort, Patient
from common.files import file_stem
from common.loading import require_framework
from common.processes import check_alone
from common.runs import Run, configuration_hash, folder_of_run, same_settings
from common.store import Store
from common.subject import Problem
from common.words import plural
from experiments.base.options import Refused, leave_out, refusals
from experiments.base.progress import say_store, step
from experiments.mgmt.cohort import notes_on_series
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.patients import find_cohort, labelled, prepare_patients
from experiments.mgmt.study import MgmtStudy

if TYPE_CHECKING:
    from mgmt_classifier.config import Config
    from mgmt_classifier.data import SliceRecipe

Parts = tuple[float, float, float] | int


@contextmanager
def mgmt_study(
    experiment: str, options: MgmtOptions, settings: Any, configs: "Iterable[Config]", parts: Parts
) -> Iterator[MgmtStudy]:
    """Find, check and prepare the cohort for every model, split it, and open the run's folder.

    settings: everything that the run depends on, a dataclass. configs: the models that will be trained; a patient is
    used if the slices of all can be prepared. parts: fractions of the patients to train, validate and test, each with
    its share of both classes, or a number of folds, of which the first is the study's split.
    What the user can mend (bad series, too few patients, a full disk, a run in use) ends the program with a message and
    exit status 1.
    """
    with refusals():
        check_alone()
        configs = list(configs)
        # Cluster jobs may have another environment, and what is finished is shown without one.
        if options.on == "local" and not any((options.runs / experiment).glob("*/summary.json")):
            require_framework(*configs)
        usable = _find_usable(options, list(dict.fromkeys(config.recipe for config in configs)), parts)
        split = _split(usable.patients, usable.cohort, options, parts)
        run = _open_run(experiment, options, settings, split, _described(usable, options))
        opened = MgmtStudy(
            experiment=experiment,
            options=options,
            cohort=usable.cohort,
            stores=dict(usable.stores),
            labels=usable.labels,
            split=split,
            run=run,
            left_out=usable.left_out,
        )
        with run:
            run.close()  # the trainings have locks of their own
            yield opened


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """A cohort's labelled patients whom every recipe's store holds. doubtful: ids left out as the organisers allow."""

    cohort: MgmtCohort
    stores: "Mapping[SliceRecipe, Store]"
    problems: tuple[Problem, ...]
    patients: Sequence[Patient]
    left_out: tuple[str, ...]
    doubtful: Sequence[str]

    @property
    def labels(self) -> dict[str, int]:
        return {patient.id: patient.label for patient in self.patients if patient.label is not None}

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Of the series' files, by contrast and id."""
        contrasts = dict.fromkeys(recipe.contrast for recipe in self.stores)
        return {contrast: {each.id: each.fingerprint(contrast) for each in self.patients} for contrast in contrasts}

    @cached_property
    def notes(self) -> list[str]:
        """What is to be known of the patients' series, in words."""
        return notes_on_series([patient.id for patient in self.patients], self.stores)


def _find_usable(options: MgmtOptions, recipes: "Sequence[SliceRecipe]", parts: Parts) -> _Usable:
    """Find and prepare the patients, and say what was noticed of them."""
    with step(1):
        cohort = find_cohort(options)
        print(f"    {plural(len(cohort.patients), 'patient')} in {cohort.folder}", file=sys.stderr)
    patients, doubtful = labelled(cohort, options)
    _split(patients, cohort, options, parts)  # what is too few before the series are read is too few after it
    with step(2):
        say_store(options.prepared, len(patients) * sum(recipe.bytes_per_patient for recipe in recipes))
        stores, problems = prepare_patients(patients, recipes, options)
    of = f"of {len(patients)} "
    left_out = leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="patient", of=of)
    usable = _Usable(
        cohort=cohort,
        stores=stores,
        problems=problems,
        patients=[patient for patient in patients if patient.id not in left_out],
        left_out=left_out,
        doubtful=doubtful,
    )
    for what, found in (
        ("label without images", cohort.without_images),
        ("images without label", cohort.without_label),
        ("no patients: folders of that name", cohort.others),
        ("series with a note", usable.notes),
    ):
        if found:
            print(f"{what}: {len(found)}, listed in data.json, as {found[0]}", file=sys.stderr)
    return usable


def _split(patients: Iterable[Patient], cohort: MgmtCohort, options: MgmtOptions, parts: Parts) -> splits.Split:
    """Raises Refused where the patients are too few of a class for the parts."""
    labels = {patient.id: patient.label for patient in patients if patient.label is not None}
    try:
        if isinstance(parts, int):
            return splits.k_folds_stratified(labels, k=parts, seed=options.split_seed)[0]
        return splits.split_stratified(labels, fractions=parts, seed=options.split_seed)
    except ValueError as error:
        raise Refused(f"{cohort.folder}: {error}") from error


def _described(usable: _Usable, options: MgmtOptions) -> dict[str, Any]:
    """What a run's data.json says."""
    cohort = usable.cohort
    return {
        "folder": cohort.folder,
        "synthetic": options.data is None,
        "fingerprint": configuration_hash(usable.labels, usable.fingerprints),
        "labels": usable.labels,
        "left_out": [str(problem) for problem in usable.problems],
        "left_out_doubtful": usable.doubtful,
        "without_images": cohort.without_images,
        "without_label": cohort.without_label,
        "others": cohort.others,
        "notes": usable.notes,
        "files": usable.fingerprints,
    }


def _open_run(
    experiment: str, options: MgmtOptions, settings: Any, split: splits.Split, data: Mapping[str, Any]
) -> Run:
    """The folder of this run, which is described there unless it is finished."""

    def is_same(written: dict[str, Any]) -> bool:
        return (
            same_settings(written["config"]["model"], settings)
            and written["data"]["fingerprint"] == data["fingerprint"]
            and written["split"]["hash"] == split.hash
        )

    planted = f"phantoms{options.planted.removeprefix('effect')}"
    source = file_stem(planted if options.data is None else data["folder"].resolve().name)
    digest = configuration_hash(settings, split.hash, data["fingerprint"])
    folder = folder_of_run(options.runs / experiment, f"{options.preset}-{source}-{split.name}", digest, is_same)
    run = Run(folder, fresh=options.fresh)
    if not run.is_finished:
        config = {"experiment": experiment, "options": asdict(options), "model": asdict(settings)}
        run.describe(config=config, data=data, split=split.as_dict())
    return run

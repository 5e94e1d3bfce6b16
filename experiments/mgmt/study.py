"""What the MGMT experiments share: options, cohort, prepared slices, stratified split, trained models, results."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from common import splits
from common.dicom.mgmt_cohort import DOUBTFUL, MgmtCohort, find_patients
from common.files import write_json, write_text
from common.runs import Run, configuration_hash, describe, folder_of_run, is_in_use, same_settings
from common.store import Store
from common.subject import Problem
from experiments.base import results
from experiments.base.engines import run
from experiments.base.options import FromPreset, Refused, absolute, at_least, leave_out, refusals, refuse_phantoms
from experiments.base.results import Result
from experiments.base.trainings import Placement, Training, given, python, require
from experiments.mgmt.cohort import notes_on_series

if TYPE_CHECKING:
    from mgmt_classifier.config import Config
    from mgmt_classifier.data import SliceRecipe

PHANTOM_PATIENTS = 200
PHANTOM_SEED = 2021
PREDICTIONS = "predictions.csv"

# What every demo changes in its models: small images, a quarter of the filters, a strided first convolution (as in the
# ResNet paper), a learning rate for few steps, and flips, for few patients.
SMALL = {
    "image_size": (64, 64),
    "filters": 16,
    "first_stride": 2,
    "learning_rate": 1e-3,
    "epochs": 12,
    "flip_probability": 0.5,
    "workers": 0,
}


@dataclass(frozen=True, kw_only=True)
class MgmtOptions(FromPreset, Placement):
    """What every MGMT experiment is told on its command line."""

    data: Path | None = None
    """The competition's folder, or its train folder (DICOM). Without it the embedded phantoms are used."""
    labels: Path | None = None
    """Label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with --data and demo without."""
    leave_out_bad: bool = False
    """Go on without patients that cannot be used; they are named in the run's folder and counted in the table."""
    leave_out_doubtful: bool = False
    """Leave out 00109, 00123 and 00709, as the competition's organisers allow."""
    max_patients: int | None = None
    """Use at most so many patients, the first by id."""
    effect: float = 1.0
    """Strength of the signal planted in the embedded phantoms; 0: their images know nothing of the labels."""
    phantom_seed: int = PHANTOM_SEED
    """Seed of the embedded phantoms."""
    split_seed: int = 0
    """Seed of the split and of the permutation tests."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    local_copy: Path | None = None
    """Folder on a disk of the training machine's own, to which prepared entries are copied once to be read there."""
    phantoms: Path = Path("phantoms_mgmt")
    """Folder of the embedded cohorts."""
    jobs: int = -1
    """Processes that read and prepare; -1 takes every core."""
    fresh: bool = False
    """Start over, in place of going on from the last finished epoch or showing the finished result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, max_patients=self.max_patients, jobs=None if self.jobs == -1 else self.jobs)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to be trained. split, labels: by default the study's own."""

    config: "Config"
    split: splits.Split | None = None
    labels: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Fitted:
    """A trained model: its run's folder, threshold, and the probabilities of its validation and test patients.

    validation, test: columns id, label and probability, sorted by id.
    """

    folder: Path
    threshold: float
    validation: pd.DataFrame
    test: pd.DataFrame


def fitted(folder: Path) -> Fitted:
    """What a model's folder holds once it is finished."""
    threshold = given(folder, "threshold", threshold=float)["threshold"]
    table = pd.read_csv(folder / PREDICTIONS, dtype={"id": str}).sort_values("id")
    validation, test = (
        table.loc[table["part"] == part, ["id", "label", "probability"]].reset_index(drop=True)
        for part in ("validation", "test")
    )
    return Fitted(folder, threshold, validation, test)


@dataclass
class MgmtStudy:
    """One experiment on one cohort: labels of the usable patients, their prepared slices, the split, and the run, whose
    models have folders and locks of their own."""

    experiment: str
    options: MgmtOptions
    cohort: MgmtCohort
    stores: "dict[SliceRecipe, Store]"
    labels: dict[str, int]
    split: splits.Split
    run: Run
    left_out: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        return self.options.data is None

    def fit(self, models: "Mapping[str, Model]") -> dict[str, Fitted]:
        """Train the models that are not finished, each in the run's folder of its name, and read all of them.

        Raises RunError when one fails; the others are trained all the same.
        """
        require(run([self._training(*item) for item in models.items()], self.options))
        return {name: fitted(self.run.folder / name) for name in models}

    def _training(self, name: str, model: "Model") -> Training:
        """A model as a training, described in its folder; the parts that are its own, or the study's."""
        folder = self.run.folder / name
        training = Training(
            name=name, argv=python("-m", "experiments.train", folder), folder=folder, result=PREDICTIONS
        )
        if not training.is_finished and not is_in_use(folder):
            split, labels = model.split or self.split, model.labels or self.labels
            table = None if self.options.labels is None else self.options.labels.resolve()
            options = {"labels": table, "prepared": self.options.prepared.resolve(), "jobs": self.options.jobs}
            options["local_copy"] = absolute(self.options.local_copy)
            settings = {"experiment": self.experiment, "kind": "mgmt", "name": name, "options": options}
            # The patients are where they were found, whatever folder this command is called in.
            data = {"synthetic": self.synthetic, "folder": self.cohort.folder.resolve(), "labels": dict(labels)}
            describe(folder, config=settings | {"model": asdict(model.config)}, data=data, split=split.as_dict())
        return training

    def result(
        self, name: str, value: float | str, n: int, interval: tuple[float, float] = (float("nan"), float("nan"))
    ) -> Result:
        """A line of the summary, beside the report's value where it has one under this name."""
        return Result.of(self.experiment, name, value, n, interval, synthetic=self.synthetic)

    def finish(self, found: Iterable[Result], verdicts: Iterable[str]) -> None:
        """Write verdicts.txt and, last of all, summary.json, which marks the run as finished."""
        write_text(self.run.folder / "verdicts.txt", "".join(f"{sentence}\n" for sentence in verdicts))
        write_json(self.run.folder / "summary.json", results.as_rows(found))

    def show(self) -> None:
        """Print the table *reported | this run | 95 % interval | n*, the verdicts, and where everything lies."""
        print(results.table(results.read_summary(self.run.folder / "summary.json")))
        print((self.run.folder / "verdicts.txt").read_text(encoding="utf-8"), end="")
        if self.synthetic:
            print(f"{results.SYNTHETIC_NOTE}; planted effect {self.options.effect:g}")
        parts = " / ".join(str(len(getattr(self.split, part))) for part in splits.PARTS)
        print(f"patients: {parts} (train / validation / test); left out: {len(self.left_out)}")
        print(f"run folder: {self.run.folder}")


def prepare(study: MgmtStudy, patients: Iterable[str], config: "Config") -> "dict[str, Any]":
    """Prepared slices, by id, of patients of the cohort that are in no part of the split (those without a label)."""
    from mgmt_classifier import data

    wanted = set(patients)
    chosen = [patient for patient in study.cohort.patients if patient.id in wanted]
    return data.prepare(chosen, config.recipe, study.options.prepared, n_jobs=study.options.jobs).entries


@contextmanager
def mgmt_study(
    experiment: str,
    options: MgmtOptions,
    settings: Any,
    configs: "Iterable[Config]",
    parts: tuple[float, float, float] | int,
) -> Iterator[MgmtStudy]:
    """Find, check and prepare the cohort for every model, split it, and open the run's folder.

    settings: everything that the run depends on, a dataclass. configs: the models that will be trained; a patient is
    used if the slices of all can be prepared. parts: fractions of the patients to train, validate and test, each with
    its share of both classes, or a number of folds, of which the first is the study's split.
    What the user can mend (bad series, too few patients, a full disk, a run in use) ends the program with a message and
    exit status 1.
    """
    with refusals():
        opened = _open(experiment, options, settings, configs, parts)
        with opened.run:
            opened.run.close()
            yield opened


def _open(
    experiment: str,
    options: MgmtOptions,
    settings: Any,
    configs: "Iterable[Config]",
    parts: tuple[float, float, float] | int,
) -> MgmtStudy:
    from mgmt_classifier import data

    folder = phantom_patients(options) if options.data is None else options.data
    cohort = find_patients(folder, options.labels)
    if options.data is not None:
        refuse_phantoms(options.data, cohort.any_series)
    doubtful = set(DOUBTFUL) if options.leave_out_doubtful else set()
    patients = [patient for patient in cohort.patients if patient.label is not None and patient.id not in doubtful]
    patients = patients[: options.max_patients]
    if not patients:
        raise Refused(f"{cohort.folder}: expected patients with a label, found none; --labels names the table")
    stores: dict[SliceRecipe, Store] = {}
    problems: dict[Problem, None] = {}
    for config in configs:
        if config.recipe not in stores:
            stores[config.recipe] = data.prepare(patients, config.recipe, options.prepared, n_jobs=options.jobs)
            problems |= dict.fromkeys(stores[config.recipe].problems)
    of = f"of {len(patients)} "
    left_out = leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="patients", of=of)
    usable = [patient for patient in patients if patient.id not in left_out]
    notes = notes_on_series([patient.id for patient in usable], stores)
    for what, ids in (
        ("label without images", cohort.without_images),
        ("images without label", cohort.without_label),
        ("no patients: folders of that name", cohort.others),
        ("series with a note", notes),
    ):
        if ids:
            print(f"{what}: {len(ids)}, listed in data.json, as {next(iter(ids))}", file=sys.stderr)
    labels = {patient.id: patient.label for patient in usable}
    try:
        if isinstance(parts, int):
            split = splits.k_folds_stratified(labels, k=parts, seed=options.split_seed)[0]
        else:
            split = splits.split_stratified(labels, fractions=parts, seed=options.split_seed)
    except ValueError as error:
        raise Refused(f"{cohort.folder}: {error}") from error
    fingerprints = {
        recipe.contrast: {patient.id: patient.fingerprint(recipe.contrast) for patient in usable} for recipe in stores
    }
    described = {
        "folder": cohort.folder,
        "synthetic": options.data is None,
        "fingerprint": configuration_hash(labels, fingerprints),
        "labels": labels,
        "left_out": [str(problem) for problem in problems],
        "left_out_doubtful": sorted(doubtful & {patient.id for patient in cohort.patients}),
        "without_images": cohort.without_images,
        "without_label": cohort.without_label,
        "others": cohort.others,
        "notes": notes,
        "files": fingerprints,
    }

    def is_same(written: dict[str, Any]) -> bool:
        return (
            same_settings(written["config"]["model"], settings)
            and written["data"]["fingerprint"] == described["fingerprint"]
            and written["split"]["hash"] == split.hash
        )

    source = f"phantoms{options.effect:g}" if options.data is None else cohort.folder.resolve().name
    digest = configuration_hash(settings, split.hash, described["fingerprint"])
    place = folder_of_run(options.runs / experiment, f"{options.preset}-{source}-{split.name}", digest, is_same)
    run = Run(place, fresh=options.fresh)
    if not run.is_finished:
        written = {"experiment": experiment, "options": asdict(options), "model": asdict(settings)}
        run.describe(config=written, data=described, split=split.as_dict())
    return MgmtStudy(experiment, options, cohort, stores, labels, split, run, left_out)


def phantom_patients(options: MgmtOptions) -> Path:
    """The embedded MGMT cohort, made where it is missing; says so, because every result on it is synthetic."""
    from common.phantom.dicom import write_cohort

    folder = options.phantoms / f"seed{options.phantom_seed}_effect{options.effect:g}"
    print(
        f"no --data given: using the embedded cohort of {PHANTOM_PATIENTS} synthetic patients in {folder}, "
        f"planted effect {options.effect:g}"
    )
    try:
        return write_cohort(
            folder,
            n_patients=PHANTOM_PATIENTS,
            seed=options.phantom_seed,
            effect=options.effect,
            n_jobs=options.jobs,
        )
    except ValueError as error:
        raise Refused(f"{error} Delete the folder, or name another with --phantoms.") from error

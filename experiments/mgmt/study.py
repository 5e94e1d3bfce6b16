"""What the MGMT experiments share once a study is opened: cohort, prepared slices, split, trained models, results."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from common import splits
from common.dicom.mgmt_cohort import MgmtCohort
from common.files import write_json, write_text
from common.runs import Run, describe, is_in_use
from common.store import Store
from experiments.base import results
from experiments.base.ending import end
from experiments.base.engines import run
from experiments.base.options import absolute
from experiments.base.progress import begin, step
from experiments.base.results import Result
from experiments.base.trainings import Training, given, python, require, shared_by
from experiments.mgmt.meanings import meanings
from experiments.mgmt.options import MgmtOptions

if TYPE_CHECKING:
    from mgmt_classifier.config import Config
    from mgmt_classifier.data import SliceRecipe

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
        with step(3):
            require(run([self._training(*item) for item in models.items()], self.options))
        begin(4)
        return {name: fitted(self.run.folder / name) for name in models}

    def _training(self, name: str, model: "Model") -> Training:
        """A model as a training, with the parts and labels that are its own, or the study's."""
        return model_training(
            name,
            self.run.folder / name,
            experiment=self.experiment,
            options=self.options,
            config=model.config,
            split=model.split or self.split,
            # The patients are where they were found, whatever folder this command is called in.
            data={
                "synthetic": self.synthetic,
                "folder": self.cohort.folder.resolve(),
                "labels": dict(model.labels or self.labels),
            },
        )

    def result(
        self, name: str, value: float | str, n: int, interval: tuple[float, float] = (float("nan"), float("nan"))
    ) -> Result:
        """A line of the summary, beside the report's value where it has one under this name."""
        return Result.of(self.experiment, name, value, n, interval, synthetic=self.synthetic)

    def finish(self, found: Iterable[Result], verdicts: Iterable[str]) -> None:
        """Write verdicts.txt and, last of all, summary.json, which marks the run as finished."""
        planted = [self.options.planted_in_words] if self.synthetic else []
        write_text(self.run.folder / "verdicts.txt", "".join(f"{sentence}\n" for sentence in (*verdicts, *planted)))
        write_json(self.run.folder / "summary.json", results.as_rows(found))

    def show(self, *above: str, only: str = "", command: str | None = None) -> None:
        """Print the table *reported | this run | 95 % interval | n*, the verdicts, and where everything lies.

        above: texts above it. only: what the names of its rows begin with, where the others stand in one of these
        texts. command: where it is not called as the experiment is.
        """
        written = results.read_summary(self.run.folder / "summary.json")
        found = [result for result in written if result.key.partition(".")[2].startswith(only)]
        parts = " / ".join(str(len(getattr(self.split, part))) for part in splits.PARTS)
        notes = [f"patients: {parts} (train / validation / test); left out: {len(self.left_out)}"]
        notes.insert(0, f"patients: {'phantoms' if self.synthetic else 'those'} in {self.cohort.folder}")
        if self.synthetic:
            notes.insert(0, f"{results.SYNTHETIC_NOTE}; planted: {self.options.planted}")
        if more := len(written) - len(found):
            notes.append(f"{more} more results, with intervals: summary.json")
        verdicts = (self.run.folder / "verdicts.txt").read_text(encoding="utf-8").rstrip("\n")
        texts = (*above, results.table(found), *meanings(written), verdicts)
        end(command or self.experiment, self.run.folder, *texts, notes=notes, synthetic=self.synthetic)


def model_training(
    name: str,
    folder: Path,
    *,
    experiment: str,
    options: MgmtOptions,
    config: "Config",
    split: splits.Split,
    data: Mapping[str, object],
) -> Training:
    """A model as a training, described in its folder. data: where its patients lie, and their labels, by id."""
    argv = python("-m", "experiments.train", folder)
    training = Training(name=name, argv=argv, folder=folder, result=PREDICTIONS, **shared_by(config))
    if not training.is_finished and not is_in_use(folder):
        table = None if options.labels is None else options.labels.resolve()
        given_options = {"labels": table, "prepared": options.prepared.resolve(), "jobs": options.jobs}
        given_options["local_copy"] = absolute(options.local_copy)
        settings = {"experiment": experiment, "kind": "mgmt", "name": name, "options": given_options}
        describe(folder, config=settings | {"model": asdict(config)}, data=data, split=split.as_dict())
    return training


def prepare(study: MgmtStudy, patients: Iterable[str], config: "Config") -> "dict[str, Any]":
    """Prepared slices, by id, of patients of the cohort that are in no part of the split (those without a label)."""
    from mgmt_classifier import data

    wanted = set(patients)
    chosen = [patient for patient in study.cohort.patients if patient.id in wanted]
    return data.prepare(chosen, config.recipe, study.options.prepared, n_jobs=study.options.jobs).entries

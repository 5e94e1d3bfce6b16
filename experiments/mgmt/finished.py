"""A finished run of ``experiments.mgmt_ensemble`` as what it is to others: models, patients, its own test."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.dicom.mgmt_cohort import Patient, find_patients
from common.files import typed
from common.runs import RunError
from common.splits import Split
from experiments.base.trainings import given
from experiments.mgmt.ensemble import Settings
from experiments.mgmt.study import PREDICTIONS


@dataclass(frozen=True)
class Finished:
    """A finished run of ``experiments.mgmt_ensemble``. labels: MGMT status of every patient of its split, by id.

    place: of its patients; label_table: that was named, in place of the one beside them; options: those of its command,
    as config.json holds them.
    """

    folder: Path
    settings: Settings
    split: Split
    labels: dict[str, int]
    place: Path
    label_table: Path | None
    synthetic: bool
    threshold: float
    options: dict

    @property
    def seen(self) -> list[str]:
        """Patients that have made or chosen the weights."""
        return [*self.split.train, *self.split.validation]

    def test(self) -> pd.DataFrame:
        """The probabilities of its own test part: columns id, label, one per contrast, ensemble."""
        try:
            table = pd.read_csv(self.folder / PREDICTIONS, dtype={"id": str})
            return table[["id", "label", *self.settings.models, "ensemble"]]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.folder}: expected the predictions of a test part, found: {error}") from error

    def patients(self) -> dict[str, Patient]:
        """Those who have made or chosen the weights, where their series lie. Raises RunError where they are no more."""
        try:
            found = {patient.id: patient for patient in find_patients(self.place, self.label_table).patients}
        except ValueError as error:
            raise RunError(
                f"{error}: {self.folder} was trained on them, and scans of other hospitals are cut as theirs are; put "
                "them back, or link the folder there"
            ) from error
        if lost := sorted(set(self.seen) - set(found)):
            raise RunError(f"{self.place}: expected the patients of {self.folder}, lost: {', '.join(lost[:5])}")
        return {id: found[id] for id in self.seen}


def read_run(folder: Path) -> Finished:
    """What a finished run says of itself. Raises RunError when it is not an ensemble's, or has not finished."""
    written = given(folder, experiment=str, model=dict, options=dict)
    if not all((folder / name).exists() for name in ("ensemble.json", PREDICTIONS, "summary.json")):
        raise RunError(
            f"{folder}: expected a finished run of experiments.mgmt_ensemble (ensemble.json, {PREDICTIONS}, "
            "summary.json), found none"
        )
    try:
        settings = typed(Settings, written["model"])
        split = typed(Split, {k: v for k, v in given(folder, "split", name=str).items() if k != "hash"})
    except (ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{folder}: expected the settings and the split of an ensemble, found: {error}") from None
    data = given(folder, "data", folder=str, labels=dict)
    # A model's own folder says where the patients lie whatever folder the command was called in.
    model = folder / next(iter(settings.models))
    table = given(model, options=dict)["options"].get("labels")
    return Finished(
        folder=folder,
        settings=settings,
        split=split,
        labels=data["labels"],
        place=Path(given(model, "data", folder=str)["folder"]),
        label_table=None if table is None else Path(table),
        synthetic=bool(data.get("synthetic")),
        threshold=given(folder, "ensemble", threshold=float, weights=dict)["threshold"],
        options=written["options"],
    )

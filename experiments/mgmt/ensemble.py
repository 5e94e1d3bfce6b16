"""The final classifier: FLAIR's and T1w's model put together, scored beside chance; the submission's predictions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.classification import (
    accuracy_interval,
    auc_interval,
    best_under_chance,
    predicted_positive,
    roc_auc,
    verdict,
)
from common.files import write_csv, write_json
from common.loading import loading
from common.runs import History
from common.settings import check
from common.words import plural
from experiments.base.results import Result
from experiments.mgmt.study import Fitted, MgmtStudy, Model, prepare
from mgmt_classifier.config import Config
from mgmt_classifier.ensemble import REPORTED_WEIGHTS, combine, weighted_mean

FLAIR = Config(contrast="FLAIR", slices="tumour", images=31)
T1W = Config(contrast="T1w", slices="central", images=15)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The two models and how they are put together."""

    flair: Config = FLAIR
    """FLAIR's model: 31 tumour-centred images (R)."""
    t1w: Config = T1W
    """T1w's model: 15 central images (R)."""
    flair_weight: float = REPORTED_WEIGHTS["FLAIR"]
    """Weight of FLAIR's probability; T1w has the rest (R)."""
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    """Of the patients, to train, validate and test (R)."""
    submission_fractions: tuple[float, float, float] = (0.70, 0.30, 0.0)
    """The same with --protocol submission (R)."""
    folds: int = 5
    """Of the patients, with --protocol nested (D)."""

    def __post_init__(self) -> None:
        check(
            self,
            (
                (0 < self.flair_weight < 1, "flair_weight", "between 0 and 1, both excluded"),
                (self.folds >= 3, "folds", "3 or more"),
            ),
        )

    @property
    def models(self) -> dict[str, Config]:
        return {"FLAIR": self.flair, "T1w": self.t1w}

    @property
    def weights(self) -> dict[str, float]:
        return {"FLAIR": self.flair_weight, "T1w": 1 - self.flair_weight}


def train(study: MgmtStudy, settings: Settings) -> dict[str, Fitted]:
    """Both models, trained on the training part and chosen on the validation part; writes ensemble.json."""
    fitted = study.fit({contrast: Model(config=config) for contrast, config in settings.models.items()})
    threshold = float(np.mean([model.threshold for model in fitted.values()]))
    write_json(study.run.folder / "ensemble.json", {"weights": settings.weights, "threshold": threshold})
    return fitted


def score(study: MgmtStudy, settings: Settings, fitted: Mapping[str, Fitted]) -> None:
    """AUC and accuracy of both models and of their mean on the test part, beside chance."""
    parts = {
        name: dict(zip(model.test["id"], model.test["probability"], strict=True)) for name, model in fitted.items()
    }
    together = combine(parts, {name: model.threshold for name, model in fitted.items()}, settings.weights)
    table = fitted["FLAIR"].test[["id", "label"]].copy()
    for name, of_patient in (parts | {"ensemble": together.probabilities}).items():
        table[name] = table["id"].map(of_patient)
    labels, seed = table["label"].to_numpy(), study.options.split_seed
    thresholds = {name: model.threshold for name, model in fitted.items()} | {"ensemble": together.threshold}
    found: list[Result] = []
    for name, threshold in thresholds.items():
        found += discrimination(study, name, table[name].to_numpy(), labels, threshold)
    chance = best_under_chance(table[["ensemble"]].to_numpy().T, labels, seed=seed)
    found.append(study.result("chance__auc", chance.expected, len(labels)))
    found.append(study.result("ensemble__permutation_p", chance.p, len(labels)))
    found += learning_curves(study, fitted)
    write_csv(study.run.folder / "predictions.csv", table)
    draw(study, fitted, table)
    study.finish(found, [f"Ensemble: {verdict(table['ensemble'].to_numpy(), labels, seed=seed)}"])


def discrimination(
    study: MgmtStudy, name: str, probabilities: np.ndarray, labels: np.ndarray, threshold: float
) -> list[Result]:
    """AUC with its interval, accuracy at the threshold with its exact interval, and the threshold.

    n of the threshold: the validation part's patients, on whom it was chosen.
    """
    correct = int((predicted_positive(probabilities, threshold) == labels).sum())
    n = len(labels)
    return [
        study.result(f"{name}__auc", roc_auc(probabilities, labels), n, auc_interval(probabilities, labels)),
        study.result(f"{name}__accuracy", correct / n, n, accuracy_interval(correct, n)),
        study.result(f"{name}__threshold", threshold, len(study.split.validation)),
    ]


def learning_curves(study: MgmtStudy, fitted: Mapping[str, Fitted]) -> list[Result]:
    """First and last training accuracy and mean validation accuracy, what the report reads off Figs 16 and 17."""
    found = []
    for name, model in fitted.items():
        history = History(model.folder / "history.csv").frame()
        trained, validated = len(study.split.train), len(study.split.validation)
        found += [
            study.result(f"{name}__train_accuracy_first", history["accuracy"].iloc[0], trained),
            study.result(f"{name}__train_accuracy_last", history["accuracy"].iloc[-1], trained),
            study.result(f"{name}__validation_accuracy", history["validation_accuracy"].mean(), validated),
        ]
    return found


def draw(study: MgmtStudy, fitted: Mapping[str, Fitted], table: pd.DataFrame) -> None:
    from experiments.drawing import curves  # and with it the plotting library
    from experiments.mgmt import pictures

    for name, model in fitted.items():
        curves.draw_history(
            study.run.figures / f"history_{name}.png",
            History(model.folder / "history.csv").frame(),
            synthetic=study.synthetic,
            curves=curves.CLASSIFICATION_CURVES,
        )
    probabilities = {name: table[name].to_numpy() for name in (*fitted, "ensemble")}
    path = study.run.figures / "roc.png"
    pictures.draw_roc(path, probabilities, table["label"].to_numpy(), synthetic=study.synthetic)


def predict_unlabelled(study: MgmtStudy, settings: Settings) -> None:
    """submission.csv, as the competition wants it: BraTS21ID and the probability as MGMT_value."""
    with loading("PyTorch"):
        from mgmt_classifier.inference import predict

    wanted = study.cohort.without_label
    if not wanted:
        print("every patient in the folder has a label: nothing to submit")
        return
    probabilities = {}
    for contrast, config in settings.models.items():
        entries = prepare(study, wanted, config)
        probabilities[contrast] = dict(predict(study.run.folder / contrast, list(entries.values())))
    both = set.intersection(*(set(found) for found in probabilities.values()))
    if lost := sorted(set(wanted) - both):
        print(f"no probability for {plural(len(lost), 'patient')} whose slices cannot be prepared: {', '.join(lost)}")
    parts = {name: {id: found[id] for id in sorted(both)} for name, found in probabilities.items()}
    mean = weighted_mean(parts, settings.weights)
    write_csv(study.run.folder / "submission.csv", pd.DataFrame(mean.items(), columns=["BraTS21ID", "MGMT_value"]))

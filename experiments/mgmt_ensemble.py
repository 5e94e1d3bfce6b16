"""MGMT: the report's final classifier, 0.75 FLAIR + 0.25 T1w, with what its AUC is worth.

    python -m experiments.mgmt_ensemble                     embedded phantoms (DICOM), demo preset, two CPU cores
    python -m experiments.mgmt_ensemble --data FOLDER       RSNA-MICCAI folder; the report's recipe, one GPU
    python -m experiments.mgmt_ensemble --protocol nested   every patient tested once, weights chosen inside, controls

Reproduces the AUCs 0.652 (FLAIR, 31 tumour-centred images), 0.628 (T1w, 15 central ones) and 0.665 (both), and the
learning curves, on 70 / 15 / 15 % of the patients; weights are the report's, epochs and thresholds are chosen on
validation. ``--protocol submission`` trains on 70 %, validates on 30 %, and predicts the patients without a label.
Cost: demo 2.5 minutes on two cores of an AMD EPYC, two of them writing phantoms; paper needs a GPU (a step of batch 8
at 255 x 255 x 15 takes 75 s and 9 GiB on those cores) and has not been timed. Expect on 50 phantoms with the default
effect an AUC near 0.87. The same command resumes, or shows the table of a finished run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

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
from common.runs import History
from common.splits import split_stratified
from experiments.mgmt_study import SMALL, Fitted, MgmtOptions, MgmtStudy, mgmt_study, prepare
from experiments.results import Result
from experiments.study import command_line
from mgmt_classifier.config import Config
from mgmt_classifier.ensemble import REPORTED_WEIGHTS, combine, weighted_mean

EXPERIMENT = "mgmt_ensemble"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The two models and how they are put together."""

    flair: Config
    """FLAIR's model."""
    t1w: Config
    """T1w's model."""
    flair_weight: float = REPORTED_WEIGHTS["FLAIR"]
    """Weight of FLAIR's probability; T1w has the rest (R)."""
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    """Of the patients, to train, validate and test (R)."""
    submission_fractions: tuple[float, float, float] = (0.70, 0.30, 0.0)
    """The same with --protocol submission (R)."""
    folds: int = 5
    """Of the patients, with --protocol nested (D)."""

    @property
    def models(self) -> dict[str, Config]:
        return {"FLAIR": self.flair, "T1w": self.t1w}

    @property
    def weights(self) -> dict[str, float]:
        return {"FLAIR": self.flair_weight, "T1w": 1 - self.flair_weight}


PAPER = Settings(
    flair=Config(contrast="FLAIR", slices="tumour", images=31),
    t1w=Config(contrast="T1w", slices="central", images=15),
)

# The same path for two CPU cores and a few minutes; more patients are tested, so that the interval says something.
DEMO = replace(
    PAPER,
    flair=replace(PAPER.flair, **SMALL),
    t1w=replace(PAPER.t1w, **SMALL),
    fractions=(0.55, 0.2, 0.25),
)
PRESETS = {"paper": PAPER, "demo": DEMO}


@dataclass(frozen=True, kw_only=True)
class Options(MgmtOptions):
    """Options of the final classifier."""

    protocol: Literal["report", "submission", "nested"] = "report"
    """The report's one split; its submission; or cross-validation over patients with everything chosen inside."""


def main() -> None:
    options, settings = command_line(EXPERIMENT, PRESETS, __doc__, options_type=Options)
    if options.protocol == "nested":
        from experiments.mgmt_nested import run
    else:
        run = submission if options.protocol == "submission" else report
    run(options, settings)


def report(options: MgmtOptions, settings: Settings) -> None:
    """The report's protocol: one split, scored on its test part."""
    with open_study(options, settings) as study:
        if not study.run.is_finished:
            score(study, settings, train(study, settings))
        study.show()


def open_study(options: MgmtOptions, settings: Settings):
    """The study in which the report's protocol is run: ``with open_study(...) as study``."""

    def split(labels: Mapping[str, int]):
        return split_stratified(labels, fractions=settings.fractions, seed=options.split_seed)

    return mgmt_study(EXPERIMENT, options, settings, settings.models.values(), split)


def train(study: MgmtStudy, settings: Settings) -> dict[str, Fitted]:
    """Both models, trained on the training part and chosen on the validation part; writes ensemble.json."""
    fitted = {contrast: study.fit(contrast, config) for contrast, config in settings.models.items()}
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
    """AUC with its interval, accuracy at the threshold with its exact interval, and the threshold."""
    correct = int((predicted_positive(probabilities, threshold) == labels).sum())
    n = len(labels)
    return [
        study.result(f"{name}__auc", roc_auc(probabilities, labels), n, auc_interval(probabilities, labels)),
        study.result(f"{name}__accuracy", correct / n, n, accuracy_interval(correct, n)),
        study.result(f"{name}__threshold", threshold, n),
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
    from experiments import mgmt_pictures, pictures

    for name, model in fitted.items():
        pictures.draw_history(
            study.run.figures / f"history_{name}.png",
            History(model.folder / "history.csv").frame(),
            synthetic=study.synthetic,
            curves=pictures.CLASSIFICATION_CURVES,
        )
    curves = {name: table[name].to_numpy() for name in (*fitted, "ensemble")}
    path = study.run.figures / "roc.png"
    mgmt_pictures.draw_roc(path, curves, table["label"].to_numpy(), synthetic=study.synthetic)


def submission(options: Options, settings: Settings) -> None:
    """Train on 70 %, validate on 30 %, and predict the patients without a label. Nothing is claimed: none is tested."""

    def split(labels: Mapping[str, int]):
        return split_stratified(labels, fractions=settings.submission_fractions, seed=options.split_seed)

    with mgmt_study(EXPERIMENT, options, settings, settings.models.values(), split) as study:
        if not study.run.is_finished:
            fitted = train(study, settings)
            predict_unlabelled(study, settings)
            found = []
            for name, model in fitted.items():
                validation = model.validation
                auc = roc_auc(validation["probability"].to_numpy(), validation["label"].to_numpy())
                found.append(study.result(f"submission_{name}__validation_auc", auc, len(validation)))
            study.finish(
                found, ["Submission: chosen and measured on the same patients, so these AUCs flatter; no test."]
            )
        study.show()


def predict_unlabelled(study: MgmtStudy, settings: Settings) -> None:
    """submission.csv, as the competition wants it: BraTS21ID and the probability as MGMT_value."""
    from mgmt_classifier.predict import predict

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
        print(f"no probability for {len(lost)} patients whose slices cannot be prepared: {', '.join(lost)}")
    parts = {name: {id: found[id] for id in sorted(both)} for name, found in probabilities.items()}
    mean = weighted_mean(parts, settings.weights)
    write_csv(study.run.folder / "submission.csv", pd.DataFrame(mean.items(), columns=["BraTS21ID", "MGMT_value"]))


if __name__ == "__main__":
    main()

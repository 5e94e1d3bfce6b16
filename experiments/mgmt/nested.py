"""The final classifier by nested cross-validation: ``python -m experiments.mgmt_ensemble --protocol nested``.

Every patient is tested once, by models that never saw it: in each fold the others train and validate; epoch, weight of
FLAIR and threshold are chosen on validation. Beside it stand the same with shuffled labels, which must come out at
chance, and a logistic regression on what needs no network: planes, numbers of images, share of bright FLAIR pixels.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy  # its parts when they are first used: stats alone takes half a second

from common.baselines import baseline_probabilities
from common.classification import (
    accuracy_interval,
    auc_difference,
    auc_interval,
    best_threshold,
    predicted_positive,
    roc_auc,
    verdict,
)
from common.files import write_csv
from common.splits import Split, k_folds_stratified
from experiments.mgmt.ensemble import Settings
from experiments.mgmt.opening import mgmt_study
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.simple import simple_features
from experiments.mgmt.study import Fitted, MgmtStudy, Model
from mgmt_classifier.ensemble import weighted_mean

EXPERIMENT = "mgmt_ensemble_nested"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def run(options: MgmtOptions, settings: Settings) -> None:
    with mgmt_study(EXPERIMENT, options, settings, settings.models.values(), settings.folds) as study:
        if not study.run.is_finished:
            score(study, settings)
        once = f"each of the {len(study.labels)} patients is tested once, in {settings.folds} folds; the parts named"
        study.show(f"{once} below are the first fold's", command="mgmt_ensemble")


def score(study: MgmtStudy, settings: Settings) -> None:
    seed = study.options.split_seed
    both = {"": study.labels, "shuffled_": shuffle(study.labels, seed=seed)}
    fitted = study.fit(
        {name: model for labels in both.items() for name, model in models(study, settings, *labels).items()}
    )
    table, shuffled = (cross_validated(study, settings, fitted, *labels) for labels in both.items())
    table["baseline"] = baseline(study, settings)
    write_csv(study.run.folder / "predictions.csv", table)
    write_csv(study.run.folder / "predictions_shuffled.csv", shuffled)

    labels, n = table["label"].to_numpy(), len(table)
    ensemble, simple = within_folds(table, "ensemble"), within_folds(table, "baseline")
    control, control_labels = within_folds(shuffled, "ensemble"), shuffled["label"].to_numpy()
    correct = int(table["correct"].sum())
    difference = auc_difference(ensemble, simple, labels)
    found = [
        study.result("ensemble__auc", roc_auc(ensemble, labels), n, auc_interval(ensemble, labels)),
        study.result("ensemble__accuracy", correct / n, n, accuracy_interval(correct, n)),
        study.result("FLAIR__auc", *_auc(within_folds(table, "FLAIR"), labels)),
        study.result("T1w__auc", *_auc(within_folds(table, "T1w"), labels)),
        study.result("baseline__auc", *_auc(simple, labels)),
        study.result("ensemble_minus_baseline__auc", difference.value, n, (difference.low, difference.high)),
        study.result("shuffled_labels__auc", *_auc(control, control_labels)),
    ]
    study.finish(
        found,
        [
            f"Ensemble: {verdict(ensemble, labels, seed=seed)}",
            f"Simple features alone: {verdict(simple, labels, seed=seed)}",
            f"Control with shuffled labels: {verdict(control, control_labels, seed=seed)}",
        ],
    )


def folds(study: MgmtStudy, settings: Settings, labels: Mapping[str, int]) -> list[Split]:
    return k_folds_stratified(labels, k=settings.folds, seed=study.options.split_seed)


def models(study: MgmtStudy, settings: Settings, prefix: str, labels: Mapping[str, int]) -> dict[str, Model]:
    """Both models of every fold, by the name of their folders."""
    return {
        f"{prefix}fold{number}/{contrast}": Model(config=config, split=split, labels=labels)
        for number, split in enumerate(folds(study, settings, labels), start=1)
        for contrast, config in settings.models.items()
    }


def cross_validated(
    study: MgmtStudy, settings: Settings, fitted: Mapping[str, Fitted], prefix: str, labels: Mapping[str, int]
) -> pd.DataFrame:
    """Each patient's probabilities in the fold that tests it: columns fold, id, label, FLAIR, T1w, ensemble, weight of
    FLAIR, threshold, correct."""
    tables = []
    for number in range(1, len(folds(study, settings, labels)) + 1):
        both = {contrast: fitted[f"{prefix}fold{number}/{contrast}"] for contrast in settings.models}
        weight = best_weight(both, nearest_to=settings.flair_weight)
        chosen = together(both, "validation", weight)
        # The models may differ in it; the report's weights make the ensemble FLAIR's first of all.
        steps = settings.flair.threshold_steps
        threshold = best_threshold(chosen["ensemble"].to_numpy(), chosen["label"].to_numpy(), steps=steps)
        tested = together(both, "test", weight)
        called = predicted_positive(tested["ensemble"].to_numpy(), threshold)
        tested["correct"] = called == tested["label"].to_numpy()
        tables.append(tested.assign(fold=number, flair_weight=weight, threshold=threshold))
    return pd.concat(tables, ignore_index=True)


def together(fitted: Mapping[str, Fitted], part: str, flair_weight: float) -> pd.DataFrame:
    """A part's patients: columns id, label, one per contrast, and ``ensemble``."""
    table = getattr(fitted["FLAIR"], part)[["id", "label"]].copy()
    for contrast, model in fitted.items():
        own = getattr(model, part)
        table[contrast] = table["id"].map(dict(zip(own["id"], own["probability"], strict=True)))
    used = {"FLAIR": flair_weight, "T1w": 1 - flair_weight}
    weights = {contrast: weight for contrast, weight in used.items() if weight > 0}
    parts = {contrast: dict(zip(table["id"], table[contrast], strict=True)) for contrast in weights}
    return table.assign(ensemble=table["id"].map(weighted_mean(parts, weights)))


def best_weight(fitted: Mapping[str, Fitted], *, nearest_to: float) -> float:
    """FLAIR's weight of highest validation AUC; of equal ones the one nearest to the report's."""

    def merit(weight: float) -> tuple[float, float]:
        table = together(fitted, "validation", weight)
        return roc_auc(table["ensemble"].to_numpy(), table["label"].to_numpy()), -abs(weight - nearest_to)

    return max(WEIGHTS, key=merit)


def within_folds(table: pd.DataFrame, column: str) -> np.ndarray:
    """Ranks of a column within each fold, from 0 to 1.

    Each fold has models of its own; their probabilities are not on one scale, and pooled as they are they give an AUC
    below 0.5 where there is no signal.
    """
    return table.groupby("fold")[column].transform(lambda own: (scipy.stats.rankdata(own) - 0.5) / len(own)).to_numpy()


def shuffle(labels: Mapping[str, int], *, seed: int) -> dict[str, int]:
    """The same labels dealt to other patients."""
    ids = sorted(labels)
    dealt = np.random.default_rng([seed, len(ids)]).permutation([labels[id] for id in ids])
    return dict(zip(ids, dealt.tolist(), strict=True))


def baseline(study: MgmtStudy, settings: Settings) -> np.ndarray:
    """A logistic regression's probabilities, in the order of :func:`cross_validated`, trained on each fold's others."""
    entries = {contrast: study.stores[config.recipe].entries for contrast, config in settings.models.items()}
    facts = simple_features(entries, sorted(study.labels))
    found = []
    for split in folds(study, settings, study.labels):
        known = [*split.train, *split.validation]
        truth = np.array([study.labels[id] for id in known])
        found.append(baseline_probabilities(facts.loc[known], truth, facts.loc[sorted(split.test)]))
    return np.concatenate(found)


def _auc(values: np.ndarray, labels: np.ndarray) -> tuple[float, int, tuple[float, float]]:
    return roc_auc(values, labels), len(labels), auc_interval(values, labels)

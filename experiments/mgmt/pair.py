"""Two models on the same test patients: which is better, and whether either is better than chance."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.classification import (
    accuracy_interval,
    auc_difference,
    auc_interval,
    predicted_positive,
    roc_auc,
    verdict,
)
from common.words import p_value
from experiments.mgmt.opening import mgmt_study
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.study import MgmtStudy, Model
from mgmt_classifier.config import Config


def run_pair(experiment: str, options: MgmtOptions, settings: Any, models: Mapping[str, Config]) -> None:
    """Train and compare the two models of the settings, on parts by the settings' fractions, and print the table."""
    with mgmt_study(experiment, options, settings, models.values(), settings.fractions) as study:
        if not study.run.is_finished:
            compare(study, models)
        study.show()


def compare(study: MgmtStudy, models: Mapping[str, Config]) -> None:
    """Accuracy and AUC of each model on the same test patients, and what lies between them."""
    found, verdicts, probabilities, labels = [], [], {}, np.empty(0)
    found_models = study.fit({name: Model(config=config) for name, config in models.items()})
    for name, fitted in found_models.items():
        labels, probabilities[name] = fitted.test["label"].to_numpy(), fitted.test["probability"].to_numpy()
        n, correct = len(labels), int((predicted_positive(probabilities[name], fitted.threshold) == labels).sum())
        found.append(study.result(f"{name}__accuracy", correct / n, n, accuracy_interval(correct, n)))
        auc = roc_auc(probabilities[name], labels)
        found.append(study.result(f"{name}__auc", auc, n, auc_interval(probabilities[name], labels)))
        verdicts.append(f"{name}: {verdict(probabilities[name], labels, seed=study.options.split_seed)}")
    first, second = models
    difference = auc_difference(probabilities[first], probabilities[second], labels)
    interval = (difference.low, difference.high)
    found.append(study.result(f"{first}_minus_{second}__auc", difference.value, len(labels), interval))
    verdicts.append(f"{first} against {second}, same patients: p {p_value(difference.p)} (DeLong, two-sided).")
    study.finish(found, verdicts)

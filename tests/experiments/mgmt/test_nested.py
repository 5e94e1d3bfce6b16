"""The nested protocol's own arithmetic."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from experiments.mgmt import nested
from experiments.mgmt.ensemble import Settings
from experiments.mgmt.study import Fitted


def test_ranks_within_folds_ignore_each_folds_scale():
    table = pd.DataFrame({"fold": [1, 1, 1, 2, 2, 2], "p": [0.1, 0.2, 0.3, 0.9, 0.7, 0.8]})
    np.testing.assert_allclose(nested.within_folds(table, "p"), np.array([1, 3, 5, 5, 1, 3]) / 6)


def test_shuffled_labels_are_dealt_by_the_seed():
    labels = {f"{number:05}": number % 2 for number in range(40)}
    first, again, other = (nested.shuffle(labels, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first.values()) == sorted(labels.values())
    assert first != labels


def test_the_ensembles_thresholds_are_searched_in_as_many_steps_as_flairs_model_has():
    """Unmethylated patients have 0.45, methylated ones 0.55: of 0, 0.5 and 1 only the middle one is right."""
    labels = {f"{number:05}": number % 2 for number in range(12)}
    study = SimpleNamespace(options=SimpleNamespace(split_seed=0))
    table = pd.DataFrame({"id": list(labels), "label": list(labels.values())})
    table["probability"] = 0.45 + 0.1 * table["label"]
    settings = replace(Settings(), folds=3)

    def thresholds(steps):
        own = replace(settings, flair=replace(settings.flair, threshold_steps=steps))
        models = nested.models(study, own, "", labels)
        found = {
            name: Fitted(
                Path(name), 0.5, *(table[table["id"].isin(ids)] for ids in (model.split.validation, model.split.test))
            )
            for name, model in models.items()
        }
        return set(nested.cross_validated(study, own, found, "", labels)["threshold"])

    assert thresholds(3) == {0.5}
    assert thresholds(2) <= {0.0, 1.0}
    assert thresholds(50) <= {step / 49 for step in range(50)}

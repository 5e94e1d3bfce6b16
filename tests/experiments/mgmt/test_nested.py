"""The nested protocol's own arithmetic."""

import numpy as np
import pandas as pd

from experiments.mgmt import nested


def test_ranks_within_folds_ignore_each_folds_scale():
    table = pd.DataFrame({"fold": [1, 1, 1, 2, 2, 2], "p": [0.1, 0.2, 0.3, 0.9, 0.7, 0.8]})
    np.testing.assert_allclose(nested.within_folds(table, "p"), np.array([1, 3, 5, 5, 1, 3]) / 6)


def test_shuffled_labels_are_dealt_by_the_seed():
    labels = {f"{number:05}": number % 2 for number in range(40)}
    first, again, other = (nested.shuffle(labels, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first.values()) == sorted(labels.values())
    assert first != labels

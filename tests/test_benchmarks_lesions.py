"""The lesion-wise benchmark: the definition of 2023, written down plainly, gives what ``common.lesions`` gives."""

import numpy as np
import pytest

from benchmarks import lesions as benchmark
from benchmarks.scoring import SPACING_MM
from common.lesions import BRATS_2023, lesion_scores


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # surface-distance's way to scipy.ndimage
@pytest.mark.parametrize("seed", range(4))
def test_sides_agree(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.choice(4, size=(2, 9, 8, 7), p=[0.85, 0.03, 0.07, 0.05]).astype(np.uint8)
    prediction, truth = (each.repeat(4, 0).repeat(4, 1).repeat(4, 2) for each in coarse)
    prediction[:18] = np.roll(truth, 1, axis=2)[:18]
    ours = lesion_scores(prediction, truth, spacing_mm=SPACING_MM, definitions=[BRATS_2023])["brats2023"]
    theirs = benchmark.plain(prediction, truth)
    assert set(theirs) == set(ours)
    assert benchmark.difference(ours, theirs) < 1e-9
    assert len({scores.dice for scores in ours.values()}) > 1

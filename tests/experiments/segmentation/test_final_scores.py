"""Scores over seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.scoring import score_case
from common.summary import LESION_METRICS, summarise
from experiments.segmentation.final_scores import over_seeds


def write_run(folder, cases):
    """A scored run's folder from {case: (prediction, truth)}, label maps of 1 mm voxels."""
    folder.mkdir(parents=True)
    rows = [{"case": case} | score_case(*pair, spacing_mm=(1, 1, 1)) for case, pair in cases.items()]
    frame = pd.DataFrame(rows)
    frame.assign(view="").to_csv(folder / "cases.csv", index=False)
    return folder


def label_map(**boxes):
    """(12, 12, 12) labels; name -> length of a bar of that class, each in a row of its own."""
    labels = np.zeros((12, 12, 12), np.uint8)
    for value, name in enumerate(("NCR", "ED", "ET"), start=1):
        labels[: boxes.get(name, 0), 3 * value, 4] = value
    return labels


@pytest.fixture
def seeds(tmp_path):
    """Three cases of two seeds; the second seed misses case b's ET."""
    truths = {"a": label_map(NCR=2, ED=8, ET=4), "b": label_map(NCR=4, ED=8, ET=4), "c": label_map(ED=6, ET=2)}
    first = {"a": label_map(NCR=2, ED=4, ET=4), "b": label_map(NCR=2, ED=8, ET=4), "c": label_map(ED=6, ET=2)}
    second = {"a": label_map(NCR=1, ED=8, ET=4), "b": label_map(NCR=4, ED=8), "c": label_map(ED=6, ET=1)}
    folders = [
        write_run(tmp_path / name, {case: (predicted[case], truths[case]) for case in order})
        for name, predicted, order in (("first", first, "cab"), ("second", second, "abc"))
    ]
    for folder in folders:
        scores = summarise(pd.read_csv(folder / "cases.csv"))
        scores.assign(view="").to_csv(folder / "scores.csv", index=False)
    return folders


def test_a_cases_score_is_the_mean_of_its_seeds_before_cases_are_resampled(seeds):
    found = over_seeds(seeds, "brats").set_index("metric")
    # ET: 1, 1, 1 of the first seed; 1, 0, 2 * 1 / 3 of the second
    assert found.loc["dice_ET", "mean"] == pytest.approx((1 + 1 / 2 + (1 + 2 / 3) / 2) / 3)
    assert found.loc["dice_ET", "n"] == 3
    means = [1, (1 + 0 + 2 / 3) / 3]
    assert found.loc["dice_ET", "seed_sd"] == pytest.approx(stats.tstd(means))
    assert found.loc["dice_ET", ["seed_min", "seed_max"]].tolist() == pytest.approx([means[1], means[0]])
    assert found.loc["dice_ET", "n_missed"] == 1
    assert found.loc["hd_ET", "seed_max"] == pytest.approx((0 + 373.13 + 1) / 3)
    # NCR, absent from case c in truth and prediction of both seeds: Dice 1
    by_case = [(1 + 2 / 3) / 2, (2 / 3 + 1) / 2, 1]
    assert found.loc["dice_NCR", "mean"] == pytest.approx(np.mean(by_case))
    assert found.loc["dice_NCR", "n_empty"] == 2
    assert min(by_case) <= found.loc["dice_NCR", "low"] < found.loc["dice_NCR", "mean"]


def test_lesion_wise_scores_are_averaged_where_every_seed_has_them(seeds):
    """Seeds that were scored before there were such scores are read as they are."""
    assert not over_seeds(seeds, "brats")["metric"].str.startswith("lesion_").any()
    for number, folder in enumerate(seeds, start=1):
        cases = pd.read_csv(folder / "cases.csv")
        cases = cases.assign(**dict.fromkeys(LESION_METRICS, 0.5 * number))
        cases.to_csv(folder / "cases.csv", index=False)
        summarise(cases).assign(view="").to_csv(folder / "scores.csv", index=False)
        found = over_seeds(seeds, "brats").set_index("metric")
        assert found.index.str.startswith("lesion_").any() == (number == 2)
    assert found.loc["lesion_fp_brats2023_ET", ["mean", "n", "seed_min", "seed_max"]].tolist() == [0.75, 3, 0.5, 1]


def test_ignored_scores_leave_a_cases_mean_not_the_case(seeds):
    found = over_seeds(seeds, "ignore").set_index("metric")
    assert found.loc["dice_NCR", "n"] == 2  # c has none in either seed
    # b's distance of ET is left out where its ET was missed, so that the first seed's 0 remains; c: 0 and 1 mm
    assert (found.loc["hd_ET", "n"], found.loc["hd_ET", "mean"]) == (3, pytest.approx((0 + 0 + 0.5) / 3))


def test_one_seed_has_its_own_summary_and_no_spread(seeds):
    found = over_seeds(seeds[:1], "brats").set_index("metric")
    own = pd.read_csv(seeds[0] / "scores.csv").set_index("metric").loc[found.index]
    for column in ("mean", "low", "high", "n", "n_empty", "n_missed", "n_false", "n_left_out"):
        np.testing.assert_allclose(found[column], own[column])
    assert found[["seed_sd", "seed_min", "seed_max"]].isna().all(axis=None)


def test_seeds_of_other_cases_are_refused(seeds, tmp_path):
    other = write_run(tmp_path / "other", {"z": (label_map(ED=2), label_map(ED=2))})
    with pytest.raises(ValueError, match=r"other: expected the cases of .*first, found others"):
        over_seeds([seeds[0], other], "brats")

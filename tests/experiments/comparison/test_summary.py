"""The comparison in words: nothing claimed that the numbers do not say."""

import pandas as pd
import pytest

from experiments.base.results import reported
from experiments.comparison import EXPERIMENT, MODELS
from experiments.comparison.models import COMPARED, compare
from experiments.comparison.summary import claims, label
from tests.experiments.comparison.test_models import random_scores


def comparisons_of(differences, p_holm, n=8):
    """comparisons.csv of SegResNet and the 3D U-Net. differences, p_holm: one number for all metrics, or by metric."""

    def of(values, metric):
        return values.get(metric, 0.0) if isinstance(values, dict) else values

    rows = [
        {"model": "segresnet", "against": "unet3d", "metric": metric, "difference": of(differences, metric), "n": n,
         "p_holm": of(p_holm, metric), "higher_is_better": not metric.startswith("hd")}
        for metric in COMPARED
    ]  # fmt: skip
    return pd.DataFrame(rows)


def costs_of(seconds=(9.0, 4.0, 2.0), memory=(5.0, 4.0, 3.0), states=("finished",) * 3):
    frame = pd.DataFrame({"model": list(MODELS), "state": states, "epochs": (35, 45, 30)})
    return frame.assign(seconds_per_epoch=seconds, peak_memory_mib=memory)


def test_a_metric_without_a_case_that_both_have_a_score_for_is_not_called_better():
    """Under the policy ``ignore``: a difference that is not defined is neither above nor below 0."""
    comparisons = comparisons_of(float("nan"), float("nan"), n=0)
    found = claims(costs_of(), comparisons)
    assert found["segresnet_against_unet3d"] == found["segresnet_better_on"]
    assert found["segresnet_better_on"] == ("not compared: no case that both have a score for", 0)
    some = comparisons_of({"dice_ED": 0.1, "hd_TC": float("nan")}, 0.01)
    some.loc[some["metric"] == "hd_TC", "n"] = 0
    assert claims(costs_of(), some)["segresnet_better_on"] == ("Dice ED; told apart: Dice ED", 8)


@pytest.mark.parametrize(
    ("difference", "p", "n", "words"),
    [
        (0.021, 0.3, 8, "0.021 higher mean Dice (p = 0.300): not told apart"),
        (-0.1, 0.0123, 80, "0.100 lower mean Dice (p = 0.012): worse"),
        (0.1, 0.049, 80, "0.100 higher mean Dice (p = 0.049): better"),
        (0.1, float("nan"), 1, "0.100 higher mean Dice; no test with 1 test case"),
        (0.1, float("nan"), 2, "0.100 higher mean Dice; no test with 2 test cases"),
    ],
)
def test_segresnet_against_unet3d_in_words(difference, p, n, words):
    comparisons = comparisons_of({"mean_dice": difference}, p, n)
    assert claims(costs_of(), comparisons)["segresnet_against_unet3d"] == (words, n)


@pytest.mark.parametrize(
    ("differences", "p", "words"),
    [
        ({"dice_NCR": 0.1, "dice_ED": -0.1, "hd_TC": -3.0, "hd_WT": 2.0}, 0.2, "Dice NCR and HD TC; told apart: none"),
        (
            {"dice_NCR": 0.1, "dice_ET": 0.2, "hd_TC": -3.0, "hd_WT": -1.0},
            {"dice_NCR": 0.2, "dice_ED": 0.01, "dice_ET": 0.01, "hd_TC": 0.04, "hd_WT": 1.0},
            "Dice NCR, Dice ET, HD TC and HD WT; told apart: Dice ET and HD TC",
        ),
        ({"hd_WT": -1.0}, float("nan"), "HD WT; no test with 8 test cases"),
        ({"dice_NCR": -0.1, "hd_TC": 4.0}, 0.001, "none of the five"),
    ],
)
def test_segresnet_better_on_in_words(differences, p, words):
    assert claims(costs_of(), comparisons_of(differences, p))["segresnet_better_on"] == (words, 8)


@pytest.mark.parametrize(
    ("seconds", "memory", "words"),
    [
        ((4.0, 2.0), (8.0, 6.0), "faster (0.50 times the seconds per epoch), with less memory (0.75 times the peak)"),
        (
            (2.0, 3.0),
            (8.0, 7.9),
            "slower (1.50 times the seconds per epoch), with as much memory (0.99 times the peak)",
        ),
    ],
)
def test_unet25d_against_unet3d_in_words(seconds, memory, words):
    costs = costs_of((9.0, *seconds), (9.0, *memory))
    assert claims(costs, comparisons_of(0.0, 1.0))["unet25d_against_unet3d"] == (words, 30)


def test_a_claim_about_a_failed_model_says_so():
    costs = costs_of(states=("finished", "failed: out of memory", "not run"))
    found = claims(costs, compare(random_scores(3, ("segresnet",))))
    assert found["segresnet_against_unet3d"] == ("not compared: 3D U-Net failed: out of memory", 0)
    assert found["unet25d_against_unet3d"][0] == "not compared: 2.5D U-Net not run; 3D U-Net failed: out of memory"
    assert set(found) == set(reported()[EXPERIMENT])


def test_metrics_are_named_as_the_report_names_them():
    assert [label(metric) for metric in ("mean_dice", "dice_NCR", "hd_TC", "hd95_WT")] == [
        *("mean Dice", "Dice NCR", "HD TC", "HD95 WT")
    ]

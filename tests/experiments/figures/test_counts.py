"""Figures that count: every case and every label once."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from common.scoring import score_case
from common.summary import apply_empty_policy
from experiments.base import results
from experiments.figures import distributions, scans, segmentation
from experiments.segmentation import label_size


def tiny_cases():
    """Six cases, with NCR found, missed, invented and absent: rows as a run has them, and the label maps."""
    kinds = ("found", "found", "missed", "invented", "absent", "found")
    rows = []
    for case, kind in enumerate(kinds):
        truth = np.zeros((16, 16, 16), np.uint8)
        truth[2:8, 2:8, 2:8], truth[9:12, 9:12, 9:12] = 2, 3
        predicted = np.roll(truth, case % 3, axis=0)
        if kind in ("found", "missed"):
            truth[3:5, 3:5, 3:5] = 1
        if kind in ("found", "invented"):
            predicted[3:5, 3:6, 3:5] = 1
        rows.append({"case": f"case{case}", **score_case(predicted, truth, spacing_mm=(1, 1, 1)), "view": np.nan})
    return pd.DataFrame(rows), kinds


def bars(axis):
    return sum(patch.get_height() for patch in axis.patches if isinstance(patch, Rectangle) and patch.get_width() > 0)


@pytest.mark.parametrize("policy", ["brats", "ignore"])
def test_histograms_count_every_case(policy):
    cases, kinds = tiny_cases()
    figure = distributions.draw_histograms(cases, apply_empty_policy(cases, policy), text="", synthetic=False)
    ncr, ed, et, tc, wt = figure.axes
    n = len(kinds) - (policy == "ignore") * kinds.count("absent")
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("missed", "invented", "absent"))
    assert ncr.get_title() == f"NCR, n = {n}\n{counts}"
    assert bars(ncr) == n
    assert [bars(axis) for axis in (ed, et, tc, wt)] == [6, 6, 6, 6]
    assert ed.get_title() == "ED, n = 6\n0 missed, 0 invented, 0 absent"
    said = results.reported()["unet3d"]
    assert [line.get_xdata()[0] for line in ncr.lines][1] == said["dice_NCR"].value
    assert [text.get_text() for text in tc.get_legend().get_texts()][1].startswith("report ")


def test_a_region_without_a_distance_is_counted_in_a_bar_of_its_own():
    cases, _ = tiny_cases()
    cases.loc[1, ["hd_TC", "hd95_TC", "volume_predicted_ml_TC", "dice_TC", "surface_dice_TC"]] = [
        np.inf,
        np.inf,
        0,
        0,
        0,
    ]
    valued = apply_empty_policy(cases, "brats")
    tc = distributions.draw_histograms(cases, valued, text="", synthetic=False).axes[3]
    assert tc.get_title() == "TC, n = 6\n1 missed, 0 invented, 0 absent"
    hatched = [patch for patch in tc.patches if patch.get_hatch()]
    assert [patch.get_height() for patch in hatched] == [1]
    measured = cases.drop(index=1)["hd_TC"]
    assert hatched[0].get_x() > measured.max()
    assert tc.lines[0].get_xdata()[0] == pytest.approx(measured.mean())
    assert "of those with a distance" in tc.get_legend().get_texts()[0].get_text()


def test_label_sizes_show_every_label_of_the_truth_once(tmp_path):
    cases, _ = tiny_cases()
    for part in ("validation", "test"):
        (tmp_path / part).mkdir()
        cases.to_csv(tmp_path / part / "cases.csv", index=False)
    sizes = label_size.label_sizes({part: tmp_path / part for part in ("validation", "test")})
    figure = distributions.draw_label_sizes(sizes, text="", synthetic=True)
    for axis, name in zip(figure.axes, ("NCR", "ED", "ET"), strict=True):
        true = sizes[(sizes["class"] == name) & (sizes["volume_truth_ml"] > 0)]
        drawn = [tuple(point) for line in axis.lines for point in zip(*line.get_data(), strict=True)]
        assert sorted(drawn) == sorted(zip(true["volume_truth_ml"], true["dice"], strict=True))
    missed = next(line for line in figure.axes[0].lines if line.get_marker() == "x")
    assert missed.get_ydata().tolist() == [0, 0]
    assert figure.axes[0].get_title().splitlines()[0] == "NCR: 2 of 8 missed"
    assert figure.axes[0].get_title().splitlines()[2] == "not in the truth: 4 (2 invented)"
    assert figure.get_suptitle() == "Synthetic phantoms"


@pytest.mark.parametrize(("n", "middle"), [(1, 0), (2, 0), (3, 1), (6, 2), (7, 3)])
def test_the_median_case_is_the_middle_of_the_ranks(n, middle):
    dice = np.random.default_rng(n).permutation(n) / 10
    cases = pd.DataFrame({"case": [f"{value:.1f}" for value in dice], "dice_WT": dice})
    assert segmentation.median(cases)["case"] == f"{sorted(dice, reverse=True)[middle]:.1f}"
    cases.loc[cases["dice_WT"].idxmin(), "dice_WT"] = np.nan  # no tumour in truth and prediction
    assert np.isnan(segmentation.ranked(cases).iloc[0]["dice_WT"])


def test_slices_are_spaced_evenly_from_the_first_to_the_last():
    assert scans.spaced(155, 24)[:3] == [0, 7, 13]
    assert (scans.spaced(155, 24)[-1], len(scans.spaced(155, 24))) == (154, 24)
    assert scans.spaced(5, 24) == [0, 1, 2, 3, 4]

"""Test cases one by one: their Dice, and whether predicted volumes agree with the true ones."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.picture import CLASS_COLOURS
from experiments.drawing.style import WIDTH, styled

MASKS = ("WT", "TC", *CLASS_COLOURS)
REGIONS = ("WT", "TC", "ET")
COLOURS = {"WT": "#999999", "TC": "#cc79a7"} | CLASS_COLOURS


@styled
def draw_dice(cases: pd.DataFrame) -> Figure:
    """cases: ``dice_<mask>``, nan where neither truth nor prediction has the mask. One column of points per mask."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axis = figure.subplots()
    names = []
    for place, mask in enumerate(MASKS):
        values = np.sort(cases[f"dice_{mask}"].dropna().to_numpy(float))
        names.append(f"{mask}\nn = {len(values)}")
        if not len(values):
            continue
        beside = place + 0.28 * np.linspace(-1, 1, len(values)) * (len(values) > 1)
        none = values == 0
        axis.plot(beside[~none], values[~none], "o", color=COLOURS[mask], markeredgecolor="0.25", markeredgewidth=0.4)
        axis.plot(beside[none], values[none], "kx", markersize=5)
        axis.plot([place - 0.38, place + 0.38], [np.median(values)] * 2, color="black", linewidth=1)
    axis.set(xticks=range(len(MASKS)), xticklabels=names, xlim=(-0.6, len(MASKS) - 0.4), ylim=(-0.04, 1.04))
    axis.set_ylabel("Dice of a case")
    axis.grid(axis="y", alpha=0.25, linewidth=0.5)
    return figure


@styled
def draw_volumes(cases: pd.DataFrame) -> Figure:
    """cases: ``volume_truth_ml_<mask>`` and ``volume_predicted_ml_<mask>``. One panel of differences per region."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    for axis, mask in zip(figure.subplots(1, len(REGIONS)), REGIONS, strict=True):
        truth, predicted = (cases[f"volume_{which}_ml_{mask}"].to_numpy(float) for which in ("truth", "predicted"))
        axis.plot((truth + predicted) / 2, predicted - truth, "o", color=COLOURS[mask], markeredgecolor="0.25",
                  markeredgewidth=0.4)  # fmt: skip
        mean, low, high = agreement(truth, predicted)
        axis.axhline(0, color="0.6", linewidth=0.5)
        axis.axhline(mean, color="black", linewidth=1)
        title = f"{mask}, n = {len(truth)}: mean {mean:+.3g} ml"
        if not math.isnan(low):
            for end in (low, high):
                axis.axhline(end, color="black", linewidth=0.8, linestyle="--")
            title += f"\n95 % limits {low:+.3g} to {high:+.3g} ml"
        axis.set_title(title, fontsize=7)
        axis.set_xlabel(f"mean volume {mask} (ml)")
    figure.axes[0].set_ylabel("predicted − true (ml)")
    return figure


def agreement(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Mean difference predicted − truth and its 95 % limits of agreement, mean ± 1.96 SD (Bland and Altman 1986).

    truth, predicted: (n,), of one unit. The limits are nan below three cases, as intervals are.
    """
    difference = predicted - truth
    mean = float(difference.mean()) if len(difference) else math.nan
    if len(difference) < 3:
        return mean, math.nan, math.nan
    half = 1.96 * float(difference.std(ddof=1))
    return mean, mean - half, mean + half

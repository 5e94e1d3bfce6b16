"""Fig. 8: the size of a label against its Dice, class by class, and the labels that were missed entirely.

Missed: a label that the truth has and of which the prediction has no voxel in common with it (Dice 0), be it that the
label is predicted nowhere, as the report says, or elsewhere only.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from common.classification import accuracy_interval
from common.labels import CLASSES
from common.picture import CLASS_COLOURS
from experiments.base.results import Result, read_cases
from experiments.drawing.style import WIDTH, heading, styled

SMALL = "small_labels"
PREFIXES = ("missed_", "size_correlation_")
CLASS_NAMES = CLASSES[1:]
"""Without the background."""
PART_MARKS = {"validation": "o", "test": "^", "compared": "o"}


def label_sizes(parts: Mapping[str, Path]) -> pd.DataFrame:
    """:func:`sizes_of` the cases of several parts. parts: part -> run folder whose cases.csv is read."""
    return pd.concat([sizes_of(read_cases(folder), part) for part, folder in parts.items()], ignore_index=True)


def sizes_of(cases: pd.DataFrame, part: str) -> pd.DataFrame:
    """Every label of every case: case, part, class, volume_truth_ml, volume_predicted_ml, dice, state.

    cases: a row of scores each. state: found, missed, empty in truth (dice nan) or invented (predicted, though the
    truth has none).
    """
    rows = []
    for case in cases.to_dict("records"):
        for name in CLASS_NAMES:
            truth, predicted = case[f"volume_truth_ml_{name}"], case[f"volume_predicted_ml_{name}"]
            dice = case[f"dice_{name}"]
            if truth > 0:
                state = "found" if dice > 0 else "missed"
            else:
                state = "invented" if predicted > 0 else "empty in truth"
            rows.append((case["case"], part, name, truth, predicted, dice, state))
    columns = ["case", "part", "class", "volume_truth_ml", "volume_predicted_ml", "dice", "state"]
    return pd.DataFrame(rows, columns=columns)


def rank_correlation(sizes_ml: np.ndarray, dice: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rank correlation of size and Dice, and its 95 % interval (Bonett & Wright 2000).

    sizes_ml, dice: (n,). nan where not defined: below four labels, all sizes or all Dice equal; the interval also of
    a perfect correlation.
    """
    undefined = (math.nan, math.nan)
    if len(sizes_ml) < 4 or np.ptp(sizes_ml) == 0 or np.ptp(dice) == 0:
        return math.nan, *undefined
    rho = float(stats.spearmanr(sizes_ml, dice).statistic)
    if abs(rho) > 1 - 1e-12:
        return rho, *undefined
    half = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (len(sizes_ml) - 3))
    return rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)


def size_results(experiment: str, sizes: pd.DataFrame, *, synthetic: bool) -> list[Result]:
    """Share of labels missed and correlation of size and Dice per class, and a sentence that counts the missed."""
    found, counts = [], []
    for name in CLASS_NAMES:
        present = _present(sizes, name)
        missed, n = int((present["state"] == "missed").sum()), len(present)
        counts.append(f"{name} {missed} of {n}")
        interval = accuracy_interval(missed, n) if n else (math.nan, math.nan)
        values = (missed / n if n else math.nan, *interval)
        correlation = rank_correlation(present["volume_truth_ml"].to_numpy(), present["dice"].to_numpy())
        for prefix, numbers in zip(PREFIXES, (values, correlation), strict=True):
            value, *ends = numbers
            found.append(Result.of(experiment, f"{prefix}{name}", value, n, tuple(ends), synthetic=synthetic))
    missed = sizes[sizes["state"] == "missed"]
    sentence = f"missed entirely in {' and '.join(sizes['part'].unique())}: {', '.join(counts)}"
    if len(missed):
        absent = int((missed["volume_predicted_ml"] == 0).sum())
        sentence += f"; of these {len(missed)}, not predicted anywhere: {absent}"
    return [*found, Result.of(experiment, SMALL, sentence, sizes["case"].nunique(), synthetic=synthetic)]


def _present(sizes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Labels of a class that the truth has."""
    return sizes[(sizes["class"] == name) & (sizes["volume_truth_ml"] > 0)]


@styled
def draw_label_sizes(sizes: pd.DataFrame, *, text: str, synthetic: bool) -> Figure:
    """sizes: label_size.csv: part, class, volume_truth_ml, dice and state of every label."""
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots(1, len(CLASS_COLOURS), sharey=True, sharex=True)
    for axis, (name, colour) in zip(axes, CLASS_COLOURS.items(), strict=True):
        own = sizes[sizes["class"] == name]
        true = own[own["volume_truth_ml"] > 0]
        missed = true["state"] == "missed"
        for part, mark in PART_MARKS.items():
            found = true[~missed & (true["part"] == part)]
            axis.plot(
                found["volume_truth_ml"], found["dice"], mark, color=colour, markersize=5, markeredgecolor="0.25",
                markeredgewidth=0.5,
            )  # fmt: skip
        axis.plot(true.loc[missed, "volume_truth_ml"], true.loc[missed, "dice"], "kx", markersize=6)
        rho, low, high = rank_correlation(true["volume_truth_ml"].to_numpy(), true["dice"].to_numpy())
        interval = f"no interval: n = {len(true)}" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
        rank = "Spearman not defined" if np.isnan(rho) else f"Spearman {rho:.2f} ({interval})"
        elsewhere = int((true.loc[missed, "volume_predicted_ml"] > 0).sum())
        invented = int((own["state"] == "invented").sum())
        lines = [
            f"{name}: {missed.sum()} of {len(true)} missed" + f" ({elsewhere} predicted elsewhere)" * bool(elsewhere),
            rank,
            f"not in the truth: {len(own) - len(true)} ({invented} invented)",
        ]
        axis.set_title("\n".join(lines), fontsize=7)
        axis.set(xscale="log", ylim=(-0.04, 1.04), xlabel=f"{name} in the truth (ml)")
        axis.grid(alpha=0.25, linewidth=0.5)
    axes[0].set_ylabel("Dice")
    handles = [
        Line2D([], [], marker=mark, linestyle="", color="white", markersize=5, markeredgecolor="0.25", label=part)
        for part, mark in PART_MARKS.items()
        if (sizes["part"] == part).any()
    ]
    handles.append(Line2D([], [], marker="x", linestyle="", color="black", markersize=6, label="missed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    heading(figure, text, synthetic=synthetic)
    return figure

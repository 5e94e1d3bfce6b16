"""Picture of a table of variations: scores beside the report's, differences from the parent, and what a step costs."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.words import p_value
from experiments.drawing.style import save_for_screen

MEASURED, REPORTED, COST = "#0072b2", "#d55e00", "#999999"
"""Okabe and Ito's blue and vermilion, told apart with any colour vision, and grey."""
WITH_BACKGROUND = "mean_dice_with_background"


def draw_variations(path: Path, table: pd.DataFrame, *, synthetic: bool) -> None:
    """One line per variation, in the table's order: both means of Dice, difference from the parent, seconds, memory.

    table: as in variations.csv. Whiskers are 95 % intervals over test cases, an open diamond (or the words beside it)
    what the report gives; a row that has not been run, or failed, says so in place of its marks.
    """
    table = table.reset_index(drop=True)
    figure = Figure(figsize=(15, 0.52 * len(table) + 2.2), layout="constrained")
    axes = figure.subplots(1, 5, sharey=True, width_ratios=(4, 3, 4, 2.2, 2.2))
    with_background, mean_dice, difference, seconds, memory = axes
    _marks(with_background, table, WITH_BACKGROUND, "low", "high")
    _reported(with_background, table)
    _marks(mean_dice, table, "mean_dice", "mean_dice_low", "mean_dice_high")
    _marks(difference, table, "from_parent", "from_parent_low", "from_parent_high")
    difference.axvline(0, color="black", linewidth=0.8)
    _p_values(difference, table)
    for axis, column, digits in ((seconds, "seconds_per_step", 2), (memory, "peak_memory_mib", 0)):
        _bars(axis, table, column, digits)
    for axis in (with_background, mean_dice):
        axis.set(xlim=(0, 1))
    with_background.set(
        yticks=range(len(table)), yticklabels=[_label(row) for row in table.itertuples()], ylim=(len(table) - 0.5, -0.5)
    )
    titles = (
        ("Dice with background", "mean of background, NCR, ED, ET"),
        ("Dice", "mean of NCR, ED, ET"),
        ("Difference from parent", "mean Dice with background, paired by case;\np: Wilcoxon's test, Holm's correction"),
        ("Training step", "seconds"),
        ("Peak memory of training", "MiB"),
    )
    for axis, (title, unit) in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(unit, fontsize=9)
        axis.tick_params(axis="both", labelsize=9, length=0)
        axis.set_axisbelow(True)
        axis.grid(axis="x", color="#e5e5e5", linewidth=0.8)
        axis.spines[["top", "right", "left"]].set_visible(False)
        for shaded in range(1, len(table), 2):
            axis.axhspan(shaded - 0.5, shaded + 0.5, color="#f6f6f6", zorder=-1)
    _states(axes, table)
    cases = "phantoms" if synthetic else "patients"
    marks = [
        Line2D([], [], marker="o", color=MEASURED, label=f"this run: mean and 95 % interval over n test {cases}"),
        Line2D([], [], marker="D", linestyle="", mfc="none", color=REPORTED, label="report, on its own patients"),
        Patch(color=COST, label="cost on this run's machine"),
    ]
    figure.legend(handles=marks, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    if synthetic:
        figure.suptitle("Synthetic phantoms", x=0.01, ha="left", fontsize=10)
    save_for_screen(figure, path)


def _label(row: tuple) -> str:
    parent = "" if pd.isna(row.parent) else f"against {row.parent}, "
    return f"{row.row}\n{parent}n = {row.n}"


def _marks(axis: Axes, table: pd.DataFrame, column: str, low: str, high: str) -> None:
    """A mark per row that has a value, with its interval where one is defined."""
    values = table[[column, low, high]].apply(pd.to_numeric)
    for position, (value, first, last) in enumerate(values.to_numpy(float)):
        if np.isfinite([first, last]).all():
            axis.plot((first, last), (position, position), color=MEASURED, linewidth=2, solid_capstyle="butt")
        axis.plot(value, position, "o", color=MEASURED, markersize=6)


def _reported(axis: Axes, table: pd.DataFrame) -> None:
    """The report's number as an open mark; what it gives in words, as words."""
    numbers = pd.to_numeric(table["reported"], errors="coerce")
    axis.plot(numbers, range(len(table)), "D", mfc="none", color=REPORTED, markersize=7, linestyle="")
    for position, (said, number) in enumerate(zip(table["reported"], numbers, strict=True)):
        if pd.isna(number) and not pd.isna(said):
            axis.text(0.99, position - 0.3, f"report: {said}", color=REPORTED, fontsize=8, ha="right", va="center")


def _p_values(axis: Axes, table: pd.DataFrame) -> None:
    for position, p in enumerate(pd.to_numeric(table["from_parent_p"])):
        if np.isfinite(p):
            beside = axis.get_yaxis_transform()
            axis.text(
                0.99, position - 0.3, p_value(p, named=True), transform=beside, fontsize=8, ha="right", va="center"
            )


def _bars(axis: Axes, table: pd.DataFrame, column: str, digits: int) -> None:
    values = pd.to_numeric(table[column])
    bars = axis.barh(range(len(table)), values.fillna(0), height=0.55, color=COST)
    labels = ["" if pd.isna(value) else f"{value:.{digits}f}" for value in values]
    axis.bar_label(bars, labels=labels, fontsize=8, padding=2)
    axis.margins(x=0.25)


def _states(axes: np.ndarray, table: pd.DataFrame) -> None:
    """The word, in every panel, for a row without results."""
    for position, state in enumerate(table["state"]):
        word = state.partition(":")[0]
        for axis in axes if word != "finished" else ():
            across = axis.get_yaxis_transform()
            axis.text(0.03, position, word, transform=across, fontsize=9, style="italic", color="#555555", va="center")

"""Picture of what changes of the scans cost: Dice points per change and region, with intervals over cases."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.statistics import FEWEST_CASES
from common.words import plural
from experiments.drawing.style import WIDTH, heading, save_for_screen, styled

PANELS = {"mean_dice": "mean of NCR, ED, ET", "dice_WT": "WT", "dice_TC": "TC", "dice_ET": "ET"}
COLOUR = "#0072b2"


def draw_costs(path: Path, costs: pd.DataFrame, *, synthetic: bool) -> None:
    """A row per change, a panel per region. costs: as ``experiments.segmentation.robustness.costs_of`` makes them."""
    save_for_screen(costs_figure(costs, synthetic=synthetic), path)


@styled
def costs_figure(costs: pd.DataFrame, *, synthetic: bool) -> Figure:
    words = list(dict.fromkeys(costs["words"]))
    figure = Figure(figsize=(WIDTH, 0.19 * len(words) + 1.1), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axis, (metric, title) in zip(panels, PANELS.items(), strict=True):
        of = costs[costs["metric"] == metric].set_index("words").loc[words]
        for row, (value, low, high) in enumerate(of[["cost", "cost_low", "cost_high"]].to_numpy(float)):
            if np.isfinite([low, high]).all():
                axis.plot((low, high), (row, row), color=COLOUR, linewidth=1.5, solid_capstyle="butt")
            axis.plot(value, row, "o", color=COLOUR)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(title, loc="left")
        axis.grid(axis="x", alpha=0.25, linewidth=0.5)
        for shaded in range(1, len(words), 2):
            axis.axhspan(shaded - 0.5, shaded + 0.5, color="0.96", zorder=-1)
    panels[0].set(yticks=range(len(words)), yticklabels=words, ylim=(len(words) - 0.5, -0.5))
    n = int(costs["n"].max())
    few = f"; no interval of fewer than {FEWEST_CASES} cases"
    interval = few if n < FEWEST_CASES else " and 95 % interval over cases"
    figure.supxlabel(f"Dice points lost, mean{interval}", fontsize=8)
    heading(figure, f"What changes of the scans cost, {plural(n, 'test case')}", synthetic=synthetic)
    return figure

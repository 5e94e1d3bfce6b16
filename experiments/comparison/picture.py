"""Picture of a comparison: Dice and Hausdorff distances by model, paired differences, and what each model costs."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.words import plural
from experiments.base import results
from experiments.base.results import Result
from experiments.comparison import MODELS
from experiments.drawing import style

COLOURS = {"segresnet": "#0072b2", "unet3d": "#009e73", "unet25d": "#cc79a7"}
"""Okabe and Ito's, none of them a class's; the marks differ in form too."""
MARKS = {"segresnet": "o", "unet3d": "s", "unet25d": "^"}
DICE = {f"dice_{name}": name for name in ("NCR", "ED", "ET", "TC", "WT")} | {"mean_dice": "mean of\nNCR, ED, ET"}
DISTANCES = {"hd_TC": "TC", "hd_WT": "WT"}
COSTS = {
    "parameters": ("parameters", 1e-6, "millions"),
    "gflop_per_sample": ("forward pass", 1, "GFLOP per sample"),
    "seconds_per_sample": ("training", 1, "s per sample"),
    "seconds_per_epoch": ("training", 1, "s per epoch"),
    "peak_memory_mib": ("peak memory", 1 / 1024, "GiB, training"),
    "seconds_per_case": ("prediction", 1, "s per case"),
}
"""Column of models.csv -> title, factor and unit of its panel."""
APART = 0.24
"""Distance of neighbouring models, or pairs, where a metric's place is 1 wide."""


@style.styled
def draw(
    path: Path,
    found: Iterable[Result],
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    costs: pd.DataFrame,
    *,
    recipe: str,
    synthetic: bool,
) -> None:
    """Means with their intervals and every case above, differences of pairs below them, costs at the bottom.

    found: the models' results, and those of their grids' ceilings. scores: (model, case) -> metric. comparisons, costs:
    as in comparisons.csv and models.csv. recipe: how the models were trained, in words. A model that has not finished
    is named as such and has no marks.
    """
    values = {each.key.partition(".")[2]: each for each in found}
    figure = Figure(figsize=(style.WIDTH, 7.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(5.4, 2))
    panels = above.subplots(2, 2, width_ratios=(3, 1.25), height_ratios=(1.25, 1))
    for column, metrics in enumerate((DICE, DISTANCES)):
        _scores(panels[0, column], metrics, values, scores)
        _differences(panels[1, column], metrics, comparisons)
    panels[0, 0].set(ylabel="Dice", ylim=(-0.03, 1.03))
    panels[0, 1].set_yscale("symlog", linthresh=1)
    # A distance of 0, of a mask that is rightly empty, is rare: without one the axis begins at 1 mm.
    lowest = -0.1 if (scores.reindex(columns=list(DISTANCES)) < 1).to_numpy().any() else 1
    highest = 100 if scores.empty else None
    panels[0, 1].set(ylabel="Hausdorff distance in mm", ylim=(lowest, highest))
    panels[0, 1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[1, 0].set(ylabel="difference of Dice")
    panels[1, 1].set(ylabel="difference in mm")
    _legends(above, costs, comparisons)
    for axis, (name, (title, factor, unit)) in zip(below.subplots(1, len(COSTS)), COSTS.items(), strict=True):
        _cost(axis, costs, name, factor)
        axis.set_title(title, loc="left")
        axis.set_xlabel(unit)
    for axis in below.axes[1:]:
        axis.set_yticklabels([])
    n = scores.index.get_level_values("case").nunique()
    cases = f"{plural(n, 'test phantom' if synthetic else 'test patient')}, the same for every model; {recipe}"
    style.heading(figure, f"{cases}: mean, 95 % interval and cases" if n > 1 else cases, synthetic=synthetic)
    style.save(figure, path, dpi=style.RUN_DPI)


def _scores(axis: Axes, metrics: dict[str, str], values: dict[str, Result], scores: pd.DataFrame) -> None:
    """Per metric a mark for each model; a dashed line is the ceiling of the model's grid."""
    models = scores.index.get_level_values("model").unique()
    for (number, model), (place, metric) in ((a, b) for a in enumerate(MODELS) for b in enumerate(metrics)):
        if model not in models:
            continue
        x, colour = place + APART * (number - 1), COLOURS[model]
        cases = scores.loc[model, metric].dropna()
        spread = np.linspace(-0.07, 0.07, len(cases)) if len(cases) > 1 else np.zeros(len(cases))
        axis.plot(x + spread, cases, ".", color=colour, alpha=0.55, markersize=4.5, markeredgewidth=0, zorder=1)
        mean = values[f"{model}__{metric}"]
        if mean.low is not None:
            axis.plot([x, x], [mean.low, mean.high], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
        if mean.value is not None:
            axis.plot(x, mean.value, MARKS[model], color=colour, markersize=5, zorder=3, clip_on=False)
        ceiling = values.get(f"geometric_ceiling.{model}__{metric}")
        if ceiling is not None and ceiling.value is not None and metric in DICE:
            axis.hlines(ceiling.value, x - 0.1, x + 0.1, color=colour, linewidth=0.9, linestyle=(0, (2, 1)), zorder=2)
    _places(axis, metrics)


def _differences(axis: Axes, metrics: dict[str, str], comparisons: pd.DataFrame) -> None:
    """Per metric a mark for each pair: filled as the model, edged as the one it is compared with."""
    pairs = list(comparisons[["model", "against"]].drop_duplicates().itertuples(index=False, name=None))
    axis.axhline(0, color="0.2", linewidth=0.6)
    for row in comparisons[comparisons["metric"].isin(metrics)].itertuples():
        x = list(metrics).index(row.metric) + APART * (pairs.index((row.model, row.against)) - (len(pairs) - 1) / 2)
        if math.isfinite(row.low):
            axis.plot([x, x], [row.low, row.high], color="0.4", linewidth=1.2, solid_capstyle="butt")
        axis.plot(x, row.difference, **_pair(row.model, row.against))
        if row.p_holm < results.LEVEL:
            axis.annotate("*", (x, max(row.high, row.difference)), (0, 1), textcoords="offset points", ha="center")
    better = "above" if metrics is DICE else "below"
    axis.set_title(f"{better} 0: the first is better", loc="right", color="0.3", fontsize=7)
    _places(axis, metrics)


def _places(axis: Axes, metrics: dict[str, str]) -> None:
    axis.set(xticks=range(len(metrics)), xticklabels=metrics.values(), xlim=(-0.5, len(metrics) - 0.5))
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="y", color="0.9", linewidth=0.5)
    axis.set_axisbelow(True)


def _pair(model: str, against: str) -> dict[str, object]:
    return {
        "marker": MARKS[model],
        "linestyle": "",
        "markersize": 5.5,
        "markerfacecolor": COLOURS[model],
        "markeredgecolor": COLOURS[against],
        "markeredgewidth": 1.4,
    }


def _legends(figure: Figure, costs: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    marks = []
    for model, state in costs.set_index("model")["state"].items():
        name = MODELS[model] + ("" if state == "finished" else f" ({state.partition(':')[0]})")
        marks.append(Line2D([], [], marker=MARKS[model], linestyle="", color=COLOURS[model], label=name))
    marks.append(Line2D([], [], color="0.3", linewidth=0.9, linestyle=(0, (2, 1)), label="ceiling of the model's grid"))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
    pairs = comparisons[["model", "against"]].drop_duplicates().itertuples(index=False, name=None)
    marks = [
        Line2D([], [], **_pair(model, against), label=f"{MODELS[model]} − {MODELS[against]}")
        for model, against in pairs
    ]
    marks.append(Line2D([], [], marker="$*$", linestyle="", color="black", label=f"p < {results.LEVEL:g} after Holm"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))


def _cost(axis: Axes, costs: pd.DataFrame, name: str, factor: float) -> None:
    values = costs[name].to_numpy(float) * factor
    bars = axis.barh(range(len(costs)), np.nan_to_num(values), height=0.6, color=[COLOURS[m] for m in costs["model"]])
    labels = ["-" if math.isnan(value) else f"{value:.3g}" for value in values]
    axis.bar_label(bars, labels=labels, padding=2, fontsize=7)
    axis.set(yticks=range(len(costs)), yticklabels=[MODELS[model] for model in costs["model"]], xticks=[])
    axis.set_ylim(len(costs) - 0.5, -0.5)
    axis.margins(x=0.45)
    axis.tick_params(axis="y", length=0)
    axis.spines["bottom"].set_visible(False)

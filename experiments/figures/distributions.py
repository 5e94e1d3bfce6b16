"""Figures 6 and 8: how scores spread over cases, and Dice by the size of a label."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.picture import CLASS_COLOURS
from common.summary import MISSED_HAUSDORFF_MM, apply_empty_policy
from experiments.base import results
from experiments.drawing.style import REPORT_COLOUR, WIDTH, heading, styled
from experiments.figures.sources import Drawing, Sources
from experiments.segmentation.label_size import PART_MARKS, draw_label_sizes

REGIONS = ("TC", "WT")
BINS = 20


def unet3d_histograms(sources: Sources) -> Drawing:
    """Fig. 6: the 3D U-Net's Dice per class and Hausdorff distances of TC and WT."""
    run = sources.run("unet3d")
    cases = run.cases()
    policy = run.entry("config.json", "options").get("empty_masks", "brats")
    with run.readable():
        valued = apply_empty_policy(cases, policy)
    figure = draw_histograms(cases, valued, text=f"3D U-Net: {len(cases)} test cases", synthetic=run.synthetic)
    charged = f" (the run's table charges {MISSED_HAUSDORFF_MM} mm for them)" if policy == "brats" else ""
    caption = (
        f"Dice of NCR, ED and ET (A) and Hausdorff distance of TC and WT (B) over {len(cases)} test cases of the 3D "
        "U-Net. Missed: in the truth only; invented: predicted only; absent: in neither. "
        "Missed and invented masks have no distance: the hatched bar counts them, the mean drawn is that of the others"
        f"{charged}. Dashed: the report's mean. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


def absences(cases: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    """Which cases' mask is missed (in the truth only), invented (predicted only) or absent (in neither)."""
    true, predicted = (cases[f"volume_{part}_ml_{name}"] > 0 for part in ("truth", "predicted"))
    return {"missed": true & ~predicted, "invented": ~true & predicted, "absent": ~true & ~predicted}


@styled
def draw_histograms(cases: pd.DataFrame, valued: pd.DataFrame, *, text: str, synthetic: bool) -> Figure:
    """cases: scores as they were measured. valued: the same with empty masks valued by the policy."""
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    above, below = figure.subfigures(2, 1)
    dice, distances = above.subplots(1, len(CLASS_COLOURS), sharey=True), below.subplots(1, len(REGIONS), sharey=True)
    said = results.reported()["unet3d"]
    for axis, (name, colour) in zip(dice, CLASS_COLOURS.items(), strict=True):
        values = valued[f"dice_{name}"].dropna()
        axis.hist(values, bins=np.linspace(0, 1, BINS + 1), color=colour, edgecolor="0.3", linewidth=0.5)
        axis.set(xlabel=f"Dice {name}", xlim=(0, 1), title=_counted(name, len(values), absences(cases, name)))
        _means(axis, values, said[f"dice_{name}"].value)
    for axis, name in zip(distances, REGIONS, strict=True):
        gone = absences(cases, name)
        lost = gone["missed"] | gone["invented"]
        values = valued.loc[~lost, f"hd_{name}"].dropna()
        high = max(10.0, 1.05 * float(values.max())) if len(values) else 10.0
        axis.hist(values, bins=np.linspace(0, high, BINS + 1), color="0.75", edgecolor="0.3", linewidth=0.5)
        if lost.any():
            width = high / BINS
            axis.bar(1.1 * high, lost.sum(), width, color="white", edgecolor="0.3", linewidth=0.5, hatch="////")
            axis.text(1.1 * high, lost.sum(), "none", fontsize=6, ha="center", va="bottom")
        axis.set(
            xlabel=f"Hausdorff distance {name} (mm)",
            xlim=(0, None),
            title=_counted(name, len(values) + lost.sum(), gone),
        )
        _means(axis, values, said[f"hd_{name}"].value, what="mean of those with a distance" if lost.any() else "mean")
    for letter, axes in (("A", dice), ("B", distances)):
        axes[0].set_ylim(0, 1.35 * axes[0].get_ylim()[1])  # room for the legends above the bars
        axes[0].set_ylabel("test cases")
        axes[0].yaxis.get_major_locator().set_params(integer=True)
        axes[0].annotate(
            letter, (0, 1), (-26, 16), xycoords="axes fraction", textcoords="offset points", fontweight="bold"
        )
    heading(figure, text, synthetic=synthetic)
    return figure


def _counted(name: str, n: int, gone: Mapping[str, pd.Series]) -> str:
    counts = ", ".join(f"{which.sum()} {word}" for word, which in gone.items())
    return f"{name}, n = {n}\n{counts}"


def _means(axis: Axes, values: pd.Series, reported: float, *, what: str = "mean") -> None:
    if len(values):
        axis.axvline(values.mean(), color="black", linewidth=1, label=f"{what} {results.short(float(values.mean()))}")
    axis.axvline(reported, color=REPORT_COLOUR, linewidth=1, linestyle="--", label=f"report {results.short(reported)}")
    axis.legend(loc="upper left" if axis.get_xlim()[1] <= 1 else "upper right")


def label_sizes(sources: Sources) -> Drawing:
    """Fig. 8: the size of a label against its Dice, per class, missed labels counted."""
    run = sources.run("table2_final")
    sizes = run.table("label_size.csv", ("case", "part", "class", "volume_truth_ml", "dice", "state"))
    with run.readable():
        if unknown := set(sizes["part"]) - set(PART_MARKS):
            raise ValueError(f"{run.folder / 'label_size.csv'}: expected parts {set(PART_MARKS)}, found {unknown}")
    n = {part: sizes.loc[sizes["part"] == part, "case"].nunique() for part in PART_MARKS}
    text = f"Final SegResNet: {' and '.join(f'{count} {part} cases' for part, count in n.items() if count)}"
    figure = draw_label_sizes(sizes, text=text, synthetic=run.synthetic)
    caption = (
        f"Volume of a label in the truth against its Dice, per class: the final SegResNet on {n['validation']} "
        f"validation and {n['test']} test cases. Missed: the prediction has no voxel of the label in common with the "
        "truth (Dice 0). Spearman: rank correlation, with its 95 % interval. Labels that the truth lacks have no "
        f"size: they are counted, not drawn. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)

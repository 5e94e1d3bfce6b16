"""Learning curves by epoch."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing.style import PART_COLOURS, WIDTH, heading, save_for_screen, styled

SEGMENTATION_CURVES = {
    "loss": "loss",
    "accuracy": "accuracy\n(voxels, background included)",
    "mean_dice": "Dice\n(mean of NCR, ED, ET)",
}
CLASSIFICATION_CURVES = {
    "loss": "loss\n(binary cross-entropy)",
    "accuracy": "accuracy\n(patients, threshold 0.5)",
    "auc": "ROC AUC",
}
"""What is drawn by epoch, where the history has it for training or for validation."""


def draw_history(
    path: Path, history: pd.DataFrame, *, synthetic: bool, curves: Mapping[str, str] = SEGMENTATION_CURVES
) -> None:
    """Learning curves by epoch, in training and in validation, as far as the run recorded them.

    curves: column of the history -> label.
    """
    save_for_screen(learning_curves(history, curves, synthetic=synthetic), path)


@styled
def learning_curves(history: pd.DataFrame, curves: Mapping[str, str], *, text: str = "", synthetic: bool) -> Figure:
    """One panel per curve that the history has. text: of the line above."""
    curves = {name: label for name, label in curves.items() if {name, f"validation_{name}"} & set(history)}
    figure = Figure(figsize=(WIDTH, 2.4 if len(curves) > 1 else 3), layout="constrained")
    for axis, (name, label) in zip(
        figure.subplots(1, len(curves), squeeze=False, sharex=True)[0], curves.items(), strict=True
    ):
        for column, (part, colour) in zip((name, f"validation_{name}"), PART_COLOURS.items(), strict=True):
            if column in history:
                known = history.dropna(subset=column)
                axis.plot(known["epoch"], known[column], color=colour, marker=".", markersize=3, label=part)
        axis.set(xlabel="epoch", ylabel=label)
        axis.set_xlim(left=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if name != "loss":
            axis.set_ylim(0, 1)
        axis.legend()
    heading(figure, text, synthetic=synthetic)
    return figure

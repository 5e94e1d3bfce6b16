"""Pictures in a run's folder: truth and prediction over the scan, and the learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.subject import Subject
from experiments.figures import style
from experiments.figures.display import Row, View, box, cut, draw_rows, overlay, window
from experiments.figures.style import CLASS_COLOURS, PART_COLOURS, WIDTH, heading, styled

__all__ = [
    "CLASSIFICATION_CURVES",
    "CLASS_COLOURS",
    "SEGMENTATION_CURVES",
    "Slice",
    "draw_history",
    "draw_overlays",
    "learning_curves",
    "save",
    "truth_and_prediction",
    "tumour_slice",
]

SHOWN_CONTRASTS = ("FLAIR", "T1ce")
MOST_CASES = 5


@dataclass(frozen=True)
class Slice:
    """One axial slice as it is looked at: rows from front to back, the patient's left on the right.

    images: contrast -> (row, column). truth, predicted: classes (row, column). position: index along z, from the feet.
    view: its voxels' size and directions.
    """

    images: Mapping[str, np.ndarray]
    truth: np.ndarray
    predicted: np.ndarray
    position: int
    view: View


def tumour_slice(subject: Subject, predicted: np.ndarray, truth: np.ndarray) -> Slice:
    """The axial slice with the largest tumour area in the truth (in the prediction, where the truth has none)."""
    images, scan = subject.load_images(SHOWN_CONTRASTS)
    shown, view = cut((truth, predicted, *images), scan.affine)
    area = np.count_nonzero(shown[0] if truth.any() else shown[1], axis=(1, 2))
    position = int(area.argmax())
    true, guess, *grey = (volume[position].copy() for volume in shown)
    return Slice(dict(zip(SHOWN_CONTRASTS, grey, strict=True)), true, guess, position, view)


def draw_overlays(path: Path, slices: Mapping[str, Slice], cases: pd.DataFrame, *, synthetic: bool) -> None:
    """The best, the worst and the cases between them by WT Dice: scans, truth and prediction side by side."""
    ranked = cases.sort_values("dice_WT", ascending=False, kind="stable")
    chosen = ranked.iloc[np.unique(np.linspace(0, len(ranked) - 1, min(MOST_CASES, len(ranked))).round().astype(int))]
    rows = [(case["case"], slices[case["case"]], case) for _, case in chosen.iterrows()]
    save(truth_and_prediction(rows, synthetic=synthetic), path)


def truth_and_prediction(
    cases: Sequence[tuple[str, Slice, Mapping[str, float]]], *, text: str = "", synthetic: bool
) -> Figure:
    """FLAIR, T1ce, truth and prediction, one row per case.

    cases: what each is called, its slice, and its Dice as ``dice_WT`` and so on. text: of the line above.
    """
    rows = []
    for name, shown, dice in cases:
        inside = box(np.stack(list(shown.images.values())))
        grey = [window(image)[inside] for image in shown.images.values()]
        labels = [overlay(grey[0], classes[inside]) for classes in (shown.truth, shown.predicted)]
        values = ", ".join(f"{mask} {dice[f'dice_{mask}']:.2f}" for mask in ("WT", *CLASS_COLOURS))
        rows.append(Row(f"{name}, slice {shown.position + 1}", f"Dice {values}", (*grey, *labels), shown.view))
    return draw_rows(rows, (*SHOWN_CONTRASTS, "truth", "prediction"), text=text, synthetic=synthetic)


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
    save(learning_curves(history, curves, synthetic=synthetic), path)


@styled
def learning_curves(history: pd.DataFrame, curves: Mapping[str, str], *, text: str = "", synthetic: bool) -> Figure:
    """One panel per curve that the history has. text: of the line above."""
    curves = {name: label for name, label in curves.items() if {name, f"validation_{name}"} & set(history)}
    figure = Figure(figsize=(WIDTH, 2.4 if len(curves) > 1 else 3), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for column, (part, colour) in zip((name, f"validation_{name}"), PART_COLOURS.items(), strict=True):
            if column in history:
                known = history.dropna(subset=column)
                axis.plot(known["epoch"], known[column], color=colour, marker=".", markersize=3, label=part)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if name != "loss":
            axis.set_ylim(0, 1)
        axis.legend()
    heading(figure, text, synthetic=synthetic)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture of a run's folder."""
    style.save(figure, path, dpi=style.RUN_DPI)

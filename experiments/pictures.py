"""Pictures in a run's folder: truth and prediction over the scan, and the learning curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.files import atomic_path
from common.labels import CLASSES
from common.nifti import to_axes
from common.subject import Subject

CLASS_COLOURS = {"NCR": "#d55e00", "ED": "#56b4e9", "ET": "#f0e442"}
"""Okabe and Ito's colours: told apart with any colour vision, and on grey."""
SHOWN_CONTRASTS = ("FLAIR", "T1ce")
MOST_CASES = 5


@dataclass(frozen=True)
class Slice:
    """One axial slice as it is looked at: rows from front to back, the patient's left on the right.

    images: contrast -> (row, column). truth, predicted: classes (row, column). position: index along z.
    """

    images: Mapping[str, np.ndarray]
    truth: np.ndarray
    predicted: np.ndarray
    position: int


def tumour_slice(subject: Subject, predicted: np.ndarray, truth: np.ndarray) -> Slice:
    """The axial slice with the largest tumour area in the truth (in the prediction, where the truth has none)."""
    images, scan = subject.load_images(SHOWN_CONTRASTS)
    shown = [to_axes(volume, scan.affine, "LPS") for volume in (truth, predicted, *images)]
    area = np.count_nonzero(shown[0] if truth.any() else shown[1], axis=(0, 1))
    position = int(area.argmax())
    true, guess, *grey = (volume[:, :, position].T.copy() for volume in shown)
    return Slice(dict(zip(SHOWN_CONTRASTS, grey, strict=True)), true, guess, position)


def draw_overlays(path: Path, slices: Mapping[str, Slice], cases: pd.DataFrame, *, synthetic: bool) -> None:
    """The best, the worst and the cases between them by WT Dice: scans, truth and prediction side by side."""
    ranked = cases.sort_values("dice_WT", ascending=False, kind="stable")
    chosen = ranked.iloc[np.unique(np.linspace(0, len(ranked) - 1, min(MOST_CASES, len(ranked))).round().astype(int))]
    figure = Figure(figsize=(10, 2.6 * len(chosen) + 0.7), layout="constrained")
    axes = figure.subplots(len(chosen), 4, squeeze=False)
    for row, (_, case) in zip(axes, chosen.iterrows(), strict=True):
        view = slices[case["case"]]
        rows, columns = _crop(next(iter(view.images.values())))
        grey = {name: _windowed(image)[rows, columns] for name, image in view.images.items()}
        base = grey[SHOWN_CONTRASTS[0]]
        for axis, image, labels in zip(
            row,
            (*grey.values(), base, base),
            (None, None, view.truth[rows, columns], view.predicted[rows, columns]),
            strict=True,
        ):
            axis.imshow(image if labels is None else _overlay(image, labels), cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        dice = ", ".join(f"{name} {case[f'dice_{name}']:.2f}" for name in ("WT", "NCR", "ED", "ET"))
        row[0].set_title(f"{case['case']}, slice {view.position}", loc="left", fontsize=9)
        row[3].set_title(f"Dice {dice}", loc="right", fontsize=9)
    for axis, name in zip(axes[-1], (*SHOWN_CONTRASTS, "truth", "prediction"), strict=True):
        axis.text(0.5, -0.04, name, transform=axis.transAxes, ha="center", va="top", fontsize=10)
    handles = [Line2D([], [], marker="s", linestyle="", color=colour, label=n) for n, colour in CLASS_COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    figure.suptitle("Synthetic phantoms" if synthetic else " ", x=0.01, ha="left", fontsize=10)
    save(figure, path)


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
    curves = {name: label for name, label in curves.items() if {name, f"validation_{name}"} & set(history)}
    figure = Figure(figsize=(4 * len(curves), 3), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for column, part, colour in ((name, "training", "#0072b2"), (f"validation_{name}", "validation", "#d55e00")):
            if column in history:
                known = history.dropna(subset=column)
                axis.plot(known["epoch"], known[column], color=colour, marker=".", markersize=3, label=part)
        axis.set(xlabel="epoch", ylabel=label)
        if name != "loss":
            axis.set_ylim(0, 1)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    if synthetic:
        figure.suptitle("Synthetic phantoms", x=0.01, ha="left", fontsize=10)
    save(figure, path)


def _windowed(image: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1]: black at 0, white at the 99.5th percentile of the brain."""
    brain = image[image != 0]
    white = np.percentile(brain, 99.5) if brain.size else 1.0
    return np.clip(image / max(float(white), np.finfo(float).tiny), 0, 1)


def _overlay(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels in colour over the grey slice, (row, column, rgb)."""
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for name, colour in CLASS_COLOURS.items():
        rgb[labels == CLASSES.index(name)] *= 0.45
        rgb[labels == CLASSES.index(name)] += 0.55 * np.array(to_rgb(colour))
    return rgb


def _crop(image: np.ndarray, margin: int = 4) -> tuple[slice, slice]:
    """Rows and columns that hold the brain, with a margin."""
    cuts = []
    for axis in (1, 0):
        inside = np.flatnonzero((image != 0).any(axis=axis))
        low, high = (inside[0], inside[-1]) if inside.size else (0, image.shape[1 - axis] - 1)
        cuts.append(slice(max(0, low - margin), high + margin + 1))
    return cuts[0], cuts[1]


def save(figure: Figure, path: Path) -> None:
    """Write a figure under a temporary name first; made without pyplot it has no window, global state or leak."""
    with atomic_path(path) as temporary, matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(temporary, format=path.suffix.removeprefix("."))

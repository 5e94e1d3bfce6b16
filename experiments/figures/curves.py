"""Figures 3, 5, 16 and 17: learning curves, beside what the report reads off its own."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.base import results
from experiments.drawing import curves
from experiments.drawing.style import REPORT_COLOUR, styled
from experiments.figures.sources import Drawing, FinishedRun, Sources

SEGMENTATION = {name: curves.SEGMENTATION_CURVES[name] for name in ("accuracy", "loss", "mean_dice")}
CLASSIFICATION = {name: curves.CLASSIFICATION_CURVES[name] for name in ("accuracy", "loss")}


def unet25d_curves(sources: Sources) -> Drawing:
    """Fig. 3: the 2.5D U-Net's accuracy and loss."""
    return _segmentation(sources.run("unet25d"), "2.5D U-Net")


def unet3d_curves(sources: Sources) -> Drawing:
    """Fig. 5: the 3D U-Net's accuracy and loss."""
    return _segmentation(sources.run("unet3d"), "3D U-Net")


def flair_curves(sources: Sources) -> Drawing:
    """Fig. 16: the FLAIR model's accuracy and loss."""
    return _classification(sources.run("mgmt_ensemble"), "FLAIR")


def t1w_curves(sources: Sources) -> Drawing:
    """Fig. 17: the T1w model's accuracy and loss."""
    return _classification(sources.run("mgmt_ensemble"), "T1w")


def _segmentation(run: FinishedRun, network: str) -> Drawing:
    history = run.table("history.csv", ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy"))
    used = (
        best_epoch(history) if run.entry("config.json", "model").get("checkpoint") == "best" else history["epoch"].max()
    )
    optimum = results.reported()[run.experiment]["optimum_epoch"].value
    n, kind = run.n, "subjects"
    figure = draw_segmentation(
        history, used=int(used), optimum=optimum, text=f"{network}: {_parts(n, kind)}", synthetic=run.synthetic
    )
    beyond = "" if optimum <= history["epoch"].max() else ", beyond this run's last"
    caption = (
        f"Training and validation accuracy (A), loss (B) and mean Dice (C) of the {network} by epoch, on "
        f"{_parts(n, kind)}. Accuracy counts voxels, most of them background; its axis does not begin at 0. Weights of "
        f"epoch {used:g} are used; the report finds its optimum around epoch {optimum}{beyond}. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


@styled
def draw_segmentation(history: pd.DataFrame, *, used: int, optimum: int, text: str, synthetic: bool) -> Figure:
    """used: epoch of the weights. optimum: the report's, drawn where the run went as far."""
    figure = curves.learning_curves(history, SEGMENTATION, text=text, synthetic=synthetic)
    for axis in figure.axes:
        axis.axvline(used, color="black", linewidth=0.8, linestyle=":", label=f"weights used: epoch {used}")
        if optimum <= history["epoch"].max():
            label = f"report: optimum about epoch {optimum}"
            axis.axvline(optimum, color=REPORT_COLOUR, linewidth=0.8, linestyle="--", label=label)
    accuracy = history[["accuracy", "validation_accuracy"]].min().min()
    figure.axes[0].set_ylim(np.floor(20 * accuracy) / 20, 1)
    return _lettered(figure)


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch with the lowest validation loss, the first of several."""
    return int(history.loc[history["validation_loss"].idxmin(), "epoch"])


def _classification(run: FinishedRun, contrast: str) -> Drawing:
    history = run.table(
        f"{contrast}/history.csv", ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy")
    )
    n = run.n
    figure = draw_classification(
        history, contrast, text=f"{contrast} model: {_parts(n, 'patients')}", synthetic=run.synthetic
    )
    caption = (
        f"Training and validation accuracy (A) and loss (B) of the {contrast} model by epoch, on "
        f"{_parts(n, 'patients')}. Grey marks are what the report reads off its own curves (training accuracy of the "
        "first and the last epoch, "
        f"validation accuracy throughout), not results of this run. {run.origin}"
    )
    return Drawing(figure, caption, run.synthetic)


@styled
def draw_classification(history: pd.DataFrame, contrast: str, *, text: str, synthetic: bool) -> Figure:
    """Accuracy with the report's values as grey marks, and loss."""
    figure = curves.learning_curves(history, CLASSIFICATION, text=text, synthetic=synthetic)
    said = results.reported()["mgmt_ensemble"]
    first, last, flat = (
        said[f"{contrast}__{name}"].value
        for name in ("train_accuracy_first", "train_accuracy_last", "validation_accuracy")
    )
    ends = history["epoch"].min(), history["epoch"].max()
    axis = figure.axes[0]
    axis.plot(
        ends, (first, last), linestyle="", marker="D", markersize=5, markerfacecolor="none", color=REPORT_COLOUR,
        label=f"report: training, {first:g} to {last:g}", clip_on=False,
    )  # fmt: skip
    axis.axhline(flat, color=REPORT_COLOUR, linewidth=0.8, linestyle="--", label=f"report: validation, about {flat:g}")
    return _lettered(figure)


def _lettered(figure: Figure) -> Figure:
    """Panels named A, B, C, and one legend for all below them."""
    for letter, axis in zip("ABC", figure.axes, strict=False):
        axis.set_title(letter, loc="left", fontweight="bold")
        axis.get_legend().remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def _parts(n: dict[str, int], kind: str) -> str:
    return f"{n['train']} training and {n['validation']} validation {kind}"

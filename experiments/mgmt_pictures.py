"""Pictures of the MGMT experiments: ROC curves and the grid as the report prints it (Fig. 13)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from common.classification import auc_interval, roc_auc
from experiments.pictures import save

COLOURS = ("#0072b2", "#d55e00", "#000000", "#009e73")
"""Of Okabe and Ito's: told apart with any colour vision."""


def draw_roc(path: Path, probabilities: Mapping[str, np.ndarray], labels: np.ndarray, *, synthetic: bool) -> None:
    """ROC curves by name, on the same patients, with AUC and interval in the legend, and the diagonal of chance."""
    figure = Figure(figsize=(5, 5.2), layout="constrained")
    axis = figure.subplots()
    for (name, values), colour in zip(probabilities.items(), COLOURS, strict=False):
        false, true, _ = roc_curve(labels, values, drop_intermediate=False)
        low, high = auc_interval(values, labels)
        label = f"{name}: {roc_auc(values, labels):.3f} ({low:.3f} to {high:.3f})"
        axis.plot(false, true, color=colour, label=label, drawstyle="steps-post")
    axis.plot((0, 1), (0, 1), color="0.6", linestyle=":", label="chance")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
    axis.legend(frameon=False, loc="lower right", title="AUC (95 % interval)")
    axis.spines[["top", "right"]].set_visible(False)
    phantoms = "synthetic phantoms, " if synthetic else ""
    figure.suptitle(f"{phantoms}{len(labels)} test patients".capitalize(), x=0.01, ha="left", fontsize=10)
    save(figure, path)


def draw_grid(path: Path, cells: pd.DataFrame, *, chance: tuple[float, float], synthetic: bool) -> None:
    """Threshold, loss and AUC by contrast, number of images and batch size; each contrast's best cell in bold.

    cells: columns contrast, images, batch_size, threshold, loss, auc. chance: the best AUC of all cells to be expected
    without any signal, and what 5 % of such studies exceed.
    """
    contrasts = list(dict.fromkeys(cells["contrast"]))
    figure = Figure(figsize=(9, 1.75 * len(contrasts) + 0.8), layout="constrained")
    for axis, contrast in zip(figure.subplots(len(contrasts), 1, squeeze=False)[:, 0], contrasts, strict=True):
        own = cells[cells["contrast"] == contrast].sort_values(["batch_size", "images"])
        best = int(own["auc"].to_numpy().argmax())
        rows = {
            "images": own["images"].astype(str),
            "batch size": own["batch_size"].astype(str),
            "best threshold": own["threshold"].map("{:.3f}".format),
            "loss": own["loss"].map("{:.3f}".format),
            "ROC AUC": own["auc"].map("{:.3f}".format),
        }
        table = axis.table([list(row) for row in rows.values()], rowLabels=list(rows), loc="center", cellLoc="center")
        table.scale(1, 1.25)
        for (row, column), cell in table.get_celld().items():
            cell.set_edgecolor("0.8")
            if column == best and row >= 2:
                cell.set_text_props(weight="bold")
        axis.set_title(contrast, loc="left", fontsize=10)
        axis.set_axis_off()
    expected, high = chance
    phantoms = "Synthetic phantoms. " if synthetic else ""
    figure.suptitle(
        f"{phantoms}Best of {len(cells)} without signal: {expected:.3f} expected, above {high:.3f} in 5 % of studies",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    save(figure, path)

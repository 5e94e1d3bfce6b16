"""Pictures of the MGMT experiments: ROC curves and the grid as the report prints it (Fig. 13)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from common.classification import auc_interval, roc_auc
from experiments.drawing.style import REPORT_COLOUR, WIDTH, heading, save_for_screen, styled

COLOURS = ("#0072b2", "#d55e00", "#000000", "#009e73")
"""Of Okabe and Ito's: told apart with any colour vision."""
LINE = 0.19
"""Height of a table's line, in inches."""


@styled
def draw_roc(path: Path, probabilities: Mapping[str, np.ndarray], labels: np.ndarray, *, synthetic: bool) -> None:
    """ROC curves by name, on the same patients, with AUC and interval in the legend, and the diagonal of chance."""
    figure = Figure(figsize=(4.2, 4.4), layout="constrained")
    axis = figure.subplots()
    for number, ((name, values), colour) in enumerate(zip(probabilities.items(), COLOURS, strict=False)):
        false, true, _ = roc_curve(labels, values, drop_intermediate=False)
        low, high = auc_interval(values, labels)
        label = f"{name}: {roc_auc(values, labels):.3f} ({low:.3f} to {high:.3f})"
        width = max(1.2, 3.2 - 1.0 * number)  # of curves that coincide all are seen
        axis.plot(false, true, color=colour, label=label, linewidth=width)
    axis.plot((0, 1), (0, 1), color="0.6", linestyle=":", label="chance")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
    axis.legend(loc="lower right", title="AUC (95 % interval)")
    heading(figure, f"{len(labels)} test patients", synthetic=synthetic)
    save_for_screen(figure, path)


def draw_grid(path: Path, cells: pd.DataFrame, *, chance: tuple[float, float], synthetic: bool) -> None:
    """Threshold, loss and AUC by contrast, number of images and batch size; each contrast's best cell in bold.

    cells: columns contrast, images, batch_size, threshold, loss, auc. chance: the best AUC of all cells to be expected
    without any signal, and what 5 % of such studies exceed.
    """
    expected, high = chance
    text = f"Best of {len(cells)} without signal: {expected:.3f} expected, above {high:.3f} in 5 % of studies"
    text += "; bold: a contrast's best"
    save_for_screen(grid_table(cells, text=text, synthetic=synthetic), path)


@styled
def grid_table(cells: pd.DataFrame, *, text: str, synthetic: bool) -> Figure:
    """The grid as a table, contrasts below each other, each with its best AUC in bold.

    cells: as of :func:`draw_grid`, and where they are known low and high of the AUC's interval and reported, the
    report's AUC (nan where it has none). text: of the line above.
    """
    contrasts = list(dict.fromkeys(cells["contrast"]))
    columns = cells[["batch_size", "images"]].drop_duplicates().sort_values(["batch_size", "images"])
    columns = list(columns.itertuples(index=False, name=None))
    names = ["best threshold", "loss", "ROC AUC"]
    names += ["(95 % interval)"] * ("low" in cells) + ["report's AUC"] * ("reported" in cells)
    lines = len(contrasts) * (len(names) + 0.4) + 2.4
    figure = Figure(figsize=(WIDTH, LINE * lines + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(lines, 0))
    axis.set_axis_off()
    places = np.linspace(0.325, 0.942, len(columns))

    def rule(y: float, width: float) -> None:
        axis.plot((0, 1), (y, y), color="black", linewidth=width, clip_on=False)

    def cell(x: float, y: float, words: str, **look: object) -> None:
        axis.text(x, y, words, va="center", **{"ha": "center", "fontsize": 7.5} | look)

    rule(0.2, 0.9)
    for y, name, values in (
        (0.8, "batch size", (c[0] for c in columns)),
        (1.6, "central images N", (c[1] for c in columns)),
    ):
        cell(0.11, y, name, ha="left")
        for x, value in zip(places, values, strict=True):
            cell(x, y, str(value))
    y = 2.2
    for contrast in contrasts:
        rule(y, 0.5)
        own = cells[cells["contrast"] == contrast].set_index(["batch_size", "images"])
        best = own["auc"].idxmax()
        cell(0, y + 0.7, contrast, ha="left", fontweight="bold")
        for line, name in enumerate(names):
            of_report = name.startswith("report")
            cell(0.11, y + 0.7 + line, name, ha="left", color=REPORT_COLOUR if of_report else "black")
            for x, place in zip(places, columns, strict=True):
                words = _words(own.loc[place], name) if place in own.index else "-"
                bold = place == best and name in ("best threshold", "loss", "ROC AUC")
                look = {"color": REPORT_COLOUR} if of_report else {"fontweight": "bold"} if bold else {}
                cell(x, y + 0.7 + line, words, **look, fontsize=6.5 if name.startswith("(") else 7.5)
        y += len(names) + 0.4
    rule(y, 0.9)
    heading(figure, text, synthetic=synthetic)
    return figure


def _words(cell: pd.Series, name: str) -> str:
    values = {"best threshold": "threshold", "loss": "loss", "ROC AUC": "auc", "report's AUC": "reported"}
    if name in values:
        value = cell[values[name]]
        return "-" if pd.isna(value) else f"{value:.3f}"
    return "-" if pd.isna(cell["low"]) else f"({cell['low']:.3f} to {cell['high']:.3f})"

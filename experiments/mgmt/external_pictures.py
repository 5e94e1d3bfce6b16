"""Pictures of a test on other hospitals' patients: ROC curves of inside and outside, and calibration curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from common.classification import auc_interval, roc_auc
from common.transport import Sample
from experiments.drawing.style import heading, save_for_screen, styled
from experiments.mgmt.pictures import COLOURS


@styled
def draw(folder: Path, samples: Mapping[str, Sample], curves: Sequence[pd.DataFrame], *, synthetic: bool) -> None:
    """external.png. samples: inside, and each site's; curves: each site's (``common.calibration``), with its site."""
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(samples)}
    for name, sample in samples.items():
        false, true, _ = roc_curve(sample.labels, sample.values, drop_intermediate=False)
        low, high = auc_interval(sample.values, sample.labels)
        label = (
            f"{name}: {roc_auc(sample.values, sample.labels):.3f} ({low:.3f} to {high:.3f}), n = {len(sample.labels)}"
        )
        left.plot(false, true, color=colours[name], label=label)
    _frame(left, "1 - specificity", "sensitivity", "chance")
    left.legend(loc="lower right", title="AUC (95 % interval)")
    for curve in curves:
        name = str(curve["site"].iloc[0])
        spread = (curve["observed"] - curve["low"], curve["high"] - curve["observed"])
        right.errorbar(
            curve["expected"], curve["observed"], yerr=spread, color=colours[name], marker="o", capsize=2, label=name
        )
    _frame(right, "predicted probability", "share methylated (95 % interval)", "calibrated")
    right.legend(loc="upper left")
    heading(figure, "Inside: the run's own test part; outside: other hospitals", synthetic=synthetic)
    save_for_screen(figure, folder / "external.png")


def _frame(axis: Axes, x: str, y: str, diagonal: str) -> None:
    axis.plot((0, 1), (0, 1), color="0.6", linestyle=":", label=diagonal)
    axis.set(xlabel=x, ylabel=y, aspect="equal", xlim=(0, 1), ylim=(0, 1.005))

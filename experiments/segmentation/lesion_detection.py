"""Lesions of a run's test cases: their table, and a picture of size against detection, region by region."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.classification import accuracy_interval
from common.files import write_csv
from common.lesions import BRATS_2023
from experiments.drawing.style import WIDTH, heading, save_for_screen, styled

REGIONS = ("ET", "TC", "WT")
"""What the organisers score, and what is drawn."""
STATE_MARKS = {"found": ("o", "#0072b2"), "missed": ("x", "k"), "invented": ("|", "#d55e00")}


def write_lesions(folder: Path, lesions: pd.DataFrame, *, synthetic: bool) -> None:
    """lesions.csv and figures/lesions.png of a run's folder.

    lesions: as in ``common.scoring.Scores``, with a column ``view``, empty for the labels themselves, which are drawn.
    """
    write_csv(folder / "lesions.csv", lesions)
    own = lesions[(lesions["view"] == "") & (lesions["definition"] == BRATS_2023.name)]
    save_for_screen(draw_detection(own, synthetic=synthetic), folder / "figures" / "lesions.png")


def by_size(volumes_mm3: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    """Share of lesions found per decade of volume: low_mm3, high_mm3, n, share, low, high (exact 95 % interval).

    volumes_mm3, found (boolean): (n,). Decades without a lesion have no row.
    """
    decades = np.floor(np.log10(volumes_mm3)).astype(int)
    rows = []
    for decade in np.unique(decades):
        inside = found[decades == decade]
        interval = accuracy_interval(int(inside.sum()), inside.size)
        rows.append((10.0**decade, 10.0 ** (decade + 1), inside.size, inside.mean(), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["low_mm3", "high_mm3", "n", "share", "low", "high"])


@styled
def draw_detection(lesions: pd.DataFrame, *, synthetic: bool) -> Figure:
    """Dice of every lesion over its volume, and below it the share found per decade of volume.

    lesions: of one definition: region, state, counted, volume_mm3 and dice.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots(2, len(REGIONS), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    for (upper, lower), region in zip(axes.T, REGIONS, strict=True):
        own = lesions[lesions["region"] == region]
        for state, (mark, colour) in STATE_MARKS.items():
            shown = own[own["state"] == state]
            upper.plot(shown["volume_mm3"], shown["dice"], mark, color=colour, alpha=0.8, markersize=5)
        counted = own[own["counted"].astype(bool)]  # a table without rows has no types
        n = counted["state"].value_counts()
        found, missed, invented = (int(n.get(state, 0)) for state in STATE_MARKS)
        upper.set_title(f"{region}: {found} of {found + missed} lesions found\n{invented} invented", fontsize=7)
        true = counted[counted["state"] != "invented"]
        for part in by_size(true["volume_mm3"].to_numpy(), (true["state"] == "found").to_numpy()).itertuples():
            middle = np.sqrt(part.low_mm3 * part.high_mm3)
            lower.plot([part.low_mm3, part.high_mm3], [part.share] * 2, color=STATE_MARKS["found"][1])
            lower.plot([middle, middle], [part.low, part.high], color=STATE_MARKS["found"][1], linewidth=0.8)
            lower.annotate(f"{part.n}", (middle, -0.02), ha="center", va="top", fontsize=6)
        for axis in (upper, lower):
            axis.axvline(BRATS_2023.smallest(region), color="0.6", linestyle=":", linewidth=0.8)
            axis.grid(alpha=0.25, linewidth=0.5)
        upper.set(xscale="log", ylim=(-0.06, 1.04))
        lower.set(xscale="log", ylim=(-0.16, 1.04), xlabel=f"volume of {region} lesion (mm³)")
    axes[0, 0].set_ylabel("Dice of the lesion")
    axes[1, 0].set_ylabel("share found\n(95 % interval, n)")
    handles = [
        Line2D([], [], marker=mark, linestyle="", color=colour, markersize=5, label=state)
        for state, (mark, colour) in STATE_MARKS.items()
    ]
    handles.append(Line2D([], [], color="0.6", linestyle=":", label="true lesions up to here: not counted"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    text = "Lesions by BraTS 2023; found: the prediction touches the lesion, dilated by 3 voxels"
    heading(figure, text, synthetic=synthetic)
    return figure

"""One look for every picture: widths, type, lines and colours, told apart with any colour vision, and how it is saved.

Colours are Okabe and Ito's. Letters in vector files are outlines, which look the same where no font is installed.
"""

import io
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.files import atomic_path
from common.picture import CLASS_COLOURS

PART_COLOURS = {"training": "#0072b2", "validation": "#d55e00"}
"""Learning curves."""
CHOICE_COLOURS = {"central": "#0072b2", "tumour": "#e69f00"}
"""Which images of a series are taken: around the middle, or around the tumour."""
REPORT_COLOUR = "0.45"
"""Marks of the report's own numbers, which are always labelled so."""

WIDTH = 7.0
"""Of every picture, in inches: two columns of a journal's page."""
DPI = 300
RUN_DPI = 160
"""Of the pictures in a run's folder, which are looked at on a screen."""
SYNTHETIC = "Synthetic phantoms"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "glioma-suite",  # equal pictures are equal files
}
styled = matplotlib.rc_context(STYLE)
"""``@styled`` on a function that draws."""


def heading(figure: Figure, text: str = "", *, synthetic: bool) -> None:
    """The line above a picture: whether its data are synthetic, and what is shown.

    An id may hold a dollar sign, which is no mathematics here, as in every text that comes from data.
    """
    line = ". ".join(part for part in (SYNTHETIC if synthetic else "", text) if part)
    figure.suptitle(line or " ", x=0.01, ha="left", fontsize=8, parse_math=False)


def class_legend(figure: Figure, **labels: str) -> None:
    """The classes' colours below a picture. labels: what stands for a class, by default its name."""
    handles = [
        Line2D([], [], marker="s", markersize=6, linestyle="", color=colour, markeredgecolor="0.3", markeredgewidth=0.4,
               label=labels.get(name, name))
        for name, colour in CLASS_COLOURS.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def bare(axis: Axes) -> None:
    """Nothing but what is drawn: no ticks, no frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


@styled
def save(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write a picture, as its name's ending says, under a temporary name first.

    Made without pyplot it has no window, no global state and no leak.
    """
    content = written(figure, path.suffix.removeprefix("."), dpi=dpi)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@styled
def written(figure: Figure, kind: str, *, dpi: int = DPI) -> bytes:
    """A picture as the content of a file. kind: its ending."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def save_for_screen(figure: Figure, path: Path) -> None:
    """Write a picture of a run's folder."""
    save(figure, path, dpi=RUN_DPI)

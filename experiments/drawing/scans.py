"""Scans as a radiologist looks at them: the patient's left on the right, the front or the head above, voxels true to
scale. Every picture takes its orientation from the files' own directions, and writes it at its edges."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.dicom.series import Plane, plane_of
from common.nifti import to_axes
from common.picture import OPPOSITE, ROWS_AND_COLUMNS, THROUGH, View, cut, overlay, spacing_along, window
from common.subject import CONTRASTS, Subject
from experiments.drawing.style import CLASS_COLOURS, WIDTH, bare, class_legend, heading, save_for_screen, styled

MARGIN = 4
LETTER = 0.075
"""Width of one in the labels below pictures, in inches."""
SHOWN_CONTRASTS = ("FLAIR", "T1ce")
RANK_BY = ("NCR", "ED", "ET")
"""Cases are ranked by the mean Dice of these, of those that a case has."""


def turn(
    images: np.ndarray, orientation: Sequence[float], spacing_mm: tuple[float, float]
) -> tuple[np.ndarray, View, Plane]:
    """A DICOM series' images (image, row, column), turned as :class:`View` says, in their own order; the plane's name.

    orientation: ImageOrientationPatient, the directions along a row and along a column. spacing_mm: between rows,
    between columns. An oblique plane is turned like the body's plane that is nearest.
    """
    along_row, along_column = (np.array(part, float) for part in (orientation[:3], orientation[3:]))
    normal = np.cross(along_row, along_column)
    # DICOM's axes run to the patient's left and back, those of an affine to the right and front.
    directions = np.stack([normal, along_column * spacing_mm[0], along_row * spacing_mm[1]], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ directions
    through = nib.orientations.aff2axcodes(affine)[0]
    nearest = next(plane for plane, letter in THROUGH.items() if through in (letter, OPPOSITE[letter]))
    axes = through + ROWS_AND_COLUMNS[nearest]
    return (
        to_axes(images, affine, axes),
        View(spacing_along(affine, axes)[1:], ROWS_AND_COLUMNS[nearest]),
        plane_of(orientation),
    )


def box(shown: np.ndarray, margin: int = MARGIN) -> tuple[slice, slice]:
    """Rows and columns that hold what is not 0 in pictures (..., row, column), with a margin; all where all is 0."""
    flat = (shown != 0).reshape(-1, *shown.shape[-2:]).any(axis=0)
    cuts = []
    for axis in (1, 0):
        inside = np.flatnonzero(flat.any(axis=axis))
        low, high = (inside[0], inside[-1]) if inside.size else (0, flat.shape[1 - axis] - 1)
        cuts.append(slice(max(0, low - margin), high + margin + 1))
    return cuts[0], cuts[1]


def show(axis: Axes, picture: np.ndarray, view: View, *, edges: bool = True) -> None:
    """Draw grey values in [0, 1] (row, column) or colours (row, column, rgb), voxels true to scale, edges named."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=view.spacing_mm[0] / view.spacing_mm[1])
    axis.set_anchor("N")
    bare(axis)
    if edges:
        left, right, _, _ = view.edges
        for letter, place in ((left, 0.02), (right, 0.98)):
            axis.text(
                place, 0.98, letter, transform=axis.transAxes, color="white", fontsize=6, va="top",
                ha="left" if place < 0.5 else "right",
            )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Pictures of one case beside each other, of one size and view: (row, column) or (row, column, rgb). title, note:
    above the first and the last of them."""

    title: str
    note: str
    pictures: Sequence[np.ndarray]
    view: View

    @property
    def height(self) -> float:
        """Of a picture, in its widths."""
        rows, columns = self.pictures[0].shape[:2]
        return rows * self.view.spacing_mm[0] / (columns * self.view.spacing_mm[1])


@styled
def draw_rows(rows: Sequence[Row], names: Sequence[str], *, text: str, synthetic: bool) -> Figure:
    """Cases below each other. names: of the columns. text: of the line above."""
    heights = [row.height for row in rows]
    size = (WIDTH, WIDTH / len(names) * sum(heights) + 0.24 * len(rows) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False, height_ratios=heights)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row.pictures, strict=True):
            show(axis, picture, row.view)
        line[0].set_title(row.title, loc="left", parse_math=False)
        line[-1].set_title(row.note, loc="right", parse_math=False)
    for axis, name in zip(axes[-1], names, strict=True):
        axis.set_xlabel(textwrap.fill(name, int(WIDTH / len(names) / LETTER)), parse_math=False)
    class_legend(figure)
    heading(figure, text, synthetic=synthetic)
    return figure


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


def draw_subjects(path: Path, subjects: Mapping[str, Subject], *, text: str, synthetic: bool) -> None:
    """Every contrast under its name and the mask, in the axial slice with most of the tumour; a row for each subject.

    subjects: with masks, by what is written above their rows. text: of the line above all.
    """
    rows = []
    for title, subject in subjects.items():
        images, scan = subject.load_images()
        shown, view = cut((subject.load_labels(), *images), scan.affine)
        position = int(np.count_nonzero(shown[0], axis=(1, 2)).argmax())
        labels, *grey = (volume[position] for volume in shown)
        inside = box(np.stack(grey))
        pictures = [window(image)[inside] for image in grey]
        rows.append(Row(title, f"slice {position + 1}", (*pictures, overlay(pictures[0], labels[inside])), view))
    save_for_screen(draw_rows(rows, (*CONTRASTS, "mask"), text=text, synthetic=synthetic), path)


def draw_overlays(path: Path, slices: Mapping[str, Slice], cases: pd.DataFrame, *, synthetic: bool) -> None:
    """The best, median and worst case by mean Dice: scans, truth and prediction side by side.

    slices: of every case. cases: a row of scores each. Nothing is drawn where no case has a label to rank by.
    """
    order = ranked(cases)
    if order.empty:
        return
    rows = [
        (f"{rank}: {case['case']}", slices[case["case"]], case)
        for rank, case in ((rank, order.iloc[position]) for position, rank in chosen(len(order)).items())
    ]
    text = f"{which(list(chosen(len(order)).values()), len(order))}, by mean Dice of {', '.join(RANK_BY)}"
    save_for_screen(truth_and_prediction(rows, text=text, synthetic=synthetic), path)


def ranked(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases with their ``mean`` Dice over RANK_BY, the best first, without those that have none of these labels."""
    mean = cases[[f"dice_{name}" for name in RANK_BY]].mean(axis=1)
    return cases.assign(mean=mean).dropna(subset="mean").sort_values("mean", ascending=False, kind="stable")


def chosen(n: int) -> dict[int, str]:
    """Position -> rank among n cases, best first; of an even number the median is the better one of the two."""
    places = {(n - 1) // 2: "median", n - 1: "worst", 0: "best"}  # of few cases one has several ranks
    return {position: places[position] for position in sorted(places) if 0 <= position < n}


def which(ranks: Sequence[str], n: int, kind: str = "test") -> str:
    """The cases of these ranks among n, in words: ``The best, median and worst of 8 test cases``."""
    if n == 1:
        return f"The one {kind} case"
    return f"The {' and '.join(', '.join(ranks).rsplit(', ', 1))} of {n} {kind} cases"


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

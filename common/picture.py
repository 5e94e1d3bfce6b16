"""Scans as a radiologist looks at them: the patient's left on the right, the front or the head above, voxels true to
scale. The picture that an answer is checked by, and what every other picture of a scan is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import nibabel as nib
import numpy as np
import PIL.Image
import PIL.ImageDraw
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.files import atomic_path
from common.labels import CLASSES
from common.nifti import Scan, to_axes
from common.recipe import Volume

CLASS_COLOURS = {"NCR": "#d55e00", "ED": "#56b4e9", "ET": "#f0e442"}
"""The classes, on grey scans and on white paper; Okabe and Ito's."""
PROGRESS = "validation.png"
"""Of a run's figures: one fixed subject as the last validation saw it."""
PROGRESS_SCALE, PROGRESS_LINE = 2, 16
"""Pixels of a voxel there, and of a line of words."""
BodyPlane = Literal["axial", "coronal", "sagittal"]
ROWS_AND_COLUMNS: dict[BodyPlane, str] = {"axial": "PL", "coronal": "IL", "sagittal": "IP"}
"""Where rows and columns run to in a plane's picture: posterior, inferior, left."""
THROUGH: dict[BodyPlane, str] = {"axial": "S", "coronal": "A", "sagittal": "R"}
"""Where the positions of a plane's pictures run to: superior, anterior, right."""
DIRECTIONS = (-1.0, -1.0, 1.0)
"""Of a prepared subject's axes, which run to the left, back and head, in those of an affine."""
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}


@dataclass(frozen=True)
class View:
    """Pictures of one plane. spacing_mm: between rows, between columns. runs_to: the letters of the patient's sides to
    which the rows and the columns run: "PL" in axial pictures, whose right edge is the patient's left."""

    spacing_mm: tuple[float, float]
    runs_to: str

    @property
    def edges(self) -> tuple[str, str, str, str]:
        """Sides of the patient at the left, right, upper and lower edge."""
        rows, columns = tuple(self.runs_to)
        return OPPOSITE[columns], columns, OPPOSITE[rows], rows


def cut(
    volumes: Sequence[np.ndarray], affine: np.ndarray, plane: BodyPlane = "axial"
) -> tuple[tuple[np.ndarray, ...], View]:
    """Volumes (x, y, z) of one grid as stacks of pictures (position, row, column) of a plane, and how they lie.

    affine: (4, 4), from voxels to mm, to the patient's right, front and head as in NIfTI. Axial positions count from
    the feet, coronal ones from the back to the front, sagittal ones from left to right.
    """
    axes = THROUGH[plane] + ROWS_AND_COLUMNS[plane]
    view = View(spacing_along(affine, axes)[1:], ROWS_AND_COLUMNS[plane])
    return tuple(to_axes(volume, affine, axes) for volume in volumes), view


def spacing_along(affine: np.ndarray, axes: str) -> tuple[float, float, float]:
    """Voxel sizes in mm along axes that point as the letters say."""
    order = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))[:, 0]
    sizes = dict(zip(order.astype(int), nib.affines.voxel_sizes(affine), strict=True))
    return float(sizes[0]), float(sizes[1]), float(sizes[2])


def window(images: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1]: black at 0, white at the 99.5th percentile of what is not 0."""
    shown = images[images != 0]
    white = np.percentile(shown, 99.5) if shown.size else 1.0
    return np.clip(images / max(float(white), np.finfo(float).tiny), 0, 1)


def overlay(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels in the classes' colours over grey values in [0, 1] (row, column): (row, column, rgb)."""
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for name, colour in CLASS_COLOURS.items():
        rgb[labels == CLASSES.index(name)] *= 0.45
        rgb[labels == CLASSES.index(name)] += 0.55 * np.array(to_rgb(colour))
    return rgb


def draw_answer(
    path: Path, scans: Mapping[str, Scan], labels: np.ndarray, *, title: str, marks: Sequence[str] = ()
) -> None:
    """Write a PNG: in each plane the slice that crosses most of the tumour, the labels' outlines over the first scan;
    of several contrasts below it each one's axial slice under its name, by which exchanged files are seen.

    scans: by contrast, on one grid. labels: classes uint8 (x, y, z) there; where all are background, the slices are
    those in the middle. marks: what nobody who sees the picture must miss; empty ones are none.
    """
    marks = list(filter(None, marks))
    (first, scan), *_ = scans.items()
    several = len(scans) > 1
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(8, (5.4 if several else 3.2) + 0.2 * len(marks)), layout="constrained")
        upper, *lower = figure.subfigures(1 + several, 1, squeeze=False, height_ratios=(3, 2)[: 1 + several])[:, 0]
        for axis, plane in zip(upper.subplots(1, len(THROUGH)), THROUGH, strict=True):
            (grey, found), view = cut((scan.data, labels), scan.affine, plane)
            position = _most_crossed(found)
            axis.imshow(window(grey[position]), cmap="gray", aspect=view.spacing_mm[0] / view.spacing_mm[1])
            for name in ("ED", "ET", "NCR"):  # the inner ones last, whose outlines would be covered
                if (inside := found[position] == CLASSES.index(name)).any():
                    axis.contour(inside, levels=[0.5], colors=CLASS_COLOURS[name], linewidths=0.9)
            number, index = _in_file(scan.affine, plane, position, labels.shape)
            axis.set_title(f"{first}, {plane}, {'ijk'[number]} = {index}")
            axis.text(0.02, 0.98, view.edges[0], color="white", va="top", transform=axis.transAxes)
            axis.axis("off")
        for row in lower:
            for axis, (name, each) in zip(row.subplots(1, len(scans)), scans.items(), strict=True):
                (grey, found), view = cut((each.data, labels), each.affine)
                position = _most_crossed(found)
                axis.imshow(window(grey[position]), cmap="gray", aspect=view.spacing_mm[0] / view.spacing_mm[1])
                axis.set_title(name)
                axis.axis("off")
        handles = [Line2D([], [], color=colour, label=name) for name, colour in CLASS_COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        if marks:
            figure.suptitle("\n".join([title, *marks]), parse_math=False, color="#b00020")
        else:
            figure.suptitle(title, parse_math=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)


def _in_file(affine: np.ndarray, plane: BodyPlane, position: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """The axis of the file along which a plane's pictures lie, and the voxel index of one of them there, from 0."""
    (to,) = nib.orientations.axcodes2ornt(THROUGH[plane])[:, 0].astype(int)
    orientation = nib.io_orientation(affine)
    number = int(np.flatnonzero(orientation[:, 0] == to)[0])
    runs_alike = orientation[number, 1] == nib.orientations.axcodes2ornt(THROUGH[plane])[0, 1]
    return number, position if runs_alike else shape[number] - 1 - position


def _most_crossed(labels: np.ndarray) -> int:
    """The picture (position, row, column) with most labels; the one in the middle where there are none."""
    crossed = np.count_nonzero(labels, axis=(1, 2))
    return int(crossed.argmax()) if crossed.any() else len(crossed) // 2


def draw_progress(path: Path, volume: Volume, labels: np.ndarray) -> None:
    """Write a PNG of one prepared subject: the truth above, a prediction below, in three planes through the truth.

    labels: predicted classes uint8 (x, y, z) of the volume's box. Made without plotting, in milliseconds, for it is
    drawn after every validation.
    """
    image, truth = volume.image()[0], volume.labels()
    image = window(np.where(image == 0, 0, image - image.min()))  # z-scores lie on both sides of the background's 0
    affine = np.diag([*DIRECTIONS, 1.0])
    rows: list[list[np.ndarray]] = [[], []]
    for plane in THROUGH:
        (grey, wanted, found), _ = cut((image, truth, labels), affine, plane)
        position = int(np.count_nonzero(wanted, axis=(1, 2)).argmax())
        for row, shown in zip(rows, (wanted, found), strict=True):
            row.append(overlay(grey[position], shown[position]))
    size = max(max(picture.shape[:2]) for picture in rows[0])
    side = PROGRESS_SCALE * size
    page = PIL.Image.new("RGB", (side * len(THROUGH), (side + PROGRESS_LINE) * len(rows) + PROGRESS_LINE))
    draw = PIL.ImageDraw.Draw(page)
    for top, word, row in zip((0, side + PROGRESS_LINE), ("truth", "prediction"), rows, strict=True):
        for number, (plane, picture) in enumerate(zip(THROUGH, row, strict=True)):
            draw.text((side * number + 3, top + 2), f"{word}, {plane}")
            square = np.rint(255 * _padded(picture, size)).astype(np.uint8)
            enlarged = square.repeat(PROGRESS_SCALE, axis=0).repeat(PROGRESS_SCALE, axis=1)
            page.paste(PIL.Image.fromarray(enlarged), (side * number, top + PROGRESS_LINE))
    for number, (name, colour) in enumerate(CLASS_COLOURS.items()):
        draw.text((3 + 40 * number, page.height - PROGRESS_LINE + 2), name, fill=colour)
    with atomic_path(path, flush=False) as temporary:
        page.save(temporary, format="png")


def _padded(picture: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (size - n for n in picture.shape[:2])
    return np.pad(picture, ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))

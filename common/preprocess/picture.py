"""One picture to see by whether scans were registered, and where the segmentation lies on them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from common.files import atomic_path
from common.picture import CLASS_COLOURS, overlay, window

TILE_MM = 16.0
EDGE_SHARE = 0.1
"""Share of a picture of the reference, where it changes most, that is drawn as its edges."""
RIM_MM = 3.0
"""What lies so near the background is no edge of the anatomy."""
_ORANGE = (1.0, 0.45, 0.0)


def draw(
    path: Path,
    images: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    reference: str,
    voxel_mm: float,
    captions: Mapping[str, str],
    mark: str = "",
) -> None:
    """Write a PNG: per contrast the reference's edges over it, both as a checkerboard in two planes, the segmentation.

    images: (z, y, x) on the working grid, whose indices run to the patient's left, back and head, so that pictures
    have the patient's left on the right. labels: classes there; the slices cross most of the tumour, or of the brain
    where there is none. captions: by contrast, how it was moved. mark: what nobody who sees the picture
    must miss.
    """
    grey = {name: window(image) for name, image in images.items()}
    shown = labels if labels.any() else sum(image != 0 for image in images.values())
    z, y = (int(np.count_nonzero(shown, axis=axes).argmax()) for axes in ((1, 2), (0, 2)))
    axial, coronal = grey[reference][z], grey[reference][::-1, y]
    gradient = ndimage.gaussian_gradient_magnitude(axial, 1.0)
    inside = ndimage.binary_erosion(axial > 0, iterations=round(RIM_MM / voxel_mm))
    edges = inside & (gradient > (np.quantile(gradient[inside], 1 - EDGE_SHARE) if inside.any() else 0))
    figure = Figure(figsize=(9, 2.4 * len(grey)), facecolor="black")
    edge_to_edge = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.95, "wspace": 0.03, "hspace": 0.18}
    axes = figure.subplots(len(grey), 4, squeeze=False, gridspec_kw=edge_to_edge)
    for line, (name, image) in zip(axes, grey.items(), strict=True):
        over = np.repeat(image[z][..., None], 3, axis=2)
        over[edges] = _ORANGE
        tile = TILE_MM / voxel_mm
        caption = captions.get(name, "the reference").replace(", ", "\n")
        _show(line[0], over, f"{name}, edges of {reference}\n{caption}")
        _show(line[1], _checkered(image[z], axial, tile), f"{name} and {reference}")
        _show(line[2], _checkered(image[::-1, y], coronal, tile), f"{name} and {reference}, coronal")
        _show(line[3], overlay(image[z], labels[z]), f"{name}, {', '.join(CLASS_COLOURS)}")
    if mark:
        figure.suptitle(mark, color="#ff8080", fontsize=7, y=0.995, va="top", parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _checkered(one: np.ndarray, other: np.ndarray, tile: float) -> np.ndarray:
    rows, columns = np.indices(one.shape)
    return np.where((rows // tile + columns // tile) % 2 == 0, one, other)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
    axis.set_title(title, color="white", fontsize=5, loc="left", parse_math=False)

"""One picture to see by whether scans were registered, and where the segmentation lies on them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy import ndimage

from common.dicom.segmentation import COLOURS
from common.files import atomic_path
from common.labels import CLASSES

TILE_MM = 16.0
EDGE_SHARE = 0.12
"""Share of the reference's voxels, those where it changes most, that are drawn as its edges."""
_EDGES = ListedColormap([(1.0, 0.35, 0.0)])
_CLASSES = ListedColormap([np.array(COLOURS[name]) / 255 for name in CLASSES[1:]])


def draw(
    path: Path,
    images: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    reference: str,
    voxel_mm: float,
    captions: Mapping[str, str],
) -> None:
    """Write a PNG: per contrast the reference's edges over it, both as a checkerboard in two planes, the segmentation.

    images: (z, y, x) on the working grid, whose indices run to the patient's left, back and head, so that pictures
    have the patient's left on the right. labels: classes there. captions: by contrast, how it was moved.
    """
    grey = {name: _window(image) for name, image in images.items()}
    there = labels > 0 if labels.any() else np.logical_or.reduce([image != 0 for image in images.values()])
    if not there.any():
        there = np.ones_like(there)
    z, y = (int(there.sum(axis=axes).argmax()) for axes in ((1, 2), (0, 2)))
    gradient = ndimage.gaussian_gradient_magnitude(grey[reference][z], 1.0)
    inside = gradient[gradient > 0]
    edges = gradient > (np.quantile(inside, 1 - EDGE_SHARE) if inside.size else 0)
    figure = Figure(figsize=(9, 2.3 * len(grey)), layout="constrained", facecolor="black")
    axes = figure.subplots(len(grey), 4, squeeze=False)
    for line, (name, image) in zip(axes, grey.items(), strict=True):
        axial, coronal = image[z], image[::-1, y]
        _show(line[0], axial, f"{name}: {captions.get(name, '')}")
        _over(line[0], edges, _EDGES, 0.8)
        _show(line[1], _checkered(axial, grey[reference][z], TILE_MM / voxel_mm), f"with {reference}")
        _show(line[2], _checkered(coronal, grey[reference][::-1, y], TILE_MM / voxel_mm), f"with {reference}")
        _show(line[3], axial, "NCR red, ED green, ET yellow")
        _over(line[3], labels[z], _CLASSES, 0.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _window(image: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1]: white at the 99.5th percentile of what is above 0."""
    bright = image[image > 0]
    return np.clip(image / (np.percentile(bright, 99.5) if bright.size else 1.0), 0, 1)


def _checkered(one: np.ndarray, other: np.ndarray, tile: float) -> np.ndarray:
    rows, columns = np.indices(one.shape)
    return np.where(((rows // tile) + (columns // tile)) % 2 == 0, one, other)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
    axis.set_title(title, color="white", fontsize=6, loc="left", parse_math=False)


def _over(axis: Axes, values: np.ndarray, colours: ListedColormap, alpha: float) -> None:
    shown = np.ma.masked_equal(values.astype(np.uint8), 0)
    axis.imshow(shown, cmap=colours, vmin=1, vmax=max(colours.N, 2), alpha=alpha, interpolation="nearest")

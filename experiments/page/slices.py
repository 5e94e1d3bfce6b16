"""One case's voxels for the page's slice viewer: contrasts, truth and prediction, as pictures that a browser decodes.

A volume is one picture: its axial slices beside each other, row by row. Grey values are 8 bits of lossy WebP; labels
are exact.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import PIL.Image

from common.labels import CLASSES
from common.picture import cut, spacing_along, window
from common.subject import Subject
from experiments.page.pictures import address, webp

QUALITY = 45
"""Of the grey values, of 100: what is lost is not seen at the size of a screen."""
LABEL_STEP = 16
"""A pixel of the labels is this times (4 × truth + prediction): browsers that add noise against tracking add less."""


@dataclass(frozen=True)
class Sprites:
    """One case. shape: slices from the feet up, rows from front to back, columns to the patient's left; spacing_mm
    along the same axes. columns: slices beside each other in a picture. at: slice, row and column to open at. labels,
    contrasts: data addresses.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    columns: int
    at: tuple[int, int, int]
    labels: str
    contrasts: Mapping[str, str]


def draw(subject: Subject, truth: np.ndarray, predicted: np.ndarray) -> Sprites:
    """The subject's contrasts with truth and prediction, cut to the head; opens where most of the tumour is.

    truth, predicted: classes 0..3 (x, y, z) on the subject's grid. Raises ScanError as `Subject.load_images` does.
    """
    images, scan = subject.load_images(tuple(subject.images))
    (true, guess, *grey), _ = cut((truth, predicted, *images), scan.affine)
    inside = np.nonzero(np.any([volume != 0 for volume in (true, guess, *grey)], axis=0))
    box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in inside)
    true, guess, *grey = (volume[box] for volume in (true, guess, *grey))
    columns = math.ceil(math.sqrt(len(true)))
    labels = LABEL_STEP * (len(CLASSES) * true + guess).astype(np.uint8)
    return Sprites(
        shape=true.shape,
        spacing_mm=spacing_along(scan.affine, "SPL"),
        columns=columns,
        at=start(true if true.any() else guess),
        labels=address("png", _png(tiled(labels, columns))),
        contrasts={
            name: address("webp", webp(PIL.Image.fromarray(tiled(_eight_bits(volume), columns)), quality=QUALITY))
            for name, volume in zip(subject.images, grey, strict=True)
        },
    )


def tiled(volume: np.ndarray, columns: int) -> np.ndarray:
    """Slices (slice, row, column) as one picture, so many beside each other; what is left over is 0."""
    n, height, width = volume.shape
    rows = math.ceil(n / columns)
    padded = np.zeros((rows * columns, height, width), volume.dtype)
    padded[:n] = volume
    return padded.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def start(labels: np.ndarray) -> tuple[int, int, int]:
    """Slice with the most classes, of these with the largest area, and its tumour voxel nearest to the tumour's centre.

    labels: classes (slice, row, column). The centre itself may lie between two tumours; without any, the middle.
    """
    classes = sum((labels == value).any(axis=(1, 2)).astype(int) for value in range(1, len(CLASSES)))
    areas = np.count_nonzero(labels, axis=(1, 2))
    if not areas.any():
        return labels.shape[0] // 2, labels.shape[1] // 2, labels.shape[2] // 2
    position = int(np.lexsort((areas, classes))[-1])
    inside = np.argwhere(labels[position])
    nearest = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return position, int(nearest[0]), int(nearest[1])


def _eight_bits(volume: np.ndarray) -> np.ndarray:
    return (255 * window(volume)).round().astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()

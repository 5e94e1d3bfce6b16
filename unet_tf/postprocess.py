"""From class probabilities to labels, and morphological clean-up of label maps: numpy and scipy only."""

from itertools import product

import numpy as np
from scipy import ndimage

from common.volumes import Box, bounding_box


def decode_labels(probabilities: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Probabilities (class, x, y, z) to classes uint8 (x, y, z): the most probable of all four (argmax).

    With a threshold: the most probable tumour label where the tumour labels together exceed it, else background. So no
    gap opens between two labels of which neither is as probable as the background.
    """
    if threshold is None:
        return probabilities.argmax(axis=0).astype(np.uint8)
    labels = probabilities[1:].argmax(axis=0).astype(np.uint8) + np.uint8(1)
    labels[probabilities[1:].sum(axis=0) <= threshold] = 0
    return labels


def clean(
    labels: np.ndarray, *, opening_voxels: int = 0, closing_voxels: int = 0, minimum_component_voxels: int = 0
) -> np.ndarray:
    """Open, then close the whole tumour, then drop its small parts; labels and the new result are classes (x, y, z).

    Radii count steps between face neighbours (the structuring element is the cross, repeated); 0 leaves the step out.
    At the border of the volume only the neighbours that exist count, so a tumour cut off there is not eroded. What the
    closing adds takes the class of the nearest tumour voxel; of several, the one with the lowest z, then y, then x.
    Parts are connected through faces, edges and corners; those of fewer than ``minimum_component_voxels`` voxels become
    background. Returns uint8.
    """
    cleaned = labels.astype(np.uint8)
    if opening_voxels:
        near = _around(cleaned, margin=1)
        tumour = cleaned[near] != 0
        core = ndimage.binary_erosion(tumour, iterations=opening_voxels, border_value=1)
        cleaned[near][~ndimage.binary_dilation(core, iterations=opening_voxels)] = 0
    if closing_voxels:
        near = _around(cleaned, margin=closing_voxels + 1)
        tumour = cleaned[near] != 0
        grown = ndimage.binary_dilation(tumour, iterations=closing_voxels)
        closed = ndimage.binary_erosion(grown, iterations=closing_voxels, border_value=1)
        _fill(cleaned[near], closed & ~tumour, closing_voxels)
    if minimum_component_voxels:
        near = _around(cleaned, margin=0)
        parts, _ = ndimage.label(cleaned[near], structure=np.ones((3, 3, 3)))
        small = np.bincount(parts.ravel()) < minimum_component_voxels
        cleaned[near][small[parts]] = 0
    return cleaned


def _around(labels: np.ndarray, *, margin: int) -> Box:
    """The box of what is not background, with a margin where the volume has one. Empty when all is background."""
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in bounding_box(labels != 0))


def _fill(labels: np.ndarray, added: np.ndarray, radius: int) -> None:
    """Give each added voxel, in place, the class of the nearest tumour voxel; there is one within ``radius`` voxels.

    Looks around the added voxels only: a distance transform of a whole scan takes seconds.
    """
    tumour = np.pad(labels, radius)
    steps = [step for step in product(range(-radius, radius + 1), repeat=3) if sum(s * s for s in step) <= radius**2]
    steps.sort(key=lambda step: (sum(s * s for s in step), step[::-1]))
    missing = np.argwhere(added)
    for step in steps:
        classes = tumour[tuple((missing + radius + step).T)]
        found = classes != 0
        labels[tuple(missing[found].T)] = classes[found]
        missing = missing[~found]

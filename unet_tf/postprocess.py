"""From class probabilities to labels, and morphological clean-up of label maps: numpy and scipy only."""

import numpy as np
from scipy import ndimage

from common.volumes import bounding_box


def decode_labels(probabilities: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """(class, x, y, z) to classes uint8 (x, y, z): the most probable one where it exceeds the threshold, else 0.

    A threshold of 0 is plain argmax.
    """
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    if threshold > 0:
        labels[probabilities.max(axis=0) <= threshold] = 0
    return labels


def clean(
    labels: np.ndarray, *, opening_voxels: int = 0, closing_voxels: int = 0, minimum_component_voxels: int = 0
) -> np.ndarray:
    """Open, then close the whole tumour, then drop its small parts; returns new classes, uint8 (x, y, z).

    Radii count steps between face neighbours (the structuring element is the cross, repeated); 0 leaves the step out.
    What the closing adds takes the class of the nearest tumour voxel. Parts are connected through faces, edges and
    corners; those of fewer than ``minimum_component_voxels`` voxels become background.
    """
    cleaned = labels.copy()
    tumour = labels != 0
    if not tumour.any():
        return cleaned
    margin = closing_voxels + 1
    near = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in bounding_box(tumour))
    cleaned[near] = _clean(labels[near], opening_voxels, closing_voxels, minimum_component_voxels)
    return cleaned


def _clean(labels: np.ndarray, opening_voxels: int, closing_voxels: int, minimum_component_voxels: int) -> np.ndarray:
    tumour = labels != 0
    if opening_voxels:
        # The tumour may reach the border of the scan: what lies beyond counts as tumour for the erosion.
        eroded = ndimage.binary_erosion(tumour, iterations=opening_voxels, border_value=1)
        tumour = ndimage.binary_dilation(eroded, iterations=opening_voxels) & tumour
    labels = np.where(tumour, labels, np.uint8(0))
    if closing_voxels and tumour.any():
        grown = ndimage.binary_dilation(tumour, iterations=closing_voxels)
        closed = ndimage.binary_erosion(grown, iterations=closing_voxels, border_value=1) | tumour
        nearest = ndimage.distance_transform_edt(~tumour, return_distances=False, return_indices=True)
        labels = np.where(closed, labels[tuple(nearest)], np.uint8(0))
    if minimum_component_voxels:
        parts, _ = ndimage.label(labels != 0, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        labels = np.where(sizes[parts] >= max(minimum_component_voxels, 1), labels, np.uint8(0))
    return labels.astype(np.uint8)

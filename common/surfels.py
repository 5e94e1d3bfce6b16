"""Hausdorff distance as the BraTS organisers' programs take it: surface elements (surfels), weighed by their area.

The definition is that of the package ``surface-distance`` (Nikolov et al. 2018), which those programs use. A surfel
lies at a corner that eight voxels share, some of them in the mask and some not; its area, of the marching-cubes
triangles there, is the package's own table. The percentile of a direction is the distance within which that share of
the *area* lies, without interpolation. ``common.metrics`` counts surface voxels instead and interpolates: values differ
by a fraction of a voxel, of small or rough masks by more.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from common.metrics import check_masks, check_percentile, checked_spacing, crop_to_foreground, nearest_mm

_SURFACE = np.uint8(1)


def hausdorff(
    prediction: np.ndarray, truth: np.ndarray, *, spacing_mm: Sequence[float], percentile: float = 100.0
) -> float:
    """Symmetric Hausdorff distance between two masks, in mm, weighed by area; percentile 95 gives HD95.

    prediction, truth: boolean (x, y, z) on the same grid. The percentile is taken per direction, the larger one
    returned. Both empty: 0. One empty: inf.
    Raises as :func:`common.metrics.hausdorff`.
    """
    check_masks(prediction, truth)
    check_percentile(percentile)
    spacing = checked_spacing(spacing_mm)
    if not (prediction.any() and truth.any()):
        return np.inf if prediction.any() or truth.any() else 0.0
    areas = _areas(tuple(spacing.tolist()))
    codes = [_codes(mask) for mask in crop_to_foreground(prediction.view(np.uint8), truth.view(np.uint8))]
    surfaces = [((code != 0) & (code != 255)).view(np.uint8) for code in codes]
    return max(
        _within(
            _distances(surfaces[this], surfaces[1 - this], spacing), areas[codes[this][surfaces[this] != 0]], percentile
        )
        for this in (0, 1)
    )


@lru_cache(maxsize=16)
def _areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Area in mm² of the surface at a corner, by its code."""
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area  # and with it all of SciPy's

    return create_table_neighbour_code_to_surface_area(spacing_mm)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Per corner (one more than voxels along each axis), which of the eight voxels around it are set, as bits.

    The voxel after the corner along every axis is bit 0; before it along z, y, x adds 1, 2, 4 to the bit's number.
    """
    padded = np.pad(mask, 1)
    codes = np.zeros(np.add(mask.shape, 1), np.uint8)
    for bit in range(8):
        before = (bit >> 2 & 1, bit >> 1 & 1, bit & 1)
        part = tuple(slice(1 - step, size + 2 - step) for step, size in zip(before, mask.shape, strict=True))
        codes |= padded[part] << np.uint8(bit)
    return codes


def _distances(source: np.ndarray, target: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm from each surfel of source, in C order, to the nearest one of target."""
    where = np.flatnonzero(source)
    distances = np.zeros(where.size)
    away = target.ravel()[where] == 0
    if away.any():
        distances[away] = nearest_mm(where[away], target, _SURFACE, spacing)
    return distances


def _within(distances: np.ndarray, areas: np.ndarray, percentile: float) -> float:
    """The distance within which the share of the area lies."""
    order = np.lexsort((areas, distances))  # ties by area, as there: the sums round alike
    areas = areas[order]
    rank = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), percentile / 100))
    return float(distances[order[min(rank, order.size - 1)]])

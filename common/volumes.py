"""Crop, pad, resize and normalise: small pure functions on arrays whose last three axes are (x, y, z)."""

import math
from collections.abc import Sequence

import numpy as np

Box = tuple[slice, slice, slice]


def bounding_box(mask: np.ndarray) -> Box:
    """Smallest box (x, y, z) that holds every true voxel of a 3-D mask; empty slices where there is none."""
    slices = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        slices.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
    return tuple(slices)


def union(*boxes: Box) -> Box:
    """Smallest box that holds all boxes; empty boxes count for nothing."""
    boxes = [box for box in boxes if box[0].stop > box[0].start] or list(boxes[:1])
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def nonzero_mean_and_sd(image: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation over the voxels of one contrast that are not zero.

    A sum over all voxels equals the sum over the non-zero ones, so no masked copy is made.
    Raises ValueError when every voxel is zero.
    """
    count = np.count_nonzero(image)
    if count == 0:
        raise ValueError("expected an image with non-zero voxels, received one that is zero everywhere")
    # Fortran-ordered scans are read in the order they lie in memory.
    values = image.ravel(order="K").astype(np.float64)
    mean = values.sum() / count
    variance = np.dot(values, values) / count - mean**2
    return float(mean), float(np.sqrt(max(variance, 0.0)))


def zscore_nonzero(image: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """One contrast (x, y, z) as float32 z-scores; voxels that are zero stay zero.

    mean, sd: of the whole scan's non-zero voxels (image may be a crop of it). A constant image (sd 0) is only centred,
    as MONAI's ``NormalizeIntensity(nonzero=True)`` does.
    """
    result = np.array(image, dtype=np.float32, order="C")
    background = result == 0
    result -= np.float32(mean)
    result *= np.float32(1.0 / sd if sd > 0 else 1.0)
    result[background] = 0
    return result


def window(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float = 0) -> np.ndarray:
    """The window of ``size`` voxels at ``start`` on the last three axes; what lies outside the array is ``fill``.

    A view where the window lies inside, else a copy. start may be negative.
    """
    overlap, target = overlap_of(array.shape[-3:], start, size)
    if all(t == slice(0, n) for t, n in zip(target, size, strict=True)):
        return array[..., *overlap]
    result = np.full((*array.shape[:-3], *size), fill, dtype=array.dtype)
    result[..., *target] = array[..., *overlap]
    return result


def overlap_of(shape: Sequence[int], start: Sequence[int], size: Sequence[int]) -> tuple[Box, Box]:
    """Where a window meets a volume: the box in the volume's voxels, and the same box in the window's."""
    source, target = [], []
    for length, first, extent in zip(shape, start, size, strict=True):
        low = min(max(first, 0), length)
        high = min(max(first + extent, low), length)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first) if high > low else slice(0, 0))
    return tuple(source), tuple(target)


def linear_weights(source: int, target: int) -> np.ndarray:
    """(target, source) weights that resize an axis linearly; a triangle as wide as the step when it shrinks.

    Voxels are areas, not points: both ends of the axis keep their place (``align_corners=False``, antialiased).
    Rows sum to 1.
    """
    step = source / target
    width = max(step, 1.0)
    centres = (np.arange(target) + 0.5) * step - 0.5
    distance = np.abs(np.arange(source)[None, :] - centres[:, None])
    weights = np.maximum(0.0, 1.0 - distance / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resize(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Linear resampling of the last three axes to ``shape``, float32, antialiased where an axis shrinks.

    A product with one small matrix per axis: exact, and as fast as the machine's matrix product.
    """
    array = np.ascontiguousarray(array, dtype=np.float32)
    for axis, (source, target) in enumerate(zip(array.shape[-3:], shape, strict=True)):
        if source == target:
            continue
        weights = linear_weights(source, target)
        if axis == 2:
            array = array @ weights.T
        else:
            # Seen as (outer, axis, inner), so that each product runs over contiguous memory.
            inner = math.prod(array.shape[array.ndim - 2 + axis :])
            result = weights @ array.reshape(-1, source, inner)
            array = result.reshape(*array.shape[: array.ndim - 3 + axis], target, *array.shape[array.ndim - 2 + axis :])
    return array


def resize_labels(labels: np.ndarray, shape: Sequence[int], n_classes: int) -> np.ndarray:
    """Class labels (x, y, z) on another grid: in each voxel the class that fills the most of it (uint8).

    Nearest-neighbour sampling would lose thin rims; the most frequent class keeps every class's volume nearly unbiased.
    """
    shares = np.stack([resize(labels == value, shape) for value in range(n_classes)])
    return shares.argmax(axis=0).astype(np.uint8)

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
    total = squares = 0.0
    # Plane by plane along the slowest axis: in the order of memory, and small enough for the processor's cache.
    for plane in np.moveaxis(image, int(np.argmax(np.abs(image.strides))), 0):
        values = plane.ravel(order="K").astype(np.float64)
        total += values.sum()
        squares += values @ values
    mean = total / count
    return float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0)))


def zscore_nonzero(image: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """One contrast (x, y, z) as float32 z-scores; voxels that are zero stay zero.

    mean, sd: of the whole scan's non-zero voxels (image may be a crop of it). A constant image (sd 0) is only centred,
    as MONAI's ``NormalizeIntensity(nonzero=True)`` does.
    """
    result = np.array(image, dtype=np.float32, order="C")
    background = result == 0
    result -= np.float32(mean)
    result *= np.float32(1.0 / sd if sd > 0 else 1.0)
    np.copyto(result, 0, where=background)
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
    """Linear resampling of the last three axes to ``shape``, float32, antialiased where an axis shrinks."""
    whole, all_of_it = array.shape[-3:], tuple(slice(0, n) for n in array.shape[-3:])
    return resize_part(array, all_of_it, whole, shape, tuple(slice(0, n) for n in shape))


def resize_part(
    part: np.ndarray, box: Box, volume_shape: Sequence[int], shape: Sequence[int], region: Box
) -> np.ndarray:
    """The ``region`` of what :func:`resize` makes of a volume of which ``part`` fills ``box`` and the rest is zero.

    A product with one small matrix per axis: exact, and as fast as the machine's matrix product.
    """
    result = np.ascontiguousarray(part, dtype=np.float32)
    for axis, (source, target) in enumerate(zip(volume_shape, shape, strict=True)):
        if source == target and box[axis] == region[axis]:
            continue
        weights = linear_weights(source, target)[region[axis], box[axis]]
        if axis == 2:
            result = result @ weights.T
        else:
            # Seen as (outer, axis, inner), so that each product runs over contiguous memory.
            outer, inner = result.shape[: result.ndim - 3 + axis], result.shape[result.ndim - 2 + axis :]
            product = weights @ result.reshape(math.prod(outer), result.shape[len(outer)], math.prod(inner))
            result = product.reshape(*outer, len(weights), *inner)
    return result


def scaled_box(box: Box, source: Sequence[int], target: Sequence[int]) -> Box:
    """The box on another grid over the same volume, wider on a new grid by as many voxels as resampling spreads."""
    if tuple(source) == tuple(target):
        return box
    scaled = []
    for s, n, t in zip(box, source, target, strict=True):
        # Growing, a voxel reaches (t / n - 1) / 2 target voxels beyond its own place; shrinking, one at most.
        margin = max(1, -(-(t - n) // (2 * n)))
        scaled.append(slice(max(0, s.start * t // n - margin), min(t, -(-s.stop * t // n) + margin)))
    return tuple(scaled)


def resize_labels(labels: np.ndarray, shape: Sequence[int], n_classes: int) -> np.ndarray:
    """Class labels (x, y, z) on another grid: in each voxel the class that fills the most of it (uint8).

    Nearest-neighbour sampling would lose thin rims; the most frequent class keeps every class's volume nearly unbiased.
    """
    box = bounding_box(labels != 0)
    region = scaled_box(box, labels.shape, shape)
    shares = [resize_part(labels[box] == value, box, labels.shape, shape, region) for value in range(1, n_classes)]
    result = np.zeros(shape, dtype=np.uint8)
    result[region] = np.stack([1 - sum(shares), *shares]).argmax(axis=0)
    return result

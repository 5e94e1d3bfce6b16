"""Crop, pad, resize and normalise: small pure functions on arrays whose last three axes are (x, y, z)."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

Box = tuple[slice, ...]
"""One slice for each of the last three axes."""
_SLAB_VOXELS = 2**17
_BAND_ROWS = 32


def bounding_box(mask: np.ndarray) -> Box:
    """Smallest box (x, y, z) that holds every true voxel of a 3-D mask; empty slices where there is none."""
    # Whole planes are combined along the slowest axis in memory; the rest is looked at inside their box only.
    first = int(np.argmax(np.abs(mask.strides)))
    second, third = (axis for axis in range(3) if axis != first)
    any_along = np.logical_or.reduce
    plane = any_along(mask, axis=first)
    box = [slice(None)] * 3
    box[second], box[third] = _extent(any_along(plane, axis=1)), _extent(any_along(plane, axis=0))
    box[first] = _extent(any_along(mask[tuple(box)], axis=(second, third)))
    return tuple(box)


def _extent(inside: np.ndarray) -> slice:
    found = np.flatnonzero(inside)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def union(*boxes: Box) -> Box:
    """Smallest box that holds all boxes; empty boxes count for nothing."""
    full = [box for box in boxes if box[0].stop > box[0].start] or boxes[:1]
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*full, strict=True))


def in_memory_order(array: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """A view whose axes run from the slowest in memory to the fastest, so that its planes are read as they lie.

    other: an array on the same axes, which is then the one that is viewed.
    """
    slowest_first = np.argsort(np.abs(array.strides), kind="stable")[::-1]
    return (array if other is None else other).transpose(slowest_first)


def slabs(planes: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Contiguous copies of some planes at a time with their place: few enough to stay in the processor's cache, and
    enough that threads do not wait for the interpreter's lock between them."""
    thickness = max(1, _SLAB_VOXELS // max(1, planes[0].size))
    for first in range(0, len(planes), thickness):
        place = slice(first, first + thickness)
        yield place, planes[place].copy(order="C")


def nonzero_mean_and_sd(image: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation over the voxels of one contrast (x, y, z) that are not zero.

    A sum over all voxels equals the sum over the non-zero ones, so none is picked out; sums are in double precision.
    Raises ValueError when every voxel is zero.
    """
    count, total, squares = 0, 0.0, 0.0
    for _, values in slabs(in_memory_order(image)):
        count += int(np.count_nonzero(values))
        doubles = values.astype(np.float64)
        total += float(doubles.sum())
        np.square(doubles, out=doubles)
        squares += float(doubles.sum())
    if count == 0:
        raise ValueError("expected an image with non-zero voxels, received one that is zero everywhere")
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0))


def normalise_nonzero(image: np.ndarray, offset: float, scale: float) -> np.ndarray:
    """One contrast (x, y, z) as float32 (value - offset) / scale; voxels that are zero stay zero.

    For z-scores offset and scale are mean and SD of the whole scan's non-zero voxels (image may be a crop of it). A
    constant image (scale 0) is only centred, as MONAI's ``NormalizeIntensity(nonzero=True)`` does.
    """
    result = np.array(image, dtype=np.float32, order="C")
    background = result == 0
    result -= np.float32(offset)
    result *= np.float32(1.0 / scale if scale > 0 else 1.0)
    np.copyto(result, 0, where=background)
    return result


def window(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float = 0) -> np.ndarray:
    """The window of ``size`` voxels at ``start`` on the last three axes; what lies outside the array is ``fill``.

    A view where the window lies inside, else a copy. start may be negative.
    """
    overlap, target = overlap_of(array.shape[-3:], start, size)
    all_before = (slice(None),) * (array.ndim - 3)
    if all(t == slice(0, n) for t, n in zip(target, size, strict=True)):
        return array[*all_before, *overlap]
    result = np.full((*array.shape[:-3], *size), fill, dtype=array.dtype)
    result[*all_before, *target] = array[*all_before, *overlap]
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
    matrices = [
        None if source == target and before == after else linear_weights(source, target)[after, before]
        for source, target, before, after in zip(volume_shape, shape, box, region, strict=True)
    ]
    return along_axes(part, matrices)


def along_axes(array: np.ndarray, matrices: Sequence[np.ndarray | None]) -> np.ndarray:
    """The last three axes multiplied by one matrix (new length, length) each, float32; None leaves an axis as it is.

    Meant for weights near a diagonal: of each group of rows only the columns that hold any are multiplied.
    """
    result = np.ascontiguousarray(array, dtype=np.float32)
    for axis, weights in enumerate(matrices, start=-3):
        if weights is None:
            continue
        shape = list(result.shape)
        shape[axis] = len(weights)
        source, result = result, np.zeros(shape, np.float32)
        for rows, columns in _bands(weights):
            part = weights[rows, columns]
            if axis == -1:
                np.matmul(source[..., columns], part.T, out=result[..., rows])
            else:
                # Products of whole lines along z, so that each runs over contiguous memory.
                read, written = np.moveaxis(source, axis, -2), np.moveaxis(result, axis, -2)
                np.matmul(part, read[..., columns, :], out=written[..., rows, :])
    return result


def _bands(weights: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Groups of rows, each with the columns outside which it is 0; rows of zeros are in none."""
    for first in range(0, len(weights), _BAND_ROWS):
        rows = slice(first, first + _BAND_ROWS)
        if (columns := _extent(np.logical_or.reduce(weights[rows], axis=0))).stop:
            yield rows, columns


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

"""Training crops of prepared subjects: where they lie, and their voxels, zoomed and rotated as they are read."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

from common import volumes
from common.augmentation import Augmentation, change_intensities, factor
from common.recipe import Volume, decode

_SLAB_VOXELS = 2**16


def crop_start(
    volume: Volume,
    size: Sequence[int],
    rng: np.random.Generator,
    *,
    crop_from: Literal["volume", "brain"] = "volume",
    slices: tuple[int, int] | None = None,
    extent: tuple[int, int, int] | None = None,
    label_probability: float = 0.0,
    label_positions: Mapping[int, np.ndarray] | None = None,
) -> list[int]:
    """First voxel of a random crop, uniform over all positions inside the volume (or that fit around the brain).

    Along an axis where the crop is longer than what it is taken from, uniform over the positions that hold all of it.
    slices: axial slices of a grid of ``extent`` voxels, which stand for the volume or the brain along z.
    With ``label_probability`` the crop holds a voxel of ``label_positions`` (class: positions (n, 3) in the grid) in
    its middle half, or nearer its border where the bounds above demand it; all classes that have positions there are
    equally likely. A subject without any has its crop anywhere. Raises ValueError for a scan on another grid.
    """
    if crop_from == "volume":
        firsts, lengths = [0, 0, 0], list(volume.grid_shape)
    else:
        firsts, lengths = list(volume.box_start), list(volume.box_shape)
    if slices is not None:
        if volume.placement.shape != extent:
            raise ValueError(
                f"{volume.id}: expected a scan on the grid of {extent} voxels where config.slices are counted, "
                f"found {volume.placement.shape}"
            )
        firsts[2], last = (round(edge * volume.grid_shape[2] / extent[2]) for edge in slices)
        lengths[2] = last - firsts[2]
    bounds = [sorted((first, first + length - side)) for first, length, side in zip(firsts, lengths, size, strict=True)]
    if label_probability and rng.random() < label_probability:
        low, high = np.array(firsts), np.add(firsts, lengths)
        inside = [p[((p >= low) & (p < high)).all(axis=1)] for p in (label_positions or {}).values()]
        if inside := [p for p in inside if len(p)]:
            voxel = rng.choice(inside[rng.integers(len(inside))])
            before = np.floor(rng.uniform(0.25, 0.75, 3) * size).astype(int)
            return [int(np.clip(v - b, low, high)) for v, b, (low, high) in zip(voxel, before, bounds, strict=True)]
    return [int(rng.integers(low, high, endpoint=True)) for low, high in bounds]


def augmented(
    volume: Volume,
    start: Sequence[int],
    size: Sequence[int],
    augmentation: Augmentation,
    contrasts: Sequence[str],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A labelled subject's crop at ``start`` of the grid after an augmentation.

    Returns its intensities, float32 (contrast, x, y, z), 0 outside the brain, and its classes, uint8 (x, y, z).
    """
    zoom = factor(augmentation.zoom, rng) if rng.random() < augmentation.zoom_probability else 1.0
    degrees = np.zeros(3)
    if rng.random() < augmentation.rotation_probability:
        degrees = rng.uniform(-augmentation.rotation_degrees, augmentation.rotation_degrees, 3)
    if degrees.any():
        image, labels = rotated(volume, start, size, zoom, degrees.tolist())
    else:
        image, labels = zoomed(volume, start, size, zoom)
    change_intensities(image, labels, augmentation, contrasts, rng)
    return image, labels


def zoomed(
    volume: Volume, start: Sequence[int], size: Sequence[int], zoom: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The crop about the same centre with the anatomy ``zoom`` times as large, as near as whole voxels allow.

    A smaller or larger window is resampled linearly, as the store resamples scans. Classes, and what is brain, are
    those of the nearest voxel: so near the old voxel size this keeps the volume of necrosis better than the class that
    fills the most of a voxel does.
    """
    seen = [max(1, round(side / zoom)) for side in size]
    first = [s + (side - n) // 2 for s, side, n in zip(start, size, seen, strict=True)]
    inside, place = volume.overlap(first, seen)
    stored, classes = volume.voxels[:-1, *inside], np.zeros(seen, np.uint8)
    classes[place] = volume.voxels[-1][inside]
    whole = tuple(slice(0, side) for side in size)
    if list(seen) == list(size):
        image = np.zeros((len(stored), *size), np.float32)
        decode(stored, volume.steps, out=image[:, *place])
        return image, classes
    nearest = np.ix_(*((2 * np.arange(side) + 1) * n // (2 * side) for side, n in zip(size, seen, strict=True)))
    image = volumes.resize_part(decode(stored, volume.steps), place, seen, size, whole)
    brain = np.zeros(seen, bool)
    for channel, integers in zip(image, stored, strict=True):
        brain[place] = integers != 0
        channel *= brain[nearest]
    return image, classes[nearest]


def rotated(
    volume: Volume, start: Sequence[int], size: Sequence[int], zoom: float, degrees: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """The same, rotated about its centre by ``degrees`` about x, y and z, in one resampling.

    Linear for intensities; classes, and what is brain, are those of the nearest voxel.
    """
    # From a voxel of the crop to where it is read: the way back.
    matrix = Rotation.from_euler("xyz", degrees, degrees=True).inv().as_matrix() / zoom
    middle = (np.array(size) - 1) / 2
    offset = np.array(start) - volume.box_start + middle - matrix @ middle
    # Only what the crop can see is looked at, and of it a copy that holds a voxel's contrasts side by side.
    corners = matrix @ np.array(np.meshgrid(*((0, side - 1) for side in size))).reshape(3, -1) + offset[:, None]
    low = np.clip(np.floor(corners.min(axis=1)).astype(int) - 1, 0, volume.box_shape)
    high = np.clip(np.ceil(corners.max(axis=1)).astype(int) + 2, low, volume.box_shape)
    image, labels = np.zeros((len(volume.steps), *size), np.float32), np.zeros(size, np.uint8)
    if (high == low).any():
        return image, labels
    stored = volume.voxels[:, *map(slice, low, high)]
    # The last voxel of an axis has a neighbour too, of weight 0.
    seen = np.zeros((*(high - low + 1), len(image)), np.float32)
    # Which contrasts have brain in a voxel, and its class, in one number: one look at the nearest voxel finds all.
    facts = np.zeros(seen.shape[:-1], np.int16)
    facts[:-1, :-1, :-1] = stored[-1] << len(image)
    for bit, (integers, step) in enumerate(zip(stored, volume.steps, strict=False)):
        np.multiply(integers, np.float32(step), out=seen[:-1, :-1, :-1, bit])
        facts[:-1, :-1, :-1] |= (integers != 0).astype(np.int16) << bit
    found = image.reshape(len(image), -1), labels.reshape(-1)
    thickness = max(1, _SLAB_VOXELS // (size[1] * size[2]))
    for first in range(0, size[0], thickness):
        planes = np.arange(first, min(first + thickness, size[0]))
        _look_up(seen, facts, matrix, offset - low, planes, size, *found)
    return image, labels


def _look_up(
    seen: np.ndarray,
    facts: np.ndarray,
    matrix: np.ndarray,
    offset: np.ndarray,
    planes: np.ndarray,
    size: Sequence[int],
    image: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Fill some x planes of a crop, image (contrast, voxel) and labels (voxel), from where its voxels are read.

    seen: (x, y, z, contrast) and facts: (x, y, z), both with one more plane at each axis' end.
    """
    axes = np.ix_(planes, np.arange(size[1]), np.arange(size[2]))
    where = [
        sum(weight * index for weight, index in zip(row, axes, strict=True)) + first
        for row, first in zip(matrix, offset, strict=True)
    ]
    inside = np.logical_and.reduce([(w >= 0) & (w <= n - 2) for w, n in zip(where, facts.shape, strict=True)])
    voxels = np.flatnonzero(inside)
    where = [w[inside] for w in where]
    voxels += planes[0] * size[1] * size[2]
    strides = facts.shape[1] * facts.shape[2], facts.shape[2], 1
    nearest = facts.ravel()[_places([w + 0.5 for w in where], strides)]
    labels[voxels] = nearest >> len(image)
    # Without brain nothing is interpolated.
    is_brain = nearest != 0
    voxels, where, nearest = voxels[is_brain], [w[is_brain] for w in where], nearest[is_brain]
    first = _places(where, strides)
    after = [(w - w.astype(np.int32)).astype(np.float32) for w in where]
    x, y, z = ((1 - a, a) for a in after)
    # A row of eight weights per voxel, for all contrasts at once.
    weights, read = np.empty((len(voxels), 8), np.float32), np.empty((len(voxels), 8), np.int32)
    for column, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
        np.multiply(x[i] * y[j], z[k], out=weights[:, column])
        np.add(first, np.dot((i, j, k), strides), out=read[:, column], casting="same_kind")
    rows = np.arange(0, weights.size + 1, 8, dtype=np.int32)
    linear = sparse.csr_array((weights.ravel(), read.ravel(), rows), shape=(len(voxels), facts.size))
    values = linear @ seen.reshape(facts.size, -1)
    for bit, (channel, found) in enumerate(zip(image, values.T, strict=True)):
        channel[voxels] = found * ((nearest >> bit) & 1)


def _places(where: Sequence[np.ndarray], strides: Sequence[int]) -> np.ndarray:
    """Places in memory of the voxels in which points (x, y, z), none negative, lie."""
    return reduce(np.add, (w.astype(np.int32) * np.int32(stride) for w, stride in zip(where, strides, strict=True)))

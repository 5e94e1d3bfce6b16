"""Dice, Hausdorff, HD95, surface Dice and volume: masks in, numbers out, spacing in mm.

Surface of a mask: its voxels with a background voxel (or the edge of the volume) among their six face neighbours, as
in MONAI's ``get_mask_edges``. A distance runs from the centre of a surface voxel to the centre of the nearest surface
voxel of the other mask. Every distance here counts voxels; none is weighted by surface area (the package
``surface-distance`` does that, on a surface half a voxel further out, so its values differ: ``common.surfels``).

All distances of all masks of a label map come from one pass, :func:`label_surface_distances`: each mask is one bit of
a byte, so one erosion makes every surface and one look-up serves every mask.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its parts when they are first used: a third of a second

# Neighbours are looked up directly out to this many of the smallest voxel sides; farther ones need a search. Most
# voxels of two surfaces that belong together lie closer than this.
_NEAR_VOXELS = 4
# What one query of a tree costs, in voxels of a distance transform (40 ns each): about 25, and more the more surface
# lies at nearly the same distance (at worst, inside a hollow box, 58 us for 130,000 voxels of surface). Measured.
_QUERY_COST = 25
_SURFACE_VOXELS_PER_COST = 400
# Side in voxels of the blocks of which one query bounds all others, and the share of queries that bounds leave open.
# Measured.
_BLOCK_VOXELS = 4
_OPEN_SHARE = 0.25
_FEWEST_BOUNDED = 1000
_ROUNDING = 1e-9  # in voxels: far above what roots in double precision are off by


class SurfaceDistances(NamedTuple):
    """Distances in mm from each surface voxel of one mask to the nearest of the other, ascending, per direction.

    A mask without voxels has no distances (size 0), and those of the other mask are then all inf.
    """

    prediction_to_truth: np.ndarray
    truth_to_prediction: np.ndarray

    def hausdorff(self, percentile: float = 100.0) -> float:
        """The larger of the two directions' percentiles, in mm; both empty: 0; one empty: inf.

        Raises ValueError when percentile lies outside 0..100.
        """
        check_percentile(percentile)
        return max(_percentile(distances, percentile) for distances in self)

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces' voxels within tolerance_mm of the other one; both empty: nan; one empty: 0.

        Raises ValueError when tolerance_mm is negative or not finite.
        """
        if not 0 <= tolerance_mm < np.inf:
            raise ValueError(f"tolerance_mm must be finite and not negative, received {tolerance_mm}.")
        total = sum(distances.size for distances in self)
        limit = tolerance_mm * (1 + 1e-9)  # a distance equal to the tolerance counts, however its root was rounded
        within = sum(int(np.searchsorted(distances, limit, side="right")) for distances in self)
        return within / total if total else float("nan")


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity of two masks, 2 |P and T| / (|P| + |T|).

    prediction, truth: boolean (x, y, z) on the same grid. Both empty: nan, as the quotient is undefined; the caller's
    empty-mask policy decides what that is worth. One empty: 0.
    Raises ValueError when the shapes differ, TypeError when a mask is not boolean.
    """
    check_masks(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(prediction & truth) / total if total else float("nan")


def hausdorff(
    prediction: np.ndarray, truth: np.ndarray, *, spacing_mm: Sequence[float], percentile: float = 100.0
) -> float:
    """Symmetric Hausdorff distance between two masks, in mm.

    prediction, truth: boolean (x, y, z) on the same grid. percentile: 100 gives the maximum, 95 the HD95; the
    percentile is taken per direction over surface voxels and the larger one returned (MONAI's definition; the BraTS
    organisers' programs weigh the surface by area: ``common.surfels.hausdorff``).
    Both empty: 0. One empty: inf; the caller's empty-mask policy decides what that is worth.
    Raises ValueError when the shapes differ or spacing_mm is not one positive number per axis, TypeError when a mask
    is not boolean.
    """
    return surface_distances(prediction, truth, spacing_mm=spacing_mm).hausdorff(percentile)


def surface_dice(
    prediction: np.ndarray, truth: np.ndarray, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Share of the two masks' surface voxels that lie within tolerance_mm of the other surface.

    prediction, truth: boolean (x, y, z) on the same grid. Surface voxels are counted, as in MONAI's
    ``compute_surface_dice(use_subvoxels=False)`` (Seidlitz et al. 2022); the original (Nikolov et al. 2018) weighs
    each by its area. Both empty: nan. One empty: 0.
    Raises ValueError when the shapes differ, spacing_mm is not one positive number per axis or tolerance_mm is
    negative, TypeError when a mask is not boolean.
    """
    return surface_distances(prediction, truth, spacing_mm=spacing_mm).surface_dice(tolerance_mm)


def volume_ml(mask: np.ndarray, *, spacing_mm: Sequence[float]) -> float:
    """Volume of a boolean mask (x, y, z) in millilitres.

    Raises ValueError when spacing_mm is not one positive number per axis, TypeError when the mask is not boolean.
    """
    check_masks(mask, mask)
    return np.count_nonzero(mask) * voxel_volume_ml(spacing_mm)


def voxel_volume_ml(spacing_mm: Sequence[float]) -> float:
    """Volume of one voxel in millilitres. Raises ValueError when spacing_mm is not three positive numbers."""
    return float(np.prod(checked_spacing(spacing_mm))) / 1000.0


def surface_distances(prediction: np.ndarray, truth: np.ndarray, *, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Every distance between the surfaces of two masks: compute once, then take HD, HD95 and surface Dice from it.

    prediction, truth: boolean (x, y, z) on the same grid. Raises as :func:`hausdorff`.
    """
    check_masks(prediction, truth)
    prediction, truth = (np.asarray(mask).view(np.uint8) for mask in (prediction, truth))
    return label_surface_distances(prediction, truth, masks={"mask": (1,)}, spacing_mm=spacing_mm)["mask"]


def label_surface_distances(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    masks: Mapping[str, Iterable[int]],
    spacing_mm: Sequence[float],
    from_percentile: float = 0.0,
) -> dict[str, SurfaceDistances]:
    """:func:`surface_distances` of several masks of two label maps, at little more than the price of one.

    prediction, truth: uint8 classes (x, y, z) on the same grid. masks: name -> the classes that make up that mask, at
    most eight masks. Exact for any input; memory grows with the box that holds both foregrounds. from_percentile: the
    lowest that will be asked for; of distances below it and beyond :func:`near_mm` only an upper bound need be given,
    which between surfaces far apart is several times cheaper.
    Raises ValueError when the shapes differ, spacing_mm is not one positive number per axis, from_percentile lies
    outside 0..100 or there are more than eight masks, TypeError when a label map is not uint8.
    """
    check_label_maps(prediction, truth)
    check_percentile(from_percentile)
    spacing = checked_spacing(spacing_mm)
    if len(masks) > 8:
        raise ValueError(f"masks must hold at most 8 masks, one per bit of a byte, received {len(masks)}.")
    table = np.zeros(256, np.uint8)
    for bit, classes in enumerate(masks.values()):
        table[list(classes)] |= np.uint8(1 << bit)
    prediction, truth = crop_to_foreground(prediction, truth)
    shells = _shells(spacing)
    surfaces = [_surfaces(labels, table, shells.padding) for labels in (prediction, truth)]
    directions = [
        _directed(source, target, shells, spacing, len(masks), from_percentile)
        for source, target in (surfaces, surfaces[::-1])
    ]
    return {name: SurfaceDistances(*pair) for name, *pair in zip(masks, *directions, strict=True)}


def near_mm(spacing_mm: Sequence[float]) -> float:
    """Up to here every distance of :func:`label_surface_distances` is exact, whatever its percentile."""
    return _NEAR_VOXELS * float(checked_spacing(spacing_mm).min())


def crop_to_foreground(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of two label maps (x, y, z), cut to their :func:`foreground_box`."""
    box = foreground_box(prediction, truth)
    return prediction[box], truth[box]


def foreground_box(prediction: np.ndarray, truth: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds every non-zero voxel of either label map (x, y, z); without any, an empty one."""
    extents = np.array([_extent(labels) for labels in (prediction, truth)])  # (map, axis, first and last + 1)
    first, last = extents[..., 0].min(0).tolist(), extents[..., 1].max(0).tolist()
    return tuple(slice(low, max(low, high)) for low, high in zip(first, last, strict=True))


def check_label_maps(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raise unless both are uint8 (x, y, z) of one shape: TypeError for the type, ValueError for the shape."""
    for name, labels in (("prediction", prediction), ("truth", truth)):
        if labels.dtype != np.uint8:
            raise TypeError(f"{name} must hold uint8 classes, received {labels.dtype}.")
    _check_shapes(prediction, truth)


def check_masks(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raise unless both are boolean (x, y, z) of one shape: TypeError for the type, ValueError for the shape."""
    for mask in (prediction, truth):
        if mask.dtype != np.bool_:
            raise TypeError(f"A mask must be boolean, received {mask.dtype}.")
    _check_shapes(prediction, truth)


def _check_shapes(prediction: np.ndarray, truth: np.ndarray) -> None:
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"Both must be (x, y, z) of one shape, received {prediction.shape} and {truth.shape}.")


def check_percentile(percentile: float) -> None:
    """Raise ValueError unless it lies between 0 and 100."""
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must lie between 0 and 100, received {percentile}.")


def checked_spacing(spacing_mm: Sequence[float]) -> np.ndarray:
    """spacing_mm as an array (3,). Raises ValueError unless it is one positive number per axis."""
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (3,) or not np.all((spacing > 0) & np.isfinite(spacing)):
        raise ValueError(f"spacing_mm must be one positive number per axis (3), received {spacing_mm}.")
    return spacing


def _percentile(ascending: np.ndarray, percentile: float) -> float:
    """Linear interpolation between ranks; written out because inf - inf in ``np.percentile`` gives nan."""
    if ascending.size == 0:
        return 0.0
    rank = percentile / 100 * (ascending.size - 1)
    low, high = ascending[int(np.floor(rank))], ascending[int(np.ceil(rank))]
    return float(low if low == high else low + (rank - np.floor(rank)) * (high - low))


def _extent(labels: np.ndarray) -> list[tuple[int, int]]:
    """First and last + 1 non-zero index per axis; (size, 0) where nothing is set, so that a union ignores it."""
    slow = int(np.argmax(labels.strides))  # reducing along the slowest axis streams through memory once
    shadow = labels.max(axis=slow, keepdims=True, initial=0)
    extents = [_first_and_last(shadow, axis) for axis in range(3)]
    box = tuple(slice(None) if axis == slow else slice(*extents[axis]) for axis in range(3))
    extents[slow] = _first_and_last(labels[box], slow)
    return extents


def _first_and_last(labels: np.ndarray, axis: int) -> tuple[int, int]:
    others = tuple(other for other in range(3) if other != axis)
    found = np.flatnonzero(labels.max(axis=others, initial=0))
    return (int(found[0]), int(found[-1]) + 1) if found.size else (labels.shape[axis], 0)


class _Shells(NamedTuple):
    """Voxel offsets around a voxel, grouped by distance, and the padding that keeps all of them inside an array."""

    distances_mm: list[float]
    offsets: list[np.ndarray]  # per shell (n, 3)
    padding: np.ndarray  # (3,) voxels


def _shells(spacing: np.ndarray) -> _Shells:
    """All offsets out to _NEAR_VOXELS of the smallest voxel side; complete, because no axis has a smaller side."""
    reach = np.arange(-_NEAR_VOXELS, _NEAR_VOXELS + 1)
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.sqrt(((offsets * spacing) ** 2).sum(axis=1))
    near = distances <= near_mm(spacing.tolist()) * (1 + 1e-12)
    offsets, distances = offsets[near], distances[near]
    values, shell = np.unique(distances, return_inverse=True)
    padding = np.maximum(np.abs(offsets).max(axis=0), 1)
    return _Shells(values.tolist(), [offsets[shell == index] for index in range(values.size)], padding)


def _surfaces(labels: np.ndarray, table: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """One byte per voxel of the padded box: bit i is set on the surface of mask i."""
    masks = np.zeros(labels.shape + 2 * padding, np.uint8)
    masks[tuple(slice(pad, pad + size) for pad, size in zip(padding, labels.shape, strict=True))] = table[labels]
    flat = masks.ravel()
    inside = flat.copy()
    for (
        step
    ) in masks.strides:  # of bytes, hence of voxels; the padding is background, so running over a row's end is safe
        inside[step:] &= flat[:-step]
        inside[:-step] &= flat[step:]
    return masks ^ inside.reshape(masks.shape)


def _directed(
    source: np.ndarray,
    target: np.ndarray,
    shells: _Shells,
    spacing: np.ndarray,
    n_masks: int,
    from_percentile: float,
) -> list[np.ndarray]:
    """Per mask, the ascending distances in mm from each surface voxel of source to the nearest one of target."""
    where = np.flatnonzero(source != 0)
    wanted = source.ravel()[where]
    lookup = target.ravel()
    present = int(np.bitwise_or.reduce(lookup))
    bits = np.uint8(1) << np.arange(n_masks, dtype=np.uint8)
    lost = [np.count_nonzero(wanted & bit) if not present & bit else 0 for bit in bits]
    wanted &= np.uint8(present)
    inside = _within_reach(target, shells.padding).ravel()[where]
    beyond = where[~inside], wanted[~inside]
    where, wanted = where[inside], wanted[inside]
    counts = []
    for offsets in shells.offsets:
        if not where.size:
            break
        found = np.zeros_like(wanted)
        for step in np.dot(offsets, np.array(target.strides)):
            found |= lookup[where + step]
        found &= wanted
        counts.append([np.count_nonzero(found & bit) for bit in bits])
        wanted ^= found
        left = wanted != 0
        where, wanted = where[left], wanted[left]
    where, wanted = (np.concatenate(parts) for parts in zip((where, wanted), beyond, strict=True))
    near = np.array(counts, dtype=int).reshape(-1, n_masks).T  # (mask, shell)
    distances = np.array(shells.distances_mm[: len(counts)])
    result = []
    for index, bit in enumerate(bits):
        queries = where[(wanted & bit) != 0]
        far = np.empty(0)
        if queries.size:
            n_near = int(near[index].sum())
            rank = int(from_percentile / 100 * (n_near + queries.size - 1)) - n_near
            far = np.sort(nearest_mm(queries, target, bit, spacing, exact_from=max(0, rank)))
        result.append(np.concatenate([np.repeat(distances, near[index]), far, np.full(lost[index], np.inf)]))
    return result


def _within_reach(target: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Whether a voxel lies in the box around all surfaces of target, wider by the padding: only there any is near."""
    reach = np.zeros(target.shape, bool)
    box = foreground_box(target, target)
    reach[tuple(slice(max(0, side.start - pad), side.stop + pad) for side, pad in zip(box, padding, strict=True))] = (
        True
    )
    return reach


def nearest_mm(
    queries: np.ndarray, target: np.ndarray, bit: np.uint8, spacing: np.ndarray, *, exact_from: int = 0
) -> np.ndarray:
    """Distance in mm from each voxel (flat index) to the nearest voxel of target that has the bit.

    A tree over the surface when the queries are few, as they are between masks that resemble each other; a distance
    transform of the box, whose cost has a bound, when they are many (noisy or collapsed predictions).
    exact_from: rank, in ascending order, from which on distances are needed; of those below, an upper bound that is
    below them as well.
    """
    here = np.stack(np.unravel_index(queries, target.shape))  # (3, n)
    there = np.stack(np.unravel_index(np.flatnonzero((target & bit) != 0), target.shape))
    first = np.minimum(here.min(axis=1), there.min(axis=1))[:, None]
    shape = np.maximum(here.max(axis=1), there.max(axis=1)) + 1 - first[:, 0]
    sides = spacing[:, None]
    cost = _QUERY_COST + there.shape[1] / _SURFACE_VOXELS_PER_COST
    bounded = exact_from > 0 and queries.size >= _FEWEST_BOUNDED
    if queries.size * (_OPEN_SHARE if bounded else 1) * cost > shape.prod():
        elsewhere = np.ones(shape, bool)
        elsewhere[tuple(there - first)] = False
        # Positions of the nearest voxels, as distances of the whole box would take three more arrays of its size.
        nearest = scipy.ndimage.distance_transform_edt(
            elsewhere, sampling=spacing, return_distances=False, return_indices=True
        )
        here = here - first
        return np.sqrt((((here - nearest[:, *here]) * sides) ** 2).sum(axis=0))
    # A tree for one batch of queries: cheap to build, with leaves large enough to be scanned quickly (measured).
    tree = scipy.spatial.cKDTree((there * sides).T, leafsize=64, balanced_tree=False, compact_nodes=False)
    places = here * sides
    if not bounded:
        return tree.query(places.T)[0]
    middles = _one_per_block(here - first, shape)
    known = np.unique(middles)
    distances = np.empty(queries.size)
    distances[known] = tree.query(places[:, known].T)[0]
    # By the triangle inequality two voxels' distances differ by no more than the way between them.
    way = np.sqrt(((places - places[:, middles]) ** 2).sum(axis=0)) + _ROUNDING * spacing.max()
    lowest = np.partition(distances[middles] - way, exact_from)[exact_from]
    distances = distances[middles] + way
    open_ = distances >= lowest
    distances[open_] = tree.query(places[:, open_].T)[0]
    return distances


def _one_per_block(places: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """For each place (3, n) of a box the index of one that lies in the same block, the same one for all of them."""
    blocks = np.ravel_multi_index(tuple(places // _BLOCK_VOXELS), tuple(shape // _BLOCK_VOXELS + 1))
    chosen = np.empty(int(blocks.max()) + 1, np.intp)
    chosen[blocks] = np.arange(blocks.size)
    return chosen[blocks]

"""Recipes: what is made of a scan before a network sees it.

Scans are brought to the recipe's working grid first (:mod:`common.grid`). There a recipe cuts, resamples and normalises
a subject's scans into a small grid. Of that grid a :class:`Volume` keeps the brain's bounding box: 16-bit integers with
one step per contrast (largest absolute value / 32767, or little more, which is finer than the scans' own integers), the
labels as the last channel. Outside the box every contrast is 0 and the label is background, so a window taken anywhere
in the grid is exact, at a third of its bytes.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common import grid, volumes
from common.grid import Brought, Grid, Placement
from common.labels import CLASSES
from common.nifti import Scan
from common.subject import CONTRASTS

STEPS = np.iinfo(np.int16).max


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is made of a scan. Every field is part of the entries' names."""

    contrasts: tuple[str, ...] = CONTRASTS
    """Contrasts, in the order of the channels."""
    intensity: Literal["zscore", "maximum"] = "zscore"
    """Per contrast: z-score over the scan's non-zero voxels, or divided by the scan's maximum. Zero stays zero."""
    crop: tuple[tuple[int, int], ...] | None = None
    """First voxel and the one after the last, per axis (x, y, z) of the working grid; None takes all of it."""
    spacing_mm: float | None = None
    """Isotropic voxel size after resampling; None keeps the working grid's, 1 mm."""
    shape: tuple[int, int, int] | None = None
    """Voxels (x, y, z) that the crop is resampled to, in place of a voxel size; None keeps the working grid."""
    extent: tuple[int, int, int] | None = None
    """Voxels (x, y, z) of the working grid, on which a crop or slices are counted; None: BraTS's where there is a crop,
    else the scan's own field of view."""

    def __post_init__(self) -> None:
        if self.crop is not None and self.extent is None:
            object.__setattr__(self, "extent", grid.BRATS_EXTENT)
        if self.spacing_mm is not None and self.shape is not None:
            raise ValueError(
                f"expected a voxel size or a shape to resample to, received both: {self.spacing_mm} mm, {self.shape}"
            )

    @property
    def grid(self) -> Grid:
        """The working grid. Where voxels are not counted, a scan is resampled once, to the recipe's own voxel size."""
        resampled_later = self.spacing_mm is not None and self.extent is None
        return Grid(spacing_mm=None if resampled_later else 1.0, extent=self.extent)


@dataclass(frozen=True)
class Volume:
    """A prepared subject in memory or in the store: the brain's box of a larger grid.

    voxels: int16 (contrast..., label; x, y, z), the label missing when the subject has none.
    steps: one float per contrast; voxels * step = intensity. grid_shape: the grid that the recipe resamples to.
    box_start: the box's first voxel in that grid. crop_start, crop_shape: the part of the working grid that it covers.
    labelled_fraction: share of the crop's voxels with a label. placement: how the scan was brought to the working grid.
    """

    id: str
    voxels: np.ndarray
    steps: tuple[float, ...]
    grid_shape: tuple[int, int, int]
    box_start: tuple[int, int, int]
    crop_start: tuple[int, int, int]
    crop_shape: tuple[int, int, int]
    labelled_fraction: float | None
    placement: Placement

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """Shape (x, y, z) of the scan as stored."""
        return self.placement.source_shape

    @property
    def source_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the scan as stored, along its own axes."""
        return self.placement.source_spacing_mm

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the grid that the recipe resamples to."""
        return self.placement.voxel_ml * math.prod(self.crop_shape) / math.prod(self.grid_shape)

    @property
    def has_label(self) -> bool:
        return len(self.voxels) > len(self.steps)

    @property
    def box_shape(self) -> tuple[int, int, int]:
        return self.voxels.shape[1:]

    def overlap(self, start: Sequence[int], size: Sequence[int]) -> tuple[volumes.Box, volumes.Box]:
        """Where a window at ``start`` of the grid meets the box: in the box's voxels and in the window's."""
        first = [s - b for s, b in zip(start, self.box_start, strict=True)]
        return volumes.overlap_of(self.box_shape, first, size)

    def window(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """int16 (contrast..., label; x, y, z) at ``start`` of the grid: a view where the window lies in the box."""
        return volumes.window(self.voxels, [s - b for s, b in zip(start, self.box_start, strict=True)], size)

    def image(self) -> np.ndarray:
        """Intensities of the box, float32 (contrast, x, y, z)."""
        return decode(self.voxels[: len(self.steps)], self.steps)

    def labels(self) -> np.ndarray:
        """Classes 0 to 3 of the box, uint8 (x, y, z). Raises ValueError for a subject without labels."""
        if not self.has_label:
            raise ValueError(f"{self.id}: expected a subject with labels, this one has none")
        return self.voxels[-1].astype(np.uint8)

    @property
    def box(self) -> volumes.Box:
        """The brain's box in the grid."""
        return tuple(slice(b, b + n) for b, n in zip(self.box_start, self.box_shape, strict=True))

    @property
    def crop(self) -> volumes.Box:
        """The part of the scan, as stored, that the grid covers."""
        box = (slice(c, c + n) for c, n in zip(self.crop_start, self.crop_shape, strict=True))
        return self.placement.source_box(tuple(box))

    @property
    def is_cropped(self) -> bool:
        """Whether the grid leaves out a part of the scan."""
        return self.crop != tuple(slice(0, n) for n in self.source_shape)

    def on_working_grid(self, values: np.ndarray, box: volumes.Box) -> tuple[np.ndarray, volumes.Box]:
        """Values (channel, x, y, z) of a box of the grid, zero elsewhere, resampled linearly to the working grid.

        Returns them as float32 with the box of the working grid that they fill; beyond it they are zero.
        """
        region = volumes.scaled_box(box, self.grid_shape, self.crop_shape)
        resampled = volumes.resize_part(values, box, self.grid_shape, self.crop_shape, region)
        return resampled, tuple(slice(s.start + c, s.stop + c) for s, c in zip(region, self.crop_start, strict=True))

    def to_source(self, labels: np.ndarray, region: volumes.Box) -> np.ndarray:
        """Classes of a box of the working grid, background elsewhere, on the scan's own grid: uint8 (x, y, z)."""
        whole = np.zeros(self.placement.shape, dtype=np.uint8)
        whole[region] = labels
        return self.placement.to_source(whole)


def decode(
    voxels: np.ndarray, steps: Sequence[float], *, shift: float = 0.0, out: np.ndarray | None = None
) -> np.ndarray:
    """Stored integers (contrast, x, y, z), in any memory order, as float32 intensities plus ``shift``.

    out: where to write them; by default a new C-ordered array.
    """
    image = np.empty(voxels.shape, dtype=np.float32) if out is None else out
    for stored, step, decoded in zip(voxels, steps, image, strict=True):
        # A few planes at a time stay in the processor's cache between the two operations.
        for first in range(0, len(stored), 8):
            planes = decoded[first : first + 8]
            np.multiply(stored[first : first + 8], np.float32(step), out=planes, casting="unsafe")
            if shift:
                planes += np.float32(shift)
    return image


def misfit(scans: Mapping[str, Scan], recipe: Recipe) -> str | None:
    """Why a recipe cannot be applied to a subject's checked scans on the working grid; None when it can."""
    scan = scans[recipe.contrasts[0]]
    crop = _crop(scan, recipe)
    if any(s.start < 0 or s.stop > n or s.start >= s.stop for s, n in zip(crop, scan.data.shape, strict=True)):
        wanted = " x ".join(f"[{s.start}:{s.stop}]" for s in crop)
        found = " x ".join(str(n) for n in scan.data.shape)
        return f"expected a volume that holds the crop {wanted}, found {found} voxels"
    for name in recipe.contrasts:
        if not scans[name].data[crop].any():
            return f"{name}: expected brain inside the crop, found zeros only"
        if recipe.intensity == "maximum" and scans[name].data.max() <= 0:
            return f"{name}: expected a positive maximum to divide by, found {scans[name].data.max():g}"
    return None


def transform(subject: str, brought: Brought, recipe: Recipe) -> Volume:
    """Apply a recipe to a subject's checked scans, and its classes where there are any, on the recipe's working grid.

    The scans must pass :func:`misfit`.
    """
    scans, labels = brought.scans, brought.labels
    first = scans[recipe.contrasts[0]]
    crop = _crop(first, recipe)
    crop_shape = tuple(s.stop - s.start for s in crop)
    shape = _grid_shape(crop_shape, first.spacing_mm, recipe)
    images = {name: scans[name].data[crop] for name in recipe.contrasts}
    if labels is not None:
        labels = labels[crop]
    with ThreadPoolExecutor(len(recipe.contrasts)) as threads:
        boxes = list(threads.map(lambda name: volumes.bounding_box(images[name] != 0), recipe.contrasts))
        if labels is not None:
            # In real data some labels lie outside a contrast's brain.
            boxes.append(volumes.bounding_box(labels))
        crop_box = volumes.union(*boxes)
        box = volumes.scaled_box(crop_box, crop_shape, shape)
        voxels = np.empty((len(recipe.contrasts) + (labels is not None), *(s.stop - s.start for s in box)), np.int16)

        def fill(channel: int) -> float:
            name = recipe.contrasts[channel]
            # Outside the box a whole scan is zero; of a crop's scan more is left.
            whole = images[name][crop_box] if recipe.crop is None else scans[name].data
            if recipe.intensity == "maximum":
                offset, scale = 0.0, float(whole.max())
            elif whole.dtype.kind == "f":
                offset, scale = volumes.nonzero_mean_and_sd(whole)
            else:
                offset, scale = _mean_and_sd(*scans[name].grey_values)
            if shape == crop_shape:
                return _store(images[name][box], offset, scale, voxels[channel])
            image = volumes.normalise_nonzero(images[name][crop_box], offset, scale)
            image = volumes.resize_part(image, crop_box, crop_shape, shape, box)
            step = _step(float(max(image.max(), -image.min())))
            image *= np.float32(1 / step)
            np.rint(image, out=image)
            np.copyto(voxels[channel], image, casting="unsafe")
            return step

        steps = tuple(threads.map(fill, range(len(recipe.contrasts))))
    if labels is not None:
        inside = labels[box] if shape == crop_shape else volumes.resize_labels(labels, shape, len(CLASSES))[box]
        _turn(volumes.in_memory_order(inside), volumes.in_memory_order(inside, voxels[-1]))
    return Volume(
        id=subject,
        voxels=voxels,
        steps=steps,
        grid_shape=shape,
        box_start=tuple(s.start for s in box),
        crop_start=tuple(s.start for s in crop),
        crop_shape=crop_shape,
        labelled_fraction=None if labels is None else int(np.count_nonzero(labels[crop_box])) / math.prod(crop_shape),
        placement=brought.placement,
    )


def _crop(scan: Scan, recipe: Recipe) -> volumes.Box:
    return tuple(slice(*ends) for ends in recipe.crop or ((0, n) for n in scan.data.shape))


def _grid_shape(
    crop_shape: tuple[int, int, int], scan_spacing_mm: tuple[float, ...], recipe: Recipe
) -> tuple[int, int, int]:
    if recipe.spacing_mm is None:
        return recipe.shape or crop_shape
    lengths = np.multiply(crop_shape, scan_spacing_mm)
    x, y, z = (max(1, round(float(length) / recipe.spacing_mm)) for length in lengths)
    return x, y, z


def _mean_and_sd(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Of integers that repeat: far fewer than voxels, and their sums are exact in double precision."""
    values, counts = values.astype(np.float64), counts.astype(np.float64)
    n = float(counts.sum())
    mean = float(values @ counts) / n
    return mean, math.sqrt(max(float(values**2 @ counts) / n - mean**2, 0.0))


def _step(largest: float) -> float:
    return max(largest / STEPS, float(np.finfo(np.float32).tiny))


def _store(scan: np.ndarray, offset: float, scale: float, stored: np.ndarray) -> float:
    """Round a contrast's (value - offset) / scale to steps of ``stored`` (int16); returns the step. Zero stays zero.

    Slab by slab, so that what lies between the scan and the result stays in the processor's cache.
    """
    planes = volumes.in_memory_order(scan)
    low, high = float(planes.min()), float(planes.max())
    if low == 0 and offset > high - offset:
        low = float(planes.min(where=planes != 0, initial=planes.max()))  # the background is not shifted
    largest = max(high - offset, offset - low)
    if offset == 0 and scan.dtype.kind in "iu" and 0 < largest <= STEPS:
        largest = STEPS / (STEPS // largest)  # a whole number of steps to the scan's unit keeps its integers exact
    step = _step(largest / (scale or 1.0))
    # A brain of one value differs from its mean by rounding only.
    factor = np.float32(STEPS / largest if largest > abs(offset) * np.finfo(np.float32).eps else 0)
    rounded = np.empty(planes.shape, np.int16)
    for place, values in volumes.slabs(planes):
        scaled = values.astype(np.float32)
        scaled -= np.float32(offset)
        scaled *= factor
        np.rint(scaled, out=scaled)
        np.copyto(rounded[place], scaled, casting="unsafe")
        rounded[place] *= (values != 0).view(np.int8)
    _turn(rounded, volumes.in_memory_order(scan, stored))
    return step


def _turn(planes: np.ndarray, target: np.ndarray) -> None:
    """Copy an array of three axes into one whose memory runs another way: one 2-D turn at a time fits the cache."""
    for row in range(planes.shape[1]):
        target[:, row] = planes[:, row]

"""The working grid: the one way in which scans are brought to what networks were shown, and predictions back.

Axes run as BraTS stores them. Where a recipe does not resample to a voxel size of its own, voxels have 1 mm; where it
counts voxels (slices 60:135, crop [56:184]), the grid has BraTS's extent as well, with the brain where BraTS has it. A
scan that lies so already is passed on as it is, others are turned (nothing is lost), resampled, padded and cut, and a
:class:`Placement` says how to come back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np

from common import volumes
from common.geometry import by
from common.labels import CLASSES
from common.nifti import Scan, ScanError, to_axes

Shape = tuple[int, int, int]

BRATS_EXTENT: Shape = (240, 240, 155)
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
BRAIN_PLACE = (118.6 / 240, 129.5 / 240, 71.8 / 155)
"""Middle of the brain's box as a share of BraTS's extent: the mean of 22 subjects of BraTS 2018, SD 1 to 2 voxels."""
PLACE_VOXELS = 10
"""How far the middle of a brain's box may lie from there along each axis: five SD, and no index means another part."""
AFFINE_MM = 0.5
MM3_PER_ML = 1000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What scans are brought to."""

    axes: str = "LPS"
    """Where the axes x, y and z point to."""
    spacing_mm: float | None = 1.0
    """Isotropic voxel size; None keeps the scan's, where a recipe resamples it afterwards."""
    extent: Shape | None = None
    """Voxels (x, y, z), with the brain at its place; None keeps the scan's own field of view."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a scan was brought to the working grid.

    source_shape, source_spacing_mm, source_axes: of the scan as stored. resampled_shape: turned to the grid's axes and
    resampled to its voxel size. start: first voxel of the working grid in that, negative where it was padded. shape: of
    the working grid. placed_by: what the start was found by, empty where the scan lay so already.
    """

    source_shape: Shape
    source_spacing_mm: tuple[float, float, float]
    source_axes: str
    axes: str
    resampled_shape: Shape
    start: tuple[int, int, int]
    shape: Shape
    placed_by: str

    @property
    def turned_shape(self) -> Shape:
        """The scan's shape along the grid's axes."""
        x, y, z = (self.source_shape[axis] for axis, _ in self._back())
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the working grid."""
        return (
            math.prod(self.source_spacing_mm)
            * math.prod(self.source_shape)
            / math.prod(self.resampled_shape)
            / MM3_PER_ML
        )

    def to_source(self, labels: np.ndarray) -> np.ndarray:
        """Classes (x, y, z) on the working grid, on the scan's own: background where the working grid does not reach.

        Turned and padded exactly; resampled, each voxel has the class that fills the most of it.
        """
        if labels.shape != self.shape:
            raise ValueError(f"expected labels of shape {self.shape}, received {labels.shape}")
        labels = volumes.window(labels, [-first for first in self.start], self.resampled_shape)
        if self.resampled_shape != self.turned_shape:
            labels = volumes.resize_labels(labels, self.turned_shape, len(CLASSES))
        return nib.apply_orientation(labels, _turn(self.axes, self.source_axes))

    def source_box(self, box: volumes.Box) -> volumes.Box:
        """The voxels of the scan as stored whose middles lie in a box of the working grid."""
        sides = []
        for part, first, n, length in zip(box, self.start, self.turned_shape, self.resampled_shape, strict=True):
            low, high = (round((edge + first) * n / length) for edge in (part.start, part.stop))
            sides.append((min(max(low, 0), n), min(max(high, 0), n)))
        found: list[slice] = [slice(0)] * 3
        for (axis, flip), n, (low, high) in zip(self._back(), self.turned_shape, sides, strict=True):
            found[axis] = slice(low, high) if flip > 0 else slice(n - high, n - low)
        return tuple(found)

    def _back(self) -> list[tuple[int, int]]:
        """For each axis of the grid the scan's axis, and whether it runs the same way (1) or not (-1)."""
        return [(int(axis), int(flip)) for axis, flip in _turn(self.axes, self.source_axes)]

    @property
    def is_moved(self) -> bool:
        """Whether the working grid's voxels are others than the scan's."""
        now = (self.source_axes, self.turned_shape, self.resampled_shape, self.start)
        return now != (self.axes, self.shape, self.shape, (0, 0, 0))

    def __str__(self) -> str:
        """What was done, for a note; empty where nothing was."""
        done = []
        if self.source_axes != self.axes:
            done.append(f"turned from {self.source_axes} to {self.axes}")
        if self.resampled_shape != self.turned_shape:
            done.append(f"resampled from {by(self.turned_shape)} to {by(self.resampled_shape)} voxels")
        if self.placed_by and not self.is_moved:
            done.append(f"left where they lie by {self.placed_by}")
        elif self.placed_by:
            done.append(f"brought from {by(self.resampled_shape)} to {by(self.shape)} voxels by {self.placed_by}")
        return ", ".join(done)


@dataclass(frozen=True)
class Brought:
    """A subject on the working grid. scans: by contrast; labels: classes uint8 (x, y, z), where there are any."""

    scans: Mapping[str, Scan]
    labels: np.ndarray | None
    placement: Placement


def bring(scans: Mapping[str, Scan], labels: np.ndarray | None, grid: Grid) -> Brought:
    """Bring a subject's checked scans, by contrast and all on one grid, and its classes to the working grid.

    Images are resampled linearly within the brain, whose edge stays an edge: the background stays exactly 0. Labels
    stay labels. Raises ScanError when the brain or its labels do not fit into the grid's extent.
    """
    first = next(iter(scans.values()))
    source_axes = "".join(nib.aff2axcodes(first.affine))
    scans = {name: _turned(scan, grid.axes) for name, scan in scans.items()}
    turned = next(iter(scans.values()))
    shape = turned.data.shape
    if labels is not None:
        labels = to_axes(labels, first.affine, grid.axes)
    if grid.spacing_mm is not None:
        sides = zip(shape, turned.spacing_mm, strict=True)
        shape = tuple(max(1, round(n * side / grid.spacing_mm)) for n, side in sides)
    if shape != turned.data.shape:
        scans = {name: _resampled(scan, shape) for name, scan in scans.items()}
        labels = None if labels is None else volumes.resize_labels(labels, shape, len(CLASSES))
    start, placed_by = (0, 0, 0), ""
    if grid.extent is not None:
        affine = next(iter(scans.values())).affine
        brain = volumes.union(*(volumes.bounding_box(scan.data != 0) for scan in scans.values()))
        start, placed_by = _place(brain, shape, affine, grid.extent)
        if labels is not None and np.count_nonzero(labels) > np.count_nonzero(
            labels[volumes.overlap_of(shape, start, grid.extent)[0]]
        ):
            raise ScanError(f"some of its labels lie outside the {by(grid.extent)} voxels around the brain")
        scans = {name: _cut(scan, start, grid.extent) for name, scan in scans.items()}
        labels = None if labels is None else volumes.window(labels, start, grid.extent)
    placement = Placement(
        source_shape=tuple(first.data.shape),
        source_spacing_mm=first.spacing_mm,
        source_axes=source_axes,
        axes=grid.axes,
        resampled_shape=tuple(shape),
        start=start,
        shape=tuple(grid.extent or shape),
        placed_by=placed_by,
    )
    return Brought(scans, labels, placement)


def _turn(own: str, wanted: str) -> np.ndarray:
    return nib.orientations.ornt_transform(*(nib.orientations.axcodes2ornt(axes) for axes in (own, wanted)))


def _turned(scan: Scan, axes: str) -> Scan:
    turn = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt(axes))
    if (turn == [[0, 1], [1, 1], [2, 1]]).all():
        return scan
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.data.shape)
    return replace(scan, data=nib.apply_orientation(scan.data, turn), affine=affine)


def _resampled(scan: Scan, shape: Shape) -> Scan:
    """Linear interpolation between voxels of the brain alone; a voxel belongs to it where half of it does."""
    brain = scan.data != 0
    box = volumes.bounding_box(brain)
    region = volumes.scaled_box(box, scan.data.shape, shape)
    values, share = (volumes.resize_part(part[box], box, scan.data.shape, shape, region) for part in (scan.data, brain))
    data = np.zeros(shape, np.float32)
    np.divide(values, share, out=data[region], where=share >= 0.5)
    step = np.array(scan.data.shape) / shape
    affine = scan.affine @ np.diag([*step, 1.0])
    affine[:3, 3] = scan.affine[:3, 3] + scan.affine[:3, :3] @ (step / 2 - 0.5)
    return replace(scan, data=data, affine=affine)


def _cut(scan: Scan, start: tuple[int, int, int], shape: Shape) -> Scan:
    if not any(start) and scan.data.shape == shape:
        return scan
    affine = scan.affine.copy()
    affine[:3, 3] += scan.affine[:3, :3] @ start
    return replace(scan, data=volumes.window(scan.data, start, shape), affine=affine)


def _place(brain: volumes.Box, shape: Shape, affine: np.ndarray, extent: Shape) -> tuple[tuple[int, int, int], str]:
    """First voxel of the grid's extent in a scan, and what it was found by.

    The scan's own frame where it has the extent, else its affine, if the brain then lies where BraTS has it; else the
    middle of the brain's box.
    """
    middle = np.array([(side.start + side.stop) / 2 for side in brain])
    usual = np.array(BRAIN_PLACE) * extent
    if shape == extent:
        if (apart := float(np.abs(middle - usual).max())) <= PLACE_VOXELS:
            return (0, 0, 0), ""
        if np.abs(affine - BRATS_AFFINE).max() < AFFINE_MM:  # a contrast's coverage may be cut off
            return (
                0,
                0,
                0,
            ), f"its affine, though its brain's middle is {apart:.0f} voxels from where BraTS has it"
    by_affine = np.rint(np.linalg.solve(affine, BRATS_AFFINE[:, 3])[:3]).astype(int)
    by_brain = np.rint(middle - usual).astype(int)
    lengths = np.array([side.stop - side.start for side in brain])
    if (lengths > extent).any():
        raise ScanError(f"its brain measures {by(lengths)} voxels, which do not fit into the grid of {by(extent)}")
    first, last = (np.array([getattr(side, end) for side in brain]) for end in ("start", "stop"))
    if (
        (by_affine <= first).all()
        and (by_affine + extent >= last).all()
        and (np.abs(middle - by_affine - usual).max() <= PLACE_VOXELS)
    ):
        return tuple(by_affine.tolist()), "its affine"
    return tuple(np.clip(by_brain, last - extent, first).tolist()), "its brain's box"

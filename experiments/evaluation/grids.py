"""A label map on the truth's grid: turned, cut, padded and resampled as its affine says, or refused."""

import numpy as np
import scipy  # its parts when they are first used: a third of a second

from common import geometry
from common.nifti import Scan, ScanError

VOXEL_TOLERANCE = 1e-3
"""Voxels by which an axis or a shift may be off and still count as turned or cut only."""
LEAST_COVERED = 0.5
"""Share of the truth's labelled voxels that a label map's field must hold: below, it lies somewhere else."""


def problem(scan: Scan, shape: tuple[int, ...], affine: np.ndarray) -> str | None:
    """Why a label map (x, y, z) cannot be brought to a grid, as its header says; None where it lies so already."""
    return None if lies_as(scan, shape, affine) else geometry.problem(scan)


def lies_as(scan: Scan, shape: tuple[int, ...], affine: np.ndarray) -> bool:
    """Whether a scan (x, y, z) has the grid, voxel by voxel."""
    if scan.data.shape != tuple(shape):
        return False
    return geometry.apart_mm(shape, scan.affine, affine) <= geometry.GRID_TOLERANCE_MM


def onto(scan: Scan, truth: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, str]:
    """A label map's values (x, y, z) on the grid of the truth, and what was done in words; empty where it lay so.

    truth: classes (x, y, z); affine: its (4, 4). Each voxel takes the value of the label map's voxel that holds its
    middle, 0 outside. Raises ScanError when the header does not say where the voxels lie, or they lie elsewhere.
    """
    if lies_as(scan, truth.shape, affine):
        return scan.data, ""
    if what := problem(scan, truth.shape, affine):
        raise ScanError(what)
    to_own = np.linalg.solve(scan.affine, affine)  # the truth's voxel indices to the label map's
    matrix, shift = to_own[:3, :3], to_own[:3, 3]
    found, held = _looked_up(scan.data, matrix, shift, truth.shape)
    labelled = np.count_nonzero(truth)
    covered = np.count_nonzero(held & (truth != 0)) / labelled if labelled else 1.0
    if covered < LEAST_COVERED or not held.any():
        same = " though it has the same shape" if scan.data.shape == truth.shape else ""
        raise ScanError(
            f"its affine places it elsewhere than the truth{same}: its field holds {covered:.0%} of the truth's "
            "labelled voxels; where its header was lost, write it with that of the scans"
        )
    moved = np.abs(matrix - np.rint(matrix)).max() <= VOXEL_TOLERANCE and np.isin(np.rint(matrix), (-1, 0, 1)).all()
    words = "resampled"
    if moved:
        whole = np.abs(shift - np.rint(shift)).max() <= VOXEL_TOLERANCE
        words = "turned or shifted by whole voxels" if whole else "shifted to the nearest voxel"
    left = f", its field without {1 - covered:.1%} of the labelled voxels" if covered < 1 else ""
    return found, f"{words} from {geometry.by(scan.data.shape)} to {geometry.by(truth.shape)} voxels{left}"


def _looked_up(
    data: np.ndarray, matrix: np.ndarray, shift: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest voxel's value for each voxel of a grid, and whether there is one."""
    source = np.abs(matrix).argmax(axis=1)  # which of the truth's axes each of the label map's follows
    alone = np.zeros((3, 3), bool)
    alone[np.arange(3), source] = True
    if np.abs(matrix[~alone]).max() > VOXEL_TOLERANCE / max(shape) or len(set(source.tolist())) < 3:
        # Else scipy takes the middles of the voxels at the edge for the field's end, and half of each is lost.
        how = {"offset": shift, "output_shape": shape, "order": 0, "mode": "grid-constant"}
        held = scipy.ndimage.affine_transform(np.ones(data.shape, np.uint8), matrix, **how).astype(bool)
        return scipy.ndimage.affine_transform(data, matrix, **how), held
    places: list[np.ndarray] = [np.empty(0)] * 3
    inside: list[np.ndarray] = [np.empty(0)] * 3
    for own, theirs in enumerate(source):
        # Halves go to one side by the same rule everywhere: rounding to even would take voxels twice and leave others.
        at = np.floor(matrix[own, theirs] * np.arange(shape[theirs]) + shift[own] + 0.5 + 1e-6).astype(int)
        inside[theirs] = (at >= 0) & (at < data.shape[own])
        places[own] = np.clip(at, 0, data.shape[own] - 1)
    held = np.ascontiguousarray(np.broadcast_to(inside[0][:, None, None] & inside[1][:, None] & inside[2], shape))
    found = data[np.ix_(*places)].transpose(np.argsort(source))
    return np.where(held, found, 0).astype(data.dtype), held

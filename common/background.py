"""Whether a scan is what the networks were shown: a brain without its skull on a background of exactly 0."""

from collections.abc import Mapping

import numpy as np

LARGEST_BRAIN_ML = 2500.0
"""More is not zero in a head with its skull, or where the background is not 0; brains in BraTS have 1150 to 1750 ml."""
NEXT_TO_NOTHING = 1e-3
"""Of the 99th percentile of the absolute values: a voxel below is hardly anything."""
LARGEST_HALO = 0.05
"""Share of the non-zero voxels that may be next to nothing; 0.012 at most in BraTS, z-scored or not."""
LARGEST_SPECKLE = 0.05
"""Share of the non-zero voxels that may stand alone in their plane; 0.0008 at most in BraTS."""
SMALLEST_BRAIN_ML = 600.0
"""Less is worth a note: a part of a brain, or a wrong voxel size."""
LARGEST_PEAK = 20.0
"""How many times the 99.9th percentile the largest value may be; 2.6 at most in BraTS."""
FEWEST_NEGATIVE = 0.2
"""Share of the non-zero voxels; of a z-scored scan about a half are negative, and fewer come from elsewhere."""
LEAST_COVERED = 0.95
"""Share of where any contrast is not 0 that each of them covers; 0.999 at least in BraTS."""
_EVERY = 3  # of each axis' voxels, for percentiles


def problem(data: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> str | None:
    """Why a contrast (x, y, z) does not lie on a background of 0; None where it does.

    Told by evidence and not by the share of zeros alone, which is small in a scan cut to its brain's box: zero is the
    most frequent value on the six faces of the volume, what is not zero is no more than a brain, hardly any of it is
    next to nothing, as what interpolation leaves around a brain is, and little stands alone, as noise does.
    """
    zeros = 1 - np.count_nonzero(data) / data.size
    advice = (
        f"{zeros:.1%} of its voxels are 0; expected a brain without its skull on a background of exactly 0 (strip the "
        "skull, set what is outside the brain's mask to 0)"
    )
    faces = np.concatenate([np.moveaxis(data, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)])
    if np.count_nonzero(faces) > faces.size / 2:
        values, counts = np.unique(faces, return_counts=True)
        if (usual := values[counts.argmax()]) != 0:
            return f"its background is not 0 but {usual:.4g} or thereabouts: {advice}"
    if (ml := (1 - zeros) * data.size * float(np.prod(spacing_mm)) / 1000) > LARGEST_BRAIN_ML:
        return f"{ml:.0f} ml of it are not 0, more than any brain: {advice}"
    some = _some(data)
    if some.size and (halo := float((some < NEXT_TO_NOTHING * np.percentile(some, 99)).mean())) > LARGEST_HALO:
        return f"{halo:.0%} of what is not 0 is next to nothing, as a background that is not quite 0: {advice}"
    if (speckle := _speckle(data)) > LARGEST_SPECKLE:
        return f"{speckle:.0%} of what is not 0 are single voxels, as noise around a brain: {advice}"
    if data.max() <= 0:
        return f"no voxel is above 0, the largest is {data.max():g}: expected a brain brighter than its background"
    return None


def notes(data: np.ndarray) -> list[str]:
    """What of a contrast's (x, y, z) values is odd, and moves every normalised value with it."""
    found, some = [], _some(data)
    if some.size and (peak := float(np.abs([data.min(), data.max()]).max())) > LARGEST_PEAK * np.percentile(some, 99.9):
        found.append(
            f"its largest value, {peak:.4g}, is far beyond all others (99.9 % are below "
            f"{np.percentile(some, 99.9):.4g})"
        )
    negative = np.count_nonzero(data < 0) / max(1, int(np.count_nonzero(data)))
    if 0 < negative < FEWEST_NEGATIVE:
        found.append(
            f"{negative:.1%} of what is not 0 is negative, as interpolation leaves it or numbers that overflowed"
        )
    return found


def brain_note(data: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> str | None:
    """That a contrast (x, y, z) holds less than a brain; None where it does not."""
    ml = np.count_nonzero(data) * float(np.prod(spacing_mm)) / 1000
    if ml >= SMALLEST_BRAIN_ML:
        return None
    return f"{ml:.0f} ml of it are not 0, less than a brain: check its voxel size, or whether a part is missing"


def coverage_note(contrasts: Mapping[str, np.ndarray]) -> str | None:
    """That contrasts (x, y, z) of one shape do not cover one brain, being shifted or cut; None where they do."""
    brains = {name: data[:, :, ::_EVERY] != 0 for name, data in contrasts.items()}
    whole = max(1, int(np.count_nonzero(np.logical_or.reduce(list(brains.values())))))
    shares = {name: np.count_nonzero(brain) / whole for name, brain in brains.items()}
    if not (few := [f"{name} {share:.0%}" for name, share in shares.items() if share < LEAST_COVERED]):
        return None
    return f"{', '.join(few)} of the voxels where any contrast is not 0: check that they are registered and whole"


def _some(data: np.ndarray) -> np.ndarray:
    """Absolute values of some of the voxels that are not 0."""
    some = np.abs(data[::_EVERY, ::_EVERY, ::_EVERY].astype(np.float64))
    return some[some > 0]


def _speckle(data: np.ndarray) -> float:
    """Share of the non-zero voxels of some planes (x, y) without any of the four neighbours there."""
    there = data[:, :, ::_EVERY] != 0
    beside = np.zeros_like(there)
    beside[1:] |= there[:-1]
    beside[:-1] |= there[1:]
    beside[:, 1:] |= there[:, :-1]
    beside[:, :-1] |= there[:, 1:]
    return float(np.count_nonzero(there & ~beside)) / max(1, int(np.count_nonzero(there)))

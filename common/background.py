"""Whether a scan is what the networks were shown: a brain without its skull on a background of exactly 0."""

import numpy as np

LARGEST_BRAIN_ML = 2500.0
"""More is not zero in a head with its skull, or where the background is not 0; brains in BraTS have 1150 to 1750 ml."""
NEXT_TO_NOTHING = 1e-3
"""Of the 99th percentile of the absolute values: a voxel below is hardly anything."""
LARGEST_HALO = 0.05
"""Share of the non-zero voxels that may be next to nothing; 0.012 at most in BraTS, z-scored or not."""
_EVERY = 3  # of each axis' voxels, for percentiles


def problem(data: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> str | None:
    """Why a contrast (x, y, z) does not lie on a background of 0; None where it does.

    Told by evidence and not by the share of zeros alone, which is small in a scan cut to its brain's box: zero is the
    most frequent value on the six faces of the volume, what is not zero is no more than a brain, and hardly any of it
    is next to nothing, as what interpolation leaves around a brain is.
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
    some = np.abs(data[::_EVERY, ::_EVERY, ::_EVERY].astype(np.float64))
    some = some[some > 0]
    if some.size and (halo := float((some < NEXT_TO_NOTHING * np.percentile(some, 99)).mean())) > LARGEST_HALO:
        return f"{halo:.0%} of what is not 0 is next to nothing, as a background that is not quite 0: {advice}"
    if data.max() <= 0:
        return f"no voxel is above 0, the largest is {data.max():g}: expected a brain brighter than its background"
    return None

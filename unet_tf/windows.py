"""Windows that slide over a volume, as MONAI's sliding_window_inference lays them: numpy only."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

SD = 0.125
"""Standard deviation of Gaussian weights, as a fraction of the window's side (MONAI's, nnU-Net's)."""
LEAST = 1e-3
"""Least weight, so that no voxel is divided by next to nothing."""


def slide(
    network: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: Sequence[int],
    *,
    overlap: float,
    weights: str,
) -> np.ndarray:
    """The weighted mean of what a network says of every window: (channel, x, y, z) on the grid of the image.

    network: from (contrast, *size) to (channel, *size). image: (contrast, x, y, z); along an axis where it is smaller
    than a window, the window reaches into zeros on both sides.
    overlap: of neighbouring windows, as a fraction. weights: ``constant``, or ``gaussian``, less towards the border.
    """
    missing = [max(side - n, 0) for side, n in zip(size, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    places = [starts(n, side, overlap) for n, side in zip(padded.shape[1:], size, strict=True)]
    weight = gaussian(size) if weights == "gaussian" else np.ones(size, np.float32)
    total, count = None, np.zeros(padded.shape[1:], np.float32)
    for place in product(*places):
        box = tuple(slice(first, first + side) for first, side in zip(place, size, strict=True))
        said = network(padded[:, *box])
        if total is None:
            total = np.zeros((len(said), *padded.shape[1:]), np.float32)
        total[:, *box] += said * weight
        count[box] += weight
    total /= count
    return total[:, *(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))]


def starts(length: int, side: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis of at least ``side`` voxels; the last window ends with the axis."""
    step = max(1, int(side * (1 - overlap)))
    return [*range(0, length - side, step), length - side]


def gaussian(size: Sequence[int]) -> np.ndarray:
    """Weights (x, y, z), float32, that fall from 1 in the middle of a window to at least LEAST in its corners."""
    weights = np.ones((), np.float32)
    for side in size:
        apart = np.arange(side, dtype=np.float32) - (side - 1) / 2
        weights = weights[..., None] * np.exp(-0.5 * (apart / (SD * side)) ** 2)
    return np.maximum(weights, LEAST).astype(np.float32)

"""Which images of a series the network sees: around the middle, or around the one that shows most tumour (report, MGMT
section). Images are counted in geometric order."""

import numpy as np


def central(n_images: int, count: int) -> np.ndarray:
    """Indices (count,) of ``count`` neighbouring images around the middle one, ``n_images // 2``.

    An even count has one image more before the middle one than after it. Raises ValueError when there are fewer images.
    """
    return _window(n_images // 2, n_images, count)


def tumour(images: np.ndarray, count: int, *, percentile: float = 99.9) -> np.ndarray:
    """Indices (count,) of ``count`` neighbouring images around the one with most bright pixels, the first of several.

    images: all of the series, (images, rows, columns). Bright: above the percentile of the series' non-zero pixels
    (between two pixels interpolated linearly). At the series' ends the window is moved inwards.
    Raises ValueError when there are fewer images, or when every pixel is zero.
    """
    shown = images[images != 0]
    if shown.size == 0:
        raise ValueError("expected a series that shows something, found zeros only")
    bright = np.count_nonzero(images > np.percentile(shown, percentile), axis=(1, 2))
    return _window(int(bright.argmax()), len(images), count)


def _window(centre: int, n_images: int, count: int) -> np.ndarray:
    if n_images < count:
        raise ValueError(f"expected at least {count} images, found {n_images}")
    first = min(max(centre - count // 2, 0), n_images - count)
    return np.arange(first, first + count)

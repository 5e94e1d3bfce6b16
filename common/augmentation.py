"""Random changes of a training crop that another scanner, another tumour or a failed series could have made.

Everything is drawn from the generator that is given, so a crop is a function of what the generator was made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from common import volumes
from common.recipe import STEPS, Volume
from common.settings import check, later

Range = tuple[float, float]

NCR, ET = 1, 3
_FIT_VOXELS = 20_000
_FIT_ROUNDS = 5
_MAD_TO_SD = 1.4826
_CORE_LEVELS = {"FLAIR": (-2.0, 3.0), "T1": (-2.0, 0.3), "T2": (-0.5, 4.0)}
"""z-scores that a core can have: cysts and necrosis are dark as fluid in one patient's FLAIR, bright as oedema in
another's."""
_CORE_CONTRAST_PROBABILITY = 0.7


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and ranges of random changes. Space: once per crop; intensities: each contrast for itself.

    Factors are drawn uniformly in their logarithm, everything else uniformly. By default nothing is changed.
    """

    zoom_probability: float = 0.0
    """Probability that the crop is enlarged or shrunk."""
    zoom: Range = (0.7, 1.4)
    """Factor of the anatomy's size."""
    rotation_probability: float = 0.0
    """Probability that the crop is rotated about its centre."""
    rotation_degrees: float = 20.0
    """Largest angle about each of the three axes."""
    brightness_probability: float = 0.0
    """Probability that a contrast is multiplied by a factor."""
    brightness: Range = (0.7, 1.4)
    """Factor of the z-scores."""
    contrast_probability: float = 0.0
    """Probability that a contrast is spread about its mean in the crop, kept between its extremes."""
    contrast: Range = (0.65, 1.5)
    """Factor of the distance from the mean."""
    gamma_probability: float = 0.0
    """Probability that a contrast, scaled to [0, 1], is raised to a power; its mean and SD are restored."""
    gamma: Range = (0.7, 1.5)
    """Exponent."""
    bias_field_probability: float = 0.0
    """Probability that a contrast is multiplied by a smooth field."""
    bias_field: float = 0.3
    """Largest absolute logarithm of the field."""
    blur_probability: float = 0.0
    """Probability that a contrast is smoothed."""
    blur_voxels: Range = (0.5, 1.2)
    """Standard deviation of the Gaussian, in voxels."""
    low_resolution_probability: float = 0.0
    """Probability that a contrast is resampled to fewer voxels and back."""
    low_resolution: Range = (0.5, 1.0)
    """Fraction of the voxels that is kept along every axis."""
    noise_probability: float = 0.0
    """Probability that Gaussian noise is added to a contrast."""
    noise_sd: Range = (0.0, 0.3)
    """Standard deviation of the noise, in SD of the brain."""
    dropout_probability: float = 0.0
    """Probability that a contrast is missing: 0 everywhere. T1ce never is, by which ET is labelled: without it a
    network could only learn to guess. Where there is no T1ce, one contrast always stays."""
    enhancement_removed_probability: float = 0.0
    """Probability that the tumour does not enhance: T1ce shows inside ET what T1 lets expect, and ET becomes NCR, the
    class that holds tumour without enhancement."""
    core_changed_probability: float = later(0.0)
    """Probability that NCR has another brightness, from fluid's to oedema's, in most contrasts, each for itself."""

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]
        ranges = [name for name in names if isinstance(getattr(self, name), tuple)]
        rising = "a range of two numbers above zero, the smaller first"
        checks = [
            *(
                (0 <= getattr(self, name) <= 1, name, "a probability")
                for name in names
                if name.endswith("_probability")
            ),
            *((_rises(getattr(self, name), may_be_zero=name == "noise_sd"), name, rising) for name in ranges),
            (self.low_resolution[1] <= 1, "low_resolution", "a range of fractions of at most 1"),
            (0 <= self.rotation_degrees <= 180, "rotation_degrees", "an angle from 0 to 180"),
        ]
        check(self, checks, not_negative=["bias_field"])

    def fits(self, contrasts: Sequence[str]) -> bool:
        """Whether crops of these contrasts can be changed so: an enhancement is removed by T1 and T1ce."""
        return not self.enhancement_removed_probability or {"T1", "T1ce"} <= set(contrasts)


def _rises(bounds: Range, *, may_be_zero: bool) -> bool:
    low, high = bounds
    return low <= high and (low > 0 or (low == 0 and may_be_zero))


OTHER_SCANNERS = Augmentation(
    zoom_probability=0.2,
    rotation_probability=0.2,
    brightness_probability=0.15,
    contrast_probability=0.15,
    gamma_probability=0.15,
    bias_field_probability=0.15,
    blur_probability=0.15,
    low_resolution_probability=0.15,
    noise_probability=0.15,
)
"""What winners of BraTS share (zoom 0.7 to 1.4, contrast 0.65 to 1.5, each at 0.15 to 0.2), and a bias field."""


def factor(bounds: Range, rng: np.random.Generator) -> float:
    """A factor drawn uniformly in its logarithm."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def change_intensities(
    image: np.ndarray,
    labels: np.ndarray,
    augmentation: Augmentation,
    contrasts: Sequence[str],
    rng: np.random.Generator,
) -> None:
    """Change a crop's intensities in place, and its labels where a tumour's enhancement is removed.

    image: float32 (contrast, x, y, z), C-ordered, exactly 0 outside the brain, which stays 0. labels: uint8 (x, y, z).
    contrasts: names of the channels.
    """
    a = augmentation
    if rng.random() < a.enhancement_removed_probability:
        remove_enhancement(image[contrasts.index("T1ce")], image[contrasts.index("T1")], labels, rng)
    if a.core_changed_probability and rng.random() < a.core_changed_probability:
        change_core(image, labels, contrasts, rng)
    missing = rng.random(len(image)) < a.dropout_probability
    if "T1ce" in contrasts:
        missing[contrasts.index("T1ce")] = False
    elif missing.all():
        missing[rng.integers(len(image))] = False
    for channel, is_missing in zip(image, missing, strict=True):
        if is_missing:
            channel[:] = 0
        elif channel.any():
            _change(channel, a, rng)


def _change(image: np.ndarray, a: Augmentation, rng: np.random.Generator) -> None:
    """One contrast: what the scanner measures, then how finely it resolves it, then its noise."""
    names = ("brightness", "contrast", "gamma", "bias_field", "blur", "low_resolution", "noise")
    drawn = {name for name in names if rng.random() < getattr(a, f"{name}_probability")}
    if not drawn:
        return
    brain = image != 0
    if drawn & {"brightness", "contrast", "gamma", "bias_field"}:
        values = image[brain]
        if "brightness" in drawn:
            values *= np.float32(factor(a.brightness, rng))
        if "contrast" in drawn:
            values = spread(values, factor(a.contrast, rng))
        if "gamma" in drawn:
            values = raise_to(values, factor(a.gamma, rng))
        if "bias_field" in drawn:
            lowest = values.min()
            corners = rng.uniform(-a.bias_field, a.bias_field, (3, 3, 3))
            values = (values - lowest) * np.exp(volumes.resize(corners, image.shape))[brain] + lowest
        image[brain] = values
    if drawn & {"blur", "low_resolution"}:
        matrices = [np.eye(side, dtype=np.float32) for side in image.shape]
        if "blur" in drawn:
            sd = rng.uniform(*a.blur_voxels)
            matrices = [gaussian_weights(len(m), sd) for m in matrices]
        if "low_resolution" in drawn:
            kept = rng.uniform(*a.low_resolution)
            matrices = [coarse_weights(len(m), kept) @ m for m in matrices]
        image[:] = volumes.along_axes(image, matrices) * brain
    if "noise" in drawn:
        image += brain * (rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(*a.noise_sd)))


def spread(values: np.ndarray, by: float) -> np.ndarray:
    """Values ``by`` times as far from their mean, kept between their extremes."""
    mean = values.mean()
    return np.clip((values - mean) * np.float32(by) + mean, values.min(), values.max())


def raise_to(values: np.ndarray, gamma: float) -> np.ndarray:
    """Values scaled to [0, 1], raised to a power, and scaled to the mean and SD that they had."""
    mean, sd, low, high = values.mean(), values.std(), values.min(), values.max()
    if low == high:
        return values
    raised = ((values - low) / (high - low)) ** np.float32(gamma)
    return (raised - raised.mean()) * (sd / raised.std()) + mean


def gaussian_weights(side: int, sd: float) -> np.ndarray:
    """(side, side) weights that smooth an axis with a Gaussian of ``sd`` voxels, cut at four SD. Rows sum to 1."""
    apart = np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
    weights = np.exp(-0.5 * (apart / sd) ** 2) * (apart <= int(4 * sd + 0.5))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def coarse_weights(side: int, kept: float) -> np.ndarray:
    """(side, side) weights that resample an axis to a fraction of its voxels and back, linearly, antialiased."""
    coarse = max(1, round(kept * side))
    return volumes.linear_weights(coarse, side) @ volumes.linear_weights(side, coarse)


def remove_enhancement(t1ce: np.ndarray, t1: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Make of a crop's enhancing tumour one that does not enhance, in place: ET looks as T1 lets expect, and is NCR.

    t1ce = a * t1 + b is fitted to the crop's brain outside the tumour, by least squares without the voxels (vessels,
    meninges) that lie beyond 2.5 robust SD; a crop with fewer than 100 such voxels takes a = 1, b = 0, since z-scores
    of the same tissue are alike. Noise of the fit's robust SD is added, and the change fades over the ET's border.
    """
    enhancing = labels == ET
    if not enhancing.any():
        return
    slope, offset, sd = fit_line(t1, t1ce, (labels == 0) & (t1 != 0) & (t1ce != 0), rng)
    box, inside, soft = _smoothed(enhancing, 1.0)
    weight = np.maximum(inside, np.minimum(2 * soft, 1)) * (t1ce[box] != 0)
    noise = rng.standard_normal(inside.shape, np.float32) * np.float32(sd)
    t1ce[box] += weight * (np.float32(slope) * t1[box] + np.float32(offset) + noise - t1ce[box])
    labels[enhancing] = NCR


def change_core(image: np.ndarray, labels: np.ndarray, contrasts: Sequence[str], rng: np.random.Generator) -> None:
    """Give the necrosis of a crop another mean brightness in its contrasts, in place; its texture stays.

    FLAIR, T1 and T2 are each drawn, T1ce follows T1 to 0.3; each is changed with a probability of 0.7. The change
    begins at the core's border and is whole about a voxel further in. Tumour that does not enhance is NCR, too.
    """
    core = labels == NCR
    if not core.any():
        return
    box, inside, soft = _smoothed(core, 0.7)
    weight = np.minimum(2 * soft, 1) * inside
    levels = {contrast: rng.uniform(*bounds) for contrast, bounds in _CORE_LEVELS.items()}
    levels["T1ce"] = levels["T1"] + rng.uniform(-0.3, 0.3)
    for channel, contrast in zip(image, contrasts, strict=True):
        part = channel[box]
        if contrast in levels and rng.random() < _CORE_CONTRAST_PROBABILITY:
            part += weight * np.float32(levels[contrast] - part[core[box]].mean()) * (part != 0)


def _smoothed(mask: np.ndarray, sd: float) -> tuple[volumes.Box, np.ndarray, np.ndarray]:
    """The box about a mask with a margin of 4 voxels, and in it the mask as float32, as it is and smoothed."""
    box = tuple(
        slice(max(0, s.start - 4), min(n, s.stop + 4))
        for s, n in zip(volumes.bounding_box(mask), mask.shape, strict=True)
    )
    inside = mask[box].astype(np.float32)
    return box, inside, volumes.along_axes(inside, [gaussian_weights(side, sd) for side in inside.shape])


def without_enhancement(volume: Volume, contrasts: Sequence[str], rng: np.random.Generator) -> Volume:
    """A prepared subject with labels whose tumour does not enhance (:func:`remove_enhancement`)."""
    image, labels, channel = volume.image(), volume.labels(), contrasts.index("T1ce")
    remove_enhancement(image[channel], image[contrasts.index("T1")], labels, rng)
    voxels = volume.voxels.copy()
    voxels[channel] = np.rint(np.clip(image[channel] / np.float32(volume.steps[channel]), -STEPS, STEPS))
    voxels[-1] = labels
    return replace(volume, voxels=voxels)


def fit_line(x: np.ndarray, y: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Slope, offset and robust SD of y about a line through x, on a sample of the voxels of a mask."""
    places = np.flatnonzero(where)
    if len(places) < 100:
        return 1.0, 0.0, 0.0
    places = rng.choice(places, min(len(places), _FIT_VOXELS), replace=False)
    x, y = x.ravel()[places].astype(np.float64), y.ravel()[places].astype(np.float64)
    kept = np.ones(len(x), bool)
    for _ in range(_FIT_ROUNDS):
        mean_x, mean_y = x[kept].mean(), y[kept].mean()
        variance = np.square(x[kept] - mean_x).mean()
        slope = ((x[kept] - mean_x) * (y[kept] - mean_y)).mean() / variance if variance > 0 else 0.0
        offset = mean_y - slope * mean_x
        apart = np.abs(y - slope * x - offset)
        sd = _MAD_TO_SD * float(np.median(apart))
        kept = apart <= max(2.5 * sd, 1e-6)
    return float(slope), float(offset), sd

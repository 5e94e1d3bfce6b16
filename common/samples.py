"""Training samples of prepared subjects, whatever framework trains: functions of (seed, round, subject), no state."""

import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np

from common import crops
from common.augmentation import Augmentation
from common.prepared import Entry
from common.recipe import decode


def positions(epoch: int, length: int, *, subjects: int, seed: int) -> Iterator[tuple[int, int]]:
    """Positions (round, index of a subject) of an epoch: the data is gone through in rounds, each in its own order.

    An epoch of ``length`` positions goes on where the one before it stopped, so that subjects are seen equally often
    whatever the length.
    """
    number, order = -1, np.empty(0, dtype=int)
    for position in range(epoch * length, (epoch + 1) * length):
        if position // subjects != number:
            number = position // subjects
            order = np.random.default_rng([seed, number]).permutation(subjects)
        yield number, int(order[position % subjects])


def sample(
    entry: Entry,
    number: int,
    *,
    seed: int,
    contrasts: tuple[str, ...],
    crop_voxels: tuple[int, int, int],
    crop_from: Literal["volume", "brain"],
    label_crop_probability: float,
    flip_probabilities: tuple[float, float, float],
    intensity_shift_sd: float,
    augmentation: Augmentation,
    slices: tuple[int, int] | None = None,
    extent: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A subject as a network sees it in round ``number`` of the data: a random crop, changed, flipped and shifted.

    Returns intensities float32 (contrast, x, y, z) and classes uint8 (x, y, z).
    The settings are those of a network's configuration. Raises ValueError for a scan on another grid than ``slices``.
    """
    rng = np.random.default_rng([seed, number, zlib.crc32(entry.id.encode())])
    volume = entry.open()
    start = crops.crop_start(
        volume,
        crop_voxels,
        rng,
        crop_from=crop_from,
        slices=slices,
        extent=extent,
        label_probability=label_crop_probability,
        label_positions=entry.label_positions if label_crop_probability else None,
    )
    flips = tuple(np.flatnonzero(rng.random(3) < flip_probabilities).tolist())
    of_image = tuple(1 + axis for axis in flips)
    shift = float(rng.uniform(-intensity_shift_sd, intensity_shift_sd))
    if augmentation != Augmentation():
        image, labels = crops.augmented(volume, start, crop_voxels, augmentation, contrasts, rng)
        return np.flip(image, of_image) + np.float32(shift), np.ascontiguousarray(np.flip(labels, flips))

    # Outside the brain's box every contrast is 0 and every label background: only the overlap is read.
    image = np.full((len(volume.steps), *crop_voxels), shift, dtype=np.float32)
    labels = np.zeros(crop_voxels, dtype=np.uint8)
    inside, place = volume.overlap(start, crop_voxels)
    decode(volume.voxels[:-1, *inside], volume.steps, shift=shift, out=np.flip(image, of_image)[:, *place])
    np.flip(labels, flips)[place] = volume.voxels[-1][inside]
    return image, labels

"""Batches straight from the prepared store; their order is a function of (seed, epoch)."""

from collections.abc import Sequence

import keras
import numpy as np

from common.prepared import Entry
from common.recipe import Volume, decode
from unet_tf.config import Config


class Batches(keras.utils.PyDataset):
    """Item ``step`` is (images, labels) of ``batch_size`` subjects; nothing is kept between items.

    images: float32 (n, x, y, z, contrast), labels: uint8 (n, x, y, z). 2.5D: the slices of the subjects one after the
    other, images (z, x, y, channel) and labels (z, x, y). ``epoch`` is set by the training before each epoch.
    """

    def __init__(self, entries: Sequence[Entry], config: Config, *, shuffle: bool) -> None:
        super().__init__(workers=config.workers, max_queue_size=2 * config.workers)
        self.entries, self.config, self.shuffle = list(entries), config, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.entries) // self.config.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        n, size = len(self.entries), self.config.batch_size
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(n) if self.shuffle else np.arange(n)
        if self.config.devices > 1:
            order = np.resize(order, len(self) * size)  # no device may find itself without a share of the last batch
        volumes = [self.entries[index].open() for index in order[step * size : (step + 1) * size]]
        samples = [(network_input(volume, self.config), network_labels(volume, self.config)) for volume in volumes]
        if len(samples) == 1:
            return samples[0]  # not copied
        images, labels = zip(*samples, strict=True)
        return np.concatenate(images), np.concatenate(labels)


def network_input(volume: Volume, config: Config) -> np.ndarray:
    """What the network sees of a subject, float32: (1, x, y, z, contrast), or in 2.5D (z, x, y, channel).

    The channels of 2.5D are the contrasts of the slice ``context`` below, and so on to the one ``context`` above.
    """
    if config.spatial_dims == 3:
        image = np.zeros((1, *volume.grid_shape, len(volume.steps)), dtype=np.float32)
        channels_first = np.moveaxis(image[0], -1, 0)
    else:
        x, y, z = volume.grid_shape
        image = np.zeros((z, len(volume.steps), x, y), dtype=np.float32)
        channels_first = image.transpose(1, 2, 3, 0)
    decode(volume.voxels[: len(volume.steps)], volume.steps, out=channels_first[:, *volume.box])
    if config.spatial_dims == 3:
        return image
    neighbours = np.arange(-config.context, config.context + 1)
    slices = np.empty((z, x, y, len(neighbours), len(volume.steps)), dtype=np.float32)
    for centre, seen in enumerate(slices):  # a slice at a time stays in the processor's cache
        seen[:] = image[np.clip(centre + neighbours, 0, z - 1)].transpose(2, 3, 0, 1)
    return slices.reshape(z, x, y, -1)


def network_labels(volume: Volume, config: Config) -> np.ndarray:
    """Classes 0 to 3, uint8 (1, x, y, z), or in 2.5D (z, x, y)."""
    labels = np.zeros(volume.grid_shape, dtype=np.uint8)
    labels[volume.box] = volume.labels()
    return labels[None] if config.spatial_dims == 3 else np.ascontiguousarray(np.moveaxis(labels, -1, 0))

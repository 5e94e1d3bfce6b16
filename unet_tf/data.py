"""Batches straight from the prepared store: their order and their crops are functions of (seed, epoch)."""

from collections.abc import Sequence

import keras
import numpy as np

from common.prepared import Entry
from common.processes import group
from common.recipe import Volume, decode
from common.samples import positions, sample
from unet_tf.config import Config


class Batches(keras.utils.PyDataset):
    """Item ``step`` is (images, labels) of ``batch_size`` subjects; nothing is kept between items.

    With ``crop_voxels`` the samples are random crops of the subjects, the same as the SegResNet's at equal settings.
    images: float32 (n, x, y, z, contrast), labels: uint8 (n, x, y, z). 2.5D: the slices of the samples one after the
    other, images (z, x, y, channel) and labels (z, x, y). ``epoch`` is set by the training before each epoch.
    """

    def __init__(self, entries: Sequence[Entry], config: Config, *, shuffle: bool) -> None:
        super().__init__(workers=config.workers, max_queue_size=2 * config.workers)
        self.entries, self.config, self.shuffle = list(entries), config, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._samples // self.config.batch_size)

    @property
    def _samples(self) -> int:
        return (
            len(self.entries) if self.config.crop_voxels is None else self.config.crops_per_epoch or len(self.entries)
        )

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(step * self.config.batch_size, (step + 1) * self.config.batch_size)
        samples = self._crops(part) if self.config.crop_voxels is not None else self._subjects(part)
        if len(samples) == 1:
            return samples[0]  # not copied
        images, labels = zip(*samples, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _subjects(self, part: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        n = len(self.entries)
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(n) if self.shuffle else np.arange(n)
        if self.config.devices * self.config.nodes > 1:
            # No device may find itself without a share of the last batch.
            order = np.resize(order, len(self) * self.config.batch_size)
        # A step's batch is put together of the processes' own, in the order of their ranks.
        n_own = self.config.batch_size // group().size
        first = part.start + group().own.rank * n_own
        volumes = [self.entries[index].open() for index in order[first : first + n_own]]
        return [(network_input(volume, self.config), network_labels(volume, self.config)) for volume in volumes]

    def _crops(self, part: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        config = self.config
        drawn = positions(self.epoch, self._samples, subjects=len(self.entries), seed=config.seed)
        samples = [
            sample(
                self.entries[index],
                number,
                seed=config.seed,
                contrasts=config.contrasts,
                crop_voxels=config.crop_voxels,
                crop_from=config.crop_from,
                label_crop_probability=config.label_crop_probability,
                flip_probabilities=config.flip_probabilities,
                intensity_shift_sd=config.intensity_shift_sd,
                augmentation=config.augmentation,
            )
            for number, index in list(drawn)[part]
        ]
        return [(as_input(image, config), as_labels(labels, config)) for image, labels in samples]


def network_input(volume: Volume, config: Config) -> np.ndarray:
    """What the network sees of a subject's whole grid, as :func:`as_input` lays it out."""
    contrasts, (x, y, z) = len(volume.steps), volume.grid_shape
    if config.spatial_dims == 3:
        image = np.moveaxis(np.zeros((x, y, z, contrasts), dtype=np.float32), -1, 0)
    else:
        image = np.zeros((z, contrasts, x, y), dtype=np.float32).transpose(1, 2, 3, 0)
    decode(volume.voxels[:contrasts], volume.steps, out=image[:, *volume.box])
    return as_input(image, config)


def network_labels(volume: Volume, config: Config) -> np.ndarray:
    """Classes of a subject's whole grid, as :func:`as_labels` lays them out."""
    labels = np.zeros(volume.grid_shape, dtype=np.uint8)
    labels[volume.box] = volume.labels()
    return as_labels(labels, config)


def as_input(image: np.ndarray, config: Config) -> np.ndarray:
    """Intensities (contrast, x, y, z) as the network takes them, float32: (1, x, y, z, contrast), or in 2.5D
    (z, x, y, channel).

    The channels of 2.5D are the contrasts of the slice ``context`` below, and so on to the one ``context`` above.
    Nothing is copied that lies in memory as it is wanted.
    """
    if config.spatial_dims == 3:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))[None]
    image = np.ascontiguousarray(image.transpose(3, 0, 1, 2))
    z, contrasts, x, y = image.shape
    neighbours = np.arange(-config.context, config.context + 1)
    slices = np.empty((z, x, y, len(neighbours), contrasts), dtype=np.float32)
    for centre, seen in enumerate(slices):  # a slice at a time stays in the processor's cache
        seen[:] = image[np.clip(centre + neighbours, 0, z - 1)].transpose(2, 3, 0, 1)
    return slices.reshape(z, x, y, -1)


def as_labels(labels: np.ndarray, config: Config) -> np.ndarray:
    """Classes (x, y, z) as the losses take them, uint8: (1, x, y, z), or in 2.5D (z, x, y)."""
    return labels[None] if config.spatial_dims == 3 else np.ascontiguousarray(np.moveaxis(labels, -1, 0))

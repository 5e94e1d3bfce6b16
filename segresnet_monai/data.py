"""Training crops straight from the prepared store: crop, flips and shift are functions of (seed, round, subject)."""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.prepared import Entry
from common.recipe import Volume, decode
from common.signals import end_with_parent
from segresnet_monai.config import Config

Position = tuple[int, int]


class Crops(Dataset):
    """Augmented crops: item (round, index) is subject ``index`` as the network sees it in that round of the data.

    An item is ``{"image": float32 (contrast, x, y, z), "labels": uint8 (x, y, z)}``; nothing is kept between items, so
    memory does not grow with the cohort.
    """

    def __init__(self, entries: Sequence[Entry], config: Config) -> None:
        self.entries = list(entries)
        self.config = config

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: Position) -> dict[str, torch.Tensor]:
        number, index = position
        entry, config = self.entries[index], self.config
        rng = np.random.default_rng([config.seed, number, zlib.crc32(entry.id.encode())])
        volume = entry.open()
        start = crop_start(volume, config, rng)
        flips = np.flatnonzero(rng.random(3) < config.flip_probabilities)
        shift = float(rng.uniform(-config.intensity_shift_sd, config.intensity_shift_sd))

        # Outside the brain's box every contrast is 0 and every label background: only the overlap is read.
        image = np.full((len(volume.steps), *config.crop_voxels), shift, dtype=np.float32)
        labels = np.zeros(config.crop_voxels, dtype=np.uint8)
        inside, place = volume.overlap(start, config.crop_voxels)
        decode(volume.voxels[:-1, *inside], volume.steps, shift=shift, out=np.flip(image, 1 + flips)[:, *place])
        np.flip(labels, flips)[place] = volume.voxels[-1, *inside]
        return {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}


def crop_start(volume: Volume, config: Config, rng: np.random.Generator) -> list[int]:
    """First voxel of a random crop, uniform over all positions inside the volume (or that fit around the brain).

    Along an axis where the crop is longer than what it is taken from, uniform over the positions that hold all of it.
    ``config.slices`` stand for the volume or the brain along z. Raises ValueError for a scan on another grid.
    """
    if config.crop_from == "volume":
        firsts, lengths = [0, 0, 0], list(volume.grid_shape)
    else:
        firsts, lengths = list(volume.box_start), list(volume.box_shape)
    if config.slices is not None:
        if volume.placement.shape != config.extent:
            raise ValueError(
                f"{volume.id}: expected a scan on the grid of {config.extent} voxels where config.slices are counted, "
                f"found {volume.placement.shape}"
            )
        firsts[2], last = (round(edge * volume.grid_shape[2] / config.extent[2]) for edge in config.slices)
        lengths[2] = last - firsts[2]
    start = []
    for first, length, side in zip(firsts, lengths, config.crop_voxels, strict=True):
        low, high = sorted((first, first + length - side))
        start.append(int(rng.integers(low, high, endpoint=True)))
    return start


class Rounds(Sampler[Position]):
    """Positions (round, index) of an epoch: the data is gone through in rounds, each shuffled by (seed, round).

    An epoch of ``length`` positions goes on where the one before it stopped, so that subjects are seen equally often
    whatever the length. Lightning calls ``set_epoch``; no other state exists, so a resumed run draws the same crops.
    """

    def __init__(self, subjects: int, *, length: int | None = None, seed: int = 0) -> None:
        self.subjects, self.length, self.seed = subjects, length or subjects, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Position]:
        number, order = -1, np.empty(0, dtype=int)
        for position in range(self.epoch * self.length, (self.epoch + 1) * self.length):
            if position // self.subjects != number:
                number = position // self.subjects
                order = np.random.default_rng([self.seed, number]).permutation(self.subjects)
            yield number, int(order[position % self.subjects])


def training_loader(entries: Sequence[Entry], config: Config, *, pin_memory: bool = False) -> DataLoader:
    """Batches of training crops. Loader processes live as long as the training and read ahead of it."""
    return DataLoader(
        Crops(entries, config),
        batch_size=config.batch_size,
        sampler=Rounds(len(entries), length=config.crops_per_epoch, seed=config.seed),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=end_with_parent,
        pin_memory=pin_memory,
    )


def to_channels(labels: torch.Tensor, targets: str = "classes") -> torch.Tensor:
    """Classes (n, x, y, z) as boolean channels (n, channel, x, y, z).

    targets: ``classes`` gives NCR, ED and ET, background has none; ``regions`` ET, TC and WT, each inside the next.
    """
    if targets == "classes":
        return torch.stack([labels == value for value in (1, 2, 3)], dim=1)
    return torch.stack([labels == 3, (labels == 1) | (labels == 3), labels > 0], dim=1)

"""Training crops straight from the prepared store: crop, flips and shift are functions of (seed, round, subject)."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from common.prepared import Entry
from common.processes import Shares
from common.samples import positions, sample
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
        image, labels = sample(
            entry,
            number,
            seed=config.seed,
            contrasts=config.contrasts,
            crop_voxels=config.crop_voxels,
            crop_from=config.crop_from,
            label_crop_probability=config.label_crop_probability,
            flip_probabilities=config.flip_probabilities,
            intensity_shift_sd=config.intensity_shift_sd,
            augmentation=config.augmentation,
            slices=config.slices,
            extent=config.extent,
        )
        return {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}


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
        return positions(self.epoch, self.length, subjects=self.subjects, seed=self.seed)


def training_loader(entries: Sequence[Entry], config: Config, *, pin_memory: bool = False) -> DataLoader:
    """Batches of training crops, of each this process' share. Loader processes live as long as the training and read
    ahead of it."""
    order = Rounds(len(entries), length=config.crops_per_epoch, seed=config.seed)
    return DataLoader(
        Crops(entries, config),
        batch_sampler=Shares(BatchSampler(order, config.batch_size, drop_last=False)),
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

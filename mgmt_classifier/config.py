"""Every setting of an MGMT model, its training and its threshold; the defaults are the cell of Fig. 13 that the report
finds best (FLAIR, 15 central images, batch 8)."""

from dataclasses import dataclass
from typing import Literal

from common.dicom.mgmt_cohort import CONTRASTS
from common.settings import apart, check, later
from mgmt_classifier.data import SliceRecipe


@dataclass(frozen=True, kw_only=True)
class Config:
    """One contrast's model. R: stated in the report; D: our decision where it is silent."""

    contrast: str = "FLAIR"
    """The one contrast that the network sees (R)."""
    slices: Literal["central", "tumour"] = "central"
    """Images around the middle of the series, or around the one with most pixels above the percentile (R)."""
    images: int = 15
    """Number of images (R)."""
    percentile: float = 99.9
    """Of the series' non-zero pixels; only for slices = tumour (R)."""
    image_size: tuple[int, int] = (255, 255)
    """Rows and columns that every image is resized to (R)."""
    intensity: Literal["zscore", "maximum"] = "zscore"
    """The chosen images' non-zero pixels to mean 0 and standard deviation 1, or divided by their maximum (D)."""
    flip_probability: float = 0.0
    """Probability of a left-right flip of a training sample (D: the report names no augmentation)."""

    backbone: Literal["resnet10", "vgg16"] = "resnet10"
    """MONAI's 3D ResNet10, or a 3D VGG16 (R)."""
    filters: int = 64
    """Filters of the first level, doubled from level to level (D: the papers' width)."""
    first_stride: int = 1
    """ResNet10: stride of the first convolution on all axes (D: MONAI's default; the ResNet paper has 2 in-plane)."""

    batch_size: int = 8
    """Patients per step (R)."""
    learning_rate: float = 1e-4
    """Adam's learning rate (D)."""
    epochs: int = 15
    """Passes over the training patients (D)."""
    keep: Literal["best", "last"] = "best"
    """The epoch with best validation accuracy (R), or the last one where there is no validation part (D)."""
    threshold_steps: int = 50
    """Evenly spaced thresholds from 0 to 1 that are tried on validation (Fig. 13: every threshold is k / 49)."""
    mixed_precision: bool = True
    """Float16 autocast with loss scaling on a GPU (D), where ``precision`` leaves the choice; else float32."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] | None = later(None)
    """Autocast of training and prediction; weights and losses stay float32. auto: float16 on a GPU, bfloat16 on CPUs
    that multiply it, else float32. None: what ``mixed_precision`` says."""
    workers: int = 2
    """Loader processes; samples come from memory maps, so few are enough."""
    devices: int = apart(1)
    """GPUs of each node that share each step, or on CPUs processes; each has a process of its own."""
    nodes: int = apart(1)
    """Nodes that share each step."""
    seed: int = 0
    """Initial weights, order and flips are functions of this seed."""

    def __post_init__(self) -> None:
        checks = (
            (self.contrast in CONTRASTS, "contrast", f"one of {', '.join(CONTRASTS)}"),
            (0 < self.percentile < 100, "percentile", "between 0 and 100"),
            (all(side > 0 for side in self.image_size), "image_size", "two positive numbers"),
            (0 <= self.flip_probability <= 1, "flip_probability", "a probability"),
            (self.first_stride in (1, 2), "first_stride", "1 or 2"),
            (
                self.batch_size % max(1, self.devices * self.nodes) == 0,
                "batch_size",
                f"a multiple of the {self.devices * self.nodes} processes (devices, nodes) that share a step",
            ),
            (self.threshold_steps > 1, "threshold_steps", "at least 2"),
        )
        positive = ("devices", "nodes", "images", "filters", "batch_size", "learning_rate", "epochs")
        not_negative = ("workers",)
        check(self, checks, positive=positive, not_negative=not_negative)

    @property
    def processes_per_node(self) -> int:
        """Of those that share a training."""
        return self.devices

    @property
    def recipe(self) -> SliceRecipe:
        """What the prepared store keeps for this model."""
        return SliceRecipe(
            contrast=self.contrast,
            slices=self.slices,
            images=self.images,
            percentile=self.percentile,
            image_size=self.image_size,
        )

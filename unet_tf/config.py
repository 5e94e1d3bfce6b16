"""Every setting of the U-Nets, their training and prediction; the defaults are the report's 3D network."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.grid import BRATS_EXTENT
from common.recipe import Recipe
from common.settings import check, later
from common.subject import CONTRASTS

Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

CENTRAL: Ranges = ((56, 184), (56, 184), (13, 141))
"""128 voxels around the middle, at 1 mm."""
CROP_THEN_RESIZE: Ranges = ((24, 216), (24, 216), (13, 141))
"""The ranges that the report states, 192 x 192 x 128 voxels, for its network of 128 x 128 x 128."""
SLICES: Ranges = ((0, 240), (0, 240), (60, 135))
"""The report's 75 axial slices, whole in-plane."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """U-Net on BraTS: the report's 3D network. R: stated in the report; D: our decision where it is silent."""

    spatial_dims: Literal[2, 3] = 3
    """3: whole crops; 2: axial slices, with their neighbours as further channels (2.5D)."""
    contrasts: tuple[str, ...] = CONTRASTS
    """Contrasts given to the network, in this order (R)."""
    intensity: Literal["maximum", "zscore"] = "maximum"
    """Each contrast divided by its scan's maximum (R for 3D, D for 2.5D), or its z-score over non-zero voxels."""
    crop: Ranges = CENTRAL
    """Part of the grid of ``extent`` that the network sees, first voxel and the one after the last along x, y and z (D:
    the report's 24 216 24 216 13 141 contradicts its network's size; with those the crop is resized)."""
    extent: tuple[int, int, int] = later(BRATS_EXTENT)
    """Voxels (x, y, z) of the grid on which ``crop`` is counted (R: BraTS's); scans of another are brought to it."""
    shape: tuple[int, int, int] = (128, 128, 128)
    """Voxels (x, y, z) that the crop is resized to (R)."""
    context: int = 0
    """2.5D: neighbouring slices on each side, given as further channels; at the ends the last slice is repeated (D)."""
    minimum_mask_fraction: float = 0.01
    """Subjects with a smaller share of labelled voxels in the crop are left out (R; of the crop: D)."""

    filters: int = 16
    """Filters of the first level, doubled at each further level (D)."""
    levels: int = 4
    """Encoder blocks, and decoder blocks; between them lies the bottom block (R)."""
    dropout: float = 0.2
    """Dropout probability between the two convolutions of a block (dropout: R; place and rate: D)."""
    initial_probability: float | None = None
    """Probability that the untrained network gives every tumour label; None leaves all four classes near 0.25 (D)."""

    loss: Literal["dice_focal", "cross_entropy"] = "dice_focal"
    """Dice plus focal loss (R; their sum, gamma 2 and equal class weights: D), or categorical cross-entropy."""
    learning_rate: float = 1e-4
    """Adam's learning rate (R)."""
    batch_size: int = 2
    """Subjects per step (R); in 2.5D Dice is that of a step's slices together."""
    epochs: int = 100
    """Length of the training (R)."""
    patience: int | None = 5
    """Epochs without a better validation loss after which training stops (R); None trains to the end."""
    minimum_delta: float = 1e-3
    """How much lower a validation loss must be to count as better (R)."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights used for the test: lowest validation loss, or those of the last epoch (R for 2.5D, D for 3D)."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Keras' dtype policy (D); mixed_float16 needs a GPU, losses and outputs are float32 in all."""
    jit_compile: bool = False
    """Compile with XLA (TensorFlow; JAX always does); on a CPU the compilation costs more than a demo gains (D)."""
    devices: int = 1
    """GPUs of this host that share each step."""
    workers: int = 1
    """Loader threads. One prepares the next batch beside the step on TensorFlow, at no start-up cost per epoch, and
    before the step on JAX and torch; more are a pool, for slow disks and fast GPUs."""
    seed: int = 0
    """Initial weights, order and dropout are functions of this seed."""

    probability_threshold: float = 0.5
    """Post-processing: a voxel is tumour, of the most probable label, where the three labels' probabilities together
    exceed this (thresholding: R; of what, and the value: D)."""
    opening_voxels: int = 1
    """Post-processing: radius of the opening of the whole tumour (R; radius and what is opened: D)."""
    closing_voxels: int = 1
    """Post-processing: radius of the closing of the whole tumour (R; radius and what is closed: D)."""
    minimum_component_voxels: int = 100
    """Post-processing: smaller connected parts of the whole tumour are removed (D)."""

    def __post_init__(self) -> None:
        factor = 2**self.levels
        contrasts = f"one or more of {', '.join(CONTRASTS)}, each once"
        checks = (
            (
                bool(self.contrasts)
                and set(self.contrasts) <= set(CONTRASTS)
                and len(set(self.contrasts)) == len(self.contrasts),
                "contrasts",
                contrasts,
            ),
            (
                len(self.crop) == 3 and all(0 <= first < stop for first, stop in self.crop),
                "crop",
                "three ranges of voxels",
            ),
            (
                all(stop <= side for (_, stop), side in zip(self.crop, self.extent, strict=False)),
                "crop",
                f"inside the grid of {self.extent}",
            ),
            (
                len(self.shape) == 3
                and min(self.shape) > 0
                and all(side % factor == 0 for side in self.shape[: self.spatial_dims]),
                "shape",
                f"positive, multiples of {factor} along the network's axes ({self.levels} levels)",
            ),
            (self.context == 0 or self.spatial_dims == 2, "context", "0 in 3D, where every slice is seen anyway"),
            (0 <= self.minimum_mask_fraction < 1, "minimum_mask_fraction", "a fraction below 1"),
            (0 <= self.dropout < 1, "dropout", "a probability below 1"),
            (
                self.initial_probability is None or 0 < self.initial_probability < 1 / 3,
                "initial_probability",
                "a probability below 1/3 or None",
            ),
            (self.patience is None or self.patience > 0, "patience", "a positive number or None"),
            (0 <= self.probability_threshold < 1, "probability_threshold", "a probability below 1"),
        )
        positive = ("levels", "filters", "learning_rate", "batch_size", "epochs", "devices", "workers")
        not_negative = ("context", "minimum_delta", "opening_voxels", "closing_voxels", "minimum_component_voxels")
        check(self, checks, positive=positive, not_negative=not_negative)

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps for this network."""
        return Recipe(
            contrasts=self.contrasts, intensity=self.intensity, crop=self.crop, shape=self.shape, extent=self.extent
        )

    @property
    def channels(self) -> int:
        """Input channels: the contrasts of a slice and of its neighbours."""
        return len(self.contrasts) * (2 * self.context + 1)


def backend() -> str:
    """Keras' backend, as Keras will choose it when it is imported: KERAS_BACKEND, its settings file, or TensorFlow."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"

"""Every setting of the U-Nets, their training and prediction; the defaults are the report's 3D network."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from common.augmentation import Augmentation
from common.grid import BRATS_EXTENT
from common.recipe import Recipe
from common.runs import RunError
from common.settings import apart, check, later
from common.subject import CONTRASTS

Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

CENTRAL: Ranges = ((56, 184), (56, 184), (13, 141))
"""128 voxels around the middle, at 1 mm."""
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
    crop_voxels: tuple[int, int, int] | None = later(None)
    """Voxels (x, y, z) of random training crops of the whole brain, and of the windows that slide over it to predict;
    None: the network sees ``crop``, resized to ``shape``, in training and prediction (R)."""
    spacing_mm: float | None = later(None)
    """Voxel size of random crops; None takes 1 mm, BraTS's."""
    crop_from: Literal["volume", "brain"] = later("brain")
    """Random crop positions anywhere in the volume, or around the brain."""
    label_crop_probability: float = later(0.0)
    """Probability that a random crop is centred, roughly, on a voxel of a tumour label, each label as likely as the
    others."""
    flip_probabilities: tuple[float, float, float] = later((0.0, 0.0, 0.0))
    """Probability of a flip of a random crop along x, y and z."""
    intensity_shift_sd: float = later(0.0)
    """A shift of random crops drawn from +-this many standard deviations, the same for all contrasts."""
    augmentation: Augmentation = later(Augmentation())  # noqa: RUF009 (a field)
    """Further random changes of random crops; by default none."""
    crops_per_epoch: int | None = later(None)
    """Random crops in an epoch; None takes one of each training subject."""

    filters: int = 16
    """Filters of the first level, doubled at each further level (D)."""
    levels: int = 4
    """Encoder blocks, and decoder blocks; between them lies the bottom block (R)."""
    dropout: float = 0.2
    """Dropout probability between the two convolutions of a block (dropout: R; place and rate: D)."""
    normalisation: Literal["none", "instance"] = later("none")
    """Between each convolution of a block and its ReLU: nothing (R), or each channel of each sample normalised."""
    initial_probability: float | None = None
    """Probability that the untrained network gives every tumour label, or region; None leaves all four classes near
    0.25, or regions near 0.5 (D)."""
    targets: Literal["classes", "regions"] = later("classes")
    """What the channels are: background, NCR, ED and ET as a softmax (R); or the nested regions ET, TC and WT, each a
    sigmoid."""

    loss: Literal["dice_focal", "cross_entropy", "batch_dice_bce"] = "dice_focal"
    """Dice plus focal loss (R; their sum, gamma 2 and equal class weights: D), categorical cross-entropy, or of regions
    one Dice loss of a step's samples together plus the binary cross entropy of each region."""
    learning_rate: float = 1e-4
    """Adam's learning rate (R)."""
    schedule: Literal["constant", "cosine"] = later("constant")
    """The learning rate stays, or goes to 0 as a cosine over the epochs."""
    warmup_epochs: int = later(0)
    """First epochs, over which the learning rate climbs in equal steps to where the cosine starts."""
    weight_decay: float = later(0.0)
    """Decoupled weight decay: Adam becomes AdamW (Loshchilov and Hutter 2019)."""
    gradient_norm: float | None = later(None)
    """Gradients of a larger norm, over all weights, are shortened to this one; None leaves them."""
    weight_average: float | None = later(None)
    """Decay per step of an exponential average of the weights, which is then what is scored, kept and predicts with; it
    starts faster, so that the first steps are soon forgotten. None averages nothing."""
    batch_size: int = 2
    """Subjects per step (R); in 2.5D Dice is that of a step's slices together."""
    epochs: int = 100
    """Length of the training (R)."""
    patience: int | None = 5
    """Epochs without a better validation loss after which training stops (R); None trains to the end."""
    minimum_delta: float = 1e-3
    """How much lower a validation loss must be to count as better (R)."""
    validate_every: int = later(5)
    """With random crops: epochs between two scorings of the validation subjects, whole brains each; the last epoch is
    always scored. Without, the validation loss is computed after each epoch."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights used for the test: lowest validation loss, with random crops best mean Dice (NCR, ED, ET) on validation;
    or those of the last epoch (R for 2.5D, D for 3D)."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16", "auto"] = "float32"
    """Keras' dtype policy (D); mixed_float16 needs a GPU, losses and outputs are float32 in all. auto: mixed_float16 on
    a GPU, mixed_bfloat16 on CPUs that multiply it, but not on TensorFlow, whose gradients suffer, else float32."""
    jit_compile: bool = False
    """Compile with XLA (TensorFlow; JAX always does); on a CPU the compilation costs more than a demo gains (D)."""
    devices: int = 1
    """GPUs of a host that share each step."""
    nodes: int = apart(1)
    """Hosts that share each step, with a process for the ``devices`` of each (JAX)."""
    workers: int = 1
    """Loader threads. One prepares the next batch beside the step on TensorFlow, at no start-up cost per epoch, and
    before the step on JAX and torch; more are a pool, for slow disks and fast GPUs."""
    seed: int = 0
    """Initial weights, order, random crops with their changes, and dropout are functions of this seed."""

    window_overlap: float = later(0.5)
    """Overlap of neighbouring prediction windows of ``crop_voxels``, as a fraction."""
    window_weights: Literal["constant", "gaussian"] = later("constant")
    """How a window's voxels count where windows overlap: all the same, or less towards its border."""
    average_flips: bool = later(False)
    """Average the predictions of the scan and of its flips, along every axis along which training flips."""
    probability_threshold: float = 0.5
    """Post-processing: a voxel is tumour, of the most probable label, where the three labels' probabilities together
    exceed this (thresholding: R in 2.5D, D in 3D; of what, and the value: D); of regions, what each one's must exceed.
    """
    opening_voxels: int = 1
    """Post-processing: radius of the opening of the whole tumour (R in 2.5D; its radius, and one in 3D: D)."""
    closing_voxels: int = 1
    """Post-processing: radius of the closing of the whole tumour (R in 2.5D; its radius, and one in 3D: D)."""
    minimum_component_voxels: int = 100
    """Post-processing: smaller connected parts of the whole tumour are removed (D)."""

    def __post_init__(self) -> None:
        factor = 2**self.levels
        checks = (
            (
                set(self.contrasts) <= set(CONTRASTS) and 0 < len(self.contrasts) == len(set(self.contrasts)),
                "contrasts",
                f"one or more of {', '.join(CONTRASTS)}, each once",
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
                len(self.grid_voxels) == 3
                and min(self.grid_voxels) > 0
                and all(side % factor == 0 for side in self.grid_voxels[: self.spatial_dims]),
                "shape" if self.crop_voxels is None else "crop_voxels",
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
            (
                self.patience is None or self.crop_voxels is None,
                "patience",
                "None beside random crops (crop_voxels), whose validation has no loss",
            ),
            (
                self.crop_voxels is not None or not self._of_random_crops(),
                "crop_voxels",
                f"voxels of random crops beside {', '.join(self._of_random_crops())}",
            ),
            (self.crop_voxels is None or self.devices == 1, "devices", "1 beside random crops (crop_voxels)"),
            (self.crop_voxels is None or self.nodes == 1, "nodes", "1 beside random crops (crop_voxels)"),
            (
                self.batch_size % (self.devices * self.nodes or 1) == 0,
                "batch_size",
                f"a multiple of the {self.devices * self.nodes} devices of all nodes",
            ),
            (self.spacing_mm is None or self.spacing_mm > 0, "spacing_mm", "a positive number or None"),
            (0 <= self.label_crop_probability <= 1, "label_crop_probability", "a probability"),
            (
                len(self.flip_probabilities) == 3 and all(0 <= p <= 1 for p in self.flip_probabilities),
                "flip_probabilities",
                "three probabilities",
            ),
            (
                self.intensity == "zscore" or not self._in_sd(),
                "intensity",
                f"zscore, in whose unit {', '.join(self._in_sd())} are measured",
            ),
            (self.augmentation.fits(self.contrasts), "contrasts", "T1, T1ce and others where enhancement is removed"),
            (self.crops_per_epoch is None or self.crops_per_epoch > 0, "crops_per_epoch", "a positive number or None"),
            (
                (self.targets == "regions") == (self.loss == "batch_dice_bce"),
                "loss",
                "batch_dice_bce of regions, another of classes",
            ),
            (
                0 <= self.warmup_epochs < self.epochs and (self.schedule == "cosine" or not self.warmup_epochs),
                "warmup_epochs",
                f"below epochs ({self.epochs}), and 0 beside a constant learning rate",
            ),
            (self.gradient_norm is None or self.gradient_norm > 0, "gradient_norm", "a positive number or None"),
            (
                self.weight_average is None or 0 < self.weight_average < 1,
                "weight_average",
                "a decay between 0 and 1, or None",
            ),
            (0 <= self.window_overlap < 1, "window_overlap", "a fraction below 1"),
            (0 <= self.probability_threshold < 1, "probability_threshold", "a probability below 1"),
            (
                self.probability_threshold > 0 or self.targets == "classes",
                "probability_threshold",
                "above 0 for regions, of which every voxel would else be all three",
            ),
        )
        positive = (
            "levels",
            "filters",
            "learning_rate",
            "batch_size",
            "epochs",
            "devices",
            "nodes",
            "workers",
            "validate_every",
        )
        not_negative = (
            "context",
            "minimum_delta",
            "intensity_shift_sd",
            "weight_decay",
            "opening_voxels",
            "closing_voxels",
            "minimum_component_voxels",
        )
        check(self, checks, positive=positive, not_negative=not_negative)

    @property
    def processes_per_node(self) -> int:
        """Of those that share a training: one has all devices of its host."""
        return 1

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps for this network."""
        if self.crop_voxels is not None:
            return Recipe(contrasts=self.contrasts, intensity=self.intensity, spacing_mm=self.spacing_mm)
        return Recipe(
            contrasts=self.contrasts, intensity=self.intensity, crop=self.crop, shape=self.shape, extent=self.extent
        )

    @property
    def channels(self) -> int:
        """Input channels: the contrasts of a slice and of its neighbours."""
        return len(self.contrasts) * (2 * self.context + 1)

    @property
    def grid_voxels(self) -> tuple[int, int, int]:
        """Voxels (x, y, z) that the network sees at once in training."""
        return self.shape if self.crop_voxels is None else self.crop_voxels

    def _in_sd(self) -> list[str]:
        """Random changes of intensities that are measured in SD of the brain, those that are made."""
        a = self.augmentation
        made = {
            "intensity_shift_sd": self.intensity_shift_sd,
            "augmentation.noise_sd": a.noise_probability,
            "augmentation.core_changed_probability": a.core_changed_probability,
        }
        return [name for name, value in made.items() if value]

    def _of_random_crops(self) -> list[str]:
        """Fields that mean nothing without random crops and have another value than their default."""
        names = (
            *("spacing_mm", "crop_from", "label_crop_probability", "flip_probabilities", "intensity_shift_sd"),
            *("augmentation", "crops_per_epoch", "weight_average", "window_overlap", "window_weights", "average_flips"),
            "validate_every",
        )
        return [each.name for each in fields(self) if each.name in names and getattr(self, each.name) != each.default]


def backend() -> str:
    """Keras' backend, as Keras will choose it when it is imported: KERAS_BACKEND, its settings file, or TensorFlow."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return json.loads((home / "keras.json").read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def check_nodes(nodes: int, backend: str) -> None:
    """Raises RunError where a network cannot be trained on so many hosts: Keras has a route that works on JAX alone."""
    if nodes > 1 and backend != "jax":
        raise RunError(
            f"expected KERAS_BACKEND=jax for {nodes} nodes (model.nodes), found {backend}: Keras' training on several "
            "hosts fails on TensorFlow, and for torch it has none"
        )

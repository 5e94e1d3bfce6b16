"""Every setting of the SegResNet, its training and its prediction; the defaults are the report's Table 1."""

from dataclasses import dataclass
from typing import Literal

from common.augmentation import Augmentation
from common.grid import BRATS_EXTENT
from common.recipe import Recipe
from common.settings import apart, check, later
from common.subject import CONTRASTS

NETWORKS = "networks.json"
"""In the folder of several networks that predict as one: the folders of their runs, as seen from it."""
DECISION = "decision.json"
"""Beside it: how their probabilities of regions are decided."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """SegResNet on BraTS: the report's baseline. R: stated in the report; D: our decision where it is silent."""

    contrasts: tuple[str, ...] = CONTRASTS
    """Contrasts given to the network, in this order (R)."""
    spacing_mm: float | None = None
    """Voxel size the network works on; None takes 1 mm, BraTS's (R)."""
    crop_voxels: tuple[int, int, int] = (128, 128, 128)
    """Training crop and prediction window, (x, y, z) (R)."""
    crop_from: Literal["volume", "brain"] = "volume"
    """Random crop positions anywhere in the volume (D: the report only says "cropping"), or around the brain."""
    slices: tuple[int, int] | None = None
    """Axial slices, first and one after the last, that crops are taken from; None takes them all."""
    extent: tuple[int, int, int] = later(BRATS_EXTENT)
    """Voxels (x, y, z) of the grid on which ``slices`` are counted; of no account without them (R: BraTS's)."""
    flip_probabilities: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Probability of a flip along x, y and z (flips on all axes: R; probability: D)."""
    intensity_shift_sd: float = 0.1
    """A shift drawn from +-this many standard deviations, the same for all contrasts (shifting: R; size: D)."""
    label_crop_probability: float = later(0.0)
    """Probability that a crop is centred, roughly, on a voxel of a tumour label, each label as likely as the others."""
    augmentation: Augmentation = later(Augmentation())  # noqa: RUF009 (a field)
    """Further random changes of the crops; by default none (R)."""

    network: Literal["segresnet", "segresnet_ds", "pocket"] = later("segresnet")
    """MONAI's SegResNet (R); Auto3DSeg's SegResNetDS; or MONAI's DynUNet with residual blocks and as many filters at
    every level, few enough for a pocket (after nnunet-pocket of MIST); of its blocks only the number of levels counts.
    The last two may be deeply supervised."""
    targets: Literal["classes", "regions"] = later("classes")
    """What the channels are: NCR, ED and ET, of which a voxel has one (R); or the nested regions WT, TC and ET."""
    initial_filters: int = 16
    """Filters of the first level, doubled at each further level (R, Table 1)."""
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 4)
    """Residual blocks per encoder level (R)."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks per decoder level (D: MONAI's BraTS example)."""
    dropout: float = 0.2
    """Dropout probability after the first convolution (D: MONAI's BraTS example)."""
    initial_probability: float | None = None
    """Probability that the untrained network gives every label; None leaves MONAI's own start, near 0.5 (D)."""
    vae: bool = False
    """Train the variational autoencoder's branch beside the decoder; left out by the report for want of memory (R)."""
    vae_weight: float = 0.1
    """Weight of the autoencoder's loss beside the segmentation's (D: Myronenko 2018)."""
    recompute_activations: bool = False
    """Compute activations within residual blocks again in the backward pass, in place of keeping them in memory."""
    supervised_levels: int = later(1)
    """Decoder levels with an output and a loss of their own, each half as heavy as the one above it; 1: the last."""

    loss: Literal["dice", "dice_bce", "batch_dice_bce", "dice_ce_monai", "gwdl", "hausdorff", "dice_hausdorff"] = "dice"
    """Dice loss (R, Table 1); its sum with the binary cross entropy of each channel, the same with one Dice of a step's
    crops together, or its sum with MONAI's cross entropy; the generalised Wasserstein Dice loss, which makes the
    channels a softmax over four classes; the Hausdorff loss; or its sum with the Dice loss, weighted anew each epoch so
    that both count the same."""
    learning_rate: float = 1e-4
    """Adam's learning rate at the start of the cosine schedule (R, Table 1)."""
    weight_decay: float = later(0.0)
    """Decoupled weight decay: Adam becomes AdamW (Loshchilov and Hutter 2019)."""
    warmup_epochs: int = later(0)
    """First epochs, over which the learning rate climbs in equal steps to where the cosine starts."""
    gradient_norm: float | None = later(None)
    """Gradients of a larger norm, over all weights, are shortened to this one; None leaves them."""
    weight_average: float | None = later(None)
    """Decay per step of an exponential average of the weights, which is then what is scored, kept and predicts with; it
    starts faster, so that the first steps are soon forgotten. None averages nothing."""
    batch_size: int = 1
    """Crops per step (R, Table 1)."""
    epochs: int = 300
    """Length of the training, a continued run's first part included (R)."""
    continued_from: int | None = None
    """Epochs of the training that this one continues, which had a cosine schedule of its own; None continues none."""
    continued_rate: Literal["cosine_restart", "cosine_longer", "cosine_onwards", "constant_last"] = "cosine_restart"
    """Learning rate after ``continued_from`` (D): a new cosine over the further epochs, as when the same program is run
    again; the cosine over all epochs from there on; the first cosine going on, up again; or the first part's last rate,
    which is next to nothing."""
    crops_per_epoch: int | None = None
    """Training crops in an epoch; None takes one of each training subject (R)."""
    validate_every: int = 5
    """Epochs between two scorings of the validation subjects; the last epoch is always scored (D)."""
    checkpoint: Literal["best", "last"] = "best"
    """Weights used for the test: best mean Dice (NCR, ED, ET) on validation, or those of the last epoch (D)."""
    mixed_precision: bool = True
    """Float16 autocast with loss scaling on a GPU (R), where ``precision`` leaves the choice; else float32."""
    precision: Literal["auto", "float32", "float16", "bfloat16"] | None = later(None)
    """Autocast of training and prediction; weights and losses stay float32. auto: float16 on a GPU, bfloat16 on CPUs
    that multiply it, else float32. None: what ``mixed_precision`` says."""
    workers: int = 2
    """Loader processes; crops come from memory maps, so few are enough."""
    devices: int = apart(1)
    """GPUs of each node that share each step, or on CPUs processes; each has a process of its own."""
    nodes: int = apart(1)
    """Nodes that share each step."""
    seed: int = 0
    """Initial weights, order, crops, flips, shifts and dropout are functions of this seed."""

    window_overlap: float = 0.5
    """Overlap of neighbouring prediction windows, as a fraction (D: MONAI's BraTS example)."""
    window_weights: Literal["constant", "gaussian"] = later("constant")
    """How a window's voxels count where windows overlap: all the same (D), or less towards its border."""
    average_flips: bool = later(False)
    """Average the predictions of the scan and of its flips, along every axis along which training flips."""
    probability_threshold: float = 0.5
    """A voxel takes the most probable label if that exceeds this, else background (D)."""

    def __post_init__(self) -> None:
        levels = len(self.encoder_blocks)
        factor = 2 ** (levels - 1)
        checks = (
            (
                set(self.contrasts) <= set(CONTRASTS) and 0 < len(self.contrasts) == len(set(self.contrasts)),
                "contrasts",
                f"one or more of {', '.join(CONTRASTS)}, each once",
            ),
            (self.spacing_mm is None or self.spacing_mm > 0, "spacing_mm", "a positive number or None"),
            (
                all(side > 0 and side % factor == 0 for side in self.crop_voxels),
                "crop_voxels",
                f"positive multiples of {factor} ({levels} levels)",
            ),
            (all(0 <= p <= 1 for p in self.flip_probabilities), "flip_probabilities", "three probabilities"),
            (0 <= self.label_crop_probability <= 1, "label_crop_probability", "a probability"),
            (self.augmentation.fits(self.contrasts), "contrasts", "T1, T1ce and others where enhancement is removed"),
            (
                self.initial_filters > 0 and self.initial_filters % 8 == 0,
                "initial_filters",
                "a positive multiple of 8 (group normalisation uses 8 groups)",
            ),
            (
                len(self.decoder_blocks) == levels - 1,
                "decoder_blocks",
                f"{levels - 1} levels, one less than the encoder",
            ),
            (0 <= self.dropout < 1, "dropout", "a probability below 1"),
            (self.network != "segresnet_ds" or self.dropout == 0, "dropout", "0 for a segresnet_ds, which has none"),
            (
                self.initial_probability is None or 0 < self.initial_probability < 1,
                "initial_probability",
                "a probability between 0 and 1, or None",
            ),
            (
                self.initial_probability is None or not self.softmax or self.initial_probability < 1 / 3,
                "initial_probability",
                "below a third, so that three labels leave the background a share",
            ),
            (
                self.slices is None or 0 <= self.slices[0] < self.slices[1] <= self.extent[2],
                "slices",
                f"a first slice and a later one after the last of {self.extent[2]}, or None",
            ),
            (
                not self.vae or all(side % (2 * factor) == 0 for side in self.crop_voxels),
                "crop_voxels",
                f"multiples of {2 * factor} ({levels} levels and the autoencoder's)",
            ),
            (
                self.continued_from is None
                or (0 < self.continued_from < self.epochs and self.continued_from % self.validate_every == 0),
                "continued_from",
                f"a multiple of validate_every ({self.validate_every}) below epochs ({self.epochs}), or None",
            ),
            (
                self.precision not in ("auto", "bfloat16")
                or self.crop_voxels[0] not in [2 * 2**n for n in range(levels)],
                "crop_voxels",
                "another along x, for at two voxels oneDNN's bfloat16 gradients are wrong, or precision float32",
            ),
            (
                self.network == "segresnet" or not self.vae,
                "network",
                "segresnet, the only one with an autoencoder's branch",
            ),
            (
                self.network.startswith("segresnet") or not self.recompute_activations,
                "network",
                "segresnet or segresnet_ds, whose activations can be recomputed",
            ),
            (
                1 <= self.supervised_levels <= (levels - 1 if self.network in ("segresnet_ds", "pocket") else 1),
                "supervised_levels",
                f"1, or of a segresnet_ds or pocket of {levels} levels up to {levels - 1}",
            ),
            (
                self.supervised_levels == 1 or "hausdorff" not in self.loss,
                "supervised_levels",
                f"1 beside the loss {self.loss}, which measures distances in voxels",
            ),
            (
                self.targets == "classes" or self.loss not in ("gwdl", "dice_ce_monai"),
                "targets",
                f"classes beside the loss {self.loss}, whose softmax allows a voxel one label",
            ),
            (
                0 <= self.warmup_epochs < self.epochs and not (self.warmup_epochs and self.continued_from),
                "warmup_epochs",
                f"below epochs ({self.epochs}), and 0 for a training that continues another",
            ),
            (self.gradient_norm is None or self.gradient_norm > 0, "gradient_norm", "a positive number or None"),
            (
                self.weight_average is None or 0 < self.weight_average < 1,
                "weight_average",
                "a decay between 0 and 1, or None",
            ),
            (self.crops_per_epoch is None or self.crops_per_epoch > 0, "crops_per_epoch", "a positive number or None"),
            (
                self.batch_size % max(1, self.devices * self.nodes) == 0,
                "batch_size",
                f"a multiple of the {self.devices * self.nodes} processes (devices, nodes) that share a step",
            ),
            (
                self.network != "pocket" or self.dropout == 0 or self.devices * self.nodes == 1,
                "devices",
                "1 beside a pocket's dropout, whose draws follow the layout of memory and so the crops per process",
            ),
            (
                not self.vae or self.devices * self.nodes == 1,
                "devices",
                "1 beside the autoencoder's branch, whose noise each process would draw for itself",
            ),
            (0 <= self.window_overlap < 1, "window_overlap", "a fraction below 1"),
            (0 < self.probability_threshold < 1, "probability_threshold", "a probability between 0 and 1"),
        )
        positive = ("devices", "nodes", "learning_rate", "batch_size", "epochs", "validate_every")
        not_negative = ("intensity_shift_sd", "vae_weight", "weight_decay", "workers")
        check(self, checks, positive=positive, not_negative=not_negative)

    @property
    def softmax(self) -> bool:
        """Whether the network's channels are the four classes, in place of one sigmoid per tumour label."""
        return self.loss == "gwdl"

    @property
    def label_threshold(self) -> float | None:
        """What a label's probability must exceed; None: the background's, which the labels leave."""
        return None if self.softmax else self.probability_threshold

    @property
    def processes_per_node(self) -> int:
        """Of those that share a training."""
        return self.devices

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps for this network."""
        extent = None if self.slices is None else self.extent
        return Recipe(contrasts=self.contrasts, spacing_mm=self.spacing_mm, extent=extent)

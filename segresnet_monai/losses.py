"""Losses on logits and channels (n, NCR/ED/ET, x, y, z), always computed in float32."""

from collections.abc import Callable
from functools import wraps

import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss, GeneralizedWassersteinDiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from segresnet_monai.distance import squared_distance

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Smoothing and squares as in MONAI's BraTS example. Every channel is a tumour label, so none is the background that
# include_background=False would drop.
_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5)
_batch_dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
_dice_ce_monai = DiceCELoss(sigmoid=True)

# Fidon et al. (2017): how far apart two of (background, NCR, ED, ET) are.
LABEL_DISTANCES = ((0.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.6, 0.5), (1.0, 0.6, 0.0, 0.7), (1.0, 0.5, 0.7, 0.0))
_gwdl = GeneralizedWassersteinDiceLoss(torch.tensor(LABEL_DISTANCES))


def _in_float32(loss: Loss) -> Loss:
    """Float16 sums overflow at 128 cubed, and autocast would turn matrix products back to float16."""

    @wraps(loss)
    def computed(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return loss(logits.float(), channels.float())

    return computed


@_in_float32
def dice(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """MONAI's Dice loss, averaged over samples and labels (Table 1)."""
    return _dice(logits, channels)


@_in_float32
def dice_bce(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Dice loss plus the mean binary cross entropy per channel: what independent sigmoid channels call for."""
    return _dice(logits, channels) + binary_cross_entropy_with_logits(logits, channels)


@_in_float32
def batch_dice_bce(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Dice loss of a step's samples together, averaged over labels, plus the mean binary cross entropy per channel.

    As in nnU-Net: a sample without a label does not count as a miss of its own where another sample has the label.
    """
    return _batch_dice(logits, channels) + binary_cross_entropy_with_logits(logits, channels)


@_in_float32
def dice_ce_monai(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """MONAI's DiceCELoss as it stands: over several channels its cross entropy is a softmax's, without background."""
    return _dice_ce_monai(logits, channels)


@_in_float32
def gwdl(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Generalised Wasserstein Dice loss (Fidon et al. 2017) of four classes.

    logits: (n, background/NCR/ED/ET, x, y, z), for a softmax. channels: the three tumour labels, which never overlap.
    """
    classes = sum(value * channel for value, channel in enumerate(channels.unbind(1), start=1))
    return _gwdl(logits, classes.long())


@_in_float32
def hausdorff(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Hausdorff distance loss (Karimi and Salcudean 2019), with distance transforms and alpha = 2, in voxels squared.

    Squared errors of the probabilities, weighted with the squared distances to the boundaries of the truth and of the
    prediction above 0.5: the mean over voxels, samples and labels. A boundary that does not exist weighs nothing.
    """
    probabilities = logits.sigmoid()
    distances = squared_distance(probabilities.detach() > 0.5) + squared_distance(channels > 0.5)
    return ((probabilities - channels).square() * distances).mean()


class DiceHausdorff(torch.nn.Module):
    """Hausdorff distance loss plus the weighted Dice loss: what Karimi and Salcudean (2019) train with.

    Both count the same: the Dice loss's weight in an epoch is the ratio of the Hausdorff loss's mean to its own over
    the steps of the epoch before; in the first epoch it is each step's own ratio (D: not stated). Sums and weight are
    buffers, which a checkpoint keeps. The Hausdorff loss alone is small for empty predictions, and may end with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("weight", torch.tensor(0.0))  # 0: no epoch before

    def forward(self, logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        parts = torch.stack([hausdorff(logits, channels), dice(logits, channels)])
        self.sums += parts.detach()
        weight = torch.where(self.weight > 0, self.weight, _ratio(parts.detach()))
        return parts[0] + weight * parts[1]

    def start_epoch(self) -> None:
        """Weigh by the steps since the last start, of which a new training has none."""
        self.weight.copy_(_ratio(self.sums))
        self.sums.zero_()


def _ratio(parts: torch.Tensor) -> torch.Tensor:
    return parts[0] / parts[1].clamp_min(torch.finfo(parts.dtype).eps)


LOSSES: dict[str, Loss] = {
    "dice": dice,
    "dice_bce": dice_bce,
    "batch_dice_bce": batch_dice_bce,
    "dice_ce_monai": dice_ce_monai,
    "gwdl": gwdl,
    "hausdorff": hausdorff,
}


def build_loss(name: str) -> Loss:
    """The loss of that name for one training: ``dice_hausdorff`` has a state, the others are functions.

    Raises ValueError for a name that no loss here has, though the configuration knows it.
    """
    if name not in (*LOSSES, "dice_hausdorff"):
        raise ValueError(f"expected a loss of segresnet_monai.losses.LOSSES ({', '.join(LOSSES)}), received {name!r}")
    return DiceHausdorff() if name == "dice_hausdorff" else LOSSES[name]


def deeply_supervised(loss: Loss) -> Loss:
    """The loss of several outputs (n, channel, x, y, z), the largest first, each half as heavy as the one before."""
    supervised = DeepSupervisionLoss(loss)
    return lambda outputs, channels: supervised(outputs, channels.float())

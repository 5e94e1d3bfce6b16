"""Losses on logits and channels (n, NCR/ED/ET, x, y, z), always computed in float32."""

from collections.abc import Callable
from functools import wraps

import torch
from monai.losses import DiceCELoss, DiceLoss, GeneralizedWassersteinDiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from segresnet_monai.distance import squared_distance

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Smoothing and squares as in MONAI's BraTS example. Every channel is a tumour label, so none is the background that
# include_background=False would drop.
_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5)
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


LOSSES: dict[str, Loss] = {
    "dice": dice,
    "dice_bce": dice_bce,
    "dice_ce_monai": dice_ce_monai,
    "gwdl": gwdl,
    "hausdorff": hausdorff,
}

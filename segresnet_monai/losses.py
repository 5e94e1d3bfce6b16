"""Losses on logits and channels (n, NCR/ED/ET, x, y, z), always computed in float32."""

from collections.abc import Callable

import torch
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

# Smoothing and squares as in MONAI's BraTS example. Every channel is a tumour label, so none is the background that
# include_background=False would drop.
_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5)


def dice(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """MONAI's Dice loss, averaged over samples and labels (Table 1). Float16 sums overflow at 128 cubed."""
    return _dice(logits.float(), channels.float())


def dice_bce(logits: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Dice loss plus the mean binary cross entropy per channel: what independent sigmoid channels call for."""
    return dice(logits, channels) + binary_cross_entropy_with_logits(logits.float(), channels.float())


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"dice": dice, "dice_bce": dice_bce}

"""Losses and metrics on classes and probabilities, in ``keras.ops``, always in float32.

labels: (n, x, y, z), or the slices (z, x, y) of one subject; probabilities have CLASSES as one more axis at the end,
logits REGIONS.
The one-hot form is made here, on the device, so a quarter of its bytes is loaded.
"""

from collections.abc import Callable

import keras
from keras import ops

from common.labels import CLASSES, REGIONS

Tensor = keras.KerasTensor
_EPSILON = 1e-7
_SMOOTH = 1e-5  # MONAI's


def cross_entropy(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Categorical cross-entropy, averaged over voxels (section 2.5D UNet Model)."""
    return ops.mean(-ops.log(_of_true_class(labels, probabilities)))


def dice(labels: Tensor, probabilities: Tensor) -> Tensor:
    """1 - Dice, averaged over subjects and all four classes with equal weights: MONAI's ``DiceLoss()`` of the same."""
    truth, guess = _subjects(_one_hot(labels)), _subjects(ops.cast(probabilities, "float32"))
    shared = ops.sum(truth * guess, axis=1)
    total = ops.sum(truth, axis=1) + ops.sum(guess, axis=1)
    return ops.mean(1 - (2 * shared + _SMOOTH) / (total + _SMOOTH))


def focal(labels: Tensor, probabilities: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) without class weights, averaged over voxels."""
    p = _of_true_class(labels, probabilities)
    return ops.mean(-((1 - p) ** gamma) * ops.log(p))


def dice_focal(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Sum of Dice and focal loss (section 3D UNet Model)."""
    return dice(labels, probabilities) + focal(labels, probabilities)


def batch_dice_bce(labels: Tensor, logits: Tensor) -> Tensor:
    """Dice loss of a step's samples together, averaged over regions, plus the mean binary cross entropy per region.

    As in nnU-Net: a sample without a region does not count as a miss of its own where another sample has the region.
    """
    logits = ops.reshape(ops.cast(logits, "float32"), (-1, len(REGIONS)))
    truth, guess = _in_regions(ops.reshape(labels, (-1,))), ops.sigmoid(logits)
    total = ops.sum(truth, axis=0) + ops.sum(guess, axis=0)
    dice_losses = 1 - (2 * ops.sum(truth * guess, axis=0) + _SMOOTH) / (total + _SMOOTH)
    # log(1 + exp(x)) - x y, which is finite for any logit
    return ops.mean(dice_losses) + ops.mean(ops.softplus(logits) - logits * truth)


def accuracy(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Share of voxels with the right class (Figs 3 and 5); most of them are background."""
    right = ops.equal(ops.cast(labels, "int32"), ops.cast(ops.argmax(probabilities, axis=-1), "int32"))
    return ops.mean(ops.cast(right, "float32"))


def mean_dice(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Mean Dice of NCR, ED and ET after argmax, averaged over subjects; a class rightly not found counts 1."""
    truth = _subjects(_one_hot(labels))
    guess = _subjects(_one_hot(ops.argmax(probabilities, axis=-1)))
    shared = ops.sum(truth * guess, axis=1)[:, 1:]
    total = (ops.sum(truth, axis=1) + ops.sum(guess, axis=1))[:, 1:]
    return ops.mean(ops.where(total > 0, 2 * shared / ops.maximum(total, 1), 1.0))


def _one_hot(labels: Tensor) -> Tensor:
    return ops.one_hot(ops.cast(labels, "int32"), len(CLASSES), dtype="float32")


def _in_regions(labels: Tensor) -> Tensor:
    """Whether each voxel is in ET, TC and WT, as one more axis."""
    return ops.stack(
        [sum(ops.cast(ops.equal(labels, value), "float32") for value in each) for each in REGIONS.values()], -1
    )


def _of_true_class(labels: Tensor, probabilities: Tensor) -> Tensor:
    p = ops.sum(_one_hot(labels) * ops.cast(probabilities, "float32"), axis=-1)
    return ops.clip(p, _EPSILON, 1.0)


def _subjects(values: Tensor) -> Tensor:
    """(n, x, y, z, class) as (n, voxel, class); slices (z, x, y, class) are one subject."""
    n = ops.shape(values)[0] if len(values.shape) == 5 else 1
    return ops.reshape(values, (n, -1, len(CLASSES)))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice_focal": dice_focal,
    "cross_entropy": cross_entropy,
    "batch_dice_bce": batch_dice_bce,
}

"""The SegResNet's recipe for a U-Net, in one place, so that the two cannot drift apart."""

from segresnet_monai.config import Config as SegResNet
from unet_tf.config import Config as UNet

LEVELS = 4
"""Of the U-Nets, the report's."""
CONTEXT = 1
"""Slices on each side that the 2.5D U-Net sees, the report's."""
PRECISIONS = {"auto": "auto", "float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def unet_of(segresnet: SegResNet, *, spatial_dims: int) -> UNet:
    """The U-Net that is trained and predicts as this SegResNet does.

    Equal are contrasts, voxel size and intensities; the samples and their order, bit for bit; targets, loss, start,
    optimiser, schedule, number of steps, gradient clipping and average of the weights; validation, windows, flips and
    decoding; the width of the first level, the dropout's rate and the precision; and both normalise within, the U-Net
    each channel of a sample by itself. What cannot be equal is the rest of the network (blocks, where dropout stands),
    its random initial weights, and the libraries' own ways: the place of Adam's epsilon, where autocast or a dtype
    policy rounds, loader processes or threads. The 2.5D network gets the same crops, slice by slice with the neighbours
    inside the crop; all slices of a step's crops are one step.
    Raises ValueError for a recipe that a U-Net cannot follow.
    """
    checks = (
        (segresnet.targets == "regions", "targets", "regions"),
        (segresnet.loss == "batch_dice_bce", "loss", "batch_dice_bce"),
        (segresnet.supervised_levels == 1, "supervised_levels", "1, for a U-Net has one output"),
        (not segresnet.vae, "vae", "False, for a U-Net has no such branch"),
        (segresnet.slices is None, "slices", "None, for a U-Net's crops come from everywhere"),
        (segresnet.continued_from is None, "continued_from", "None, for a U-Net's training continues no other"),
        (segresnet.devices == 1, "devices", "1: each network is trained in one process"),
        (segresnet.nodes == 1, "nodes", "1: each network is trained in one process"),
        (segresnet.precision is not None, "precision", f"one of {', '.join(PRECISIONS)}"),
    )
    for holds, name, wanted in checks:
        if not holds:
            raise ValueError(f"expected segresnet.{name} to be {wanted}, received {getattr(segresnet, name)!r}")
    return UNet(
        spatial_dims=spatial_dims,
        contrasts=segresnet.contrasts,
        intensity="zscore",
        spacing_mm=segresnet.spacing_mm,
        crop_voxels=segresnet.crop_voxels,
        crop_from=segresnet.crop_from,
        label_crop_probability=segresnet.label_crop_probability,
        flip_probabilities=segresnet.flip_probabilities,
        intensity_shift_sd=segresnet.intensity_shift_sd,
        augmentation=segresnet.augmentation,
        crops_per_epoch=segresnet.crops_per_epoch,
        context=CONTEXT if spatial_dims == 2 else 0,
        minimum_mask_fraction=0.0,
        filters=segresnet.initial_filters,
        levels=LEVELS,
        dropout=segresnet.dropout,
        normalisation="instance",
        initial_probability=segresnet.initial_probability,
        targets=segresnet.targets,
        loss=segresnet.loss,
        learning_rate=segresnet.learning_rate,
        schedule="cosine",
        warmup_epochs=segresnet.warmup_epochs,
        weight_decay=segresnet.weight_decay,
        gradient_norm=segresnet.gradient_norm,
        weight_average=segresnet.weight_average,
        batch_size=segresnet.batch_size,
        epochs=segresnet.epochs,
        patience=None,
        validate_every=segresnet.validate_every,
        checkpoint=segresnet.checkpoint,
        precision=PRECISIONS[segresnet.precision],
        workers=max(1, segresnet.workers),
        seed=segresnet.seed,
        window_overlap=segresnet.window_overlap,
        window_weights=segresnet.window_weights,
        average_flips=segresnet.average_flips,
        probability_threshold=segresnet.probability_threshold,
        opening_voxels=0,
        closing_voxels=0,
        minimum_component_voxels=0,
    )

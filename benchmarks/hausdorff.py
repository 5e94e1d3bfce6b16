"""The Hausdorff loss and its distance transforms: ``python -m benchmarks.hausdorff [--json PATH] [--size SIDE]``.

Loss and gradient of three channels, against MONAI's ``HausdorffDTLoss`` on the same logits and masks, which are smooth
blobs as a network and a radiologist draw them: noise would be all boundary. On a GPU MONAI's transforms run on the CPU
unless cuCIM is installed. Then a whole training step with this loss and the Dice loss against one with the Dice loss
alone: what the report's variation costs beside its baseline.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from monai.losses import HausdorffDTLoss
from scipy.ndimage import gaussian_filter

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report
from benchmarks.segresnet_step import Ours, batch, step_flops
from benchmarks.steps import Batch
from segresnet_monai.config import Config
from segresnet_monai.data import to_channels
from segresnet_monai.losses import build_loss, hausdorff

TOLERANCE = 1e-4
BLOB_VOXELS = 8


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time the Hausdorff loss against MONAI's, and a training step with it against one with the Dice loss."""

    size: int = 96
    """Side of a cube, in voxels."""
    filters: int = 16
    """Filters of the first level, for the training step."""


def blobs(size: int, seed: int, device: torch.device) -> torch.Tensor:
    """float32 (1, 3, size, size, size), positive in smooth regions of about 7 % of the volume."""
    noise = np.random.default_rng(seed).normal(size=(1, 3, size, size, size))
    smooth = gaussian_filter(noise, (0, 0, BLOB_VOXELS, BLOB_VOXELS, BLOB_VOXELS), mode="wrap")
    return torch.from_numpy((smooth / smooth.std() - 1.5).astype(np.float32)).to(device)


def time_loss(size: int, device: torch.device, repeats: int) -> list[Row]:
    """Loss and gradient, ours against MONAI's. Raises ValueError when the two differ."""
    logits, channels = 3 * blobs(size, 0, device), (blobs(size, 1, device) > 0).float()
    losses = {"ours": hausdorff, "MONAI": HausdorffDTLoss(include_background=True, sigmoid=True)}
    values = [float(loss(logits, channels)) for loss in losses.values()]
    if abs(values[0] - values[1]) > TOLERANCE:
        raise ValueError(f"expected both losses within {TOLERANCE}, found {values}")

    def work(name: str) -> None:
        leaf = logits.clone().requires_grad_()
        losses[name](leaf, channels).backward()

    name = f"Hausdorff loss, 3 x {size}^3, {device.type}"
    print(f"{name}: {values[0]:.6f} and MONAI's {values[1]:.6f}")
    timed = {side: basis.synchronised(lambda side=side: work(side), device) for side in losses}
    own = timed.pop("ours")
    copy = basis.synchronised(lambda: [tensor.clone() for tensor in (logits, channels, logits)], device)
    floor_s = basis.best_seconds(copy)
    return compare(name, own, timed, repeats=repeats, floor_s=floor_s, floor="copying logits, masks and gradient")


class WithLoss(Ours):
    """The training step with the loss that its configuration names."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.criterion = build_loss(config.loss)
        if isinstance(self.criterion, torch.nn.Module):
            self.criterion.to(device)

    def loss(self, batch: Batch) -> torch.Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        return self.criterion(self.network(image), to_channels(batch["labels"]))


def time_step(config: Config, device: torch.device, repeats: int) -> list[Row]:
    """A training step with Hausdorff and Dice loss, and as its peer the same step with the Dice loss alone."""
    steps = {loss: WithLoss(replace(config, loss=loss), device) for loss in ("dice_hausdorff", "dice")}
    size = config.crop_voxels[0]
    # The most positive of the three, where one is: no two labels on one voxel.
    highest, label = blobs(size, 1, device).max(dim=1)
    data = {**batch(config, device), "labels": torch.where(highest > 0, label + 1, 0).to(torch.uint8)}
    precision = torch.float16 if device.type == "cuda" else torch.float32
    timed = {loss: basis.synchronised(lambda step=step: step.step(data), device) for loss, step in steps.items()}
    return compare(
        f"training step, Hausdorff and Dice loss, {config.initial_filters} filters, {size}^3, {device.type}",
        timed["dice_hausdorff"],
        {"Dice loss": timed["dice"]},
        repeats=repeats,
        floor_s=step_flops(config) / basis.product_rate(device, precision),
        floor="its convolutions at the machine's rate of products",
    )


def main(options: Options) -> None:
    rows: list[Row] = []
    for device in basis.devices():
        rows += time_loss(options.size, device, options.repeats)
        config = Config(initial_filters=options.filters, crop_voxels=(options.size,) * 3)
        rows += time_step(config, device, options.repeats)
    report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.hausdorff", description=__doc__))

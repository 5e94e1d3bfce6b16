"""One training step: ``python -m benchmarks.segresnet_step [--json PATH] [--repeats N] [--size SIDE]``.

A step is forward pass, Dice loss, backward pass and Adam on one crop, from the same weights. Ours is what
``segresnet_monai.train`` does: channels-last memory, oneDNN for every convolution on the CPU, fused Adam, and masks
that become channels within the step. The peer is the plain PyTorch step with MONAI's SegResNet of the same sizes, its
``DiceLoss``, PyTorch's default memory format and default Adam; its masks are channels already. Both compute in float32
on the CPU. On a GPU both use float16 autocast, loss scaling (as MONAI's BraTS example does) and cuDNN's search
for the fastest algorithm; the peak memory of both is printed. A step's time does not depend on what is in the
crop, so crops are noise and ``--data`` changes nothing.

Where the processor multiplies bfloat16, our step in it follows, against ours in float32 and against bfloat16 with
PyTorch's normalisation; ``--network`` and ``--batch-size`` choose what takes it. ``--memory`` prints what a step in
half precision keeps for its backward pass, and times nothing.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
import tyro
from monai.losses import DiceLoss
from monai.networks.nets import SegResNet

from benchmarks import basis
from benchmarks.compare import Arguments, Row, report
from benchmarks.steps import Batch, Step, check_losses, kept_gib, time_precisions, time_steps
from common.precision import multiplies_bfloat16
from segresnet_monai.config import Config
from segresnet_monai.data import to_channels
from segresnet_monai.inference import build
from segresnet_monai.losses import dice
from segresnet_monai.normalisation import GroupNorm, InstanceNorm3d


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time one training step of the SegResNet against the plain PyTorch and MONAI step."""

    size: int | None = None
    """Side of a cubic crop in voxels, 128 in the paper preset; by default the demo's crop and 64 on the CPU, 128 on a
    GPU."""
    filters: int = 16
    """Filters of the first level, for --size and the default cubes; the demo's crop is timed with its own 8."""
    network: Literal["segresnet", "segresnet_ds", "pocket"] = "segresnet"
    """What is timed; the plain step is SegResNet's, the others have their precisions compared only."""
    batch_size: int = 1
    """Crops per step; the plain step has one."""
    memory: bool = False
    """Print the memory that a step keeps for its backward pass, counted at a small crop, in place of timing it."""


def cases(options: Options, device: torch.device) -> list[tuple[int, tuple[int, int, int]]]:
    """Filters and crop of each comparison."""
    if options.size is not None:
        return [(options.filters, (options.size,) * 3)]
    return (
        [(options.filters, (128,) * 3)] if device.type == "cuda" else [(8, (48, 64, 48)), (options.filters, (64,) * 3)]
    )


def batch(config: Config, device: torch.device) -> Batch:
    """A crop of noise with random classes, in the form in which ours and the peer get them."""
    generator = torch.Generator().manual_seed(config.seed)
    labels = torch.randint(4, (config.batch_size, *config.crop_voxels), generator=generator, dtype=torch.uint8)
    return {
        "image": torch.randn(config.batch_size, len(config.contrasts), *config.crop_voxels, generator=generator).to(
            device
        ),
        "labels": labels.to(device),
        "channels": to_channels(labels).float().to(device),
    }


def monai_network(config: Config) -> SegResNet:
    """MONAI's SegResNet as it stands, of a configuration's sizes and with our initial weights."""
    network = SegResNet(
        spatial_dims=3,
        in_channels=len(config.contrasts),
        out_channels=3,
        init_filters=config.initial_filters,
        blocks_down=config.encoder_blocks,
        blocks_up=config.decoder_blocks,
        dropout_prob=config.dropout,
    )
    network.load_state_dict(build(config).state_dict())
    return network


class Ours(Step):
    """The step of segresnet_monai.train, without Lightning around it."""

    def __init__(self, config: Config, device: torch.device, *, bfloat16: bool = False) -> None:
        super().__init__(build(config), config, device, fused=True, bfloat16=bfloat16)

    def loss(self, batch: Batch) -> torch.Tensor:
        image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
        return dice(self.network(image), to_channels(batch["labels"]))


class Monai(Step):
    """The plain step: MONAI's network and loss, PyTorch's default memory format and optimiser."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(monai_network(config), config, device, fused=False)
        self.criterion = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5)

    def loss(self, batch: Batch) -> torch.Tensor:
        return self.criterion(self.network(batch["image"]), batch["channels"])


def step_flops(config: Config) -> int:
    """FLOP of the products and convolutions in the forward and backward pass; counted without computing them."""
    network = monai_network(config).to("meta")
    image = torch.empty(1, len(config.contrasts), *config.crop_voxels, device="meta")
    return basis.flops(lambda: network(image).sum().backward())


def time_step(config: Config, device: torch.device, repeats: int) -> list[Row]:
    """One training step, ours against the plain one. Raises ValueError when their losses differ."""
    ours, peer, data = Ours(config, device), Monai(config, device), batch(config, device)
    apart = check_losses(ours, peer, data)
    size = "x".join(map(str, config.crop_voxels))
    name = f"training step, {config.initial_filters} filters, {size}, {device.type}"
    print(f"{name}: losses {apart:.1e} apart")
    gpu = device.type == "cuda"
    peer_name = "PyTorch and MONAI" + ", mixed precision" * gpu
    rows = time_steps(name, ours, peer, data, flops=step_flops(config), repeats=repeats, peer_name=peer_name)
    if gpu:
        for side, step in (("ours", ours.step), (peer_name, peer.step)):
            peak = basis.peak_memory_gib(lambda step=step: step(data), device)
            print(f"{name}: peak memory of {side} {peak:.2f} GiB (weights of both sides)")
    return rows


class PlainNormalisation(Ours):
    """Our step in bfloat16 with PyTorch's own group and instance normalisation."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device, bfloat16=True)
        for layer in self.network.modules():
            if isinstance(layer, GroupNorm | InstanceNorm3d):
                layer.__class__ = type(layer).__base__


def time_bfloat16(config: Config, repeats: int) -> list[Row]:
    """One training step on the CPU in bfloat16 and in float32."""
    device = torch.device("cpu")
    image = torch.empty(config.batch_size, len(config.contrasts), *config.crop_voxels, device="meta")
    meta = build(config).to("meta")
    return time_precisions(
        f"{config.network}, {config.initial_filters} filters, {'x'.join(map(str, config.crop_voxels))}, "
        f"batch {config.batch_size}, bfloat16",
        Ours(config, device),
        {
            "ours": Ours(config, device, bfloat16=True),
            "bfloat16, PyTorch's normalisation": PlainNormalisation(config, device),
        },
        batch(config, device),
        flops=basis.flops(lambda: meta(image).sum().backward()),
        repeats=repeats,
    )


def kept_memory_gib(config: Config, side: int = 32) -> float:
    """What a step in half precision keeps for its backward pass, counted at a small cube: maps grow with the voxels."""
    small = replace(config, crop_voxels=(side,) * 3, batch_size=1)
    device = torch.device("cpu")
    counted = kept_gib(Ours(small, device, bfloat16=True), batch(small, device))
    return counted * config.batch_size * prod(config.crop_voxels) / side**3


def main(options: Options) -> None:
    rows: list[Row] = []
    for device in basis.devices():
        for filters, crop in cases(options, device):
            sizes = {"initial_filters": filters, "crop_voxels": crop, "batch_size": options.batch_size}
            # Only segresnet has a dropout.
            dropout = Config().dropout if options.network == "segresnet" else 0.0
            config = Config(network=options.network, dropout=dropout, **sizes)
            if options.memory:
                print(f"{config.network}, {sizes}: {kept_memory_gib(config):.2f} GiB kept for the backward pass")
                continue
            if config.network == "segresnet" and config.batch_size == 1:
                rows += time_step(config, device, options.repeats)
            if device.type == "cpu" and multiplies_bfloat16():
                rows += time_bfloat16(config, options.repeats)
    if not rows and not options.memory:
        raise SystemExit("error: expected a processor that multiplies bfloat16 for these options, found none")
    if rows:
        report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.segresnet_step", description=__doc__))

"""One training step: ``python -m benchmarks.resnet10_step [--json PATH] [--repeats N] [--size IMAGES ROWS COLUMNS]``.

A step is forward pass, binary cross entropy, backward pass and Adam on one batch, from the same weights. Ours is what
``mgmt_classifier.train`` does: channels-last memory and fused Adam. The peer is the plain PyTorch step with MONAI's
``ResNet`` of the same sizes, PyTorch's default memory format and default Adam. Both compute in float32 on the CPU; on a
GPU both use float16 autocast, loss scaling and cuDNN's search for the fastest algorithm. The peak memory of each side
is that of a process (CPU) or of the tensors (GPU) which does this step and nothing else. A step's time does not depend
on what is in the images, so they are noise and ``--data`` changes nothing. Where the processor multiplies bfloat16, our
step in it follows, against ours in float32.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import tyro
from monai.networks.nets import ResNet
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks import basis
from benchmarks.compare import Arguments, Row, report
from benchmarks.steps import Batch, Step, check_losses, time_precisions, time_steps
from common.costs import peak_memory_mib
from common.precision import multiplies_bfloat16
from mgmt_classifier.config import Config
from mgmt_classifier.inference import build, to_device

DEMO = (  # filters, first stride, images, side, batch
    (8, 1, 15, 64, 8),
    (16, 1, 15, 64, 8),
    (16, 2, 15, 64, 8),
    (16, 2, 31, 64, 8),
    (16, 2, 31, 96, 8),
    (32, 2, 31, 64, 8),
)
PAPER = ((64, 1, 15, 255, 4), (64, 1, 15, 255, 8))


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time one training step of the ResNet10 against the plain PyTorch and MONAI step."""

    paper: bool = False
    """Also the paper's 255 x 255 x 15 in batches of 4 and 8 on the CPU, which take half a minute per step; a GPU always
    takes them."""
    size: tuple[int, int, int] | None = None
    """Images, rows and columns of a single comparison, with the next three."""
    filters: int = 64
    """Filters of the first level, for --size."""
    first_stride: int = 1
    """Stride of the first convolution, for --size."""
    batch_size: int = 8
    """Patients per step, for --size."""


def cases(options: Options, device: torch.device) -> list[Config]:
    """What is compared."""
    if options.size is not None:
        sizes = [(options.filters, options.first_stride, options.size[0], options.size[1:], options.batch_size)]
    else:
        chosen = PAPER if device.type == "cuda" else DEMO + PAPER * options.paper
        sizes = [(filters, stride, images, (side, side), n) for filters, stride, images, side, n in chosen]
    return [
        Config(filters=filters, first_stride=stride, images=images, image_size=side, batch_size=n)
        for filters, stride, images, side, n in sizes
    ]


def batch(config: Config, device: torch.device) -> Batch:
    """Images of noise, every second patient methylated."""
    generator = torch.Generator().manual_seed(config.seed)
    images = torch.randn(config.batch_size, 1, config.images, *config.image_size, generator=generator)
    return {"image": images.to(device), "label": (torch.arange(config.batch_size) % 2).float().to(device)}


def monai_network(config: Config) -> torch.nn.Module:
    """MONAI's ResNet10 as it stands, of a configuration's sizes and with our initial weights."""
    network = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[config.filters * 2**level for level in range(4)],
        n_input_channels=1,
        conv1_t_stride=config.first_stride,
        num_classes=1,
    )
    network.load_state_dict(build(config)[0].state_dict())
    return network


class Ours(Step):
    """The step of mgmt_classifier.train, without Lightning around it."""

    def __init__(self, config: Config, device: torch.device, *, bfloat16: bool = False) -> None:
        super().__init__(build(config), config, device, fused=True, bfloat16=bfloat16)

    def loss(self, batch: Batch) -> torch.Tensor:
        logits = self.network(to_device(batch["image"], self.device))
        return binary_cross_entropy_with_logits(logits.float(), batch["label"])


class Monai(Step):
    """The plain step: MONAI's network, PyTorch's default memory format and optimiser."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(monai_network(config), config, device, fused=False)

    def loss(self, batch: Batch) -> torch.Tensor:
        return binary_cross_entropy_with_logits(self.network(batch["image"])[:, 0].float(), batch["label"])


SIDES = {"ours": Ours, "PyTorch and MONAI": Monai}


def step_flops(config: Config) -> int:
    """FLOP of the products and convolutions in the forward and backward pass; counted without computing them."""
    network = monai_network(config).to("meta")
    images = torch.empty(config.batch_size, 1, config.images, *config.image_size, device="meta")
    return basis.flops(lambda: network(images).sum().backward())


def peak_memory(side: str, config: Config, device: torch.device) -> float:
    """GiB at the peak of two steps of one side and nothing else: resident on the CPU, of tensors on a GPU."""
    if device.type == "cuda":
        step, data = SIDES[side](config, device).step, batch(config, device)
        return basis.peak_memory_gib(lambda: step(data), device)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(resident_peak, side, config).result()


def resident_peak(side: str, config: Config) -> float:
    """GiB that this process has needed at most, after two steps."""
    device = torch.device("cpu")
    step, data = SIDES[side](config, device).step, batch(config, device)
    for _ in range(2):
        step(data)
    return peak_memory_mib() / 2**10


def time_step(config: Config, device: torch.device, repeats: int) -> list[Row]:
    """One training step, ours against the plain one. Raises ValueError when their losses differ."""
    size = "x".join(map(str, (config.images, *config.image_size)))
    name = f"{config.filters} filters, stride {config.first_stride}, {size}, batch {config.batch_size}, {device.type}"
    peaks = {side: peak_memory(side, config, device) for side in SIDES}
    ours, peer = (side(config, device) for side in SIDES.values())
    data = batch(config, device)
    apart = check_losses(ours, peer, data)
    print(
        f"{name}: losses {apart:.1e} apart; peak memory {', '.join(f'{s} {gib:.2f} GiB' for s, gib in peaks.items())}"
    )
    return time_steps(name, ours, peer, data, flops=step_flops(config), repeats=repeats)


def time_bfloat16(config: Config, repeats: int) -> list[Row]:
    """One training step on the CPU in bfloat16 against ours in float32."""
    device, size = torch.device("cpu"), "x".join(map(str, (config.images, *config.image_size)))
    return time_precisions(
        f"{config.filters} filters, stride {config.first_stride}, {size}, batch {config.batch_size}, bfloat16",
        Ours(config, device),
        {"ours": Ours(config, device, bfloat16=True)},
        batch(config, device),
        flops=step_flops(config),
        repeats=repeats,
    )


def main(options: Options) -> None:
    rows: list[Row] = []
    for device in basis.devices():
        for config in cases(options, device):
            rows += time_step(config, device, options.repeats)
            if device.type == "cpu" and multiplies_bfloat16():
                rows += time_bfloat16(config, options.repeats)
    report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.resnet10_step", description=__doc__))

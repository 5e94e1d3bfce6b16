"""A training step of a PyTorch network against the plain PyTorch and MONAI step, from the same weights."""

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import basis
from benchmarks.compare import Row, compare

LOSS_TOLERANCE = 1e-4

Batch = Mapping[str, torch.Tensor]


class Step:
    """Forward pass, loss, backward pass and Adam; on a GPU float16 autocast, loss scaling and cuDNN's search."""

    def __init__(self, network: torch.nn.Module, config: Any, device: torch.device, *, fused: bool) -> None:
        self.device, self.network = device, network.to(device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=fused or None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def loss(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError

    def step(self, batch: Batch) -> torch.Tensor:
        self.optimiser.zero_grad()
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
            with torch.autocast(self.device.type, torch.float16, enabled=self.scaler.is_enabled()):
                loss = self.loss(batch)
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()


def check_losses(ours: Step, peer: Step, batch: Batch) -> float:
    """How far both first losses lie apart, in float32 with equal dropout; beyond LOSS_TOLERANCE raises ValueError."""
    losses = []
    for side in (ours, peer):
        torch.manual_seed(0)
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            losses.append(float(side.loss(batch)))
    if (apart := abs(losses[0] - losses[1])) > LOSS_TOLERANCE:
        raise ValueError(f"expected both losses within {LOSS_TOLERANCE}, found them {apart:.2g} apart")
    return apart


def time_steps(
    name: str, ours: Step, peer: Step, batch: Batch, *, flops: int, repeats: int, peer_name: str = "PyTorch and MONAI"
) -> list[Row]:
    """One training step of either side. flops: of the products and convolutions in it."""
    gpu = ours.device.type == "cuda"
    own, theirs = (basis.synchronised(lambda side=side: side.step(batch), side.device) for side in (ours, peer))
    return compare(
        name,
        own,
        {peer_name: theirs},
        repeats=repeats,
        floor_s=flops / basis.product_rate(ours.device, torch.float16 if gpu else torch.float32),
        floor=f"{flops / 1e9:.0f} GFLOP at the machine's rate of products",
        warmup=3 if gpu else 1,
    )

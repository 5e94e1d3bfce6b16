"""A training step of a PyTorch network against the plain PyTorch and MONAI step, from the same weights."""

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import basis
from benchmarks.compare import Row, compare

LOSS_TOLERANCE = 1e-4

Batch = Mapping[str, torch.Tensor]


class Step:
    """Forward pass, loss, backward pass and Adam; on a GPU float16 autocast, loss scaling and cuDNN's search.

    bfloat16: on the CPU, with its autocast.
    """

    def __init__(
        self, network: torch.nn.Module, config: Any, device: torch.device, *, fused: bool, bfloat16: bool = False
    ) -> None:
        self.device, self.network, self.bfloat16 = device, network.to(device), bfloat16
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=fused or None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def loss(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError

    def autocast(self) -> torch.autocast:
        dtype = torch.bfloat16 if self.bfloat16 else torch.float16
        return torch.autocast(self.device.type, dtype, enabled=self.bfloat16 or self.scaler.is_enabled())

    def step(self, batch: Batch) -> torch.Tensor:
        self.optimiser.zero_grad()
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
            with self.autocast():
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


def time_precisions(
    name: str, float32: Step, bfloat16: dict[str, Step], batch: Batch, *, flops: int, repeats: int
) -> list[Row]:
    """Our step in bfloat16, the first of these, against ours in float32 and against the others."""
    (_, ours), *others = bfloat16.items()
    peers = {"ours in float32": float32, **dict(others)}
    return compare(
        name,
        lambda: ours.step(batch),
        {peer: lambda side=side: side.step(batch) for peer, side in peers.items()},
        repeats=repeats,
        floor_s=flops / basis.product_rate(ours.device, torch.bfloat16),
        floor=f"{flops / 1e9:.0f} GFLOP at the machine's rate of products",
    )


def kept_gib(side: Step, batch: Batch) -> float:
    """GiB that a forward pass keeps for the backward pass, every tensor once; weights and their casts are left out."""
    kept, weights = {}, {weight.shape for weight in side.network.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), side.autocast():
        loss = side.loss(batch)
    assert loss.requires_grad  # and with it what was kept is still there
    return sum(kept.values()) / 2**30

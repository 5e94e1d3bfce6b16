"""One training in several processes (Lightning's DDP), which ends where one process does but for the last digits.

Each has its share of a step's patients (:class:`common.processes.Shares`); dropout is drawn, and batch normalisation
and the loss are computed, of all of them in every process.
"""

import gc
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.functional import dropout

from common.processes import ENDED, Group, Processes, group, unreachable
from common.runs import RunError
from mgmt_classifier.config import Config

MEETING = timedelta(minutes=10)
# What the others wait for: the first reads, checks and prepares the data. A process that ends is noticed at once.
PATIENCE = timedelta(days=2)
# What gloo says, in a RuntimeError, where the process at the other end is gone.
_CONNECTION = re.compile(r"gloo|[Cc]onnection (closed|reset)|Broken pipe")


@contextmanager
def join(own: Processes) -> Iterator[Group]:
    """PyTorch's group of the processes. Ends the program with a message where another process has ended."""
    visible = torch.cuda.device_count()
    if visible and visible < own.per_node:
        raise RunError(
            f"expected every process to see the {own.per_node} GPUs of its node, found {visible}; with srun "
            "--gpus-per-node and --gpu-bind none, not --gpus-per-task"
        )
    if visible:
        torch.cuda.set_device(own.local_rank)
    try:
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
    except distributed.DistError as error:
        raise RunError(unreachable(own, MEETING, error)) from None
    try:
        backend = "cpu:gloo,cuda:nccl" if visible else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        yield Group(own, broadcast=_broadcast, gather=_gather)
        distributed.barrier()
    except (distributed.DistError, RuntimeError) as error:
        if isinstance(error, distributed.DistError) or _CONNECTION.search(str(error)):
            sys.exit(ENDED)
        raise
    gc.collect()  # what a training has left holds the group, whose threads must end before Python does
    distributed.destroy_process_group()


def _broadcast(value: Any) -> Any:
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def _gather(value: Any) -> list[Any]:
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def trainer_settings(config: Config, *callbacks: Callback) -> dict[str, Any]:
    """What Lightning's Trainer is told of devices and processes, and its callbacks.

    Raises RunError unless :func:`common.processes.together` has brought a process for each device together.
    """
    group().check(devices=config.devices, nodes=config.nodes)
    if group().size == 1:
        # Under Slurm, Lightning's own choice installs handlers that write checkpoints of theirs; without the folder, it
        # takes up such a file from the current one.
        return {"devices": 1, "plugins": [LightningEnvironment()], "callbacks": list(callbacks)}
    return {
        "devices": config.devices,
        "num_nodes": config.nodes,
        "strategy": DDPStrategy(),
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,  # Shares does it
        "callbacks": [*callbacks, _Signals()],
    }


class _Signals(Callback):
    """Keeps the handler of SIGTERM: of several processes, Lightning's waits for the others, which may be gone."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, self.handler)


def step_size(trainer: L.Trainer, step: int) -> int:
    """Samples of a step of this epoch, of all processes."""
    return trainer.train_dataloader.batch_sampler.sizes[step]


def whole(own: torch.Tensor, n: int) -> torch.Tensor:
    """The step's n samples (first axis), in their order, from every process' own.

    A loss of them has the same value in every process; its gradient is right once DDP has averaged the processes'.
    """
    return own if group().size == 1 else _Whole.apply(own, n)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, own: torch.Tensor, n: int) -> torch.Tensor:
        context.n_own, own = len(own), own.contiguous()
        parts = [torch.empty_like(own) for _ in range(group().size)]
        distributed.all_gather(parts, own)
        return torch.stack(parts, dim=1).flatten(0, 1)[:n]

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process has the same loss and so the same gradient, of which DDP will divide the sum.
        share = group().own.share(gradient) * group().size
        own = gradient.new_zeros((context.n_own, *gradient.shape[1:]))
        own[: len(share)] = share
        return own, None


def compute_together(network: nn.Module, n: Callable[[], int]) -> None:
    """Have dropout draw for all samples of the step, and batch normalisation take their mean and variance.

    n: gives the number of them, in each forward pass of the training. All processes must have the same seed before it.
    PyTorch's SyncBatchNorm refuses CPUs, and would count samples that stand in.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.forward = _Dropout(module, n)
        elif isinstance(module, nn.BatchNorm3d):
            module.forward = _BatchNorm(module, n)


class _Dropout:
    def __init__(self, module: nn.Dropout, n: Callable[[], int]) -> None:
        self.module, self.n = module, n

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.module.training:
            return x
        drawn = group().own.share(dropout(x.new_ones((self.n(), *x.shape[1:])), self.module.p))
        missing = len(x) - len(drawn)  # samples that stand in
        return x * torch.cat([drawn, drawn.new_ones((missing, *drawn.shape[1:]))])


class _BatchNorm:
    def __init__(self, module: nn.BatchNorm3d, n: Callable[[], int]) -> None:
        self.module, self.n, self.alone = module, n, module.forward

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        module = self.module
        if not module.training:
            return self.alone(x)
        axes, channel = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        n, values = self.n() * x[0, 0].numel(), x.float()
        counted = values[: len(group().own.share(range(self.n())))]
        mean = _Sum.apply(counted.sum(axes)) / n
        variance = _Sum.apply((counted - mean.view(channel)).square().sum(axes)) / n
        with torch.no_grad():
            module.num_batches_tracked += 1
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(variance * n / (n - 1), module.momentum)
        scale = module.weight * (variance + module.eps).rsqrt()
        return ((values - mean.view(channel)) * scale.view(channel) + module.bias.view(channel)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Over processes."""

    @staticmethod
    def forward(context: Any, own: torch.Tensor) -> torch.Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)

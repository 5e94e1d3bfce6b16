"""The processes that share one training: which one this is, of how many, and what each does of it.

torchrun or srun starts them. The first does all that one process would; where it trains, the others train along, and
write nothing. How they talk to each other is a framework's (:class:`Group`).
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from common.runs import Run, RunError

Item = TypeVar("Item")
Value = TypeVar("Value")
HOW = (
    "torchrun --nproc-per-node DEVICES -m experiments.train FOLDER, or srun --nodes NODES --ntasks-per-node DEVICES "
    "python -m experiments.train FOLDER, starts them"
)
ENDED = "stopped: another process of this training has ended; what it said, and the same command, go before all else"


@dataclass(frozen=True, kw_only=True)
class Processes:
    """One of ``size`` processes, the ``rank``-th, counted from 0; on its node it is the ``local_rank``-th."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    per_node: int = 1
    """Processes on each node."""
    launcher: str = ""
    """``torchrun`` or ``srun``; empty for a process of its own."""

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process' part of a sequence: every ``size``-th item from the ``rank``-th on."""
        return items[self.rank :: self.size]


class Group:
    """Processes that can talk to each other; by default this one alone."""

    def __init__(
        self,
        own: Processes = Processes(),
        *,
        broadcast: Callable[[Any], Any] = lambda value: value,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        """broadcast: gives each the first process' value. gather: gives each all processes' values, by rank."""
        self.own, self.agreed, self.gather = own, broadcast, gather

    @property
    def size(self) -> int:
        return self.own.size

    def check(self, *, devices: int, nodes: int) -> None:
        """Raises RunError unless a process for each of so many devices of so many nodes is in the group."""
        if self.size != devices * nodes:
            raise RunError(
                f"expected {devices * nodes} processes for {devices} devices on each of {nodes} nodes, found "
                f"{self.size}; {HOW}"
            )

    def call(self, function: Callable[..., object], *arguments: object, run: Run) -> None:
        """In the first process: have the others call the function as well, with a run that they don't write to."""
        if self.size > 1 and run.writes:
            self.agreed((function, arguments, run.folder))

    def in_shares(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Value]]) -> list[Value]:
        """What the work makes of each item, in the items' order, in every process; each works on its share only."""
        parts = self.gather(list(work(self.own.share(items))))
        found: list[Any] = [None] * len(items)
        for rank, part in enumerate(parts):
            found[rank :: self.size] = part
        return found


_group = Group()


def group() -> Group:
    """The processes of this training; this one alone outside :func:`together`."""
    return _group


def together(work: Callable[[], None], join: Callable[[Processes], AbstractContextManager[Group]]) -> None:
    """Do the work in the first process; the others do what it has them do (:meth:`Group.call`) until it is done.

    join: makes a framework's group of the processes.
    """
    global _group
    own = started()
    if own.launcher == "srun":
        os.environ.update(as_torchrun(own))
    with join(own) as _group:
        try:
            if own.rank == 0:
                work()
                _group.agreed(None)
            else:
                while (told := _group.agreed(None)) is not None:
                    function, arguments, folder = told
                    function(*arguments, run=Run(folder, writes=False))
        finally:
            _group = Group()


class Shares:
    """This process' share of every step of a batch sampler, in the order in which one process goes through them.

    All have equally many positions of a step. Where that leaves one over, a process' first stands in, of one without
    any the step's first; what is computed of it counts nothing.
    """

    def __init__(self, steps: Any) -> None:
        """steps: gives a list of positions for each step, and has the ``sampler`` that Lightning tells the epoch."""
        self.steps, self.sampler = steps, steps.sampler
        self.sizes = [len(step) for step in steps]
        """Of each step, as one process would take it."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        own = group().own
        for step in self.steps:
            positions = list(own.share(step))
            yield positions + (positions or step)[:1] * (math.ceil(len(step) / own.size) - len(positions))


def started(environment: Mapping[str, str] = os.environ) -> Processes:
    """This process among those of its training, as the environment's variables tell.

    torchrun's count before Slurm's, for it may have been started by Slurm. Without ``srun`` a batch script is one
    process, whatever tasks it asked for. Raises RunError where variables lack, or say what cannot be.
    """
    if "WORLD_SIZE" in environment or "TORCHELASTIC_RUN_ID" in environment:
        return _read(environment, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "SLURM_STEP_NUM_TASKS" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
        return _read(environment, "srun", *names)
    return Processes()


def _read(environment: Mapping[str, str], launcher: str, *names: str) -> Processes:
    found = {name: environment.get(name) for name in names}
    said = ", ".join(f"{name} {value or 'missing'}" for name, value in found.items())
    try:
        # Slurm's tasks per node: 4(x2), two nodes with four; 4,2 where they differ
        rank, size, local_rank, per_node = (int(re.sub(r"\(x\d+\)$", "", value or "")) for value in found.values())
    except ValueError:
        raise RunError(f"expected as many processes on every node, told by {launcher}; found {said}") from None
    if not (0 <= local_rank < per_node <= size and 0 <= rank < size and size % per_node == 0):
        raise RunError(f"expected a process among those of {launcher}, found {said}")
    if size == 1:
        return Processes()
    return Processes(rank=rank, size=size, local_rank=local_rank, per_node=per_node, launcher=launcher)


def as_torchrun(own: Processes, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that torchrun would have set, which frameworks read, for a process of srun's.

    MASTER_ADDR and MASTER_PORT may be given, where nodes cannot be reached by the names that Slurm has for them.
    """
    first = re.split(r",(?![^[]*\])", environment["SLURM_STEP_NODELIST"])[0]  # of n[04-06,9],m7: n[04-06,9]
    # One port for each of the steps of a node.
    step = 10 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
    return {
        "MASTER_ADDR": environment.get("MASTER_ADDR", re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first)),
        "MASTER_PORT": environment.get("MASTER_PORT", str(15000 + step % 10000)),
        "RANK": str(own.rank),
        "WORLD_SIZE": str(own.size),
        "LOCAL_RANK": str(own.local_rank),
        "LOCAL_WORLD_SIZE": str(own.per_node),
        "GROUP_RANK": str(own.rank // own.per_node),
    }


def unreachable(own: Processes, patience: timedelta, error: Exception) -> str:
    """What is said where the processes do not meet."""
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} (MASTER_ADDR, MASTER_PORT)"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"expected all {own.size} processes to meet at {place} within {patience}, process {own.rank} found: {said}"


def check(*, devices: int, nodes: int) -> None:
    """Raises RunError unless a training on so many devices of so many nodes was started with a process for each."""
    found = started()
    if (found.per_node, found.size) != (devices, devices * nodes):
        by = f" of {found.launcher} with {found.per_node} on each of {found.size // found.per_node} nodes"
        raise RunError(
            f"expected {devices * nodes} processes for {devices} devices on each of {nodes} nodes (model.devices, "
            f"model.nodes), found {found.size}{by if found.launcher else ''}; {HOW}"
        )


def check_alone() -> None:
    """Raises RunError where torchrun or srun has started several processes of a command that starts its trainings."""
    if (found := started()).size > 1:
        raise RunError(
            f"expected one process, for this command starts its trainings itself, found {found.size} of "
            f"{found.launcher}; leave {found.launcher} out: a training on several devices (--model.devices) is given "
            "processes of its own"
        )

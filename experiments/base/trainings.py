"""Trainings as commands: a list of them is run in the order of what each needs, one after the other or side by side.

A training is a command line and a run's folder. Nothing is handed to it but the command, and nothing comes back but
what it writes into the folder, so one that was stopped anywhere goes on when the same list is run again.
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.files import read_json
from common.runs import FAILURE, RunError
from common.words import listed

LOG = "log.txt"
IN_USE = 75
"""Exit status of a training that another process is working on (EX_TEMPFAIL of sysexits.h)."""
JOB = "job.json"
"""File of a training's folder that says what its Slurm job is given, and the job's number."""
WHERE = "where.json"
"""File of a training's folder that says by whom it was started last, and where."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A command that makes a run's folder, and what it needs."""

    name: str
    """By which others, and the lines that are shown, call it."""
    argv: tuple[str, ...]
    """Command line, the program first."""
    folder: Path
    """Folder that it makes, in which its output and what stopped it are kept."""
    after: tuple[str, ...] = ()
    """Names of the trainings that must have finished before it."""
    behind: tuple[str, ...] = ()
    """Names of those that must have ended before it, whatever has become of them."""
    result: str | None = "summary.json"
    """File of the folder that is written last; None for a command that finds out by itself what is left to do."""
    devices: int = 1
    """Processes on each node that share it."""
    nodes: int = 1
    """Nodes on which they are."""
    cores: int | None = None
    """Of each process. None takes a share of the machine, on Ray and Slurm what ``--cores`` says."""
    gpus: int = 1
    """On each node, of those that there are."""
    memory_gib: float = 3.0
    """Host memory of each process, which bounds how many run side by side."""

    @property
    def is_finished(self) -> bool:
        return self.result is not None and (self.folder / self.result).exists()

    @property
    def argv_here(self) -> tuple[str, ...]:
        """Command line on one machine: torchrun starts the processes that share the training."""
        if self.devices == 1:
            return self.argv
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.devices))
        return (self.argv[0], *torchrun, *self.argv[1:])


@dataclass
class State:
    """What has become of a training. reason: of another state than finished. minutes: of this call."""

    word: Literal["waiting", "running", "elsewhere", "finished", "failed", "not run"] = "waiting"
    reason: str = ""
    minutes: float = 0.0

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word

    @property
    def has_ended(self) -> bool:
        return self.word in ("finished", "failed", "not run")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What sbatch is told, in its own words."""

    partition: str | None = None
    """Partition of the cluster; by default its own default."""
    account: str | None = None
    """Account to which the time is charged."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of a job, as 8:00:00; a training that reaches it is put back into the queue and goes on."""
    signal_seconds: int = 120
    """So long before the time limit a training is ended and put back."""
    gpus: str | None = None
    """GPUs of each training, as 1 or a100:1; by default none is asked for."""
    mem: str | None = None
    """Memory of each training, as 16G; by default what the training says it needs."""
    launcher: str | None = None
    """What starts Python in a job, as "apptainer exec --nv /shared/glioma.sif"; by default nothing."""
    options: tuple[str, ...] = ()
    """Further options of sbatch without their dashes, as --slurm.options constraint=a100 exclude=n7 exclusive."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the trainings of a command run; part of the options of every command that has several."""

    at_once: int = 1
    """Trainings side by side on this machine; each gets its share of the cores, and of several GPUs what it needs."""
    on: Literal["local", "ray", "slurm"] = "local"
    """Where trainings run: here, on a Ray cluster (RAY_ADDRESS; without it one is started here), or as Slurm's jobs."""
    cores: int = 1
    """Cores of each training's process on Ray and Slurm."""
    most: int | None = None
    """With Ray or Slurm, at most so many trainings side by side; by default as many as there is room for."""
    submit_only: bool = False
    """With Slurm: end once the jobs are submitted; the same command later shows what runs, and finishes."""
    dry_run: bool = False
    """With Slurm: print what would be submitted, and end."""
    slurm: Slurm = field(default_factory=Slurm)

    def __post_init__(self) -> None:
        found = {"at_once": self.at_once, "cores": self.cores, "most": self.most}
        for name, value in found.items():
            if value is not None and value < 1:
                raise ValueError(f"expected --{name.replace('_', '-')} of 1 or more, received {value}")
        if self.on != "slurm" and (self.submit_only or self.dry_run):
            raise ValueError("--submit-only and --dry-run work with --on slurm only")


def state(folder: Path, result: str = "summary.json") -> str:
    """``finished``, ``not run``, or why the training failed, in one line; from its folder alone."""
    if (folder / result).exists():
        return "finished"
    failure = folder / FAILURE
    if not failure.exists():
        return "not run"
    return f"failed: {failure.read_text(encoding='utf-8').strip().splitlines()[-1]}"


def require(states: Mapping[str, State]) -> None:
    """Raises RunError when not all trainings of a run have finished; it names the others."""
    if lost := [f"{name} {state}" for name, state in states.items() if state.word != "finished"]:
        raise RunError("\n  ".join([f"{len(lost)} of {len(states)} trainings have not finished", *lost]))


def given(folder: Path, name: str = "config", /, **entries: type) -> dict[str, Any]:
    """What a training's folder says of its ``config``, ``data`` or ``split``.

    entries: those that must be there, and their types. Raises RunError where it says nothing, or lacks one.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        found = "none in it" if folder.is_dir() else "no such folder"
        raise RunError(
            f"{folder}: expected the folder of a training with its {path.name}, found {found}{_below(folder)}"
        )
    try:
        written = read_json(path, dict)
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from error
    for entry, kind in entries.items():
        if not isinstance(written.get(entry), kind):
            raise RunError(
                f"{folder}: expected the folder of a training with its {path.name}, found: "
                f"{entry} {written.get(entry)!r:.100}"
            )
    return written


def _below(folder: Path) -> str:
    """Which trainings lie below a folder that is none itself, or who writes what a training lacks."""
    if (folder / "config.json").exists():
        return "; the command that described it writes it anew"
    below = sorted(str(path.parent) for levels in ("*", "*/*") for path in folder.glob(f"{levels}/config.json"))
    return f"; below it are {listed(below)}" if below else ""


def shared_by(config: Any) -> dict[str, int]:
    """What a training asks for on account of its model's configuration."""
    return {"devices": config.processes_per_node, "nodes": config.nodes, "gpus": config.devices}


def python(*words: object) -> tuple[str, ...]:
    """The command line that calls this interpreter with the words."""
    return (sys.executable, *map(str, words))


def why(code: int, log: Path) -> str:
    """Why a command failed: its exit status, or the signal that ended it, and what it said last.

    That is its own line ``error: ...`` where there is one, after which advice may follow, else the exception that a
    traceback ends with, below which bars are closed, else its last line.
    """
    status = f"exit status {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        status += ", as the system does for want of memory"
    # Bars go back to the beginning of a line, which counts as a line of its own here.
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or _exception(lines) or lines
    return f"{status}: {said[-1].strip()}" if said else status


def _exception(lines: Sequence[str]) -> list[str]:
    """The first line of the last traceback's exception; nothing without a traceback."""
    starts = [number for number, line in enumerate(lines) if line.endswith("Traceback (most recent call last):")]
    return [line for line in lines[starts[-1] + 1 :] if not line.startswith(" ")][:1] if starts else []

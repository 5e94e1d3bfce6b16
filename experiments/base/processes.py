"""A training's command as a process of this machine: its log, its surroundings, its end, and why it failed."""

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.files import write_json, write_text
from common.runs import FAILURE, PACKAGES, is_in_use
from experiments.base.trainings import IN_USE, LOG, WHERE, State, Training, why

GRACE_SECONDS = 10.0
THREADS = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class Process:
    """A training's command that runs, with a process group of its own; it ends with this process, however that ends."""

    def __init__(self, argv: Sequence[str], folder: Path, *, threads: int | None = None, **surroundings: str) -> None:
        """Start it. threads: that it may use; None leaves that to it. surroundings: environment variables."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).unlink(missing_ok=True)
        # A second command may start it in the same moment. That one ends at once, and adds to the other's log.
        self.log = (folder / LOG).open("ab")
        self.log.truncate(0)
        # Bars drawn every ten seconds are enough for a file.
        own = {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10", "EXPERIMENTS_END_WITH_STDIN": "1"}
        own |= {} if threads is None else dict.fromkeys(THREADS, str(threads))
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,  # closes with this process, however that ends: see experiments/__init__.py
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | own | surroundings,
            process_group=0,
        )
        self.began = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.began) / 60

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def end(processes: Sequence[Process]) -> None:
    """End process groups: all asked first, then killed. A command's group is its own, so nothing is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in processes:
            each.signal(number)
        until = time.monotonic() + GRACE_SECONDS
        for each in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.process.wait(max(0.0, until - time.monotonic()))
    for each in processes:
        each.process.stdin.close()
        each.log.close()


def outcome(training: Training, code: int) -> State:
    """What an exit status says of a training; why it failed is written into its folder."""
    if in_use(code, training.folder):
        return State("elsewhere", "another command is working on it")
    if code == 0 and (training.result is None or training.is_finished):
        return State("finished")
    reason = why(code, training.folder / LOG) if code else f"ended without a {training.result}"
    write_text(training.folder / FAILURE, f"{reason}\n")
    return State("failed", reason)


def in_use(code: int, folder: Path) -> bool:
    """Whether a training ended as another process works on it; torchrun and srun have an exit status of their own."""
    return code == IN_USE or (code != 0 and is_in_use(folder))


def note_place(folder: Path, on: str, **more: object) -> None:
    """Write into a training's folder that it runs here."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / WHERE, {"on": on, "node": platform.node(), "since": now, **more}, flush=False)


def versions() -> Mapping[str, str]:
    """Of Python and the packages that matter, in this environment."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found

"""Trainings on this machine, one after the other or side by side."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import joblib
import psutil

from experiments.base.processes import Process, end, note_place, outcome
from experiments.base.trainings import State, Training


@dataclass(frozen=True)
class Running:
    training: Training
    process: Process
    gpus: tuple[str, ...]
    """Names of the GPUs that it was given; empty where it sees all that this command sees."""


class Local:
    """Runs at most ``at_once`` side by side, as far as their memory is there."""

    def __init__(self, at_once: int) -> None:
        self.at_once, self.share, self.gpus = at_once, max(1, joblib.cpu_count() // at_once), _gpus()
        self.running: list[Running] = []

    def has_room(self, training: Training) -> bool:
        wanted = [training, *(each.training for each in self.running)]
        memory = sum(each.memory_gib * each.devices for each in wanted)
        return not self.running or (
            len(self.running) < self.at_once and memory <= psutil.virtual_memory().total / 2**30
        )

    def start(self, training: Training) -> None:
        gpus = self._least_used(training.gpus) if self.at_once > 1 and len(self.gpus) > 1 else ()
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        several = self.at_once > 1 or training.devices > 1
        threads = training.cores or (max(1, self.share // training.devices) if several else None)
        self.running.append(
            Running(training, Process(training.argv_here, training.folder, threads=threads, **own), gpus)
        )
        note_place(training.folder, "local")

    def _least_used(self, n: int) -> tuple[str, ...]:
        """So many GPUs (all, if there are fewer), those first that the fewest trainings have."""
        used = Counter(gpu for each in self.running for gpu in each.gpus)
        return tuple(sorted(self.gpus, key=lambda gpu: used[gpu])[:n])

    def states(self) -> Iterator[tuple[Training, State]]:
        for each in list(self.running):
            code = each.process.process.poll()
            if code is None:
                state = State("running")
            else:
                self.running.remove(each)
                end([each.process])
                state = outcome(each.training, code)
            state.minutes = each.process.minutes
            yield each.training, state

    def end(self) -> None:
        end([each.process for each in self.running])


def _gpus() -> list[str]:
    """Names of the GPUs that a process may be given: those of CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.splitlines()))]

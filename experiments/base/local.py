"""Trainings on this machine, one after the other or side by side."""

import os
import subprocess
from collections.abc import Iterator

import joblib
import psutil

from experiments.base.processes import Process, end, note_place, outcome
from experiments.base.trainings import State, Training


class Local:
    """Runs at most ``at_once`` side by side, as far as their memory is there."""

    def __init__(self, at_once: int) -> None:
        self.at_once, self.share, self.gpus = at_once, max(1, joblib.cpu_count() // at_once), _gpus()
        self.running: dict[int, tuple[Training, Process]] = {}
        """By lane, of which there are ``at_once``."""

    def has_room(self, training: Training) -> bool:
        wanted = [training, *(each for each, _ in self.running.values())]
        memory = sum(each.memory_gib * each.devices for each in wanted)
        return not self.running or (
            len(self.running) < self.at_once and memory <= psutil.virtual_memory().total / 2**30
        )

    def start(self, training: Training) -> None:
        lane = min(set(range(self.at_once)) - set(self.running))
        own = {}
        if self.at_once > 1 and len(self.gpus) > 1 and training.gpus:
            first, n = lane * training.gpus, min(training.gpus, len(self.gpus))
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[(first + i) % len(self.gpus)] for i in range(n))
        several = self.at_once > 1 or training.devices > 1
        threads = training.cores or (max(1, self.share // training.devices) if several else None)
        self.running[lane] = training, Process(training.argv_here, training.folder, threads=threads, **own)
        note_place(training.folder, "local")

    def states(self) -> Iterator[tuple[Training, State]]:
        for lane, (training, process) in list(self.running.items()):
            code = process.process.poll()
            if code is None:
                state = State("running")
            else:
                del self.running[lane]
                end([process])
                state = outcome(training, code)
            state.minutes = process.minutes
            yield training, state

    def end(self) -> None:
        end([process for _, process in self.running.values()])


def _gpus() -> list[str]:
    """Names of the GPUs that a process may be given: those of CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.splitlines()))]

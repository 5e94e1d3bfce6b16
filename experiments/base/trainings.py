"""Trainings as commands: a list of them is run in the order of what each needs, one after the other or side by side.

A training is a command line and a run's folder. Nothing is handed to it but the command, and nothing comes back but
what it writes into the folder, so one that was stopped anywhere goes on when the same list is run again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import joblib
import psutil

from common.files import write_text
from common.runs import RunError, is_in_use
from experiments.base.progress import Lines, epochs

LOG, FAILURE = "log.txt", "failure.txt"
IN_USE = 75
"""Exit status of a training that another process is working on (EX_TEMPFAIL of sysexits.h)."""
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2


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
    cores: int | None = None
    """None takes a share of the machine."""
    gpus: int = 1
    """Of those that there are."""
    memory_gib: float = 3.0
    """Host memory, which bounds how many run side by side."""

    @property
    def is_finished(self) -> bool:
        return self.result is not None and (self.folder / self.result).exists()


@dataclass
class State:
    """What has become of a training. reason: of another state than finished. minutes: of this call."""

    word: Literal["waiting", "running", "elsewhere", "finished", "failed", "not run"] = "waiting"
    reason: str = ""
    minutes: float = 0.0

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


def run(
    trainings: Sequence[Training], *, at_once: int = 1, watch: Callable[[Mapping[str, State]], None] = lambda _: None
) -> dict[str, State]:
    """Run what is not finished, at most ``at_once`` side by side; returns the state of each, by name.

    A training that fails keeps its reason in failure.txt beside its log.txt; those that need it are not run, the others
    are. One on which another command is working is waited for. What runs is ended when this call ends, however it does.
    watch: called with all states whenever one has changed. Raises ValueError for an unknown name in ``after``, a
    circle, two trainings of one name, or ``at_once`` below 1.
    """
    _check(trainings, at_once)
    runner = _Runner(trainings, at_once, watch)
    try:
        while runner.advance():
            time.sleep(POLL_SECONDS)
    finally:
        runner.end()
    return runner.states


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
    try:
        written = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError(f"a {type(written).__name__}")
        for entry, kind in entries.items():
            if not isinstance(written.get(entry), kind):
                raise ValueError(f"{entry} {written.get(entry)!r:.100}")
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: expected the folder of a training with its {name}.json, found: {error}") from error
    return written


def python(*words: object) -> tuple[str, ...]:
    """The command line that calls this interpreter with the words."""
    return (sys.executable, *map(str, words))


@dataclass
class _Running:
    training: Training
    process: subprocess.Popen
    lane: int
    began: float
    log: BinaryIO = field(repr=False)


class _Runner:
    def __init__(
        self, trainings: Sequence[Training], at_once: int, watch: Callable[[Mapping[str, State]], None]
    ) -> None:
        self.trainings, self.at_once, self.watch = {each.name: each for each in trainings}, at_once, watch
        self.states = {each.name: State() for each in trainings}
        self.running: list[_Running] = []
        self.share = max(1, joblib.cpu_count() // at_once)
        self.gpus = _gpus()
        self.lines = Lines(self._line)
        for name, training in self.trainings.items():
            if training.is_finished:
                self.states[name].word = "finished"
        self.watch(self.states)

    def advance(self) -> bool:
        """Take note of what has ended and start what can be; whether anything is left."""
        before = [str(each) for each in self.states.values()]
        for each in [each for each in self.running if each.process.poll() is not None]:
            self._note_end(each)
        for name, training in self.trainings.items():
            if self.states[name].word in ("waiting", "elsewhere"):
                self._consider(training)
        for each in self.running:
            self.states[each.training.name].minutes = (time.monotonic() - each.began) / 60
        if before != [str(each) for each in self.states.values()]:
            self.watch(self.states)
        self.lines.show({name: str(state) for name, state in self.states.items()})
        return any(each.word in ("waiting", "elsewhere", "running") for each in self.states.values())

    def _consider(self, training: Training) -> None:
        state = self.states[training.name]
        needed = {name: self.states[name].word for name in training.after}
        if training.is_finished:
            self.states[training.name] = State("finished")
        elif lost := [name for name, word in needed.items() if word in ("failed", "not run")]:
            self.states[training.name] = State("not run", f"it needs {' and '.join(lost)}")
        elif all(word == "finished" for word in needed.values()) and self._have_ended(training.behind):
            if is_in_use(training.folder):
                self.states[training.name] = State("elsewhere", "another command is working on it")
            elif self._has_room(training):
                self._start(training)
            else:
                state.word, state.reason = "waiting", ""

    def _have_ended(self, names: Sequence[str]) -> bool:
        return all(self.states[name].word in ("finished", "failed", "not run") for name in names)

    def _has_room(self, training: Training) -> bool:
        memory = sum(each.training.memory_gib for each in self.running) + training.memory_gib
        return not self.running or (
            len(self.running) < self.at_once and memory <= psutil.virtual_memory().total / 2**30
        )

    def _start(self, training: Training) -> None:
        training.folder.mkdir(parents=True, exist_ok=True)
        (training.folder / FAILURE).unlink(missing_ok=True)
        lane = min(set(range(self.at_once)) - {each.lane for each in self.running})
        # A second command may start it in the same moment. That one ends at once, and adds to the other's log.
        log = (training.folder / LOG).open("ab")
        log.truncate(0)
        process = subprocess.Popen(
            training.argv,
            stdin=subprocess.PIPE,  # closes with this process, however that ends: see experiments/__init__.py
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | self._environment(training, lane),
            process_group=0,
        )
        self.running.append(_Running(training, process, lane, time.monotonic(), log))
        self.states[training.name] = State("running")

    def _environment(self, training: Training, lane: int) -> dict[str, str]:
        # Bars drawn every ten seconds are enough for a file.
        found = {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10", "EXPERIMENTS_END_WITH_STDIN": "1"}
        cores = training.cores or (self.share if self.at_once > 1 else None)
        if cores is not None:
            names = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
            found |= dict.fromkeys(names, str(cores))
        if self.at_once > 1 and len(self.gpus) > 1 and training.gpus:
            found["CUDA_VISIBLE_DEVICES"] = self.gpus[lane % len(self.gpus)]
        return found

    def _note_end(self, ended: _Running) -> None:
        self.running.remove(ended)
        _end([ended])
        training, code = ended.training, ended.process.returncode
        minutes = (time.monotonic() - ended.began) / 60
        if code == IN_USE:
            self.states[training.name] = State("elsewhere", "another command is working on it", minutes)
        elif code == 0 and (training.result is None or training.is_finished):
            self.states[training.name] = State("finished", "", minutes)
        else:
            reason = why(code, training.folder / LOG) if code else f"ended without a {training.result}"
            write_text(training.folder / FAILURE, f"{reason}\n")
            self.states[training.name] = State("failed", reason, minutes)

    def end(self) -> None:
        """End what still runs, and say so in its state."""
        for each in self.running:
            self.states[each.training.name] = State("not run", "stopped while it ran; the same command goes on")
        if self.running:
            _end(self.running)
            self.watch(self.states)
        self.lines.close()

    def _line(self, name: str) -> str:
        training, state = self.trainings[name], self.states[name]
        words = [f"{name:<{max(map(len, self.trainings))}}  {state}"]
        if state.word in ("running", "elsewhere") and (done := epochs(training.folder)):
            words.append(done)
        if state.minutes >= 0.1:
            words.append(f"{state.minutes:.1f} min")
        if state.word in ("running", "failed"):
            words.append(str(training.folder / LOG))
        return ", ".join(words)


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


def _end(running: Sequence[_Running]) -> None:
    """End process groups: all asked first, then killed. A command's group is its own, so nothing is left behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.process.pid, number)
        until = time.monotonic() + GRACE_SECONDS
        for each in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.process.wait(max(0.0, until - time.monotonic()))
    for each in running:
        each.process.stdin.close()
        each.log.close()


def _gpus() -> list[str]:
    """Names of the GPUs that a process may be given: those of CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.splitlines()))]


def _check(trainings: Sequence[Training], at_once: int) -> None:
    if at_once < 1:
        raise ValueError(f"expected at least one training at once, received {at_once}")
    names = [each.name for each in trainings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"expected a name for each training, found {twice[0]} more than once")
    known: set[str] = set()
    left = list(trainings)
    while ready := [each for each in left if known.issuperset((*each.after, *each.behind))]:
        known |= {each.name for each in ready}
        left = [each for each in left if each not in ready]
    if left:
        needed = ", ".join((*left[0].after, *left[0].behind))
        raise ValueError(f"expected {left[0].name} to need others of the list, and no circle; it needs {needed}")

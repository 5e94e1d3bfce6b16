"""A list of trainings in the order of what each needs, on an engine that runs what is ready."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from common.runs import is_in_use
from experiments.base.progress import Lines, duration, epochs, seconds_left
from experiments.base.trainings import LOG, State, Training

POLL_SECONDS = 0.2
Watch = Callable[[Mapping[str, State]], None]


class Engine(Protocol):
    """Something that runs trainings which need nothing any more."""

    def has_room(self, training: Training) -> bool: ...

    def start(self, training: Training) -> None: ...

    def states(self) -> Iterable[tuple[Training, State]]:
        """Of each that was started and has not been given out as ended."""

    def end(self) -> None:
        """End what still runs."""


def work_off(trainings: Sequence[Training], engine: Engine, watch: Watch) -> dict[str, State]:
    """Run what is not finished; returns the state of each, by name. What runs is ended when this call ends."""
    runner = _Runner(trainings, engine, watch)
    try:
        while runner.advance():
            time.sleep(POLL_SECONDS)
    finally:
        runner.end()
    return runner.found


class _Runner:
    def __init__(self, trainings: Sequence[Training], engine: Engine, watch: Watch) -> None:
        self.trainings, self.engine, self.watch = {each.name: each for each in trainings}, engine, watch
        self.found = {each.name: State("finished" if each.is_finished else "waiting") for each in trainings}
        self.started: set[str] = set()
        self.lines = Lines(lambda name: line(self.trainings, self.found, name))
        self.watch(self.found)

    def advance(self) -> bool:
        """Take note of what has become of each and start what can be; whether anything is left."""
        before = [str(each) for each in self.found.values()]
        for training, state in self.engine.states():
            self.found[training.name] = state
            if state.word not in ("waiting", "running"):
                self.started.remove(training.name)
        for name, training in self.trainings.items():
            if name not in self.started and self.found[name].word in ("waiting", "elsewhere"):
                self._consider(training)
        if before != [str(each) for each in self.found.values()]:
            self.watch(self.found)
        self.lines.show({name: str(state) for name, state in self.found.items()})
        return any(not state.has_ended for state in self.found.values())

    def _consider(self, training: Training) -> None:
        needed = {name: self.found[name] for name in training.after}
        lost = [name for name, state in needed.items() if state.word in ("failed", "not run")]
        if training.is_finished:
            self.found[training.name] = State("finished")
        elif lost:
            self.found[training.name] = State("not run", f"it needs {' and '.join(lost)}")
        elif all(state.word == "finished" for state in needed.values()) and all(
            self.found[name].has_ended for name in training.behind
        ):
            if is_in_use(training.folder):
                self.found[training.name] = State("elsewhere", "another command is working on it")
            elif self.engine.has_room(training):
                self.engine.start(training)
                self.started.add(training.name)
                self.found[training.name] = State("running")
            else:
                self.found[training.name] = State("waiting")

    def end(self) -> None:
        """End what still runs, and say so in its state."""
        for name in self.started:
            self.found[name] = State("not run", "stopped while it ran; the same command goes on")
        self.engine.end()
        if self.started:
            self.watch(self.found)
        self.lines.close()


def line(trainings: Mapping[str, Training], states: Mapping[str, State], name: str) -> str:
    """What is shown of a training on the terminal."""
    training, state = trainings[name], states[name]
    number = f"{list(trainings).index(name) + 1}/{len(trainings)}"
    words = [f"{number:>{2 * len(str(len(trainings))) + 1}} {name:<{max(map(len, trainings))}}  {state}"]
    if state.word in ("running", "elsewhere") and (done := epochs(training.folder)):
        words.append(done)
    if state.minutes >= 0.1:
        words.append(f"{state.minutes:.1f} min")
    if state.word in ("running", "elsewhere") and (left := seconds_left(training.folder)):
        words.append(f"about {duration(left)} left")
    if state.word in ("running", "failed"):
        words.append(str(training.folder / LOG))
    return ", ".join(words)

"""How far trainings have come while they go on: the epoch, read from a folder, and a line of each."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.files import read_json
from common.runs import History, RunError


def epochs(folder: Path) -> str:
    """``epoch 3 of 20``; empty before the first epoch's end. Says that history or configuration are damaged, if so."""
    try:
        done, total = _epochs(folder)
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged: expected a history and a configuration, found: {error!r}"
    if done is None:
        return ""
    return f"epoch {done[-1]['epoch'] if done else 0}{'' if total is None else f' of {total}'}"


def seconds_left(folder: Path) -> float | None:
    """To the last epoch, at the pace of those before; None where the folder does not say."""
    try:
        done, total = _epochs(folder)
        return sum(float(row["seconds"]) for row in done) / len(done) * (total - int(done[-1]["epoch"]))
    except (RunError, OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _epochs(folder: Path) -> tuple[list[dict[str, str]] | None, int | None]:
    """Those of a training that are done, None before it has begun, and how many it is to have, where that is known."""
    history, config = folder / "history.csv", folder / "config.json"
    if not history.exists():
        return None, None
    done = History(history).rows()
    model = read_json(config, dict)["model"] if config.exists() else {}
    return done, int(model["epochs"]) if "epochs" in model else None


STEPS = ("find and check the patients", "prepare their scans", "train", "predict and score", "results")


ALL_STEPS = tuple(range(1, len(STEPS) + 1))


def begin(number: int, *, among: Sequence[int] = ALL_STEPS) -> None:
    """Says which of STEPS begins. among: those that the command has, which are counted."""
    print(f"{among.index(number) + 1}/{len(among)} {STEPS[number - 1]}", file=sys.stderr, flush=True)


@contextmanager
def step(number: int, *, among: Sequence[int] = ALL_STEPS) -> Iterator[None]:
    """As :func:`begin`, and afterwards how long it took; on standard error, as plain lines anywhere."""
    begin(number, among=among)
    began = time.monotonic()
    yield
    print(f"    {duration(time.monotonic() - began)}", file=sys.stderr, flush=True)


def say_store(folder: Path, n_bytes: float) -> None:
    """Says about how much a prepared store will take, and where."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    print(
        f"    prepared scans: about {_size(n_bytes)} in {folder}; free there: {_size(free)}",
        file=sys.stderr,
        flush=True,
    )


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """In the unit that suits it: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``, ``12 days``."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.0f} days"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """One line per training on the terminal, drawn anew as they go on; elsewhere a line when a state changes, and
    now and then of what runs."""

    REDRAW_SECONDS = 1.0
    LINE_SECONDS = 60.0
    """Off the terminal, so often a line of those that run."""

    def __init__(self, line: Callable[[str], str]) -> None:
        """line: what is shown of a training, by its name."""
        self.line, self.live = line, sys.stderr.isatty()
        self.shown: dict[str, str] = {}
        self.drawn, self.next = 0, 0.0

    def show(self, states: Mapping[str, str]) -> None:
        """states: of every training, by name; those that wait have no line of their own off the terminal."""
        changed = [name for name, state in states.items() if self.shown.get(name) != state]
        self.shown |= states
        if not self.live:
            due = time.monotonic() >= self.next
            self.next = time.monotonic() + self.LINE_SECONDS if due or changed else self.next
            for name, state in states.items():
                if (name in changed and not state.startswith("waiting")) or (due and state.startswith("running")):
                    print(self.line(name), file=sys.stderr, flush=True)
        elif changed or time.monotonic() >= self.next:
            self._draw()

    def close(self) -> None:
        if self.live and self.drawn:
            self._draw(last=True)

    def _draw(self, *, last: bool = False) -> None:
        self.next = time.monotonic() + self.REDRAW_SECONDS
        up = f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
        lines = [self.line(name) for name in self.shown]
        if rows and len(lines) >= rows and not last:
            lines = self._going()[: rows - 1]  # what has been scrolled away cannot be drawn anew
        print(up + "\n".join(line[: (columns or 80) - 1] for line in lines), file=sys.stderr, flush=True)
        self.drawn = len(lines)

    def _going(self) -> list[str]:
        words = {name: state.partition(":")[0] for name, state in self.shown.items()}
        count = list(words.values()).count
        counts = [f"{count('finished')} of {len(words)} finished"]
        counts += [f"{count(word)} {word}" for word in ("failed", "not run") if count(word)]
        return [", ".join(counts), *(self.line(name) for name in words if words[name] in ("running", "elsewhere"))]

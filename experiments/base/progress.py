"""How far trainings have come while they go on: the epoch, read from a folder, and a line of each."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.files import read_json
from common.runs import History


def epochs(folder: Path) -> str:
    """``epoch 3 of 20``; empty before the first epoch's end. Says that history or configuration are damaged, if so."""
    history, config = folder / "history.csv", folder / "config.json"
    if not history.exists():
        return ""
    try:
        done = [row["epoch"] for row in History(history).rows()]
        model = read_json(config, dict)["model"] if config.exists() else {}
        total = f" of {int(model['epochs'])}" if "epochs" in model else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged: expected a history and a configuration, found: {error!r}"
    return f"epoch {done[-1] if done else 0}{total}"


STEPS = ("find and check the patients", "prepare their scans", "train", "predict and score", "results")


def begin(number: int) -> None:
    """Says which of STEPS begins."""
    print(f"{number}/{len(STEPS)} {STEPS[number - 1]}", file=sys.stderr, flush=True)


@contextmanager
def step(number: int) -> Iterator[None]:
    """Says which of STEPS begins, and afterwards how long it took; on standard error, as plain lines anywhere."""
    begin(number)
    began = time.monotonic()
    yield
    print(f"    {duration(time.monotonic() - began)}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """In the unit that suits it: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """One line per training on the terminal, drawn anew as they go on; elsewhere a line whenever a state changes."""

    REDRAW_SECONDS = 1.0

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
            for name in changed:
                if not states[name].startswith("waiting"):
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

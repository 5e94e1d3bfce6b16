"""How far a loop has come: a bar on a terminal, elsewhere now and then a plain line, for a bar in a file is noise."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_SECONDS = 10.0
"""Off the terminal, between two lines; the last one comes whenever all is done."""


class Progress:
    """Counts what is done of so many: ``scoring 3/8``, on standard error."""

    def __init__(self, what: str, total: int, *, unit: str, done: int = 0) -> None:
        """done: what is not to be done any more."""
        self.what, self.total, self.done = what, total, done
        self.bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, dynamic_ncols=True, disable=None)
        self.next = time.monotonic() + LINE_SECONDS

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        self.bar.update(n)
        if self.bar.disable and (self.done == self.total or time.monotonic() >= self.next):
            print(f"    {self.what} {self.done}/{self.total}", file=sys.stderr, flush=True)
            self.next = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()


def counted(items: Iterable[T], what: str, *, total: int, unit: str) -> Iterator[T]:
    """The items, with their progress: each counts as done when the next one is asked for."""
    with Progress(what, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.update()

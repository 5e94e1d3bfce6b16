"""A training's epochs in a run's folder, whatever trains: where it goes on, its progress, and each epoch's files."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from common.files import atomic_path, check_archive
from common.runs import Run, RunError


class Epochs:
    """Counts epochs and writes best weights, last weights, history.csv and, last of all, the checkpoint to go on from.

    That order lets a run be killed anywhere: a kill between two of these files repeats the epoch, which gives the same
    weights, and writes the same files again. The trainer says how its framework writes them. Of several processes that
    share a training all count, and the one whose run writes does so.
    """

    def __init__(self, run: Run, total: int, *, checkpoint: str, weights: str, description: str = "training") -> None:
        """total: epochs. checkpoint: name of the file to go on from. weights: suffix of ``best`` and ``last``."""
        self.run, self.total, self.suffix, self.description = run, total, weights, description
        self.checkpoint = run.checkpoints / checkpoint
        self.best: tuple[float, ...] | None = None
        """The best score so far, higher is better; a checkpoint brings back its own."""
        self.first: int | None = None
        """The first epoch, counted from 1, that this process trains; None until it begins."""

    @contextlib.contextmanager
    def resuming(self) -> Iterator[Path | None]:
        """The checkpoint to go on from, None without one, for a block that restores it, and may go on to train.

        Raises RunError when its bytes are not those that were written, or restoring it fails.
        """
        path = self.checkpoint if self.checkpoint.exists() else None
        try:
            if path is not None:
                check_archive(path)
            yield path
        except Exception as error:  # numpy, zipfile and torch have a dozen ways to say that bytes are wrong
            if path is None or self.first is not None:
                raise
            raise RunError(
                f"{path}: expected an intact checkpoint of this training, found: {error}; --fresh starts over"
            ) from error

    def begin(self, *, done: int, steps: int) -> None:
        """Go on after ``done`` epochs of ``steps`` steps. Raises RunError when history.csv does not hold them."""
        found = [int(row["epoch"]) for row in self.run.history.rows()]
        if found[:done] != list(range(1, done + 1)):
            raise RunError(
                f"{self.run.history.path}: expected the {done} epochs of {self.checkpoint.name}, found {len(found)} "
                "rows; --fresh starts over"
            )
        self.epoch, self.first, self.steps = done, done + 1, steps
        self.done, self.starts = done, time.monotonic()
        if self.run.writes:
            self.run.checkpoints.mkdir(exist_ok=True)
            if done:
                print(f"{self.description}: goes on after epoch {done} of {self.total}", file=sys.stderr, flush=True)
        self.bar = tqdm(
            total=self.total * steps,
            initial=done * steps,
            desc=self.description,
            unit="step",
            dynamic_ncols=True,
            # Where standard error is no terminal: a bar in a file is a page of noise.
            disable=None if self.run.writes else True,
        )

    def show(self, **values: float | None) -> None:
        """An epoch's numbers: beside the bar on a terminal, elsewhere as a line. None: not known yet, and not said."""
        if not self.run.writes:
            return
        said = {name: f"{value:.3f}" for name, value in values.items() if value is not None}
        if self.bar.disable:
            numbers = ", ".join(f"{name} {value}" for name, value in said.items())
            left = (time.monotonic() - self.starts) / (self.epoch - self.done) * (self.total - self.epoch)
            rest = f", about {left / 60:.1f} min left" if self.epoch < self.total else ""
            print(f"{self.description}: epoch {self.epoch} of {self.total}, {numbers}, {self.seconds:.0f} s{rest}",
                  file=sys.stderr, flush=True)  # fmt: skip
        else:
            self.bar.set_postfix(epoch=self.epoch, **said)

    def start(self) -> None:
        """An epoch begins."""
        self.epoch += 1
        self.began = time.monotonic()

    def step(self) -> None:
        """A training step is done."""
        self.bar.update()
        self.trained()

    def trained(self) -> None:
        """The steps are done, those that a device was still busy with too; validation has seconds of its own."""
        self.seconds = time.monotonic() - self.began

    def check_finite(self, **losses: float) -> None:
        """Raises RunError when a loss of this epoch is NaN or infinite."""
        if wrong := [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]:
            raise RunError(
                f"{self.run.folder}: expected finite losses, found {', '.join(wrong)} in epoch {self.epoch}; the "
                "checkpoints are still those of the epochs before. The same command would come here again: lower the "
                "learning rate, or choose another loss"
            )

    def finish(
        self,
        row: Mapping[str, float],
        *,
        score: tuple[float, ...] | None,
        save_weights: Callable[[Path], None],
        save_checkpoint: Callable[[Path], None],
        save_last: bool,
    ) -> dict[str, float]:
        """Write an epoch's files and return its row of history.csv.

        row: its numbers. score: what validation found, higher is better; None where it was not validated. save_weights
        writes under a final name, save_checkpoint to a path that then gets one; of several processes each calls the
        latter, which waits for the one that writes. save_last: write the last weights too.
        Raises RunError when a loss is not finite or a file cannot be written.
        """
        row = {"epoch": self.epoch, **row, "steps": self.steps, "seconds": round(self.seconds, 3)}
        self.check_finite(**{name: value for name, value in row.items() if name.endswith("loss")})
        better = score is not None and (self.best is None or score > self.best)
        if better:
            self.best = score
        if not self.run.writes:
            save_checkpoint(self.checkpoint)
            return row
        for name, wanted in (("best", better), ("last", save_last)):
            if wanted:
                with _writing(self.run.checkpoints / f"{name}{self.suffix}") as path:
                    save_weights(path)
        with _writing(self.run.history.path):
            self.run.history.append(row)
        with _writing(self.checkpoint), atomic_path(self.checkpoint) as temporary:
            save_checkpoint(temporary)
        return row

    def end(self) -> None:
        self.bar.close()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        yield path
    except RunError:
        raise
    except (OSError, RuntimeError) as error:  # torch has RuntimeError for a full disk
        raise RunError(
            f"{path}: cannot be written: {error}; the epochs before are kept, and the same command goes on from there"
        ) from error

"""What a network and a run cost, counted in the same way for every framework: operations, seconds, memory.

``costs.json`` of a run's folder: parameters, gflop_per_sample (forward, one training sample), seconds_per_step,
seconds_per_epoch (medians, validation not included), seconds_per_case (median, whole prediction of a test case),
peak_memory_mib (of the training process; gpu_peak_memory_mib where a GPU was used), precision (of its products).
"""

import contextlib
import resource
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from common.files import read_json, write_json
from common.runs import Run, RunError


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution, or transposed convolution, of a network at a given input size.

    positions: voxels of the output (of the input, where it is transposed): one kernel is applied at each.
    """

    positions: int
    kernel: Sequence[int]
    in_channels: int
    out_channels: int

    @property
    def flop(self) -> int:
        """Multiplications and additions."""
        return 2 * self.positions * prod(self.kernel) * self.in_channels * self.out_channels


def gflop(convolutions: Iterable[Convolution]) -> float:
    """Operations of one forward pass, in 10^9; everything but the convolutions is left out as negligible."""
    return sum(each.flop for each in convolutions) / 1e9


def peak_memory_mib() -> float:
    """The largest resident memory that this process has had, in MiB."""
    with contextlib.suppress(OSError, StopIteration):
        # Linux: getrusage starts from the peak of the process that started this one.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def record_training(
    run: Run,
    *,
    parameters: int,
    convolutions: Iterable[Convolution],
    gpu_peak_mib: float | None,
    first_epoch: int | None = 1,
    precision: str | None = None,
) -> None:
    """Write a finished training's costs; the seconds come from the columns steps and seconds of history.csv.

    first_epoch: of those that this process trained; earlier ones, of a run that was resumed or that continues another,
    are left out, as they are of the memory. None where it trained none: costs that are there stay, else all count.
    Raises RunError when history.csv or costs.json is damaged.
    """
    if first_epoch is None and (run.folder / "costs.json").exists():
        return
    try:
        rows = [
            (float(row["seconds"]), float(row["seconds"]) / int(row["steps"]))
            for row in run.history.rows()
            if int(row["epoch"]) >= (first_epoch or 1)
        ]
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise RunError(
            f"{run.history.path}: expected seconds and steps in every row, found: {error!r}; --fresh starts over"
        ) from error
    record(
        run,
        parameters=parameters,
        gflop_per_sample=round(gflop(convolutions), 3),
        seconds_per_step=statistics.median(step for _, step in rows),
        seconds_per_epoch=statistics.median(epoch for epoch, _ in rows),
        peak_memory_mib=round(peak_memory_mib()),
        gpu_peak_memory_mib=None if gpu_peak_mib is None else round(gpu_peak_mib),
        precision=precision,
    )


def record(run: Run, **costs: float | int | str | None) -> None:
    """Add to a run's costs.json."""
    path = run.folder / "costs.json"
    try:
        known = read_json(path, dict) if path.exists() else {}
    except ValueError as error:
        raise RunError(f"{error}; --fresh starts over") from error
    write_json(path, known | costs)

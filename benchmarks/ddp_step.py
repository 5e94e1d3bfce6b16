"""One training by two processes of one thread beside one process of two: ``python -m benchmarks.ddp_step``.

Both train the demo's SegResNet (crops of 48 x 64 x 48, 8 filters) with two crops a step on the CPU, one after the other
in the same call, several times in turn; the seconds of a step are those that history.csv holds, without the first
epoch. What two processes add is the sum of the gradients over a local connection (gloo).
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tyro

from benchmarks import basis
from common.prepared import prepare
from common.processes import together
from common.runs import History, Run
from experiments.table1_baseline import SMALL

CONFIG = replace(SMALL, batch_size=2, epochs=3, crops_per_epoch=16, validate_every=3)
SUBJECTS = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time a training step of two processes beside that of one."""

    repeats: int = 3
    """Trainings of either side, of which the medians are printed."""
    folder: Path | None = None
    """Folder of one training; what this command gives itself."""
    devices: int = 1
    """Processes of that training."""


def train(folder: Path, devices: int) -> None:
    from segresnet_monai.train import fit

    subjects = basis.find(None, SUBJECTS)
    entries = list(prepare(subjects, CONFIG.recipe, folder.parent / "store", n_jobs=1).entries.values())
    with Run(folder) as run:
        fit(entries[1:], entries[:1], replace(CONFIG, devices=devices), run)


def seconds_per_step(folder: Path, devices: int) -> float:
    """Of a new training by so many processes, with two threads altogether."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)] if devices > 1 else []
    words = ["-m", "benchmarks.ddp_step", "--folder", str(folder), "--devices", str(devices)]
    environment = os.environ | {"OMP_NUM_THREADS": str(2 // devices)}
    subprocess.run([sys.executable, *launcher, *words], env=environment, check=True, capture_output=True)
    rows = History(folder / "history.csv").rows()[1:]
    return statistics.median(float(row["seconds"]) / int(row["steps"]) for row in rows)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.folder is not None:
        sys.modules["tensorflow"] = None  # as in experiments.train: TensorBoard would import it
        work = partial(train, options.folder, options.devices)
        if options.devices == 1:
            work()
        else:
            from segresnet_monai.distributed import join

            together(work, join)
        return
    with tempfile.TemporaryDirectory() as place:
        found = [
            [seconds_per_step(Path(place) / f"{devices}_{number}", devices) for devices in (1, 2)]
            for number in range(options.repeats)
        ]
    one, two = (statistics.median(times) for times in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    print(
        f"one process, two threads: {one:.3f} s a step; two processes, one thread each: {two:.3f} s; ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()

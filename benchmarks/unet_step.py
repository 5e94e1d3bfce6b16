"""The U-Nets' training: ``python -m benchmarks.unet_step [--data FOLDER] [--json PATH] [--repeats N]``.

First, whether the loader is the limit: an epoch of ``fit`` on batches from the prepared store against the same epoch on
the same batches held in memory, as arrays. A ratio (in memory / store) of 1 means that loading costs nothing.

Second, how TensorFlow, JAX or torch (KERAS_BACKEND) runs the step best: as a graph, which the suite does, against eager
and against XLA, tracing and compilation included, over as many steps as a training of the preset on the embedded cohort
has. A few steps of each are timed, the rest is their median.

With ``--size SIDE`` neither, but the step of the 3D network on one cube of noise, in bfloat16 against float32.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import torch
import tyro

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report, seconds
from common.costs import gflop
from common.prepared import Entry, prepare
from experiments import unet3d, unet25d
from experiments.segmentation.phantoms import PHANTOM_SUBJECTS
from unet_tf.config import Config
from unet_tf.data import Batches
from unet_tf.inference import build
from unet_tf.model import convolutions
from unet_tf.train import compiled

EXPERIMENTS = {"2.5D": unet25d, "3D": unet3d}
EXECUTIONS = {
    "graph": {"run_eagerly": False, "jit_compile": False},
    "eager": {"run_eagerly": True, "jit_compile": False},
    "XLA": {"run_eagerly": False, "jit_compile": True},
}


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time the U-Nets' training from the store, and ways to run its step."""

    subjects: int = 6
    """Subjects in the timed epoch."""
    preset: Literal["demo", "paper"] = "demo"
    """Sizes of the networks and of the training."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    size: int | None = None
    """Side of a cube in voxels, on which the 3D network's step is timed in bfloat16 and float32, and nothing else."""


class InMemory(keras.utils.PyDataset):
    """The batches of a data set, made once."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = [batches[step] for step in range(len(batches))]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batches[step]


def floor(config: Config, steps: int) -> tuple[float, str]:
    """Seconds of the convolutions, forward and backward (three times forward), at the machine's rate of products."""
    slices = config.shape[2] if config.spatial_dims == 2 else 1
    sample = gflop(convolutions(build(config), (*config.shape[: config.spatial_dims], config.channels))) * slices
    count = 3 * sample * config.batch_size * steps
    return count * 1e9 / basis.product_rate(torch.device("cpu"), torch.float32), f"{count:.0f} GFLOP, rate of products"


def time_loading(name: str, entries: list[Entry], config: Config, repeats: int) -> list[Row]:
    """An epoch from the store against the same in memory, by the same compiled step."""
    network, store = compiled(config), Batches(entries, config, shuffle=True)
    memory = InMemory(store)
    floor_s, what = floor(config, len(store))
    return compare(
        f"{name}, epoch of {len(store)} steps from the store",
        lambda: network.fit(store, shuffle=False, verbose=0),
        {"in memory": lambda: network.fit(memory, shuffle=False, verbose=0)},
        repeats=repeats,
        floor_s=floor_s,
        floor=what,
    )


def time_execution(name: str, entries: list[Entry], config: Config, steps: int) -> list[Row]:
    """The length of a whole training, graph against eager and XLA, from the first step and the median of some more."""
    batch = Batches(entries, config, shuffle=True)[0]
    totals = {}
    for execution, settings in EXECUTIONS.items():
        network = compiled(config)
        network.compile(optimizer=network.optimizer, loss=network.loss, **settings)
        taken = [seconds(lambda: network.train_on_batch(*batch)) for _ in range(6)]  # noqa: B023 (called at once)
        totals[execution] = taken[0] + (steps - 1) * statistics.median(taken[1:])
        print(f"{name}, {execution}: first step {taken[0]:.2f} s, then {statistics.median(taken[1:]):.3f} s per step")
    ours = totals.pop("graph")
    floor_s, what = floor(config, steps)
    return [
        Row(
            name=f"{name}, {steps} steps, {keras.backend.backend()}",
            ours_s=ours,
            peer=execution,
            peer_s=total,
            ratio=total / ours,
            ratio_low=total / ours,
            ratio_high=total / ours,
            floor_s=floor_s,
            floor=what,
        )
        for execution, total in totals.items()
    ]


def time_precision(config: Config, repeats: int) -> list[Row]:
    """One training step on noise, in bfloat16 against float32."""
    random = np.random.default_rng(0)
    image = random.standard_normal((config.batch_size, *config.shape, config.channels), dtype=np.float32)
    labels = random.integers(4, size=(config.batch_size, *config.shape), dtype=np.uint8)
    half, full = (compiled(replace(config, precision=precision)) for precision in ("mixed_bfloat16", "float32"))
    floor_s, what = floor(config, steps=1)
    return compare(
        f"3D, {config.filters} filters, {'x'.join(map(str, config.shape))}, batch {config.batch_size}, bfloat16, "
        f"{keras.backend.backend()}",
        lambda: half.train_on_batch(image, labels),
        {"float32": lambda: full.train_on_batch(image, labels)},
        repeats=repeats,
        floor_s=floor_s,
        floor=what,
    )


def main(options: Options) -> None:
    if options.size is not None:
        config = replace(unet3d.PAPER, shape=(options.size,) * 3, batch_size=1)
        report(time_precision(config, options.repeats), options.json)
        return
    subjects = basis.find(options.data, options.subjects)
    rows: list[Row] = []
    for name, experiment in EXPERIMENTS.items():
        config = replace(experiment.DEMO if options.preset == "demo" else experiment.PAPER, minimum_mask_fraction=0.0)
        store = prepare(subjects, config.recipe, options.prepared)
        entries = list(store.entries.values())
        trained = round(experiment.FRACTIONS[0] * PHANTOM_SUBJECTS)
        steps = config.epochs * -(-trained // config.batch_size)
        rows += time_loading(name, entries, config, options.repeats)
        rows += time_execution(name, entries, config, steps)
    report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.unet_step", description=__doc__))

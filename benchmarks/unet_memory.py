"""Peak memory of a 3D U-Net's training step at 128 x 128 x 128, batch 2: ``python -m benchmarks.unet_memory``.

Each precision in a process of its own, on random voxels, from the first step (tracing or compilation included) to the
second. On a GPU the figure is the device's, else the process's, whose libraries alone take what stands under "before".
The report's GPU had 11 GB.
"""

import multiprocessing
import time
from dataclasses import dataclass, replace
from typing import Literal

import tyro

GPU_GIB = 11


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the peak memory of a training step of the 3D U-Net, paper preset."""

    precisions: tuple[Literal["float32", "mixed_bfloat16", "mixed_float16"], ...] = ("float32", "mixed_bfloat16")
    """mixed_float16 needs a GPU."""


def measure(precision: str) -> str:
    import keras
    import numpy as np

    from common.costs import peak_memory_mib
    from experiments.unet3d import PAPER
    from unet_tf.devices import gpu_peak_mib
    from unet_tf.train import compiled

    config = replace(PAPER, precision=precision)
    network = compiled(config)
    rng = np.random.default_rng(0)
    image = rng.random((config.batch_size, *config.shape, config.channels), dtype=np.float32)
    labels = (rng.random(image.shape[:-1]) < 0.05).astype(np.uint8)
    before = peak_memory_mib()
    network.train_on_batch(image, labels)
    started = time.perf_counter()
    network.train_on_batch(image, labels)
    step = time.perf_counter() - started
    on_gpu = gpu_peak_mib()
    peak, device = (peak_memory_mib(), "CPU") if on_gpu is None else (on_gpu, "GPU")
    return (
        f"{keras.backend.backend()}, {precision}: peak {peak / 1024:.2f} GiB on the {device} "
        f"(before: {before / 1024:.2f} GiB), second step {step:.1f} s; the report's GPU: {GPU_GIB} GB"
    )


def main(options: Options) -> None:
    for precision in options.precisions:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            print(process.apply(measure, (precision,)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.unet_memory", description=__doc__))

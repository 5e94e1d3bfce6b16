"""What the benchmarks share beside the clock: subjects, and what this machine can do at best (the floors)."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.cohort import find_subjects
from common.phantom.cohort import write_cohort
from common.subject import Subject
from experiments.segmentation.phantoms import PHANTOM_SEED

PHANTOMS = Path("phantoms")


def find(data: Path | None, n_subjects: int, phantoms: Path = PHANTOMS) -> Sequence[Subject]:
    """The first subjects of a folder of scans; of the embedded cohort, made where needed, when no folder is given."""
    if data is None:
        print(f"no --data given: {n_subjects} synthetic patients in {phantoms}")
        data = write_cohort(phantoms, n_subjects=n_subjects, seed=PHANTOM_SEED)
    return find_subjects(data, max_subjects=n_subjects).subjects


def devices() -> list[torch.device]:
    """The CPU and, where there is one, the GPU."""
    return [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()


def best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Fewest wall-clock seconds of several calls: a limit of the machine is what it reaches undisturbed."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def copy_rate(n_bytes: int = 2**26) -> float:
    """Bytes read plus bytes written per second by one thread that copies memory."""
    source, target = np.ones(n_bytes, np.uint8), np.ones(n_bytes, np.uint8)
    return 2 * n_bytes / best_seconds(lambda: np.copyto(target, source))


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a square matrix product or of a wide 3-D convolution, whichever is faster on this machine."""
    side, channels, length = (2048, 128, 24) if device.type == "cpu" else (8192, 256, 64)
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    image = torch.ones(1, channels, length, length, length, device=device, dtype=dtype)
    weight = torch.ones(channels, channels, 3, 3, 3, device=device, dtype=dtype)
    image, weight = (x.contiguous(memory_format=torch.channels_last_3d) for x in (image, weight))
    rates = []
    for work in (lambda: a @ b, lambda: torch.nn.functional.conv3d(image, weight)):
        count, timed = flops(work), synchronised(work, device)
        rates.append(count / best_seconds(timed))
    return max(rates)


def flops(work: Callable[[], object]) -> int:
    """FLOP of the matrix products and convolutions in a call; with tensors on the meta device nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def synchronised(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work, which then returns only when the device has finished it."""

    def wait() -> object:
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return wait


def peak_memory_gib(work: Callable[[], object], device: torch.device) -> float:
    """Most GPU memory held by tensors during a call, what was there before included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    synchronised(work, device)()
    return torch.cuda.max_memory_allocated(device) / 2**30

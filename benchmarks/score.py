"""Scoring many cases of three methods: ``python -m benchmarks.score [--data FOLDER] [--cases N] [--cores N]``.

What ``experiments.score`` does between its checks and its tables: files read, brought to the truth's grid, every mask,
distance and lesion scored, the scores kept. Truths are the data folder's, else synthetic tumours, and are gone through
again and again until there are so many cases; the methods are the truth itself, the truth without its outermost voxels
and the truth with the errors that networks make (``benchmarks.scoring``). Prints the seconds of a core per case, which
other work on the machine disturbs less than the time that passes, and the largest memory of each quarter of the cases:
equal quarters are flat.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import tyro
from scipy import ndimage

from benchmarks.scoring import tumour, with_errors
from common import nifti
from common.cohort import find_subjects
from common.files import write_json
from common.labels import BRATS_2023
from common.subject import CONTRASTS, Subject
from experiments.evaluation import scoring
from experiments.evaluation.label_maps import Method

METHODS = ("truth", "eroded", "errors")
QUARTERS = 4
EVERY_SECONDS = 0.2
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """How much is scored."""

    data: Path | None = None
    """Folder of scans with masks; synthetic tumours without it."""
    cases: int = 100
    """Cases, of each of three methods."""
    truths: int = 8
    """Different truths among them."""
    cores: int = 1
    """Processes."""
    json: Path | None = None
    """Where to write the numbers as JSON."""


def subjects(options: Arguments, folder: Path) -> Iterator[tuple[Subject, np.ndarray]]:
    """Subjects, each with its truth; of a synthetic one the scans are its mask, of which only headers are read."""
    if options.data is not None:
        for subject in find_subjects(options.data, max_subjects=options.truths).subjects:
            yield subject, subject.load_labels()
        return
    for seed in range(options.truths):
        truth, file = tumour(seed), folder / f"case{seed}" / "truth.nii.gz"
        nifti.write(file, truth, like=nib.Nifti1Image(truth, np.diag([-1.0, -1, 1, 1])).header)
        yield Subject(f"case{seed}", dict.fromkeys(CONTRASTS, file), file, BRATS_2023), truth


def made(options: Arguments, folder: Path) -> list[scoring.Work]:
    """The work: every method's label maps written, with a place for the scores of every case."""
    found, files = [], {name: {} for name in METHODS}
    for subject, truth in subjects(options, folder):
        inner = truth * ndimage.binary_erosion(truth > 0).astype(np.uint8)
        for name, labels in zip(METHODS, (truth, inner, with_errors(truth)), strict=True):
            files[name][subject.id] = folder / name / f"{subject.id}.nii.gz"
            nifti.write(files[name][subject.id], labels, like=nifti.read_header(subject.label))
        found.append(subject)
    methods = [Method(name, folder, files[name], dict.fromkeys(files[name], BRATS_2023), "") for name in METHODS]
    return list(islice(cycle(scoring.label_maps(methods, found, folder / "scored")), options.cases))


class Memory(threading.Thread):
    """The memory of this process and of its workers, taken now and then: MiB by seconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.taken: list[tuple[float, float]] = []
        self.done = threading.Event()

    def run(self) -> None:
        own = psutil.Process()
        while not self.done.wait(EVERY_SECONDS):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.taken.append((time.monotonic(), total / MIB))

    def by_quarter(self, began: float, ended: float) -> list[float]:
        """The largest of each quarter of the time."""
        edges = np.linspace(began, ended, QUARTERS + 1)
        return [max((mib for at, mib in self.taken if low <= at < high), default=0.0) for low, high in pairwise(edges)]


def main(options: Arguments) -> None:
    """Score, and print the seconds of a core per case and label map and the memory by quarters."""
    with tempfile.TemporaryDirectory() as place:
        works = made(options, Path(place))
        memory = Memory()
        memory.start()
        began, before = time.monotonic(), os.times()
        problems = scoring.score(works, cores=options.cores, fresh=True)
        ended, after = time.monotonic(), os.times()
        memory.done.set()
    if problems:
        raise SystemExit(f"error: expected label maps that can be scored, found {problems[0]}")
    seconds = sum(after[:4]) - sum(before[:4])
    quarters = memory.by_quarter(began, ended)
    found = {
        "cases": len(works),
        "label_maps": len(works) * len(METHODS),
        "cores": options.cores,
        "core_seconds_per_case": seconds / len(works),
        "core_seconds_per_label_map": seconds / len(works) / len(METHODS),
        "seconds": ended - began,
        "memory_mib_by_quarter": quarters,
    }
    for name, value in found.items():
        shown = ", ".join(f"{each:.0f}" for each in value) if isinstance(value, list) else f"{value:.4g}"
        print(f"{name}: {shown}")
    if options.json is not None:
        write_json(options.json, found)


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python -m benchmarks.score", description=__doc__))

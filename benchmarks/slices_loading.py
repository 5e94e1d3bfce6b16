"""A training sample of one contrast's images: ``python -m benchmarks.slices_loading [--data FOLDER] [--json PATH]``.

Ours is what ``mgmt_classifier.train`` reads per patient and epoch: the prepared slices, mapped, normalised, as float32.
The peer is what a training without a store does in every epoch: pydicom reads and decodes each file of the series, puts
them in order, resizes the chosen images with PyTorch and normalises them. Both sides run in one process and one thread,
files in the page cache; they must agree but for the store's rounding. Three cases: 15 central images and 31
tumour-centred ones, both at the report's 255 x 255, and the first at the demo's 64 x 64.
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
import tyro

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report
from benchmarks.dicom import write_synthetic
from common.dicom.mgmt_cohort import Patient, find_patients
from mgmt_classifier import slices
from mgmt_classifier.config import Config
from mgmt_classifier.data import Entry, Slices, prepare

CASES = {
    "15 central images, 255 x 255": Config(contrast="FLAIR"),
    "31 tumour-centred images, 255 x 255": Config(contrast="FLAIR", slices="tumour", images=31),
    "15 central images, 64 x 64": Config(contrast="FLAIR", image_size=(64, 64)),
}


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time a training sample from the store against decoding its DICOM series."""

    patients: int = 8
    """Patients that the rounds go through."""


def decoded(patient: Patient, config: Config) -> np.ndarray:
    """The sample from the series' files, float32 (1, images, rows, columns)."""
    files = [pydicom.dcmread(path) for path in patient.folders[config.contrast].iterdir()]
    row, column = np.reshape(files[0].ImageOrientationPatient, (2, 3))
    files.sort(key=lambda file: np.dot(np.cross(row, column), file.ImagePositionPatient))
    pixels = np.stack([file.pixel_array.astype(np.float32) for file in files])
    if config.slices == "central":
        chosen = slices.central(len(pixels), config.images)
    else:
        chosen = slices.tumour(pixels, config.images, percentile=config.percentile)
    images = torch.nn.functional.interpolate(
        torch.from_numpy(pixels[chosen])[:, None], config.image_size, mode="bilinear", antialias=True
    )
    shown = images != 0
    normalised = (images - images[shown].mean()) / images[shown].std(correction=0)
    return torch.where(shown, normalised, 0).permute(1, 0, 2, 3).numpy()


def cycled(samples: Callable[[int], object], count: int) -> Callable[[], object]:
    """A function that returns the next patient's sample."""
    indices = itertools.cycle(range(count))
    return lambda: samples(next(indices))


def largest_difference(patients: Sequence[Patient], entries: Sequence[Entry], config: Config) -> float:
    """Between both sides' samples, in standard deviations of the intensity."""
    own = Slices([(entry, 0) for entry in entries])
    return max(
        float(np.abs(own[0, index]["image"] - decoded(patient, config)).max()) for index, patient in enumerate(patients)
    )


def time_samples(name: str, patients: Sequence[Patient], config: Config, repeats: int) -> list[Row]:
    """One training sample, ours against the peer. Raises ValueError when a patient cannot be prepared."""
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(patients, config.recipe, folder, n_jobs=1)
        if store.problems:
            raise ValueError(f"expected patients that can be prepared, found {store.problems[0]}")
        entries = list(store.entries.values())
        print(f"{name}: both sides' samples at most {largest_difference(patients, entries, config):.1e} SD apart")
        own = Slices([(entry, 0) for entry in entries])
        pixels = config.images * int(np.prod(config.image_size))
        return compare(
            name,
            cycled(lambda index: own[0, index], len(entries)),
            {"pydicom, every epoch": cycled(lambda index: decoded(patients[index], config), len(patients))},
            repeats=repeats,
            floor_s=6 * pixels / basis.copy_rate(),
            floor=f"{6 * pixels / 2**20:.1f} MiB read and written at the rate of copying memory",
        )


def main(options: Options) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            write_synthetic(Path(folder) / "FLAIR")
            patients: Sequence[Patient] = [Patient("synthetic", {"FLAIR": Path(folder) / "FLAIR"})]
        else:
            patients = find_patients(options.data).patients[: options.patients]
        rows = [row for name, config in CASES.items() for row in time_samples(name, patients, config, options.repeats)]
    report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.slices_loading", description=__doc__))

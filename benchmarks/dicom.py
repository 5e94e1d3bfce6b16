"""Reading DICOM series: ``python -m benchmarks.dicom [--series FOLDER] [--json PATH] [--repeats N]``.

*Central choice*: a series is opened and 31 images around the middle are read. *Tumour choice*: every image is read once
and the 31 around the brightest are kept; this happens once per patient, at preparation. *Every image*: nothing is
chosen. All from files in the page cache, in one process. The peers have to read every file, whatever is chosen:

- pydicom: ``dcmread`` and ``pixel_array`` in a loop over the files, in no order, without rescaling.
- SimpleITK (GDCM in C++): its series reader, which puts the files in order by their positions too.

Without ``--series`` a synthetic one is written: 200 images of 256 x 256 pixels, with about 100 elements per header.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import tyro
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks import basis
from benchmarks.compare import Row, compare, report
from common.dicom.series import read_series
from mgmt_classifier import slices

FILLING = {"LO": "as scanners write it", "SH": "text", "DS": "1.234567", "IS": "12"}
HEADER_BYTES = 4096  # about what a scanner writes before the pixels


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the reading of a DICOM series against what a user would use instead."""

    series: Path | None = None
    """Folder with the files of one series, and nothing else; without it a synthetic one is written."""
    json: Path | None = None
    """Where to write the rows as JSON."""
    repeats: int = 9
    """Rounds; each times every side once."""
    images: int = 31
    """Images that the central and tumour choices take."""


def write_synthetic(folder: Path, *, n_images: int = 200, side: int = 256, elements: int = 80) -> Path:
    """Axial 12-bit images of a noisy ellipsoid with a bright ball in it, and headers filled with text and numbers."""
    rng = np.random.default_rng(0)
    filling = [
        (keyword_for_tag(tag), FILLING[entry[0]])
        for tag, entry in sorted(DicomDictionary.items())
        if tag >> 16 in (0x0008, 0x0018) and entry[0] in FILLING and entry[1] == "1" and not entry[3]
    ][:elements]
    x, y = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    folder.mkdir(parents=True, exist_ok=True)
    for number, z in enumerate(np.linspace(-1, 1, n_images)):
        head = (x / 0.7) ** 2 + (y / 0.9) ** 2 + z**2 < 1
        ball = (x - 0.2) ** 2 + (y + 0.1) ** 2 + (z - 0.4) ** 2 < 0.03
        pixels = ((rng.normal(900, 60, head.shape) * (1 + ball)).clip(1, 4095) * head).astype("<u2")
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        for keyword, value in filling:
            setattr(dataset, keyword, value)
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.SeriesInstanceUID, dataset.InstanceNumber = "1.2.3", number
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-90, -120, float(number)], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.Rows, dataset.Columns = [0.9, 0.9], side, side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(folder / f"Image-{number}.dcm", enforce_file_format=True)
    return folder


def read_central(folder: Path, count: int) -> np.ndarray:
    series = read_series(folder)
    return series.read(slices.central(len(series), count))


def read_tumour(folder: Path, count: int) -> np.ndarray:
    images = read_series(folder).read()
    return images[slices.tumour(images, count)]


def with_pydicom(files: Sequence[Path]) -> list[np.ndarray]:
    return [pydicom.dcmread(file).pixel_array for file in files]


def with_simpleitk(folder: Path) -> np.ndarray:
    """Every image in the order of the positions, (images, rows, columns)."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def check_order(folder: Path) -> None:
    """Our images against SimpleITK's. Raises ValueError when one differs; it may count from the other end."""
    own, theirs = read_series(folder).read(), with_simpleitk(folder)
    if own.shape != theirs.shape or not any(np.array_equal(own, each) for each in (theirs, theirs[::-1])):
        raise ValueError(f"{folder}: expected the images of both readers to be equal and in the same order")


def touch(files: Sequence[Path], whole: Sequence[Path]) -> Callable[[], None]:
    """A function that reads every file's header bytes, and some files to the end, without looking at them."""

    def work() -> None:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                stream.read(HEADER_BYTES)
        for file in whole:
            file.read_bytes()

    return work


def time_series(folder: Path, count: int, repeats: int) -> list[Row]:
    """A choice of ``count`` images, and every image."""
    files = sorted(folder.iterdir())
    chosen = [frame.path for frame in read_series(folder).frames][len(files) // 2 - count // 2 :][:count]
    works = {
        f"{count} central of {len(files)}": (lambda: read_central(folder, count), chosen),
        f"{count} tumour of {len(files)}": (lambda: read_tumour(folder, count), files),
        f"every image of {len(files)}": (lambda: read_series(folder).read(), files),
    }
    rows = []
    for name, (work, needed) in works.items():
        rows += compare(
            name,
            work,
            {"pydicom": lambda: with_pydicom(files), "SimpleITK": lambda: with_simpleitk(folder)},
            repeats=repeats,
            floor_s=basis.best_seconds(touch(files, needed)),
            floor=f"opening {len(files)} files, reading their headers and {len(needed)} to the end, parsing nothing",
        )
    return rows


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.series or write_synthetic(Path(temporary))
        check_order(folder)
        report(time_series(folder, options.images, options.repeats), options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.dicom", description=__doc__))

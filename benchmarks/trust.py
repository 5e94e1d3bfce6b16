"""Public sample files read beside pydicom and nibabel: ``python -m benchmarks.trust [--json PATH]``.

Every DICOM file shipped with pydicom, with PyPI's ``pydicom-data`` (where it is installed) and with nibabel, and every
NIfTI file that nibabel ships. *Equal*: voxels, spacing and order are those of pydicom or nibabel (voxels after
rescaling; where low is bright turned round, and padding 0, both done here a second time). *Refused*: with the reason;
*no image*: passed over in a folder of scans. *Different* is a fault: the command then ends with status 1.
"""

import gzip
import importlib.util
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import tyro

from common import nifti
from common.dicom import checks
from common.dicom.file import Image, NotAnImageError, read_header
from common.dicom.pixels import DicomError, decode
from common.dicom.series import grey_values, read_series

PACKAGES = {"pydicom": "data", "data_store": "data", "nibabel": ".", "highdicom": "."}
NAMES = {"data_store": "pydicom-data"}
NOT_DATA = {".py", ".pyc", ".pyi", ".typed", ".md", ".txt", ".json", ".rst", ".m"}


@dataclass(frozen=True)
class Outcome:
    """What became of a file: equal, refused, no image or different, and why."""

    package: str
    kind: str
    file: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read public sample files and hold them against pydicom and nibabel."""

    json: Path | None = None
    """Where to write every file's outcome as JSON."""


def sample_files(package: str) -> Iterator[Path]:
    """The files of an installed package that may hold scans; none where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent / PACKAGES[package]
        yield from sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in NOT_DATA)


def compare_dicom(path: Path) -> tuple[str, str]:
    """Outcome and reason of one file."""
    try:
        images = read_header(path)
        decoded = list(decode(path, images[0].stored, range(len(images))))
    except NotAnImageError as error:
        return "no image", str(error)
    except DicomError as error:
        return "refused", str(error)
    mirror = checks.mirror(images)
    own = np.stack([grey_values(each, image, mirror) for each, image in zip(decoded, images, strict=True)])
    dataset = pydicom.dcmread(path)
    theirs, places = pydicom_values(dataset, len(images)), pydicom_places(dataset, len(images))
    if not np.array_equal(own.astype(np.float32), theirs.astype(np.float32)):
        return "different", "voxels"
    if [(image.position_mm, image.orientation, image.spacing_mm) for image in images] != places:
        return "different", "position, orientation or spacing"
    return "equal", order(path, images, theirs)


def order(path: Path, images: tuple[Image, ...], theirs: np.ndarray) -> str:
    """The images of a multi-frame file as a series, against theirs put in order here. Raises ValueError otherwise."""
    if len(images) < checks.MINIMUM_IMAGES:
        return "image by image"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "all.dcm").symlink_to(path)
        try:
            series = read_series(folder)
        except DicomError as error:
            return f"image by image; no stack: {str(error).split(': ', 1)[1]}"
        row, column = np.reshape(images[0].orientation, (2, 3))
        places = np.argsort([np.dot(image.position_mm, np.cross(row, column)) for image in images])
        if not np.array_equal(series.read(), theirs[places].astype(np.float32)):
            raise ValueError(f"{path}: expected the images in the order of their positions")
    return "in order"


def pydicom_values(dataset: pydicom.Dataset, n_images: int) -> np.ndarray:
    """pydicom's pixels (images, rows, columns), turned round where low is bright, rescaled, and padding 0."""
    stored = dataset.pixel_array.reshape(n_images, dataset.Rows, dataset.Columns).astype(np.int64)
    values = stored.astype(float)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = (-1 if dataset.PixelRepresentation else 2**dataset.BitsStored - 1) - values
    for index in range(n_images):
        found = find(dataset, index, "PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept")
        slope, intercept = (float(default if one is None else one) for one, default in zip(found, (1, 0), strict=True))
        values[index] = values[index] * slope + intercept
    if (first := dataset.get("PixelPaddingValue")) is not None:
        last = dataset.get("PixelPaddingRangeLimit", first)
        values[(stored >= min(first, last)) & (stored <= max(first, last))] = 0
    return values


def pydicom_places(dataset: pydicom.Dataset, n_images: int) -> list[tuple]:
    """Position, orientation and pixel spacing of each image."""
    keys = (
        *(("PlanePositionSequence", "ImagePositionPatient"), ("PlaneOrientationSequence", "ImageOrientationPatient")),
        ("PixelMeasuresSequence", "PixelSpacing"),
    )
    return [
        tuple(tuple(map(float, find(dataset, index, sequence, keyword)[0])) for sequence, keyword in keys)
        for index in range(n_images)
    ]


def find(dataset: pydicom.Dataset, index: int, sequence: str, *keywords: str) -> list:
    """Values of an image's functional group, of the shared one, or of the data set."""
    groups = [
        *dataset.get("PerFrameFunctionalGroupsSequence", [])[index : index + 1],
        *dataset.get("SharedFunctionalGroupsSequence", []),
    ]
    places = [*(group[sequence][0] for group in groups if sequence in group), dataset]
    return [next((place[key].value for place in places if key in place), None) for key in keywords]


def compare_nifti(path: Path) -> tuple[str, str]:
    """Outcome and reason of one file."""
    try:
        scan = nifti.read(path)
    except nifti.ScanError as error:
        return "refused", str(error)
    image = nib.load(path)
    if not np.array_equal(scan.data, np.asanyarray(image.dataobj).astype(scan.data.dtype), equal_nan=True):
        return "different", "voxels"
    same = np.allclose(scan.affine, image.affine) and np.allclose(
        scan.spacing_mm, nib.affines.voxel_sizes(image.affine)
    )
    return ("equal", "in order") if same else ("different", "affine or spacing")


def look_at(package: str) -> Iterator[Outcome]:
    """One outcome per file of a package that is a scan, or says that it is one."""
    folder_name = NAMES.get(package, package)
    for path in sample_files(package):
        if path.name.endswith((".nii", ".nii.gz")):
            yield Outcome(folder_name, "NIfTI", path.name, *compare_nifti(path))
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[128:132] != b"DICM" and ".dcm" not in path.suffixes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.name.removesuffix(".gz")
            plain.write_bytes(content)
            yield Outcome(folder_name, "DICOM", path.name, *compare_dicom(plain))


def reason(outcome: Outcome) -> str:
    """The reason without the file's name and numbers, so that equal ones can be counted."""
    if outcome.outcome == "equal":
        return ""
    text = re.sub(r"^\S*?: ", "", outcome.reason).split(", found")[0].split(" that ")[0]
    return re.sub(r"\d[\d,.x ]*", "N ", text).strip()


def tables(outcomes: list[Outcome]) -> str:
    """Counts by package, and why files were refused, as Markdown."""
    states = ("equal", "refused", "no image", "different")
    lines = ["| files | " + " | ".join(states) + " |", "|---|" + "---|" * len(states)]
    for key in dict.fromkeys((each.package, each.kind) for each in outcomes):
        counts = Counter(each.outcome for each in outcomes if (each.package, each.kind) == key)
        lines.append(f"| {key[1]} of {key[0]} | " + " | ".join(str(counts[state]) for state in states) + " |")
    lines += ["", "| refused, or no image, because | files |", "|---|---|"]
    reasons = Counter(reason(each) for each in outcomes if each.outcome in ("refused", "no image"))
    return "\n".join([*lines, *(f"| {what} | {n} |" for what, n in reasons.most_common())])


def main(options: Options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's and nibabel's, of what they find odd
        outcomes = [outcome for package in PACKAGES for outcome in look_at(package)]
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1), encoding="utf-8")
    print(tables(outcomes))
    if wrong := [each for each in outcomes if each.outcome == "different"]:
        sys.exit("".join(f"error: {each.package} {each.file}: other {each.reason}\n" for each in wrong))


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.trust", description=__doc__))

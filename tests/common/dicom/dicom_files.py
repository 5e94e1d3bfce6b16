"""Small DICOM files written with pydicom: classic and enhanced series, as right or as wrong as a test needs them."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)


def tilted(degrees: float, orientation=AXIAL) -> tuple[float, ...]:
    """The orientation with its column direction turned about its row direction."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    angle = np.deg2rad(degrees)
    turned = np.cos(angle) * column + np.sin(angle) * np.cross(row, column)
    return (*row.tolist(), *turned.tolist())


def noise(n_images: int, shape=(6, 7), *, seed: int = 0, dtype=np.uint16, most: int = 4095) -> np.ndarray:
    """(n_images, rows, columns) of grey values, every image another."""
    return np.random.default_rng(seed).integers(0, most, (n_images, *shape)).astype(dtype)


def header(pixels: np.ndarray, *, syntax=ExplicitVRLittleEndian, kind=MRImageStorage) -> FileDataset:
    """A data set with everything but the place in space; pixels: (rows, columns) or (images, rows, columns)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "MR", "test", 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = 12 if pixels.dtype.itemsize == 2 else dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.astype(
        pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
    ).tobytes()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    return dataset


def save(dataset: Dataset, path: Path, **changes: object) -> Path:
    """Write a data set after changing elements by keyword; None removes one. RLE is compressed on the way."""
    for keyword, value in changes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    if dataset.file_meta.TransferSyntaxUID == RLELossless and not dataset["PixelData"].is_undefined_length:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    pixels: np.ndarray,
    *,
    orientation=AXIAL,
    origin=(-10.0, -20.0, 30.0),
    spacing_mm=(2.5, 0.5, 0.75),
    order=None,
    names="Image-{}.dcm",
    syntax=ExplicitVRLittleEndian,
    **changes: object,
) -> Path:
    """Classic files of pixels (images, rows, columns) in geometric order; spacing_mm between images, rows, columns.

    order: file number and InstanceNumber of each image, as they come by default. changes: of every file's elements.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    for place, (image, number) in enumerate(zip(pixels, order or range(len(pixels)), strict=True)):
        position = np.array(origin) + place * spacing_mm[0] * normal
        elements = {
            "ImagePositionPatient": [round(float(x), 6) for x in position],
            "ImageOrientationPatient": [round(float(x), 9) for x in orientation],
            "PixelSpacing": list(spacing_mm[1:]),
            "InstanceNumber": number,
            "SliceThickness": 99.0,  # a reader that takes it for the distance between images is found out
        }
        save(header(image, syntax=syntax), folder / names.format(number), **(elements | changes))
    return folder


def group(sequence: str, **elements: object) -> Dataset:
    """A functional group: an item with one sequence of one item."""
    inner, outer = Dataset(), Dataset()
    for keyword, value in elements.items():
        setattr(inner, keyword, value)
    setattr(outer, sequence, Sequence([inner]))
    return outer


def merged(*groups: Dataset) -> Dataset:
    item = Dataset()
    for each in groups:
        item.update(each)
    return item


def write_enhanced(
    path: Path,
    pixels: np.ndarray,
    *,
    orientation=AXIAL,
    origin=(-10.0, -20.0, 30.0),
    spacing_mm=(2.5, 0.5, 0.75),
    order=None,
    rescale=None,
    orientation_per_frame=False,
    syntax=ExplicitVRLittleEndian,
    **changes: object,
) -> Path:
    """One enhanced file of pixels (images, rows, columns) in geometric order, its frames stored in ``order``.

    rescale: (slope, intercept) per image, in geometric order; the shared group has that of the first otherwise.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    order = list(order or range(len(pixels)))
    dataset = header(pixels[order], syntax=syntax, kind=EnhancedMRImageStorage)
    dataset.NumberOfFrames = len(pixels)
    shared = [group("PixelMeasuresSequence", PixelSpacing=list(spacing_mm[1:]), SliceThickness=99.0)]
    plane = group("PlaneOrientationSequence", ImageOrientationPatient=[round(float(x), 9) for x in orientation])
    if not orientation_per_frame:
        shared.append(plane)
    items = []
    for place in order:
        position = np.array(origin) + place * spacing_mm[0] * normal
        own = [group("PlanePositionSequence", ImagePositionPatient=[round(float(x), 6) for x in position])]
        if orientation_per_frame:
            own.append(plane)
        if rescale is not None:
            slope, intercept = rescale[place]
            own.append(group("PixelValueTransformationSequence", RescaleSlope=slope, RescaleIntercept=intercept))
        items.append(merged(*own))
    dataset.SharedFunctionalGroupsSequence = Sequence([merged(*shared)])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    return save(dataset, path, **changes)


def write_compressed(path: Path, like: Path, frames: list[bytes], **changes: object) -> Path:
    """A copy of a compressed file with other compressed images."""
    dataset = pydicom.dcmread(like)
    dataset.PixelData = encapsulate(frames)
    return save(dataset, path, **changes)

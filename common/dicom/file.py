"""One DICOM file: the geometry of its images from the header alone, and its pixels, one image at a time.

What is noted when the header is read (where the pixels begin, how they are stored) is enough for pydicom's decoders, so
an image is decoded without parsing its file again. Before any memory is taken, the pixels that the header claims are
held against the bytes that the file has.
"""

import functools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import MediaStorageDirectoryStorage, RLELossless

from common.dicom.elements import (
    PADDING,
    PIXEL_DATA,
    PREAMBLE_BYTES,
    RESCALE,
    START_BYTES,
    UNSIGNED,
    Elements,
    Header,
    items,
    marks,
    numbers,
    read_elements,
    shown,
    text,
)
from common.dicom.fragments import check_fragments
from common.dicom.pixels import DAMAGE, DicomError, Stored
from common.dicom.planes import normal

PLUGINS = "pip install pyjpegls pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
MOST_PIXELS = 2**26  # of one image, 8192 x 8192: a compressed file's length does not bound what its header claims
SMALLEST_SLOPE, LARGEST_VALUE = 1e-30, 3e38  # float32 holds what lies between
UNDEFINED_LENGTH = 0xFFFFFFFF
DIMENSION = "dimension "  # begins the mark of one of an enhanced file's dimensions
_FRAME_MARKS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    *(("FrameContentSequence", keyword) for keyword in ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber")),
    ("FrameContentSequence", "DimensionIndexValues"),
)
_PLACES = {
    str(Tag(keyword))
    for keyword in ("InStackPositionNumber", "ImagePositionPatient", "PlanePositionSequence", "SliceLocation")
}
SUFFIXES = (".dcm", ".dicom", ".ima")


class NotAnImageError(DicomError):
    """A file that is no DICOM file, or a DICOM object of another kind than an image."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a file by its header.

    index: its place within the file. position_mm, orientation: ImagePositionPatient (x, y, z of the first pixel's
    centre) and ImageOrientationPatient (direction along a row, then along a column). shape: rows, columns.
    spacing_mm: between rows, between columns. slope, intercept: of the rescaling that its pixels still need. marks:
    what tells one acquisition from another, by keyword, where the header has it.
    """

    path: Path
    index: int
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    marks: dict[str, str]
    stored: Stored


def read_header(path: Path) -> tuple[Image, ...]:
    """The images of a classic or enhanced multi-frame file, in the file's order, without decoding any.

    Raises NotAnImageError for other files and other DICOM objects; DicomError when the header is damaged, an image has
    no place in space, its grey values are not plain (colour, lookup tables), its pixels are cut short, or they are
    compressed in a way that no installed plugin decodes, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read_header(file, path)
    except DicomError:
        raise
    except OSError as error:
        raise DicomError(f"{path}: expected a readable file, found {error.strerror or error}") from error
    except DAMAGE as error:
        raise DicomError(f"{path}: {error}") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[Image, ...]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(START_BYTES)
    if (mark := start[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) != b"DICM":
        found = f"expected DICM at byte {PREAMBLE_BYTES}, found {mark!r} in {size} bytes"
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            raise DicomError(f"{path}: {found}")
        raise NotAnImageError(f"{path}: no DICOM file, {found}")
    header = read_elements(file, start, size=size)
    kind = header.kind
    is_known = kind.name != kind
    if kind == MediaStorageDirectoryStorage or (is_known and "Image Storage" not in kind.name):
        raise NotAnImageError(f"{path}: a DICOM object without images, {kind.name}")
    if not is_known and numbers(header.elements, "Rows") is None:
        raise NotAnImageError(f"{path}: a DICOM object without images, {kind or 'of no known kind'}")
    return _images(path, header.elements, _stored(file, size, header))


def _stored(file: BinaryIO, size: int, header: Header) -> Stored:
    """Check what the header says of the pixels against the file."""
    syntax, elements = header.syntax, header.elements
    if not header.is_whole:
        raise ValueError(f"expected pixel data, but the file ends inside its header, after {size} bytes")
    order = "<" if syntax.is_little_endian else ">"
    group, element = struct.unpack_from(f"{order}HH", header.pixel_element)
    if group << 16 | element != PIXEL_DATA:
        raise ValueError(f"expected pixel data (7FE0,0010), found element ({group:04X},{element:04X})")
    (length,) = struct.unpack_from(f"{order}L", header.pixel_element, len(header.pixel_element) - 4)
    sizes = {name: values for name in UNSIGNED if (values := numbers(elements, name))}
    if missing := [name for name in UNSIGNED if name not in sizes]:
        raise ValueError(f"expected the element {missing[0]}, found none")
    samples, rows, columns, allocated, bits, sign = (int(values[0]) for values in sizes.values())
    n_images = int((numbers(elements, "NumberOfFrames") or (1,))[0])
    photometric = text(elements, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"expected one grey value per pixel, found {samples} of kind {photometric or 'unknown'}")
    if n_images != (numbers(elements, "NumberOfFrames") or (1,))[0] or sign not in (0, 1):
        raise ValueError(
            f"expected a whole NumberOfFrames and a PixelRepresentation of 0 or 1, found {n_images} and {sign}"
        )
    if not (0 < rows * columns <= MOST_PIXELS and n_images > 0 and 0 < bits <= allocated and allocated in (8, 16, 32)):
        raise ValueError(
            f"expected images of 1 to {MOST_PIXELS} pixels of 8, 16 or 32 bits, found {n_images} of {rows} x {columns} "
            f"with {bits} of {allocated} bits"
        )
    if (high_bit := (numbers(elements, "HighBit") or (bits - 1,))[0]) != bits - 1:
        raise ValueError(f"expected a HighBit of {bits - 1}, one less than BitsStored, found {high_bit:g}")
    if items(elements, "ModalityLUTSequence"):
        raise ValueError("expected a slope and an intercept for the grey values, found a lookup table")
    if syntax.is_encapsulated != (length == UNDEFINED_LENGTH):
        raise ValueError(f"expected pixels as {syntax.name}, found a length of {length:#x} that contradicts it")
    if syntax.is_encapsulated:
        file.seek(header.offset)
        check_fragments(file, size, n_images=n_images, is_rle=syntax == RLELossless)
        if not get_decoder(syntax).is_available:
            raise ValueError(f"compressed as {syntax.name}, which needs a decoder that is not installed: {PLUGINS}")
    else:
        expected = n_images * rows * columns * allocated // 8
        if (found := min(length, size - header.offset)) < expected:
            raise ValueError(f"truncated pixel data: expected {expected} bytes, found {found}")
        if length > expected + expected % 2:  # an odd length is padded with one byte
            raise ValueError(f"surplus pixel data: expected {expected} bytes, found a length of {length}")
    options = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "bits_allocated": allocated,
        "bits_stored": bits,
        "pixel_representation": sign,
        "number_of_frames": n_images,
        "photometric_interpretation": photometric,
        "pixel_keyword": "PixelData",
    }
    if not header.is_implicit:
        options["pixel_vr"] = header.pixel_element[4:6].decode("ascii")
    return Stored(
        transfer_syntax=str(syntax), offset=header.offset, options=options, padding=_padding(elements, sign == 1)
    )


def _padding(elements: Elements, is_signed: bool) -> tuple[int, int] | None:
    """Lowest and highest value of padding. Their 16 bits have a sign where the pixels have one, whatever their VR."""
    ends = [int(values[0]) for keyword in PADDING if (values := numbers(elements, keyword))]
    if not ends or not numbers(elements, PADDING[0]):
        return None
    if max(ends) >= 2**16:
        raise ValueError(f"expected a {PADDING[0]} of 16 bits, found {max(ends)}")
    signed = [end - 2**16 if is_signed and end >= 2**15 else end for end in ends]
    return min(signed), max(signed)


def _images(path: Path, elements: Elements, stored: Stored) -> tuple[Image, ...]:
    n_images = stored.options["number_of_frames"]
    shared, per_image = (items(elements, f"{kind}FunctionalGroupsSequence") for kind in ("Shared", "PerFrame"))
    if len(per_image) != (n_images if n_images > 1 or per_image else 0):
        raise ValueError(f"expected the place of each of {n_images} images, found {len(per_image)}")

    def image(index: int) -> Image:
        groups = [*per_image[index : index + 1], *shared]
        find = functools.partial(_find, elements, groups)
        position = find("PlanePositionSequence", "ImagePositionPatient", 3)
        orientation = find("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        spacing_mm = find("PixelMeasuresSequence", "PixelSpacing", 2)
        if min(spacing_mm) <= 0:
            raise ValueError(f"expected a positive PixelSpacing, found {spacing_mm}")
        # Only two perpendicular unit vectors have a product of length 1 (and none is longer).
        if not abs(hypot(*normal(orientation)) - 1) < 1e-3:
            raise ValueError(f"expected two perpendicular directions as ImageOrientationPatient, found {orientation}")
        rescale = "PixelValueTransformationSequence"
        slope, intercept = (
            find(rescale, name, 1, default)[0] for name, default in zip(RESCALE, ((1.0,), (0.0,)), strict=True)
        )
        if abs(slope) < SMALLEST_SLOPE:
            raise ValueError(f"expected a RescaleSlope that keeps the image, found {slope:g}")
        if abs(slope) * 2.0**stored.bits + abs(intercept) > LARGEST_VALUE:
            raise ValueError(
                f"expected grey values of 32 bits, found a slope of {slope:g} and an intercept of {intercept:g}"
            )
        return Image(
            path=path,
            index=index,
            position_mm=position,
            orientation=orientation,
            shape=(stored.options["rows"], stored.options["columns"]),
            spacing_mm=spacing_mm,
            slope=slope,
            intercept=intercept,
            marks=common_marks | (_frame_marks(elements, groups) if groups else {}),
            stored=stored,
        )

    common_marks = marks(elements)
    return tuple(image(index) for index in range(n_images))


def _frame_marks(elements: Elements, groups: Sequence[Elements]) -> dict[str, str]:
    """What tells acquisitions apart within an enhanced file, and an image's index in each dimension but its place."""
    found = {
        keyword: mark
        for sequence, keyword in _FRAME_MARKS
        for group in groups
        for item in items(group, sequence)
        if (mark := shown(item, keyword))
    }
    indices = found.pop("DimensionIndexValues", "").strip("[]").split(", ")
    pointers = [shown(item, "DimensionIndexPointer") for item in items(elements, "DimensionIndexSequence")]
    if len(pointers) == len(indices):
        named = zip(pointers, indices, strict=True)
        found |= {f"{DIMENSION}{pointer}": index for pointer, index in named if pointer not in _PLACES}
    return found


def _find(
    elements: Elements,
    groups: Sequence[Elements],
    sequence: str,
    keyword: str,
    count: int,
    default: tuple[float, ...] | None = None,
) -> tuple[Any, ...]:
    """An image's numbers: from its own functional group, or that of all images, or the data set itself."""
    places = (*(item for group in groups for item in items(group, sequence)), elements)
    values = next((found for place in places if (found := numbers(place, keyword)) is not None), default)
    if values is None or len(values) != count or not all(map(isfinite, values)):
        raise ValueError(f"expected {count} numbers as {keyword}, found {values or 'none'}")
    return values

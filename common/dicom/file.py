"""One DICOM file: the geometry of its images from the header alone, and its pixels, one image at a time.

What is noted when the header is read (where the pixels begin, how they are stored) is enough for pydicom's decoders, so
an image is decoded without parsing its file again. Before any memory is taken, the pixels that the header claims are
held against the bytes that the file has.
"""

import functools
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import MediaStorageDirectoryStorage, RLELossless

from common.dicom.elements import (
    PIXEL_DATA,
    PREAMBLE_BYTES,
    RESCALE,
    START_BYTES,
    UNSIGNED,
    Elements,
    Header,
    items,
    numbers,
    read_elements,
    text,
)

PLUGINS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
MOST_PIXELS = 2**26  # of one image, 8192 x 8192: a compressed file's length does not bound what its header claims
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, END_OF_ITEMS = 0xFFFEE000, 0xFFFEE0DD
END_OF_JPEG = b"\xff\xd9"  # also of JPEG-LS and JPEG 2000
SUFFIXES = (".dcm", ".dicom", ".ima")
# What pydicom raises on headers and pixels that are not what they say.
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, NotImplementedError, RuntimeError)
_DAMAGE = (*_DAMAGE, struct.error, MemoryError, OverflowError)


class DicomError(ValueError):
    """DICOM files that cannot be trusted; the message names file or folder, what was found and what was expected."""


class NotAnImageError(DicomError):
    """A file that is no DICOM file, or a DICOM object of another kind than an image."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a file keeps its pixels: transfer syntax, the value's first byte, and the options of pydicom's decoder."""

    transfer_syntax: str
    offset: int
    options: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a file by its header.

    index: its place within the file. position_mm, orientation: ImagePositionPatient (x, y, z of the first pixel's
    centre) and ImageOrientationPatient (direction along a row, then along a column). shape: rows, columns.
    spacing_mm: between rows, between columns. slope, intercept: of the rescaling that its pixels still need.
    """

    path: Path
    index: int
    position_mm: tuple[float, float, float]
    orientation: tuple[float, ...]
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
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
    except _DAMAGE as error:
        raise DicomError(f"{path}: {error}") from error


def decode(path: Path, stored: Stored, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Pixels (rows, columns) of the file's images at ``indices``, as integers before rescaling.

    MONOCHROME1 (low is bright) is mirrored within its stored bits, so that bright is high in every series.
    A single flipped bit goes unnoticed: DICOM has no checksum. Raises DicomError when an image cannot be decoded.
    """
    decoder = get_decoder(stored.transfer_syntax)
    bits, is_signed = stored.options["bits_stored"], stored.options["pixel_representation"] == 1
    for index in indices:
        try:
            with path.open("rb") as file:
                file.seek(stored.offset)
                pixels, _ = decoder.as_array(file, index=int(index), **stored.options)
        except (OSError, *_DAMAGE) as error:
            raise DicomError(f"{path}: its image {index + 1} cannot be decoded: {error}") from error
        if stored.options["photometric_interpretation"] == "MONOCHROME1":
            pixels = ~pixels if is_signed else pixels ^ pixels.dtype.type(2**bits - 1)
        yield pixels


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
    sizes = {name: numbers(elements, name) for name in UNSIGNED}
    if missing := [name for name, values in sizes.items() if not values]:
        raise ValueError(f"expected the element {missing[0]}, found none")
    samples, rows, columns, allocated, bits, sign = (int(values[0]) for values in sizes.values())
    n_images = int((numbers(elements, "NumberOfFrames") or (1,))[0])
    photometric = text(elements, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"expected one grey value per pixel, found {samples} of kind {photometric or 'unknown'}")
    if not (0 < rows * columns <= MOST_PIXELS and n_images > 0 and 0 < bits <= allocated and allocated in (8, 16, 32)):
        raise ValueError(
            f"expected images of 1 to {MOST_PIXELS} pixels of 8, 16 or 32 bits, found {n_images} of {rows} x {columns} "
            f"with {bits} of {allocated} bits"
        )
    if items(elements, "ModalityLUTSequence"):
        raise ValueError("expected a slope and an intercept for the grey values, found a lookup table")
    if syntax.is_encapsulated != (length == UNDEFINED_LENGTH):
        raise ValueError(f"expected pixels as {syntax.name}, found a length of {length:#x} that contradicts it")
    if syntax.is_encapsulated:
        file.seek(header.offset)
        ends = _ends_of_fragments(file, size)
        if len(ends) < n_images:
            raise ValueError(f"truncated pixel data: expected {n_images} compressed images, found {len(ends)}")
        # Decoders fill what a shortened JPEG lacks with zeros. An image in several pieces has the mark in its last.
        for number, last in enumerate(ends if len(ends) == n_images else ends[-1:], start=1):
            if syntax != RLELossless and not last.rstrip(b"\0").endswith(END_OF_JPEG):
                raise ValueError(f"truncated pixel data: expected the mark that ends image {number}, found none")
        if not get_decoder(syntax).is_available:
            raise ValueError(f"compressed as {syntax.name}, which needs a decoder that is not installed: {PLUGINS}")
    elif (found := min(length, size - header.offset)) < (expected := n_images * rows * columns * allocated // 8):
        raise ValueError(f"truncated pixel data: expected {expected} bytes, found {found}")
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
    return Stored(transfer_syntax=str(syntax), offset=header.offset, options=options)


def _ends_of_fragments(file: BinaryIO, size: int) -> list[bytes]:
    """Last bytes of each piece of compressed pixels, from the file's position to the mark that ends them."""
    ends: list[bytes] = []
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (tag := group << 16 | element) == END_OF_ITEMS:
            return ends[1:]  # the first piece is the table of offsets
        if tag != ITEM:
            raise ValueError(f"expected an item of compressed pixels, found element ({group:04X},{element:04X})")
        if (left := size - file.tell()) < length:
            raise ValueError(f"truncated pixel data: expected {length} bytes of compressed pixels, found {left}")
        file.seek(max(length - 16, 0), os.SEEK_CUR)
        ends.append(file.read(min(length, 16)))
    raise ValueError(f"truncated pixel data: expected a mark that ends the compressed pixels, found {len(head)} bytes")


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
        if slope == 0:
            raise ValueError("expected a RescaleSlope that keeps the image, found 0")
        return Image(
            path=path,
            index=index,
            position_mm=position,
            orientation=orientation,
            shape=(stored.options["rows"], stored.options["columns"]),
            spacing_mm=spacing_mm,
            slope=slope,
            intercept=intercept,
            stored=stored,
        )

    return tuple(image(index) for index in range(n_images))


def _find(
    elements: Elements,
    groups: Sequence[Elements],
    sequence: str,
    keyword: str,
    count: int,
    default: tuple[float, ...] | None = None,
) -> tuple[float, ...]:
    """An image's numbers: from its own functional group, or that of all images, or the data set itself."""
    places = (*(item for group in groups for item in items(group, sequence)), elements)
    values = next((found for place in places if (found := numbers(place, keyword)) is not None), default)
    if values is None or len(values) != count or not all(map(isfinite, values)):
        raise ValueError(f"expected {count} numbers as {keyword}, found {values or 'none'}")
    return values


def normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    """Row direction x column direction of an ImageOrientationPatient."""
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return (b * f - c * e, c * d - a * f, a * e - b * d)

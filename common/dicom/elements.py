"""The elements of a DICOM header that matter, as the bytes they are, and where the pixels begin.

pydicom walks the header. Making its own values of the elements takes as long as that, so they stay bytes until they are
asked for. It asks for its place at every element, which costs a system call in a file and next to nothing in memory:
the header is walked in the file's first bytes, and in the file itself only where it goes on behind them.
"""

import functools
import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

START_BYTES = 8192  # more than most scanners write before the pixels
PREAMBLE_BYTES = 128
PIXEL_DATA = 0x7FE00010
UNSIGNED = ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
RESCALE = ("RescaleSlope", "RescaleIntercept")
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")  # signed or not, as the pixels are: kept as their bits
# What is one in the images of one stack, and what may differ there without being a second stack.
ONE_IN_A_STACK = ("SeriesInstanceUID", "TemporalPositionIdentifier")
ONE_AS_A_RULE = (
    *("PatientID", "AcquisitionNumber", "ImageType", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("EchoTime", "EchoNumbers", "ContrastBolusAgent", "FrameOfReferenceUID"),
    *("SeriesNumber", "SeriesDescription"),
)


@functools.cache
def _tag(keyword: str) -> BaseTag | int:
    return int(Tag(keyword))


_INTEGERS = frozenset((*UNSIGNED, *PADDING, "HighBit"))
_OTHER = (
    *("HighBit", *PADDING, *ONE_IN_A_STACK, *ONE_AS_A_RULE),
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_KEPT = [_tag(keyword) for keyword in (*UNSIGNED, *RESCALE, *_OTHER)]
_MARKS = [(_tag(keyword), keyword) for keyword in (*ONE_IN_A_STACK, *ONE_AS_A_RULE)]
_META = [_tag(keyword) for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID")]
_ANY_PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))  # the first two: floating-point numbers

Elements = dict[int, RawDataElement | DataElement]  # by tag


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is kept of a header.

    kind: SOP class. pixel_element: the first bytes of the pixels' element, from its tag to its length, fewer where the
    file ends before. offset: first byte of the pixels. is_implicit: as found, whatever the transfer syntax says.
    """

    kind: UID
    syntax: UID
    elements: Elements
    pixel_element: bytes
    offset: int
    is_implicit: bool

    @property
    def is_whole(self) -> bool:
        return len(self.pixel_element) == _element_bytes(self.is_implicit)


def read_elements(file: BinaryIO, start: bytes, *, size: int) -> Header:
    """The header of a file of ``size`` bytes that begins with ``start``.

    Raises ValueError for a file that is deflated as a whole, and whatever pydicom raises on a damaged header.
    """
    try:
        return _parse(_Start(start) if size > len(start) else io.BytesIO(start))
    except _CutShortError:
        return _parse(file)


def numbers(elements: Elements, keyword: str) -> tuple[float, ...] | None:
    """An element's numbers, whole ones of 16 bits without a sign; None where it is missing or empty.

    Raises ValueError when they are none.
    """
    element = elements.get(_tag(keyword))
    if element is None or not (value := element.value):
        return None
    if not isinstance(value, bytes):  # pydicom has made its own values of it
        return tuple(float(number) for number in np.atleast_1d(value))
    if keyword in _INTEGERS and isinstance(element, RawDataElement):
        return (float(int.from_bytes(value, "little" if element.is_little_endian else "big")),)
    try:
        if b"_" in value:  # Python's own way of writing numbers
            raise ValueError
        return tuple(float(part) for part in value.strip(b" \0").split(b"\\"))
    except ValueError:
        raise ValueError(f"expected numbers as {keyword}, found {value[:80]!r}") from None


def text(elements: Elements, keyword: str) -> str:
    """An element's text; empty where it is missing."""
    element = elements.get(_tag(keyword))
    value = b"" if element is None or element.value is None else element.value
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def marks(elements: Elements) -> dict[str, str]:
    """What tells one acquisition from another, by keyword, as far as it is there."""
    return {keyword: text(elements, keyword) for tag, keyword in _MARKS if tag in elements}


def shown(elements: Elements, keyword: str) -> str:
    """Any element's value in words; empty where it is missing."""
    element = elements.get(_tag(keyword))
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element)
    return "" if element is None or element.value is None else str(element.value)


def items(elements: Elements, keyword: str) -> list[Elements]:
    """The items of a sequence; none where it is missing."""
    element = elements.get(_tag(keyword))
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element)
    return [] if element is None else [_by_tag(item) for item in element.value or ()]


class _CutShortError(Exception):
    """The header goes on behind the bytes that were read at first."""


class _Start(io.BytesIO):
    """The first bytes of a longer file."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise _CutShortError
        return data


def _parse(stream: BinaryIO) -> Header:
    stream.seek(PREAMBLE_BYTES + 4)
    meta = _by_tag(read_dataset(stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2, specific_tags=_META))
    kind, syntax = (_uid(text(meta, name)) for name in ("MediaStorageSOPClassUID", "TransferSyntaxUID"))
    if not syntax.is_transfer_syntax:
        raise ValueError(f"expected a transfer syntax, found {syntax or 'none'}")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise ValueError("expected pixels that can be reached one by one, found a file deflated as a whole")
    dataset = read_dataset(
        stream,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, *_: tag in _ANY_PIXEL_DATA,
        specific_tags=_KEPT,
    )
    is_implicit = bool(dataset.original_encoding[0])
    return Header(
        kind=kind,
        syntax=syntax,
        elements=_by_tag(dataset),
        pixel_element=stream.read(_element_bytes(is_implicit)),
        offset=stream.tell(),
        is_implicit=is_implicit,
    )


def _by_tag(dataset: Dataset) -> Elements:
    return {int(element.tag): element for element in dataset.elements()}


def _element_bytes(is_implicit: bool) -> int:
    return 8 if is_implicit else 12


_uid = functools.lru_cache(functools.partial(UID, validation_mode=IGNORE))  # an odd one is found out by what it names

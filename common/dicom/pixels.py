"""The pixels of one DICOM image, decoded without parsing its file again."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.pixels.decoders.base import get_decoder

# What pydicom raises on headers and pixels that are not what they say.
DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, NotImplementedError, RuntimeError),
    *(struct.error, MemoryError, OverflowError),
)


class DicomError(ValueError):
    """DICOM files that cannot be trusted; the message names file or folder, what was found and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a file keeps its pixels: transfer syntax, the value's first byte, and the options of pydicom's decoder.

    padding: lowest and highest stored value that stands for no image, None where the header declares none.
    """

    transfer_syntax: str
    offset: int
    options: dict[str, Any]
    padding: tuple[int, int] | None

    @property
    def bits(self) -> int:
        """BitsStored."""
        return self.options["bits_stored"]

    @property
    def is_signed(self) -> bool:
        return self.options["pixel_representation"] == 1

    @property
    def low_is_bright(self) -> bool:
        return self.options["photometric_interpretation"] == "MONOCHROME1"


class Decoded(NamedTuple):
    """An image's pixels (rows, columns), integers as stored; where they are padding, None where no padding is declared;
    and whether bits beyond those stored were set, which are not part of a pixel (old files keep overlays there)."""

    pixels: np.ndarray
    padded: np.ndarray | None
    has_more_bits: bool


def decode(path: Path, stored: Stored, indices: Sequence[int]) -> Iterator[Decoded]:
    """The file's images at ``indices`` as they are stored.

    A single flipped bit goes unnoticed: DICOM has no checksum. Raises DicomError when an image cannot be decoded.
    """
    decoder = get_decoder(stored.transfer_syntax)
    # It refuses damaged JPEG-LS, which pydicom would then give to libjpeg, which fills what is missing with zeros.
    plugin = "pyjpegls" if "pyjpegls" in decoder.available_plugins else ""
    options = stored.options | {"correct_unused_bits": False, "decoding_plugin": plugin}
    for index in indices:
        try:
            with path.open("rb") as file:
                file.seek(stored.offset)
                cells, _ = decoder.as_array(file, index=int(index), **options)
        except (OSError, *DAMAGE) as error:
            raise DicomError(f"{path}: its image {index + 1} cannot be decoded: {error}") from error
        pixels, has_more_bits = _without_other_bits(cells, stored)
        padded = None
        if stored.padding is not None:
            low, high = stored.padding
            # A value that the stored bits cannot hold means the whole cell.
            within = -(2 ** (stored.bits - 1)) <= low and high < 2 ** (stored.bits - stored.is_signed)
            compared = pixels if within else cells
            padded = (compared >= low) & (compared <= high)
        yield Decoded(pixels, padded, has_more_bits)


def _without_other_bits(cells: np.ndarray, stored: Stored) -> tuple[np.ndarray, bool]:
    """The stored bits of each cell as a number, and whether others were set that do not merely repeat the sign."""
    others = 8 * cells.dtype.itemsize - stored.bits
    if others <= 0 or (not stored.is_signed and cells.max() < 2**stored.bits):
        return cells, False
    pixels = cells << others >> others
    if not stored.is_signed:
        return pixels, True
    plain = (
        cells.view(f"u{cells.dtype.itemsize}") < 2**stored.bits
    )  # a decoder may leave the sign to the last stored bit
    return pixels, not ((pixels == cells) | plain).all()

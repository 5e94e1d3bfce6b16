"""The pieces in which a file keeps compressed pixels: whether they are all there, and no more than the header says.

Decoders fill what a shortened JPEG lacks with zeros, and take the images that the header counts from more of them.
"""

import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

ITEM, END_OF_ITEMS = 0xFFFEE000, 0xFFFEE0DD
ITEM_HEAD_BYTES = 8
# JPEG and JPEG-LS; JPEG 2000 as it should be, and within its own file format. None is found inside a compressed image.
BEGINNINGS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP")
END = b"\xff\xd9"
PADDING = b"\0\xff"  # the standard's filling byte, and JPEG's own
TAIL_BYTES = 16


@dataclass(frozen=True)
class Fragment:
    """A piece of compressed pixels: its place after the first piece, and its first and last bytes."""

    offset: int
    first: bytes
    last: bytes


def check_fragments(file: BinaryIO, size: int, *, n_images: int, is_rle: bool) -> None:
    """Read the pieces from the file's position to the mark that ends them.

    Raises ValueError when a piece or that mark is missing, when the pieces are fewer or more than ``n_images`` images,
    when an image lacks its own end mark, or when the table of offsets points elsewhere. Bytes 00 and FF behind an
    image's end mark are padding.
    """
    table, fragments = _read(file, size)
    # An image in RLE is one piece; the others may be cut into several.
    begins = [i for i, fragment in enumerate(fragments) if is_rle or fragment.first.startswith(BEGINNINGS)]
    if len(begins) != n_images or begins[0] != 0:
        what = "truncated" if len(begins) < n_images else "surplus"
        raise ValueError(
            f"{what} pixel data: expected {n_images} compressed images, found {len(begins)} in {len(fragments)} pieces"
        )
    if table and table != [fragments[i].offset for i in begins]:
        raise ValueError(f"expected a table of offsets that points to the {n_images} compressed images, found another")
    for number, (_, following) in enumerate(pairwise([*begins, len(fragments)]), start=1):
        if not (is_rle or fragments[following - 1].last.rstrip(PADDING).endswith(END)):
            raise ValueError(f"truncated pixel data: expected the mark that ends image {number}, found none")


def _read(file: BinaryIO, size: int) -> tuple[list[int], list[Fragment]]:
    """The table of offsets, and all pieces behind it."""
    table: list[int] | None = None
    fragments: list[Fragment] = []
    start = 0
    while len(head := file.read(ITEM_HEAD_BYTES)) == ITEM_HEAD_BYTES:
        group, element, length = struct.unpack("<HHL", head)
        if (tag := group << 16 | element) == END_OF_ITEMS:
            return table or [], fragments
        if tag != ITEM:
            raise ValueError(f"expected an item of compressed pixels, found element ({group:04X},{element:04X})")
        place = file.tell()
        if (left := size - place) < length:
            raise ValueError(f"truncated pixel data: expected {length} bytes of compressed pixels, found {left}")
        if table is None:
            table = list(struct.unpack(f"<{length // 4}L", file.read(length // 4 * 4)))
            start = place + length
        else:
            first = file.read(min(length, TAIL_BYTES))
            file.seek(place + max(length - TAIL_BYTES, 0))
            last = file.read(min(length, TAIL_BYTES))
            if len(last.rstrip(PADDING)) < len(END):  # padding only: the end lies further ahead
                file.seek(place)
                last = file.read(length)
            fragments.append(Fragment(place - ITEM_HEAD_BYTES - start, first, last))
        file.seek(place + length, os.SEEK_SET)
    raise ValueError(f"truncated pixel data: expected a mark that ends the compressed pixels, found {len(head)} bytes")

"""Checked reading and atomic writing of single-file NIfTI scans (.nii, .nii.gz; NIfTI-1 and NIfTI-2).

A gzip stream ends with the CRC-32 and length of its content, and a reader that stops at the last voxel never gets
there: wrong voxels then come back in silence. `read` decompresses to the end of the stream with isal, so the checksum
is verified, and takes no memory before the header's claim has been held against the file's size and `max_bytes`.
A plain .nii carries no checksum: only its length and header can be checked.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError

from common.files import atomic_path
from common.walk import irregular

DEFAULT_MAX_BYTES = 4 * 1024**3
READ_CHUNK = 256 * 1024  # stays in the processor's cache on the way from the decompressor to the array
WRITE_LEVEL = 1  # of isal's 0 to 3
WIDEST_COUNT = 2**16  # between 0 or the least and the greatest of integers that are counted without being sorted
DEFLATE_MAX_RATIO = 1032  # zlib's technical notes: one bit at best for 258 bytes, so no honest stream claims more
UNIT_MM = {1: 1e3, 2: 1.0, 3: 1e-3}  # metre, millimetre, micron: the lowest three bits of xyzt_units
# By sizeof_hdr, the first field of both standards.
HEADER_CLASSES: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


class ScanError(ValueError):
    """A scan that cannot be trusted; the message names the file, what was found and what was expected."""


@dataclass(frozen=True)
class Scan:
    """One scan as stored.

    data: (x, y, z) or (x, y, z, contrast), the file's type in native byte order, or float32 where the header scales it.
    affine: (4, 4) float64, voxel indices to mm, whatever unit the header measures in (none is taken for mm). header:
    nibabel's header as stored, without extensions.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along x, y, z in mm, from the affine (the header's zooms may contradict it)."""
        x, y, z = nib.affines.voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @cached_property
    def grey_values(self) -> tuple[np.ndarray, np.ndarray]:
        """The values other than 0, ascending, and how often each occurs."""
        flat = self.data.ravel(order="K")
        return _counted(flat[flat != 0])

    @property
    def unit_mm(self) -> float:
        """Length in mm of the unit that the header measures in."""
        return _unit_mm(self.header)


def read(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Scan:
    """Read a scan and verify it to the last byte.

    max_bytes bounds the decompressed file. NaN and infinities are returned as stored: the cohort audit names them.
    Raises ScanError when the file is truncated, damaged, larger than max_bytes, longer than its header says, or not
    a 3-D or 4-D NIfTI image of real numbers; OSError when it cannot be opened.
    """
    path = Path(path)
    with _open(path) as stream:
        header = _parse_header(stream, path, max_bytes)
        for start in range(header.sizeof_hdr, header.get_data_offset(), READ_CHUNK):
            stream.read(min(READ_CHUNK, header.get_data_offset() - start))
        dtype = header.get_data_dtype()
        data = np.empty(header.get_data_shape(), dtype, order="F")
        buffer = data.reshape(-1, order="F").view(np.uint8).data
        filled = 0
        while chunk := stream.read(min(READ_CHUNK, len(buffer) - filled) or 1):
            # One byte is asked for past the last voxel: only that makes the reader verify the checksum.
            if filled == len(buffer):
                raise ScanError(f"{path}: holds more than the {len(buffer)} bytes that its header's shape needs")
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    if filled < len(buffer):
        raise ScanError(f"{path}: holds {filled} bytes of voxels, expected {len(buffer)} from its header's shape")
    if not dtype.isnative:
        data = data.byteswap(inplace=True).view(dtype.newbyteorder("="))
    slope, inter = header.get_slope_inter()
    if slope is not None and (slope, inter) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # an infinity stays one and is named by the audit
            data = (data * np.float64(slope) + np.float64(inter)).astype(np.float32)
    return Scan(data, affine_mm(header), header)


def read_header(path: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> nib.Nifti1Header:
    """Read and check the header alone: a few kilobytes of the file, whatever its size. Raises as `read` does."""
    path = Path(path)
    with _open(path) as stream:
        return _parse_header(stream, path, max_bytes)


def affine_mm(header: nib.Nifti1Header) -> np.ndarray:
    """The header's affine (4, 4), float64, voxel indices to mm: its sform, else its qform, in its unit of length."""
    affine = header.get_best_affine().astype(np.float64)
    affine[:3] *= _unit_mm(header)
    return affine


def unit_is_said(header: nib.Nifti1Header) -> bool:
    """Whether the header names a unit of length that the standard knows."""
    return int(header["xyzt_units"]) & 7 in UNIT_MM


def _unit_mm(header: nib.Nifti1Header) -> float:
    return UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)


def write(path: str | Path, data: np.ndarray, *, like: Scan | nib.Nifti1Header) -> None:
    """Write data (x, y, z) or (x, y, z, contrast) with the geometry (qform, sform, units) of another scan.

    The file appears whole or not at all, and the same data gives the same bytes. Scaling, display range and header
    extensions of `like` are not carried over. Raises ScanError when the grids differ or NIfTI lacks the data's type.
    """
    path = Path(path)
    source = like.header if isinstance(like, Scan) else like
    if data.shape[:3] != source.get_data_shape()[:3]:
        raise ScanError(f"{path}: data of shape {data.shape} cannot lie on a grid of {source.get_data_shape()[:3]}")
    header = type(source)(source.as_byteswapped("<").binaryblock, endianness="<")
    header.set_data_shape(data.shape)
    try:
        header.set_data_dtype(data.dtype)
    except HeaderDataError as error:
        raise ScanError(f"{path}: data of type {data.dtype} cannot be stored, expected a NIfTI type") from error
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = 1, 0, 0, 0
    header["vox_offset"] = header.sizeof_hdr + 4  # four zero bytes say that no extension follows
    voxels = data.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    content = b"".join((header.binaryblock, bytes(4), voxels))
    if _is_gzip(path):
        content = igzip.compress(content, WRITE_LEVEL, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def to_axes(volume: np.ndarray, affine: np.ndarray, axes: str = "LPS") -> np.ndarray:
    """The same voxels (x, y, z) as a view whose axes point as ``axes`` says, e.g. left, posterior, superior."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    return nib.apply_orientation(volume, turn)


def content_fingerprint(path: str | Path) -> str:
    """Hexadecimal fingerprint of a file's content, for noticing that a source has changed (no defence against forgery).

    .nii.gz: size and the CRC-32 and length that end the stream, so one small read at either end. Where that length is
    not the header's (several gzip members, of which it describes only the last, or a damaged file) and for plain
    .nii: size and BLAKE2b digest of the whole file. Raises OSError when the file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if _is_gzip(path) and size >= 8:
        with path.open("rb") as stream:
            stream.seek(-8, os.SEEK_END)
            trailer = stream.read(8)
        if int.from_bytes(trailer[4:], "little") == _claimed_bytes(path):
            return f"{size:x}-{trailer.hex()}"
    with path.open("rb") as stream:  # a CRC-32 would not do: over a member stored uncompressed it is a constant
        return f"{size:x}-{hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()}"


def _claimed_bytes(path: Path) -> int | None:
    """Length of the decompressed file by its header, modulo 2**32 as gzip counts it; None without a usable header."""
    try:
        header = read_header(path)
    except ScanError:
        return None
    return (header.get_data_offset() + _data_bytes(header)) % 2**32


def _data_bytes(header: nib.Nifti1Header) -> int:
    return math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize


def _counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values (n), ascending, and how often each occurs. Sorting takes several times as long as counting."""
    if values.dtype.kind in "iu" and values.size and np.can_cast(values.dtype, np.intp):
        start = min(int(values.min()), 0)
        if int(values.max()) - start < WIDEST_COUNT:
            counts = np.bincount(values.astype(np.intp) - start if start else values)
            found = np.flatnonzero(counts)
            return (found + start).astype(values.dtype), counts[found]
    return np.unique(values, return_counts=True)


def check_name(path: Path) -> None:
    """Raises ScanError for a name that no scan has."""
    _is_gzip(path)


def _is_gzip(path: Path) -> bool:
    if path.name.lower().endswith(".nii.gz"):
        return True
    if path.name.lower().endswith(".nii"):
        return False
    raise ScanError(f"{path}: expected a name that ends in .nii or .nii.gz")


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The decompressed content as a stream, with every way in which a gzip stream fails turned into a ScanError."""
    if os.path.exists(path) and (what := irregular(path)) is not None:
        raise ScanError(f"{path}: expected a file, found {what}")  # opening a pipe would wait for ever
    try:
        with igzip.open(path) if _is_gzip(path) else path.open("rb") as stream:
            yield stream
    except EOFError as error:
        raise ScanError(f"{path}: truncated, the gzip stream ends before its checksum") from error
    except (gzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]  # its stub calls the class an instance
        found = _what_it_is(path) or f"damaged, expected an intact gzip stream but found: {error}"
        raise ScanError(f"{path}: {found}") from error


def _what_it_is(path: Path) -> str | None:
    """What often lies under a scan's name and is none; None for anything else."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the scan; fetch it with git lfs pull"
    if start.lstrip().startswith(b"<"):
        return "a web page in place of the scan; download it again"
    if start.startswith(b"\x1f\x8b") and not _is_gzip(path):
        return "a gzip file, expected a plain one by its name; it should end in .nii.gz"
    if _is_gzip(path) and any(int.from_bytes(start[:4], order) in HEADER_CLASSES for order in ("little", "big")):
        return "a plain NIfTI file, expected a gzip file by its name; it should end in .nii"
    return None


def _parse_header(stream: BinaryIO, path: Path, max_bytes: int) -> nib.Nifti1Header:
    """Header at the start of the stream, checked field by field for what reading relies on."""
    size_field = stream.read(4)
    sizes = {int.from_bytes(size_field, order): order for order in ("little", "big")}
    size = next((size for size in sizes if size in HEADER_CLASSES), None)
    if size is None:
        begins = f"expected a NIfTI header, which begins with 348 or 540, found {size_field.hex()!r}"
        raise ScanError(f"{path}: {_what_it_is(path) or begins}")
    block = size_field + stream.read(size - 4)
    if len(block) < size:
        raise ScanError(f"{path}: ends inside its header, {len(block)} of {size} bytes are there")
    try:
        endianness = "<" if sizes[size] == "little" else ">"
        header = HEADER_CLASSES[size](block, endianness=endianness)
        bits = int(HEADER_CLASSES[size](block, endianness=endianness, check=False)["bitpix"])  # a check repairs it
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
        header.get_slope_inter()
        if np.isinf(header["scl_slope"]):
            raise ValueError(f"expected a finite scl_slope, found {header['scl_slope']}")
        affine = affine_mm(header)
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise ScanError(f"{path}: its NIfTI header is not valid: {error}") from error
    if header["magic"].item() != header.single_magic:
        raise ScanError(f"{path}: expected a single-file NIfTI image, found the magic {header['magic'].item()!r}")
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ScanError(f"{path}: expected three or four axes of at least one voxel, found shape {shape}")
    if dtype.kind not in "iuf":
        raise ScanError(f"{path}: expected integers or real numbers, found voxels of type {dtype}")
    if bits not in (0, 8 * dtype.itemsize):
        raise ScanError(f"{path}: its header contradicts itself: voxels of type {dtype} and of {bits} bits")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ScanError(f"{path}: expected an invertible affine, found {affine[:3].tolist()}")
    if offset < size:
        raise ScanError(f"{path}: voxels are said to begin at byte {offset}, inside the header of {size} bytes")
    claimed = offset + _data_bytes(header)
    if claimed > max_bytes:
        raise ScanError(f"{path}: shape {shape} of {dtype} claims {claimed} bytes, more than the limit of {max_bytes}")
    available = path.stat().st_size * (DEFLATE_MAX_RATIO if _is_gzip(path) else 1)
    if claimed > available:
        raise ScanError(f"{path}: shape {shape} of {dtype} claims {claimed} bytes, the file holds {available} at most")
    return header

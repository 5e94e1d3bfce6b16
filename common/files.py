"""Writing files so that a reader, a kill or a full disk never leaves half of one."""

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

MOST_BYTES = 128
T = TypeVar("T")

_SEAL = b"\nsha256 of the bytes before: "


@contextlib.contextmanager
def atomic_path(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well, and vanishes when it fails.

    flush: wait until the disk has it, so that not even a power cut leaves half a file under the final name; what can
    be told from its checksum and made again need not wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        yield temporary
        if flush:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A full disk's error names no file.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
            del error.filename2  # not None, which would be shown
        raise
    finally:
        temporary.unlink(missing_ok=True)


def file_stem(name: str) -> str:
    """A name as the beginning of a file's or folder's: itself, or its beginning and a hash where it is a long one.

    File systems take 255 bytes, of which half is left for what is added.
    """
    if len(name.encode()) <= MOST_BYTES:
        return name
    return (
        f"{name.encode()[: MOST_BYTES - 17].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    )


def remove_leftovers(folder: Path, *, spared: Callable[[Path], bool] = lambda _: False) -> None:
    """Delete the temporary files that killed writers left below a folder.

    spared: says of a folder below it that somebody else writes there; nothing in it is touched.
    """
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink() and not spared(inner):
            remove_leftovers(inner, spared=spared)


def remove_old_leftovers(folder: Path, *, hours: float = 24.0) -> None:
    """The same for a shared folder: only those that no writer can still be at work on."""
    oldest = time.time() - 3600 * hours
    for path in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def write_text(path: Path, text: str, *, flush: bool = True) -> None:
    with atomic_path(path, flush=flush) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, flush: bool = True) -> None:
    """Strict JSON (NaN and infinities become null), so that any reader can parse it."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n", flush=flush)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_text(path, frame.to_csv(index=False))


def read_json(path: Path, expected: type[T]) -> T:
    """A JSON file's value. Raises ValueError when it is damaged or holds anything but an ``expected``.

    A byte order mark, with which editors on Windows save UTF-8, is passed over.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, expected):
        raise ValueError(f"{path}: expected a {expected.__name__} in JSON, found a {type(value).__name__}")
    return value


def typed(kind: type[T], values: Mapping[str, object]) -> T:
    """A dataclass from named values of a JSON file, checked as if they were typed on a command line.

    Lists become tuples, objects the dataclasses that they stand for.
    Raises ValueError when a name or a value's type is not the dataclass's own, and what it raises.
    """
    wanted = get_type_hints(kind)
    if unknown := sorted(values.keys() - wanted.keys()):
        raise ValueError(f"expected fields of {kind.__name__}, found {', '.join(unknown)}")
    values = {
        name: typed(wanted[name], value)
        if is_dataclass(wanted[name]) and isinstance(value, Mapping)
        else _tuples(value)
        for name, value in values.items()
    }
    for name, value in values.items():
        if not _is_a(value, wanted[name]):
            annotation = getattr(wanted[name], "__name__", None) if not get_args(wanted[name]) else None
            raise ValueError(f"expected {name} to be {annotation or wanted[name]}, found {value!r:.100}")
    return kind(**values)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_a(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        parts = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(parts) and all(map(_is_a, value, parts))
    if wanted is float:
        return type(value) in (int, float) and math.isfinite(value)
    if wanted is Path:
        return isinstance(value, Path)
    return type(value) is wanted


def check_archive(path: Path) -> None:
    """Raises ValueError unless every member of a zip archive (torch's and numpy's files are) has its CRC-32.

    torch reads an archive without looking at them: a flipped bit would come back as another weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # zipfile and zlib have a dozen ways to say that bytes are wrong
        raise ValueError(str(error) or repr(error)) from error
    if damaged is not None:
        raise ValueError(f"other bytes than were written, in {damaged}")


def seal(path: Path) -> None:
    """Append to a file, of a format that has no checksum and minds no further bytes (HDF5), a digest of its content."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:
        file.write(_SEAL + digest)


def check_seal(path: Path) -> None:
    """Raises ValueError when a file's content is not what was sealed; one without a seal is taken as it is."""
    content, sealed, digest = path.read_bytes().rpartition(_SEAL)
    if sealed and hashlib.sha256(content).digest() != digest:
        raise ValueError("other bytes than were written")


def plain(value: object) -> object:
    """Dataclasses, paths, tuples, numpy scalars and arrays as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

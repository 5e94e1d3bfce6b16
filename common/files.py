"""Writing files so that a reader, a kill or a full disk never leaves half of one."""

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path

import pandas as pd

MOST_BYTES = 128


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


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left below a folder that nobody else writes to."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


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

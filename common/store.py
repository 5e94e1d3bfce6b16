"""What every prepared store shares: arrays made once from slow sources, one memory-mapped file per subject.

``<subject>-<key>.npy`` holds the array, ``<subject>-<key>.json``, written last, what is to be known of it and a
checksum of both. The key is made from the recipe and a fingerprint of the sources: a changed scan has another name. An
entry is used only if its checksum holds; what a kill, a full disk or a fading disk left behind is made again. Two
processes that prepare the same subject write the same bytes, each under a temporary name, so they need no lock.

A machine may keep copies of a shared store on a disk of its own (``local_copy``): whole entries, checked like the
store's. There one process copies at a time, under a lock, so that what several need crosses the network once.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import joblib
import numpy as np
from isal import isal_zlib
from threadpoolctl import threadpool_limits

from common.files import atomic_path, file_stem, remove_leftovers, remove_old_leftovers, write_json
from common.progress import counted
from common.signals import end_with_parent
from common.subject import Problem


class StoreError(OSError):
    """The store cannot be written; the message names the folder and the reason."""


class UnusableError(Exception):
    """A subject of which nothing can be prepared, with all that is wrong with it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.args


@dataclass(frozen=True)
class StoredArray:
    """A subject's array in the store. Small and picklable: nothing is read before ``array`` is called."""

    id: str
    path: Path
    geometry: dict[str, Any]
    """What was noted of the array when it was made."""

    def array(self) -> np.ndarray:
        """The array, memory-mapped and read-only."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


class HasId(Protocol):
    """Anything that is prepared as one entry."""

    @property
    def id(self) -> str: ...


S = TypeVar("S", bound=HasId)
E = TypeVar("E", bound=StoredArray)


@dataclass(frozen=True)
class Store(Generic[E]):
    """The entries of a cohort's good subjects, by id, and what is wrong with the others."""

    entries: dict[str, E]
    problems: tuple[Problem, ...]
    prepared: int
    """Entries made by this call; the others were found intact."""
    remade: tuple[str, ...]
    """Subjects whose stored entry was damaged and has been made again."""


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[S, E]):
    """What differs from one kind of store to the next. fingerprint and make raise UnusableError for a bad subject."""

    number: int
    """Part of every entry's key: raised when the meaning of the stored numbers changes."""
    recipe: Any
    """A frozen dataclass; every field is part of the key."""
    entry: type[E]
    fingerprint: Callable[[S], str]
    """Changes with the sources that the recipe needs."""
    make: Callable[[S], tuple[np.ndarray, dict[str, Any]]]
    """The array and what is to be known of it, which JSON can hold."""

    def key(self, *source: str, digits: int) -> str:
        content = json.dumps([self.number, asdict(self.recipe), *source])
        return hashlib.sha256(content.encode()).hexdigest()[:digits]


def fill(
    kind: Kind[S, E],
    subjects: Iterable[S],
    folder: str | Path,
    *,
    n_jobs: int,
    prefer: Literal["threads", "processes"],
    local_copy: Path | None = None,
) -> Store[E]:
    """Bring every subject into the store at ``folder``, in parallel, with a progress bar.

    All subjects are read to the end, and the problems of all bad ones are returned; nothing of a bad subject is stored.
    local_copy: folder of this machine in which the entries are then found; what is not there yet is copied.
    Raises StoreError when a disk is full or a folder cannot be written.
    """
    subjects = tuple(subjects)
    key = kind.key(digits=8)
    folder, near = Path(folder) / key, None if local_copy is None else local_copy / key
    if near is not None and near.resolve() == folder.resolve():
        raise StoreError(f"{local_copy}: expected --local-copy in another place than the store, found the store itself")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "recipe.json").exists():
            write_json(folder / "recipe.json", kind.recipe)
        remove_old_leftovers(folder)
    except OSError as error:
        raise StoreError(f"{folder}: the prepared store cannot be written ({error.strerror or error})") from error
    with _alone_in(near):
        jobs = joblib.Parallel(n_jobs=n_jobs, prefer=prefer, return_as="generator", initializer=end_with_parent)(
            joblib.delayed(_bring)(kind, subject, folder, near) for subject in subjects
        )
        # Subjects are prepared in parallel already; more threads in each matrix product would only wait for each other.
        with threadpool_limits(1, user_api="blas"):
            outcomes = list(counted(jobs, "preparing", total=len(subjects), unit="subject"))
        if near is not None:
            outcomes = _copied(kind.entry, outcomes, near, n_jobs)
    return Store(
        entries={outcome.entry.id: outcome.entry for outcome in outcomes if outcome.entry},
        problems=tuple(problem for outcome in outcomes for problem in outcome.problems),
        prepared=sum(outcome.made for outcome in outcomes if outcome.entry),
        remade=tuple(outcome.entry.id for outcome in outcomes if outcome.entry and outcome.damaged),
    )


@dataclass(frozen=True)
class _Outcome:
    entry: StoredArray | None
    problems: tuple[Problem, ...] = ()
    made: bool = False
    damaged: bool = False


def _bring(kind: Kind[S, E], subject: S, folder: Path, near: Path | None) -> _Outcome:
    damaged = False
    try:
        key = kind.key(kind.fingerprint(subject), digits=16)
        array_path = folder / f"{file_stem(subject.id)}-{key}.npy"
        record_path = array_path.with_suffix(".json")
        for path in (array_path,) if near is None else (near / array_path.name, array_path):
            if path.with_suffix(".json").exists():
                if entry := _intact(kind.entry, subject.id, path, path.with_suffix(".json")):
                    return _Outcome(entry)
                damaged = path == array_path
        array, geometry = kind.make(subject)
    except UnusableError as error:
        return _Outcome(None, error.problems)
    content = (_npy_header(array), array.data)
    try:
        record_path.unlink(missing_ok=True)
        with atomic_path(array_path, flush=False) as temporary, temporary.open("wb") as file:
            # Not numpy's own writer: it takes a disk that fills halfway for an error without a number.
            file.writelines(content)
        write_json(record_path, {"geometry": geometry, "checksum": _checksum(geometry, content)}, flush=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{folder}: the prepared store cannot be written ({error.strerror or error})") from error
        free, needed = shutil.disk_usage(folder).free / 2**20, array.nbytes / 2**20
        raise StoreError(
            f"{folder}: the disk is full: subject {subject.id} needs {needed:.0f} MiB and {free:.0f} MiB are free; "
            "what is already prepared is kept, and the same command goes on from there"
        ) from error
    return _Outcome(kind.entry(subject.id, array_path, geometry), made=True, damaged=damaged)


def _intact(entry: type[E], subject: str, array_path: Path, record_path: Path) -> E | None:
    """The stored entry if its record can be read and geometry and file have the recorded checksum."""
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        geometry = {k: tuple(v) if isinstance(v, list) else v for k, v in record["geometry"].items()}
        # Read, not mapped: a disk that fails in a mapped page ends the process. The array's header is parsed only once
        # its bytes are known to be good.
        with array_path.open("rb") as file:
            checksum = _checksum(geometry, iter(lambda: file.read(2**20), b""))
        return entry(subject, array_path, geometry) if checksum == record["checksum"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Whatever a fading disk made of the two files, the sources are still there to make them again.
        return None


@contextlib.contextmanager
def _alone_in(near: Path | None) -> Iterator[None]:
    """The only process that writes into a machine's own folder, which is made; another is waited for."""
    if near is None:
        yield
        return
    try:
        near.mkdir(parents=True, exist_ok=True)
        lock = (near / "copy.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            print(f"waiting for another process that copies to {near}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(near)
    except OSError as error:
        raise _no_copies(near, error) from error
    with lock:
        yield


def _copied(entry: type[E], outcomes: list[_Outcome], near: Path, n_jobs: int) -> list[_Outcome]:
    """The outcomes with every entry in the machine's own folder. Raises StoreError, before it copies if there is no
    room for all."""
    far = [each.entry for each in outcomes if each.entry and each.entry.path.parent != near]
    try:
        needed = sum(each.path.stat().st_size + each.path.with_suffix(".json").stat().st_size for each in far)
        if needed > (free := shutil.disk_usage(near).free):
            why = f"{len(far)} entries need {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free"
            raise StoreError(f"{near}: the disk is full: {why}; nothing was copied")
        copies = joblib.Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
            joblib.delayed(_copy)(entry, each, near) for each in far
        )
        copied = {each.id: each for each in counted(copies, "copying", total=len(far), unit="subject")}
    except StoreError:
        raise
    except OSError as error:
        raise _no_copies(near, error) from error
    return [replace(each, entry=copied.get(each.entry.id, each.entry)) if each.entry else each for each in outcomes]


def _copy(entry: type[E], of: E, near: Path) -> E:
    path, record = near / of.path.name, of.path.with_suffix(".json")
    path.with_suffix(".json").unlink(missing_ok=True)
    with atomic_path(path, flush=False) as temporary:
        shutil.copyfile(of.path, temporary)
        if _intact(entry, of.id, temporary, record) is None:
            raise StoreError(f"{of.path}: expected the bytes that its record names, found others as it was copied")
    with atomic_path(path.with_suffix(".json"), flush=False) as temporary:
        shutil.copyfile(record, temporary)
    return entry(of.id, path, of.geometry)


def _no_copies(near: Path, error: OSError) -> StoreError:
    return StoreError(f"{near}: entries cannot be copied there (--local-copy): {error.strerror or error}")


def _npy_header(array: np.ndarray) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue()


def _checksum(geometry: Mapping[str, object], content: Iterable[bytes | memoryview]) -> str:
    """CRC-32 of the geometry and of the array's file, which is given in pieces."""
    crc = isal_zlib.crc32(json.dumps(geometry).encode())
    for piece in content:
        crc = isal_zlib.crc32(piece, crc)
    return f"{crc:08x}"

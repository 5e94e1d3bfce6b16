"""The prepared store: what a recipe makes of a scan, made once, one memory-mapped file per subject.

``<subject>-<key>.npy`` holds the voxels, ``<subject>-<key>.json``, written last, the geometry and a checksum of both.
The key is made from the recipe and the content of the sources: a changed scan has another name. An entry is used only
if its checksum holds; what a kill, a full disk or a fading disk left behind is made again. Two processes that prepare
the same subject write the same bytes, each under a temporary name, so they need no lock.
"""

import errno
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
from isal import isal_zlib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.files import atomic_path, remove_old_leftovers, write_json
from common.nifti import ScanError
from common.recipe import Recipe, Volume, misfit, transform
from common.subject import Problem, Subject, examine, examine_arrays

FORMAT = 3  # part of every entry's key: raise it when the meaning of the stored numbers changes


class StoreError(OSError):
    """The store cannot be written; the message names the folder and the reason."""


@dataclass(frozen=True)
class Entry:
    """A subject in the store. Small and picklable: the voxels are mapped when ``open`` is called."""

    id: str
    path: Path
    geometry: dict

    def open(self) -> Volume:
        """The subject with its voxels memory-mapped, read-only."""
        return Volume(id=self.id, voxels=np.load(self.path, mmap_mode="r", allow_pickle=False), **self.geometry)


@dataclass(frozen=True)
class Store:
    """The entries of a cohort's good subjects, by id, and what is wrong with the others."""

    entries: dict[str, Entry]
    problems: tuple[Problem, ...]
    prepared: int
    """Entries made by this call; the others were found intact."""
    remade: tuple[str, ...]
    """Subjects whose stored entry was damaged and has been made again."""


def prepare(subjects: Iterable[Subject], recipe: Recipe, folder: str | Path, *, n_jobs: int = -1) -> Store:
    """Bring every subject into the store at ``folder``, in parallel threads, with a progress bar.

    All subjects are read to the end, and the problems of all bad ones are returned; nothing of a bad subject is stored.
    Raises StoreError when the disk is full or the folder cannot be written.
    """
    subjects = tuple(subjects)
    folder = Path(folder) / hashlib.sha256(json.dumps([FORMAT, asdict(recipe)]).encode()).hexdigest()[:8]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "recipe.json").exists():
            write_json(folder / "recipe.json", recipe)
        remove_old_leftovers(folder)
    except OSError as error:
        raise StoreError(f"{folder}: the prepared store cannot be written ({error.strerror or error})") from error
    jobs = joblib.Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        joblib.delayed(_bring)(subject, recipe, folder) for subject in subjects
    )
    # Subjects are prepared in parallel already; more threads inside each matrix product would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        outcomes = list(tqdm(jobs, total=len(subjects), desc="preparing", unit="subject", leave=False))
    return Store(
        entries={outcome.entry.id: outcome.entry for outcome in outcomes if outcome.entry},
        problems=tuple(problem for outcome in outcomes for problem in outcome.problems),
        prepared=sum(outcome.made for outcome in outcomes if outcome.entry),
        remade=tuple(outcome.entry.id for outcome in outcomes if outcome.entry and outcome.damaged),
    )


@dataclass(frozen=True)
class _Outcome:
    entry: Entry | None
    problems: tuple[Problem, ...] = ()
    made: bool = False
    damaged: bool = False


def _bring(subject: Subject, recipe: Recipe, folder: Path) -> _Outcome:
    try:
        source = json.dumps([FORMAT, asdict(recipe), subject.fingerprint()])
    except (ScanError, OSError) as error:
        return _unreadable(subject, error)
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    voxels_path, record_path = folder / f"{subject.id}-{key}.npy", folder / f"{subject.id}-{key}.json"
    damaged = False
    if record_path.exists():
        if entry := _intact(subject.id, voxels_path, record_path):
            return _Outcome(entry)
        damaged = True
    try:
        scans, mask = subject.read(recipe.contrasts)
    except (ScanError, OSError) as error:
        return _unreadable(subject, error)
    found = examine_arrays(subject, scans, mask)
    if found.problems:
        return _Outcome(None, found.problems)
    if reason := misfit(scans, recipe):
        return _Outcome(None, (Problem(subject.id, None, reason),))
    volume = transform(subject.id, scans, found.labels, recipe)
    geometry = {field: value for field, value in vars(volume).items() if field not in ("id", "voxels")}
    content = (_npy_header(volume.voxels), volume.voxels)
    try:
        record_path.unlink(missing_ok=True)
        with atomic_path(voxels_path, flush=False) as temporary, temporary.open("wb") as file:
            # Not numpy's own writer: it takes a disk that fills halfway for an error without a number.
            file.writelines(content)
        write_json(record_path, {"geometry": geometry, "checksum": _checksum(geometry, content)}, flush=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{folder}: the prepared store cannot be written ({error.strerror or error})") from error
        free, needed = shutil.disk_usage(folder).free / 2**20, volume.voxels.nbytes / 2**20
        raise StoreError(
            f"{folder}: the disk is full: subject {subject.id} needs {needed:.0f} MiB and {free:.0f} MiB are free; "
            "what is already prepared is kept, and the same command goes on from there"
        ) from error
    return _Outcome(Entry(subject.id, voxels_path, geometry), made=True, damaged=damaged)


def _unreadable(subject: Subject, error: ScanError | OSError) -> _Outcome:
    """Every file's problem; the error itself where a second look finds none, so that no subject drops out unnamed."""
    return _Outcome(None, examine(subject).problems or (Problem(subject.id, None, str(error)),))


def _intact(subject: str, voxels_path: Path, record_path: Path) -> Entry | None:
    """The stored entry if its record can be read and geometry and file have the recorded checksum."""
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        geometry = {k: tuple(v) if isinstance(v, list) else v for k, v in record["geometry"].items()}
        # Read, not mapped: a disk that fails in a mapped page ends the process. The array's header is parsed only once
        # its bytes are known to be good.
        with voxels_path.open("rb") as file:
            checksum = _checksum(geometry, iter(lambda: file.read(2**20), b""))
        return Entry(subject, voxels_path, geometry) if checksum == record["checksum"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Whatever a fading disk made of the two files, the sources are still there to make them again.
        return None


def _npy_header(voxels: np.ndarray) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(voxels))
    return header.getvalue()


def _checksum(geometry: Mapping[str, object], content: Iterable[bytes | np.ndarray]) -> str:
    """CRC-32 of the geometry and of the voxels' file, which is given in pieces."""
    crc = isal_zlib.crc32(json.dumps(geometry).encode())
    for piece in content:
        crc = isal_zlib.crc32(piece, crc)
    return f"{crc:08x}"

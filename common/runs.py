"""A run's folder: configuration, environment, data, split, history, scores, checkpoints and figures.

Every file is written under a temporary name and renamed, so a reader (or a kill) never meets half a file. A lock that
the operating system drops with the process keeps a second process out.

``config.json``       the experiment's settings and every field of the model's configuration
``environment.json``  command, git commit, versions, hardware, start time
``data.json``         folder, layout, fingerprint and ids of the subjects; who was left out and why
``split.json``        the three parts and their hash
``history.csv``       one row per epoch, readable while training goes on
``cases.csv``         one row per scored case
``scores.csv``        the summary over cases: mean, interval, counts
``summary.json``      [{key, reported, value, low, high, n, synthetic}], what tables and figures read
``failure.txt``       why it failed last, in one line; gone as soon as it is gone on with
``checkpoints/``, ``figures/``, ``tensorboard/``, ``predictions/``
"""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd
import psutil

from common.files import plain, read_json, remove_leftovers, write_json, write_text
from common.settings import APART, LATER

PACKAGES = (
    "glioma-suite",
    "numpy",
    "scipy",
    "pandas",
    "nibabel",
    "isal",
    "torch",
    "monai",
    "lightning",
    "tensorflow",
    "keras",
    "jax",
)
FAILURE = "failure.txt"
_PATIENCE_S = 0.5
"""For how long a run's lock is asked for: whoever looks whether a run is in use (``status``, a list of trainings) holds
it for a moment."""


class RunError(ValueError):
    """A run cannot be made, gone on with or read as asked; the message says why and what to do."""


class RunInUseError(RunError):
    """Another process is working on the run."""


def configuration_hash(*parts: object) -> str:
    """Eight hexadecimal digits that change with any setting; part of a run folder's name.

    A setting of :func:`common.settings.later` counts only where it has another value than its default, one of
    :func:`common.settings.apart` never.
    """
    return hashlib.sha256(json.dumps(plain(_counted(parts)), sort_keys=True).encode()).hexdigest()[:8]


def _counted(value: object) -> object:
    """A configuration as what its name is made of."""
    if isinstance(value, (list, tuple)):
        return [_counted(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = [(field, getattr(value, field.name)) for field in fields(value) if not field.metadata.get(APART)]
    return {
        field.name: _counted(item) for field, item in held if not (field.metadata.get(LATER) and item == field.default)
    }


def folder_of_run(parent: Path, prefix: str, digest: str, is_same: Callable[[dict[str, Any]], bool]) -> Path:
    """The folder ``<prefix>-<digest>`` of a run below ``parent``, or the one that an older version has named otherwise.

    A version that adds a setting gives the same run another digest. So a folder of the same prefix counts as the run
    too, where ``is_same`` says so of what it was given: ``config``, ``data`` and ``split``, as :func:`describe` wrote
    them. Folders that cannot be read are no such run.
    """
    folder = parent / f"{prefix}-{digest}"
    if folder.exists():
        return folder
    for other in sorted(parent.glob(f"{glob.escape(prefix)}-{'[0-9a-f]' * 8}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            parts = ("config", "data", "split")
            if is_same({part: read_json(other / f"{part}.json", dict) for part in parts}):
                return other
    return folder


def same_settings(written: object, wanted: object) -> bool:
    """Whether a configuration as config.json holds it is the wanted one, with the default for every field it lacks.

    wanted: a dataclass, or any value within one. A field that is written but unknown makes another configuration; one
    of :func:`common.settings.apart` may differ.
    """
    if not is_dataclass(wanted):
        return written == plain(wanted)
    if not isinstance(written, Mapping) or not set(written) <= {field.name for field in fields(wanted)}:
        return False
    for field in fields(wanted):
        value = getattr(wanted, field.name)
        if field.metadata.get(APART):
            continue
        if field.name in written:
            if not same_settings(written[field.name], value):
                return False
        else:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if value != default:
                return False
    return True


def describe(
    folder: Path, *, config: Mapping[str, object], data: Mapping[str, object], split: Mapping[str, object]
) -> None:
    """Write into a run's folder what the run is given."""
    for name, value in (("config", config), ("data", data), ("split", split)):
        write_json(folder / f"{name}.json", value)


def is_in_use(folder: Path) -> bool:
    """Whether a process is working on the run, on this machine or, where the file system keeps locks, on another."""
    # Shared and only read: those who look do not see each other, and may look at runs that are not theirs.
    try:
        with (folder / "run.lock").open() as lock:
            return not _take(lock, fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _take(lock: IO[str], kind: int) -> bool:
    """Lock an open file for this process; False where another holds it.

    kind: exclusive of what works on a run, shared of what looks whether one does.

    Raises RunError where the file system keeps no locks (Lustre mounted without flock, some FUSE mounts): two processes
    would train the same there, and neither would know.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunError(
            f"{lock.name}: expected a file system that keeps locks, found: {error.strerror} "
            f"({errno.errorcode.get(error.errno or 0, error.errno)}); mount it with them (Lustre: -o flock), or choose "
            "another --runs folder"
        ) from error
    return True


class Run:
    """An opened run folder, locked for this process until ``close`` or the end of the ``with`` block."""

    def __init__(self, folder: str | Path, *, fresh: bool = False, writes: bool = True) -> None:
        """Open or make ``folder``; ``fresh`` empties it first.

        writes: False in a process that trains along with the one that holds the run: it takes no lock and leaves the
        folder as it is.
        Raises RunInUseError when another process holds the run, or, with ``fresh``, one below its folder.
        """
        self.folder, self.writes = Path(folder), writes
        if not writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "run.lock", "a+")  # noqa: SIM115 (held for the life of the run)
        until = time.monotonic() + _PATIENCE_S
        try:
            while not (taken := _take(self._lock, fcntl.LOCK_EX)) and time.monotonic() < until:
                time.sleep(0.01)
        except RunError:
            self._lock.close()
            raise
        if not taken:
            self._lock.close()
            raise RunInUseError(f"{self.folder}: another process is working on this run; wait for it")
        # Loader processes outlive a killed run by seconds: they must not hold its lock as long.
        this = weakref.ref(self)

        def let_go() -> None:
            if (run := this()) is not None:
                run.close()

        os.register_at_fork(after_in_child=let_go)
        if fresh:
            self._empty()
        (self.folder / FAILURE).unlink(missing_ok=True)
        remove_leftovers(self.folder, spared=is_in_use)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # What a user or the system ends has stopped, and what another process holds goes on there.
        failed = isinstance(error, Exception) and not isinstance(error, (RunInUseError, BrokenPipeError))
        if self.writes and failed and self.folder.is_dir():
            said = str(error).strip().partition("\n")[0]
            with contextlib.suppress(OSError):  # a disk that is full has been said already
                write_text(self.folder / FAILURE, f"{type(error).__name__}: {said}\n")
        self.close()

    def close(self) -> None:
        if self.writes:
            self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    @property
    def history(self) -> "History":
        return History(self.folder / "history.csv")

    @property
    def is_finished(self) -> bool:
        """summary.json is the last file that a run writes."""
        return (self.folder / "summary.json").exists()

    def describe(
        self, *, config: Mapping[str, object], data: Mapping[str, object], split: Mapping[str, object]
    ) -> None:
        """Write what the run was given, and note this start."""
        describe(self.folder, config=config, data=data, split=split)
        self.note_start()

    def note_start(self) -> None:
        """environment.json gains one entry each time the run is started or resumed."""
        path = self.folder / "environment.json"
        try:
            starts = read_json(path, list) if path.exists() else []
        except ValueError as error:
            raise RunError(f"{error}; --fresh starts over") from error
        now = environment()
        if starts and (before := str(starts[-1].get("git_commit"))) != str(now["git_commit"]):
            code = f"{_short(before)}, now {_short(now['git_commit'])}"
            print(f"note: goes on with other code than it was begun with: {code}; --fresh starts over", file=sys.stderr)
        write_json(path, [*starts, now])

    def _empty(self) -> None:
        for lock in self.folder.glob("*/**/run.lock"):
            if is_in_use(lock.parent):
                self.close()
                raise RunInUseError(f"{lock.parent}: another process is working on this part of the run; wait for it")
        for path in self.folder.iterdir():
            if path.name == "run.lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


class History:
    """history.csv: one row per epoch, rewritten whole and renamed, so that it can be read while the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of ``row["epoch"]``; rows of that epoch or later, left by a killed run, are replaced."""
        kept = [old for old in self.rows() if int(old["epoch"]) < int(row["epoch"])]
        columns = list(dict.fromkeys(key for each in (*kept, row) for key in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, row])
        write_text(self.path, text.getvalue())

    def rows(self) -> list[dict[str, str]]:
        """Raises RunError when the file is damaged."""
        if not self.path.exists():
            return []
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, strict=True))
            for row in rows:
                int(row["epoch"])
                if None in row or None in row.values():
                    raise ValueError(f"a row of another length, {list(row.values())}")
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise RunError(f"{self.path}: expected a row per epoch, found: {error!r}; --fresh starts over") from error
        return rows

    def frame(self) -> pd.DataFrame:
        """Raises RunError when the file is damaged."""
        self.rows()
        return pd.read_csv(self.path)


def environment() -> dict[str, object]:
    """Command, time, git commit, versions of the packages that matter, and the hardware."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus(),
    }


def shown_again(folder: Path) -> str:
    """Of a run that this process has not made: when it was begun, and by what code if not by this; empty of others."""
    path = folder / "environment.json"
    try:
        starts = read_json(path, list) if path.exists() else []
        began = str(starts[-1].get("started", "")) if starts else ""
        if not began or datetime.fromisoformat(began).timestamp() >= psutil.Process().create_time():
            return ""
    except (ValueError, AttributeError) as error:
        return f"{path}: expected when the run was begun, found: {error}"
    code, here = starts[-1].get("git_commit"), _git_commit()
    other = "" if code == here else f", by other code ({_short(code)}, here {_short(here)})"
    return f"shown again, from a run begun on {began[:16].replace('T', ' ')} UTC{other}; --fresh makes it anew"


def _short(commit: object) -> str:
    """A commit as one reads it, with what is not committed; of None so."""
    text = str(commit)
    return text[:8] + text[40:]


def version() -> str:
    """Of the suite, as it is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("glioma-suite")
    return "not installed"


def _git_commit() -> str | None:
    """Commit of the checkout this file lies in, when tracked files differ with ``+changes-`` and a digest of what does;
    None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, errors="replace", check=True
        ).stdout.strip()

    try:
        # A package installed below an unrelated repository is not that repository's code.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changes = git("diff", "HEAD", "--binary", "--no-ext-diff")
        digest = f"+changes-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
        return git("rev-parse", "HEAD") + digest
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU of this machine."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []

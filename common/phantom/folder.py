"""The folder of an embedded cohort: claimed by one generator, filled case by case, whole at every moment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

from common.progress import Progress
from common.signals import end_with_parent

_PARTIAL = ".partial"
_IDENTITY = "cohort.json"


def fill(
    folder: Path,
    cases: Sequence[str],
    write: Callable[[int, Path], None],
    *,
    identity: Mapping[str, object],
    n_jobs: int,
    what: str,
) -> Path:
    """Make the missing ones of the folders <folder>/<case> and return the folder.

    write(i, path) puts the files of cases[i] into the empty folder `path`, which then appears as <folder>/<case> by one
    rename: a kill leaves no half of one, and several processes may fill the same folder, if write is a pure function
    of i. identity: what the cohort is a function of; it is kept in cohort.json. n_jobs: processes, -1 for one per core.
    what: the plural that the progress names.
    Raises ValueError when the folder holds a cohort of another identity, or files but no cohort.
    """
    _claim(folder, dict(identity))
    _clear_leftovers(folder / _PARTIAL)
    missing = [number for number, case in enumerate(cases) if not (folder / case).exists()]
    processes = min(os.cpu_count() or 1 if n_jobs < 0 else n_jobs, len(missing))
    with Progress(f"making {what}", len(missing), unit="case") as progress:
        if processes <= 1:
            for number in missing:
                _make(folder, cases[number], number, write)
                progress.update()
            return folder
        # Not joblib's processes: these replace a worker that grows, as one does here, and may wait for it for ever.
        context = get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
            try:
                for made in as_completed(
                    [pool.submit(_make, folder, cases[number], number, write) for number in missing]
                ):
                    made.result()
                    progress.update()
            except BaseException:  # a signal too; the cases at work are not waited for, they are made again
                for worker in active_children():
                    worker.kill()
                raise
    return folder


def embedded_cohort(path: Path) -> Path | None:
    """The embedded cohort that a file or folder of a patient lies in, whatever links lead to it; None outside one."""
    for place in path.resolve().parents[:4]:
        identity = place / _IDENTITY
        if identity.is_file() and '"generator": "phantom' in identity.read_text(encoding="utf-8"):
            return place
    return None


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """Write cohort.json if there is none; otherwise check that it says the same."""
    partial, target = folder / _PARTIAL, folder / _IDENTITY
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if present and not target.exists():  # in this order: what another process makes appears after its cohort.json
        raise ValueError(f"{folder} holds other files: wanted an empty folder or {_IDENTITY} in it, found {present}.")
    partial.mkdir(exist_ok=True)
    temporary = partial / f"{uuid.uuid4().hex}.json"
    temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    try:
        os.link(temporary, target)  # unlike a rename, fails when another process was first
    except FileExistsError:
        found = json.loads(target.read_text(encoding="utf-8"))
        if found != identity:
            raise ValueError(f"{folder} holds another cohort: wanted {identity}, found {found}.") from None
    finally:
        temporary.unlink()


def _clear_leftovers(partial: Path) -> None:
    """Remove what a killed run left; the age spares what another process is writing now."""
    for leftover in partial.iterdir():
        with contextlib.suppress(FileNotFoundError):  # renamed by its writer in this moment
            if time.time() - leftover.stat().st_mtime > 3600:
                shutil.rmtree(leftover)


def _make(folder: Path, case: str, number: int, write: Callable[[int, Path], None]) -> None:
    target = folder / case
    partial = folder / _PARTIAL / f"{target.name}-{uuid.uuid4().hex}"
    partial.mkdir()
    write(number, partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.rename(target)
    except OSError:  # another process was first with the same files
        if not target.exists():
            raise
        shutil.rmtree(partial)

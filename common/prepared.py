"""The prepared store: what a network sees of a scan, made once, one memory-mapped file per subject.

A recipe turns a subject's scans into z-scored contrasts and class labels inside the brain's bounding box. They are kept
as 16-bit integers with one step per contrast (largest absolute z-score / 32767, finer than the scans' own integers),
the labels as the last channel. Outside the box every contrast is 0 and the label is background, so a crop taken
anywhere in the volume is exact, at a third of the volume's bytes.

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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
from isal import isal_zlib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import volumes
from common.files import atomic_path, remove_old_leftovers, write_json
from common.labels import CLASSES
from common.nifti import Scan, ScanError
from common.subject import CONTRASTS, Problem, Subject, examine, examine_arrays

FORMAT = 2  # part of every entry's key: raise it when the meaning of the stored numbers changes
STEPS = np.iinfo(np.int16).max


class StoreError(OSError):
    """The store cannot be written; the message names the folder and the reason."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is made of a scan. Every field is part of the entries' names."""

    contrasts: tuple[str, ...] = CONTRASTS
    """Contrasts, in the order of the channels."""
    spacing_mm: float | None = None
    """Isotropic voxel size after resampling; None keeps the scan's grid."""


@dataclass(frozen=True)
class Volume:
    """A prepared subject in memory or in the store: the brain's box of a larger grid.

    voxels: int16 (contrast..., label; x, y, z), the label missing when the subject has none.
    steps: one float per contrast; voxels * step = z-score. grid_shape: the volume at the recipe's spacing.
    box_start: the box's first voxel in that grid. source_shape, source_spacing_mm: the scan's own grid.
    """

    id: str
    voxels: np.ndarray
    steps: tuple[float, ...]
    grid_shape: tuple[int, int, int]
    box_start: tuple[int, int, int]
    source_shape: tuple[int, int, int]
    source_spacing_mm: tuple[float, float, float]

    @property
    def has_label(self) -> bool:
        return len(self.voxels) > len(self.steps)

    @property
    def box_shape(self) -> tuple[int, int, int]:
        return self.voxels.shape[1:]

    def overlap(self, start: Sequence[int], size: Sequence[int]) -> tuple[volumes.Box, volumes.Box]:
        """Where a window at ``start`` of the grid meets the box: in the box's voxels and in the window's."""
        first = [s - b for s, b in zip(start, self.box_start, strict=True)]
        return volumes.overlap_of(self.box_shape, first, size)

    def window(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """int16 (contrast..., label; x, y, z) at ``start`` of the grid: a view where the window lies in the box."""
        return volumes.window(self.voxels, [s - b for s, b in zip(start, self.box_start, strict=True)], size)

    def image(self) -> np.ndarray:
        """z-scores of the box, float32 (contrast, x, y, z)."""
        return decode(self.voxels[: len(self.steps)], self.steps)

    def labels(self) -> np.ndarray:
        """Classes 0 to 3 of the box, uint8 (x, y, z). Raises ValueError for a subject without labels."""
        if not self.has_label:
            raise ValueError(f"{self.id}: expected a subject with labels, this one has none")
        return self.voxels[-1].astype(np.uint8)


def decode(
    voxels: np.ndarray, steps: Sequence[float], *, shift: float = 0.0, out: np.ndarray | None = None
) -> np.ndarray:
    """Stored integers (contrast, x, y, z), in any memory order, as float32 z-scores plus ``shift``.

    out: where to write them; by default a new C-ordered array.
    """
    image = np.empty(voxels.shape, dtype=np.float32) if out is None else out
    for stored, step, decoded in zip(voxels, steps, image, strict=True):
        # A few planes at a time stay in the processor's cache between the two operations.
        for first in range(0, len(stored), 8):
            planes = decoded[first : first + 8]
            np.multiply(stored[first : first + 8], np.float32(step), out=planes, casting="unsafe")
            if shift:
                planes += np.float32(shift)
    return image


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


def transform(subject: str, scans: Mapping[str, Scan], labels: np.ndarray | None, recipe: Recipe) -> Volume:
    """Apply a recipe to a subject's checked scans, by contrast, and its classes (x, y, z), where there are any."""
    first = scans[recipe.contrasts[0]]
    source_shape, source_spacing = first.data.shape, first.spacing_mm
    if recipe.spacing_mm is None:
        shape = source_shape
    else:
        lengths = np.multiply(source_shape, source_spacing)
        shape = tuple(max(1, round(float(length) / recipe.spacing_mm)) for length in lengths)
    with ThreadPoolExecutor(len(recipe.contrasts)) as threads:
        boxes = list(threads.map(lambda name: _foreground(scans[name]), recipe.contrasts))
        if labels is not None:
            # In real data some labels lie outside a contrast's brain.
            boxes.append(volumes.bounding_box(labels))
        source_box = volumes.union(*boxes)
        box = volumes.scaled_box(source_box, source_shape, shape)
        voxels = np.empty((len(recipe.contrasts) + (labels is not None), *(s.stop - s.start for s in box)), np.int16)

        def fill(channel: int) -> float:
            scan = scans[recipe.contrasts[channel]].data
            mean, sd = volumes.nonzero_mean_and_sd(scan[source_box])
            if shape == source_shape:
                return _store_zscores(scan[box], mean, sd, voxels[channel])
            image = volumes.zscore_nonzero(scan[source_box], mean, sd)
            image = volumes.resize_part(image, source_box, source_shape, shape, box)
            step = _step(float(max(image.max(), -image.min())))
            image *= np.float32(1 / step)
            np.rint(image, out=image)
            np.copyto(voxels[channel], image, casting="unsafe")
            return step

        steps = tuple(threads.map(fill, range(len(recipe.contrasts))))
    if labels is not None:
        inside = labels[box] if shape == source_shape else volumes.resize_labels(labels, shape, len(CLASSES))[box]
        _turn(volumes.in_memory_order(inside), volumes.in_memory_order(inside, voxels[-1]))
    start = tuple(s.start for s in box)
    return Volume(subject, voxels, steps, tuple(shape), start, tuple(source_shape), source_spacing)


def _step(largest: float) -> float:
    return max(largest / STEPS, float(np.finfo(np.float32).tiny))


def _store_zscores(scan: np.ndarray, mean: float, sd: float, stored: np.ndarray) -> float:
    """Round a contrast's z-scores (x, y, z) to the steps of ``stored`` (int16); returns the step. Zero stays zero.

    Slab by slab, so that what lies between the scan and the result stays in the processor's cache.
    """
    low, high = float(scan.min()), float(scan.max())
    if low == 0 and mean > high - mean:
        low = float(scan[scan != 0].min())  # the background has no z-score
    largest = max(high - mean, mean - low)
    step = _step(largest / (sd or 1.0))
    # A brain of one value differs from its mean by rounding only.
    factor = np.float32(STEPS / largest if largest > abs(mean) * np.finfo(np.float32).eps else 0)
    planes = volumes.in_memory_order(scan)
    rounded = np.empty(planes.shape, np.int16)
    for place, values in volumes.slabs(planes):
        zscores = values.astype(np.float32)
        zscores -= np.float32(mean)
        zscores *= factor
        np.rint(zscores, out=zscores)
        np.copyto(rounded[place], zscores, casting="unsafe")
        rounded[place] *= (values != 0).view(np.int8)
    _turn(rounded, volumes.in_memory_order(scan, stored))
    return step


def _turn(planes: np.ndarray, target: np.ndarray) -> None:
    """Copy an array of three axes into one whose memory runs another way: one 2-D turn at a time fits the cache."""
    for row in range(planes.shape[1]):
        target[:, row] = planes[:, row]


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


def _foreground(scan: Scan) -> volumes.Box:
    return volumes.bounding_box(scan.data != 0)

"""Find the subjects in a folder of scans, whatever its layout, and name everything that is wrong with them.

Layouts: BraTS 2018-2021 and BraTS 2023 (told by file names, at any depth), MSD Task01 and nnU-Net raw (`imagesTr`,
`labelsTr`, `dataset.json`). What cannot be told for certain is refused with every possible reading named, unless the
caller names the label convention. Finding reads no voxels: a mask that contradicts its layout is met when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from common import nifti
from common.labels import BRATS_2023, BY_FILE_NAMES, CONVENTIONS, MSD, LabelConvention, infer_convention
from common.nifti import Scan, ScanError

CONTRASTS = ("FLAIR", "T1", "T1ce", "T2")
AFFINE_TOLERANCE_MM = 1e-3  # float32 headers of one grid written by different tools differ by about 1e-5
_LABEL = "label"
_FILE_NAMES = {
    "BraTS 2018-2021": (
        re.compile(r"(.+)_(flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?"),
        dict(zip(("flair", "t1", "t1ce", "t2", "seg"), (*CONTRASTS, _LABEL), strict=True)),
    ),
    "BraTS 2023": (
        re.compile(r"(.+)-(t2f|t1n|t1c|t2w|seg)\.nii(?:\.gz)?"),
        dict(zip(("t2f", "t1n", "t1c", "t2w", "seg"), (*CONTRASTS, _LABEL), strict=True)),
    ),
}
_STRAY_MASK = re.compile(r".+_Segm\.nii(?:\.gz)?")  # BraTS 2020 case 355 has W39_1998.09.19_Segm.nii as its mask
_CHANNEL_NAMES = {
    "FLAIR": {"flair", "t2flair", "t2f"},
    "T1": {"t1", "t1w", "t1n", "t1pre"},
    "T1ce": {"t1ce", "t1c", "t1gd", "t1wce", "t1wgd", "t1cew", "t1post", "t1km"},
    "T2": {"t2", "t2w"},
}
# BraTS-GLI-00000-000 and -001, and Brats18_TCIA01_131_1 and _2, are time points of one patient.
_TIME_POINT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+|([Bb]ra[Tt][Ss]1[789]_.+)_\d+")
_Claims = dict[str, dict[str, list[Path]]]  # subject -> contrast or label -> the files that claim to be it


class CohortError(ValueError):
    """A folder that cannot be read as a cohort; the message says what was looked for and what was found."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a subject. file: None when the subject as a whole is meant."""

    subject: str
    file: Path | None
    what: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}" + ("" if self.file is None else f" [{self.file}]")


@dataclass(frozen=True)
class Subject:
    """One subject's files. channels: index of each contrast in a 4-D file that holds them all, None for 3-D files."""

    id: str
    images: Mapping[str, Path]
    label: Path | None = None
    convention: LabelConvention | None = None
    channels: Mapping[str, int] | None = None

    @property
    def patient(self) -> str:
        """The patient's identifier, shared by all time points: splits are made by patient."""
        match = _TIME_POINT.fullmatch(self.id)
        return self.id if match is None else match[1] or match[2]

    def fingerprint(self) -> str:
        """Hexadecimal digest of the content of all files and of how it is read, wherever the files lie."""
        parts = [
            [c, nifti.content_fingerprint(p), (self.channels or {}).get(c)] for c, p in sorted(self.images.items())
        ]
        if self.label is not None:
            parts.append([_LABEL, nifti.content_fingerprint(self.label), self.convention and self.convention.values])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, contrasts: Sequence[str] = CONTRASTS) -> tuple[dict[str, Scan], Scan | None]:
        """The scans (x, y, z) of the contrasts and the mask as stored (None without one), each file decoded once.

        Files are read on threads (decompression releases the interpreter lock). Raises ScanError or OSError for the
        first file that cannot be read; `check_arrays` judges what is returned.
        """
        scans, mask, failures = _read(self, contrasts)
        for error in failures.values():
            raise error
        return scans, mask

    def load_images(self, contrasts: Sequence[str] = CONTRASTS) -> tuple[np.ndarray, Scan]:
        """Images (contrast, x, y, z) in the files' common type, and the first contrast's scan for its geometry.

        Raises ScanError when a file cannot be trusted or lies on another grid than the first contrast.
        """
        scans, _ = replace(self, label=None).read(contrasts)
        return stack_images(self, scans)

    def load_labels(self) -> np.ndarray:
        """Classes 0..3, uint8 (x, y, z).

        Raises ScanError when the mask cannot be trusted, holds values that its convention lacks or lies on another
        grid than the first contrast; ValueError when the subject has no mask or no convention.
        """
        if self.label is None or self.convention is None:
            raise ValueError(
                f"{self.id}: expected a mask with a known convention, found {self.label}, {self.convention}"
            )
        mask = _volume(nifti.read(self.label), self.label, None)
        image = self.images[CONTRASTS[0]]
        header = nifti.read_header(image)
        if what := _grid_difference(mask, header.get_data_shape()[:3], header.get_best_affine(), image.name):
            raise ScanError(f"{self.label}: {what}")
        try:
            return self.convention.to_classes(mask.data)
        except ValueError as error:
            raise ScanError(f"{self.label}: {error}") from error


@dataclass(frozen=True)
class Cohort:
    """Subjects sorted by id, all of them with four contrasts; incomplete: what kept other subjects out of it."""

    folder: Path
    layout: str
    subjects: tuple[Subject, ...]
    incomplete: tuple[Problem, ...]


def stack_images(subject: Subject, scans: Mapping[str, Scan]) -> tuple[np.ndarray, Scan]:
    """Scans as `Subject.read` returns them -> (contrast, x, y, z) and the first scan. Raises as `load_images`."""
    first_name, first = next(iter(scans.items()))
    for contrast, scan in scans.items():
        if what := _grid_difference(scan, first.data.shape, first.affine, first_name):
            raise ScanError(f"{subject.images[contrast]}: {what}")
    dtype = np.result_type(*(scan.data.dtype for scan in scans.values()))
    # Each contrast keeps the files' own memory order (x fastest): copying across orders costs more than decoding.
    images = np.empty((len(scans), *first.data.shape[::-1]), dtype).transpose(0, 3, 2, 1)
    for image, scan in zip(images, scans.values(), strict=True):
        image[...] = scan.data
    return images, replace(first, data=images[0])


def check_arrays(subject: Subject, scans: Mapping[str, Scan], mask: Scan | None) -> list[Problem]:
    """Everything wrong with a subject's decoded files, as `Subject.read` returns them."""
    problems = []
    items = [(contrast, subject.images[contrast], scan) for contrast, scan in scans.items()]
    for contrast, file, scan in items:
        if scan.data.dtype.kind == "f" and not (finite := np.isfinite(scan.data)).all():
            count = scan.data.size - np.count_nonzero(finite)
            problems.append(Problem(subject.id, file, f"{contrast} has {count} voxels that are NaN or infinite"))
        elif (low := scan.data.min()) == scan.data.max():
            problems.append(Problem(subject.id, file, f"{contrast} is empty: every voxel is {low}"))
    if mask is not None:
        items.append((_LABEL, subject.label, mask))
        if subject.convention is not None:
            try:
                subject.convention.to_classes(mask.data)
            except ValueError as error:
                problems.append(Problem(subject.id, subject.label, str(error)))
    for _, file, scan in items[1:]:
        name, _, first = items[0]
        if what := _grid_difference(scan, first.data.shape, first.affine, name):
            problems.append(Problem(subject.id, file, what))
    return problems


def check_subject(subject: Subject) -> list[Problem]:
    """Everything wrong with one subject: reads every voxel of every file."""
    return _check(subject)[0]


def audit(cohort: Cohort, *, n_jobs: int = 1) -> list[Problem]:
    """Everything wrong with a cohort, all subjects at once, sorted by subject; reads every voxel (n_jobs threads).

    When masks contradict the layout's label convention and no mask in the whole cohort confirms it (BraTS 2018-2021
    names, but ET stored as 3), masks without ET are as doubtful as those with it and are listed too.
    """
    checks = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(_check)(subject) for subject in cohort.subjects
    )
    problems, values = list(cohort.incomplete), set()
    for found, seen in tqdm(checks, total=len(cohort.subjects), desc="Checking subjects", leave=False):
        problems += found
        values |= seen
    convention = BY_FILE_NAMES.get(cohort.layout)
    bad = {problem.subject for problem in problems}
    doubtful = [s for s in cohort.subjects if s.label and s.convention == convention and s.id not in bad]
    if convention is not None and doubtful and convention.et not in values:
        try:
            infer_convention(cohort.layout, values)
        except ValueError as error:
            problems += [Problem(s.id, s.label, f"in the cohort as a whole, {error}") for s in doubtful]
    return sorted(problems, key=lambda problem: (problem.subject, str(problem.file), problem.what))


def find_subjects(folder: str | Path, *, convention: str | None = None, max_subjects: int | None = None) -> Cohort:
    """Find the subjects in a folder. convention: a name in CONVENTIONS, where the folder alone does not settle it.

    max_subjects: the first so many by id. A folder without a single mask is a validation set: label is None.
    Raises CohortError when no layout or more than one is found, no subject is complete, or the contrasts or labels of
    a 4-D or numbered file cannot be told for certain.
    """
    folder = Path(folder)
    if convention is not None and convention not in CONVENTIONS:
        raise CohortError(f"unknown label convention {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    if max_subjects is not None and max_subjects < 1:
        raise CohortError(f"max_subjects must be at least 1, received {max_subjects}")
    if not folder.is_dir():
        raise CohortError(f"{folder}: expected a folder of scans, found no folder")
    found = {layout: (claims, None) for layout, claims in _find_by_name(folder).items() if claims}
    described: dict[str, object] = {}
    if (folder / "imagesTr").is_dir():
        layout, described, claims, channels = _find_by_table(folder, convention)
        found[layout] = claims, channels
    if len(found) != 1:
        examples = [f"{name} ({next(iter(claims), 'none')})" for name, (claims, _) in found.items()]
        raise CohortError(
            f"{folder}: expected one of BraTS 2018-2021 (*_flair.nii.gz, _t1, _t1ce, _t2), BraTS 2023 (*-t2f.nii.gz, "
            f"-t1n, -t1c, -t2w), MSD or nnU-Net (imagesTr); found {' and '.join(examples) or _listing(folder)}"
        )
    ((layout, (claims, channels)),) = found.items()
    has_labels = any(_LABEL in files for files in claims.values())
    chosen = CONVENTIONS.get(convention or "")
    if has_labels and (chosen is None or "labels" in described):
        try:
            inferred = infer_convention(layout, names=described.get("labels"))
        except ValueError as error:
            if chosen is None:
                raise CohortError(f"{folder}: {error}") from error
            inferred = chosen
        if chosen is not None and chosen.values != inferred.values:
            raise CohortError(
                f"{folder}: dataset.json says {inferred}, which contradicts the named convention {chosen}"
            )
        chosen = inferred
    subjects, problems = [], []
    for name, files in sorted(claims.items()):
        if max_subjects is not None and len(subjects) == max_subjects:
            break
        if what := list(_incomplete(name, files, has_labels)):
            problems += what
            continue
        label = files[_LABEL][0] if _LABEL in files else None
        images = {contrast: files[contrast][0] for contrast in CONTRASTS}
        subjects.append(Subject(name, images, label, chosen if label else None, channels))
    if not subjects:
        why = "; ".join(map(str, problems)) or "there is none"
        raise CohortError(f"{folder}: looks like {layout}, but no subject is complete: {why}")
    return Cohort(folder, layout, tuple(subjects), tuple(problems))


def _find_by_name(folder: Path) -> dict[str, _Claims]:
    found: dict[str, _Claims] = {layout: {} for layout in _FILE_NAMES}
    by_folder: dict[Path, list[dict[str, list[Path]]]] = {}
    stray = []
    for file in _scans_below(folder):
        # Some redistributions hold a folder X_flair.nii with a file of another name inside: the folder's name counts.
        for name in (file.parent.name, file.name):
            for layout, (pattern, roles) in _FILE_NAMES.items():
                if match := pattern.fullmatch(name):
                    files = found[layout].setdefault(match[1], {})
                    files.setdefault(roles[match[2]], []).append(file)
                    by_folder.setdefault(file.parent, []).append(files)
                    break
            else:
                continue
            break
        else:
            stray += [file] if _STRAY_MASK.fullmatch(file.name) else []
    for file in stray:
        owners = {id(files): files for files in by_folder.get(file.parent, [])}
        if len(owners) == 1:
            next(iter(owners.values())).setdefault(_LABEL, []).append(file)
    return found


def _find_by_table(folder: Path, convention: str | None) -> tuple[str, dict, _Claims, Mapping[str, int] | None]:
    """MSD or nnU-Net: layout, dataset.json, files, and the place of each contrast in a 4-D file."""
    images = list(_scans_below(folder / "imagesTr"))
    numbered = [re.fullmatch(r"(.+)_(\d{4})\.nii(?:\.gz)?", file.name) for file in images]
    if any(numbered) and not all(numbered):
        raise CohortError(
            f"{folder}: imagesTr mixes nnU-Net names (*_0000.nii.gz) with others, as {_listing(folder / 'imagesTr')}"
        )
    layout = "nnU-Net" if any(numbered) else "MSD"
    table = folder / "dataset.json"
    described: dict = {}
    channels = dict(zip(CONTRASTS, range(4), strict=True))
    if table.is_file():
        try:
            described = json.loads(table.read_text(encoding="utf-8"))
            if not (isinstance(described, dict) and isinstance(described.get("labels", {}), dict)):
                raise ValueError("expected an object with an object of labels")
            channels = _channels(described.get("channel_names", described.get("modality", {})))
        except ValueError as error:
            raise CohortError(f"{table}: {error}") from error
    elif layout == "nnU-Net" or convention != MSD.name:
        raise CohortError(
            f"{folder}: {layout} folder without a dataset.json, which says what its contrasts and labels are; "
            f"mask values 1, 2, 3 could be read as {BRATS_2023} or {MSD}"
        )
    claims: _Claims = {}
    for file, match in zip(images, numbered, strict=True):
        if match is None:
            contrasts, name = CONTRASTS, _stem(file)
        else:
            contrasts, name = [c for c, index in channels.items() if index == int(match[2])], match[1]
        for contrast in contrasts:
            claims.setdefault(name, {}).setdefault(contrast, []).append(file)
    for file in _scans_below(folder / "labelsTr"):
        claims.setdefault(_stem(file), {}).setdefault(_LABEL, []).append(file)
    return layout, described, claims, None if layout == "nnU-Net" else channels


def _channels(names: Mapping[str, str] | Sequence[str]) -> dict[str, int]:
    """Place of each contrast by the names of a dataset.json. Raises ValueError unless each occurs exactly once."""
    items = names.items() if isinstance(names, Mapping) else enumerate(names)
    plain = {int(index): re.sub(r"[^a-z0-9]", "", str(name).lower()) for index, name in items}
    places = {c: [index for index, name in plain.items() if name in known] for c, known in _CHANNEL_NAMES.items()}
    if any(len(place) != 1 for place in places.values()):
        raise ValueError(f"expected each of {', '.join(CONTRASTS)} once among its channel names, found {names}")
    return {contrast: place[0] for contrast, place in places.items()}


def _scans_below(folder: Path) -> Iterator[Path]:
    """All .nii and .nii.gz files below a folder in a fixed order, without hidden ones (macOS leaves ._ files)."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, f) for f in sorted(files) if f.endswith((".nii", ".nii.gz")) and f[0] != ".")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" or "an empty folder"


def _incomplete(name: str, files: Mapping[str, Sequence[Path]], has_labels: bool) -> Iterator[Problem]:
    """What keeps a subject out of the cohort, from its files' names alone."""
    if missing := [contrast for contrast in CONTRASTS if contrast not in files]:
        yield Problem(name, None, f"missing {', '.join(missing)}; found {', '.join(files)}")
    if has_labels and _LABEL not in files:
        yield Problem(name, None, "missing its mask, which other subjects of the cohort have")
    folders: dict[tuple[Path, ...], None] = {}
    for role, claimants in files.items():
        parents = tuple(dict.fromkeys(path.parent for path in claimants))
        if len(parents) > 1:
            folders[parents] = None
        elif len(claimants) > 1:
            names = ", ".join(path.name for path in claimants)
            yield Problem(name, claimants[0], f"{len(claimants)} files claim to be its {role}: {names}")
    for parents in folders:
        yield Problem(name, None, f"duplicate id, its files lie in {' and in '.join(map(str, parents))}")


def _volume(scan: Scan, file: Path, channel: int | None) -> Scan:
    """The 3-D scan of one contrast. Raises ScanError when the file does not hold it."""
    if channel is None:
        if scan.data.ndim == 4 and scan.data.shape[3] > 1:
            raise ScanError(f"{file}: expected one volume (x, y, z), found shape {scan.data.shape}")
        return replace(scan, data=scan.data.reshape(scan.data.shape[:3], order="F"))
    if scan.data.ndim != 4 or scan.data.shape[3] <= channel:
        raise ScanError(
            f"{file}: expected at least {channel + 1} contrasts (x, y, z, contrast), found {scan.data.shape}"
        )
    return replace(scan, data=scan.data[..., channel])


def _read(
    subject: Subject, contrasts: Sequence[str]
) -> tuple[dict[str, Scan], Scan | None, dict[Path, ScanError | OSError]]:
    """Scans by contrast, mask, and the error of each file that gave none."""
    roles = {contrast: subject.images[contrast] for contrast in contrasts}
    if subject.label is not None:
        roles[_LABEL] = subject.label
    failures: dict[Path, ScanError | OSError] = {}

    def attempt(file: Path) -> Scan | None:
        try:
            return nifti.read(file)
        except (ScanError, OSError) as error:
            failures[file] = error
            return None

    files = list(dict.fromkeys(roles.values()))
    with ThreadPoolExecutor(max_workers=len(files)) as pool:
        decoded = dict(zip(files, pool.map(attempt, files), strict=True))
    scans = {}
    for role, file in roles.items():
        if (scan := decoded[file]) is not None:
            try:
                scans[role] = _volume(scan, file, (subject.channels or {}).get(role))
            except ScanError as error:
                failures.setdefault(file, error)
    mask = scans.pop(_LABEL, None)
    return scans, mask, failures


def _check(subject: Subject) -> tuple[list[Problem], set[int]]:
    """Problems, and which of the values 1 to 4 the mask holds."""
    scans, mask, failures = _read(subject, CONTRASTS)
    problems = [Problem(subject.id, file, str(error).removeprefix(f"{file}: ")) for file, error in failures.items()]
    values = set() if mask is None else {value for value in range(1, 5) if (mask.data == value).any()}
    return problems + check_arrays(subject, scans, mask), values


def _grid_difference(scan: Scan, shape: tuple[int, ...], affine: np.ndarray, other: str) -> str | None:
    if scan.data.shape != tuple(shape):
        return f"shape {scan.data.shape} differs from {tuple(shape)} of {other}"
    if (apart := float(np.abs(scan.affine - affine).max())) > AFFINE_TOLERANCE_MM:
        return f"its affine differs from that of {other} by up to {apart:.3g}"
    return None

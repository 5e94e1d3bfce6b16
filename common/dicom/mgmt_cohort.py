"""The MGMT cohort (RSNA-MICCAI 2021): patients, labels, and an audit that names everything wrong with the scans.

    python -m common.dicom.mgmt_cohort FOLDER [--labels CSV] [--csv OUT] [--jobs N]

FOLDER is the competition's (``train/<id>/<contrast>/*.dcm``, ``train_labels.csv`` beside ``train``) or its ``train``.
The audit reads every image of every patient: about 0.2 ms of a core per image of 256 x 256, once the disk has it.
"""

import hashlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import numpy as np
import pandas as pd
import tyro
from isal import isal_zlib
from joblib import Parallel, delayed

from common.cohort import CohortError
from common.command_line import parse
from common.dicom import checks
from common.dicom.copies import Series, copies, namesakes
from common.dicom.mgmt_labels import padded, read_labels
from common.dicom.pixels import decode
from common.dicom.series import DicomError, Folder, Plane, grey_values, look
from common.files import write_csv
from common.progress import counted
from common.walk import shown
from common.words import listed, plural

CONTRASTS = ("FLAIR", "T1w", "T1wCE", "T2w")
_ALLOWED = "the organisers report unexpected issues without saying which, and allow leaving it out of training"
DOUBTFUL = {"00109": _ALLOWED, "00123": _ALLOWED, "00709": _ALLOWED}
MOST_PROBLEMS = 3
_COUNTS = ("images", "blank", "duplicates", "orientations", "sizes", "unreadable", "ignored")
_IDENTITY = ("content", "uid")
_GEOMETRY = (
    *("plane", "rows", "columns", "spacing_mm", "row_spacing_mm", "column_spacing_mm"),
    *("blank_first", "blank_last"),
)


@dataclass(frozen=True)
class Patient:
    """One patient's series. folders: by contrast, those that exist; label: 1 methylated, 0 not, None unknown."""

    id: str
    folders: Mapping[str, Path]
    label: int | None = None

    @property
    def patient(self) -> str:
        """Splits are made by patient, and here each has one scan."""
        return self.id

    @property
    def missing(self) -> tuple[str, ...]:
        """Contrasts without a folder."""
        return tuple(contrast for contrast in CONTRASTS if contrast not in self.folders)

    def fingerprint(self, contrast: str) -> str:
        """Hexadecimal digest of the names, sizes and times of change of a series' files, wherever they lie.

        Not of their content: the cohort has 137 GB, and reading it takes longer than all that a fingerprint may save.
        A file written again with the same bytes counts as changed, which costs time only.
        Raises KeyError for a contrast that the patient lacks, OSError when its folder cannot be read.
        """
        with os.scandir(self.folders[contrast]) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
        facts = sorted((name, found.st_size, found.st_mtime_ns) for name, found in files)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class MgmtCohort:
    """Patients sorted by id. without_images: ids in the label table only; without_label: in folders only; others: names
    of folders that have none of the series, no label and no number: bins of file servers and the like."""

    folder: Path
    patients: tuple[Patient, ...]
    without_images: tuple[str, ...]
    without_label: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def any_series(self) -> Path:
        """The folder of the first series that there is."""
        return next(folder for patient in self.patients for folder in patient.folders.values())


def find_patients(folder: str | Path, labels: str | Path | None = None) -> MgmtCohort:
    """Find the patients in a competition folder or in its ``train`` folder, without opening any scan.

    labels: label table; by default train_labels.csv beside ``train``, and no labels where there is none.
    Raises CohortError when the folder has no patients, two folders are one patient, or the table cannot be trusted or
    is of other patients.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        what = "a file" if os.path.lexists(folder) else "none"
        raise CohortError(f"{shown(folder)}: expected a folder of patients, found {what}")
    root = folder / "train" if os.path.isdir(folder / "train") else folder
    if labels is None and root != folder and os.path.lexists(folder / "train_labels.csv"):
        labels = folder / "train_labels.csv"
    values = {} if labels is None else read_labels(labels)
    try:
        with os.scandir(root) as entries:
            places = sorted(Path(entry.path) for entry in entries if entry.name[0] != "." and os.path.isdir(entry.path))
    except OSError as error:
        raise CohortError(f"{shown(root)}: expected a folder of patients, found: {error.strerror or error}") from error
    found: dict[str, dict[str, Path]] = {}
    others = []
    for place in places:
        name = padded(shown(place.name))
        if name in found:
            raise CohortError(f"{shown(place)}: expected one folder per patient, found another one of patient {name}")
        folders = series_folders(place)
        if folders or name in values or name.isdecimal():
            found[name] = folders
        else:
            others.append(name)
    if not any(found.values()):
        raise CohortError(
            f"{shown(root)}: expected folders <patient>/{{{','.join(CONTRASTS)}}} with DICOM files, "
            f"found {', '.join(sorted([*found, *others])[:5]) or 'no folder'}"
        )
    if labels is not None and not values.keys() & found.keys():
        raise CohortError(
            f"{shown(labels)}: expected labels of the patients in {shown(root)}, found none of these {len(found)}"
        )
    return MgmtCohort(
        folder=folder,
        patients=tuple(Patient(name, folders, values.get(name)) for name, folders in sorted(found.items())),
        without_images=tuple(sorted(values.keys() - found.keys())),
        without_label=tuple(sorted(found.keys() - values.keys())),
        others=tuple(others),
    )


def series_folders(patient: Path) -> dict[str, Path]:
    """A patient's series by contrast: the folders of these names, in capitals or not. All of them where the patient's
    folder cannot be listed, so that whoever reads them is told why.

    Raises CohortError where two folders are one contrast's and neither is written as the competition writes it.
    """
    try:
        with os.scandir(patient) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return {contrast: patient / contrast for contrast in CONTRASTS}
    found = {}
    for contrast in CONTRASTS:
        alike = [name for name in names if name.lower() == contrast.lower()]
        if contrast in alike:
            alike = [contrast]
        if len(alike) > 1:
            raise CohortError(f"{shown(patient)}: expected one folder {contrast}, found {' and '.join(alike)}")
        if alike:
            found[contrast] = patient / alike[0]
    return found


def audit(cohort: MgmtCohort, *, n_jobs: int = -1) -> pd.DataFrame:
    """Read every image of every patient: one row per patient and contrast, whatever is wrong with it.

    images: those that can be read; blank: of these, images of a single grey value; plane, rows, columns and spacings
    (mm), blank_first and blank_last (blank images before the first and after the last that shows something, in
    geometric order): of the series, missing where it is none; orientations, sizes: how many different ones;
    duplicates: images at the position of another; unreadable: files; ignored: files that are no images. problem: why
    the series cannot be used, empty when it can; note: what its user should know. A series that could be used is none
    where it holds the images of another one (:func:`common.dicom.copies.copies`).
    """
    tasks = [(patient, contrast) for patient in cohort.patients for contrast in CONTRASTS]
    rows = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_row)(*task) for task in tasks)
    found = list(counted(rows, "auditing", total=len(tasks), unit="series"))
    usable = [(task, row) for task, row in zip(tasks, found, strict=True) if not row["problem"]]
    _name_copies({(patient.id, contrast): row for (patient, contrast), row in usable}, cohort)
    table = pd.DataFrame(found).drop(columns=list(_IDENTITY))
    return table.astype(dict.fromkeys(("label", "rows", "columns", "blank_first", "blank_last"), "Int64"))


def _name_copies(usable: Mapping[Series, dict[str, object]], cohort: MgmtCohort) -> None:
    """Write into the rows which series hold another's images, and which share its identifier without holding them."""
    labels = {patient.id: patient.label for patient in cohort.patients}
    for series, problem in copies(((series, row["content"]) for series, row in usable.items()), labels).items():
        usable[series]["problem"] = problem
    for series, others in namesakes((series, str(row["uid"])) for series, row in usable.items()).items():
        row = usable[series]
        unlike = [" ".join(other) for other in others if usable[other]["content"] != row["content"]]
        if unlike:
            note = f"has the SeriesInstanceUID of {listed(unlike)}, and other images"
            row["note"] = "; ".join(filter(None, (str(row["note"]), note)))


def _row(patient: Patient, contrast: str) -> dict[str, object]:
    """A row of the audit, and what tells whether two series are the same: content and uid."""
    notes = [f"doubtful case: {DOUBTFUL[patient.id]}"] if patient.id in DOUBTFUL else []
    row: dict[str, object] = {"patient": patient.id, "contrast": contrast, "label": patient.label}
    row |= dict.fromkeys(_COUNTS, 0) | dict.fromkeys(_GEOMETRY) | {"problem": "", "note": "; ".join(notes)}
    row |= dict.fromkeys(_IDENTITY)
    if contrast not in patient.folders:
        return row | {"problem": "no folder"}
    try:
        folder = look(patient.folders[contrast])
    except DicomError as error:
        return row | {"problem": shown(str(error))}
    pixels = _decode_all(folder)
    counts = (
        len(folder.images),
        len(pixels.blank),
        len(folder.duplicates),
        len(folder.orientations),
        len(folder.sizes),
        len(folder.unreadable) + len(pixels.failures),
        len(folder.ignored),
    )
    row |= dict(zip(_COUNTS, counts, strict=True))
    uids = {image.marks.get("SeriesInstanceUID", "") for image in folder.images}
    row |= {"content": pixels.content, "uid": uids.pop() if len(uids) == 1 else ""}
    problems = [*folder.problems, *pixels.failures]
    if pixels.blank and len(pixels.blank) == len(folder.images):
        problems.append(f"expected images that show something, found {len(pixels.blank)} of a single grey value each")
    elif folder.images and pixels.highest <= 0:
        problems.append(f"expected positive grey values, found values from {pixels.lowest:g} to {pixels.highest:g}")
    if not folder.problems:
        series = folder.series()
        sides = (round(side, 4) for side in series.spacing_mm)
        shows = [(frame.path, frame.index) not in pixels.blank for frame in series.frames]
        ends = (shows.index(True), shows[::-1].index(True)) if any(shows) else (len(shows), len(shows))
        row |= dict(zip(_GEOMETRY, (series.plane, *series.shape, *sides, *ends), strict=True))
        notes += series.notes
    else:
        notes += folder.notes_on_others
    notes += checks.pixel_notes(pixels.n_more_bits, pixels.lowest)
    what = "; ".join(problems[:MOST_PROBLEMS]).replace(f"{shown(folder.path)}{os.sep}", "")
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return row | {"problem": what + more, "note": "; ".join(notes)}


class _Pixels(NamedTuple):
    """Of a folder's images. blank: those (file, index within it) of a single grey value; failures: why files could not
    be decoded; n_more_bits: images with more bits than are stored; lowest, highest: grey value, 0 among them; content:
    checksums of the images, whatever their order and their files' names."""

    blank: set[tuple[Path, int]]
    failures: list[str]
    n_more_bits: int
    lowest: float
    highest: float
    content: tuple[int, ...]


def _decode_all(folder: Folder) -> _Pixels:
    blank, failures, checksums = set(), [], []
    n_more_bits, lowest, highest = 0, 0.0, 0.0
    mirror = checks.mirror(folder.images) if folder.images else None
    for path, group in itertools.groupby(folder.images, key=lambda image: image.path):
        images = list(group)
        try:
            for image, decoded in zip(images, decode(path, images[0].stored, [i.index for i in images]), strict=True):
                values = grey_values(decoded, image, mirror)
                low, high = float(values.min()), float(values.max())
                if low == high:
                    blank.add((path, image.index))
                n_more_bits += decoded.has_more_bits
                lowest, highest = min(lowest, low), max(highest, high)
                checksums.append(isal_zlib.crc32(np.ascontiguousarray(decoded.pixels)))
        except DicomError as error:
            failures.append(shown(str(error)))
    return _Pixels(blank, failures, n_more_bits, lowest, highest, tuple(sorted(checksums)))


def totals(table: pd.DataFrame) -> pd.DataFrame:
    """An audit's counts per contrast and over all: series found, images, planes, and what is wrong with how many."""

    def count(part: pd.DataFrame) -> dict[str, object]:
        found = part[part["problem"] != "no folder"]
        usable = found[found["problem"] == ""]
        shapes = usable[["rows", "columns"]].drop_duplicates()
        return {
            "series": len(found),
            "missing": len(part) - len(found),
            "unusable": len(found) - len(usable),
            "images": int(found["images"].sum()),
            "per series": f"{found['images'].min()}-{found['images'].max()}" if len(found) else "",
            **{plane: int((usable["plane"] == plane).sum()) for plane in get_args(Plane)},
            "shapes": len(shapes),
            "blank images": int(found["blank"].sum()),
            "all blank": int(((found["blank"] == found["images"]) & (found["images"] > 0)).sum()),
            "duplicates": int((found["duplicates"] > 0).sum()),
            "mixed orientations": int((found["orientations"] > 1).sum()),
            "mixed sizes": int((found["sizes"] > 1).sum()),
            "unreadable": int((found["unreadable"] > 0).sum()),
        }

    parts = {contrast: table[table["contrast"] == contrast] for contrast in CONTRASTS}
    return pd.DataFrame({name: count(part) for name, part in (parts | {"all": table}).items()})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Audit an MGMT cohort."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The competition's folder, or its train folder."""
    labels: Path | None = None
    """Label table; by default train_labels.csv beside train."""
    csv: Path | None = None
    """Where to write the whole table; without it, the table is printed."""
    jobs: int = -1
    """Processes that read; -1 takes every core."""


def main() -> None:
    options = parse(Options, prog="python -m common.dicom.mgmt_cohort", description=__doc__)
    try:
        cohort = find_patients(options.folder, options.labels)
        table = audit(cohort, n_jobs=options.jobs)
        if options.csv is not None:
            write_csv(options.csv, table)
    except (CohortError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.csv is None:
        print(table.drop(columns=["problem", "note"]).to_string(index=False, na_rep="-"), end="\n\n")
    for row in table[(table["problem"] != "") | (table["note"] != "")].itertuples():
        print(f"{row.patient} {row.contrast}: {'; '.join(filter(None, (row.problem, row.note)))}")
    print(f"\n{totals(table).to_string()}\n")
    known = Counter(patient.label for patient in cohort.patients)
    every = plural(len(cohort.patients), "patient")
    print(f"{every}: {known[1]} methylated, {known[0]} not, {known[None]} without a label")
    for what, ids in (
        ("labels without images", cohort.without_images),
        ("images without a label", cohort.without_label),
        ("folders that are no patients", cohort.others),
    ):
        if ids:
            print(f"{what}: {', '.join(ids)}")


if __name__ == "__main__":
    main()

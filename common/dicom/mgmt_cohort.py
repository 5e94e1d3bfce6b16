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
from typing import Annotated, get_args

import numpy as np
import pandas as pd
import tyro
from joblib import Parallel, delayed
from tqdm import tqdm

from common.cohort import CohortError
from common.dicom.file import decode
from common.dicom.series import DicomError, Folder, Plane, look
from common.files import write_csv

CONTRASTS = ("FLAIR", "T1w", "T1wCE", "T2w")
ID, LABEL = "BraTS21ID", "MGMT_value"
_ALLOWED = "the organisers report unexpected issues without saying which, and allow leaving it out of training"
DOUBTFUL = {"00109": _ALLOWED, "00123": _ALLOWED, "00709": _ALLOWED}
MOST_PROBLEMS = 3
_COUNTS = ("images", "blank", "duplicates", "orientations", "sizes", "unreadable", "ignored")
_GEOMETRY = (
    *("plane", "rows", "columns", "spacing_mm", "row_spacing_mm", "column_spacing_mm"),
    *("blank_first", "blank_last"),
)
UNEVEN = 0.1  # of the median distance between images: rounding stays far below, a missing image far above


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
    """Patients sorted by id. without_images: ids in the label table only; without_label: in folders only."""

    folder: Path
    patients: tuple[Patient, ...]
    without_images: tuple[str, ...]
    without_label: tuple[str, ...]


def find_patients(folder: str | Path, labels: str | Path | None = None) -> MgmtCohort:
    """Find the patients in a competition folder or in its ``train`` folder, without opening any scan.

    labels: label table; by default train_labels.csv beside ``train``, and no labels where there is none.
    Raises CohortError when the folder has no patients, two folders are one patient, or the table cannot be trusted or
    is of other patients.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CohortError(f"{folder}: expected a folder of patients, found {'a file' if folder.exists() else 'none'}")
    root = folder / "train" if (folder / "train").is_dir() else folder
    if labels is None and root != folder and (folder / "train_labels.csv").is_file():
        labels = folder / "train_labels.csv"
    found: dict[str, dict[str, Path]] = {}
    for place in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (name := padded(place.name)) in found:
            raise CohortError(f"{place}: expected one folder per patient, found another one of patient {name}")
        found[name] = {contrast: place / contrast for contrast in CONTRASTS if (place / contrast).is_dir()}
    if not any(found.values()):
        raise CohortError(
            f"{root}: expected folders <patient>/{{{','.join(CONTRASTS)}}} with DICOM files, "
            f"found {', '.join(sorted(found)[:5]) or 'no folder'}"
        )
    values = {} if labels is None else read_labels(labels)
    if labels is not None and not values.keys() & found.keys():
        raise CohortError(f"{labels}: expected labels of the patients in {root}, found none of these {len(found)}")
    return MgmtCohort(
        folder=folder,
        patients=tuple(Patient(name, folders, values.get(name)) for name, folders in sorted(found.items())),
        without_images=tuple(sorted(values.keys() - found.keys())),
        without_label=tuple(sorted(found.keys() - values.keys())),
    )


def read_labels(csv: str | Path) -> dict[str, int]:
    """MGMT label (1 methylated, 0 not) by patient id, in the table's order; ids are padded with zeros to five digits.

    Other columns than BraTS21ID and MGMT_value may be there. Raises CohortError naming the line of a label that is
    missing or neither 0 nor 1 (a submission's probability, say) or of an id that is missing or comes again.
    """
    csv = Path(csv)
    try:
        table = pd.read_csv(csv, dtype=str, na_filter=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise CohortError(f"{csv}: expected a CSV with the columns {ID} and {LABEL}, but {error}") from error
    if not {ID, LABEL} <= set(table.columns):
        raise CohortError(f"{csv}: expected the columns {ID} and {LABEL}, found {', '.join(table.columns)}")
    labels: dict[str, int] = {}
    for line, (name, value) in enumerate(zip(table[ID], table[LABEL], strict=True), start=2):
        name, value = padded(name.strip()), value.strip()
        if value not in ("0", "1", "0.0", "1.0"):
            raise CohortError(
                f"{csv}, line {line}: expected {LABEL} 0 or 1 for patient {name}, found {value or 'none'}"
            )
        if not name or name in labels:
            raise CohortError(f"{csv}, line {line}: expected each patient once, found {name or 'no id'} again")
        labels[name] = int(float(value))
    if not labels:
        raise CohortError(f"{csv}: expected a row per patient, found none")
    return labels


def padded(patient: str) -> str:
    """The id as the competition writes it: five digits. Spreadsheets drop the leading zeros."""
    return patient.zfill(5) if patient.isdecimal() else patient


def audit(cohort: MgmtCohort, *, n_jobs: int = -1) -> pd.DataFrame:
    """Read every image of every patient: one row per patient and contrast, whatever is wrong with it.

    images: those that can be read; blank: of these, images of a single grey value; plane, rows, columns and spacings
    (mm), blank_first and blank_last (blank images before the first and after the last that shows something, in
    geometric order): of the series, missing where it is none; orientations, sizes: how many different ones;
    duplicates: images at the position of another; unreadable: files; ignored: files that are no images. problem: why
    the series cannot be used, empty when it can; note: what its user should know.
    """
    tasks = [(patient, contrast) for patient in cohort.patients for contrast in CONTRASTS]
    rows = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_row)(*task) for task in tasks)
    table = pd.DataFrame(list(tqdm(rows, total=len(tasks), desc="auditing", unit="series", leave=False)))
    return table.astype(dict.fromkeys(("label", "rows", "columns", "blank_first", "blank_last"), "Int64"))


def _row(patient: Patient, contrast: str) -> dict[str, object]:
    notes = [f"doubtful case: {DOUBTFUL[patient.id]}"] if patient.id in DOUBTFUL else []
    row: dict[str, object] = {"patient": patient.id, "contrast": contrast, "label": patient.label}
    row |= dict.fromkeys(_COUNTS, 0) | dict.fromkeys(_GEOMETRY) | {"problem": "", "note": "; ".join(notes)}
    if contrast not in patient.folders:
        return row | {"problem": "no folder"}
    try:
        folder = look(patient.folders[contrast])
    except DicomError as error:
        return row | {"problem": str(error)}
    blank, failures = _decode_all(folder)
    counts = (
        len(folder.images),
        len(blank),
        len(folder.duplicates),
        len(folder.orientations),
        len(folder.sizes),
        len(folder.unreadable) + len(failures),
        len(folder.ignored),
    )
    row |= dict(zip(_COUNTS, counts, strict=True))
    problems = [*folder.problems, *failures]
    if blank and len(blank) == len(folder.images):
        problems.append(f"expected images that show something, found {len(blank)} of a single grey value each")
    if not folder.problems:
        series = folder.series()
        sides = (round(side, 4) for side in series.spacing_mm)
        shows = [(frame.path, frame.index) not in blank for frame in series.frames]
        ends = (shows.index(True), shows[::-1].index(True)) if any(shows) else (len(shows), len(shows))
        row |= dict(zip(_GEOMETRY, (series.plane, *series.shape, *sides, *ends), strict=True))
        low, middle, high = np.quantile(series.gaps_mm, (0, 0.5, 1))
        if high - low > UNEVEN * middle:
            notes.append(f"uneven distances between images, {low:.3g} to {high:.3g} mm")
    if folder.ignored:
        notes.append(f"no DICOM images: {', '.join(folder.ignored[:3])}{', ...' if len(folder.ignored) > 3 else ''}")
    what = "; ".join(problems[:MOST_PROBLEMS]).replace(f"{folder.path}{os.sep}", "")
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return row | {"problem": what + more, "note": "; ".join(notes)}


def _decode_all(folder: Folder) -> tuple[set[tuple[Path, int]], list[str]]:
    """The images of a folder (file, index within it) with a single grey value, and why files could not be decoded."""
    blank, failures = set(), []
    for path, group in itertools.groupby(folder.images, key=lambda image: image.path):
        images = list(group)
        try:
            pixels = decode(path, images[0].stored, [image.index for image in images])
            blank |= {(path, image.index) for image, own in zip(images, pixels, strict=True) if own.min() == own.max()}
        except DicomError as error:
            failures.append(str(error))
    return blank, failures


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
    options = tyro.cli(Options, prog="python -m common.dicom.mgmt_cohort", description=__doc__)
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
    print(f"{len(cohort.patients)} patients: {known[1]} methylated, {known[0]} not, {known[None]} without a label")
    for what, ids in (
        ("labels without images", cohort.without_images),
        ("images without a label", cohort.without_label),
    ):
        if ids:
            print(f"{what}: {', '.join(ids)}")


if __name__ == "__main__":
    main()

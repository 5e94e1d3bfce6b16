"""A folder of patients' DICOM to BraTS's layout, which everything else takes: resumed, with every failure named."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.cohort.table import read_columns
from common.files import read_json, write_csv, write_json
from common.preprocess import brain, space
from common.preprocess.patient import prepare
from common.progress import counted
from common.subject import CONTRASTS, Problem, Subject
from common.walk import composed, shown

RECORD = "conversion.json"
SOURCE = "source.json"
COLUMNS = ("patient", "contrast", "series")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is converted, and how.

    data: a folder per patient, named by its id. output: takes <id>/<id>_flair.nii.gz and so on. steps: takes what is
    left of every step, per patient. brain_mask: as :func:`common.preprocess.brain.brain_mask` takes it, or a folder
    with <id>.nii.gz. named: by patient and contrast the series that is not told by itself.
    """

    data: Path
    output: Path
    steps: Path
    brain_mask: str
    named: Mapping[str, Mapping[str, str]]

    def series_of(self, patient: str) -> Mapping[str, str]:
        """By contrast the series of a patient's that are named."""
        return self.named.get(composed(patient), {})

    def mask_of(self, patient: str) -> str:
        """The choice of a patient's brain mask."""
        is_folder = self.brain_mask not in (*brain.EXTRACTORS, brain.NONE)
        return str(Path(self.brain_mask) / f"{patient}.nii.gz") if is_folder else self.brain_mask


def read_named(path: Path | None) -> dict[str, dict[str, str]]:
    """A table patient, contrast, series (UID, or folder below the patient's) by patient and contrast.

    Raises ValueError when it lacks a column, has an unknown contrast, or says a thing twice.
    """
    if path is None:
        return {}
    named: dict[str, dict[str, str]] = {}
    for line, (name, contrast, series) in read_columns(path, COLUMNS):
        patient = composed(name)
        if contrast not in CONTRASTS or contrast in named.get(patient, {}):
            raise ValueError(
                f"{path}, line {line}: expected each of {', '.join(CONTRASTS)} at most once per patient, found "
                f"{contrast} of {patient}"
            )
        named.setdefault(patient, {})[contrast] = series
    return named


def check(conversion: Conversion) -> tuple[str, ...]:
    """Before any work: the patients. Raises ValueError or MissingToolError when the conversion cannot be made."""
    data, mask = conversion.data, conversion.brain_mask
    if not data.is_dir():
        raise ValueError(f"{shown(data)}: expected a folder with a folder of DICOM series per patient, found none")
    inside = data.resolve()
    for place in (conversion.output, conversion.steps):
        if place.resolve().is_relative_to(inside):
            raise ValueError(f"{place}: expected a folder outside of {data}, whose patients would be mixed with it")
    if conversion.steps.resolve().is_relative_to(conversion.output.resolve()):
        raise ValueError(f"{conversion.steps}: expected a folder for the steps outside of {conversion.output}")
    space.load_sitk()
    if mask in (*brain.EXTRACTORS, brain.NONE):
        brain.check_choice(mask)
    elif not Path(mask).is_dir():
        tools = ", ".join((*brain.EXTRACTORS, brain.NONE))
        raise ValueError(f"--brain-mask {mask}: expected {tools} or a folder with <patient>.nii.gz, found none")
    patients = tuple(sorted(place.name for place in data.iterdir() if place.is_dir() and place.name[0] != "."))
    if not patients:
        raise ValueError(f"{shown(data)}: expected a folder of DICOM series per patient, found no folder")
    if unknown := sorted(conversion.named.keys() - set(map(composed, patients))):
        raise ValueError(f"{shown(data)}: expected the patients whose series are named, found no {', '.join(unknown)}")
    wanted = {"brain_mask": mask}
    record = conversion.steps / RECORD
    if record.exists() and (found := read_json(record, dict)) != wanted:
        raise ValueError(f"{record}: expected a cohort made with {wanted}, found {found}; give a new folder")
    write_json(record, wanted)
    return patients


def convert(conversion: Conversion, *, n_jobs: int = 1) -> tuple[Problem, ...]:
    """Convert every patient that is not there yet; returns what kept others out, sorted by patient.

    A patient's folder appears whole or not at all; one that is there and was made with other series, or from another
    folder, is left as it is and returned. Raises as :func:`check`.
    """
    patients = check(conversion)
    missing = [patient for patient in patients if not (conversion.output / patient).exists()]
    changed = [_changed(patient, conversion) for patient in sorted(set(patients) - set(missing))]
    work = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(_convert)(patient, conversion) for patient in missing)
    failed = counted(work, "converting", total=len(missing), unit="patient")
    return tuple(sorted(filter(None, (*changed, *failed)), key=lambda problem: problem.subject))


def _source(patient: str, conversion: Conversion) -> dict[str, object]:
    return {"data": str((conversion.data / patient).resolve()), "series": dict(conversion.series_of(patient))}


def _changed(patient: str, conversion: Conversion) -> Problem | None:
    """What a patient that is there was made with, where that is known and not what it would be made with now."""
    record = conversion.steps / patient / SOURCE
    if not record.exists():
        return None
    found, wanted = read_json(record, dict), _source(patient, conversion)
    for key, with_what in (("data", "from another folder"), ("series", "with other series named")):
        if (before := found.get(key)) != wanted[key]:
            again = f"remove {conversion.output / patient} to convert it again"
            return Problem(shown(patient), None, f"was converted {with_what}, {before or 'none'}: {again}")
    return None


def _convert(patient: str, conversion: Conversion) -> Problem | None:
    data = conversion.data / patient
    try:
        mask = conversion.mask_of(patient)
        brain.check_choice(mask)
        prepared = prepare(
            data, conversion.steps / patient, contrasts=CONTRASTS, named=conversion.series_of(patient), mask=mask
        )
        prepared.draw(np.zeros_like(next(iter(prepared.placed.values())), np.uint8))
    except (ValueError, OSError) as error:
        return Problem(shown(patient), None, str(error))
    part = conversion.output / f".{patient}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for contrast, path in prepared.scans.items():
        shutil.move(path, part / f"{patient}_{contrast.lower()}.nii.gz")
    patient_id = next(iter(prepared.choice.series.values())).header["PatientID"]
    hashed = hashlib.sha256(patient_id.encode(errors="backslashreplace")).hexdigest()[:16] if patient_id else None
    write_json(conversion.steps / patient / SOURCE, _source(patient, conversion) | {"patient": hashed})
    part.rename(conversion.output / patient)
    return None


def write_patients(conversion: Conversion) -> tuple[str, ...]:
    """Write ``patients.csv`` (id, patient) among the steps: which of the converted are one patient's, for --patients.

    A patient is named by a hash of PatientID, or as the id tells where none is known. Returns notes for the user.
    """
    path = conversion.steps / "patients.csv"
    found = conversion.output.iterdir() if conversion.output.exists() else ()
    ids = sorted(place.name for place in found if place.is_dir() and place.name[0] != ".")
    records = {name: conversion.steps / name / SOURCE for name in ids}
    known = {name: read_json(file, dict).get("patient") if file.exists() else None for name, file in records.items()}
    patients = pd.Series({shown(name): known[name] or Subject(name, {}).patient for name in ids}, dtype=str)
    write_csv(path, patients.rename_axis("id").reset_index(name="patient"))
    notes = []
    if several := [" and ".join(group) for group in patients.groupby(patients).groups.values() if len(group) > 1]:
        notes.append(f"several folders are one patient's, {_some(several)}: give --patients {path} to what splits them")
    if unknown := [shown(name) for name in ids if not known[name]]:
        notes.append(f"no PatientID is known of {_some(unknown)}: whose they are is told by these names alone")
    return tuple(notes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

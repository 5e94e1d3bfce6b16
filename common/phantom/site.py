"""A second hospital of the embedded MGMT cohort: other synthetic patients, another scanner, NIfTI in place of DICOM.

Patients are those of `common.phantom.dicom` under another seed: the same link between water and MGMT status, of the
same strength. What differs is what differs between hospitals: volumes of 2 mm in place of slices, another receive
coil, contrast curve, sharpness and gain (`common.scanner`), and two scanners, one of them noisy, neither of which knows
of the status. So a signal of the tumour holds here, and one of the first hospital's protocols does not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from common import nifti
from common.cohort.clinical_table import Clinical
from common.files import write_csv, write_text
from common.labels import BRATS_2018
from common.nifti import Scan
from common.phantom.dicom import imagine
from common.phantom.folder import fill
from common.phantom.series import NOISE, SCALE
from common.scanner import Change

GENERATOR_VERSION = 1
"""Raise it whenever a change alters any file: a folder made by another version is then refused, not mixed."""

SCANNER = (
    Change("bias", 0.4, "bias field"),
    Change("gamma", 0.25, "gamma"),
    Change("blur", 2.0, "blur"),
    Change("gain", 1.0, "gain"),
)
"""What this hospital's scanners do otherwise, one after the other."""
NOISIER = 2.0
"""What one of the two scanners adds to the noise, as a multiple of the usual."""
_SUFFIXES = {"FLAIR": "flair", "T1w": "t1", "T1wCE": "t1ce", "T2w": "t2"}
_SITE = 3  # random stream
_UNDECIDED = 20  # every so many patients' status is indeterminate, as in real tables
_README = """# Synthetic MGMT cohort of a second site

Every image and every line of patients.csv in this folder is synthetic, made by `common.phantom.site` of the glioma
suite on the MNI152 brain template. No patient was scanned; MGMT status, sex, age and IDH are invented. Nothing measured
on it says anything about patients. `cohort.json` names the arguments that it is a function of.
"""


@dataclass(frozen=True)
class PhantomScans:
    """One synthetic patient. images: by suffix (``flair`` ...), int16 (x, y, z), background 0; classes: the tumour's,
    uint8 on the same grid; affine: (4, 4), voxel to mm in RAS+; clinical: what the site's table says."""

    images: dict[str, np.ndarray]
    classes: np.ndarray
    affine: np.ndarray
    clinical: Clinical


def make_scans(patient: int, *, seed: int, effect: float = 1.0) -> PhantomScans:
    """Synthetic patient number `patient` of the site (seed, effect).

    Raises ValueError as :func:`common.phantom.dicom.make_patient`.
    """
    made = imagine(patient, seed=seed, effect=effect)
    side, first = float(made.volume.voxel_mm), made.volume.first_mm
    affine = np.diag([-side, -side, side, 1.0])  # the volume's axes run to the patient's left, back and head
    affine[:3, 3] = (-first[0], -first[1], first[2])
    header = nib.Nifti1Image(made.classes, affine).header
    noisy = 1 + NOISIER * _is_noisy(patient, seed)
    scans = {}
    for contrast, image in made.images.items():
        sigma = np.float32(noisy * NOISE[contrast])
        real, imaginary = made.rng.standard_normal((2, *image.shape), np.float32) * sigma
        signal = np.where(made.volume.brain, np.hypot(image + real, imaginary), 0)
        scans[contrast] = Scan(signal.astype(np.float32), affine, header)
    for change in SCANNER:
        scans = change.apply(scans, seed=seed, case=_name(patient))
    images = {}
    for contrast, scan in scans.items():
        values = np.clip(np.rint(scan.data * SCALE[contrast][0]), 1, np.iinfo(np.int16).max)
        images[_SUFFIXES[contrast]] = np.where(made.volume.brain, values, 0).astype(np.int16)
    return PhantomScans(images, made.classes, affine, _clinical(patient, seed, made.methylated, made.age))


def write_site(folder: Path | str, *, n_patients: int, seed: int, effect: float = 1.0, n_jobs: int = -1) -> Path:
    """Write patients 0 .. n_patients - 1 in BraTS 2021's layout, with patients.csv, and return the folder.

    As :func:`common.phantom.dicom.write_cohort`: only what is missing is made, and several processes may write.
    Raises ValueError when the folder holds another cohort or other files, or n_patients < 1.
    """
    if n_patients < 1:
        raise ValueError(f"expected n_patients of 1 or more, received {n_patients}")
    folder = Path(folder)
    identity = {"generator": "phantom_site", "version": GENERATOR_VERSION}
    identity |= {"seed": seed, "effect": float(effect), "n_patients": n_patients}
    names = [_name(patient) for patient in range(n_patients)]
    fill(
        folder,
        names,
        functools.partial(_write_patient, tables=folder / "tables", seed=seed, effect=effect),
        identity=identity,
        n_jobs=n_jobs,
        what="synthetic patients of a second site",
    )
    if not (folder / "patients.csv").exists():
        write_text(folder / "README.md", _README)
        rows = [pd.read_csv(folder / "tables" / f"{name}.csv", dtype=str) for name in names]
        write_csv(folder / "patients.csv", pd.concat(rows, ignore_index=True))
    return folder


def _write_patient(patient: int, folder: Path, *, tables: Path, seed: int, effect: float) -> None:
    made = make_scans(patient, seed=seed, effect=effect)
    header = nib.Nifti1Image(made.classes, made.affine).header
    for suffix, image in made.images.items():
        nifti.write(folder / f"{_name(patient)}_{suffix}.nii.gz", image, like=header)
    nifti.write(folder / f"{_name(patient)}_seg.nii.gz", BRATS_2018.from_classes(made.classes), like=header)
    said = made.clinical
    row = {"id": said.id, "mgmt": said.mgmt_said, "sex": said.sex, "age": said.age, "idh": said.idh}
    write_csv(tables / f"{said.id}.csv", pd.DataFrame([row | {"scanner": said.scanner}]))


def _clinical(patient: int, seed: int, methylated: bool, age: float) -> Clinical:
    """Sex and IDH know nothing of the status."""
    rng = np.random.default_rng([seed, patient, _SITE, 1])
    decided = patient % _UNDECIDED != _UNDECIDED - 1
    return Clinical(
        id=_name(patient),
        mgmt=int(methylated) if decided else None,
        mgmt_said=("methylated" if methylated else "unmethylated") if decided else "indeterminate",
        sex="F" if rng.random() < 0.45 else "M",
        age=round(35 + 45 * age, 1),
        idh="mutant" if rng.random() < 0.1 else "wildtype",
        scanner="noisy" if _is_noisy(patient, seed) else "usual",
    )


def _is_noisy(patient: int, seed: int) -> bool:
    return bool(np.random.default_rng([seed, patient, _SITE, 0]).random() < 0.5)


def _name(patient: int) -> str:
    return f"PhantomSite_{patient:05d}"

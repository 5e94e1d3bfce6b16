"""The embedded MGMT cohort: synthetic glioma patients as the RSNA-MICCAI radiogenomic competition's folder of DICOM.

What they are: the anatomies and tumours of `common.phantom` on voxels of 2 mm, scanned in four contrasts whose planes,
numbers of images, sizes and file numbers vary as the competition's do (`phantom_series`), and an MGMT status.
What they are not: patients. The link between image and status is invented, so that a pipeline can be seen to find one
(`effect` = 1) and, what matters more, to find none where none is (`effect` = 0). Whether such a link exists in real
scans is an open question on which these images say nothing.

The link: one number per patient, the water in the tumour, shifts its signal (FLAIR and T2w up, T1w and T1wCE down). It
varies from patient to patient; methylated tumours hold less of it on average. Status enters nowhere else, unless a
confounder is asked for: then methylated patients are scanned with a wider field of view, which an internal test rewards
and another hospital (`common.phantom.site`) does not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy import special

from common.dicom.mgmt_cohort import CONTRASTS
from common.dicom.mgmt_labels import ID, LABEL
from common.files import write_csv, write_text
from common.phantom.anatomy import BOX, draw_pose, sample_anatomy
from common.phantom.cohort import draw_contrasts
from common.phantom.folder import fill
from common.phantom.series import PhantomSeries, Volume, acquire, draw_geometry
from common.phantom.tumour import Growth, grow_tumour, place_foci, push_tissue

GENERATOR_VERSION = 2
"""Raise it whenever a change alters any file: a folder made by another version is then refused, not mixed."""

CASES = ("typical", "typical", "no_et", "typical", "two_foci")
"""What tumour patient i has: CASES[i % 5]."""

SEPARATION = 2.7
"""Distance of the two classes' mean water at effect = 1, in the standard deviation that both classes have. With the
water in hand the AUC is Phi(2.7 / sqrt(2)) = 0.972; what else differs between tumours leaves less in the images."""

CONFOUNDED_FIELD = 0.5
"""By what share a confounder of 1 widens the images of methylated patients."""

_VOXEL_MM = 2
_WATER = {  # on the logarithm of the core's signal: for a mean tumour, and per unit of water
    "FLAIR": (0.18, 0.46),
    "T1w": (0.42, -0.34),
    "T1wCE": (0.05, -0.12),
    "T2w": (0.08, 0.20),
}
_OEDEMA = 0.6  # of what the core gets
_FIRST_ID = 90000  # the competition's own end at 01010: no phantom bears a patient's number
_STATUS, _IMAGES = 1, 2  # random streams
_STATEMENT = "Synthetic phantom. No patient was scanned; the MGMT status is invented."
_README = f"""# Synthetic MGMT cohort

Every image, header and label in this folder is synthetic, made by `common.phantom.dicom` of the glioma suite on the
MNI152 brain template. {_STATEMENT}
Nothing measured on it says anything about patients. `cohort.json` names the arguments that it is a function of.

- `train/<id>/<contrast>/Image-<k>.dcm`, `train_labels.csv`: the layout of the RSNA-MICCAI radiogenomic competition
- `truth/<id>.csv`: per series its plane, its number of images, the tumour's volume and its pixels on each image, in
  geometric order along the normal
"""


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic patient. series: by contrast; tumour_ml: volume of core and oedema; methylated: the MGMT status;
    volume: the grid that the series were sampled from."""

    id: str
    series: dict[str, PhantomSeries]
    tumour_ml: float
    methylated: bool
    volume: Volume


@dataclass(frozen=True)
class Imagined:
    """A synthetic patient before any scanner: images by contrast, float32 on the volume's grid, relative to the median
    of normal brain; classes: the tumour's, uint8 (0 background, 1 NCR, 2 ED, 3 ET); age: 0 young .. 1 old; rng: where
    its draws stand."""

    images: dict[str, np.ndarray]
    volume: Volume
    classes: np.ndarray
    age: float
    methylated: bool
    rng: np.random.Generator

    @property
    def tumour_ml(self) -> float:
        """Volume of core and oedema."""
        return np.count_nonzero(self.classes) * self.volume.voxel_mm**3 / 1000


def imagine(patient: int, *, seed: int, effect: float) -> Imagined:
    """Anatomy, tumour and status of patient number `patient` of the cohort (seed, effect). Raises as make_patient."""
    _check(patient, seed, effect)
    rng = np.random.default_rng([seed, patient, _IMAGES])
    case = CASES[patient % len(CASES)]
    pose = draw_pose(rng)
    foci = place_foci(rng, pose, case)
    anatomy = sample_anatomy(rng, push_tissue(rng, pose, foci), voxel_mm=_VOXEL_MM)
    tumour = grow_tumour(rng, anatomy, foci, Growth(enhances=case != "no_et"))
    vectors = draw_contrasts(rng, anatomy, tumour)

    methylated = is_methylated(patient, seed=seed)
    water = rng.normal() + effect * SEPARATION * (0.5 - methylated)
    water = 2.2 * np.tanh(water / 2.2)  # bounded, as no core leaves what scanners show; the order of patients stays
    core, oedema = special.expit(-tumour.core / 0.8), special.expit(-tumour.spread) * (1 - anatomy.csf)
    wet = np.maximum(core, _OEDEMA * oedema)
    images = {}
    for contrast, vector in zip(CONTRASTS, vectors.values(), strict=True):
        mean, slope = _WATER[contrast]
        images[contrast] = anatomy.whole(vector * np.exp(np.float32(mean + slope * water) * wet))

    centre = np.array([s.stop - s.start for s in BOX]) / 2
    first_mm = rng.normal(0, (4, 8, 12)) - centre  # the head lies near the scanner's centre
    volume = Volume(first_mm, _VOXEL_MM, anatomy.brain, tumour.labels > 0)
    return Imagined(images, volume, tumour.labels, anatomy.age, methylated, rng)


def make_patient(patient: int, *, seed: int, effect: float = 1.0, confounder: float = 0.0) -> PhantomPatient:
    """Synthetic patient number `patient` of the cohort (seed, effect, confounder); the same numbers give the same
    pixels.

    effect: 0 makes the images independent of the status; 1 sets the means of the classes SEPARATION apart; between and
    beyond in proportion. confounder: how much wider a field of view methylated patients are scanned with, as where one
    clinic sends its patients to one scanner: images then tell the status without any sign of it in the tumour.
    Raises ValueError when a number is negative or patient is beyond 9999.
    """
    _check(patient, seed, effect, confounder)
    made = imagine(patient, seed=seed, effect=effect)
    brain_mm = made.volume.first_mm + _VOXEL_MM * np.argwhere(made.volume.brain)
    field = 1 + confounder * CONFOUNDED_FIELD * made.methylated
    series = {
        contrast: acquire(
            made.rng, contrast, image, made.volume, draw_geometry(made.rng, contrast, brain_mm, field=field)
        )
        for contrast, image in made.images.items()
    }
    return PhantomPatient(_name(patient), series, made.tumour_ml, made.methylated, made.volume)


def is_methylated(patient: int, *, seed: int) -> bool:
    """The patient's MGMT status: two of every four patients in a row are methylated, which two is drawn at random."""
    block, place = divmod(patient, 4)
    return bool(np.random.default_rng([seed, block, _STATUS]).permutation(4)[place] < 2)


def _check(patient: int, seed: int, effect: float, confounder: float = 0.0) -> None:
    if not (0 <= patient < 10_000 and seed >= 0 and 0 <= effect < np.inf and 0 <= confounder < np.inf):
        raise ValueError(
            "expected patient in 0 .. 9999 and seed, effect and confounder of 0 or more, received "
            f"{patient=}, {seed=}, {effect=}, {confounder=}"
        )


def _name(patient: int) -> str:
    return str(_FIRST_ID + patient)


# --- the cohort on disk -----------------------------------------------------------------------------------------------


def write_cohort(
    folder: Path | str, *, n_patients: int, seed: int, effect: float = 1.0, confounder: float = 0.0, n_jobs: int = -1
) -> Path:
    """Write patients 0 .. n_patients - 1 in the competition's layout and return the folder.

    <folder>/train/90000/{FLAIR,T1w,T1wCE,T2w}/Image-1.dcm and so on, train_labels.csv, truth/
    for `read_truth`, README.md; cohort.json names the arguments. Only what is missing is made: a kill leaves no half of
    a patient, and two processes may write the same cohort (`common.phantom.folder.fill`). n_jobs: processes, -1 for one
    per core (about 0.6 GB of memory each).
    Raises ValueError when the folder holds a cohort of other arguments or of another generator version, or other files,
    or when n_patients < 1.
    """
    if n_patients < 1:
        raise ValueError(f"expected n_patients of 1 or more, received {n_patients}")
    _check(n_patients - 1, seed, effect, confounder)
    folder = Path(folder)
    identity = {"generator": "phantom_dicom", "version": GENERATOR_VERSION}
    identity |= {"seed": seed, "effect": float(effect), "n_patients": n_patients}
    if confounder:
        identity["confounder"] = float(confounder)
    names = [_name(patient) for patient in range(n_patients)]
    fill(
        folder,
        [f"train/{name}" for name in names],
        functools.partial(_write_patient, truth=folder / "truth", seed=seed, effect=effect, confounder=confounder),
        identity=identity,
        n_jobs=n_jobs,
        what="synthetic patients",
    )
    status = [int(is_methylated(patient, seed=seed)) for patient in range(n_patients)]
    if not (folder / "train_labels.csv").exists():
        write_text(folder / "README.md", _README)
        write_csv(folder / "train_labels.csv", pd.DataFrame({ID: names, LABEL: status}))
    return folder


def read_truth(folder: Path | str) -> pd.DataFrame:
    """What a written cohort is made of: one row per patient and contrast.

    Columns id, tumour_ml (core and oedema), contrast, plane, images and tumour_pixels: a tuple with one number per
    image in geometric order along the normal. `make_patient` gives the tumour's mask on every image.
    Raises ValueError when the folder holds no truth.
    """
    parts = [pd.read_csv(path, dtype={"id": str}) for path in sorted((Path(folder) / "truth").glob("*.csv"))]
    if not parts:
        raise ValueError(f"{folder} holds no synthetic cohort: expected truth/<id>.csv, found none")
    frame = pd.concat(parts, ignore_index=True)
    frame["tumour_pixels"] = [tuple(map(int, counts.split())) for counts in frame["tumour_pixels"]]
    return frame


def _write_patient(patient: int, folder: Path, *, truth: Path, seed: int, effect: float, confounder: float) -> None:
    made = make_patient(patient, seed=seed, effect=effect, confounder=confounder)
    rows = []
    for number, (contrast, series) in enumerate(made.series.items(), start=1):
        (folder / contrast).mkdir()
        source = [str(part) for part in ("phantom", GENERATOR_VERSION, seed, float(effect), patient)]
        source += [str(float(confounder))] if confounder else []
        header = _header(made.id, contrast, number, series, source)
        order = _file_numbers(np.random.default_rng([seed, patient, _IMAGES, number]), len(series.pixels))
        for image, k in enumerate(order):
            _write_image(folder / contrast / f"Image-{k}.dcm", header, series, image, int(k), source)
        counts = " ".join(str(n) for n in series.tumour.sum(axis=(1, 2)))
        rows.append((made.id, made.tumour_ml, contrast, series.geometry.plane, len(series.pixels), counts))
    columns = ["id", "tumour_ml", "contrast", "plane", "images", "tumour_pixels"]
    write_csv(truth / f"{made.id}.csv", pd.DataFrame(rows, columns=columns))


def _file_numbers(rng: np.random.Generator, n: int) -> np.ndarray:
    """File number of each image: along the normal, against it, or odd places first as scanners interleave."""
    along = np.arange(1, n + 1)
    kind = rng.choice(("along", "against", "interleaved"), p=(0.6, 0.25, 0.15))
    if kind == "along":
        return along
    return along[::-1] if kind == "against" else np.argsort(np.r_[0:n:2, 1:n:2]) + 1


def _header(patient_id: str, contrast: str, number: int, series: PhantomSeries, source: list[str]) -> Dataset:
    """What all images of a series share."""
    geometry = series.geometry
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    header.StudyInstanceUID = generate_uid(entropy_srcs=[*source, "study"])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=[*source, contrast])
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[*source, "frame"])
    header.ImageType = ["DERIVED", "SECONDARY"]
    header.Modality = "MR"
    header.Manufacturer = "PHANTOM"
    header.SeriesDescription = contrast
    header.SeriesNumber = number
    header.ImageComments = _STATEMENT
    header.PatientName = f"PHANTOM^{patient_id}"
    header.PatientID = patient_id
    header.PatientComments = _STATEMENT
    header.PatientBirthDate = header.PatientSex = ""
    header.StudyID = header.StudyDate = header.StudyTime = header.AccessionNumber = header.ReferringPhysicianName = ""
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "RM", "NONE", ""
    header.MRAcquisitionType = "2D"
    header.RepetitionTime = header.EchoTime = header.EchoTrainLength = None
    header.PositionReferenceIndicator = ""
    header.ImageOrientationPatient = _decimals([*geometry.axes[2], *geometry.axes[1]])
    header.PixelSpacing = _decimals(geometry.spacing_mm[1:])
    header.SliceThickness = _decimals([geometry.thickness_mm])[0]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = geometry.shape[1:]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    if series.slope is not None:
        header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "0", str(series.slope), "US"
    return header


def _write_image(
    path: Path, header: Dataset, series: PhantomSeries, image: int, number: int, source: list[str]
) -> None:
    uid = generate_uid(entropy_srcs=[*source, header.SeriesDescription, str(image)])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(path, header.copy(), preamble=b"\0" * 128, file_meta=meta)
    file.SOPInstanceUID = uid
    file.InstanceNumber = number
    file.ImagePositionPatient = _decimals(series.geometry.position_mm(image))
    file.PixelData = series.pixels[image].astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)


def _decimals(values: np.ndarray | list[float]) -> list[str]:
    """Decimal strings within DICOM's 16 characters, to a millionth of a mm."""
    return [f"{value:.6f}" for value in values]

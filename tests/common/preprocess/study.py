"""One synthetic patient as a hospital's study: four series of other planes and voxels, the head moved in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.phantom.anatomy import draw_pose, sample_anatomy
from common.phantom.cohort import draw_contrasts
from common.phantom.series import Geometry, Volume
from common.phantom.tumour import Growth, grow_tumour, place_foci, push_tissue
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, tilted, write_series

NAMES = {"FLAIR": "t2_tirm_tra_dark-fluid", "T1": "t1_se_tra", "T1ce": "t1_mprage_sag", "T2": "t2_tse_cor"}
TIMES_MS = {"FLAIR": (9000, 110, 2500), "T1": (550, 12, None), "T1ce": (1900, 3, 900), "T2": (5000, 96, None)}
ORIENTATIONS = {"FLAIR": AXIAL, "T1": tilted(20), "T1ce": SAGITTAL, "T2": CORONAL}
SPACING_MM = {"FLAIR": (3.0, 1.0, 1.0), "T1": (2.0, 0.9, 1.1), "T1ce": (1.2, 1.0, 1.0), "T2": (3.0, 0.8, 0.8)}


@dataclass(frozen=True)
class Motion:
    """A rigid motion of the head about a point: degrees about x, y and z, then mm (DICOM's axes)."""

    degrees: tuple[float, float, float] = (0, 0, 0)
    mm: tuple[float, float, float] = (0, 0, 0)
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def matrix(self) -> np.ndarray:
        from scipy.spatial.transform import Rotation

        return Rotation.from_euler("xyz", self.degrees, degrees=True).as_matrix()

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre) @ self.matrix.T + self.centre + self.mm

    def inverse(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre - self.mm) @ self.matrix + self.centre


MOTIONS = {
    "FLAIR": Motion((3.0, -2.0, 4.0), (4.0, -3.0, 5.0)),
    "T1": Motion((-1.5, 1.0, -2.5), (-2.0, 3.5, 1.0)),
    "T1ce": Motion(),
    "T2": Motion((5.0, 3.0, -4.0), (6.0, 2.0, -4.0)),
}


@dataclass(frozen=True)
class Study:
    """A written study. volume: the phantom's own grid, T1ce's space; images: noise-free contrasts on it; labels:
    classes on it; truth: classes of each series as it was measured, (image, row, column)."""

    folder: Path
    volume: Volume
    images: dict[str, np.ndarray]
    labels: np.ndarray
    geometries: dict[str, Geometry]
    truth: dict[str, np.ndarray]

    @property
    def brain_mm(self) -> np.ndarray:
        """Some of the brain's voxels, (n, 3)."""
        return self.volume.first_mm + self.volume.voxel_mm * np.argwhere(self.volume.brain)[::97]


def write_study(folder: Path, *, seed: int = 0, voxel_mm: int = 1, noise: float = 0.05, motions=MOTIONS,
                spacing_mm=SPACING_MM, orientations=ORIENTATIONS) -> Study:  # fmt: skip
    """Write a study's four series below a folder and return what is known of it."""
    rng = np.random.default_rng(seed)
    pose = draw_pose(rng)
    foci = place_foci(rng, pose, "typical")
    anatomy = sample_anatomy(rng, push_tissue(rng, pose, foci), voxel_mm=voxel_mm)
    tumour = grow_tumour(rng, anatomy, foci, Growth(enhances=True))
    images = {name: anatomy.whole(vector) for name, vector in draw_contrasts(rng, anatomy, tumour).items()}
    first_mm = -np.array(anatomy.brain.shape) * voxel_mm / 2 + rng.normal(0, 5, 3)
    volume = Volume(first_mm, voxel_mm, anatomy.brain, tumour.labels > 0)
    centre = first_mm + voxel_mm * np.array(ndimage.center_of_mass(anatomy.brain))
    geometries, truth = {}, {}
    for number, (name, image) in enumerate(images.items(), start=1):
        motion = Motion(motions[name].degrees, motions[name].mm, centre)
        brain_mm = motion(first_mm + voxel_mm * np.argwhere(anatomy.brain))
        stated = geometry_around(brain_mm, orientations[name], spacing_mm[name])
        geometries[name] = stated
        seen = Geometry("axial", stated.axes @ motion.matrix, motion.inverse(stated.origin_mm), stated.spacing_mm,
                        stated.shape, stated.thickness_mm)  # fmt: skip
        inside = volume.sample(anatomy.brain.astype(np.float32), seen)
        brain = inside > 0.5
        shares = [volume.sample((tumour.labels == value).astype(np.float32), seen) for value in range(1, 4)]
        truth[name] = np.stack([1 - sum(shares), *shares]).argmax(0).astype(np.uint8) * brain
        signal = volume.sample(image, seen) / np.maximum(inside, 1e-6) + noise * rng.normal(size=seen.shape)
        pixels = np.where(brain, np.clip(np.rint(300 * signal), 1, 4095), 0).astype(np.uint16)
        repetition, echo, inversion = TIMES_MS[name]
        write_series(
            folder / f"series{number}", pixels,
            orientation=(*stated.axes[2], *stated.axes[1]), origin=tuple(stated.origin_mm),
            spacing_mm=tuple(stated.spacing_mm), SeriesInstanceUID=f"1.2.3.{number}", StudyInstanceUID="1.2.3",
            FrameOfReferenceUID="1.2.3.9", SeriesNumber=number, SeriesDescription=NAMES[name], PatientID="phantom",
            PatientName="Phantom", EchoTime=echo, RepetitionTime=repetition, InversionTime=inversion,
            ImageType=["ORIGINAL", "PRIMARY"], ContrastBolusAgent="gadobutrol" if name == "T1ce" else None,
        )  # fmt: skip
    return Study(folder, volume, images, tumour.labels, geometries, truth)


def geometry_around(brain_mm: np.ndarray, orientation, spacing_mm, margin: int = 2) -> Geometry:
    """A stack that holds the brain, two voxels of air around it."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    axes = np.stack([np.cross(row, column), column, row])
    along = brain_mm @ axes.T
    low, high, spacing = along.min(axis=0), along.max(axis=0), np.array(spacing_mm)
    shape = np.ceil((high - low) / spacing).astype(int) + 2 * margin
    first = (low + high) / 2 - (shape - 1) / 2 * spacing
    return Geometry("axial", axes, first @ axes, spacing, tuple(map(int, shape)), spacing_mm[0])

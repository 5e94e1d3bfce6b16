"""One synthetic patient as a hospital's study: four series of other planes and voxels, the head moved in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

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
class Head:
    """A head in T1ce's space. images: noise-free contrasts, 0 outside the brain; labels: classes, on the volume."""

    volume: Volume
    images: dict[str, np.ndarray]
    labels: np.ndarray

    @property
    def centre_mm(self) -> np.ndarray:
        return self.volume.first_mm + self.volume.voxel_mm * np.array(ndimage.center_of_mass(self.volume.brain))

    @property
    def brain_mm(self) -> np.ndarray:
        """All of the brain's voxels, (n, 3)."""
        return self.volume.first_mm + self.volume.voxel_mm * np.argwhere(self.volume.brain)

    def motion(self, name: str) -> Motion:
        """How the head had moved when a contrast was measured."""
        return Motion(MOTIONS[name].degrees, MOTIONS[name].mm, self.centre_mm)


def simple_head(seed: int = 0, shape=(60, 70, 56), voxel_mm: int = 2) -> Head:
    """An ellipsoid of three tissues in blobs with a layered tumour: made at once, and enough to be registered."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    brain = ((grid / (0.46 * np.array(shape).reshape(3, 1, 1, 1))) ** 2).sum(0) < 1
    blobs = ndimage.gaussian_filter(rng.normal(size=shape), 3.0)
    tissue = np.digitize(blobs / blobs.std(), (-0.4, 0.8))  # fluid, grey, white
    distance = np.sqrt(((grid - np.array([9, 6, 5]).reshape(3, 1, 1, 1)) ** 2).sum(0)) * voxel_mm
    labels = np.select([distance < 8, distance < 13, distance < 21], [1, 3, 2], 0).astype(np.uint8) * brain
    signal = {  # fluid, grey, white; NCR, ED, ET
        "FLAIR": ((0.3, 1.1, 0.9), (2.2, 2.1, 2.2)),
        "T1": ((0.4, 0.8, 1.2), (0.7, 0.7, 0.8)),
        "T1ce": ((0.4, 0.85, 1.1), (0.7, 0.7, 1.9)),
        "T2": ((3.0, 1.2, 0.8), (2.4, 2.0, 1.8)),
    }
    images = {
        name: (np.choose(labels, (np.choose(tissue, normal), *lesion)) * brain).astype(np.float32)
        for name, (normal, lesion) in signal.items()
    }
    return Head(
        Volume(-np.array(shape) * voxel_mm / 2 + rng.normal(0, 5, 3), voxel_mm, brain, labels > 0), images, labels
    )


def phantom_head(seed: int = 0, voxel_mm: int = 1) -> Head:
    """The anatomy and tumour of the embedded phantoms."""
    rng = np.random.default_rng(seed)
    pose = draw_pose(rng)
    foci = place_foci(rng, pose, "typical")
    anatomy = sample_anatomy(rng, push_tissue(rng, pose, foci), voxel_mm=voxel_mm)
    tumour = grow_tumour(rng, anatomy, foci, Growth(enhances=True))
    images = {name: anatomy.whole(vector) for name, vector in draw_contrasts(rng, anatomy, tumour).items()}
    first_mm = -np.array(anatomy.brain.shape) * voxel_mm / 2 + rng.normal(0, 5, 3)
    return Head(Volume(first_mm, voxel_mm, anatomy.brain, tumour.labels > 0), images, tumour.labels)


def write_study(
    folder: Path, head: Head, *, noise: float = 0.05, seed: int = 0, coarse: float = 1
) -> dict[str, np.ndarray]:
    """Write four series below a folder; returns the classes of each as it was measured, (image, row, column).

    coarse: how many times larger than SPACING_MM the voxels are.
    """
    rng, volume, truth = np.random.default_rng(seed), head.volume, {}
    spacing_mm = {name: tuple(coarse * side for side in sides) for name, sides in SPACING_MM.items()}
    for number, (name, image) in enumerate(head.images.items(), start=1):
        motion = head.motion(name)
        stated = geometry_around(motion(head.brain_mm), ORIENTATIONS[name], spacing_mm[name])
        seen = Geometry("axial", stated.axes @ motion.matrix, motion.inverse(stated.origin_mm), stated.spacing_mm,
                        stated.shape, stated.thickness_mm)  # fmt: skip
        inside = volume.sample(volume.brain.astype(np.float32), seen)
        shares = [volume.sample((head.labels == value).astype(np.float32), seen) for value in range(1, 4)]
        truth[name] = np.stack([1 - sum(shares), *shares]).argmax(0).astype(np.uint8)
        signal = volume.sample(image, seen) / np.maximum(inside, 1e-6) + noise * rng.normal(size=seen.shape)
        pixels = np.where(inside > 0.5, np.clip(np.rint(300 * signal), 1, 4095), 0).astype(np.uint16)
        repetition, echo, inversion = TIMES_MS[name]
        write_series(
            folder / f"series{number}", pixels,
            orientation=(*stated.axes[2], *stated.axes[1]), origin=tuple(stated.origin_mm),
            spacing_mm=tuple(stated.spacing_mm), SeriesInstanceUID=f"1.2.3.{number}", StudyInstanceUID="1.2.3",
            FrameOfReferenceUID="1.2.3.9", SeriesNumber=number, SeriesDescription=NAMES[name], PatientID="phantom",
            PatientName="Phantom", EchoTime=echo, RepetitionTime=repetition, InversionTime=inversion,
            ImageType=["ORIGINAL", "PRIMARY"], ContrastBolusAgent="gadobutrol" if name == "T1ce" else None,
        )  # fmt: skip
    return truth


def geometry_around(brain_mm: np.ndarray, orientation, spacing_mm, margin: int = 2) -> Geometry:
    """A stack that holds the brain, two voxels of air around it."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    axes = np.stack([np.cross(row, column), column, row])
    along = brain_mm @ axes.T
    low, high, spacing = along.min(axis=0), along.max(axis=0), np.array(spacing_mm)
    shape = np.ceil((high - low) / spacing).astype(int) + 2 * margin
    first = (low + high) / 2 - (shape - 1) / 2 * spacing
    return Geometry("axial", axes, first @ axes, spacing, tuple(map(int, shape)), spacing_mm[0])

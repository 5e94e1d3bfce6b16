"""The embedded cohort: synthetic glioma patients in BraTS's layout, on the MNI152 template that nilearn carries.

What they are: a real average anatomy (MNI152 2009: T1, grey and white matter) that every subject deforms in its own
way, given four contrasts, a tumour and a scanner's faults. Their difficulty is calibrated on real subjects (the figures
are in `tests/common/test_phantom.py`), so that a pipeline can be run, tested and timed without patient data.
What they are not: patients. Nothing measured on them says anything about a clinical question.

A subject is a pure function of (seed, subject):
anatomy -> deformation (`phantom_anatomy`) -> tumour (`phantom_tumour`) -> contrasts -> artefacts (here).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import scipy  # its parts when they are first used: a third of a second

from common import nifti
from common.labels import BRATS_2018
from common.phantom.anatomy import BOX, Anatomy, draw_pose, noise, sample_anatomy
from common.phantom.folder import fill
from common.phantom.tumour import Growth, Tumour, grow_tumour, place_foci, push_tissue

GENERATOR_VERSION = 2
"""Raise it whenever a change alters any voxel: a folder made by another version is then refused, not mixed."""

SHAPE = (240, 240, 155)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
"""BraTS's: 1 mm isotropic; the first index runs to the patient's left, the second to the back, the third upwards."""

CASES = (
    "typical",
    "no_et",
    "typical",
    "tiny_core",
    "typical",
    "two_foci",
    "typical",
    "saturated",
    "typical",
    "typical",
)
"""What subject i is: CASES[i % 10]. A schedule, not a draw, so that even ten subjects hold every hard case."""

# Intensity relative to the median of normal brain, from medians over real BraTS subjects.
_TISSUE = {  # white matter, grey matter, fluid
    "FLAIR": (0.92, 1.16, 0.20),
    "T1": (1.19, 0.86, 0.36),
    "T1ce": (1.12, 0.88, 0.38),
    "T2": (0.78, 1.17, 3.70),
}
_LESION = {  # ED, ET, NCR: mean over subjects and the SD between subjects
    "FLAIR": ((2.20, 0.48), (2.30, 0.42), (2.40, 0.48)),
    "T1": ((0.73, 0.08), (0.86, 0.09), (0.77, 0.08)),
    "T1ce": ((0.78, 0.06), (1.72, 0.20), (0.80, 0.10)),
    "T2": ((2.02, 0.34), (1.66, 0.20), (2.50, 0.36)),
}
_NOISE = {"FLAIR": 0.160, "T1": 0.075, "T1ce": 0.085, "T2": 0.120}  # SD before resampling, of the brain's median
_THICK = {"FLAIR": 0.85, "T1": 0.08, "T1ce": 0.04, "T2": 0.45}  # share of subjects scanned in slices of 3 to 5 mm
_SCALE = {"FLAIR": (210, 0.40), "T1": (350, 0.25), "T1ce": (410, 0.17), "T2": (260, 0.70)}  # median, SD of its log


@dataclass(frozen=True)
class Phantom:
    """One synthetic subject. images: contrast -> int16 (240, 240, 155), background exactly 0; labels: uint8 classes
    (0 background, 1 NCR, 2 ED, 3 ET) on the same grid; affine: (4, 4), voxel to mm in RAS+; case: one of CASES."""

    id: str
    images: dict[str, np.ndarray]
    labels: np.ndarray
    affine: np.ndarray
    case: str


def make_phantom(subject: int, *, seed: int) -> Phantom:
    """Synthetic subject number `subject` of the cohort `seed`; the same two numbers give the same voxels.

    Raises ValueError when either is negative.
    """
    if subject < 0 or seed < 0:
        raise ValueError(f"subject and seed must be 0 or more, got subject={subject} and seed={seed}.")
    rng = np.random.default_rng([seed, subject])
    case = CASES[subject % len(CASES)]
    pose = draw_pose(rng)
    foci = place_foci(rng, pose, case)
    anatomy = sample_anatomy(rng, push_tissue(rng, pose, foci))
    tumour = grow_tumour(rng, anatomy, foci, Growth(enhances=case != "no_et"))
    images = {}
    for contrast, vector in draw_contrasts(rng, anatomy, tumour).items():
        images[contrast] = np.zeros(SHAPE, np.int16)
        images[contrast][BOX] = _acquire(rng, contrast, anatomy.whole(vector), anatomy.brain, case)
    labels = np.zeros(SHAPE, np.uint8)
    labels[BOX] = tumour.labels
    return Phantom(_name(subject), images, labels, AFFINE.copy(), case)


def _name(subject: int) -> str:
    return f"Phantom_{subject:05d}"


# --- contrasts --------------------------------------------------------------------------------------------------------


def draw_contrasts(rng: np.random.Generator, anatomy: Anatomy, tumour: Tumour) -> dict[str, np.ndarray]:
    """Noise-free FLAIR, T1, T1ce and T2: vectors over brain voxels, relative to the median of normal brain."""
    wm, gm, csf, depth, ventricle = anatomy.wm, anatomy.gm, anatomy.csf, anatomy.depth, anatomy.ventricle

    def texture(spacing_mm: int) -> np.ndarray:
        return anatomy.noise(rng, spacing_mm)[anatomy.brain]

    fine, mottle, patches, regions = texture(2), texture(3), texture(6), texture(12)

    # normal structures, bright where one threshold would take them for tumour
    lining = np.exp(-np.square(ventricle / 1.6)) * (1 - csf)
    caps = scipy.special.expit((1 + 8 * anatomy.age - ventricle + 2.5 * patches) / 1.2) * wm
    spots = scipy.special.expit(6 * (texture(4) - 3.3 + 2.3 * anatomy.age)) * wm  # white matter hyperintensities
    tubes = np.minimum(np.square(texture(6)) + np.square(texture(5)), np.square(texture(4)) + np.square(texture(5)))
    vessels = np.exp(-tubes / 0.09) * np.minimum(scipy.special.expit((5 - depth) / 2) + csf * (ventricle > 3) + 0.12, 1)
    meninges = scipy.special.expit((2.5 - depth) / 0.6) * scipy.special.expit(
        4 * (texture(6) - 1.2)
    )  # left by the skull-stripper
    plexus = scipy.special.expit(6 * (texture(3) + 2.5 * anatomy.plexus - 2.2)) * (ventricle < -0.5)

    # signal fades over some mm where the rater drew one line
    fade = rng.uniform(1.2, 4.0)
    oedema = scipy.special.expit(-1.5 * (tumour.spread / fade + 0.2)) * (1 - csf) * (0.65 + 0.35 * wm)
    inside = scipy.special.expit(-tumour.core / 0.4)
    enhancing = scipy.special.expit(tumour.enhancing / 0.4)
    place_in_rim = np.clip(tumour.enhancing / tumour.rim, 0, 1)
    rim = 0.78 + 1.5 * place_in_rim * (1 - place_in_rim) + 0.16 * mottle + 0.08 * fine
    debris = 1 + 0.16 * patches + 0.07 * mottle + 0.06 * fine
    severity = rng.normal()  # FLAIR and T2 brighten together

    normal = {  # what each contrast adds to its tissues
        "FLAIR": 0.35 * lining
        + rng.uniform(0.3, 1.2) * caps
        + 0.9 * spots
        + gm * (0.12 * (depth > 8) + 0.12 * regions)
        + 0.9 * (plexus + meninges),
        "T1": -0.10 * caps - 0.12 * spots + 0.3 * plexus,
        "T1ce": 4.5 * vessels**2 + 3.5 * anatomy.sinus + 1.3 * plexus + 1.5 * meninges,
        "T2": 0.4 * caps + 0.5 * spots - 1.2 * plexus,
    }
    deep = 0.8 * (anatomy.t1 - 0.67) * np.clip((depth - 20) / 10, 0, 1) * gm
    images = {}
    for contrast, (white, grey, fluid) in _TISSUE.items():
        white, grey = np.array((white, grey)) * np.exp(rng.normal(0, 0.02, 2))
        fluid = fluid * np.exp(rng.normal(0, 0.15))
        image = white * wm + grey * gm + fluid * csf + normal[contrast]
        image += (0.04 if contrast == "FLAIR" else 0.03) * (fine + patches) * (1 - csf)
        if contrast in ("T1", "T1ce"):
            image += deep
        weighted = contrast in ("FLAIR", "T2")
        (ed, ed_sd), (et, et_sd), (ncr, ncr_sd) = _LESION[contrast]
        common = severity if weighted else rng.normal()
        ed = max(ed + ed_sd * (0.8 * common + 0.6 * rng.normal()), 1.32 * grey if weighted else 0)
        et = max(et + et_sd * (0.6 * common + 0.8 * rng.normal()), 1.4 if contrast == "T1ce" else 0)
        ncr = ncr + ncr_sd * rng.normal()
        uneven = 0.16 if weighted else 0.03
        change = (ed - (white + grey) / 2) * (1 + uneven * (patches + regions)) + 0.3 * uneven * (mottle + fine)
        image += oedema * change
        solid = ncr * debris + ((et * rim if contrast == "T1ce" else et * debris) - ncr * debris) * enhancing
        images[contrast] = (image + inside * (solid - image)).astype(np.float32)
    return images


# --- artefacts --------------------------------------------------------------------------------------------------------


def _acquire(rng: np.random.Generator, contrast: str, image: np.ndarray, brain: np.ndarray, case: str) -> np.ndarray:
    """int16, the box's shape: bias field, thick slices, Rician noise, resampling to 1 mm and the scanner's scale."""
    n_slices = image.shape[2]
    inhomogeneity = np.float32(rng.uniform(0.05, 0.13) if contrast == "FLAIR" else rng.uniform(0.03, 0.08))
    image = image * np.exp(inhomogeneity * noise(rng, image.shape, 30))
    thickness = int(rng.integers(3, 6)) if rng.random() < _THICK[contrast] else 1
    if thickness > 1:
        image = scipy.ndimage.uniform_filter1d(image, thickness, axis=2)[:, :, ::thickness]
    sigma = np.float32(_NOISE[contrast] * np.exp(rng.normal(0, 0.25)))
    real, imaginary = rng.standard_normal((2, *image.shape), np.float32) * sigma
    image = np.sqrt(np.square(image + real) + np.square(imaginary))
    # registration to the atlas interpolates: noise is blurred, in y more than in x, as in real subjects
    for axis, (low, high) in enumerate(((0.06, 0.16), (0.12, 0.24), (0.06, 0.20))):
        weight = rng.uniform(low, high)
        if axis < 2 or thickness == 1:
            image = scipy.ndimage.correlate1d(image, [weight, 1 - 2 * weight, weight], axis=axis)
    if thickness > 1:
        image = resample_slices(image, thickness, n_slices)
    median, spread = _SCALE[contrast]
    scale = np.float32(median * np.exp(rng.normal(0, spread)))
    if case == "saturated" and contrast in ("T1ce", "T2"):
        scale = np.float32(32767 / np.quantile(image[brain][::50], rng.uniform(0.985, 0.998)))
    return np.where(brain, np.clip(np.rint(image * scale), 1, 32767), 0).astype(np.int16)


def resample_slices(image: np.ndarray, thickness: int, n_slices: int) -> np.ndarray:
    """Slices `thickness` mm apart, linearly interpolated to n_slices of 1 mm."""
    position = np.minimum(np.arange(n_slices) / thickness, image.shape[2] - 1)
    low = np.minimum(position.astype(int), image.shape[2] - 2)
    weight = (position - low).astype(np.float32)
    return image[:, :, low] * (1 - weight) + image[:, :, low + 1] * weight


# --- the cohort on disk -----------------------------------------------------------------------------------------------


def write_cohort(folder: Path | str, *, n_subjects: int, seed: int, n_jobs: int = -1) -> Path:
    """Write subjects 0 .. n_subjects - 1 in BraTS 2021's layout and return the folder.

    <folder>/Phantom_00000/Phantom_00000_{flair,t1,t1ce,t2,seg}.nii.gz and so on, labels 1, 2, 4; cohort.json names the
    seed and the generator's version. Only missing subjects are made. A subject's folder appears by one rename, so a
    kill leaves no half of one and two processes may write the same cohort. Subjects beyond n_subjects, of an earlier
    call, stay. n_jobs: processes, -1 for one per core (about 0.7 GB of memory each).
    Raises ValueError when the folder holds a cohort of another seed or generator version, or n_subjects < 1.
    """
    if n_subjects < 1:
        raise ValueError(f"n_subjects must be at least 1, got {n_subjects}.")
    return fill(
        Path(folder),
        [_name(subject) for subject in range(n_subjects)],
        functools.partial(_write_subject, seed=seed),
        identity={"generator": "phantom", "version": GENERATOR_VERSION, "seed": seed},
        n_jobs=n_jobs,
        what="synthetic subjects",
    )


def _write_subject(subject: int, folder: Path, *, seed: int) -> None:
    write_phantom(make_phantom(subject, seed=seed), folder)


def write_phantom(phantom: Phantom, folder: Path) -> None:
    """A subject's five files, <folder>/<id>_flair.nii.gz and so on, labels 1, 2, 4."""
    header = nibabel.Nifti1Image(phantom.labels, phantom.affine).header
    for contrast, image in phantom.images.items():
        nifti.write(folder / f"{phantom.id}_{contrast.lower()}.nii.gz", image, like=header)
    nifti.write(folder / f"{phantom.id}_seg.nii.gz", BRATS_2018.from_classes(phantom.labels), like=header)

"""Small synthetic cohorts in BraTS's layout: ellipsoid brains with a layered tumour, quick to write and to learn."""

from pathlib import Path

import nibabel as nib
import numpy as np

LPS_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def make_subject(seed: int, shape: tuple[int, int, int] = (40, 48, 36)) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Four contrasts (int16, background 0) and BraTS labels (0, 1, 2, 4) of one subject."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    centre = np.array(shape).reshape(3, 1, 1, 1) / 2
    brain = (((grid - centre) / (0.42 * np.array(shape).reshape(3, 1, 1, 1))) ** 2).sum(0) < 1
    focus = centre + rng.uniform(-5, 5, (3, 1, 1, 1))
    distance = np.sqrt(((grid - focus) ** 2).sum(0))
    labels = np.select([distance < 2.5, distance < 4.5, distance < 7.5], [1, 4, 2], 0) * brain
    images = {}
    for name, gains in {
        "flair": (1.5, 1.6, 2.0),
        "t1": (0.6, 0.9, 0.8),
        "t1ce": (0.5, 2.2, 0.8),
        "t2": (2.5, 1.6, 2.0),
    }.items():
        image = rng.normal(100, 8, shape)
        for value, gain in zip((1, 4, 2), gains, strict=True):
            image[labels == value] *= gain
        images[name] = np.where(brain, np.clip(image, 1, None), 0).astype(np.int16)
    return images, labels.astype(np.uint8)


def write_subject(folder: Path, name: str, seed: int, *, affine: np.ndarray = LPS_AFFINE, **shape: tuple) -> None:
    images, labels = make_subject(seed, **shape)
    (folder / name).mkdir(parents=True)
    for suffix, data in {**images, "seg": labels}.items():
        nib.save(nib.Nifti1Image(data, affine), folder / name / f"{name}_{suffix}.nii.gz")


def write_cohort(folder: Path, subjects: int, **options: object) -> Path:
    """Subjects BraTS_000, BraTS_001, ... made with seeds 0, 1, ...; returns the folder."""
    for seed in range(subjects):
        write_subject(folder, f"BraTS_{seed:03d}", seed, **options)
    return folder

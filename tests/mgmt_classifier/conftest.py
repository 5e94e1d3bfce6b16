"""A tiny cohort whose label can be seen: methylated patients have a bright spot at one place in every image."""

import numpy as np
import pytest

from common.dicom.mgmt_cohort import Patient
from mgmt_classifier.config import Config
from mgmt_classifier.data import prepare
from tests.common.dicom.dicom_files import write_series

SHAPE = (40, 36)
SPOT = (slice(8, 18), slice(20, 30))  # rows and columns, of the images as they are written
N_IMAGES = 9


def write_patient(folder, *, methylated, seed, n_images=N_IMAGES, shape=SHAPE):
    """A head of noise; the first and last image are black. All four contrasts hold the same."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((n_images, *shape), np.uint16)
    pixels[1:-1, 3:-3, 3:-3] = rng.integers(300, 600, (n_images - 2, shape[0] - 6, shape[1] - 6))
    pixels[1:-1, 28:32, 6:10] = 1600  # the largest value, with or without a spot
    if methylated:
        pixels[1:-1, *SPOT] += 900
    for contrast in ("FLAIR", "T1w"):
        write_series(folder / contrast, pixels)
    return Patient(folder.name, {name: folder / name for name in ("FLAIR", "T1w")}, int(methylated))


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    """14 patients, every second one methylated."""
    folder = tmp_path_factory.mktemp("mgmt")
    return [write_patient(folder / f"{number:05}", methylated=number % 2 == 1, seed=number) for number in range(14)]


@pytest.fixture(scope="session")
def tiny():
    """Settings that learn the tiny cohort in seconds."""
    return Config(
        images=5,
        image_size=(32, 32),
        filters=4,
        first_stride=2,
        batch_size=4,
        learning_rate=3e-3,
        epochs=4,
        workers=0,
    )


@pytest.fixture(scope="session")
def labelled(patients, tiny, tmp_path_factory):
    """(entry, label) of every patient, prepared for the tiny settings."""
    store = prepare(patients, tiny.recipe, tmp_path_factory.mktemp("store"), n_jobs=1)
    return [(store.entries[patient.id], patient.label) for patient in patients]

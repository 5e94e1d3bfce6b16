import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.base.trainings import State
from tests.cohorts import write_cohort
from tests.common.dicom.dicom_files import write_series

ROOT = Path(__file__).parents[2]
N_PATIENTS = 24
TINY = (
    *("--preset", "demo", "--jobs", "2", "--model.spacing-mm", "None", "--model.crop-voxels", "24", "24", "24"),
    *("--model.encoder-blocks", "1", "1", "--model.decoder-blocks", "1", "--model.epochs", "2"),
    *("--model.crops-per-epoch", "2", "--model.validate-every", "1", "--model.workers", "0"),
    *("--model.network", "segresnet", "--model.supervised-levels", "1"),
)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Folder with six tiny subjects."""
    return write_cohort(tmp_path_factory.mktemp("experiments") / "cohort", 6)


def write_patient(folder, *, methylated, seed, images=9):
    """Series of the four contrasts in which methylation is a bright spot."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((images, 36, 40), np.uint16)
    pixels[1:-1, 3:-3, 3:-3] = rng.integers(300, 600, (images - 2, 30, 34))
    if methylated:
        pixels[1:-1, 8:18, 20:30] += 900
    for brighter, contrast in enumerate(("FLAIR", "T1w", "T1wCE", "T2w")):
        write_series(folder / contrast, np.where(pixels > 0, pixels + 10 * brighter, 0).astype(np.uint16))


@pytest.fixture(scope="session")
def competition(tmp_path_factory):
    """24 patients with labels, every second one methylated, and two without."""
    folder = tmp_path_factory.mktemp("competition")
    for number in range(N_PATIENTS + 2):
        write_patient(folder / "train" / f"{number:05}", methylated=number % 2 == 1, seed=number)
    rows = [(f"{number:05}", number % 2) for number in range(N_PATIENTS)]
    pd.DataFrame(rows, columns=["BraTS21ID", "MGMT_value"]).to_csv(folder / "train_labels.csv", index=False)
    return folder


@pytest.fixture
def run_module(tmp_path):
    """Run ``python -m module arguments`` in an empty folder; returns the completed process."""

    def run(module, *arguments):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1200, check=False
        )

    return run


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def here(train):
    """Stands in for ``trainings.run`` where that trainings are processes is not what is tested: each takes seconds."""

    def run(trainings, placement=None):
        for each in trainings:
            if not each.is_finished:
                train(each.folder)
        return {each.name: State("finished") for each in trainings}

    return run

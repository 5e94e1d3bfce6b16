import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cohorts import write_cohort

ROOT = Path(__file__).parents[2]
TINY = (
    *("--preset", "demo", "--jobs", "2", "--model.spacing-mm", "None", "--model.crop-voxels", "24", "24", "24"),
    *("--model.encoder-blocks", "1", "1", "--model.decoder-blocks", "1", "--model.epochs", "2"),
    *("--model.crops-per-epoch", "2", "--model.validate-every", "1", "--model.workers", "0"),
)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Folder with six tiny subjects."""
    return write_cohort(tmp_path_factory.mktemp("experiments") / "cohort", 6)


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

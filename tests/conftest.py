"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real scans, named by GLIOMA_REAL_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("GLIOMA_REAL_DATA")
    if not folder:
        pytest.skip("needs real scans: set GLIOMA_REAL_DATA to their folder")
    if not Path(folder).is_dir():
        pytest.fail(f"GLIOMA_REAL_DATA names {folder}, which is no folder")
    return Path(folder)

"""The wheel, installed into a new environment of each Python that the project supports, outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.files import read_json

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "segresnet_monai", "unet_tf", "mgmt_classifier", "experiments")
PYTHONS = ("3.11", "3.12", "3.13")


def interpreter(version: str) -> str | None:
    """Where a Python is, among pyenv's or on the path."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    # pyenv's own are on the path too, as words that run nothing unless that version is chosen.
    return next(map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))), None) or shutil.which(f"python{version}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages(wheel):
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.partition("/")[0] in PACKAGES}
    assert held == set(tracked.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_trains_and_scores_outside_the_checkout(wheel, tmp_path, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    bin = tmp_path / "venv" / "bin"
    pip = [bin / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    for what in ("torch", f"{wheel}[segresnet]"):
        subprocess.run([*pip, what], check=True)
    place = tmp_path / "elsewhere"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def suite(*words: str) -> str:
        command = [bin / "glioma-suite", *words]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True).stdout

    assert "table1-baseline" in suite("--help")
    assert "mean_dice" in suite("list")
    suite("table1-baseline", "--max-subjects", "6", "--model.epochs", "1", "--model.crops-per-epoch", "4")
    assert "finished" in suite("list")
    assert "report" in suite("report")
    (run,) = place.glob("runs/table1_baseline/*/environment.json")
    assert read_json(run, list)[0]["python"].startswith(version)
    assert (place / "report" / "index.html").exists()

"""Kills at any moment: the same command goes on, and its numbers are those of an undisturbed run, bit for bit."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import psutil
import pytest

from tests.experiments.conftest import environment

KILLS = 10
VARIATIONS = (
    *("--preset", "demo", "--jobs", "1", "--model.baseline.spacing-mm", "None"),
    *("--model.baseline.crop-voxels", "24", "24", "24", "--model.baseline.encoder-blocks", "1", "1"),
    *("--model.baseline.decoder-blocks", "1", "--model.baseline.epochs", "4", "--model.baseline.workers", "0"),
    *("--model.baseline.crops-per-epoch", "8", "--model.baseline.validate-every", "1", "--model.slices", "8", "28"),
    *("--model.crop-slices", "20", "--model.further-epochs", "2", "--rows", "slices80_extended", "gwdl"),
)
GRID = (
    *("--preset", "demo", "--jobs", "1", "--model.contrasts", "FLAIR", "T2w", "--model.images", "5"),
    *("--model.batch-sizes", "4", "--model.cell.image-size", "32", "32", "--model.cell.filters", "4"),
    *("--model.cell.epochs", "6"),
)
MEASURED = ("seconds_per_step", "peak_memory_mib", "training_time")  # another time in every run


def numbers(folder):
    """Everything that a run has computed, by file: tensors, label maps, tables and results."""
    import torch

    found = {}
    for path in sorted(folder.rglob("*.pt")):
        for name, tensor in torch.load(path, weights_only=True, map_location="cpu").items():
            found[f"{path.relative_to(folder)} {name}"] = tensor.numpy().tobytes()
    for path in sorted(folder.rglob("predictions/**/*.nii.gz")):
        found[str(path.relative_to(folder))] = np.asarray(nib.load(path).dataobj).tobytes()
    for name in ("cases.csv", "scores.csv", "predictions.csv", "threshold.json", "grid.csv", "comparisons.csv"):
        for path in sorted(folder.rglob(name)):
            found[str(path.relative_to(folder))] = path.read_text()
    for path in sorted(folder.rglob("summary.json")):
        for line in json.loads(path.read_text()):
            if not line["key"].endswith(MEASURED):
                found[f"{path.relative_to(folder)} {line['key']}"] = line
    return found


def trainings(process):
    """Processes of single trainings below the command's."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if "experiments.train" in each.cmdline():
                found.append(each)
        except psutil.Error:
            continue
    return found


def kill(process, generator, whole, runs):
    """Wait for a moment, and kill the command or one of its trainings; what was killed, None where it ended before.

    Half of the moments are any of an undisturbed run, of which half is the start; the others are in the first second
    after an epoch has ended.
    """
    moment = time.monotonic() + generator.uniform(0, whole)
    epochs = generator.random() < 0.5
    began, delay = time.time(), generator.random()
    while time.monotonic() < moment:
        if process.poll() is not None:
            return None
        if epochs and any(path.stat().st_mtime > began for path in runs.rglob("history.csv")):
            time.sleep(delay)
            break
        time.sleep(0.02)
    below = trainings(process) if process.poll() is None else []
    of_training = generator.random() < 0.5 and below
    target = generator.choice(below) if of_training else process
    try:
        target.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    return "training" if of_training else "command"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["table1_variations", "mgmt_grid"])
def test_ten_kills_change_no_number(module, cohort, competition, tmp_path, capsys):
    pytest.importorskip("monai", reason="needs the extras segresnet and mgmt")
    data, settings = (cohort, VARIATIONS) if module == "table1_variations" else (competition, GRID)

    def start(name):
        command = ["-m", f"experiments.{module}", "--data", data, *settings, "--runs", tmp_path / name]
        command += ["--prepared", tmp_path / "prepared", "--at-once", "2"]
        with (tmp_path / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *map(str, command)], env=environment(), cwd=tmp_path, stdout=output, stderr=output
            )

    def finished(name):
        (folder,) = (tmp_path / name / module).iterdir()
        return numbers(folder)

    began = time.monotonic()
    assert start("undisturbed").wait(timeout=600) == 0, (tmp_path / "output").read_text()
    whole = time.monotonic() - began
    expected = finished("undisturbed")
    assert any(".pt " in name for name in expected)

    generator, killed = random.Random(7), []
    while len(killed) < KILLS:
        process = start("killed")
        try:
            what = kill(process, generator, whole, tmp_path / "killed")
            process.wait(timeout=600)
        finally:
            process.kill()
        killed += [what] if what else []
        if what is None:
            assert finished("killed") == expected
            shutil.rmtree(tmp_path / "killed")
    assert start("killed").wait(timeout=600) == 0, (tmp_path / "output").read_text()
    found = finished("killed")
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    with capsys.disabled():
        print(f"\n{module}: {killed.count('command')} kills of the command, {killed.count('training')} of a training; ")
        print(f"{len(expected)} numbers and files are equal; undisturbed {whole:.0f} s")
    assert {"command", "training"} == set(killed)

"""The command of one training: what its folder says is done, and what it cannot do is said."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from common.runs import Run, RunError
from experiments.train import is_shared
from tests.experiments.conftest import ROOT

FUNCTIONS = """
import os, sys

def works(folder):
    try:
        import tensorflow
    except ImportError:
        found = False
    else:
        found = True
    (folder / "result").write_text(f"{os.environ['KERAS_BACKEND']} {found}")

def refuses(folder):
    from common.runs import RunError
    raise RunError(f"{folder.name}: gone")

def opens(folder):
    from common.runs import Run
    Run(folder)
"""
PROGRAM = """
import sys
from experiments import train
train.KINDS = {name: f"functions:{name}" for name in ("works", "refuses", "opens")}
train.main()
"""


@pytest.fixture
def train(tmp_path):
    """Run the command on a folder of the settings, with FUNCTIONS as the kinds of training."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "tensorflow.py").touch()  # need not be installed
    folder = tmp_path / "training"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def run(settings):
        if settings is not None:
            (folder / "config.json").write_text(json.dumps(settings))
        command = [sys.executable, "-c", PROGRAM, folder]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False), folder

    return run


@pytest.mark.parametrize(("backend", "found"), [("tensorflow", True), ("torch", False), ("jax", False), (None, False)])
def test_only_tensorflows_trainings_may_import_it(train, backend, found):
    done, folder = train({"kind": "works"} | ({} if backend is None else {"backend": backend}))
    assert done.returncode == 0, done.stderr
    assert (folder / "result").read_text() == f"{backend or 'torch'} {found}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "refuses"}, "error: training: gone"),
        ({"kind": "other"}, "expected the folder of a training (works, refuses, opens), found 'other'"),
        ({}, "found None"),
        ({"kind": ["works"]}, "found ['works']"),
        ({"kind": "works", "backend": 5}, "expected a backend (tensorflow, torch, jax), found 5"),
        ([], "config.json: expected a dict in JSON, found a list"),
        (None, "expected the folder of a training with its config.json, found no"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(train, settings, message):
    done, _ = train(settings)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_training_that_another_process_works_on_has_a_status_of_its_own(train):
    _, folder = train(None)
    with Run(folder):
        done, _ = train({"kind": "opens"})
    assert done.returncode == 75
    assert "another process is working on this run" in done.stderr
    assert train({"kind": "opens"})[0].returncode == 0


@pytest.mark.parametrize(
    ("kind", "model", "size", "message"),
    [
        ("segresnet", {"devices": 1}, 2, "expected one process, found 2 of torchrun: its work is not shared"),
        ("segresnet", {"devices": 2, "nodes": 1}, 1, "expected 2 processes for 2 devices on each of 1 nodes"),
        ("segresnet", {"devices": 1, "nodes": 1}, 2, "expected 1 processes for 1 devices on each of 1 nodes"),
        ("segresnet", {"devices": "two", "nodes": 1}, 2, "expected numbers of devices and nodes, found 'two' and 1"),
        ("unet", {"devices": 2, "nodes": 1}, 2, "expected 1 processes for 1 devices on each of 1 nodes"),
        ("unet", {"devices": 2, "nodes": 2}, 4, "expected 2 processes for 1 devices on each of 2 nodes"),
    ],
)
def test_other_processes_than_those_asked_for_are_refused(tmp_path, monkeypatch, kind, model, size, message):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RunError, match=message):
        is_shared(tmp_path, kind, "jax", model)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_a_unet_is_shared_by_a_process_for_each_node(tmp_path, monkeypatch, backend):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    refused = pytest.raises(RunError, match=r"KERAS_BACKEND=jax for 2 nodes \(model.nodes\), found tensorflow")
    with refused if backend == "tensorflow" else contextlib.nullcontext():
        assert is_shared(tmp_path, "unet", backend, {"devices": 4, "nodes": 2})


def test_what_the_processes_are_missing_is_said_in_one_line(train):
    done, folder = train({"kind": "works", "model": {"devices": 2, "nodes": 1}})
    assert done.returncode == 1
    assert "error: expected 2 processes for 2 devices on each of 1 nodes" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "result").exists()

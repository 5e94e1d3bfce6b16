"""One training in two processes on JAX ends where one process does; how it goes on, and how it ends."""

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("jax")

from common.runs import RunError, configuration_hash
from unet_tf.config import Config, check_nodes

PATIENCE = 500.0
# Trains in folders of the one that it is given, one after the other; some are there already, half trained.
PROGRAM = """
import pickle, shutil, sys
from pathlib import Path

sys.modules["tensorflow"] = None  # as in experiments.train
from common.processes import started, together
from common.runs import Run
from tests.shared_trainings import keep_half

place, *names = map(Path, sys.argv[1:])

def work():
    from unet_tf.train import fit
    keep_half(place / "half.copy")
    for name in map(str, names):
        train, validation, config = pickle.loads((place / name).with_suffix(".pickle").read_bytes())
        if name == "half":
            shutil.copytree(place / "half.copy", place / name)
        with Run(place / name) as run:
            fit(train, validation, config, run)

if started().size == 1:
    work()
else:
    from unet_tf.distributed import join
    together(work, join)
"""


def start(place, *names, **environment):
    said = f"said{environment.get('RANK', '')}.txt"
    with (place / said).open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, place, *names],
            env=os.environ | {"KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"} | environment,
            stdout=file,
            stderr=file,
        )


@pytest.fixture(scope="module")
def trained(config_3d, entries_of, tmp_path_factory):
    """Folder of trainings, and how two processes ended: each 20 steps, by two (two) and by one (one), by two that
    stopped half-way (half), and by one that went on from there (mixed); then the second was asked to end (endless)."""
    place = tmp_path_factory.mktemp("trained")
    config = replace(config_3d, levels=1, batch_size=2, epochs=4, patience=None, learning_rate=1e-3)
    entries = entries_of(config)
    settings = {"one": config, "mixed": config, "two": replace(config, nodes=2), "half": replace(config, nodes=2)}
    for name, each in (settings | {"endless": replace(config, nodes=2, epochs=10000)}).items():
        given = [entries[n % 4] for n in range(10)], entries[4:], each
        (place / f"{name}.pickle").write_bytes(pickle.dumps(given))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    names = ("two", "half", "endless")
    both = [start(place, *names, RANK=rank, MASTER_PORT=port, **shared) for rank in "01"]
    until = time.monotonic() + PATIENCE
    try:
        while not (place / "endless" / "history.csv").exists():
            assert all(process.poll() is None for process in both), said(place, 0) + said(place, 1)
            assert time.monotonic() < until
            time.sleep(0.1)
        both[1].send_signal(signal.SIGTERM)
        codes = [process.wait(PATIENCE) for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    shutil.copytree(place / "half.copy", place / "mixed")
    assert start(place, "one", "mixed").wait(PATIENCE) == 0, said(place, "")
    return place, codes


def said(place, rank):
    return (place / f"said{rank}.txt").read_text()[-3000:]


def weights(folder):
    with np.load(folder / "checkpoints" / "last.npz") as saved:
        return [saved[name] for name in saved.files if name != "progress"]


def history(folder):
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "mixed"])
def test_two_processes_end_where_one_does(trained, name):
    """With dropout, and where one goes on with what two have begun."""
    place, _ = trained
    assert history(place / "one")["steps"].sum() == 20
    for found, expected in zip(weights(place / name), weights(place / "one"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(history(place / name), history(place / "one"), rtol=1e-4)


@pytest.mark.slow
def test_two_processes_go_on_as_if_they_had_not_stopped(trained):
    place, _ = trained
    for found, expected in zip(weights(place / "half"), weights(place / "two"), strict=True):
        np.testing.assert_array_equal(found, expected)
    pd.testing.assert_frame_equal(history(place / "half"), history(place / "two"))


@pytest.mark.slow
def test_a_process_that_ends_ends_the_other(trained):
    place, codes = trained
    assert codes[1] == -signal.SIGTERM
    assert codes[0] != 0
    assert "stopped: another process of this training has ended" in said(place, 0)


def test_what_cannot_train_together_is_refused_before_anything_is_read():
    for backend in ("tensorflow", "torch"):
        with pytest.raises(RunError, match=f"KERAS_BACKEND=jax for 2 nodes .* found {backend}"):
            check_nodes(2, backend)
    check_nodes(2, "jax")
    check_nodes(1, "tensorflow")
    with pytest.raises(ValueError, match="nodes to be 1 beside random crops"):
        Config(crop_voxels=(16, 16, 16), patience=None, nodes=2)
    with pytest.raises(ValueError, match="batch_size to be a multiple of the 4 devices of all nodes, received 6"):
        Config(batch_size=6, devices=2, nodes=2)


def test_a_run_keeps_its_name_on_several_hosts():
    assert configuration_hash(Config(nodes=2)) == configuration_hash(Config())

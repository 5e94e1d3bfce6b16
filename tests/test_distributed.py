"""One training in two processes ends where one process does; what they share, what each may read, and how they end."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from common.cohort import find_subjects  # noqa: E402
from common.epochs import Epochs  # noqa: E402
from common.prepared import prepare  # noqa: E402
from common.recipe import Recipe  # noqa: E402
from segresnet_monai.data import Rounds  # noqa: E402
from tests.cohorts import write_cohort  # noqa: E402
from tests.shared_trainings import MGMTS, SEGRESNETS, keep_half, mgmt, segresnet  # noqa: E402

PATIENCE = 500.0
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    cohort, store = (tmp_path_factory.mktemp(name) for name in ("cohort", "store"))
    return list(prepare(find_subjects(write_cohort(cohort, 5)).subjects, Recipe(), store, n_jobs=1).entries.values())


def start(what, folder, entries, *launcher, **environment):
    """The program of both processes, by torchrun, or one of them where the environment says which."""
    (folder / "entries").write_bytes(pickle.dumps(entries))
    with (folder / f"said{environment.get('RANK', '')}.txt").open("w") as said:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "tests.shared_trainings", what, folder, folder / "entries"],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=said,
            stderr=said,
            cwd=Path(__file__).parents[1],
        )


@pytest.fixture(scope="module")
def trained(entries, tmp_path_factory):
    """Folders of the trainings by one process, and of the same by two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    finish = keep_half(two / "resumed")
    try:
        segresnet("plain", one / "plain", entries)
    finally:
        Epochs.finish = finish
    for what in ("segresnet", "mgmt"):
        assert start(what, two, entries, *TORCHRUN).wait(PATIENCE) == 0, (two / "said.txt").read_text()[-3000:]
        (two / "said.txt").rename(two / f"{what}.txt")
    for name in ("pocket", "hausdorff"):
        segresnet(name, one / name, entries)
    for name in MGMTS:
        mgmt(name, one / name)
    return one, two


def differences(one, two):
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (one, two)]
    assert states[0].keys() == states[1].keys()
    return {key: float((states[0][key].double() - states[1][key].double()).abs().max()) for key in states[0]}


def history(folder):
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


@pytest.mark.parametrize("name", SEGRESNETS)
def test_a_segresnet_ends_where_one_process_does(trained, name):
    """With dropout too: every process draws for all crops of the step."""
    one, two = (folder / name for folder in trained)
    assert name != "plain" or history(one)["steps"].sum() == 20
    assert max(differences(one, two).values()) < 1e-5
    pd.testing.assert_frame_equal(history(one), history(two), rtol=1e-3)  # Dice counts voxels


@pytest.mark.parametrize("name", MGMTS)
def test_an_mgmt_model_ends_where_one_process_does(trained, name):
    one, two = (folder / name for folder in trained)
    # A bias before a batch normalisation has no effect and no gradient but rounding, which Adam makes whole steps of.
    without_effect = "downsample.0.bias", "downsample.1.running_mean"
    found = {key: value for key, value in differences(one, two).items() if not key.endswith(without_effect)}
    assert len(found) > 20
    assert max(found.values()) < 1e-5
    columns = ["loss", "accuracy", "auc", "steps"]
    pd.testing.assert_frame_equal(history(one)[columns], history(two)[columns], rtol=1e-4)


def test_a_training_goes_on_with_another_number_of_processes(trained, entries):
    one, two = trained
    assert len(history(two / "half")) == 2
    segresnet("plain", two / "half", entries)  # begun by two, ended by one
    for ended in ("half", "resumed"):
        assert max(differences(one / "plain", two / ended).values()) < 1e-5
        pd.testing.assert_frame_equal(history(one / "plain"), history(two / ended), rtol=1e-3)


def test_each_process_reads_its_own_crops(trained):
    _, two = trained
    order = Rounds(3, length=9)
    wanted = [[], []]
    for epoch in range(4):
        order.set_epoch(epoch)
        positions = list(order)
        for rank in range(2):
            wanted[rank] += positions[rank::2]
        wanted[1].append(positions[8])  # the last step has one crop, of which the second process makes nothing
    for rank in range(2):
        read = np.loadtxt(two / f"crops{rank}.txt", dtype=int)
        assert [tuple(position) for position in read[: len(wanted[rank])]] == wanted[rank]


def test_only_the_first_process_writes(trained):
    _, two = trained
    assert len(list((two / "plain" / "tensorboard").glob("events*"))) == 1
    assert not list((two / "plain").rglob("*.part"))
    assert (two / "segresnet.txt").read_text().count("training: epoch 4 of 4,") == 2


@pytest.mark.parametrize("what", ["fails", "killed"])
def test_a_process_that_ends_ends_the_other(entries, tmp_path, what):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    running = [start(what, tmp_path, entries, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    if what == "killed":
        began = time.monotonic()
        while not (tmp_path / "crops1.txt").exists():
            assert time.monotonic() - began < PATIENCE
            time.sleep(0.05)
        running[1].send_signal(signal.SIGKILL)
    codes = [process.wait(PATIENCE) for process in running]
    said = [(tmp_path / f"said{rank}.txt").read_text() for rank in range(2)]
    assert codes == [1, 1 if what == "fails" else -signal.SIGKILL]
    assert "stopped: another process of this training has ended" in said[0]
    assert "Traceback" not in said[0]
    if what == "fails":
        assert f"error: {entries[4].id}: something is wrong" in said[1]

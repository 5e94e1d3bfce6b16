"""Trainings on a real Ray cluster of three nodes on this machine, and on one that the command starts."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from common.runs import RunError
from experiments.base.engines import run
from experiments.base.on_ray import MOVES
from experiments.base.trainings import WHERE, Placement, Training, python, require
from tests.clusters import ray_nodes
from tests.experiments.conftest import environment

# Goes on from the step that it has noted, as a training does from its last epoch.
PROGRAM = """
import experiments, os, pathlib, sys, time
from common.runs import Run, RunInUseError
folder, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
try:
    run = Run(folder)
except RunInUseError:
    sys.exit(75)
done = folder / "done"
for step in range(int(done.read_text()) if done.exists() else 0, steps):
    time.sleep(0.1)
    with (folder / "steps").open("a") as file:
        print(step, os.environ["OMP_NUM_THREADS"], file=file)
    (folder / "new").write_text(str(step + 1))
    os.replace(folder / "new", done)
(folder / "summary.json").write_text("{}")
"""


def training(folder, name, *, steps=1, **needs):
    argv = python("-c", PROGRAM, folder / name, steps)
    return Training(name=name, argv=argv, folder=folder / name, **{"memory_gib": 0.1, **needs})


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch, ray_nodes() as nodes:
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes


RAY = Placement(on="ray")


def test_order_failures_and_logs_are_those_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    failing = Training(name="fails", argv=python("-c", "exit('error: no scans')"), folder=tmp_path / "fails")
    wanted = [
        training(tmp_path, "last", after=("first",)),
        training(tmp_path, "first"),
        failing,
        training(tmp_path, "needs", after=("fails",)),
    ]
    states = {name: str(each) for name, each in run(wanted, RAY).items()}
    assert states == {
        **dict.fromkeys(("last", "first"), "finished"),
        "fails": "failed: exit status 1: error: no scans",
        "needs": "not run: it needs fails",
    }
    assert (tmp_path / "fails" / "log.txt").read_text() == "error: no scans\n"
    assert (tmp_path / "fails" / "failure.txt").read_text() == "exit status 1: error: no scans\n"
    assert json.loads((tmp_path / "first" / WHERE).read_text())["on"] == "ray"


@pytest.mark.slow
def test_a_node_that_dies_costs_no_finished_step(cluster, tmp_path):
    wanted = [training(tmp_path, f"t{number}", steps=30) for number in range(3)]
    killed = []

    def watch(states):
        if not killed and all((each.folder / "done").exists() for each in wanted):
            killed.append(cluster.nodes[0])
            cluster.kill(0)
            cluster.add()

    until = time.monotonic() + 60
    from experiments.base import scheduler

    polled = scheduler.time.sleep

    def sleep(seconds):
        watch({})
        polled(seconds)
        assert time.monotonic() < until

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler.time, "sleep", sleep)
        require(run(wanted, RAY))
    assert killed
    moved = [each for each in wanted if (each.folder / MOVES).exists()]
    assert len(moved) == 1
    assert "was lost" in (moved[0].folder / MOVES).read_text()
    for each in wanted:
        assert [int(line.split()[0]) for line in (each.folder / "steps").read_text().splitlines()] == list(range(30))


def start(folder, steps):
    """The command, with a training that goes on until it is ended; it has begun."""
    program = (
        "import sys; from pathlib import Path; from experiments.base.engines import run;"
        "from tests.experiments.base.test_ray import RAY, training;"
        "run([training(Path(sys.argv[1]), 'a', steps=int(sys.argv[2]))], RAY)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), str(steps)], env=environment())
    until = time.monotonic() + 120
    while not (folder / "a" / "done").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_the_command_ended_ends_its_trainings_and_again_goes_on(cluster, tmp_path):
    process = start(tmp_path, 40)
    process.kill()
    process.wait()
    require(run([training(tmp_path, "a", steps=40)], RAY))
    steps = [int(line.split()[0]) for line in (tmp_path / "a" / "steps").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(40))
    assert len(steps) <= 41  # at most the step in which it was


@pytest.mark.slow
def test_a_head_that_is_killed_ends_the_command_and_on_another_cluster_nothing_is_trained_twice(tmp_path, monkeypatch):
    """What still runs on the old one is waited for."""
    with ray_nodes(1) as old:
        monkeypatch.setenv("RAY_ADDRESS", old.address)
        process = start(tmp_path, 1000)
        old.kill_head()
        assert process.wait(timeout=120) != 0
        seen = []
        with ray_nodes(1) as new:
            monkeypatch.setenv("RAY_ADDRESS", new.address)
            wanted = [training(tmp_path, name, steps=1000 if name == "a" else 1) for name in "ab"]
            require(run(wanted, RAY, watch=lambda states: seen.append(str(states["a"]))))
    assert "elsewhere: another command is working on it" in seen
    steps = [int(line.split()[0]) for line in (tmp_path / "a" / "steps").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1000))
    assert len(steps) <= 1001


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"devices": 2}, "expected a node with 2 cores.*for big, found at most 1 cores"),
        ({"cores": 2}, "expected a node with 2 cores.*for big, found at most 1 cores"),
        ({"memory_gib": 900}, "expected a node with 1 cores, 0 GPUs and 900.0 GiB"),
    ],
)
def test_what_no_node_can_hold_is_refused(cluster, tmp_path, needs, message):
    with pytest.raises(RunError, match=message):
        run([training(tmp_path, "big", **needs)], RAY)
    assert not (tmp_path / "big").exists()


@pytest.mark.slow
def test_other_versions_on_a_node_are_one_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.base.on_ray.versions", lambda: {"python": "3.11.0", "numpy": "1.0"})
    with pytest.raises(RunError, match=r"expected the versions of this machine, found .*numpy .* in place of 1\.0"):
        run([training(tmp_path, "a")], RAY)
    assert not (tmp_path / "a").exists()


@contextmanager
def nowhere(folder):
    """In place of the file by which nodes are asked: one that no node sees."""
    yield folder / "unseen"


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_one_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.base.on_ray.token_file", nowhere)
    with pytest.raises(RunError, match=rf"Ray node .*: expected to see {tmp_path} as here \(a shared folder\)"):
        run([training(tmp_path, "a")], RAY)
    assert not (tmp_path / "a").exists()


def test_without_ray_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"--on ray: expected the package ray \(pip install '\.\[ray\]'\), found: "):
        run([training(tmp_path, "a")], RAY)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("address", ["127.0.0.1:9", "head", "127.0.0.1:999999"])
def test_a_wrong_address_is_one_error(tmp_path, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=f"RAY_ADDRESS={address}: expected HOST:PORT of a running Ray cluster, found: "):
        run([training(tmp_path, "a")], RAY)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("says", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_another_server_at_the_address_is_one_error(tmp_path, monkeypatch, says):
    """The last one says nothing and keeps the connection."""
    monkeypatch.setattr("experiments.base.on_ray.CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        answered = pool.submit(lambda: (connection := server.accept()[0], connection.sendall(says))[0])
        with pytest.raises(
            RunError, match=f"RAY_ADDRESS={address}: expected HOST:PORT of a running Ray cluster, found: "
        ):
            run([training(tmp_path, "a")], RAY)
        answered.result().close()
    assert os.listdir(tmp_path) == []

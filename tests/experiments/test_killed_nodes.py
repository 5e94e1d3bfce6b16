"""Nodes, jobs, heads and commands killed in the middle of trainings: the numbers are those of an undisturbed run."""

import os
import random
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from experiments.base.on_ray import MOVES
from tests.clusters import ray_nodes
from tests.experiments.conftest import environment
from tests.experiments.test_killed import GRID, VARIATIONS, numbers

pytestmark = pytest.mark.slow
NODE_KILLS = 5
# Epochs of a known length at no cost, so that every kill comes in the middle of a training on any machine.
SLOW = """
import sys
if "experiments.train" in sys.orig_argv:
    import time
    from common.runs import History
    append = History.append
    def slow(self, row):
        append(self, row)
        time.sleep({seconds})
    History.append = slow
"""


@pytest.fixture
def command(cohort, competition, tmp_path):
    """Start an experiment's command on tiny data, with epochs that last; numbers of what it has made."""
    pytest.importorskip("monai", reason="needs the extras segresnet and mgmt")

    given = {"table1_variations": (cohort, VARIATIONS), "mgmt_grid": (competition, GRID)}

    class Command:
        output = tmp_path / "output"

        def start(self, module, name, *words, epoch_seconds=0.0, **variables):
            data, settings = given[module]
            (tmp_path / "slow").mkdir(exist_ok=True)
            (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW.format(seconds=epoch_seconds))
            own = environment() | variables
            own["PYTHONPATH"] = os.pathsep.join((str(tmp_path / "slow"), own["PYTHONPATH"]))
            argv = [sys.executable, "-m", f"experiments.{module}", "--data", data, *settings, *words]
            argv += ["--runs", tmp_path / name, "--prepared", tmp_path / "prepared"]
            with self.output.open("ab") as output:
                return subprocess.Popen(list(map(str, argv)), env=own, cwd=tmp_path, stdout=output, stderr=output)

        def run(self, *words, status=0, **options):
            assert self.start(*words, **options).wait(timeout=540) == status, self.said()
            return self.numbers(*words[:2])

        def numbers(self, module, name):
            (folder,) = (tmp_path / name / module).iterdir()
            return numbers(folder)

        def said(self):
            return self.output.read_text()

    return Command()


def differing(found, expected):
    assert any(".pt " in name for name in expected)
    return [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]


def trains(processes):
    """Whether one of the processes is a training."""
    for each in processes:
        try:
            if "experiments.train" in each.cmdline():
                return True
        except psutil.Error:
            continue
    return False


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s"
        time.sleep(0.1)


@pytest.mark.parametrize("module", ["table1_variations", "mgmt_grid"])
def test_nodes_of_a_ray_cluster_that_die_change_no_number(module, command, tmp_path, capsys):
    began = time.monotonic()
    expected = command.run(module, "undisturbed", "--at-once", "2")
    generator, killed, moves = random.Random(11), [], {}
    with ray_nodes() as cluster:
        while len(killed) < NODE_KILLS:
            shutil.rmtree(tmp_path / "killed", ignore_errors=True)
            process = command.start(module, "killed", "--on", "ray", epoch_seconds=1.5, RAY_ADDRESS=cluster.address)
            while process.poll() is None:
                if len(killed) < NODE_KILLS and (
                    busy := [node for node in range(3) if trains(cluster.processes(node))]
                ):
                    time.sleep(generator.uniform(0, 8))
                    how = generator.choice((cluster.kill, cluster.kill_all))
                    if process.poll() is None:
                        how(generator.choice(busy))
                        killed.append(how.__name__)
                        cluster.add()
                time.sleep(0.2)
            assert process.returncode == 0, command.said()
            assert differing(command.numbers(module, "killed"), expected) == []
            found = list((tmp_path / "killed").rglob(MOVES))
            moves |= {(len(killed), path.parent.name): path.read_text().count("was lost") for path in found}
    told = set(re.findall(r"^(\S+) +running: moved \d+ times, as \S+ was lost", command.said(), re.MULTILINE))
    assert told == {name for _, name in moves}
    with capsys.disabled():
        print(f"\n{module}: {killed}; moves {sum(moves.values())} of {sorted(told)}; ", end="")
        print(f"{len(expected)} numbers and files are equal; {time.monotonic() - began:.0f} s")

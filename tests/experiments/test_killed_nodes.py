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

from common.files import read_json
from experiments.base.on_ray import MOVES
from experiments.base.trainings import JOB
from tests.clusters import ray_nodes, slurm
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


def wait_for(condition, seconds=200):
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
            process = command.start(module, "killed", "--on", "ray", epoch_seconds=5.0, RAY_ADDRESS=cluster.address)
            while process.poll() is None:
                if len(killed) < NODE_KILLS and (
                    busy := [node for node in range(3) if trains(cluster.processes(node))]
                ):
                    time.sleep(generator.uniform(0, 12))
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


def jobs_below(folder):
    """Number of the Slurm job that each training was given last, by its name."""
    found = {path.parent.name: read_json(path, dict).get("job") for path in folder.rglob(JOB)}
    return {name: job for name, job in found.items() if job}


def restarts(job):
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    return int(re.search(r"Restarts=(\d+)", said).group(1)) if said else 0


def test_time_limit_cancelled_jobs_and_a_killed_command_on_slurm_change_no_number(
    command, tmp_path, capsys, monkeypatch
):
    """An array of two; one is cancelled and submitted again, the other reaches its limit and is put back."""
    began, runs = time.monotonic(), tmp_path / "killed"
    expected = command.run("mgmt_grid", "undisturbed", "--at-once", "2")
    with slurm(tmp_path / "slurm") as variables:
        monkeypatch.setenv(*next(iter(variables.items())))

        def start():
            # Signalled between 30 and 60 seconds after its start, as Slurm looks every half minute; six epochs take 72.
            limit = ("--slurm.time", "2", "--slurm.signal-seconds", "30", "--slurm.mem", "1500M")
            return command.start("mgmt_grid", "killed", "--on", "slurm", *limit, epoch_seconds=12.0, **variables)

        first = start()
        wait_for(lambda: len(list(runs.rglob("history.csv"))) == 2)
        first.kill()  # the jobs go on
        first.wait()
        jobs = jobs_below(runs)
        assert len({job.partition("_")[0] for job in jobs.values()}) == 1  # one array
        cancelled, limited = sorted(jobs)
        other = command.start("mgmt_grid", "killed", "--on", "local", epoch_seconds=12.0)  # trains nothing twice
        wait_for(lambda: command.said().count("elsewhere: another command is working on it") == 2)
        other.kill()
        other.wait()
        subprocess.run(["scancel", jobs[cancelled]], check=True)
        again = start()
        wait_for(lambda: jobs_below(runs)[cancelled] != jobs[cancelled], 200)
        most = []
        while again.poll() is None:
            most.append(restarts(jobs[limited]))
            time.sleep(1)
        assert again.returncode == 0, command.said()
    assert max(most) >= 1
    assert jobs_below(runs)[limited] == jobs[limited]
    assert differing(command.numbers("mgmt_grid", "killed"), expected) == []
    with capsys.disabled():
        print(f"\n{limited} put back {max(most)} times, {cancelled} cancelled, the command killed; ", end="")
        print(f"{len(expected)} numbers and files are equal; {time.monotonic() - began:.0f} s")

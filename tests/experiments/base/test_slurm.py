"""Trainings as jobs of a real Slurm of two nodes on this machine."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.runs import RunError
from experiments.base import engines, on_slurm
from experiments.base.engines import run
from experiments.base.trainings import Placement, Slurm, Training, python, require
from tests.clusters import slurm
from tests.experiments.base.test_ray import nowhere, training
from tests.experiments.conftest import environment

ON = Placement(on="slurm", slurm=Slurm(partition="main"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as given, pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_slurm, "POLL_SECONDS", 0.3)
        for name, value in given.items():
            patch.setenv(name, value)
        yield


def steps(folder):
    return [int(line.split()[0]) for line in (folder / "steps").read_text().splitlines()]


def test_levels_are_kept_and_a_failure_is_told(cluster, tmp_path):
    failing = Training(
        name="fails", argv=python("-c", "exit('error: no scans')"), folder=tmp_path / "fails", memory_gib=0.1
    )
    wanted = [
        training(tmp_path, "last", after=("first",)),
        training(tmp_path, "first"),
        failing,
        training(tmp_path, "needs", after=("fails",)),
    ]
    states = {name: str(each) for name, each in run(wanted, ON).items()}
    assert states == {
        "last": "finished",
        "first": "finished",
        "fails": "failed: exit status 1: error: no scans",
        "needs": "failed: it needs fails",
    }


def test_a_job_that_does_not_even_start_says_why(cluster, tmp_path):
    placement = replace(ON, slurm=replace(ON.slurm, launcher="no-such-launcher exec"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "job.txt").write_text("of a job before\n")
    (found,) = run([training(tmp_path, "a")], placement).values()
    assert found.word == "not run"
    assert re.search(r"has ended without a result: .*no-such-launcher: .*not found", found.reason)
    assert "of a job before" not in (tmp_path / "a" / "job.txt").read_text()


@pytest.mark.slow
def test_submitted_jobs_are_found_again_and_what_was_cancelled_goes_on(cluster, tmp_path, capsys):
    wanted = [training(tmp_path, name, steps=60) for name in "ab"]
    with pytest.raises(SystemExit) as ended:
        run(wanted, Placement(on="slurm", submit_only=True))
    assert not ended.value.code
    first = [on_slurm.job_of(each) for each in wanted]
    until = time.monotonic() + 60
    while not all((each.folder / "done").exists() for each in wanted) and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(SystemExit):
        run(wanted, Placement(on="slurm", submit_only=True))
    assert [on_slurm.job_of(each) for each in wanted] == first
    assert "submitted 0 of 2 trainings" in capsys.readouterr().out
    subprocess.run(["scancel", first[0]], check=True)
    while first[0] in on_slurm.jobs() and time.monotonic() < until:
        time.sleep(0.1)
    require(run(wanted, ON))
    assert on_slurm.job_of(wanted[0]) != first[0]
    assert on_slurm.job_of(wanted[1]) == first[1]
    assert sorted(set(steps(wanted[0].folder))) == list(range(60))
    assert steps(wanted[1].folder) == list(range(60))


@pytest.mark.slow
def test_the_signal_before_the_time_limit_puts_it_back_into_the_queue(cluster, tmp_path):
    wanted = [training(tmp_path, "a", steps=25)]
    with pytest.raises(SystemExit):
        run(wanted, Placement(on="slurm", submit_only=True))
    until = time.monotonic() + 60
    while not (tmp_path / "a" / "done").exists() and time.monotonic() < until:
        time.sleep(0.1)
    subprocess.run(["scancel", "--batch", "--signal=USR1", on_slurm.job_of(wanted[0])], check=True)
    time.sleep(1)
    before = steps(tmp_path / "a")
    assert len(before) < 25
    (job,) = [each for id, each in on_slurm.jobs().items() if id == on_slurm.job_of(wanted[0])]
    assert job.word == "PENDING"
    subprocess.run(["scontrol", "update", f"JobId={on_slurm.job_of(wanted[0])}", "StartTime=now"], check=True)
    require(run(wanted, ON))
    assert sorted(set(steps(tmp_path / "a"))) == list(range(25))


def test_what_slurm_would_not_take_is_told_before_anything_is_prepared(cluster):
    before = set(on_slurm.jobs())
    engines.check(ON)
    with pytest.raises(RunError, match=r"Slurm: .*nvalid partition"):
        engines.check(replace(ON, slurm=Slurm(partition="nowhere")))
    with pytest.raises(RunError, match=r"Slurm: .*not available"):
        engines.check(replace(ON, slurm=Slurm(partition="main", mem="9000G")))
    engines.check(replace(ON, dry_run=True, slurm=Slurm(partition="nowhere")))
    assert set(on_slurm.jobs()) <= before


@pytest.mark.slow
@pytest.mark.parametrize("submit_only", [True, False])
def test_an_unknown_partition_is_one_error_and_nothing_is_submitted(cluster, tmp_path, submit_only):
    placement = Placement(on="slurm", submit_only=submit_only, slurm=Slurm(partition="nowhere"))
    before = set(on_slurm.jobs())  # of other tests, whose last one may not have left the queue yet
    with pytest.raises(RunError, match="Slurm: invalid partition specified: nowhere"):
        run([training(tmp_path, "a")], placement)
    assert set(on_slurm.jobs()) <= before
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_one_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_slurm, "token_file", nowhere)
    before = set(on_slurm.jobs())
    with pytest.raises(RunError, match=rf"Slurm node .*: expected to see {tmp_path}, .* \(a shared folder\)"):
        run([training(tmp_path, "a")], ON)
    assert set(on_slurm.jobs()) <= before
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_controller_that_does_not_answer_is_one_error(cluster, tmp_path, monkeypatch):
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    (tmp_path / "slurm.conf").write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=9", conf))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(RunError, match=r"Slurm: .*[Uu]nable to contact slurm controller"):
        run([training(tmp_path, "a")], ON)
    assert not (tmp_path / "a").exists()


def test_a_dry_run_prints_scripts_that_bash_understands_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    launcher = "apptainer exec --nv glioma.sif"
    slurm = Slurm(partition="gpu", time="8:00:00", gpus="a100:1", options=("constraint=fast",), launcher=launcher)
    wanted = [
        training(tmp_path, "it's a"),
        training(tmp_path, "b", gpus=0),
        training(tmp_path, "c", after=("b",)),
    ]
    with pytest.raises(SystemExit):
        run(wanted, Placement(on="slurm", dry_run=True, most=2, cores=4, slurm=slurm))
    printed, said = capsys.readouterr()
    assert "nothing was submitted" in said
    assert subprocess.run(["bash", "-n"], input=printed, text=True, check=False).returncode == 0
    assert printed.count("#!/bin/bash") == 3
    for line in ("--partition=gpu", "--time=8:00:00", "--gres=gpu:a100:1", "--constraint=fast", "--cpus-per-task=4"):
        assert f"#SBATCH {line}\n" in printed
    assert printed.count("--gres") == 2
    first, second, third = printed.split("#!/bin/bash\n")[1:]
    assert [each.splitlines()[0] for each in (first, second)] == ["# array 1", "# array 2"]
    assert third.startswith("# array 3, behind array 1, array 2 (--dependency=afterany)\n")
    assert printed.count(f"\nexec {launcher} {sys.executable} -m experiments.base.job ") == 3
    assert not any(tmp_path.iterdir())


def test_processes_that_share_a_training_are_tasks_of_its_job(tmp_path, capsys):
    shared = training(tmp_path, "a", devices=4, nodes=2, gpus=4, memory_gib=2.0)
    placement = Placement(on="slurm", dry_run=True, cores=3, slurm=Slurm(gpus="4"))
    with pytest.raises(SystemExit):
        run([shared, training(tmp_path, "b")], placement)
    alone, together = sorted(capsys.readouterr().out.split("#!/bin/bash\n")[1:], key=len)
    for line in ("--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=3", "--gres=gpu:4", "--mem=8192M"):
        assert f"#SBATCH {line}\n" in together
    assert "tasks-per-node" not in alone
    assert "nodes" not in alone
    assert on_slurm.argv(shared, placement)[:4] == ("srun", "--kill-on-bad-exit=1", "--wait=0", "--cpus-per-task=3")
    assert on_slurm.argv(shared, placement)[4:] == shared.argv
    contained = replace(placement, slurm=replace(placement.slurm, launcher="apptainer exec suite.sif"))
    assert on_slurm.argv(shared, contained)[4:] == ("apptainer", "exec", "suite.sif", *shared.argv)


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(RunError, match="--on slurm: expected Slurm's sbatch on this machine, found none on PATH"):
        engines.check(ON)
    with pytest.raises(RunError, match="--on slurm: expected Slurm's sbatch on this machine, found none on PATH"):
        run([training(tmp_path, "a")], ON)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_what_another_command_leaves_unfinished_is_submitted(cluster, tmp_path):
    """As after scancel, when the jobs are gone from the queue and their processes have not ended yet."""
    (tmp_path / "a").mkdir()
    program = "import sys, time; from common.runs import Run; run = Run(sys.argv[1]); print(flush=True); time.sleep(3)"
    command, seen = [sys.executable, "-c", program, tmp_path / "a"], []
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        states = run([training(tmp_path, "a")], ON, watch=lambda states: seen.append(str(states["a"])))
    assert states["a"].word == "finished"
    assert seen[0] == "elsewhere: another command is working on it"
    assert steps(tmp_path / "a") == [0]

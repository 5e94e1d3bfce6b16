"""All experiments by one command: what is passed on, what a failure and a kill leave, what the list says."""

import contextlib
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tyro

from experiments import run_all
from experiments.base.results import reported
from experiments.base.trainings import Slurm
from experiments.mgmt.options import MgmtOptions
from experiments.run_all import Options, commands
from experiments.segmentation import options as segmentation
from tests.clusters import slurm as slurm_of_two
from tests.experiments.conftest import environment
from tests.experiments.test_killed import GRID, VARIATIONS

PYTHON = ("-c",)


def test_every_experiment_of_the_report_is_run():
    assert set(commands(Options())) == set(reported())


def test_phantoms_and_patients_are_never_mixed(tmp_path):
    assert all(isinstance(words, list) for words in commands(Options()).values())
    segmentation = commands(Options(data=tmp_path))
    for name, words in segmentation.items():
        if name.startswith("mgmt_"):
            assert words == "no --mgmt-data given"
        else:
            assert words[words.index("--data") + 1] == str(tmp_path)
            assert "--mgmt-data" not in words
    mgmt = commands(Options(mgmt_data=tmp_path))
    for name, words in mgmt.items():
        if name.startswith("mgmt_"):
            assert words[words.index("--data") + 1] == str(tmp_path)
        elif name == "cohort":
            assert words[words.index("--mgmt-data") + 1] == str(tmp_path)
            assert "--data" not in words
        else:
            assert words == "no --data given"
    assert all(isinstance(words, list) for words in commands(Options(data=tmp_path, mgmt_data=tmp_path)).values())


@pytest.mark.parametrize("experiment", reported())
def test_each_experiment_understands_what_it_is_given(experiment, tmp_path, monkeypatch):
    """It gets as far as looking for the scans."""
    nowhere = tmp_path / "nowhere"
    options = Options(
        data=nowhere,
        mgmt_data=nowhere,
        mgmt_labels=tmp_path / "labels.csv",
        layout=tmp_path / "own.toml",
        convention="msd",
        cavity="background",
        preset="demo",
        leave_out_bad=True,
        runs=tmp_path / "runs",
        prepared=tmp_path / "prepared",
        jobs=1,
    )
    option, module, *words = commands(options)[experiment]
    assert option == "-m"
    monkeypatch.setattr(sys, "argv", [experiment, *words])
    with pytest.raises(SystemExit, match=f"^error: {nowhere}: expected a folder of"):
        importlib.import_module(module).main()


def test_the_words_for_slurm_reach_the_experiments():
    slurm = Slurm(partition="gpu", mem="9G", launcher="apptainer exec g.sif", options=("constraint=a100", "exclusive"))
    words = commands(Options(on="slurm", cores=2, most=3, slurm=slurm, local_copy=Path("/disk")))
    for experiment, options in (("mgmt_grid", MgmtOptions), ("table1_variations", segmentation.Options)):
        told = tyro.cli(options, args=words[experiment][2:])
        assert (told.on, told.cores, told.most, told.slurm, told.local_copy) == ("slurm", 2, 3, slurm, Path("/disk"))


@pytest.mark.slow
@pytest.mark.parametrize("on", ["ray", "slurm"])
def test_trainings_of_several_experiments_run_on_a_cluster(on, cohort, competition, tmp_path, monkeypatch):
    pytest.importorskip("monai", reason="needs the extras segresnet and mgmt")
    options = Options(
        data=cohort, mgmt_data=competition, runs=tmp_path, prepared=tmp_path / "prepared", at_once=2, on=on
    )
    options = replace(options, slurm=Slurm(mem="1500M")) if on == "slurm" else options
    tiny = {"cohort": (), "table1_variations": VARIATIONS, "mgmt_grid": GRID}
    wanted = {name: [*commands(options)[name], *words] for name, words in tiny.items()}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with slurm_of_two(tmp_path / "slurm") if on == "slurm" else contextlib.nullcontext({}) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        states = run_all.run_all(wanted, tmp_path / "run_all", at_once=2)
    assert [status.state for status in states] == ["finished"] * 3
    places = [json.loads(path.read_text())["on"] for path in tmp_path.glob("*/*/**/where.json")]
    assert places.count(on) == 3 + 2


def read_status(folder):
    return {line["experiment"]: line for line in json.loads((folder / "status.json").read_text())}


def wait_for(condition, what):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"waited a minute for {what}"
        time.sleep(0.05)


def test_a_failure_stops_nothing_and_is_told(tmp_path, capsys):
    statuses = run_all.run_all(
        {
            "good": [*PYTHON, "print('done')"],
            "bad": [
                *PYTHON,
                "import sys; print('error: no scans\\nmend them'); print('bar\\r50 %\\r', end=''); sys.exit(3)",
            ],
            "broken": [*PYTHON, "raise ValueError('too few')"],
            "killed": [*PYTHON, "import os; print('begun', flush=True); os.kill(os.getpid(), 9)"],
            "left": "no --mgmt-data given",
            "after": [*PYTHON, "print('done')"],
        },
        tmp_path,
    )
    found = read_status(tmp_path)
    assert list(found) == ["good", "bad", "broken", "killed", "left", "after"]
    assert {name: (line["state"], line["reason"]) for name, line in found.items()} == {
        "good": ("finished", ""),
        "bad": ("failed", "exit status 3: error: no scans"),
        "broken": ("failed", "exit status 1: ValueError: too few"),
        "killed": ("failed", "ended by SIGKILL, as the system does for want of memory: begun"),
        "left": ("not run", "no --mgmt-data given"),
        "after": ("finished", ""),
    }
    assert found["good"]["command"] == shlex.join(["python", *PYTHON, "print('done')"])
    assert set(found["good"]) == {"experiment", "command", "state", "reason", "seconds"}
    assert [status.state for status in statuses] == [line["state"] for line in found.values()]
    assert (tmp_path / "good" / "log.txt").read_text() == "done\n"
    printed = capsys.readouterr().err.splitlines()
    assert [words[1:3] for words in map(str.split, printed) if words[1:2] == ["killed"]] == [
        ["killed", "running,"],
        ["killed", "failed:"],
    ]
    assert sum("finished" in line for line in printed) == 2


def test_output_and_status_can_be_read_meanwhile(tmp_path):
    program = (
        "import pathlib, sys, time\nprint('begun')\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    )
    wanted = {
        "first": [*PYTHON, "pass"],
        "second": [*PYTHON, program, str(tmp_path / "go")],
        "third": [*PYTHON, "pass"],
    }
    thread = threading.Thread(target=run_all.run_all, args=(wanted, tmp_path))
    thread.start()
    try:
        log = tmp_path / "second" / "log.txt"
        wait_for(lambda: log.exists() and "begun" in log.read_text(), "the second experiment")
        found = read_status(tmp_path)
        assert [line["state"] for line in found.values()] == ["finished", "not run", "not run"]
        assert found["third"]["reason"] == run_all.WAITING
    finally:
        (tmp_path / "go").touch()
        thread.join()
    assert [line["state"] for line in read_status(tmp_path).values()] == ["finished"] * 3


STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
COMMAND = """
import signal, sys
from common import signals
from experiments import run_all
from experiments.base import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process starts without
signals.listen()
processes.GRACE_SECONDS = 1.0
wanted = {"stubborn": ["-c", sys.argv.pop(), sys.argv.pop()], "next": ["-c", "pass"]}
run_all.commands = lambda options: wanted
run_all.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_no_process(number, tmp_path):
    """Not even one of an experiment that does not listen, nor what that has started."""
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", COMMAND, "--runs", str(tmp_path / "runs"), str(pids), STUBBORN]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL)
    started = []
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the start")
        started += map(int, pids.read_text().split())
        assert all(alive(pid) for pid in started)
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
        wait_for(lambda: not any(alive(pid) for pid in started), "the experiment's end")
    finally:
        process.kill()
        process.wait()
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
    found = read_status(tmp_path / "runs" / "run_all")
    assert [line["state"] for line in found.values()] == ["not run", "not run"]
    assert found["stubborn"]["reason"] == "stopped while it ran; the same command goes on"


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_command_ends_with_the_failures_and_status_1(tmp_path, monkeypatch, capsys):
    wanted = {"good": [*PYTHON, "pass"], "bad": [*PYTHON, "raise SystemExit('error: too few')"]}
    monkeypatch.setattr(run_all, "commands", lambda options: wanted)
    monkeypatch.setattr(sys, "argv", ["run_all", "--runs", str(tmp_path)])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="1 of 2 experiments failed"):
        run_all.main()
    assert signal.getsignal(signal.SIGTERM) == before
    assert "bad failed, exit status 1: error: too few" in capsys.readouterr().out
    wanted["bad"] = [*PYTHON, "pass"]
    run_all.main()
    assert [line["state"] for line in read_status(tmp_path / "run_all").values()] == ["finished", "finished"]

"""Trainings as commands: their order, what a failure and a kill leave, and what each is given of the machine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from common.runs import Run, RunError
from experiments.base import local, progress, scheduler
from experiments.base.engines import check, run
from experiments.base.trainings import FAILURE, LOG, Placement, Slurm, Training, python, require, state
from tests.experiments.conftest import environment

# What a training's command is called with: its folder, and a file to which every start is added.
PROGRAM = """
import os, pathlib, sys, time
folder, started = map(pathlib.Path, sys.argv[1:3])
with started.open("a") as file:
    print(folder.name, file=file)
{}
(folder / "summary.json").touch()
"""
# Waits for the other one, at most a second or two.
MEETS = """
for _ in range(200):
    if {'left', 'right'} <= set(started.read_text().split()):
        break
    time.sleep(0.01)
else:
    sys.exit("error: nobody came")
"""
NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS")
GIVEN = f"(folder / 'given').write_text(' '.join(os.environ.get(name, '-') for name in {NAMES}))"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.01)


@pytest.fixture
def training(tmp_path):
    """A training of a name that does what ``does`` says and finishes."""

    def make(name, does="", **needs):
        argv = python("-S", "-c", PROGRAM.format(does), tmp_path / name, tmp_path / "started")
        return Training(name=name, argv=argv, folder=tmp_path / name, **needs)

    return make


@pytest.fixture
def started(tmp_path):
    return lambda: (tmp_path / "started").read_text().split() if (tmp_path / "started").exists() else []


def meeting(training, does="", **needs):
    """Two trainings that finish only side by side."""
    return [training(name, f"{MEETS}{does}", **needs) for name in ("left", "right")]


def words(states):
    return {name: state.word for name, state in states.items()}


# Order ----------------------------------------------------------------------------------------------------------------


def test_each_comes_after_what_it_needs_and_only_once(training, started):
    wanted = [training("c", after=("b",)), training("d", behind=("c",)), training("b", after=("a",)), training("a")]
    assert words(run(wanted, Placement(at_once=3))) == dict.fromkeys("cdba", "finished")
    assert started() == list("abcd")
    seen = []
    run(wanted, watch=lambda states: seen.append(words(states)))
    assert seen == [dict.fromkeys("cdba", "finished")]
    assert started() == list("abcd")


def test_what_needs_a_failed_one_is_not_run_and_the_others_are(training, started, tmp_path):
    failing = "print('begun', flush=True); print('error: no scans\\nmend them'); sys.exit(3)"
    wanted = [
        training("needs", after=("fails",)),
        training("needs_that", after=("needs",)),
        training("behind", behind=("fails", "needs")),
        training("fails", failing),
        training("other"),
    ]
    found = run(wanted)
    assert {name: str(each) for name, each in found.items()} == {
        "needs": "not run: it needs fails",
        "needs_that": "not run: it needs needs",
        "behind": "finished",
        "fails": "failed: exit status 3: error: no scans",
        "other": "finished",
    }
    assert started() == ["fails", "behind", "other"]
    assert (tmp_path / "fails" / LOG).read_text() == "begun\nerror: no scans\nmend them\n"
    assert (tmp_path / "fails" / FAILURE).read_text() == "exit status 3: error: no scans\n"
    assert state(tmp_path / "fails") == "failed: exit status 3: error: no scans"
    assert (state(tmp_path / "needs"), state(tmp_path / "other")) == ("not run", "finished")
    with pytest.raises(RunError) as error:
        require(found)
    assert str(error.value).splitlines() == [
        "3 of 5 trainings have not finished",
        "  needs not run: it needs fails",
        "  needs_that not run: it needs needs",
        "  fails failed: exit status 3: error: no scans",
    ]
    # The same list, once what it failed for is mended.
    wanted[3] = training("fails")
    require(run(wanted))
    assert started() == ["fails", "behind", "other", "fails", "needs", "needs_that"]
    assert not (tmp_path / "fails" / FAILURE).exists()


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL, as the system does for want of memory"),
        ("print('half'); sys.stdout.flush(); os.kill(os.getpid(), 15)", "ended by SIGTERM: half"),
        ("print('50 %\\r60 %\\r', end=''); sys.exit(2)", "exit status 2: 60 %"),
        ("sys.exit(0)", "ended without a summary.json"),
        ("raise KeyError('flair')", "exit status 1: KeyError: 'flair'"),
        (
            "import atexit\natexit.register(print, '10 %', file=sys.stderr)\nprint('5 %', end='', file=sys.stderr)\n"
            "try:\n    [].index(1)\nexcept ValueError as error:\n    raise OSError('disk full\\nfor good') from error",
            "exit status 1: OSError: disk full",
        ),  # a bar that is closed below the traceback
    ],
)
def test_why_it_failed_is_said_in_one_line(training, does, reason):
    assert str(run([training("a", does)])["a"]) == f"failed: {reason}"


def test_a_command_without_a_result_is_finished_by_its_exit_status_and_run_again(training, started):
    wanted = [training("a", result=None)]
    for _ in range(2):
        require(run(wanted))
    assert started() == ["a", "a"]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"a": ("b",), "b": ("a",)}, "expected a to need others of the list, and no circle; it needs b"),
        ({"a": ("a",)}, "it needs a"),
        ({"a": (), "b": ("elsewhere",)}, "expected b to need others of the list, and no circle; it needs elsewhere"),
    ],
)
@pytest.mark.parametrize("how", ["after", "behind"])
def test_a_circle_or_an_unknown_name_is_refused_before_anything_runs(training, started, needs, message, how):
    with pytest.raises(ValueError, match=message):
        run([training(name, **{how: others}) for name, others in needs.items()])
    assert started() == []


def test_no_training_at_once_and_two_of_one_name_are_refused(training):
    with pytest.raises(ValueError, match="expected --at-once of 1 or more, received 0"):
        run([training("a")], Placement(at_once=0))
    with pytest.raises(ValueError, match="expected a name for each training, found a more than once"):
        run([training("a"), training("b"), training("a")])


# Side by side ---------------------------------------------------------------------------------------------------------


def test_side_by_side_they_really_run_at_the_same_time(training):
    require(run(meeting(training), Placement(at_once=2)))


def test_one_at_a_time_they_do_not(training):
    assert words(run([meeting(training)[0], training("right")])) == {"left": "failed", "right": "finished"}


@pytest.mark.parametrize(("total_gib", "most"), [(7, 3), (5, 2), (3, 1), (1, 1)])
def test_memory_bounds_how_many_run(training, monkeypatch, total_gib, most):
    """One that needs more than there is runs alone."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total_gib * 2**30))
    running = []

    def watch(states):
        running.append(list(words(states).values()).count("running"))

    require(run([training(name, "time.sleep(0.1)", memory_gib=2) for name in "abc"], Placement(at_once=3), watch=watch))
    assert max(running) == most


def fake_gpus(folder, number):
    """A driver's command that lists so many GPUs."""
    command = folder / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {each}: a card'\n" for each in range(number)))
    command.chmod(0o755)
    return command.parent


@pytest.mark.parametrize(
    ("listed", "visible", "given"),
    [
        (3, None, {"0", "1"}),
        (0, "4,GPU-7f", {"4", "GPU-7f"}),
        (3, "2", {"2"}),  # one that both share
        (1, None, {"-"}),
        (0, None, {"-"}),
        (3, "", {""}),  # none, as the user wants it
    ],
)
def test_each_has_a_gpu_of_its_own_where_there_are_several(training, tmp_path, monkeypatch, listed, visible, given):
    monkeypatch.setenv("PATH", str(fake_gpus(tmp_path, listed)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pair = meeting(training, GIVEN)
    require(run(pair, Placement(at_once=2)))
    assert {(each.folder / "given").read_text().split(" ")[0] for each in pair} == given


def test_without_need_or_company_no_gpu_is_taken_from_it(training, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    alone, needless = training("alone", GIVEN), training("needless", GIVEN, gpus=0)
    require(run([alone]))
    require(run([needless], Placement(at_once=2)))
    assert [(each.folder / "given").read_text().split(" ")[0] for each in (alone, needless)] == ["0,1", "0,1"]


def test_processes_that_share_a_training_have_its_gpus_and_cores(training, monkeypatch):
    started = []

    class Process:
        def __init__(self, argv, folder, **surroundings):
            started.append((argv, surroundings))

    monkeypatch.setattr(local, "Process", Process)
    monkeypatch.setattr(local, "note_place", lambda *_: None)
    monkeypatch.setattr(local.joblib, "cpu_count", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    here = local.Local(2)
    for name in ("left", "right"):
        here.start(replace(training(name, devices=2, gpus=2), argv=("python3", "-m", "experiments.train", name)))
    torchrun = ("python3", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert started == [
        ((*torchrun, "experiments.train", "left"), {"threads": 4, "CUDA_VISIBLE_DEVICES": "4,5"}),
        ((*torchrun, "experiments.train", "right"), {"threads": 4, "CUDA_VISIBLE_DEVICES": "6,7"}),
    ]
    assert not here.has_room(training("third"))


def test_trainings_of_different_size_share_no_gpu_while_one_is_free(training, monkeypatch):
    given = []

    class Process:
        def __init__(self, argv, folder, **surroundings):
            given.append(surroundings["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(local, "Process", Process)
    monkeypatch.setattr(local, "note_place", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    here = local.Local(3)
    for name, gpus in (("one", 1), ("two", 2), ("another", 1)):
        here.start(training(name, gpus=gpus))
    assert given == ["0", "1,2", "3"]
    del here.running[1]
    here.start(training("late", gpus=2))
    assert given[-1] == "1,2"
    here.running.clear()
    here.start(training("too wide", gpus=5))
    assert given[-1] == "0,1,2,3"


@pytest.mark.parametrize("on", ["local", "ray"])
def test_several_nodes_without_slurm_are_refused_with_what_to_type(training, started, on):
    with pytest.raises(RunError, match=r"wide: expected 1 node with --on .*received 2; .*torchrun --nnodes 2 --nproc-"):
        run([training("narrow"), training("wide", nodes=2)], Placement(on=on))
    assert started() == []


@pytest.mark.parametrize(
    ("at_once", "cores", "given"),
    [(2, None, "4"), (3, None, "2"), (20, None, "1"), (2, 3, "3"), (1, 5, "5"), (1, None, "7")],
)
def test_cores_are_shared_out(training, monkeypatch, at_once, cores, given):
    monkeypatch.setattr(local.joblib, "cpu_count", lambda: 8)
    for name in NAMES[1:]:
        monkeypatch.setenv(name, "7")
    a = training("a", GIVEN, cores=cores)
    require(run([a], Placement(at_once=at_once)))
    assert (a.folder / "given").read_text().split(" ")[1:] == [given] * 3


def test_what_another_process_works_on_is_waited_for(training, started, tmp_path):
    seen = []
    with Run(tmp_path / "a") as elsewhere:

        def watch(states):
            seen.append(words(states))
            if seen[-1] == {"a": "elsewhere", "b": "finished"}:
                (elsewhere.folder / "summary.json").touch()
                elsewhere.close()

        require(run([training("a"), training("b")], watch=watch))
    assert started() == ["b"]
    assert seen[-1] == {"a": "finished", "b": "finished"}


LOCKING = """
import fcntl
lock = (folder / "run.lock").open("a+")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
with started.with_name("worked").open("a") as file:
    print(folder.name, file=file)
for step in range(20):
    print(step, flush=True)
    time.sleep(0.02)
"""
RUNNER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
from pathlib import Path
from experiments.base.engines import run
from experiments.base.trainings import Placement, Training
wanted = json.loads(sys.argv[1])
found = run(
    [Training(name=name, argv=tuple(argv), folder=Path(folder), result=made) for name, argv, folder, made in wanted],
    Placement(at_once=2),
)
print(*(state.word for state in found.values()))
"""


def runner(wanted):
    """Another command on the list, in a process of its own."""
    each = [(training.name, training.argv, str(training.folder), training.result) for training in wanted]
    command = [sys.executable, "-c", RUNNER, json.dumps(each)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_commands_share_a_list_and_train_nothing_twice(training, tmp_path):
    wanted = [training(name, LOCKING) for name in "abcd"]
    both = [runner(wanted) for _ in range(2)]
    said = [each.communicate(timeout=60) for each in both]
    assert [out for out, _ in said] == ["finished finished finished finished\n"] * 2, said
    assert sorted((tmp_path / "worked").read_text().split()) == list("abcd")
    for each in wanted:
        # Nor does the second wipe out what the first goes on to write.
        assert (each.folder / LOG).read_text().splitlines()[-1] == "19"
        assert "\0" not in (each.folder / LOG).read_text()


# Ends -----------------------------------------------------------------------------------------------------------------

TREE = """
import experiments, json, os, signal, subprocess, sys, time
from pathlib import Path
from experiments.base.engines import run
from experiments.base.trainings import Training, python
pids = Path(sys.argv[1])
sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
inner = "import experiments, os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
inner += "time.sleep(600)"
(pids / "outer").write_text(f"{os.getpid()} {sleeper.pid}")
run([Training(name="inner", argv=python("-c", inner, pids / "inner"), folder=pids / "training")])
"""


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds, condition):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_command_ends_nothing_that_it_has_started_goes_on(tmp_path, number):
    """Neither its trainings, nor the loaders that these have started, nor the trainings of theirs."""
    outer = Training(name="outer", argv=python("-c", TREE, tmp_path), folder=tmp_path / "run", result=None)
    process, pids = runner([outer]), []
    try:
        files = [tmp_path / "outer", tmp_path / "inner"]
        assert within(60, lambda: all(file.exists() and file.read_text() for file in files))
        pids = [int(pid) for file in files for pid in file.read_text().split()]
        assert len(pids) == 3
        assert all(alive(pid) for pid in pids)
        process.send_signal(number)
        assert within(2, lambda: not any(alive(pid) for pid in pids))
    finally:
        process.kill()
        process.communicate()
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_an_error_of_the_caller_ends_what_runs(training, tmp_path):
    class Mistake(Exception):
        pass

    seen = {}

    def watch(states):
        seen.update({name: str(each) for name, each in states.items()})
        if seen["a"] == "running":
            raise Mistake

    before = set(psutil.Process().children())  # pools that other tests have left
    began = time.monotonic()
    with pytest.raises(Mistake):
        run([training("a", "time.sleep(600)")], watch=watch)
    assert time.monotonic() - began < 5
    assert seen == {"a": "not run: stopped while it ran; the same command goes on"}
    assert set(psutil.Process().children()) <= before


def test_many_trainings_leave_nothing_open(tmp_path):
    before, children = len(os.listdir("/proc/self/fd")), set(psutil.Process().children())
    wanted = [Training(name=f"{i}", argv=("true",), folder=tmp_path / f"{i}", result=None) for i in range(100)]
    require(run(wanted, Placement(at_once=4)))
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(psutil.Process().children()) <= children


# Lines ----------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_a_line_is_printed_when_a_state_changes(training, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "history.csv").write_text("epoch,loss,seconds\n1,0.5,10\n2,0.4,20\n")
    (tmp_path / "a" / "config.json").write_text('{"model": {"epochs": 5}}')
    run([training("a"), training("longer", "sys.exit('error: full')"), training("b", after=("longer",))])
    assert capsys.readouterr().err.splitlines() == [
        f"1/3 a       running, epoch 2 of 5, about 45 s left, {tmp_path / 'a' / LOG}",  # three epochs of 15 s
        "1/3 a       finished",
        f"2/3 longer  running, {tmp_path / 'longer' / LOG}",
        f"2/3 longer  failed: exit status 1: error: full, {tmp_path / 'longer' / LOG}",
        "3/3 b       not run: it needs longer",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of so many rows as standard error; returns what is written to it while a function runs."""

    def shown(rows, function):
        reader, writer = os.openpty()
        termios.tcsetwinsize(writer, (rows, 60))
        with os.fdopen(writer, "w") as screen, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", screen)
            function()
            os.set_blocking(reader, False)
            parts = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    parts.append(os.read(reader, 4096))
            written = b"".join(parts).decode().replace("\r\n", "\n")
        os.close(reader)
        return written

    return shown


def drawings(written):
    """The lines of each drawing over the one before."""
    drawn = [part.splitlines() for part in re.split(r"\x1b\[\d+F\x1b\[J", written)]
    ups = [int(up) for up in re.findall(r"\x1b\[(\d+)F", written)]
    assert ups == [len(lines) for lines in drawn[:-1]]  # it goes back to the beginning of the last one
    return drawn


def test_on_a_terminal_the_lines_are_drawn_anew(training, terminal, tmp_path):
    drawn = drawings(terminal(24, lambda: run([training("a"), training("b", "sys.exit(3)")])))
    assert [line[:16] for line in drawn[0]] == ["1/2 a  running, ", "2/2 b  waiting"]
    assert [line[:26] for line in drawn[-1]] == ["1/2 a  finished", "2/2 b  failed: exit status"]
    assert all(len(line) < 60 for lines in drawn for line in lines)


def test_more_trainings_than_a_terminal_has_rows_do_not_fill_it_again_and_again(training, terminal):
    names = [f"training{number}" for number in range(12)]
    drawn = drawings(terminal(6, lambda: run([training(name) for name in names], Placement(at_once=2))))
    assert all(len(lines) < 6 for lines in drawn[:-1])
    assert drawn[0][0] == "0 of 12 finished"
    expected = [[f"{number}/12", name, "finished"] for number, name in enumerate(names, start=1)]
    assert [line.split() for line in drawn[-1]] == expected


def test_off_the_terminal_what_runs_is_told_now_and_then(training, monkeypatch, capsys):
    monkeypatch.setattr(progress.Lines, "LINE_SECONDS", 0.3)
    run([training("a", "time.sleep(1.5)"), training("b", after=("a",))])
    lines = capsys.readouterr().err.splitlines()
    assert sum("1/2 a  running" in line for line in lines) > 2
    assert not any("waiting" in line for line in lines)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        (Placement(slurm=Slurm(partition="gpu")), "--slurm.* is for --on slurm, and trainings would run --on local"),
        (Placement(on="ray", slurm=Slurm(mem="16G")), "would run --on ray"),
        (Placement(cores=4), "--cores and --most are for --on ray and --on slurm"),
        (Placement(most=2), "--at-once shares out the cores"),
    ],
)
def test_how_jobs_are_to_run_is_refused_where_no_jobs_are_made(placement, said):
    with pytest.raises(RunError, match=re.escape(said)):
        check(placement)
    check(Placement(at_once=2))
    check(Placement(on="ray", cores=4, most=2))

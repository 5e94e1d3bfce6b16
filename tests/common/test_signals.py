"""How commands end when a signal asks them to, and that no worker outlives them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "sleeps": 'import time\nprint("ready", flush=True)\ntime.sleep(60)\n',
    "makes": """
import functools, pathlib, sys, time
from common.phantom.folder import fill
def slow(number, folder):
    pathlib.Path(f"made{number}").touch()
    time.sleep(60)
if __name__ == "__main__":
    fill(pathlib.Path("cohort"), ["a", "b"], slow, identity={}, n_jobs=2, what="cases")
""",
    "prepares": """
import dataclasses, pathlib, time
from common import store
from common.subject import Subject
@dataclasses.dataclass(frozen=True)
class One:
    id: str
@dataclasses.dataclass(frozen=True)
class Recipe:
    number: int = 1
def slow(subject):
    pathlib.Path(f"made{subject.id}").touch()
    time.sleep(60)
if __name__ == "__main__":
    kind = store.Kind(number=1, recipe=Recipe(), entry=store.StoredArray, fingerprint=lambda one: one.id, make=slow)
    store.fill(kind, [One("0"), One("1")], "store", n_jobs=2, prefer="processes")
""",
    "loads": """
import pathlib, time
from torch.utils.data import DataLoader
from common.signals import end_with_parent
class Slow:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        pathlib.Path(f"made{index}").touch()
        time.sleep(60)
if __name__ == "__main__":
    next(iter(DataLoader(Slow(), num_workers=2, worker_init_fn=end_with_parent)))
""",
}


def start(folder, command, **options):
    """``python -m room.<command>``, in a folder of its own."""
    room = folder / "room"
    room.mkdir()
    (room / "__init__.py").write_text("from common import signals\nsignals.listen_in_command()\n")
    (room / f"{command}.py").write_text(COMMANDS[command])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", f"room.{command}"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sentence_and_the_status_that_shells_know(tmp_path, number):
    # As in a terminal: in the background of a shell, SIGINT is ignored.
    with start(
        tmp_path, "sleeps", stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.strip() == f"stopped by {number.name}; the same command goes on"


def test_loader_processes_that_are_asked_too_leave_it_a_sentence(tmp_path):
    pytest.importorskip("torch")
    with start(tmp_path, "loads", start_new_session=True) as process:
        wait_for(lambda: len(list(tmp_path.glob("made*"))) == 2, 60)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.strip() == "stopped by SIGTERM; the same command goes on"


def test_what_is_ignored_stays_ignored(tmp_path):
    def nohup():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with start(tmp_path, "sleeps", stdout=subprocess.PIPE, preexec_fn=nohup) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.kill()


@pytest.mark.parametrize(
    ("command", "number"),
    [("makes", signal.SIGTERM), ("makes", signal.SIGKILL), ("prepares", signal.SIGKILL), ("loads", signal.SIGKILL)],
)
def test_no_worker_outlives_its_command(tmp_path, command, number):
    if command == "loads":
        pytest.importorskip("torch")
    process = start(tmp_path, command)
    try:
        wait_for(lambda: len(list(tmp_path.glob("made*"))) == 2, 60)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(number)
        assert process.wait(30) == (143 if number == signal.SIGTERM else -number)
        _, alive = psutil.wait_procs(workers, timeout=2)
        assert alive == []
    finally:
        process.kill()
        process.communicate()

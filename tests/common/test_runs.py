import csv
import errno
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common import runs
from common.files import write_json
from common.networks import read_model_config
from common.recipe import Recipe
from common.runs import History, Run, RunError, configuration_hash, environment, is_in_use
from common.settings import later
from mgmt_classifier.config import Config as Mgmt
from segresnet_monai.config import Config as SegResNet
from unet_tf.config import Config as UNet

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from common.runs import Run
with Run(sys.argv[1]) as run:
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(folder):
    """A process that holds the run until it is sent a line, and then lives on until the next one."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_has_left(tmp_path):
    folder = tmp_path / "runs" / "one"
    with other_process(folder) as process:
        (folder / "history.csv").write_text("epoch\n1\n")
        (folder / ".x.part").write_text("being written")
        for fresh in (False, True):
            with pytest.raises(RunError, match=r"another process is working on this run; wait for it") as raised:
                Run(folder, fresh=fresh)
            assert str(folder) in str(raised.value)
        # refused means untouched
        assert (folder / "history.csv").exists()
        assert (folder / ".x.part").exists()
        with Run(tmp_path / "runs" / "two"):
            pass
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "left\n"
        with Run(folder) as run:
            assert run.history.rows() == [{"epoch": "1"}]
        assert process.poll() is None


def test_a_killed_process_holds_nothing(tmp_path):
    with other_process(tmp_path) as process:
        with pytest.raises(RunError):
            Run(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        Run(tmp_path).close()


def test_this_process_is_held_to_it_too(tmp_path):
    with Run(tmp_path), pytest.raises(RunError, match="another process"):
        Run(tmp_path)
    run = Run(tmp_path)
    run.close()
    run.close()
    with pytest.raises(KeyError), Run(tmp_path):
        raise KeyError
    Run(tmp_path).close()


def fill(folder):
    for name in ("history.csv", "checkpoints/last.ckpt", "figures/a.png", "checkpoints/.abc.part", ".def.part"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_goes_on_with_what_is_there_but_for_leftovers(tmp_path):
    fill(tmp_path)
    with Run(tmp_path) as run:
        assert names(tmp_path) == ["checkpoints/last.ckpt", "figures/a.png", "history.csv", "run.lock"]
        assert run.checkpoints == tmp_path / "checkpoints"
        assert run.figures == tmp_path / "figures"


def test_fresh_starts_over(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere)
    folder = tmp_path / "run"
    fill(folder)
    (folder / "tensorboard").symlink_to(elsewhere)
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    write_json(folder / "summary.json", [])
    with Run(folder, fresh=True) as run:
        assert [path.name for path in folder.iterdir()] == ["run.lock"]
        assert not run.is_finished
        with pytest.raises(RunError):  # emptied, yet held all the while
            Run(folder)
    assert "checkpoints/last.ckpt" in names(elsewhere)


def test_a_run_is_finished_once_its_summary_stands(tmp_path):
    with Run(tmp_path) as run:
        assert not run.is_finished
        write_json(tmp_path / "summary.json", [])
        assert run.is_finished


def test_describe_keeps_every_start(tmp_path):
    split = {"train": ("a", "b"), "hash": "123"}
    for start in range(3):
        with Run(tmp_path) as run:
            run.describe(config={"model": {"lr": 1e-4, "start": start}}, data={"folder": Path("x/y")}, split=split)
    read = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(read) == ["config", "data", "environment", "split"]
    assert read["config"] == {"model": {"lr": 1e-4, "start": 2}}
    assert read["data"] == {"folder": "x/y"}
    assert read["split"] == {"train": ["a", "b"], "hash": "123"}
    assert len(read["environment"]) == 3
    assert all(start["cores"] == os.cpu_count() for start in read["environment"])
    with Run(tmp_path, fresh=True) as run:
        run.describe(config={}, data={}, split={})
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


def test_history_replaces_what_a_killed_run_left(tmp_path):
    history = History(tmp_path / "history.csv")
    assert history.rows() == []
    for epoch in range(1, 13):
        history.append({"epoch": epoch, "loss": 1 / epoch, "run": "first"})
    # resumed from a checkpoint of epoch 8; as numbers, "12" comes after "9"
    for epoch in (9, 10):
        history.append({"epoch": epoch, "loss": 2 / epoch, "run": "second"})
    frame = History(tmp_path / "history.csv").frame()
    assert frame["epoch"].tolist() == list(range(1, 11))
    assert frame["run"].tolist() == ["first"] * 8 + ["second"] * 2
    assert frame["loss"].tolist() == pytest.approx([1 / e for e in range(1, 9)] + [2 / 9, 2 / 10], rel=1e-15)
    history.append({"epoch": 1, "loss": 5.0})
    assert history.rows() == [{"epoch": "1", "loss": "5.0"}]


def test_history_with_columns_that_come_later(tmp_path):
    history = History(tmp_path / "history.csv")
    history.append({"epoch": 1, "loss": np.float32(0.5)})
    history.append({"epoch": 2, "loss": np.float64(0.1), "validation_dice": 0.25})
    history.append({"epoch": np.int64(3), "note": 'a "quoted", one'})
    history.append({"loss": float("nan"), "epoch": 4})
    frame = history.frame()
    assert list(frame.columns) == ["epoch", "loss", "validation_dice", "note"]
    assert frame["epoch"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(frame["loss"], [0.5, 0.1, np.nan, np.nan])
    np.testing.assert_array_equal(frame["validation_dice"], [np.nan, 0.25, np.nan, np.nan])
    assert frame["note"][2] == 'a "quoted", one'
    assert pd.isna(frame["note"][3])


def test_history_can_be_read_at_every_moment(tmp_path):
    path = tmp_path / "history.csv"
    history = History(path)
    row = {f"column {number}": "x" * 50 for number in range(100)}
    history.append({"epoch": 1, **row})
    seen, wrong, stop = set(), [], threading.Event()

    def read():
        while not stop.is_set():
            rows = list(csv.reader(io.StringIO(path.read_text())))
            epochs = [int(r[0]) for r in rows[1:] if r]
            if epochs != list(range(1, len(epochs) + 1)) or not epochs or any(len(r) != 101 for r in rows):
                wrong.append((len(rows), [len(r) for r in rows]))
            seen.add(len(epochs))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for epoch in range(2, 60):
            history.append({"epoch": epoch, **row})
    finally:
        stop.set()
        reader.join()
    assert wrong == []
    assert len(seen) > 10
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_environment_says_where_and_how(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/experiments/table1_baseline.py", "--seeds", "3"])
    found = environment()
    assert found["command"] == ["table1_baseline.py", "--seeds", "3"]
    assert abs(datetime.fromisoformat(found["started"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"]["pandas"] == pd.__version__
    assert found["cores"] == os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert found["memory_gib"] == pytest.approx(total, abs=0.1)
    assert platform.system() in found["system"]
    assert found["processor"]
    assert isinstance(found["gpus"], list)
    assert json.loads(json.dumps(found)) == found


def test_environment_names_the_commit(monkeypatch):
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = environment()["git_commit"]
    if git.returncode:
        assert commit is None
    else:
        assert commit.partition("+changes-")[0] == git.stdout.strip()
    monkeypatch.setenv("PATH", "")
    without = environment()
    assert without["git_commit"] is None
    assert without["gpus"] == []


def checkout(folder):
    """A repository that holds one module, as git sees it."""
    module = folder / "common" / "runs.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    name = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return module


def test_a_changed_checkout_is_marked(tmp_path, monkeypatch):
    module = checkout(tmp_path)
    monkeypatch.setattr(runs, "__file__", str(module))
    clean = environment()["git_commit"]
    assert len(clean) == 40
    (tmp_path / "untracked").write_text("")
    assert environment()["git_commit"] == clean
    module.write_text("changed")
    changed = environment()["git_commit"]
    assert changed.startswith(f"{clean}+changes-")
    module.write_bytes(b"otherwise, \xfc")  # in no encoding that git or Python expect
    assert environment()["git_commit"] not in (clean, changed)
    # installed below an unrelated repository
    stranger = tmp_path / "site-packages" / "runs.py"
    stranger.parent.mkdir()
    stranger.write_text("")
    monkeypatch.setattr(runs, "__file__", str(stranger))
    assert environment()["git_commit"] is None


def test_graphics_cards_are_listed(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A, 81559 MiB, 550.1'\necho 'NVIDIA B, 1 MiB, 550.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment()["gpus"] == ["NVIDIA A, 81559 MiB, 550.1", "NVIDIA B, 1 MiB, 550.1"]
    program.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert environment()["gpus"] == []


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = 1e-4
    crop_voxels: tuple[int, ...] = (128, 128, 128)
    precision: str = "mixed"
    cosine: bool = True
    spacing_mm: float | None = None
    folder: Path = Path("a")
    recipe: Recipe = field(default_factory=Recipe)


def test_configuration_hash_changes_with_every_field():
    config = Config()
    variants = [
        config,
        replace(config, lr=1.0000000001e-4),
        replace(config, crop_voxels=(128, 128, 80)),
        replace(config, crop_voxels=(128, 128)),
        replace(config, precision="full"),
        replace(config, cosine=False),
        replace(config, spacing_mm=3.0),
        replace(config, folder=Path("b")),
        replace(config, recipe=Recipe(spacing_mm=3.0)),
        replace(config, recipe=Recipe(contrasts=("FLAIR", "T1ce", "T1", "T2"))),
    ]
    hashes = [configuration_hash(variant, "split") for variant in variants]
    assert len({*hashes, configuration_hash(config, "other split"), configuration_hash(config)}) == len(variants) + 2
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in hashes)
    assert configuration_hash(Config(lr=0.0001), "split") == hashes[0]
    assert configuration_hash({"a": 1, "b": 2}) == configuration_hash({"b": 2, "a": 1})
    assert configuration_hash("a", "b") != configuration_hash("b", "a")


def test_configuration_hash_is_the_same_in_every_process():
    code = "from common.runs import configuration_hash; print(configuration_hash({'b': 1, 'a': {'c'}.pop()}, 'x'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert found == {configuration_hash({"a": "c", "b": 1}, "x") + "\n"}


def test_a_child_that_outlives_a_killed_run_does_not_hold_it(tmp_path):
    program = (
        "import multiprocessing, sys, time; from common.runs import Run; run = Run(sys.argv[1]);"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)); child.start();"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process.stdout:
        child = int(process.stdout.readline())
        try:
            with pytest.raises(RunError):
                Run(tmp_path)
            process.kill()
            process.wait()
            os.kill(child, 0)  # still alive
            until = time.monotonic() + 10  # it may have been made, and not have run yet
            while is_in_use(tmp_path) and time.monotonic() < until:
                time.sleep(0.05)
            Run(tmp_path).close()
        finally:
            os.kill(child, signal.SIGKILL)


def test_looking_whether_a_run_is_in_use_keeps_nobody_from_it(tmp_path):
    """`status --watch` and lists of trainings look at the same runs all the time."""
    Run(tmp_path).close()
    program = (
        "import sys; from pathlib import Path; from common.runs import is_in_use; print(flush=True)\n"
        "while True: is_in_use(Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, cwd=ROOT) as looking:
        try:
            looking.stdout.readline()
            assert not any(is_in_use(tmp_path) for _ in range(2000))
            for _ in range(50):
                Run(tmp_path).close()
        finally:
            looking.kill()


def test_a_run_of_somebody_else_can_be_looked_at():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with Run(folder) as run:
            (run.folder / "run.lock").chmod(0o644)
            assert _told_to_another(run.folder) == "True"
        assert _told_to_another(run.folder) == "False"


def _told_to_another(folder):
    """What is_in_use tells another user; this one, where it may not become another."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            if not os.geteuid():
                os.setuid(65534)
            os.write(write, str(is_in_use(folder)).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as told:
        return told.read()


def test_opening_a_run_spares_what_another_process_is_writing_below_it(tmp_path):
    """A table's folder holds trainings with locks of their own."""
    with Run(tmp_path / "rows" / "gwdl"):
        written = tmp_path / "rows" / "gwdl" / "checkpoints" / ".0.part"
        left = tmp_path / "rows" / ".1.part"
        for path in (written, left):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        with Run(tmp_path):
            assert written.exists()
            assert not left.exists()
    with Run(tmp_path):
        assert not written.exists()


def test_a_later_setting_counts_only_with_another_value_than_its_default():
    @dataclass(frozen=True)
    class First:
        rate: float = 0.1

    @dataclass(frozen=True)
    class Second(First):
        zoom: float = later(1.0)

    first = configuration_hash(First(), "split")
    assert configuration_hash(Second(), "split") == first
    assert configuration_hash({"rate": 0.1}, "split") == first
    assert configuration_hash([Second()]) == configuration_hash([First()])
    assert (
        len({first, configuration_hash(Second(zoom=1.5), "split"), configuration_hash(Second(rate=0.2), "split")}) == 3
    )


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, number):
    """Not taken for a run in use, nor for a free one."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / "run.lock").touch()
    for opened in (Run, is_in_use):
        with pytest.raises(RunError, match=rf"run\.lock: expected .* that keeps locks.*{errno.errorcode[number]}"):
            opened(tmp_path)


def test_a_result_of_another_process_or_of_other_code_is_said_to_be_shown_again(tmp_path, monkeypatch):
    with Run(tmp_path) as run:
        run.note_start()
    assert runs.shown_again(tmp_path) == ""  # made by this process
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    before = start | {"started": "2020-01-02T03:04:05+00:00"}
    (tmp_path / "environment.json").write_text(json.dumps([before]))
    assert runs.shown_again(tmp_path) == "shown again, from a run begun on 2020-01-02 03:04 UTC; --fresh makes it anew"
    (tmp_path / "environment.json").write_text(json.dumps([before | {"git_commit": "0123"}]))
    here = runs._short(start["git_commit"])
    assert f"by other code (0123, here {here})" in runs.shown_again(tmp_path)
    (tmp_path / "environment.json").write_text("[1")
    assert f"{tmp_path / 'environment.json'}: expected when the run was begun, found: " in runs.shown_again(tmp_path)


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, capsys):
    with Run(tmp_path) as run:
        run.note_start()
        run.note_start()
        assert capsys.readouterr().err == ""
        (start, _) = json.loads((tmp_path / "environment.json").read_text())
        (tmp_path / "environment.json").write_text(json.dumps([start | {"git_commit": "0123"}]))
        run.note_start()
    here = runs._short(start["git_commit"])
    said = f"note: goes on with other code than it was begun with: 0123, now {here}; --fresh starts over"
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("inside", [False, True], ids=["one network", "several as one"])
def test_the_run_of_another_network_is_named_with_the_command_that_reads_it(tmp_path, inside):
    packages = {"segresnet_monai": SegResNet, "unet_tf": UNet, "mgmt_classifier": Mgmt}
    for own, config in packages.items():
        model = asdict(config())
        write_json(tmp_path / "config.json", {"model": {"network": model} if inside else model})
        for package, asked in packages.items():
            if package != own:
                with pytest.raises(RunError, match=rf"found that of an? .*: python -m {own}\.predict reads it$"):
                    read_model_config(tmp_path, asked)
        if not inside:
            assert read_model_config(tmp_path, config) == config()


def test_the_run_of_an_ensemble_is_no_segmentations(tmp_path):
    write_json(tmp_path / "ensemble.json", {"weights": {"FLAIR": 1.0}, "threshold": 0.5})
    with pytest.raises(RunError, match=r"python -m mgmt_classifier\.predict reads it$"):
        read_model_config(tmp_path, UNet)

"""The folder of an embedded cohort: filled once, whole after a kill, shared by two processes, never mixed."""

import functools
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from common.phantom.folder import fill

IDENTITY = {"generator": "squares", "version": 1}
CASES = [f"part/{number:02d}" for number in range(12)]


def write_square(number: int, folder: Path, *, pause_s: float = 0.0) -> None:
    """Two files, so that half a case can be told from a whole one."""
    (folder / "number").write_text(str(number))
    time.sleep(pause_s)
    (folder / "square").write_text(str(number**2))


def fill_slowly(folder: Path) -> None:
    fill(folder, CASES, functools.partial(write_square, pause_s=0.02), identity=IDENTITY, n_jobs=1, what="squares")


def check(folder: Path, cases: list[str] = CASES) -> None:
    assert sorted(path.name for path in (folder / "part").iterdir()) == [case.removeprefix("part/") for case in cases]
    for number, case in enumerate(cases):
        assert (folder / case / "number").read_text() == str(number)
        assert (folder / case / "square").read_text() == str(number**2)


def test_only_what_is_missing_is_made(tmp_path):
    made = []

    def write(number, folder):
        made.append(number)
        write_square(number, folder)

    options = {"identity": IDENTITY, "n_jobs": 1, "what": "squares"}
    assert fill(tmp_path / "new" / "cohort", CASES[:3], write, **options) == tmp_path / "new" / "cohort"
    check(tmp_path / "new" / "cohort", CASES[:3])
    fill(tmp_path / "new" / "cohort", CASES, write, **options)
    fill(tmp_path / "new" / "cohort", CASES, write, **options)
    assert made == list(range(12))
    check(tmp_path / "new" / "cohort")
    assert json.loads((tmp_path / "new" / "cohort" / "cohort.json").read_text()) == IDENTITY


def test_a_kill_leaves_no_half_of_a_case(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=fill_slowly, args=(tmp_path,))
    process.start()
    while not (tmp_path / CASES[3]).exists():
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    left = [case for case in CASES if (tmp_path / case).exists()]
    assert 4 <= len(left) < 12
    check(tmp_path, left)
    fill_slowly(tmp_path)
    check(tmp_path)


def test_two_processes_fill_one_folder(tmp_path):
    processes = [multiprocessing.get_context("spawn").Process(target=fill_slowly, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    check(tmp_path)
    assert not list((tmp_path / ".partial").iterdir())


def test_both_of_two_writers_reach_the_same_case(tmp_path):
    """Between one writer's start on a case and its end another finishes it."""

    def interrupted(number, folder):
        fill(tmp_path, CASES[:1], write_square, identity=IDENTITY, n_jobs=1, what="squares")
        write_square(number, folder)

    fill(tmp_path, CASES[:1], interrupted, identity=IDENTITY, n_jobs=1, what="squares")
    check(tmp_path, CASES[:1])
    assert not list((tmp_path / ".partial").iterdir())


def test_leftovers_are_cleared_once_old(tmp_path):
    old, young = tmp_path / ".partial" / "old", tmp_path / ".partial" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "number").write_text("7")
    os.utime(old, (0, 0))
    fill(tmp_path, CASES[:1], write_square, identity=IDENTITY, n_jobs=1, what="squares")
    assert not old.exists()
    assert young.exists()


def test_another_identity_is_refused(tmp_path):
    fill(tmp_path, CASES[:1], write_square, identity=IDENTITY, n_jobs=1, what="squares")
    with pytest.raises(ValueError, match=r"holds another cohort: wanted .*'version': 2.*, found .*'version': 1"):
        fill(tmp_path, CASES, write_square, identity={**IDENTITY, "version": 2}, n_jobs=1, what="squares")
    check(tmp_path, CASES[:1])


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00000,1\n")
    with pytest.raises(ValueError, match=r"holds other files: .*found \['train', 'train_labels.csv'\]"):
        fill(tmp_path, CASES, write_square, identity=IDENTITY, n_jobs=1, what="squares")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train_labels.csv"]

"""Copies of prepared entries on a machine's own disk: whole, checked, made once."""

import errno
import os
import shutil
import signal
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from common import store as common_store
from common.cohort import find_subjects
from common.prepared import StoreError, prepare
from common.recipe import Recipe
from tests.cohorts import write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return find_subjects(write_cohort(tmp_path_factory.mktemp("cohort"), 3, shape=(20, 24, 18))).subjects


@pytest.fixture
def near(tmp_path):
    return tmp_path / "disk" / "copies"


@pytest.fixture
def both(cohort, tmp_path, near):
    """Prepare in a shared store, with copies."""
    return lambda: prepare(cohort, Recipe(), tmp_path / "store", n_jobs=1, local_copy=near)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/BraTS*")}


def test_crops_are_read_from_whole_copies_and_the_store_is_left_alone(both, near, tmp_path, monkeypatch):
    first = both()
    assert first.prepared == 3
    assert files(near) == files(tmp_path / "store")
    assert len(files(near)) == 6
    for array in (tmp_path / "store").glob("*/*.npy"):
        array.write_bytes(b"")  # would be noticed
    monkeypatch.setattr(common_store.shutil, "copyfile", lambda *_: pytest.fail("copied again"))
    again = both()
    assert (again.prepared, again.remade) == (0, ())
    assert {entry.path.parents[1] for entry in (*first.entries.values(), *again.entries.values())} == {near}
    assert all(np.isfinite(entry.open().image()).all() for entry in again.entries.values())


def test_damage_of_a_copy_is_mended_from_the_store(both, near, tmp_path):
    both()
    damaged = sorted(near.glob("*/*.npy"))[1]
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 8
    damaged.write_bytes(content)
    sorted(near.glob("*/BraTS*.json"))[2].unlink()
    found = both()
    assert (found.prepared, found.remade) == (0, ())
    assert files(near) == files(tmp_path / "store")


def test_without_room_for_all_nothing_is_copied(both, near, tmp_path, monkeypatch):
    both()
    needed = sum(map(len, files(near).values()))
    shutil.rmtree(near)
    monkeypatch.setattr(common_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(StoreError, match=rf"{near}/\w+: the disk is full: 3 entries need \d+ MiB and \d+ MiB are free"):
        both()
    assert files(near) == {}
    monkeypatch.setattr(common_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    both()
    assert files(near) == files(tmp_path / "store")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_halfway_leaves_no_half_copy(both, near, tmp_path, monkeypatch, number):
    copyfile = shutil.copyfile

    def fail_for_the_second(source, target):
        copyfile(source, target)
        if "BraTS_001" in source.name:
            os.truncate(target, 100)
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(common_store.shutil, "copyfile", fail_for_the_second)
        with pytest.raises(StoreError, match=rf"{near}/\w+: entries cannot be copied there .*: {os.strerror(number)}"):
            both()
    assert {name for name in files(near) if "BraTS_001" in name} == set()
    assert list(near.rglob("*.part")) == []
    both()
    assert files(near) == files(tmp_path / "store")


def test_other_bytes_than_the_record_names_are_no_copy(both, near, monkeypatch):
    def change(source, target):
        target.write_bytes(source.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(common_store.shutil, "copyfile", change)
    with pytest.raises(StoreError, match=r"BraTS_000-\w+.npy: expected the bytes that its record names, found others"):
        both()
    assert files(near) == {}


def test_a_folder_that_cannot_be_is_one_error(both, near):
    near.parent.write_text("a file")
    with pytest.raises(StoreError, match=rf"{near}/\w+: entries cannot be copied there \(--local-copy\): Not a dir"):
        both()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12, where a thread runs
def test_trainings_of_one_machine_copy_once_and_one_that_is_killed_leaves_the_rest_to_others(both, near, tmp_path):
    """Four processes; the first one dies in its second copy, in which the three others come."""
    copyfile, log = shutil.copyfile, tmp_path / "copied"
    wait, go = os.pipe()

    def copy(source, target, *, dies):
        copyfile(source, target)
        if dies and log.exists() and len(log.read_text().split()) == 2:
            os.truncate(target, 50)
            os.write(go, b"123")
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write(f"{source.name}\n")

    def child(*, dies):
        if pid := os.fork():
            return pid
        try:
            if not dies:
                os.read(wait, 1)
            shutil.copyfile = partial(copy, dies=dies)
            both()
            os._exit(0)
        finally:
            os._exit(1)

    children = [child(dies=number == 0) for number in range(4)]
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert ended == [-signal.SIGKILL, 0, 0, 0]
    assert sorted(log.read_text().split()) == sorted(files(near))
    assert files(near) == files(tmp_path / "store")
    assert list(near.rglob("*.part")) == []


def test_copies_are_never_made_into_the_store_itself(cohort, tmp_path):
    prepare(cohort, Recipe(), tmp_path / "store", n_jobs=1)
    before = files(tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    with pytest.raises(StoreError, match="expected --local-copy in another place than the store"):
        prepare(cohort, Recipe(), tmp_path / "store", n_jobs=1, local_copy=tmp_path / "link")
    assert files(tmp_path / "store") == before

import errno
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from common import files
from common.files import (
    atomic_path,
    check_seal,
    file_stem,
    plain,
    read_json,
    remove_leftovers,
    remove_old_leftovers,
    seal,
    typed,
    write_csv,
    write_json,
    write_text,
)


def strict(path):
    """A reader that knows JSON and nothing else: NaN and Infinity are errors to it."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename across disks would not be atomic
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("newer")
        assert path.read_text() == "new"
    assert path.read_text() == "newer"


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, flush, error):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with atomic_path(path, flush=flush) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), atomic_path(path, flush=flush):
        pass  # a block that writes nothing does not end well
    assert path.read_text() == "old"
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"), atomic_path(tmp_path / "folder", flush=flush) as temporary:
        temporary.write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_two_writers_have_two_temporary_files(tmp_path):
    with atomic_path(tmp_path / "file") as first, atomic_path(tmp_path / "file") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"  # whose block ended last
    assert len(list(tmp_path.iterdir())) == 1


def test_the_disk_has_the_content_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(f"fsync {os.fstat(fd).st_size}") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
    write_text(tmp_path / "file", "12345")
    with atomic_path(tmp_path / "file", flush=False) as temporary:
        temporary.write_text("1")
    assert calls == ["fsync 5", "replace", "replace"]


def test_leftovers_of_killed_writers(tmp_path):
    writers = [atomic_path(tmp_path / name) for name in ("a", "deep/b")]
    left = [writer.__enter__() for writer in writers]
    for path in left:
        path.write_text("half")
    kept = [tmp_path / name for name in ("whole.part", ".hidden", "deep/whole")]
    for path in kept:
        path.write_text("")
    hour = 3600
    os.utime(left[0], (time.time() - 23 * hour,) * 2)
    remove_old_leftovers(tmp_path)
    assert left[0].exists()
    os.utime(left[0], (time.time() - 25 * hour,) * 2)
    os.utime(kept[0], (0, 0))
    remove_old_leftovers(tmp_path)
    assert [path.exists() for path in left] == [False, True]
    remove_leftovers(tmp_path)
    assert [path.exists() for path in left] == [False, False]
    assert all(path.exists() for path in kept)


@dataclass(frozen=True)
class Inner:
    folder: Path
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: dict


def test_everything_becomes_what_json_knows(tmp_path):
    value = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf, 1.5],
        "numpy": [np.float32("nan"), np.float64(0.1), np.int16(-3), np.bool_(True), np.str_("é")],
        "arrays": [np.array([[1, 2]]), np.array([np.nan, 0.5]), np.array([7]), np.array(8.0), np.zeros((0, 2))],
        "nested": Outer(Inner(Path("a/b"), (1.0, math.nan)), {1: Inner(Path("c"), ())}),
        "plain": [None, True, "text", 3, {}, ()],
        4: {"x": {"y": [{"z": math.nan}]}},
    }
    write_json(tmp_path / "file.json", value)
    assert strict(tmp_path / "file.json") == {
        "nan": None,
        "inf": [None, None, 1.5],
        "numpy": [None, 0.1, -3, True, "é"],
        "arrays": [[[1, 2]], [None, 0.5], [7], 8.0, []],
        "nested": {"inner": {"folder": "a/b", "scores": [1.0, None]}, "table": {"1": {"folder": "c", "scores": []}}},
        "plain": [None, True, "text", 3, {}, []],
        "4": {"x": {"y": [{"z": None}]}},
    }
    assert (tmp_path / "file.json").read_bytes().endswith(b"}\n")
    assert math.isnan(value["nan"])
    assert plain(0.1) == 0.1


def test_what_json_does_not_know_is_refused_and_the_old_file_kept(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises(TypeError, match="object"):
        write_json(path, {"a": object()})
    assert strict(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_csv_comes_back(tmp_path):
    frame = pd.DataFrame({"case": ["a,b", 'c"é'], "dice": [0.1 + 0.2, math.nan], "n": [1, 2]}, index=[7, 9])
    write_csv(tmp_path / "file.csv", frame)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "file.csv"), frame.reset_index(drop=True), rtol=1e-15)


def test_a_write_that_fails_midway(tmp_path, monkeypatch):
    """What a full disk does to the text of a file."""
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    written = Path.write_text

    def half(self, text, **options):
        written(self, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": list(range(100))})
    assert strict(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_become_short_ones_that_differ():
    assert file_stem("BraTS2021_00001") == "BraTS2021_00001"
    longs = ["x" * 241, "x" * 240 + "y", "ä" * 120]
    stems = [file_stem(name) for name in longs]
    assert len(set(stems)) == 3
    assert all(len(stem.encode()) <= 128 for stem in stems)
    assert stems[2].startswith("ääää")


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    name: Literal["a", 2] = "a"
    ranges: tuple[tuple[int, int], ...] = ()
    size: int | None = None
    flag: bool = False


@pytest.mark.parametrize(
    "values",
    [{}, {"rate": 3}, {"name": 2}, {"ranges": [[1, 2], [3, 4]]}, {"size": None}, {"size": 7}, {"flag": True}],
)
def test_values_of_the_right_types_make_the_dataclass(values):
    found = typed(Settings, values)
    expected = {name: tuple(map(tuple, value)) if name == "ranges" else value for name, value in values.items()}
    assert found == Settings(**expected)


@pytest.mark.parametrize(
    "values",
    [
        {"rate": "0.1"}, {"rate": float("nan")}, {"rate": float("inf")}, {"rate": None}, {"rate": True},
        {"name": "b"}, {"name": ["a"]}, {"name": 2.0}, {"ranges": [1, 2]}, {"ranges": [[1]]}, {"ranges": [[1, [2]]]},
        {"ranges": "ab"}, {"size": 7.0}, {"size": [7]}, {"flag": 1}, {"flag": "true"}, {"speed": 1},
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_named(values):
    (name,) = values
    with pytest.raises(ValueError, match=rf"expected (fields of Settings, found )?{name}"):
        typed(Settings, values)


def test_an_object_within_settings_is_checked_as_they_are():
    @dataclass(frozen=True)
    class Outer:
        inner: Settings

    fields = {"rate": 1}
    assert typed(Outer, {"inner": fields}) == Outer(typed(Settings, fields))
    for inner, found in (({"rate": "1"}, "rate"), ({"other": 1}, "other"), ([1], "inner"), (None, "inner")):
        with pytest.raises(ValueError, match=found):
            typed(Outer, {"inner": inner})


def test_a_seal_tells_every_flipped_bit_and_may_be_missing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"numbers")
    check_seal(path)
    seal(path)
    check_seal(path)
    sealed = path.read_bytes()
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if damaged.startswith(b"numbers") and not damaged.removeprefix(b"numbers").startswith(sealed[7:-32]):
            check_seal(path)  # a seal that is none any more: the content is as it was
        else:
            with pytest.raises(ValueError, match="other bytes than were written"):
                check_seal(path)
    for length in range(8, len(sealed)):
        path.write_bytes(sealed[:length])
        if length >= len(sealed) - 32:
            with pytest.raises(ValueError, match="other bytes"):
                check_seal(path)


@pytest.mark.parametrize("content", ["{", "[1", "[" * 100_000, "1" * 5000, "[]", "3"])
def test_json_that_is_not_what_was_written_is_named(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json: expected "):
        read_json(path, dict)


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"place": "Würzburg"}'.encode())  # as Notepad saves "UTF-8 with BOM"
    assert read_json(path, dict) == {"place": "Würzburg"}


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"), atomic_path(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")

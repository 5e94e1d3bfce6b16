"""experiments.cohort --prepare: the stores are those that the experiments look for, in shards, counted, resumed."""

import contextlib
import importlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.subject import Problem
from experiments import cohort
from experiments.base.trainings import State
from experiments.mgmt import shards as mgmt_shards
from experiments.segmentation import shards as segmentation_shards
from tests.clusters import slurm
from tests.cohorts import write_cohort
from tests.experiments.conftest import environment


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command in this process, its shards too; returns the shards that it has run."""

    def run(shards, _):
        ran.extend(shard.folder.name for shard in shards if not shard.is_finished)
        for shard in shards:
            if not shard.is_finished:
                (segmentation_shards if shard.name.startswith("prepare ") else mgmt_shards).prepare(shard.folder)
        return {shard.name: State("finished") for shard in shards}

    ran = []
    monkeypatch.setattr(cohort, "run_trainings", run)

    def command(*arguments):
        ran.clear()
        words = ["cohort", "--prepare", "--preset", "demo", "--jobs", 1, "--shards", 2, *arguments]
        words += ["--runs", tmp_path / "runs", "--prepared", tmp_path / "prepared"]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        cohort.main()
        return list(ran)

    return command


def test_a_shard_of_scans_looks_for_them_once(call, tmp_path, monkeypatch, capsys):
    looked = []
    kept = segmentation_shards.kept
    monkeypatch.setattr(segmentation_shards, "kept", lambda described: looked.append(described) or kept(described))
    data = write_cohort(tmp_path / "data", 2, shape=(20, 24, 18))
    assert len(call("--data", data, "--experiments", "unet3d", "table1_baseline")) == len(looked) == 2
    assert capsys.readouterr().out.count("): 2 of 2 prepared") == 2  # recipes


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/*.npy")}


def test_every_subject_is_in_the_store_and_counted_and_what_is_missing_is_made(call, tmp_path, capsys):
    data = write_cohort(tmp_path / "data", 5, shape=(20, 24, 18))
    bad = data / "BraTS_003" / "BraTS_003_flair.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-9])
    (data / "BraTS_004" / "BraTS_004_t1.nii.gz").unlink()
    words = ("--data", data, "--experiments", "unet3d", "table1_baseline")
    assert call(*words) == ["1of2", "2of2"]
    shown = capsys.readouterr().out
    for experiment in ("unet3d", "table1_baseline"):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{experiment} (")]
        assert line.endswith("): 3 of 4 prepared: 3 made, 0 found intact")
    assert shown.count("\n  BraTS_003: ") == 2
    assert "BraTS_004: missing T1" in shown
    whole = entries(tmp_path / "prepared")
    assert len(whole) == 6
    assert call(*words) == ["2of2"]  # the bad one's, which somebody may have mended
    assert "2 shards, 1 of them finished before" in capsys.readouterr().out
    (finished,) = (tmp_path / "runs").glob("prepare/*/data/2of2/prepared.json")
    counted = finished.read_text()
    segmentation_shards.prepare(finished.parent)  # as another command does that has begun it in the same moment
    assert finished.read_text() == counted
    # Of the second shard BraTS_001, whose entry somebody has deleted, and a kill before it was finished.
    lost = next((tmp_path / "prepared").glob("*/BraTS_001-*.npy"))
    lost.unlink()
    capsys.readouterr()
    assert call(*words) == ["2of2"]
    assert "3 of 4 prepared: 3 made, 1 of them for damaged ones, 0 found intact" in capsys.readouterr().out
    assert entries(tmp_path / "prepared") == whole
    next((tmp_path / "runs").glob("prepare/*/data/1of2/prepared.json")).unlink()
    capsys.readouterr()
    assert call(*words) == ["1of2", "2of2"]
    counted = {line.partition("): ")[2] for line in capsys.readouterr().out.splitlines() if "): " in line}
    assert counted == {"3 of 4 prepared: 0 made, 3 found intact"}
    shutil.rmtree(tmp_path / "prepared")
    assert call(*words) == ["1of2", "2of2"]
    assert entries(tmp_path / "prepared") == whole


@pytest.mark.slow
@pytest.mark.parametrize("on", ["local", "ray", "slurm"])
def test_processes_that_fill_it_together_make_the_same_store(call, cohort_folder, tmp_path, capsys, on):
    words = ("--data", cohort_folder, "--experiments", "unet3d", "table1_baseline", "--shards", 3)
    call(*words)
    alone, words = entries(tmp_path / "prepared"), (*words, "--prepare", "--preset", "demo", "--on", on)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "prepared")
    command = [sys.executable, "-m", "experiments.cohort", *words, "--runs", tmp_path / "runs"]
    command += ["--prepared", tmp_path / "prepared", *(("--slurm.mem", "1500M") if on == "slurm" else ())]
    with slurm(tmp_path / "slurm") if on == "slurm" else contextlib.nullcontext({}) as variables:
        own = {"cwd": tmp_path, "env": environment() | variables, "text": True, "stdout": subprocess.PIPE}
        both = [subprocess.Popen(list(map(str, command)), **own) for _ in range(2)]  # two commands at once
        said = [each.communicate(timeout=400)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert entries(tmp_path / "prepared") == alone
    for each in said:
        assert each.count("): 6 of 6 prepared: 6 made, 0 found intact") == 2


def test_series_are_counted_too_and_a_shard_looks_for_its_patients_once(call, competition, capsys, monkeypatch):
    looked = []
    find = mgmt_shards.find_patients
    monkeypatch.setattr(mgmt_shards, "find_patients", lambda *where: looked.append(where) or find(*where))
    assert len(call("--mgmt-data", competition, "--experiments", "mgmt_slice_choice")) == len(looked) == 2
    shown = capsys.readouterr().out
    assert shown.count("mgmt_slice_choice (") > 1  # recipes
    assert "mgmt_slice_choice (" in shown
    assert "0 of 24 prepared" in shown  # they have 9 images, and 15 are wanted
    assert "00005: expected at least 15 images, found 9" in shown


@pytest.mark.parametrize("experiment", [name for names in cohort.PREPARED_FOR.values() for name in names])
def test_the_recipes_are_those_that_the_experiment_looks_for(experiment, competition, cohort_folder, monkeypatch):
    module = "mgmt_classifier.data" if experiment.startswith("mgmt") else "common.prepared"
    data = competition if experiment.startswith("mgmt") else cohort_folder
    wanted = set(cohort.recipes(experiment, "demo"))
    asked = []

    def prepare(subjects, recipe, *_, **__):
        asked.append(recipe)
        return SimpleNamespace(entries={}, problems=[Problem("1", None, "is bad")])

    monkeypatch.setattr(importlib.import_module(module), "prepare", prepare)
    monkeypatch.setattr(sys, "argv", [experiment, "--data", str(data), "--preset", "demo"])
    with pytest.raises(SystemExit, match="1: is bad"):
        importlib.import_module(f"experiments.{experiment}").main()
    assert set(asked) == wanted


@pytest.fixture
def cohort_folder(request):
    return request.getfixturevalue("cohort")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "ray"), "--on and --at-once works with --prepare only"),
        (("--at-once", "2"), "--on and --at-once works with --prepare only"),
        (("--experiments", "unet3d"), "--experiments works with --prepare only"),
        (("--prepare", "--fresh"), "expected --fresh without --prepare"),
        (
            ("--prepare", "--experiments", "mgmt_grid"),
            "expected --experiments out of table1_baseline, .*, received mgmt",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(cohort_folder, monkeypatch, words, message):
    monkeypatch.setattr(sys, "argv", ["cohort", "--data", str(cohort_folder), *words])
    with pytest.raises(SystemExit, match=message):
        cohort.main()

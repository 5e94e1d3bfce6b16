"""An MGMT run keeps its folder over versions, and what has been trained is read, whoever has trained it."""

import json
import shutil
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest

from experiments import mgmt_grid
from experiments.base.trainings import State
from experiments.mgmt import study
from experiments.mgmt.opening import mgmt_study
from experiments.mgmt.options import MgmtOptions
from mgmt_classifier.config import Config

CELL = Config(contrast="FLAIR", images=5, image_size=(32, 32))


@dataclass(frozen=True, kw_only=True)
class Settings:
    cell: Config = CELL
    contrasts: tuple[str, ...] = ("FLAIR",)


# The same as a later version has them, in which one field more each decides numbers.


@dataclass(frozen=True, kw_only=True)
class LaterConfig(Config):
    smoothing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LaterSettings(Settings):
    cell: LaterConfig = LaterConfig(contrast="FLAIR", images=5, image_size=(32, 32))
    repeats: int = 1
    weights: tuple[float, ...] = field(default_factory=lambda: (1.0,))


@pytest.fixture
def opened(competition, tmp_path):
    """Open a study of the settings; returns its folder."""

    def of(settings, configs=(CELL,), **changes):
        folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
        options = MgmtOptions(**{"data": competition, "preset": "demo", "jobs": 1, **folders, **changes})

        with mgmt_study("mgmt_grid", options, settings, configs, (0.5, 0.25, 0.25)) as found:
            return found.run.folder

    return of


def test_a_version_with_more_settings_finds_the_run_and_other_values_are_another(opened):
    first = opened(Settings())
    (first / "summary.json").write_text("[]")
    later = LaterSettings()
    assert opened(later) == first
    assert opened(later, at_once=2) == first
    others = [
        opened(replace(later, repeats=2)),
        opened(replace(later, weights=(0.5,))),
        opened(replace(later, cell=replace(later.cell, smoothing=0.1))),
        opened(replace(later, cell=replace(later.cell, learning_rate=0.5))),
        opened(later, split_seed=1),
        opened(later, max_patients=20),
    ]
    assert len({first, *others}) == 7
    assert [folder for folder in first.parent.iterdir() if (folder / "summary.json").exists()] == [first]


def test_a_patient_with_anothers_series_is_refused_or_left_out(competition, tmp_path, opened):
    """00022 has 00000's FLAIR, of the same label; 00003 has 00006's, of another one; 00001 a copy beside its own."""
    data = tmp_path / "data"
    shutil.copytree(competition, data)
    train = data / "train"
    for target, source in (("00022/FLAIR", "00000/FLAIR"), ("00003/FLAIR", "00006/FLAIR"), ("00001/T2w", "00001/T1w")):
        shutil.rmtree(train / target)
        shutil.copytree(train / source, train / target, copy_function=shutil.copyfile)  # with a time of its own
    cells = [replace(CELL, contrast=contrast) for contrast in ("FLAIR", "T1w", "T2w")]
    with pytest.raises(SystemExit) as refused:
        opened(Settings(), data=data, configs=cells)
    said = str(refused.value)
    assert "4 of 24 patients cannot be used" in said
    for patient, what in (
        ("00022", "FLAIR has the FLAIR series of patient 00000, expected one of its own"),
        ("00003", "FLAIR has the FLAIR series of patient 00006, whose label is another"),
        ("00006", "FLAIR has the FLAIR series of patient 00003, whose label is another"),
        ("00001", "T2w is a copy of T1w, expected two different series"),
    ):
        assert f"  {patient}: {what} [{train / patient}" in said
    folder = opened(Settings(), data=data, configs=cells, leave_out_bad=True)
    split = json.loads((folder / "split.json").read_text())
    used = {patient for part in ("train", "validation", "test") for patient in split[part]}
    assert used == {f"{number:05}" for number in range(24)} - {"00022", "00003", "00006", "00001"}


def test_a_data_folders_name_may_be_as_long_as_file_systems_allow(competition, tmp_path, opened):
    data = tmp_path / ("cohort_" * 36)[:255]
    shutil.copytree(competition, data)
    folder = opened(Settings(), data=data)
    assert folder.is_dir()
    assert folder.name.startswith(f"demo-{data.name[:100]}")
    named = tmp_path / "cohort"
    data.rename(named)
    assert opened(Settings(), data=named).name.startswith("demo-cohort-50-25-25_stratified_seed0-")


def test_cells_of_an_older_version_are_put_together_without_training(competition, tmp_path, monkeypatch, capsys):
    """It has kept neither who does a cell nor the cell's labels, and its options were fewer."""
    words = ["--data", competition, "--preset", "demo", "--jobs", "1", "--runs", tmp_path / "runs"]
    words += ["--prepared", tmp_path / "prepared", "--model.contrasts", "FLAIR", "--model.batch-sizes", "4"]
    words += ["--model.images", "3", "5", "--model.cell.image-size", "32", "32"]
    monkeypatch.setattr(sys, "argv", ["mgmt_grid", *map(str, words)])

    def stop(trainings, placement):
        return {each.name: State("failed", "stopped") for each in trainings}

    monkeypatch.setattr(study, "run", stop)
    with pytest.raises(SystemExit, match="2 of 2 trainings have not finished"):
        mgmt_grid.main()
    (folder,) = (tmp_path / "runs" / "mgmt_grid").iterdir()
    folder = folder.rename(folder.with_name(f"{folder.name.rpartition('-')[0]}-0a1b2c3d"))
    config = json.loads((folder / "config.json").read_text())
    del config["options"]["at_once"]
    del config["model"]["cell"]["mixed_precision"]
    (folder / "config.json").write_text(json.dumps(config))
    split = json.loads((folder / "split.json").read_text())
    labels = json.loads((folder / "data.json").read_text())["labels"]
    rng = np.random.default_rng(0)
    for cell in ("FLAIR_n3_b4", "FLAIR_n5_b4"):
        given = json.loads((folder / cell / "config.json").read_text())
        (folder / cell / "config.json").write_text(json.dumps({name: given[name] for name in ("experiment", "model")}))
        (folder / cell / "data.json").write_text(json.dumps({"synthetic": False, "folder": str(competition)}))
        rows = [(part, each, labels[each], rng.random()) for part in ("validation", "test") for each in split[part]]
        table = pd.DataFrame(rows, columns=["part", "id", "label", "probability"])
        table.to_csv(folder / cell / "predictions.csv", index=False)
        (folder / cell / "threshold.json").write_text('{"threshold": 0.5}')
    capsys.readouterr()

    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["mgmt_grid", *map(str, words)])
    monkeypatch.setattr("experiments.base.local.Local.start", None)  # nothing is
    mgmt_grid.main()
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "summary.json").exists()
    printed = capsys.readouterr().out
    assert f"run folder: {folder}" in printed
    mgmt_grid.main()
    assert capsys.readouterr().out == printed

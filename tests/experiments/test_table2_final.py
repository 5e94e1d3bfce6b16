"""The final model's command: both parts, several seeds, what was missed, and how little a second command repeats."""

import json
import math
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import table1_variations, table2_final
from experiments.base.results import reported
from experiments.table2_final import DEMO, PAPER, FinalOptions
from segresnet_monai.config import Config
from tests.columns import columns, documented
from tests.experiments.conftest import TINY, here

MODULE = "experiments.table2_final"
SHORT = (*TINY, "--model.continued-from", "1", "--model.slices", "None")
PARTS = ("validation", "test")


def test_the_paper_preset_is_the_reports_extended_training_with_dice_and_cross_entropy():
    said = reported("settings")["table1_variations"]
    further = said["extended__additional_epochs"].value
    assert replace(Config(), loss="dice_bce", slices=PAPER.slices, crop_voxels=(128, 128, 80),
                   epochs=Config().epochs + further, continued_from=Config().epochs) == PAPER  # fmt: skip


def test_the_demo_takes_the_same_path():
    assert (DEMO.loss, DEMO.checkpoint) == (PAPER.loss, PAPER.checkpoint)
    assert 0 < DEMO.continued_from < DEMO.epochs


def test_no_seed_at_all_is_refused():
    with pytest.raises(ValueError, match="expected --seeds of 1 or more, received 0"):
        FinalOptions(seeds=0)


# The command ----------------------------------------------------------------------------------------------------------


def summary_of(folder):
    lines = json.loads((folder / "summary.json").read_text())
    found = {line["key"].removeprefix("table2_final."): line for line in lines}
    assert len(found) == len(lines)
    return found


def scored(folder, number, part):
    frame = pd.read_csv(folder / f"seed{number}" / part / "cases.csv").set_index("case")
    assert len(frame) == 2
    return np.nan_to_num(frame[["dice_NCR", "dice_ED", "dice_ET"]], nan=1.0).mean(axis=1)


def kept(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def even(tmp_path, cohort):
    """A published split of the tiny cohort with two cases in every part."""
    path = tmp_path / "even.csv"
    subjects = sorted(folder.name for folder in cohort.iterdir())
    pd.DataFrame({"id": subjects, "part": ["train", "validation", "test"] * 2}).to_csv(path, index=False)
    return path


@pytest.fixture
def command(monkeypatch, tmp_path, cohort, even, capsys):
    """The command and its trainings in this process, which loads the framework once; returns what it printed."""
    from experiments.segmentation import final_scores

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(final_scores, "run", here(final_scores.train))

    def run(*arguments):
        given = ("--data", cohort, "--subjects", even, *SHORT, *arguments)
        monkeypatch.setattr(sys, "argv", [MODULE, *map(str, given)])
        table2_final.main()
        return capsys.readouterr()

    return run


def test_one_command_scores_both_parts_and_others_repeat_nothing(command, tmp_path):
    done = command()
    (folder,) = (tmp_path / "runs" / "table2_final").iterdir()
    assert kept(folder) >= {
        "summary.json", "config.json", "data.json", "split.json", "environment.json", "scores.csv", "label_size.csv",
        "figures/label_size.png", "seed0/checkpoints/best.pt", "seed0/history.csv", "seed0/costs.json",
        "seed0/config.json", "seed0/figures/history.png", "seed0/summary.json",
        *(f"seed0/{part}/{name}" for part in PARTS for name in ("cases.csv", "scores.csv", "figures/overlays.png")),
    }  # fmt: skip
    assert columns(folder / "scores.csv") <= documented("scores.csv")
    split = json.loads((folder / "split.json").read_text())
    for part in PARTS:
        cases = {path.name for path in (folder / "seed0" / part / "predictions").iterdir()}
        assert cases == {f"{case}.nii.gz" for case in split[part]}
    assert pd.read_csv(folder / "seed0" / "history.csv")["epoch"].tolist() == [1, 2]

    first = summary_of(folder)
    said = reported()["table2_final"]
    assert {name: line["reported"] for name, line in first.items() if line["reported"] is not None} == {
        name: entry.value for name, entry in said.items()
    }
    for prefix, part in (("", "validation"), ("test.", "test")):
        line = first[f"{prefix}mean_dice"]
        assert line["value"] == pytest.approx(scored(folder, 0, part).mean())
        assert (line["n"], line["low"], line["synthetic"]) == (2, None, False)
    assert first["seeds"]["value"] == 1
    assert not any("seed_" in name for name in first)
    assert first["small_labels"]["value"].startswith("missed entirely in validation and test: NCR ")
    assert "chosen by their Dice on validation" in done.out
    assert "synthetic" not in done.out

    again = command()
    assert again.out == done.out
    assert "training" not in again.err
    check_another_seed(command, folder, first)

    # What another table has trained with these settings on these subjects is taken over.
    row = tmp_path / "runs" / "another" / "row"
    row.parent.mkdir()
    shutil.move(folder / "seed0", row)
    for path in PARTS:
        shutil.rmtree(row / path)
    shutil.rmtree(folder)
    done = command()
    assert "training:" not in done.err
    assert (folder / "seed0" / "adopted.txt").read_text() == f"trained in {row}\n"
    assert summary_of(folder) == first
    done = command("--fresh")
    assert "training:" in done.err
    assert not (folder / "seed0" / "adopted.txt").exists()


def check_another_seed(command, folder, first):
    """A second seed goes on in the same folder, spread and mean come from both; one seed again is what it was."""
    weights = folder / "seed0" / "checkpoints" / "last.pt"
    before = weights.stat().st_mtime_ns
    command("--seeds", 2)
    assert weights.stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    both = summary_of(folder)
    models = [json.loads((folder / f"seed{number}" / "config.json").read_text())["model"] for number in (0, 1)]
    assert models[1] == models[0] | {"seed": 1}
    assert json.loads((folder / "config.json").read_text())["options"]["seeds"] == 2
    for prefix, part in (("", "validation"), ("test.", "test")):
        means = [scored(folder, number, part).mean() for number in (0, 1)]
        assert means[0] != means[1]
        assert both[f"{prefix}mean_dice"]["value"] == pytest.approx(np.mean(means))
        spread = both[f"{prefix}mean_dice_seed_sd"]
        assert (spread["value"], spread["n"]) == (pytest.approx(abs(means[0] - means[1]) / math.sqrt(2)), 2)
        assert both[f"{prefix}mean_dice_seed_min"]["value"] == pytest.approx(min(means))
        assert both[f"{prefix}mean_dice_seed_max"]["value"] == pytest.approx(max(means))
    assert "training" not in command().err
    assert summary_of(folder) == first


@pytest.mark.slow
def test_the_row_of_the_table_of_variations_is_taken_over(run_module, cohort, tmp_path):
    """The final model with that row's settings: the same scores, nothing trained; trained whole, the same again."""
    one_epoch = [
        *("--preset", "demo", "--jobs", "2", "--model.baseline.spacing-mm", "None"),
        *("--model.baseline.crop-voxels", "24", "24", "24", "--model.baseline.encoder-blocks", "1", "1"),
        *("--model.baseline.decoder-blocks", "1", "--model.baseline.epochs", "1"),
        *("--model.baseline.crops-per-epoch", "2", "--model.baseline.validate-every", "1"),
        *("--model.slices", "8", "28", "--model.crop-slices", "20", "--model.further-epochs", "1"),
        *("--model.baseline.extent", "40", "48", "36"),
    ]
    done = run_module("experiments.table1_variations", "--data", cohort, *one_epoch, "--rows", "dice_ce_extended")
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "runs" / "table1_variations").iterdir()
    row = table / "rows" / "dice_ce_extended"

    baseline = table1_variations.DEMO.baseline
    same = (
        *("--model.slices", "8", "28", "--model.crop-voxels", "24", "24", "20", "--model.continued-from", "1"),
        *("--model.extent", "40", "48", "36"),
        *("--model.learning-rate", baseline.learning_rate, "--model.initial-probability", baseline.initial_probability),
    )
    arguments = ("--data", cohort, *TINY, *same)
    done = run_module(MODULE, *arguments)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "table2_final").iterdir()
    assert (folder / "seed0" / "adopted.txt").read_text() == f"trained in {row}\n"
    found = summary_of(folder)
    of_row = {line["key"].partition("__")[2]: line["value"] for line in json.loads((row / "summary.json").read_text())}
    assert of_row["mean_dice"] == found["test.mean_dice"]["value"]
    assert {metric: found[f"test.{metric}"]["value"] for metric in of_row} == of_row

    own = run_module(MODULE, *arguments, "--fresh")
    assert own.returncode == 0, own.stderr
    assert "training:" in own.stderr
    assert summary_of(folder) == found


# Scores over seeds ----------------------------------------------------------------------------------------------------


# Size of a label against Dice -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_learns_to_segment_phantoms_it_has_not_seen(run_module, tmp_path):
    done = run_module(MODULE)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "table2_final").iterdir()
    found = summary_of(folder)
    assert found["test.dice_WT"]["value"] >= 0.80
    assert found["test.mean_dice"]["value"] >= 0.5
    assert found["test.mean_dice"]["n"] >= 6
    assert all(line["synthetic"] for line in found.values())

"""The table of variations: what each row changes, and the command from scans to a table that leaves nothing out."""

import json
from dataclasses import fields, replace

import pandas as pd
import pytest

from experiments import table1_variations
from experiments.base.results import reported
from experiments.base.trainings import FAILURE, LOG
from experiments.segmentation import variations
from experiments.segmentation.training import segresnet_of
from experiments.table1_variations import DEMO, PAPER
from segresnet_monai.config import Config
from tests.experiments.conftest import here

MODULE = "experiments.table1_variations"
TINY = (
    *("--preset", "demo", "--jobs", "2", "--model.baseline.spacing-mm", "None"),
    *("--model.baseline.crop-voxels", "24", "24", "24", "--model.baseline.encoder-blocks", "1", "1"),
    *("--model.baseline.decoder-blocks", "1", "--model.baseline.epochs", "1"),
    *("--model.baseline.crops-per-epoch", "2", "--model.baseline.validate-every", "1", "--model.baseline.workers", "0"),
    *("--model.baseline.window-overlap", "0.0"),
    *("--model.slices", "8", "28", "--model.crop-slices", "20", "--model.further-epochs", "1"),
)


@pytest.mark.parametrize("table", [PAPER, DEMO])
def test_every_row_is_one_change_of_its_parent(table):
    rows = table.variations()
    changed = {
        name: {
            field.name
            for field in fields(Config)
            if getattr(row.config, field.name) != getattr(rows[row.parent].config, field.name)
        }
        for name, row in rows.items()
        if row.parent
    }
    assert changed == {
        "slices80": {"crop_voxels", "slices"},
        "gwdl": {"loss"},
        "hausdorff": {"loss"},
        "dice_ce": {"loss"},
        "dice_ce_monai": {"loss"},
        "slices80_extended": {"epochs", "continued_from"},
        "dice_ce_extended": {"epochs", "continued_from"},
        "vae": {"vae", "recompute_activations"},
    }


def test_the_paper_preset_is_the_reports():
    said, rows = reported("settings")["table1_variations"], PAPER.variations()
    assert rows["baseline"].config == Config()
    config = rows["slices80"].config
    assert config.slices[1] - config.slices[0] == config.crop_voxels[2] == said["slices80__slices"].value
    extended = rows["dice_ce_extended"].config
    assert extended.epochs - extended.continued_from == said["extended__additional_epochs"].value
    assert extended.continued_from == rows["dice_ce"].config.epochs


def test_the_hausdorff_row_trains_with_the_dice_loss_unless_told_otherwise():
    assert PAPER.variations()["hausdorff"].config.loss == "dice_hausdorff"
    assert replace(PAPER, hausdorff_loss="hausdorff").variations()["hausdorff"].config.loss == "hausdorff"


def test_settings_that_make_no_row_are_refused():
    with pytest.raises(ValueError, match=r"expected baseline\.epochs to be a multiple of baseline\.validate_every"):
        replace(DEMO, baseline=replace(DEMO.baseline, epochs=7))


def summary_of(folder):
    lines = json.loads((folder / "summary.json").read_text())
    found = {line["key"].partition(".")[2]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_rows_are_run_once_compared_and_none_is_left_out(cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variations, "run", here(segresnet_of))

    def call(*rows):
        monkeypatch.setattr("sys.argv", ["table1_variations", "--data", str(cohort), *TINY, "--rows", *rows])
        table1_variations.main()
        return capsys.readouterr().out

    call("slices80_extended", "gwdl")
    (folder,) = (tmp_path / "runs" / "table1_variations").iterdir()
    assert sorted(row.name for row in (folder / "rows").iterdir()) == ["gwdl", "slices80", "slices80_extended"]
    found = summary_of(folder)
    for name, said in reported()["table1_variations"].items():
        assert found[name]["reported"] == said.value
    assert (folder / "figures" / "variations.png").stat().st_size > 0
    missing = found["baseline__mean_dice_with_background"]
    assert (missing["value"], missing["n"]) == ("not run", 0)
    assert found["slices80__training_time"]["value"] == "not compared: baseline not run"
    assert pd.read_csv(folder / "comparisons.csv")[["row", "against"]].to_numpy().tolist() == [
        ["gwdl", "slices80"],
        ["slices80_extended", "slices80"],
    ]
    history = pd.read_csv(folder / "rows" / "slices80_extended" / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history["loss"][0] == pd.read_csv(folder / "rows" / "slices80" / "history.csv")["loss"][0]

    weights = folder / "rows" / "gwdl" / "checkpoints" / "last.pt"
    before = weights.stat().st_mtime_ns
    shown = call("gwdl", "baseline").splitlines()
    assert weights.stat().st_mtime_ns == before
    found = summary_of(folder)
    own = summary_of(folder / "rows" / "gwdl")
    assert found["gwdl__mean_dice_with_background"] == own["gwdl__mean_dice_with_background"]
    assert found["gwdl__mean_dice_with_background"]["reported"] == "not satisfactory"
    assert found["slices80__training_time"]["value"] > 0
    scores = [found[f"{row}__mean_dice_with_background"]["value"] for row in ("baseline", "slices80", "gwdl")]
    assert found["gwdl__difference_from_parent"]["value"] == pytest.approx(scores[2] - scores[1])
    assert found["gwdl__difference_from_baseline"]["value"] == pytest.approx(scores[2] - scores[0])
    assert found["gwdl__peak_memory_mib"]["value"] > 100
    assert shown[0].split()[:3] == ["variation", "parent", "reported"]
    assert [line.split()[0] for line in shown[2 : 2 + len(PAPER.variations())]] == list(PAPER.variations())
    assert "not run" in next(line for line in shown if line.startswith("hausdorff"))


@pytest.mark.slow
def test_a_row_that_fails_is_shown_with_the_reason_and_tried_again(run_module, cohort, tmp_path):
    """A training that cannot write its checkpoints: a file stands in their folder's place."""
    arguments = ("--data", cohort, *TINY, "--rows", "slices80")
    run_module(MODULE, "--data", cohort, *TINY, "--rows")  # none yet
    (folder,) = (tmp_path / "runs" / "table1_variations").iterdir()
    (folder / "rows" / "slices80").mkdir(parents=True)
    (folder / "rows" / "slices80" / "checkpoints").touch()
    done = run_module(MODULE, *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith("rows failed, why in rows/*/failure.txt; the same command tries them again\n")
    value = summary_of(folder)["slices80__mean_dice_with_background"]["value"]
    assert value.startswith("failed: exit status 1: error: ")
    assert "File exists" in value
    assert value in done.stdout
    row = folder / "rows" / "slices80"
    assert value == f"failed: {(row / FAILURE).read_text().strip()}"
    assert value.partition("error: ")[2] in (row / LOG).read_text()
    (row / "checkpoints").unlink()
    assert run_module(MODULE, *arguments).returncode == 0
    assert summary_of(folder)["slices80__mean_dice_with_background"]["value"] >= 0
    assert not (row / FAILURE).exists()

"""The table of variations: what each row changes, and the command from scans to a table that leaves nothing out."""

import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.base.results import reported
from experiments.segmentation import variations_picture
from experiments.segmentation.variations import COLUMNS, FAILURE, compare, run_rows, state, with_continued
from experiments.table1_variations import DEMO, PAPER
from segresnet_monai.config import Config

MODULE = "experiments.table1_variations"
TINY = (
    *("--preset", "demo", "--jobs", "2", "--model.baseline.spacing-mm", "None"),
    *("--model.baseline.crop-voxels", "24", "24", "24", "--model.baseline.encoder-blocks", "1", "1"),
    *("--model.baseline.decoder-blocks", "1", "--model.baseline.epochs", "1"),
    *("--model.baseline.crops-per-epoch", "2", "--model.baseline.validate-every", "1", "--model.baseline.workers", "0"),
    *("--model.slices", "8", "28", "--model.crop-slices", "20", "--model.further-epochs", "1"),
    *("--model.baseline.extent", "40", "48", "36"),
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


def test_what_an_extension_continues_is_run_before_it():
    rows = PAPER.variations()
    assert with_continued(["dice_ce_extended", "baseline"], rows) == ["baseline", "dice_ce", "dice_ce_extended"]
    assert with_continued(["gwdl"], rows) == ["gwdl"]


def test_settings_that_make_no_row_are_refused():
    with pytest.raises(ValueError, match="expected continued_from to be a multiple of validate_every"):
        replace(DEMO, baseline=replace(DEMO.baseline, epochs=7))


def summary_of(folder):
    lines = json.loads((folder / "summary.json").read_text())
    found = {line["key"].partition(".")[2]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_rows_are_run_once_compared_and_none_is_left_out(run_module, cohort, tmp_path):
    done = run_module(MODULE, "--data", cohort, *TINY, "--rows", "slices80_extended", "gwdl")
    assert done.returncode == 0, done.stderr
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
    done = run_module(MODULE, "--data", cohort, *TINY, "--rows", "gwdl", "baseline")
    assert done.returncode == 0, done.stderr
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
    shown = done.stdout.splitlines()
    assert shown[0].split()[:3] == ["variation", "parent", "reported"]
    assert [line.split()[0] for line in shown[2:11]] == list(PAPER.variations())
    assert "not run" in next(line for line in shown if line.startswith("hausdorff"))


def test_a_row_that_fails_is_shown_with_the_reason_and_tried_again(run_module, cohort, tmp_path):
    """Crops of a million kilometres do not fit into any memory."""
    arguments = ("--data", cohort, *TINY, "--model.baseline.crop-voxels", 10**12, 24, 24, "--rows", "slices80")
    done = run_module(MODULE, *arguments)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "table1_variations").iterdir()
    value = summary_of(folder)["slices80__mean_dice_with_background"]["value"]
    assert value.startswith("failed: ")
    assert value in done.stdout
    assert (folder / "rows" / "slices80" / FAILURE).read_text()
    assert "Unable to allocate" in (folder / "rows" / "slices80" / "log.txt").read_text()


@dataclass
class Doomed:
    """A study whose arrival ends the process that was to work on it, as the system does for want of memory."""

    run: object

    def __reduce__(self):
        return os._exit, (9,)


@dataclass
class Opened:
    folder: Path


def test_a_row_whose_process_is_killed_has_failed(tmp_path):
    rows = {"baseline": PAPER.variations()["baseline"]}
    folder = tmp_path / "rows" / "baseline"
    folder.mkdir(parents=True)
    assert state(folder) == "not run"
    run_rows(Doomed(Opened(tmp_path)), rows, rows)
    assert state(folder) == "failed: the process was killed, as the system does for want of memory"


def test_rows_are_compared_case_by_case_and_corrected_together(tmp_path, monkeypatch):
    from experiments.segmentation import variations

    rng = np.random.default_rng(0)
    names = ("baseline", "slices80", "gwdl")
    scores = {name: pd.Series(rng.random(8), index=[f"case{i}" for i in range(8)]) for name in names}
    scores["gwdl"] = scores["slices80"] + np.linspace(0.1, 0.2, 8)
    scores["gwdl"] = scores["gwdl"].sample(frac=1, random_state=1)  # another order of cases
    monkeypatch.setattr(variations, "is_finished", lambda folder: folder.name in scores)
    monkeypatch.setattr(variations, "case_scores", lambda folder, policy: scores[folder.name])

    @dataclass
    class Options:
        empty_masks: str = "brats"

    @dataclass
    class Study:
        run: Opened
        options: Options

    found = compare(Study(Opened(tmp_path), Options()), PAPER.variations()).set_index(["row", "against"])
    assert list(found.index) == [("slices80", "baseline"), ("gwdl", "slices80"), ("gwdl", "baseline")]
    pair = found.loc[("gwdl", "slices80")]
    assert pair["difference"] == pytest.approx(0.15)
    assert (pair["n"], pair["p"]) == (8, pytest.approx(2 / 2**8))
    assert pair["p_holm"] == pytest.approx(3 * 2 / 2**8)


@pytest.fixture
def drawn(monkeypatch):
    """Draw a table of three rows; returns the figure's panels by title."""
    figures = []
    monkeypatch.setattr(variations_picture, "save", lambda figure, path: figures.append(figure))
    rows = [
        {"row": "baseline", "state": "finished", "reported": 0.846, "n": 8} | scored(0.6, 0.5),
        {"row": "hausdorff", "parent": "baseline", "state": "failed: RuntimeError: full", "reported": "out of memory"}
        | {"n": 0},
        {"row": "vae", "parent": "baseline", "state": "finished", "n": 8, "from_parent": -0.1, "from_parent_low": -0.2}
        | {"from_parent_high": 0.05, "from_parent_p": 0.031}
        | scored(0.5, 0.4),
    ]
    variations_picture.draw_variations(None, pd.DataFrame(rows, columns=COLUMNS), synthetic=True)
    assert figures[0].get_suptitle() == "Synthetic phantoms"
    return {axis.get_title(loc="left"): axis for axis in figures[0].axes}


def scored(with_background, mean_dice):
    """Scores and costs of a row; the interval of the second mean is not defined."""
    scores = {"mean_dice_with_background": with_background, "low": with_background - 0.1, "high": with_background + 0.2}
    return scores | {"mean_dice": mean_dice, "seconds_per_step": 0.25, "peak_memory_mib": 1200}


def marks(axis, marker):
    """(value, row) of the marks of one shape that are to be seen."""
    points = [line.get_xydata() for line in axis.lines if line.get_marker() == marker]
    return [tuple(point) for point in np.concatenate(points).tolist() if np.isfinite(point[0])]


def whiskers(axis):
    found = [line.get_xydata().tolist() for line in axis.lines if line.get_linewidth() == 2]
    return [(first[0], last[0], first[1]) for first, last in found]


def test_the_picture_shows_every_value_on_its_row_with_its_interval(drawn):
    both, inner, difference = (drawn[name] for name in ("Dice with background", "Dice", "Difference from parent"))
    assert marks(both, "o") == [(0.6, 0), (0.5, 2)]
    assert whiskers(both) == [pytest.approx((0.5, 0.8, 0)), pytest.approx((0.4, 0.7, 2))]
    assert marks(both, "D") == [(0.846, 0)]
    assert marks(inner, "o") == [(0.5, 0), (0.4, 2)]
    assert whiskers(inner) == []
    assert marks(difference, "o") == [(-0.1, 2)]
    assert whiskers(difference) == [(-0.2, 0.05, 2)]


def test_the_picture_names_rows_without_results_and_what_the_report_gives_in_words(drawn):
    for title, axis in drawn.items():
        assert [text.get_text() for text in axis.texts if text.get_position()[1] == 1] == ["failed"], title
    assert "report: out of memory" in {text.get_text() for text in drawn["Dice with background"].texts}
    assert drawn["Training step"].texts[0].get_text() == "0.25"
    labels = [label.get_text() for label in drawn["Dice with background"].get_yticklabels()]
    assert labels == ["baseline\nn = 8", "hausdorff\nagainst baseline, n = 0", "vae\nagainst baseline, n = 8"]

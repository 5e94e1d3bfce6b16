"""The final model's command: both parts, several seeds, what was missed, and how little a second command repeats."""

import json
import math
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.scoring import LESION_METRICS, score_case, summarise
from experiments import table1_variations, table2_final
from experiments.base.results import reported
from experiments.segmentation import label_size
from experiments.segmentation.final_scores import over_seeds
from experiments.table2_final import DEMO, PAPER, FinalOptions
from segresnet_monai.config import Config
from tests.experiments.conftest import TINY

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
    with pytest.raises(ValueError, match="expected seeds to be 1 or more, received 0"):
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
    """The command in this process, which need not load the framework again; returns what it printed."""
    monkeypatch.chdir(tmp_path)

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
    assert (folder / "seed0" / "adopted.txt").read_text() == "trained in runs/another/row\n"
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
    assert (folder / "seed0" / "adopted.txt").read_text() == f"trained in {row.relative_to(tmp_path)}\n"
    found = summary_of(folder)
    of_row = {line["key"].partition("__")[2]: line["value"] for line in json.loads((row / "summary.json").read_text())}
    assert of_row["mean_dice"] == found["test.mean_dice"]["value"]
    assert {metric: found[f"test.{metric}"]["value"] for metric in of_row} == of_row

    own = run_module(MODULE, *arguments, "--fresh")
    assert own.returncode == 0, own.stderr
    assert "training:" in own.stderr
    assert summary_of(folder) == found


# Scores over seeds ----------------------------------------------------------------------------------------------------


def write_run(folder, cases):
    """A scored run's folder from {case: (prediction, truth)}, label maps of 1 mm voxels."""
    folder.mkdir(parents=True)
    rows = [{"case": case} | score_case(*pair, spacing_mm=(1, 1, 1)) for case, pair in cases.items()]
    frame = pd.DataFrame(rows)
    frame.assign(view="").to_csv(folder / "cases.csv", index=False)
    return folder


def label_map(**boxes):
    """(12, 12, 12) labels; name -> length of a bar of that class, each in a row of its own."""
    labels = np.zeros((12, 12, 12), np.uint8)
    for value, name in enumerate(("NCR", "ED", "ET"), start=1):
        labels[: boxes.get(name, 0), 3 * value, 4] = value
    return labels


@pytest.fixture
def seeds(tmp_path):
    """Three cases of two seeds; the second seed misses case b's ET."""
    truths = {"a": label_map(NCR=2, ED=8, ET=4), "b": label_map(NCR=4, ED=8, ET=4), "c": label_map(ED=6, ET=2)}
    first = {"a": label_map(NCR=2, ED=4, ET=4), "b": label_map(NCR=2, ED=8, ET=4), "c": label_map(ED=6, ET=2)}
    second = {"a": label_map(NCR=1, ED=8, ET=4), "b": label_map(NCR=4, ED=8), "c": label_map(ED=6, ET=1)}
    folders = [
        write_run(tmp_path / name, {case: (predicted[case], truths[case]) for case in order})
        for name, predicted, order in (("first", first, "cab"), ("second", second, "abc"))
    ]
    for folder in folders:
        scores = summarise(pd.read_csv(folder / "cases.csv"))
        scores.assign(view="").to_csv(folder / "scores.csv", index=False)
    return folders


def test_a_cases_score_is_the_mean_of_its_seeds_before_cases_are_resampled(seeds):
    found = over_seeds(seeds, "brats").set_index("metric")
    # ET: 1, 1, 1 of the first seed; 1, 0, 2 * 1 / 3 of the second
    assert found.loc["dice_ET", "mean"] == pytest.approx((1 + 1 / 2 + (1 + 2 / 3) / 2) / 3)
    assert found.loc["dice_ET", "n"] == 3
    means = [1, (1 + 0 + 2 / 3) / 3]
    assert found.loc["dice_ET", "seed_sd"] == pytest.approx(stats.tstd(means))
    assert found.loc["dice_ET", ["seed_min", "seed_max"]].tolist() == pytest.approx([means[1], means[0]])
    assert found.loc["dice_ET", "n_missed"] == 1
    assert found.loc["hd_ET", "seed_max"] == pytest.approx((0 + 373.13 + 1) / 3)
    # NCR, absent from case c in truth and prediction of both seeds: Dice 1
    by_case = [(1 + 2 / 3) / 2, (2 / 3 + 1) / 2, 1]
    assert found.loc["dice_NCR", "mean"] == pytest.approx(np.mean(by_case))
    assert found.loc["dice_NCR", "n_empty"] == 2
    assert min(by_case) <= found.loc["dice_NCR", "low"] < found.loc["dice_NCR", "mean"]


def test_lesion_wise_scores_are_averaged_where_every_seed_has_them(seeds):
    """Seeds that were scored before there were such scores are read as they are."""
    assert not over_seeds(seeds, "brats")["metric"].str.startswith("lesion_").any()
    for number, folder in enumerate(seeds, start=1):
        cases = pd.read_csv(folder / "cases.csv")
        cases = cases.assign(**dict.fromkeys(LESION_METRICS, 0.5 * number))
        cases.to_csv(folder / "cases.csv", index=False)
        summarise(cases).assign(view="").to_csv(folder / "scores.csv", index=False)
        found = over_seeds(seeds, "brats").set_index("metric")
        assert found.index.str.startswith("lesion_").any() == (number == 2)
    assert found.loc["lesion_fp_brats2023_ET", ["mean", "n", "seed_min", "seed_max"]].tolist() == [0.75, 3, 0.5, 1]


def test_ignored_scores_leave_a_cases_mean_not_the_case(seeds):
    found = over_seeds(seeds, "ignore").set_index("metric")
    assert found.loc["dice_NCR", "n"] == 2  # c has none in either seed
    # b's distance of ET is left out where its ET was missed, so that the first seed's 0 remains; c: 0 and 1 mm
    assert (found.loc["hd_ET", "n"], found.loc["hd_ET", "mean"]) == (3, pytest.approx((0 + 0 + 0.5) / 3))


def test_one_seed_has_its_own_summary_and_no_spread(seeds):
    found = over_seeds(seeds[:1], "brats").set_index("metric")
    own = pd.read_csv(seeds[0] / "scores.csv").set_index("metric").loc[found.index]
    for column in ("mean", "low", "high", "n", "n_empty", "n_missed", "n_false", "n_left_out"):
        np.testing.assert_allclose(found[column], own[column])
    assert found[["seed_sd", "seed_min", "seed_max"]].isna().all(axis=None)


def test_seeds_of_other_cases_are_refused(seeds, tmp_path):
    other = write_run(tmp_path / "other", {"z": (label_map(ED=2), label_map(ED=2))})
    with pytest.raises(ValueError, match=r"other: expected the cases of .*first, found others"):
        over_seeds([seeds[0], other], "brats")


# Size of a label against Dice -----------------------------------------------------------------------------------------


@pytest.fixture
def sizes(tmp_path):
    """Six cases of two parts whose NCR is missed once by absence and once by place, invented once and empty once."""
    shifted = np.roll(label_map(NCR=3, ED=6, ET=5), 1, axis=2)
    pairs = {
        "validation": {
            "a": (label_map(NCR=2, ED=8, ET=4), label_map(NCR=4, ED=8, ET=4)),
            "b": (label_map(ED=4, ET=3), label_map(NCR=1, ED=8, ET=3)),
            "c": (shifted, label_map(NCR=3, ED=6, ET=5)),
        },
        "test": {
            "d": (label_map(NCR=2, ED=7, ET=2), label_map(ED=7, ET=2)),
            "e": (label_map(ED=5, ET=1), label_map(ED=5, ET=1)),
            "f": (label_map(NCR=9, ED=9, ET=9), label_map(NCR=10, ED=10, ET=10)),
        },
    }
    return label_size.label_sizes({part: write_run(tmp_path / part, cases) for part, cases in pairs.items()})


def test_every_label_of_every_case_has_its_size_and_state(sizes):
    assert len(sizes) == 6 * 3
    ncr = sizes[sizes["class"] == "NCR"].set_index("case")
    assert ncr["state"].to_dict() == {
        "a": "found", "b": "missed", "c": "missed", "d": "invented", "e": "empty in truth", "f": "found",
    }  # fmt: skip
    assert (ncr["volume_truth_ml"] * 1000).round().tolist() == [4, 1, 3, 0, 0, 10]
    assert (ncr["volume_predicted_ml"] * 1000).round().tolist() == [2, 0, 3, 2, 0, 9]
    assert ncr["part"].tolist() == ["validation"] * 3 + ["test"] * 3
    np.testing.assert_allclose(ncr["dice"], [2 * 2 / 6, 0, 0, 0, math.nan, 2 * 9 / 19])


def test_missed_labels_are_counted_among_those_the_truth_has(sizes):
    lines = label_size.size_results("table2_final", sizes, synthetic=True)
    found = {result.key.partition(".")[2]: result for result in lines}
    assert found["small_labels"].value == (
        "missed entirely in validation and test: NCR 2 of 4, ED 1 of 6, ET 1 of 6; "
        "of these 4, not predicted anywhere: 1"
    )
    assert found["small_labels"].reported == reported()["table2_final"]["small_labels"].value
    assert (found["missed_NCR"].value, found["missed_NCR"].n) == (0.5, 4)
    # Clopper and Pearson's ends solve P(X >= 2; p) = 0.025 and P(X <= 2; p) = 0.025 of a binomial with n = 4
    assert stats.binom.sf(1, 4, found["missed_NCR"].low) == pytest.approx(0.025)
    assert stats.binom.cdf(2, 4, found["missed_NCR"].high) == pytest.approx(0.025)
    # NCR: sizes 4, 1, 3, 10 have ranks 3, 1, 2, 4; Dice 2/3, 0, 0, 18/19 ranks 3, 1.5, 1.5, 4
    assert found["size_correlation_NCR"].value == pytest.approx(np.corrcoef([3, 1, 2, 4], [3, 1.5, 1.5, 4])[0, 1])
    assert found["size_correlation_NCR"].n == 4
    assert all(result.synthetic for result in found.values())


def test_a_class_that_no_truth_has_is_not_called_found(tmp_path):
    folder = write_run(tmp_path / "run", {"a": (label_map(ED=2), label_map(ED=2))})
    lines = label_size.size_results("table2_final", label_size.label_sizes({"test": folder}), synthetic=False)
    found = {result.key.partition(".")[2]: result for result in lines}
    assert (found["missed_ET"].value, found["missed_ET"].low, found["missed_ET"].n) == (None, None, 0)
    assert (found["missed_ED"].value, found["missed_ED"].n) == (0, 1)
    assert found["small_labels"].value == "missed entirely in test: NCR 0 of 0, ED 0 of 1, ET 0 of 0"


def test_the_interval_of_a_rank_correlation_covers_it():
    """Bivariate normal, n = 16, Pearson 0.6: Spearman's is (6 / pi) asin(0.3) (Kruskal 1958)."""
    rng = np.random.default_rng(0)
    true = 6 / math.pi * math.asin(0.3)
    covered = []
    for _ in range(1000):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=16).T
        rho, low, high = label_size.rank_correlation(x, y)
        assert low < rho < high
        covered.append(low <= true <= high)
    assert 0.93 < np.mean(covered) < 0.98


@pytest.mark.parametrize(
    ("ml", "dice"), [([1, 2, 3], [0.1, 0.3, 0.2]), ([1, 1, 1, 1], [0, 0.5, 0.6, 0.7]), ([1, 2, 3, 4], [0, 0, 0, 0])]
)
def test_a_correlation_that_is_not_defined_is_nan(ml, dice):
    assert all(map(math.isnan, label_size.rank_correlation(np.array(ml), np.array(dice))))


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

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from common.runs import RunError
from common.statistics import holm
from experiments.base.results import (
    Result,
    as_rows,
    p_note,
    read_summary,
    reported,
    segmentation_results,
    segmentation_table,
    table,
)


def scores(**values):
    row = {"metric": "mean_dice", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 7}
    return pd.DataFrame([row | values])


def test_a_result_has_the_reported_number_where_there_is_one():
    (result,) = segmentation_results("table1_baseline", scores(metric="mean_dice_with_background"), synthetic=False)
    said = reported()["table1_baseline"]["mean_dice_with_background"].value
    assert result == Result("table1_baseline.mean_dice_with_background", said, 0.5, 0.4, 0.6, 7, False)
    (result,) = segmentation_results("table1_baseline", scores(metric="hd_TC"), synthetic=True)
    assert (result.reported, result.synthetic) == (None, True)


def test_what_is_not_defined_is_null_and_volumes_are_no_result(tmp_path):
    (result,) = segmentation_results("x", scores(low=float("nan"), high=float("nan"), n=2), synthetic=False)
    assert (result.low, result.high) == (None, None)
    assert not segmentation_results("x", scores(metric="volume_truth_ml_WT"), synthetic=False)
    assert set(as_rows([result])[0]) == {"key", "reported", "value", "low", "high", "n", "synthetic"}


def test_a_view_is_part_of_the_key_and_brings_overlap_and_false_positives_only():
    frame = pd.concat(
        scores(metric=metric, view=view)
        for view in ("", "raw")
        for metric in ("mean_dice", "dice_WT", "hd_WT", "surface_dice_WT", "false_positive_voxels_WT")
    )
    keys = [result.key for result in segmentation_results("x", frame, synthetic=False)]
    assert keys == [
        "x.mean_dice", "x.dice_WT", "x.hd_WT", "x.surface_dice_WT", "x.false_positive_voxels_WT",
        "x.raw.mean_dice", "x.raw.dice_WT", "x.raw.false_positive_voxels_WT",
    ]  # fmt: skip
    (whole,) = segmentation_results("table1_baseline", scores(metric="mean_dice", view=""), synthetic=False)
    (view,) = segmentation_results("table1_baseline", scores(metric="mean_dice", view="raw"), synthetic=False)
    assert (view.reported, view.value) == (None, whole.value)  # the report's number is not this view's


def test_the_table_keeps_reported_and_measured_apart_and_marks_synthetic():
    text = table([
        Result("e.mean_dice", 0.809, 0.7512, 0.7, 0.8, 9, True),
        Result("e.loss", "not satisfactory", None, None, None, 0, False),
        Result("e.hd_WT", None, 18.825, 10.0, 20.5, 9, False),
    ])  # fmt: skip
    head, _, *rows = (line.split("  ") for line in text.splitlines())
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [cell.strip() for cell in head if cell.strip()] == ["result", "reported", "this run", "95 % interval", "n"]
    assert cells == [
        ["mean_dice (synthetic)", "0.809", "0.751", "0.700 to 0.800", "9"],
        ["loss", "not satisfactory", "-", "0"],
        ["hd_WT", "-", "18.825", "10.000 to 20.500", "9"],
    ]


def test_summaries_are_read_as_they_were_written(tmp_path):
    from common.files import write_json

    results = [Result("e.mean_dice", 0.8, 0.75, None, None, 2, False)]
    write_json(tmp_path / "summary.json", as_rows(results))
    assert read_summary(tmp_path / "summary.json") == results


@pytest.mark.parametrize("text", ['[{"key": "e.a", "repo', "{}", '[{"key": "e.a"}]'])
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"summary\.json: expected a list of results, found: .*--fresh"):
        read_summary(tmp_path / "summary.json")


def test_a_table_of_few_rows_says_what_they_mean_and_counts_the_others():
    found = [
        Result(f"x.{name}", None, 0.5, None, None, 2, False) for name in ("hd_WT", "dice_WT", "mean_dice", "lesion_fp")
    ]
    for policy, hd in (("brats", "HD95 373 mm"), ("ignore", "no HD95")):
        lines = segmentation_table(found, headlines_under=policy).splitlines()
        assert [line.split()[0] for line in lines[2:4]] == ["dice_WT", "mean_dice"]
        assert all(line.endswith("; higher is better") for line in lines[2:4])
        assert lines[4].startswith("2 more in scores.csv")
        assert hd in lines[5]
    assert "hd_WT" in segmentation_table(found)
    assert "2 test cases: too few for an interval" in segmentation_table(found, headlines_under="brats")
    more = [replace(result, n=3) for result in found]
    assert "too few" not in segmentation_table(more, headlines_under="brats")
    nothing = [replace(result, value=0.0) for result in found]
    assert "nothing of the tumour was found" in segmentation_table(nothing, headlines_under="brats")
    assert "nothing of the tumour was found" not in segmentation_table(found, headlines_under="brats")


def test_no_p_value_is_shown_as_0():
    rows = [Result("x.difference_p", None, p, None, None, 9, False) for p in (1e-9, 0.0123)]
    assert [line.split()[-2] for line in table(rows).splitlines()[2:]] == ["0.001", "0.012"]
    assert "< 0.001" in table(rows)


def test_how_small_the_p_values_of_few_cases_can_be_is_said():
    smallest = scipy.stats.wilcoxon(np.arange(1.0, 7.0)).pvalue  # all six better
    tests = pd.DataFrame({"p": [smallest, 0.5, 0.7, np.nan], "n": [6, 6, 5, 2]})
    said = p_note(tests)
    assert "on 6 cases, after Holm over the table's 3 tests;" in said
    assert f"cannot fall below {holm(tests['p'].to_numpy())[0]:.2g}: too few cases" in said  # 0.094
    assert "too few" not in p_note(tests.assign(n=7))
    assert p_note(tests[3:]) == "no test: too few cases"

"""What stands beside the report's values: the verdict's rule and how numbers are written."""

import pytest

from experiments.base.results import reported
from experiments.page import rows
from tests.experiments.page.report_runs import result


@pytest.mark.parametrize(
    ("found", "relation", "text"),
    [
        (result(0.5, 0.6, 0.5, 0.7), "inside", "the report's value lies inside our interval"),
        (result(0.7, 0.6, 0.5, 0.7), "inside", "the report's value lies inside our interval"),
        (result(0.71, 0.6, 0.5, 0.7), "above", "the report's value lies above our interval"),
        (result(0.49, 0.6, 0.5, 0.7), "below", "the report's value lies below our interval"),
        (result(1, 0.6, 0.5, 0.7), "above", "the report's value lies above our interval"),
        (result(0.5, 0.6), None, "one number, no interval"),
        (result(0.5, "failed: out of memory", n=0), None, "–"),
        (result(0.5, None), None, "no number in this run"),
        (result("better", 0.6, 0.5, 0.7), None, "a word: to be read side by side"),
        (result("better", "worse"), None, "a word: to be read side by side"),
        (result(0.5, 0.6, synthetic=True), None, "synthetic: not a test of the report's value"),
        (
            result(0.8, 0.6, 0.5, 0.7, synthetic=True),
            "above",
            "synthetic: not a test of the report's value, which lies above our interval",
        ),
    ],
)
def test_the_verdict_follows_the_rule(found, relation, text):
    assert rows.judge(found) == rows.Verdict(relation, text)


@pytest.mark.parametrize(
    ("reported", "half_step", "relation"),
    [(0.99, 0.005, "inside"), (0.99, 0.0005, "below"), (1.0, 0.005, "inside"), (1.0, 0.0, "above"), (99, 0.0, "above")],
)
def test_a_rounded_value_stands_for_all_that_are_rounded_to_it(reported, half_step, relation):
    found = rows.judge(result(reported, 0.9965, 0.9943, 0.9981), half_step=half_step)
    assert found.relation == relation
    assert found.text.endswith(", as it is rounded") == (relation == "inside")


def test_how_a_value_of_the_report_is_rounded_is_told_by_its_decimals():
    known = reported()
    assert known["unet25d"]["dice_NCR"].half_step == pytest.approx(0.005)  # 0.70
    assert known["table2_final"]["mean_dice"].half_step == pytest.approx(0.0005)  # 0.809
    assert known["table2_final"]["hd_TC"].value == 9.786
    assert all(isinstance(each.value, float | int | str) for own in known.values() for each in own.values())
    assert {each.half_step for own in known.values() for each in own.values() if isinstance(each.value, int)} == {0.0}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[(None, "–"), (0.0, "0.000"), (9.999e-05, "1e-04"), (-0.0002, "-2e-04"), (0.0007, "0.001"), (0.6, "0.600")],
        *[(19.876, "19.876"), (150.25, "150.25"), (79, "79"), ("none", "none")],
    ],
)
def test_small_numbers_are_not_shown_as_zero(value, shown):
    assert rows.number(value) == shown


def test_the_reports_own_file_decides_what_is_reported():
    (row, *_), _ = rows.rows("table2_final", [result(0.1, 0.8, 0.7, 0.9, key="table2_final.mean_dice")], "command")
    assert row.reported == reported()["table2_final"]["mean_dice"].value
    assert row.verdict.relation == "inside"

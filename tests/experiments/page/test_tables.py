"""The written report's tables in other formats: every digit, nothing that LaTeX or Markdown would read otherwise."""

import re

import pandas as pd
import pytest

from experiments.base.results import reported
from experiments.page import content, tables
from tests.experiments.page.report_runs import result, write_run


@pytest.fixture
def two_runs(tmp_path):
    write_run(
        tmp_path,
        "table2_final",
        [
            result(key="table2_final.mean_dice", value=0.123456789, low=0.1, high=0.2, synthetic=True, n=7),
            result(key="table2_final.small_labels", value='50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'),
            result(key="table2_final.test.hd_TC", value=None, n=0),
        ],
    )
    return content.gather(tmp_path, tmp_path)


def test_csv_has_every_digit_and_every_result(tmp_path, two_runs):
    written = tables.write(two_runs, tmp_path / "out", "csv")
    assert [path.name for path in written] == [f"{name}.csv" for name in reported()]
    frame = pd.read_csv(tmp_path / "out" / "tables" / "table2_final.csv").set_index("result")
    assert list(frame.index) == [*reported()["table2_final"], "test.hd_TC"]
    mean = frame.loc["mean_dice"]
    assert (float(mean["reported"]), float(mean["value"]), mean["low"], mean["n"]) == (0.809, 0.123456789, 0.1, 7)
    assert str(mean["synthetic"]) == "True"
    assert mean["verdict"] == "synthetic: not a test of the report's value, which lies above our interval"
    assert frame.loc["small_labels", "value"] == '50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'
    assert frame.loc["dice_NCR", ["value", "low", "n"]].isna().all()
    assert frame.loc["dice_NCR", "verdict"] == "not reproduced: python -m experiments.table2_final --max-subjects 6"


def test_latex_escapes_what_it_would_read_otherwise(tmp_path, two_runs):
    tables.write(two_runs, tmp_path, "latex")
    text = (tmp_path / "tables" / "table2_final.tex").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(r"small\_")]
    cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
    assert cells == [
        r"small\_\allowbreak{}labels",
        "sometimes missed entirely",
        r"50\% of \textquotedbl{}x\_\allowbreak{}y\textquotedbl{} \& \#1 \{a\textbar{}b\} \textbackslash{} "
        r"\textasciitilde{} \textasciicircum{} \$1 \textless{}2\textgreater{}",
        *["--", "9", "a word: to be read side by side"],
    ]
    assert r"95 \% interval" in text
    assert r"\begin{longtable}{p{0.20\linewidth}p{0.10\linewidth}p{0.14\linewidth}rrp{0.14\linewidth}}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") + 1 == 2
    assert text.count(r"\end{longtable}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "_" in line and "caption" not in line]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 5 for line in body)
    assert text.isascii()


def test_markdown_has_one_cell_for_each_column_whatever_is_in_it(tmp_path, two_runs):
    tables.write(two_runs, tmp_path, "md")
    lines = (tmp_path / "tables" / "table2_final.md").read_text(encoding="utf-8").splitlines()
    table = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines if line.startswith("|")]
    assert {len(cells) for cells in table} == {6}
    assert len(table) == 2 + len(reported()["table2_final"]) + 1
    (row,) = [cells for cells in table if cells[0].strip() == r"small\_labels"]
    assert re.sub(r"\\([\\`*_\[\]<>|])", r"\1", row[2].strip()) == '50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'

"""The command that writes the report."""

import sys

import pytest

from experiments import report
from experiments.base.runs import available


@pytest.mark.parametrize(
    ("kind", "made"), [("html", "index.html"), ("csv", "tables/unet3d.csv"), ("latex", "tables/unet3d.tex")]
)
def test_the_command_writes_what_is_asked_for_without_any_run(tmp_path, monkeypatch, capsys, kind, made):
    arguments = ["--runs", tmp_path / "runs", "--figures", tmp_path / "figures", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--format", kind])
    report.main()
    assert (tmp_path / "out" / made).is_file()
    assert f"0 of {len(available())} experiments finished" in capsys.readouterr().out

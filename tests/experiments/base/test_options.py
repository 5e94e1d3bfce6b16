"""Options as numbers that make sense, and as a training's folder holds them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from common.files import plain
from common.runs import RunError
from experiments import table1_baseline
from experiments.base.options import options_in
from experiments.mgmt.options import MgmtOptions
from experiments.segmentation.options import Options


@pytest.mark.parametrize("options", [Options(data=Path("scans"), folds=4), MgmtOptions(labels=Path("l.csv"), jobs=2)])
def test_a_folder_gives_back_the_options_it_was_given_beside_its_commands_own(tmp_path, options):
    (tmp_path / "config.json").write_text(json.dumps({"options": plain(asdict(options)) | {"rows": ["gwdl"]}}))
    assert options_in(tmp_path, type(options)) == options


@pytest.mark.parametrize(
    ("change", "message"),
    [({"jobs": "two"}, "jobs to be int"), ({"prepared": None}, "prepared to be Path"), ({"at_once": 0}, "--at-once")],
)
def test_damaged_options_are_said_with_their_file(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps({"options": plain(asdict(Options())) | change}))
    with pytest.raises(RunError, match=f"config.json: expected the options of an experiment, found: .*{message}"):
        options_in(tmp_path, Options)


@pytest.mark.parametrize("number", [{"at_once": 0}, {"jobs": 0}, {"folds": 2}, {"max_subjects": -1}])
def test_numbers_that_make_no_sense_are_refused_before_anything_is_read(number):
    with pytest.raises(ValueError, match=f"expected --{next(iter(number)).replace('_', '-')} of [13] or more"):
        Options(**number)


def test_a_preset_that_there_is_not_is_answered_with_those_that_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table1_baseline", "--preset", "tiny"])
    with pytest.raises(SystemExit) as ended:
        table1_baseline.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: expected --preset paper or demo, received tiny\n"

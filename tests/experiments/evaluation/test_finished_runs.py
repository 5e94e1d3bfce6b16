"""Finished runs in place of folders of label maps: their own scores again, folds pooled, strangers refused."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from common.files import read_json, write_json
from common.runs import RunError
from common.summary import summarise
from experiments.base.options import Refused
from experiments.evaluation import evaluate as module
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.inputs import ScoreOptions
from tests.cohorts import write_cohort
from tests.experiments.evaluation.finished import write_run

FOUR = tuple(f"BraTS_{number:03d}" for number in range(4))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("runs") / "cohort", 5)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_draw", lambda *_: [])
    monkeypatch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))
    return ScoreOptions(runs=tmp_path / "results", cores=1)


def test_two_runs_are_compared_by_their_own_scores_and_folds_are_pooled(data, options, tmp_path, capsys):
    one = write_run(tmp_path / "a" / "whole", data, FOUR, 1)
    folds = [write_run(tmp_path / "b" / f"fold{n}", data, FOUR[2 * n : 2 * n + 2], 2) for n in range(2)]
    pooled = tmp_path / "b" / "pooled"
    write_json(pooled / "folds.json", [f"moved/{fold.name}" for fold in folds])
    folder = evaluate(replace(options, runs_of=(str(one), f"folds={pooled}")))
    cases = pd.read_csv(folder / "cases.csv")
    own = {"a-whole": pd.read_csv(one / "cases.csv"), "folds": pd.concat(pd.read_csv(f / "cases.csv") for f in folds)}
    for name, frame in own.items():
        found = cases[cases["method"] == name].drop(columns="method").reset_index(drop=True)
        wanted = frame.drop(columns="view").reset_index(drop=True)
        pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_exact=True)
    printed = capsys.readouterr().out
    assert "4 of 5 cases, those that no compared network has seen" in printed
    assert "folds - a-whole" in printed
    assert (
        "a run of the suite (table1_baseline), trained on 1 of these patients and validated on 0; each label" in printed
    )
    assert "2 folds of the suite (table1_baseline), trained on 5 of these patients" in printed
    assert "1 patient takes no part, for a network compared here has seen them: BraTS_004" in printed


def test_runs_beside_a_folder_on_the_cases_that_they_have_tested(data, options, tmp_path):
    run = write_run(tmp_path / "a" / "few", data, FOUR[:2], 1)
    other = write_run(tmp_path / "b" / "more", data, FOUR[1:], 2)
    with pytest.raises(Refused, match=r"each of 4 cases, missing:\n  a-few: BraTS_002, BraTS_003\n  b-more: BraTS_000"):
        evaluate(replace(options, runs_of=(str(run), str(other))))
    folder = evaluate(
        replace(
            options,
            runs_of=(str(run),),
            predictions=(f"theirs={other / 'predictions'}",),
            convention=("theirs=brats2018",),
            cases="intersection",
        )
    )
    assert pd.read_csv(folder / "cases.csv")["case"].tolist() == ["BraTS_001"] * 2
    described = read_json(folder / "data.json", dict)
    assert described["seen"] == ["BraTS_002", "BraTS_003", "BraTS_004"]
    assert described["methods"]["theirs"]["training"].startswith(f"predicted by {tmp_path / 'b' / 'more'}, whose")


def test_other_scans_unfinished_runs_and_equal_names_are_refused(data, options, tmp_path):
    run = write_run(tmp_path / "a" / "run", data, FOUR, 1)
    with pytest.raises(Refused, match="another name for each method, received a-run several times"):
        evaluate(replace(options, runs_of=(str(run), str(run))))
    changed = write_cohort(tmp_path / "changed", 5, shape=(40, 48, 34))
    with pytest.raises(Refused, match="of 4 cases 0 are not in the cohort and 4 differ: BraTS_000"):
        evaluate(replace(options, runs_of=(str(run),), data=changed))
    (run / "predictions" / "BraTS_001.nii.gz").unlink()
    with pytest.raises(RunError, match=r"BraTS_001.nii.gz: expected the label map of a case that the run has scored"):
        evaluate(replace(options, runs_of=(str(run),)))
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="expected a finished run"):
        evaluate(replace(options, runs_of=(str(run),)))

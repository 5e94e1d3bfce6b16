"""All folds of a cross-validation: each trained as its own run, and their cases pooled."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from common.recipe import Recipe
from common.runs import Run
from experiments.base.trainings import State
from experiments.segmentation import protocol
from experiments.segmentation.opening import study
from experiments.segmentation.options import NetworkOptions
from experiments.segmentation.scores import score
from experiments.segmentation.study import restored
from tests.cohorts import write_subject

CROP = ((10, 30), (12, 36), (8, 28))
EXTENT = (40, 48, 36)  # of the tiny subjects


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a study needs."""

    devices: int = 1
    nodes: int = 1
    processes_per_node: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",), crop=CROP, extent=EXTENT))


def predicted(truth, fold):
    """Another network in every fold: the truth so many voxels further, and in the third nothing of ET."""
    moved = np.roll(truth, fold, axis=0)
    moved[(moved == 3) & (fold == 3)] = 0
    return moved


@pytest.fixture
def cohort(tmp_path):
    """Seven subjects, so that the folds test three, two and two; ids are numbers, which tables may read as such."""
    for seed in range(7):
        write_subject(tmp_path / "cohort", f"{seed:03d}", seed)
    return tmp_path / "cohort"


@pytest.fixture
def validated(cohort, tmp_path, monkeypatch):
    """Cross-validate, with every fold's training played by this process; returns the names of what was trained."""
    lost = set()

    def run(trainings, placement):
        trained.extend(each.name for each in trainings if not each.is_finished)
        states = {}
        for fold, each in enumerate(trainings, start=1):
            if each.name in lost:
                states[each.name] = State("failed", "out of memory")
                continue
            if not each.is_finished:
                with Run(each.folder) as opened:
                    of_fold = restored(opened, Stub())
                    opened.history.append({"epoch": 1, "loss": 0.5})
                    truths = {entry.id: truth_of(entry.id) for entry in of_fold.test}
                    score(of_fold, [(case, predicted(truth, fold)) for case, truth in truths.items()])
            states[each.name] = State("finished")
        return states

    def truth_of(case):
        mask = np.asarray(nib.load(cohort / case / f"{case}_seg.nii.gz").dataobj)
        return np.where(mask == 4, 3, mask).astype(np.uint8)

    monkeypatch.setattr(protocol, "run", run)
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    options = NetworkOptions(data=cohort, preset="demo", jobs=1, folds=3, **folders)

    def validate(*, failing=(), **changes):
        lost.clear()
        lost.update(failing)
        trained.clear()
        opened = replace(options, **changes)
        protocol.run_network("stub", Stub(), opened, lambda each: study("table1_baseline", each, Stub()))
        return list(trained)

    trained = []
    return validate, truth_of, tmp_path / "runs" / "table1_baseline"


def dice(predicted, truth):
    return 2 * np.count_nonzero(predicted & truth) / (np.count_nonzero(predicted) + np.count_nonzero(truth))


def test_every_case_is_tested_once_and_the_summary_is_over_all(validated, capsys):
    validate, truth_of, runs = validated
    assert validate() == ["fold1", "fold2", "fold3"]
    printed = capsys.readouterr().out
    (pooled,) = runs.glob("*-3folds-*")
    assert f"run folder: {pooled}" in printed
    folders = [Path(folder) for folder in json.loads((pooled / "folds.json").read_text())]
    assert sorted(folders) == sorted(folder for folder in runs.iterdir() if folder != pooled)

    cases = pd.read_csv(pooled / "cases.csv", dtype={"case": str}, keep_default_na=False)
    assert set(cases["view"]) == {"", "inside_crop"}
    for _, rows in cases.groupby("view"):
        assert sorted(rows["case"]) == [f"{seed:03d}" for seed in range(7)]
        for fold, folder in enumerate(folders, start=1):
            tested = json.loads((folder / "split.json").read_text())["test"]
            assert sorted(rows.loc[rows["fold"] == fold, "case"]) == sorted(tested)
    summary = {line["key"]: line for line in json.loads((pooled / "summary.json").read_text())}
    own = cases[cases["view"] == ""]
    for name, value in (("ED", 2), ("ET", 3)):
        expected = []
        for row in own.itertuples():
            truth = truth_of(row.case)
            expected.append(dice(predicted(truth, row.fold) == value, truth == value))
        line = summary[f"table1_baseline.dice_{name}"]
        assert line["value"] == pytest.approx(np.mean(expected))
        assert line["low"] <= line["value"] <= line["high"]
        assert (line["n"], line["synthetic"]) == (7, False)
    cut = tuple(slice(*ends) for ends in CROP)
    pairs = [(predicted(truth_of(row.case), row.fold)[cut], truth_of(row.case)[cut]) for row in own.itertuples()]
    expected = np.mean([dice(shown > 0, truth > 0) for shown, truth in pairs])
    assert summary["table1_baseline.inside_crop.dice_WT"]["value"] == pytest.approx(expected)
    assert summary["table1_baseline.mean_dice_with_background"]["reported"] == 0.846

    # The same command shows it, one fold alone is the run that was trained for all.
    assert validate() == []
    assert capsys.readouterr().out == printed
    assert validate(fold=2) == []
    assert f"run folder: {folders[1]}" in capsys.readouterr().out
    assert len(list(runs.iterdir())) == 4


def test_a_fold_that_fails_is_named_and_nothing_is_pooled_without_it(validated):
    validate, _, runs = validated
    with pytest.raises(SystemExit) as ended:
        validate(failing=["fold2"])
    assert ended.value.code.splitlines() == [
        "error: 1 of 3 trainings have not finished",
        "  fold2 failed: out of memory",
    ]
    assert not list(runs.glob("*-3folds-*"))
    assert validate() == ["fold2"]
    assert len(list(runs.glob("*-3folds-*/summary.json"))) == 1

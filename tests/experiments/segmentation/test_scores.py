"""Scores of a part in a run folder of its own, which has no training beside it."""

import json
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.recipe import Recipe
from common.runs import Run
from common.statistics import bootstrap_interval
from experiments.segmentation import paired
from experiments.segmentation import scores as evaluation
from experiments.segmentation.final_scores import over_seeds
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from tests.cohorts import write_subject


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a study needs."""

    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",)))


def truth_of(cohort, case):
    """Classes of a case's mask, read by nibabel."""
    mask = np.asarray(nib.load(cohort / case / f"{case}_seg.nii.gz").dataobj)
    return np.where(mask == 4, 3, mask).astype(np.uint8)


def test_a_part_is_finished_by_its_summary_and_keeps_its_name(cohort, tmp_path):
    options = Options(
        data=cohort, preset="demo", jobs=1, runs=tmp_path / "runs", prepared=tmp_path / "prepared", split_seed=1
    )
    with (
        study("table2_final", options, Stub(), fractions=(0.4, 0.4, 0.2)) as opened,
        Run(opened.run.folder / "part") as run,
    ):
        part = replace(opened, run=run, prefix="part.")
        cases = [entry.id for entry in opened.validation]
        assert len(cases) == 2
        halves = [truth_of(cohort, case) * (np.arange(40) < 20)[:, None, None] for case in cases]
        predicted = [half.astype(np.uint8) for half in halves]
        scores = evaluation.write_scores(part, zip(cases, predicted, strict=True), n_cases=2)
        assert not run.is_finished
        evaluation.write_summary(part, scores)
        assert run.is_finished
        assert not opened.run.is_finished
    kept = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert kept == {
        *("run.lock", "cases.csv", "scores.csv", "lesions.csv", "costs.json", "summary.json"),
        *("figures/overlays.png", "figures/lesions.png"),
        *(f"predictions/{case}.nii.gz" for case in cases),
    }
    pd.testing.assert_frame_equal(
        pd.read_csv(run.folder / "scores.csv")["mean"].to_frame(), scores["mean"].reset_index(drop=True).to_frame()
    )
    summary = {line["key"]: line for line in json.loads((run.folder / "summary.json").read_text())}
    assert all(key.startswith("table2_final.part.") for key in summary)
    line = summary["table2_final.part.dice_WT"]
    overlap = [
        2 * np.count_nonzero(half) / (np.count_nonzero(half) + np.count_nonzero(truth_of(cohort, case)))
        for case, half in zip(cases, predicted, strict=True)
    ]
    assert (line["value"], line["n"]) == (pytest.approx(np.mean(overlap)), 2)
    assert summary["table2_final.part.mean_dice"]["reported"] is None  # the report's number is of another part


def test_scans_of_one_patient_are_told_and_drawn_together(tmp_path, capsys):
    data = tmp_path / "data"
    for seed in range(20):
        write_subject(data, f"UPENN-GBM-{seed // 2:05d}_{11 + 10 * (seed % 2)}", seed)
    options = Options(data=data, preset="demo", jobs=1, runs=tmp_path / "runs", prepared=tmp_path / "prepared")
    with study("table2_final", options, Stub(), fractions=(0.4, 0.1, 0.5)) as opened:
        assert "note: 20 subjects of 10 patients: " in capsys.readouterr().err
        cases = [entry.id for entry in opened.test]
        truths = {subject.id: subject.load_labels() for subject in opened.cohort.subjects}
        folders = [opened.run.folder / name for name in ("all", "less")]
        for number, folder in enumerate(folders):
            kept = [truths[case] * (np.arange(40) < 20 - number - n % 3)[:, None, None] for n, case in enumerate(cases)]
            with Run(folder) as run:
                part = replace(opened, run=run)
                made = evaluation.write_scores(part, zip(cases, map(np.uint8, kept), strict=True), n_cases=len(cases))
    scored = pd.read_csv(folders[1] / "cases.csv").set_index("case")
    assert (scored["patient"] == scored.index.str.rpartition("_").get_level_values(0)).all()
    row = made.set_index("metric").loc["dice_WT"]
    own = bootstrap_interval(scored["dice_WT"].to_numpy(), seed=0, patients=scored["patient"].to_numpy())
    assert (row["low"], row["high"]) == own
    assert own != bootstrap_interval(scored["dice_WT"].to_numpy(), seed=0)
    seeds = over_seeds(folders[1:] * 2, "brats").set_index("metric").loc["dice_WT"]
    assert (seeds["low"], seeds["high"]) == pytest.approx(own)
    before = pd.read_csv(folders[0] / "cases.csv").set_index("case")["dice_WT"]
    change = (scored["dice_WT"] - before).groupby(scored["patient"]).mean()
    found = paired.compare(*folders, "brats", ["dice_WT"]).iloc[0]
    assert found["p"] == pytest.approx(stats.wilcoxon(change).pvalue)
    assert found["n"] == len(cases) > len(change)


def test_a_case_counts_as_scored_when_all_its_views_are(cohort, tmp_path, monkeypatch):
    """Each case is followed by its view, and counted after that alone."""
    happened = []

    class Watched(evaluation.Progress):
        def update(self, n=1):
            happened.append("counted")
            super().update(n)

    def scored(cases, on_scored, **how):
        def told(case):
            happened.append(case)
            on_scored(case)

        return score_cases(cases, on_scored=told, **how)

    score_cases = evaluation.score_cases
    monkeypatch.setattr(evaluation, "Progress", Watched)
    monkeypatch.setattr(evaluation, "score_cases", scored)
    options = Options(data=cohort, preset="demo", jobs=1, runs=tmp_path / "runs", prepared=tmp_path / "prepared")
    with study("table2_final", options, Stub(), fractions=(0.4, 0.4, 0.2)) as opened:
        one, other = (entry.id for entry in opened.validation)
        of = {case: truth_of(cohort, case) for case in (one, other)}
        made = [(case, of[case], lambda case=case: {"before": of[case]}) for case in (one, other)]
        evaluation.write_scores(opened, made, n_cases=2)
    before = [f"{case}{evaluation.VIEW_MARK}before" for case in (one, other)]
    assert happened == [one, before[0], "counted", other, before[1], "counted"]

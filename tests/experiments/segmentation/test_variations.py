"""Rows of the table of variations: which are run, and how they are compared."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.base.trainings import FAILURE, Placement, Training, python, state
from experiments.segmentation.variations import compare, equal_rows, run_rows, with_continued
from experiments.table1_variations import PAPER


def test_what_an_extension_continues_is_run_before_it():
    rows = PAPER.variations()
    assert with_continued(["dice_ce_extended", "baseline"], rows) == ["baseline", "dice_ce", "dice_ce_extended"]
    assert with_continued(["gwdl"], rows) == ["gwdl"]


@dataclass
class Opened:
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Options(Placement):
    empty_masks: str = "brats"


@dataclass
class Study:
    """As much of a study as rows need; its trainings end as the system ends one for want of memory, or finish."""

    run: Opened
    options: Options = field(default_factory=Options)
    ends: bool = False

    def training(self, kind, name, config, folder, **further):
        program = "import os, sys; os.kill(os.getpid(), 9) if sys.argv[2:] else open(sys.argv[1], 'w').close()"
        words = (folder / "summary.json", *(["killed"] if self.ends else []))
        return Training(name=name, argv=python("-c", program, *words), folder=folder, after=further.get("after", ()))


def test_a_row_whose_process_is_killed_has_failed_and_is_tried_again(tmp_path):
    rows = PAPER.variations()
    folder = tmp_path / "rows" / "slices80"
    assert state(folder) == "not run"
    run_rows(Study(Opened(tmp_path), ends=True), rows, ["slices80_extended"])
    assert state(folder) == "failed: ended by SIGKILL, as the system does for want of memory"
    assert state(tmp_path / "rows" / "slices80_extended") == "not run"
    run_rows(Study(Opened(tmp_path)), rows, ["slices80_extended"])
    assert [state(tmp_path / "rows" / row) for row in ("slices80", "slices80_extended")] == ["finished", "finished"]
    assert not (folder / FAILURE).exists()


def test_a_row_with_the_scores_of_another_is_said():
    tests = pd.DataFrame(
        [("gwdl", "slices80", 0.0, 0.0, 0.0, 8), ("dice_ce", "slices80", 0.0, -0.1, 0.1, 8)],
        columns=["row", "against", "difference", "low", "high", "n"],
    )
    assert equal_rows(tests) == ["gwdl has the scores of slices80 in each of 8 cases: the change had no effect"]


def test_rows_are_compared_case_by_case_and_corrected_together(tmp_path, monkeypatch):
    from experiments.segmentation import variations
    from experiments.segmentation.variations import METRIC

    rng = np.random.default_rng(0)
    names = ("baseline", "slices80", "gwdl")
    scores = {name: pd.Series(rng.random(8), index=[f"case{i}" for i in range(8)]) for name in names}
    scores["gwdl"] = scores["slices80"] + np.linspace(0.1, 0.2, 8)
    scores["gwdl"] = scores["gwdl"].sample(frac=1, random_state=1)  # another order of cases
    for name in names:
        (tmp_path / "rows" / name).mkdir(parents=True)
        (tmp_path / "rows" / name / "summary.json").touch()
    monkeypatch.setattr(variations, "case_scores", lambda folder, policy: scores[folder.name].to_frame(METRIC))

    found = compare(Study(Opened(tmp_path)), PAPER.variations()).set_index(["row", "against"])
    assert list(found.index) == [("slices80", "baseline"), ("gwdl", "slices80"), ("gwdl", "baseline")]
    pair = found.loc[("gwdl", "slices80")]
    assert pair["difference"] == pytest.approx(0.15)
    assert (pair["n"], pair["p"]) == (8, pytest.approx(2 / 2**8))
    assert pair["p_holm"] == pytest.approx(3 * 2 / 2**8)

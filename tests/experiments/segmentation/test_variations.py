"""Rows of the table of variations: which are run, and how they are compared."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.segmentation.variations import compare, run_rows, state, with_continued
from experiments.table1_variations import PAPER


def test_what_an_extension_continues_is_run_before_it():
    rows = PAPER.variations()
    assert with_continued(["dice_ce_extended", "baseline"], rows) == ["baseline", "dice_ce", "dice_ce_extended"]
    assert with_continued(["gwdl"], rows) == ["gwdl"]


@dataclass
class Doomed:
    """A study whose arrival ends the process that was to work on it, as the system does for want of memory."""

    run: object

    def __reduce__(self):
        return os._exit, (9,)


@dataclass
class Opened:
    folder: Path


def test_a_row_whose_process_is_killed_has_failed(tmp_path):
    rows = {"baseline": PAPER.variations()["baseline"]}
    folder = tmp_path / "rows" / "baseline"
    folder.mkdir(parents=True)
    assert state(folder) == "not run"
    run_rows(Doomed(Opened(tmp_path)), rows, rows)
    assert state(folder) == "failed: the process was killed, as the system does for want of memory"


def test_rows_are_compared_case_by_case_and_corrected_together(tmp_path, monkeypatch):
    from experiments.segmentation import variations

    rng = np.random.default_rng(0)
    names = ("baseline", "slices80", "gwdl")
    scores = {name: pd.Series(rng.random(8), index=[f"case{i}" for i in range(8)]) for name in names}
    scores["gwdl"] = scores["slices80"] + np.linspace(0.1, 0.2, 8)
    scores["gwdl"] = scores["gwdl"].sample(frac=1, random_state=1)  # another order of cases
    monkeypatch.setattr(variations, "is_finished", lambda folder: folder.name in scores)
    monkeypatch.setattr(variations, "case_scores", lambda folder, policy: scores[folder.name])

    @dataclass
    class Options:
        empty_masks: str = "brats"

    @dataclass
    class Study:
        run: Opened
        options: Options

    found = compare(Study(Opened(tmp_path), Options()), PAPER.variations()).set_index(["row", "against"])
    assert list(found.index) == [("slices80", "baseline"), ("gwdl", "slices80"), ("gwdl", "baseline")]
    pair = found.loc[("gwdl", "slices80")]
    assert pair["difference"] == pytest.approx(0.15)
    assert (pair["n"], pair["p"]) == (8, pytest.approx(2 / 2**8))
    assert pair["p_holm"] == pytest.approx(3 * 2 / 2**8)

"""Models on the same cases: paired differences, and nobody scored on other cases."""

from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from common.splits import Split
from experiments.base.options import Refused
from experiments.comparison import MODELS
from experiments.comparison.models import COMPARED, compare, read_cases


def random_scores(n_cases, models=tuple(MODELS)):
    """(model, case) -> metrics; every model in an order of cases of its own."""
    rng = np.random.default_rng(n_cases)
    frames = []
    for model in models:
        frame = pd.DataFrame(rng.random((n_cases, len(COMPARED))), columns=COMPARED)
        frames.append(
            frame.assign(model=model, case=[f"case{i}" for i in range(n_cases)]).sample(frac=1, random_state=1)
        )
    return pd.concat(frames).set_index(["model", "case"])


def test_pairs_are_compared_case_by_case_and_corrected_together():
    scores = random_scores(8)
    scores.loc[("unet3d", "case3"), "hd_TC"] = np.nan  # no score under the policy
    found = compare(scores)
    expected = [(*pair, metric) for pair, metric in product(combinations(MODELS, 2), COMPARED)]
    assert list(found[["model", "against", "metric"]].itertuples(index=False, name=None)) == expected
    p_values = []
    for row in found.itertuples():
        difference = np.array(
            [
                scores.loc[(row.model, f"case{i}"), row.metric] - scores.loc[(row.against, f"case{i}"), row.metric]
                for i in range(8)
            ]
        )
        difference = difference[~np.isnan(difference)]
        assert row.n == difference.size == (7 if row.metric == "hd_TC" and "unet3d" in (row.model, row.against) else 8)
        assert row.difference == pytest.approx(difference.mean())
        assert row.low < row.difference < row.high
        towards = stats.wilcoxon(difference, alternative="greater" if row.difference > 0 else "less").pvalue
        p_values.append(stats.wilcoxon(difference).pvalue if towards < 0.5 else 1.0)
        assert row.p == pytest.approx(p_values[-1])
        assert row.higher_is_better == row.metric.startswith(("dice", "mean"))
    # Holm by its definition: the smallest level at which the step-down procedure would reject.
    adjusted = []
    for p in p_values:
        ranked = sorted(p_values)
        adjusted.append(min(1, max((len(ranked) - k) * other for k, other in enumerate(ranked) if other <= p)))
    assert found["p_holm"].to_numpy() == pytest.approx(adjusted)


@pytest.mark.parametrize(("n_cases", "tested"), [(1, False), (2, False), (3, True)])
def test_few_cases_have_differences_but_no_test(n_cases, tested):
    found = compare(random_scores(n_cases))
    assert found["difference"].notna().all()
    for column in ("low", "high", "p", "p_holm"):
        assert found[column].notna().all() == tested
        assert found[column].notna().any() == tested


def test_a_model_without_scores_is_in_no_pair():
    found = compare(random_scores(4, ("segresnet", "unet25d")))
    assert set(found[["model", "against"]].itertuples(index=False, name=None)) == {("segresnet", "unet25d")}
    assert compare(random_scores(4, ("unet3d",))).empty


@dataclass
class Opened:
    folder: Path


@dataclass
class Finished:
    """As much of a study as reading its models' cases needs."""

    run: Opened
    split: Split


@pytest.fixture
def scored(tmp_path):
    """A study whose models have scored the cases given."""

    def write(**cases):
        for model, names in cases.items():
            folder = tmp_path / "models" / model
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text("[]")
            views = [{"case": name, "dice_NCR": 0.5, "view": view} for name in names for view in ("", "inside_crop")]
            pd.DataFrame(views).to_csv(folder / "cases.csv", index=False)
        return Finished(Opened(tmp_path), Split("split", ("000",), ("001",), ("002", "003")))

    return write


def test_cases_of_all_models_are_put_together(scored):
    found = read_cases(scored(segresnet=("002", "003"), unet25d=("003", "002")))
    assert list(found.columns[:2]) == ["model", "case"]
    labels = found[found["view"] == ""]
    assert labels[["model", "case"]].to_numpy().tolist() == [
        ["segresnet", "002"],
        ["segresnet", "003"],
        ["unet25d", "003"],
        ["unet25d", "002"],
    ]


@pytest.mark.parametrize("cases", [("002",), ("002", "004"), ("002", "003", "004"), ("002", "003", "003")])
def test_a_model_scored_on_other_cases_is_an_error(scored, cases):
    with pytest.raises(Refused, match=r"unet3d/cases.csv: expected one row of each test case, \['002', '003'\], found"):
        read_cases(scored(segresnet=("002", "003"), unet3d=cases))

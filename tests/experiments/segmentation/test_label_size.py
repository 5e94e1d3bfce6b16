"""Size of a label against its Dice, and what was missed."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.base.results import reported
from experiments.segmentation import label_size
from tests.experiments.segmentation.test_final_scores import label_map, write_run


@pytest.fixture
def sizes(tmp_path):
    """Six cases of two parts whose NCR is missed once by absence and once by place, invented once and empty once."""
    shifted = np.roll(label_map(NCR=3, ED=6, ET=5), 1, axis=2)
    pairs = {
        "validation": {
            "a": (label_map(NCR=2, ED=8, ET=4), label_map(NCR=4, ED=8, ET=4)),
            "b": (label_map(ED=4, ET=3), label_map(NCR=1, ED=8, ET=3)),
            "c": (shifted, label_map(NCR=3, ED=6, ET=5)),
        },
        "test": {
            "d": (label_map(NCR=2, ED=7, ET=2), label_map(ED=7, ET=2)),
            "e": (label_map(ED=5, ET=1), label_map(ED=5, ET=1)),
            "f": (label_map(NCR=9, ED=9, ET=9), label_map(NCR=10, ED=10, ET=10)),
        },
    }
    return label_size.label_sizes({part: write_run(tmp_path / part, cases) for part, cases in pairs.items()})


def test_every_label_of_every_case_has_its_size_and_state(sizes):
    assert len(sizes) == 6 * 3
    ncr = sizes[sizes["class"] == "NCR"].set_index("case")
    assert ncr["state"].to_dict() == {
        "a": "found", "b": "missed", "c": "missed", "d": "invented", "e": "empty in truth", "f": "found",
    }  # fmt: skip
    assert (ncr["volume_truth_ml"] * 1000).round().tolist() == [4, 1, 3, 0, 0, 10]
    assert (ncr["volume_predicted_ml"] * 1000).round().tolist() == [2, 0, 3, 2, 0, 9]
    assert ncr["part"].tolist() == ["validation"] * 3 + ["test"] * 3
    np.testing.assert_allclose(ncr["dice"], [2 * 2 / 6, 0, 0, 0, math.nan, 2 * 9 / 19])


def test_missed_labels_are_counted_among_those_the_truth_has(sizes):
    lines = label_size.size_results("table2_final", sizes, synthetic=True)
    found = {result.key.partition(".")[2]: result for result in lines}
    assert found["small_labels"].value == (
        "missed entirely in validation and test: NCR 2 of 4, ED 1 of 6, ET 1 of 6; "
        "of these 4, not predicted anywhere: 1"
    )
    assert found["small_labels"].reported == reported()["table2_final"]["small_labels"].value
    assert (found["missed_NCR"].value, found["missed_NCR"].n) == (0.5, 4)
    # Clopper and Pearson's ends solve P(X >= 2; p) = 0.025 and P(X <= 2; p) = 0.025 of a binomial with n = 4
    assert stats.binom.sf(1, 4, found["missed_NCR"].low) == pytest.approx(0.025)
    assert stats.binom.cdf(2, 4, found["missed_NCR"].high) == pytest.approx(0.025)
    # NCR: sizes 4, 1, 3, 10 have ranks 3, 1, 2, 4; Dice 2/3, 0, 0, 18/19 ranks 3, 1.5, 1.5, 4
    assert found["size_correlation_NCR"].value == pytest.approx(np.corrcoef([3, 1, 2, 4], [3, 1.5, 1.5, 4])[0, 1])
    assert found["size_correlation_NCR"].n == 4
    assert all(result.synthetic for result in found.values())


def test_a_class_that_no_truth_has_is_not_called_found(tmp_path):
    folder = write_run(tmp_path / "run", {"a": (label_map(ED=2), label_map(ED=2))})
    lines = label_size.size_results("table2_final", label_size.label_sizes({"test": folder}), synthetic=False)
    found = {result.key.partition(".")[2]: result for result in lines}
    assert (found["missed_ET"].value, found["missed_ET"].low, found["missed_ET"].n) == (None, None, 0)
    assert (found["missed_ED"].value, found["missed_ED"].n) == (0, 1)
    assert found["small_labels"].value == "missed entirely in test: NCR 0 of 0, ED 0 of 1, ET 0 of 0"


def test_the_interval_of_a_rank_correlation_covers_it():
    """Bivariate normal, n = 16, Pearson 0.6: Spearman's is (6 / pi) asin(0.3) (Kruskal 1958)."""
    rng = np.random.default_rng(0)
    true = 6 / math.pi * math.asin(0.3)
    covered = []
    for _ in range(1000):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=16).T
        rho, low, high = label_size.rank_correlation(x, y)
        assert low < rho < high
        covered.append(low <= true <= high)
    assert 0.93 < np.mean(covered) < 0.98


@pytest.mark.parametrize(
    ("ml", "dice"), [([1, 2, 3], [0.1, 0.3, 0.2]), ([1, 1, 1, 1], [0, 0.5, 0.6, 0.7]), ([1, 2, 3, 4], [0, 0, 0, 0])]
)
def test_a_correlation_that_is_not_defined_is_nan(ml, dice):
    assert all(map(math.isnan, label_size.rank_correlation(np.array(ml), np.array(dice))))

"""Lesions of a run: their shares found by size, their table and picture, and which of their scores are shown where."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from common.scoring import score_cases
from common.summary import LESION_METRICS, summarise
from experiments.base import results
from experiments.segmentation.lesion_detection import by_size, draw_detection, write_lesions


def case(name, *, found=True):
    """ET of 300 and of 75 mm³; the first predicted or not, and 8 mm³ elsewhere."""
    truth, prediction = np.zeros((2, 40, 12, 12), np.uint8)
    truth[2:12, 2:7, 2:8] = truth[20:23, 2:7, 2:7] = 3
    prediction[34:36, 4:6, 4:6] = 3
    if found:
        prediction[2:12, 2:7, 2:8] = 3
    return name, prediction, truth, (1, 1, 1)


@pytest.fixture(scope="module")
def scored():
    return score_cases([case("a"), case("b", found=False)])


def test_share_found_per_decade_of_volume():
    volumes, found = np.array([10.0, 99, 20, 100, 1e4]), np.array([True, False, False, True, False])
    shares = by_size(volumes, found)
    assert shares[["low_mm3", "high_mm3", "n"]].to_numpy().tolist() == [[10, 100, 3], [100, 1000, 1], [1e4, 1e5, 1]]
    assert shares["share"].tolist() == pytest.approx([1 / 3, 1, 0])
    assert shares["low"].tolist() == pytest.approx([0.0084, 0.025, 0], abs=1e-4)  # Clopper and Pearson 1934
    assert shares["high"].tolist() == pytest.approx([0.9057, 1, 0.975], abs=1e-4)
    assert by_size(np.empty(0), np.empty(0, bool)).empty


def test_every_lesion_is_in_the_table_and_the_picture_counts_them(scored, tmp_path):
    (tmp_path / "figures").mkdir()
    lesions = scored.lesions.assign(view="")
    write_lesions(tmp_path, lesions, synthetic=True)
    again = pd.read_csv(tmp_path / "lesions.csv", dtype={"view": str}).fillna({"view": ""})
    pd.testing.assert_frame_equal(again, lesions)
    assert imread(tmp_path / "figures" / "lesions.png").std() > 0
    own = lesions[lesions["definition"] == "brats2023"]
    figure = draw_detection(own, synthetic=True)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [f"{region}: 1 of 4 lesions found\n2 invented" for region in ("ET", "TC", "WT")]
    shares = [line for line in figure.axes[3].lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 0.5]
    assert [list(line.get_xdata()) for line in shares] == [[100, 1000]]


def test_a_run_without_any_lesion_has_an_empty_table_and_a_picture(tmp_path):
    (tmp_path / "figures").mkdir()
    nothing = np.zeros((4, 4, 4), np.uint8)
    lesions = score_cases([("healthy", nothing, nothing, (1, 1, 1))]).lesions
    write_lesions(tmp_path, lesions.assign(view=""), synthetic=False)
    assert pd.read_csv(tmp_path / "lesions.csv").empty
    assert imread(tmp_path / "figures" / "lesions.png").std() > 0


def test_a_summary_holds_few_lesion_wise_scores_and_a_table_fewer(scored):
    scores = summarise(scored.cases)
    assert set(results.LESIONS_IN_TABLE) < set(results.OF_LESIONS) < set(LESION_METRICS)
    found = results.segmentation_results("x", scores.assign(view=""), synthetic=False)
    names = [result.key.removeprefix("x.") for result in found]
    assert sorted(name for name in names if name.startswith("lesion_")) == sorted(results.OF_LESIONS)
    by_name = dict(zip(names, found, strict=True))
    assert by_name["lesion_dice_brats2023_ET"].value == pytest.approx((1 / 3 + 0) / 2)
    assert by_name["lesion_sensitivity_brats2023_WT"].value == 0.25
    assert by_name["lesion_fp_brats2024_ET"].value == 0  # 8 voxels are deleted
    assert not results.segmentation_results("x", scores.assign(view="raw"), synthetic=False)[7:]

    text = results.segmentation_table(found)
    shown = [line.split()[0] for line in text.splitlines()]
    assert [name for name in shown if name in LESION_METRICS] == [
        name for name in names if name in results.LESIONS_IN_TABLE
    ]
    assert text.endswith(results.LESION_NOTE)
    before = [result for result in found if "lesion_" not in result.key]
    assert results.segmentation_table(before) == results.table(before)

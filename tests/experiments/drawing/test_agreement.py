"""Pictures of single cases: every case a point, and the limits of agreement."""

import numpy as np
import pandas as pd
import pytest

from experiments.drawing import agreement


def test_limits_of_agreement_by_hand():
    # Differences 1, 2, 6: mean 3, deviations -2, -1, 3, SD sqrt(14 / 2) = sqrt(7).
    found = agreement.agreement(np.array([10.0, 20.0, 30.0]), np.array([11.0, 22.0, 36.0]))
    assert found == pytest.approx((3.0, 3 - 1.96 * 7**0.5, 3 + 1.96 * 7**0.5))
    mean, low, high = agreement.agreement(np.array([1.0, 2.0]), np.array([2.0, 2.0]))
    assert mean == 0.5
    assert np.isnan([low, high]).all()


def test_every_case_is_a_point_where_its_numbers_are():
    rows = {f"dice_{mask}": [0.5, 0.0, np.nan, 0.75] for mask in agreement.MASKS}
    rows |= {f"volume_truth_ml_{mask}": [1.0, 2.0, 0.0, 4.0] for mask in agreement.REGIONS}
    rows |= {f"volume_predicted_ml_{mask}": [3.0, 0.0, 0.0, 5.0] for mask in agreement.REGIONS}
    cases = pd.DataFrame(rows)
    found, none, median = agreement.draw_dice(cases).axes[0].lines[:3]
    assert found.get_ydata().tolist() == [0.5, 0.75]
    assert none.get_ydata().tolist() == [0.0]
    assert median.get_ydata().tolist() == [0.5, 0.5]
    for axis in agreement.draw_volumes(cases).axes:
        assert axis.lines[0].get_xydata().tolist() == [[2.0, 2.0], [1.0, -2.0], [0.0, 0.0], [4.5, 1.0]]

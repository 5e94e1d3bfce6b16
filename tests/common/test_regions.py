"""Regions to labels, and decisions chosen on predictions: against the definition, voxel by voxel and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from common.regions import LEAST_GAIN, Case, Decision, choose, decode_regions, enclosed, mean_dice


def by_voxel(probabilities, thresholds):
    labels = np.zeros(probabilities.shape[1:], int)
    for place in np.ndindex(labels.shape):
        et, tc, wt = (probabilities[(channel, *place)] > thresholds[channel] for channel in range(3))
        labels[place] = 3 if et else 1 if tc else 2 if wt else 0
    labels[filled_in_two_planes(np.isin(labels, (1, 3))) & (labels != 3)] = 1
    return labels


def filled_in_two_planes(mask):
    times = np.zeros(mask.shape, int)
    for axis in range(3):
        for number in range(mask.shape[axis]):
            plane = (*[slice(None)] * axis, number)
            times[plane] += ndimage.binary_fill_holes(mask[plane])
    return mask | (times >= 2)


@pytest.mark.parametrize("thresholds", [(0.5, 0.5, 0.5), (0.3, 0.6, 0.45)])
def test_the_innermost_region_above_its_threshold_decides(thresholds):
    probabilities = np.random.default_rng(1).random((3, 5, 6, 7), dtype=np.float32)
    labels = decode_regions(probabilities, Decision(thresholds=thresholds), voxel_ml=0.001)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, by_voxel(probabilities, thresholds))


@pytest.mark.parametrize("density", [0.3, 0.6, 0.8])
def test_what_a_mask_encloses_in_two_planes_is_what_filling_each_plane_finds(density):
    mask = np.random.default_rng(3).random((11, 9, 10)) < density
    np.testing.assert_array_equal(mask | enclosed(mask), filled_in_two_planes(mask))
    assert not (enclosed(mask) & mask).any()


def test_oedema_inside_a_ring_of_enhancement_is_core_and_beside_it_stays():
    shell = np.zeros((12, 12, 12), bool)
    shell[2:9, 2:9, 2:9] = True
    shell[3:8, 3:8, 3:8] = False
    shell[2, 5, 5] = False  # open somewhere, as rings are
    probabilities = np.stack([shell, shell, np.ones(shell.shape)]).astype(np.float32)
    labels = decode_regions(probabilities, Decision(), voxel_ml=0.001)
    assert np.count_nonzero(labels == 1) == 5**3 - 5  # but for the column behind the gap: two of its planes are open
    assert labels[5, 5, 5] == 2
    assert (labels[9:] == 2).all()


def test_too_little_enhancement_does_not_enhance():
    probabilities = np.zeros((3, 6, 6, 6), np.float32)
    probabilities[2, :4], probabilities[1, :3], probabilities[0, 0, 0, :5] = 1, 1, 1  # ET of 5 voxels, 0.04 ml
    kept = decode_regions(probabilities, Decision(smallest_et_ml=0.04), voxel_ml=0.008)
    lost = decode_regions(probabilities, Decision(smallest_et_ml=0.041), voxel_ml=0.008)
    assert (kept == 3).sum() == 5
    assert (lost == 3).sum() == 0
    np.testing.assert_array_equal(lost == 1, (kept == 1) | (kept == 3))
    np.testing.assert_array_equal(lost == 2, kept == 2)


def test_small_parts_of_the_whole_tumour_go_whatever_they_are():
    probabilities = np.zeros((3, 9, 9, 9), np.float32)
    probabilities[2, :3, :3, :3] = 1
    probabilities[:, 3, 3, 3] = 1  # touches that corner: the same part
    probabilities[:, 7, 7, 6:8] = 1  # two voxels on their own, 0.016 ml
    labels = decode_regions(probabilities, Decision(smallest_part_ml=0.017), voxel_ml=0.008)
    assert labels[3, 3, 3] == 3
    assert labels[7, 7, 6] == 0
    assert (labels != 0).sum() == 28
    assert (decode_regions(probabilities, Decision(smallest_part_ml=0.016), voxel_ml=0.008) != 0).sum() == 30


def test_nothing_found_stays_nothing():
    decision = Decision(smallest_et_ml=1.0, smallest_part_ml=1.0)
    assert not decode_regions(np.zeros((3, 4, 4, 4), np.float32), decision, voxel_ml=0.001).any()


@pytest.mark.parametrize("wrong", [{"thresholds": (0.5, 0.5)}, {"thresholds": (0.5, 1.0, 0.5)}, {"smallest_et_ml": -1}])
def test_a_decision_checks_itself(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decision(**wrong)


def blurred(rng, truth, *, et, wt):
    """Probabilities below or above 0.5, but told apart at the given thresholds."""
    noise = rng.uniform(-0.08, 0.08, (3, *truth.shape))
    inside = np.stack([truth == 3, (truth == 1) | (truth == 3), truth > 0])
    middle = np.array([et, 0.5, wt])[:, None, None, None]
    return np.clip(np.where(inside, middle + 0.1, middle - 0.1) + noise, 0, 1)


def truth_of(rng):
    truth = np.zeros((14, 14, 14), np.uint8)
    x, y, z = rng.integers(1, 4, 3)
    truth[x : x + 9, y : y + 9, z : z + 9] = 2
    truth[x + 2 : x + 7, y + 2 : y + 7, z + 2 : z + 7] = 3
    truth[x + 3 : x + 5, y + 3 : y + 5, z + 3 : z + 5] = 1
    return truth


def test_thresholds_are_found_where_they_lie():
    rng = np.random.default_rng(5)
    truths = [truth_of(rng) for _ in range(4)]
    cases = [Case.of(blurred(rng, truth, et=0.35, wt=0.65), truth, voxel_ml=0.008) for truth in truths]
    found = choose(cases)
    assert found.thresholds[0] == pytest.approx(0.35, abs=0.06)
    assert found.thresholds[2] == pytest.approx(0.65, abs=0.06)
    assert mean_dice(cases, found) > 0.98 > mean_dice(cases, Decision()) + 0.2
    np.testing.assert_array_equal(cases[0].decoded(found) != 0, cases[0].truth != 0)


def test_invented_enhancement_is_told_by_its_volume():
    rng = np.random.default_rng(6)
    truths = [truth_of(rng) for _ in range(3)]
    without = [np.where(truth == 3, 1, truth) for truth in truths]
    cases = []
    for truth in without:
        probabilities = blurred(rng, truth, et=0.5, wt=0.5)
        probabilities[0][tuple(np.argwhere(truth == 1)[0])] = 0.9  # one voxel of ET that is none
        cases.append(Case.of(probabilities, truth, voxel_ml=0.03))
    cases += [Case.of(blurred(rng, truth, et=0.5, wt=0.5), truth, voxel_ml=0.03) for truth in truths]
    assert choose(cases) == Decision(smallest_et_ml=0.05)


def test_what_gains_nothing_is_not_chosen():
    rng = np.random.default_rng(7)
    truth = truth_of(rng)
    case = Case.of(blurred(rng, truth, et=0.5, wt=0.5), truth, voxel_ml=0.008)
    assert mean_dice([case], Decision()) > 1 - LEAST_GAIN
    assert choose([case]) == choose([]) == Decision()


def test_a_case_is_cut_to_where_something_is_to_be_decided():
    probabilities, truth = np.zeros((3, 9, 9, 9)), np.zeros((9, 9, 9), np.uint8)
    probabilities[2, 2, 3, 4], truth[5, 6, 4] = 0.4, 2
    case = Case.of(probabilities, truth, voxel_ml=1.0)
    assert case.truth.shape == (4, 4, 1)
    # by hand: at 0.5 the tumour is missed, so WT and ED are 0 and the three others, empty in both, are 1
    assert mean_dice([case], Decision()) == pytest.approx(3 / 5)


def test_patients_without_enhancement_decide_on_the_smallest_one_only():
    rng = np.random.default_rng(8)
    truths = [truth_of(rng) for _ in range(3)]
    cases = [Case.of(blurred(rng, truth, et=0.5, wt=0.5), truth, voxel_ml=0.03) for truth in truths]
    unenhanced = []
    for truth in truths:
        plain = np.where(truth == 3, 1, truth)
        probabilities = blurred(rng, plain, et=0.5, wt=0.7)  # their WT would want another threshold
        probabilities[0][tuple(np.argwhere(plain == 1)[:3].T)] = 0.9  # three voxels of ET that are none
        unenhanced.append(Case.of(probabilities, plain, voxel_ml=0.03))
    assert choose(cases) == Decision()
    assert choose(cases, unenhanced) == Decision(smallest_et_ml=0.1)

"""Label maps that are mirrored, moved or another case's, told by what they would meet."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.misplaced import alike, nearly_equal, notes, suspects

SHAPE = (20, 24, 16)


def box(*starts, size=6):
    found = np.zeros(SHAPE, bool)
    found[tuple(slice(start, start + size) for start in starts)] = True
    return found


TRUTHS = {"a": box(1, 2, 3), "b": box(12, 14, 8), "c": box(2, 14, 4)}
AFFINES = {case: np.diag([-1.0, -1.0, 1.0, 1.0]) for case in TRUTHS}


@pytest.mark.parametrize(
    ("axes", "along"), [((0,), "left to right"), ((1,), "front to back"), ((0, 2), "left to right and top to bottom")]
)
def test_a_mirrored_label_map_is_named_with_the_direction(axes, along):
    (said,) = notes("m", {"a": np.flip(TRUTHS["a"], axes)}, TRUTHS, AFFINES)
    assert said == f"m: a would meet the truth mirrored {along} (Dice of the whole tumour 1.00 in place of 0.00)"


def test_a_method_that_is_moved_as_a_whole_is_said_once_with_the_way_back():
    shape = (60, 70, 50)
    starts = {"a": (12, 20, 10), "b": (30, 40, 20), "c": (25, 15, 12)}
    truths = {case: np.zeros(shape, bool) for case in starts}
    answers = {case: np.zeros(shape, bool) for case in starts}
    for case, (x, y, z) in starts.items():
        truths[case][x : x + 16, y : y + 18, z : z + 20] = True
        # Cut off by a crop that began at voxel (8, 12, 0), and an answer that is a voxel too long in z.
        answers[case][x - 8 : x + 8, y - 12 : y + 6, z : z + 21] = True
    affines = {case: np.diag([-1.0, -1.0, 1.0, 1.0]) for case in starts}
    (said,) = notes("m", answers, truths, affines)
    # Half of 16 and a third of 18 voxels meet, and 20 of z: 2 * 8 * 6 * 20 / (16 * 18 * (20 + 21)) = 0.16; where they
    # belong 2 * 20 / 41 = 0.98. The middles in z differ by half a voxel.
    assert said == (
        "m: a, b, c would meet the truth moved by (+8, +12, +0) voxels along the axes of its grid (Dice of the whole "
        "tumour 0.98 in place of 0.16): was a crop's offset lost?"
    )
    assert list(notes("m", {"a": answers["a"]}, truths, affines)) == []  # one alone may lie there for another reason
    apart = {"a": answers["a"], "b": np.roll(answers["b"], 9, 0), "c": np.roll(answers["c"], -20, 1)}
    assert not [line for line in notes("m", apart, truths, affines) if "moved" in line]


def test_a_method_that_is_mirrored_as_a_whole_is_said_once():
    (said,) = notes("m", {case: np.flip(truth, 0) for case, truth in TRUTHS.items()}, TRUTHS, AFFINES)
    assert said.startswith("m: a, b, c would meet the truth mirrored left to right (")


def test_label_maps_that_differ_in_a_voxel_or_two_are_nearly_equal_and_equal_ones_another_matter():
    one = np.zeros((30, 30, 30), np.uint8)
    one[5:20, 5:20, 5:20] = 2
    other = one.copy()
    other[5, 5, 5] = 0
    assert nearly_equal(one, other)
    other[5, 5, 5:10] = 3
    assert not nearly_equal(one, other)
    rows = {"a": (0.9, 10.0), "b": (0.9, 10.0), "c": (0.8, 9.0)}
    frame = [{"method": "m", "case": case, "dice_WT": d, "volume_predicted_ml_WT": v} for case, (d, v) in rows.items()]
    frame += [{**row, "method": "n"} for row in frame]
    frame[4]["dice_WT"] -= 1e-4
    frame[5]["dice_WT"] -= 0.2
    assert alike(pd.DataFrame(frame)) == {("m", "n"): ["b"]}


def test_a_direction_is_that_of_the_patient_not_of_the_file():
    turned = {"a": np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)}
    (said,) = notes("m", {"a": np.flip(TRUTHS["a"], 0)}, TRUTHS, turned)
    assert "mirrored top to bottom" in said


def test_exchanged_label_maps_are_named_with_the_case_that_they_meet():
    said = list(notes("m", {"a": TRUTHS["b"], "b": TRUTHS["a"]}, TRUTHS, AFFINES))
    assert [line.partition(",")[0] for line in said] == ["m: a meets the truth of b", "m: b meets the truth of a"]


def test_a_bad_answer_and_another_grid_are_not_taken_for_an_exchange():
    bad = box(3, 10, 3)  # 6 x 2 x 5 of c and nothing of the others
    smaller = {**TRUTHS, "d": np.ones((4, 4, 4), bool)}
    assert (
        list(
            notes(
                "m", {"a": np.roll(TRUTHS["a"], 3, 0), "c": bad, "d": smaller["d"]}, smaller, AFFINES | {"d": np.eye(4)}
            )
        )
        == []
    )


def test_only_what_does_not_meet_well_and_is_not_empty_is_looked_at():
    rows = [("m", "good", 0.9, 2.0), ("m", "bad", 0.2, 30.0), ("m", "missed", 0.0, np.inf), ("n", "worse", 0.1, 40.0)]
    rows += [("m", "both empty", np.nan, np.nan), ("n", "moved a little", 0.7, 9.0)]
    cases = pd.DataFrame(rows, columns=["method", "case", "dice_WT", "hd95_WT"])
    assert suspects(cases) == {"n": ["worse", "moved a little"], "m": ["bad"]}

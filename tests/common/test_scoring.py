"""Scores of hand-made cases under each empty-mask policy, with anisotropic spacing throughout."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from common import metrics, scoring
from common import summary as summaries
from common.labels import CLASSES, REGIONS

SPACING_MM = (0.7, 1.3, 2.9)
VOXEL_ML = 0.7 * 1.3 * 2.9 / 1000


def random_pair(seed, shape=(12, 11, 9)):
    rng = np.random.default_rng(seed)
    return [rng.choice(4, size=shape, p=[0.7, 0.1, 0.12, 0.08]).astype(np.uint8) for _ in range(2)]


def rows(n_both=4, n_missed=0, n_false=0, n_empty=0):
    """A frame of cases that differ in NCR only: 10 voxels of ED and 6 of ET, all predicted."""
    kinds = ["both"] * n_both + ["missed"] * n_missed + ["false"] * n_false + ["empty"] * n_empty
    cases = []
    for index, kind in enumerate(kinds):
        truth = np.zeros((14, 6, 5), np.uint8)
        truth[2:12, 1, 1] = 2
        truth[2:8, 3, 3] = 3
        prediction = truth.copy()
        if kind in ("both", "missed"):
            truth[4:8, 5, 2] = 1
        if kind in ("both", "false"):
            prediction[5:9, 5, 2] = 1
        cases.append((f"{kind}{index}", prediction, truth, SPACING_MM))
    return scoring.score_cases(cases).cases


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_the_metric_of_each_mask_by_itself(seed):
    prediction, truth = random_pair(seed)
    row = scoring.score_case(prediction, truth, spacing_mm=SPACING_MM, surface_tolerance_mm=1.5)
    members = {"NCR": {1}, "ED": {2}, "ET": {3}, "TC": {1, 3}, "WT": {1, 2, 3}}
    assert tuple(members) == scoring.MASKS
    for name, classes in members.items():
        pair = np.isin(prediction, list(classes)), np.isin(truth, list(classes))
        assert row[f"dice_{name}"] == pytest.approx(metrics.dice(*pair))
        for metric, percentile in (("hd", 100), ("hd95", 95)):
            expected = metrics.hausdorff(*pair, spacing_mm=SPACING_MM, percentile=percentile)
            assert row[f"{metric}_{name}"] == pytest.approx(expected)
        expected = metrics.surface_dice(*pair, spacing_mm=SPACING_MM, tolerance_mm=1.5)
        assert row[f"surface_dice_{name}"] == pytest.approx(expected)
        assert row[f"volume_predicted_ml_{name}"] == pytest.approx(pair[0].sum() * VOXEL_ML)
        assert row[f"volume_truth_ml_{name}"] == pytest.approx(pair[1].sum() * VOXEL_ML)
    assert row["dice_background"] == pytest.approx(metrics.dice(prediction == 0, truth == 0))


@pytest.mark.parametrize("seed", range(3))
def test_false_positives_are_the_voxels_of_the_prediction_that_the_truth_lacks(seed):
    prediction, truth = random_pair(seed, shape=(5, 4, 6))
    row = scoring.score_case(prediction, truth, spacing_mm=SPACING_MM)
    for name, members in {"NCR": {1}, "ED": {2}, "ET": {3}, "TC": {1, 3}, "WT": {1, 2, 3}}.items():
        wrong = sum(p in members and t not in members for p, t in zip(prediction.flat, truth.flat, strict=True))
        assert row[f"false_positive_voxels_{name}"] == wrong > 0
    nothing = np.zeros_like(truth)
    assert scoring.score_case(nothing, truth, spacing_mm=SPACING_MM)["false_positive_voxels_WT"] == 0
    invented = scoring.score_case(prediction, nothing, spacing_mm=SPACING_MM)
    assert invented["false_positive_voxels_WT"] == np.count_nonzero(prediction)


@pytest.mark.parametrize("policy", ["brats", "ignore"])
def test_false_positives_count_in_every_case_whatever_the_empty_masks_are_worth(policy):
    frame = rows(n_both=2, n_missed=1, n_false=1, n_empty=1)
    # "both": 4 voxels predicted, 3 of them true; "false": all 4 are wrong; the others predict no NCR
    assert frame["false_positive_voxels_NCR"].tolist() == [1, 1, 0, 4, 0]
    summary = summaries.summarise(frame, policy=policy, n_resamples=200).set_index("metric")
    row = summary.loc["false_positive_voxels_NCR"]
    assert (row["mean"], row["median"], row["n"], row["n_left_out"]) == (6 / 5, 1, 5, 0)
    assert row["sd"] == pytest.approx(math.sqrt((0.04 + 0.04 + 1.44 + 7.84 + 1.44) / 4))
    assert row[["n_empty", "n_missed", "n_false"]].tolist() == [1, 1, 1]
    assert 0 <= row["low"] < 6 / 5 < row["high"] <= 4
    assert row["higher_is_better"] is False
    assert summary.loc["false_positive_voxels_WT", "mean"] == 6 / 5
    assert (summary.loc[["false_positive_voxels_ED", "false_positive_voxels_ET"], "mean"] == 0).all()


def test_members_follow_the_label_conventions():
    assert {name: scoring.MEMBERS[name] for name in REGIONS} == dict(REGIONS)
    assert [CLASSES[members[0]] for name, members in scoring.MEMBERS.items() if name in CLASSES] == ["NCR", "ED", "ET"]


def test_a_row_knows_no_policy():
    """Missed, invented and absent masks stay apart: 0 and inf against nan."""
    frame = rows(n_both=1, n_missed=1, n_false=1, n_empty=1)
    ncr = frame[["dice_NCR", "hd_NCR", "hd95_NCR", "surface_dice_NCR"]].to_numpy()
    for row in (1, 2):
        np.testing.assert_array_equal(ncr[row], [0, math.inf, math.inf, 0])
    assert np.isnan(ncr[3]).all()
    # 4 + 4 voxels in a row, 3 shared; the outermost are one voxel of 0.7 mm apart.
    np.testing.assert_allclose(ncr[0], [2 * 3 / 8, 0.7, 0.85 * 0.7, 1.0])
    assert frame["case"].tolist() == ["both0", "missed1", "false2", "empty3"]
    # 14 × 6 × 5 voxels, of which 16 are ED or ET, and 4 NCR that nobody predicted: 400 and 404 of background.
    assert frame["dice_background"][1] == pytest.approx(2 * 400 / (400 + 404))


def test_a_case_without_any_tumour_has_a_row():
    nothing = np.zeros((5, 4, 3), np.uint8)
    row = scoring.score_case(nothing, nothing, spacing_mm=SPACING_MM)
    assert row["dice_background"] == 1
    assert all(math.isnan(row[f"{metric}_{name}"]) for metric in ("dice", "hd", "hd95") for name in scoring.MASKS)
    frame = pd.DataFrame([{"case": "healthy"} | row])
    brats, ignored = (summaries.apply_empty_policy(frame, policy).iloc[0] for policy in ("brats", "ignore"))
    assert (brats["mean_dice"], brats["mean_dice_with_background"], brats["hd_WT"]) == (1, 1, 0)
    assert math.isnan(ignored["mean_dice"])
    assert ignored["mean_dice_with_background"] == 1


def test_brats_policy():
    valued = summaries.apply_empty_policy(rows(n_both=1, n_missed=1, n_false=1, n_empty=1), "brats")
    np.testing.assert_allclose(valued["dice_NCR"], [0.75, 0, 0, 1])
    np.testing.assert_allclose(valued["surface_dice_NCR"], [1, 0, 0, 1])
    np.testing.assert_allclose(valued["hd_NCR"], [0.7, 373.13, 373.13, 0])
    np.testing.assert_allclose(valued["hd95_NCR"], [0.85 * 0.7, 373.13, 373.13, 0])
    np.testing.assert_allclose(valued["mean_dice"], [2.75 / 3, 2 / 3, 2 / 3, 1])
    with_background = (valued["dice_background"] + 3 * valued["mean_dice"]) / 4
    np.testing.assert_allclose(valued["mean_dice_with_background"], with_background)
    assert pytest.approx(math.dist((0, 0, 0), (240, 240, 155)), abs=0.005) == summaries.MISSED_HAUSDORFF_MM


def test_ignore_policy():
    """An absent class leaves the case's mean, a missed one counts as 0 in it."""
    frame = rows(n_both=1, n_missed=1, n_false=1, n_empty=1)
    valued = summaries.apply_empty_policy(frame, "ignore")
    np.testing.assert_allclose(valued["dice_NCR"], [0.75, 0, 0, math.nan])
    np.testing.assert_allclose(valued["hd_NCR"], [0.7, math.nan, math.nan, math.nan])
    np.testing.assert_allclose(valued["mean_dice"], [2.75 / 3, 2 / 3, 2 / 3, 2 / 2])
    assert np.isinf(frame["hd_NCR"][1])  # the rows given are left as they are


@pytest.mark.parametrize(("policy", "dice", "n_dice", "hd", "n_hd"), [
    ("brats", (4 * 0.75 + 1) / 8, 8, (4 * 0.7 + 3 * 373.13) / 8, 8),
    ("ignore", 4 * 0.75 / 7, 7, 0.7, 4),
])  # fmt: skip
def test_summary_counts_every_case(policy, dice, n_dice, hd, n_hd):
    frame = rows(n_both=4, n_missed=2, n_false=1, n_empty=1)
    summary = summaries.summarise(frame, policy=policy, n_resamples=500).set_index("metric")
    assert tuple(summary.index) == summaries.METRICS
    counts = summary[["n_empty", "n_missed", "n_false"]]
    assert (summary["n"] + summary["n_left_out"] == len(frame)).all()
    for metric in summaries.METRICS:
        concerned = metric.startswith("mean_dice") or metric.endswith("_NCR")
        assert counts.loc[metric].tolist() == ([1, 2, 1] if concerned else [0, 0, 0]), metric
    assert summary.loc["dice_NCR", "mean"] == pytest.approx(dice)
    assert summary.loc["dice_NCR", "n"] == n_dice
    assert summary.loc["hd_NCR", "mean"] == pytest.approx(hd)
    assert summary.loc["hd_NCR", "n"] == n_hd
    assert summary.loc["hd_WT", "n"] == 8


def test_summary_statistics_by_hand():
    frame = rows(n_both=2, n_missed=1)
    summary = summaries.summarise(frame, seed=3, n_resamples=500).set_index("metric")
    row = summary.loc["dice_NCR"]
    assert (row["mean"], row["median"]) == (0.5, 0.75)
    assert row["sd"] == pytest.approx(0.75 / math.sqrt(3))
    assert 0 <= row["low"] <= 0.5 <= row["high"] <= 0.75
    assert summary.loc["dice_ED", ["mean", "low", "high", "sd"]].tolist() == [1, 1, 1, 0]
    pd.testing.assert_frame_equal(summaries.summarise(frame, seed=3, n_resamples=500).set_index("metric"), summary)
    two = summaries.summarise(rows(n_both=1, n_missed=1)).set_index("metric")
    assert two.loc["dice_NCR", "mean"] == 0.375
    assert two.loc["dice_NCR", ["low", "high"]].isna().all()
    none = summaries.summarise(rows(n_both=0, n_empty=1), policy="ignore").set_index("metric")
    assert none.loc["dice_NCR", ["mean", "sd", "median", "low", "high"]].isna().all()
    assert none.loc["dice_NCR", ["n", "n_empty", "n_left_out"]].tolist() == [0, 1, 1]


def test_each_metric_carries_its_direction():
    directions = summaries.summarise(rows()).set_index("metric")["higher_is_better"]
    for metric, direction in directions.items():
        without = metric.startswith(("volume", "lesion_tp"))
        expected = None if without else "dice" in metric or "sensitivity" in metric
        assert direction is expected, metric
        assert summaries.higher_is_better(metric) is expected
    with pytest.raises(ValueError, match=r"metric must be one of .*, received 'dice_TW'"):
        summaries.higher_is_better("dice_TW")


def two_lesions():
    """ET of the truth: 512 and 64 voxels of 1 mm; the prediction has the first, and 27 and 8 voxels elsewhere."""
    truth, prediction = np.zeros((2, 50, 20, 20), np.uint8)
    truth[2:10, 2:10, 2:10] = truth[20:24, 2:6, 2:6] = 3
    prediction[2:10, 2:10, 2:10] = prediction[34:37, 2:5, 2:5] = prediction[44:46, 2:4, 2:4] = 3
    return prediction, truth


def test_lesion_wise_scores_stand_beside_ours_and_no_policy_changes_them():
    nothing = np.zeros((50, 20, 20), np.uint8)
    frame, lesions = scoring.score_cases(
        [("a", *two_lesions(), (1, 1, 1)), ("b", nothing, nothing, (1, 1, 1))], n_jobs=1
    )
    names = [f"lesion_{score}_brats2023_ET" for score in ("dice", "hd95", "sensitivity", "tp", "fn", "fp")]
    np.testing.assert_allclose(frame[names], [[1 / 4, 3 * 374 / 4, 1 / 2, 1, 1, 2], [1, 0, math.nan, 0, 0, 0]])
    names = [name.replace("2023", "2024") for name in names]  # up to 10 voxels of a prediction are deleted
    np.testing.assert_allclose(frame[names], [[1 / 3, 2 * 337 / 3, 1 / 2, 1, 1, 1], [1, 0, math.nan, 0, 0, 0]])
    for policy in ("brats", "ignore"):
        summary = summaries.summarise(frame, policy=policy).set_index("metric")
        means = summary.loc[list(summaries.LESION_METRICS)]
        assert means["n"].to_dict() == frame[list(summaries.LESION_METRICS)].count().to_dict()
        assert means.loc["lesion_dice_brats2023_ET", "mean"] == (1 / 4 + 1) / 2
        assert means.loc["lesion_fp_brats2023_ET", "mean"] == 1  # per case
        assert means.loc["lesion_sensitivity_brats2023_ET", ["mean", "n", "n_left_out"]].tolist() == [0.5, 1, 1]
    seen = lesions[(lesions["definition"] == "brats2023") & (lesions["region"] == "ET")]
    assert seen.drop(columns=["definition", "region"]).to_numpy().tolist() == [
        ["a", "found", True, 512, 1, 0],
        ["a", "missed", True, 64, 0, 374],
        ["a", "invented", True, 27, 0, 374],
        ["a", "invented", True, 8, 0, 374],
    ]


def test_runs_that_were_scored_before_there_were_lesions_are_summarised_without_them():
    frame = rows(n_both=3)
    before = frame.drop(columns=list(summaries.LESION_METRICS))
    summary, expected = (summaries.summarise(each, n_resamples=200) for each in (before, frame))
    assert tuple(summary["metric"]) == summaries.metrics_of(before)
    pd.testing.assert_frame_equal(summary, expected.iloc[: len(summary)])
    with pytest.raises(ValueError, match=r"lesion_hd95_brats2024_WT must be finite for cases \['both1'\]"):
        summaries.summarise(frame.assign(lesion_hd95_brats2024_WT=[0, math.nan, 0]))


def test_threads_and_generators_give_the_same_rows():
    cases = [(str(seed), *random_pair(seed), SPACING_MM) for seed in range(5)]
    frame, lesions = scoring.score_cases(cases)
    again = scoring.score_cases((case for case in cases), n_jobs=2)
    pd.testing.assert_frame_equal(again.cases, frame)
    pd.testing.assert_frame_equal(again.lesions, lesions)
    single = [{"case": case} | scoring.score_case(*pair, spacing_mm=spacing) for case, *pair, spacing in cases]
    pd.testing.assert_frame_equal(pd.DataFrame(single), frame.drop(columns=list(summaries.LESION_METRICS)))


def test_rows_survive_a_csv(tmp_path):
    frame = rows(n_both=1, n_missed=1, n_empty=1)
    frame.to_csv(tmp_path / "cases.csv", index=False)
    again = pd.read_csv(tmp_path / "cases.csv")
    for policy in ("brats", "ignore"):
        expected = summaries.summarise(frame, policy=policy, n_resamples=200)
        pd.testing.assert_frame_equal(summaries.summarise(again, policy=policy, n_resamples=200), expected)


def test_errors_name_the_case():
    prediction, truth = random_pair(0)
    good = ("a", prediction, truth, SPACING_MM)
    with pytest.raises(ValueError, match=r"Case b: Classes must lie between 0 and 3 .*, received 4"):
        scoring.score_cases([good, ("b", np.where(prediction == 3, 4, prediction).astype(np.uint8), truth, SPACING_MM)])
    with pytest.raises(ValueError, match=r"Case b: Both must be \(x, y, z\) of one shape"):
        scoring.score_cases([good, ("b", prediction[1:], truth, SPACING_MM)])
    with pytest.raises(TypeError, match="Case b: prediction must hold uint8 classes, received float64"):
        scoring.score_cases([good, ("b", prediction.astype(float), truth, SPACING_MM)])
    with pytest.raises(ValueError, match=r"Each case must occur once, received \['a'\]"):
        scoring.score_cases([good, good])
    with pytest.raises(ValueError, match="At least one case"):
        scoring.score_cases([])


def test_a_score_that_is_lost_is_never_averaged_away():
    frame = rows(n_both=3)
    with pytest.raises(ValueError, match=r"policy must be one of .*, received 'brat'"):
        summaries.apply_empty_policy(frame, "brat")
    for column, lost in itertools.product(
        ("dice_NCR", "hd_WT", "volume_truth_ml_ED", "false_positive_voxels_ET"), (math.nan, math.inf)
    ):
        damaged = frame.copy()
        damaged.loc[1, column] = lost
        with pytest.raises(ValueError, match=rf"{column} must be finite for cases \['both1'\]"):
            summaries.summarise(damaged)


def test_scores_of_real_masks(real_data):
    """A real truth against itself, and shifted by two voxels of 1 mm: no distance can be larger than the shift."""
    from common.cohort import find_subjects

    truth = find_subjects(real_data / "brats").subjects[0].load_labels()
    perfect = scoring.score_case(truth, truth, spacing_mm=(1.0, 1.0, 1.0))
    shifted = scoring.score_case(np.roll(truth, 2, axis=0), truth, spacing_mm=(1.0, 1.0, 1.0))
    for name in scoring.MASKS:
        assert (perfect[f"dice_{name}"], perfect[f"hd_{name}"], perfect[f"surface_dice_{name}"]) == (1, 0, 1)
        assert 0 < shifted[f"hd95_{name}"] <= shifted[f"hd_{name}"] <= 2
        assert shifted[f"volume_truth_ml_{name}"] == shifted[f"volume_predicted_ml_{name}"] > 0


def test_lesions_are_scored_of_the_cases_that_are_asked_for():
    truth = np.zeros((24, 24, 24), np.uint8)
    truth[4:10, 4:10, 4:10] = 3
    cases = [(name, np.roll(truth, 1, axis=0), truth, (1, 1, 1)) for name in ("a", "a/view")]
    frame, lesions = scoring.score_cases(cases, lesions_of=lambda case: "/" not in case)
    every, _ = scoring.score_cases(cases)
    assert set(lesions["case"]) == {"a"}
    own, view = (frame[frame["case"] == name] for name in ("a", "a/view"))
    assert own[list(summaries.LESION_METRICS)].equals(every[every["case"] == "a"][list(summaries.LESION_METRICS)])
    assert view[list(summaries.LESION_METRICS)].isna().all(axis=None)
    with_lesions, without = (set(summaries.summarise(part, policy="brats")["metric"]) for part in (own, view))
    assert with_lesions - without == set(summaries.LESION_METRICS)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_resection_cavity_is_scored_as_a_mask_of_its_own(seed):
    rng = np.random.default_rng([seed, 4])
    prediction, truth = (rng.integers(0, 5, (6, 5, 7)).astype(np.uint8) for _ in range(2))
    row = scoring.score_case(prediction, truth, spacing_mm=SPACING_MM, cavity=True)
    for name, members in {"RC": [4], "WT": [1, 2, 3], "TC": [1, 3]}.items():  # RC is in no region
        pair = np.isin(prediction, members), np.isin(truth, members)
        assert row[f"dice_{name}"] == pytest.approx(metrics.dice(*pair))
        expected = metrics.hausdorff(*pair, spacing_mm=SPACING_MM, percentile=95)
        assert row[f"hd95_{name}"] == pytest.approx(expected)
        assert row[f"volume_truth_ml_{name}"] == pytest.approx(pair[1].sum() * VOXEL_ML)
    with pytest.raises(ValueError, match=r"between 0 and 3 \(background, NCR, ED, ET\), received 4"):
        scoring.score_case(prediction, truth, spacing_mm=SPACING_MM)
    frame, lesions = scoring.score_cases([("a", prediction, truth, SPACING_MM)], cavity=True)
    assert set(frame) - set(summaries.METRICS) == {
        "case",
        *(m for m in summaries.metrics_of(frame) if m.endswith("_RC")),
    }
    assert "RC" in set(lesions["region"])


def test_the_summary_has_the_cavity_where_it_was_scored_and_no_mean_has_it():
    nothing, cavity = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    cavity[2:6, 2:6, 2:6] = 4
    cases = [("found", cavity, cavity), ("missed", nothing, cavity), ("invented", cavity, nothing)]
    frame, _ = scoring.score_cases([(*case, (1, 1, 1)) for case in cases], cavity=True)
    assert summaries.masks_of(frame) == ("NCR", "ED", "ET", "TC", "WT", "RC")
    summary = summaries.summarise(frame, n_resamples=200).set_index("metric")
    assert tuple(summary.index) == summaries.metrics_of(frame)
    rc = summary.loc["dice_RC"]
    assert (rc["mean"], rc["n_missed"], rc["n_false"]) == (pytest.approx(1 / 3), 1, 1)
    assert summary.loc["hd95_RC", "mean"] == pytest.approx(2 * summaries.MISSED_HAUSDORFF_MM / 3)
    assert summary.loc["lesion_dice_brats2024_RC", "mean"] == pytest.approx(1 / 3)
    assert summary.loc["mean_dice", "mean"] == 1  # NCR, ED and ET are in neither
    assert (summaries.higher_is_better("hd95_RC"), summaries.higher_is_better("lesion_dice_brats2024_RC")) == (
        False,
        True,
    )
    with pytest.raises(ValueError, match="metric must be one of"):
        summaries.higher_is_better("dice_CC")

"""Predictions and truth in, one row of scores per case out, and the summary of a cohort.

Rows know no policy: a mask absent from prediction and truth has Dice, Hausdorff and surface Dice nan; absent from one
of them, Dice and surface Dice 0 and Hausdorff inf. :func:`apply_empty_policy` says what that is worth:

========  ==================================  =======================================================
policy    both empty                          one empty
========  ==================================  =======================================================
brats     Dice 1, Hausdorff 0                 Dice 0, Hausdorff ``MISSED_HAUSDORFF_MM``
ignore    the case leaves that mean           Dice 0, Hausdorff left out of its mean and counted
========  ==================================  =======================================================

Surface Dice follows Dice. ``mean_dice`` (NCR, ED, ET) and ``mean_dice_with_background`` are the means within a case
under the policy; under ``ignore`` they run over the classes that count, and a case without any leaves the mean.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.labels import CLASSES, REGIONS
from common.metrics import check_label_maps, crop_to_foreground, label_surface_distances, voxel_volume_ml
from common.statistics import bootstrap_interval

EmptyPolicy = Literal["brats", "ignore"]
MASKS = ("NCR", "ED", "ET", "TC", "WT")
MISSED_HAUSDORFF_MM = 373.13
"""The diagonal of 240 × 240 × 155 voxels at 1 mm, as the BraTS organisers charge for a missed or invented mask."""

MEMBERS: dict[str, tuple[int, ...]] = {
    name: REGIONS[name] if name in REGIONS else (CLASSES.index(name),) for name in MASKS
}
"""The classes that make up each mask."""

_MEANS = {"mean_dice": ("NCR", "ED", "ET"), "mean_dice_with_background": ("background", "NCR", "ED", "ET")}
_HIGHER_IS_BETTER = {"dice": True, "surface_dice": True, "hd": False, "hd95": False}
_FALSE_POSITIVES = "false_positive_voxels"
_VOLUMES = ("volume_truth_ml", "volume_predicted_ml")

METRICS = (
    *_MEANS,
    "dice_background",
    *(f"{stem}_{name}" for stem in (*_HIGHER_IS_BETTER, _FALSE_POSITIVES, *_VOLUMES) for name in MASKS),
)
"""Every metric of a summary, in its order."""


def score_case(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    surface_tolerance_mm: float = 1.0,
) -> dict[str, float]:
    """Every score of one case: dice_*, hd_*, hd95_* (mm), surface_dice_*, false_positive_voxels_* (in the prediction
    only), volume_truth_ml_*, volume_predicted_ml_*.

    prediction, truth: uint8 classes (x, y, z) on the same grid. ``*`` runs over MASKS; Dice also over background.
    Raises ValueError when the shapes differ, a class is not one of CLASSES or spacing_mm is not one positive number
    per axis; TypeError when a label map is not uint8.
    """
    check_label_maps(prediction, truth)
    voxel_ml = voxel_volume_ml(spacing_mm)
    n_voxels = truth.size
    prediction, truth = crop_to_foreground(prediction, truth)
    together = _count_pairs(prediction, truth)
    together[0, 0] += n_voxels - truth.size
    surfaces = label_surface_distances(prediction, truth, masks=MEMBERS, spacing_mm=spacing_mm)

    row = {"dice_background": _dice(together, (0,))}
    row |= {f"dice_{name}": _dice(together, members) for name, members in MEMBERS.items()}
    for name, distances in surfaces.items():
        absent = all(direction.size == 0 for direction in distances)
        row[f"hd_{name}"] = float("nan") if absent else distances.hausdorff()
        row[f"hd95_{name}"] = float("nan") if absent else distances.hausdorff(95)
        row[f"surface_dice_{name}"] = distances.surface_dice(surface_tolerance_mm)
    for name, members in MEMBERS.items():
        right = together[np.ix_(members, members)].sum()
        row[f"{_FALSE_POSITIVES}_{name}"] = float(together[members, :].sum() - right)
        row[f"volume_truth_ml_{name}"] = float(together[:, members].sum() * voxel_ml)
        row[f"volume_predicted_ml_{name}"] = float(together[members, :].sum() * voxel_ml)
    return row


def score_cases(
    cases: Iterable[tuple[str, np.ndarray, np.ndarray, Sequence[float]]],
    *,
    n_jobs: int = 1,
    surface_tolerance_mm: float = 1.0,
) -> pd.DataFrame:
    """:func:`score_case` of each (case, prediction, truth, spacing_mm): one row per case, in the order given.

    cases is consumed lazily, so a generator that loads its volumes keeps few of them in memory; n_jobs threads score.
    Raises ValueError when a case occurs twice, and what score_case raises with the case named.
    """
    rows = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(_row)(*case, surface_tolerance_mm) for case in cases)
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise ValueError("At least one case must be given to score, received none.")
    if frame["case"].duplicated().any():
        raise ValueError(
            f"Each case must occur once, received {sorted(frame['case'][frame['case'].duplicated()])} again."
        )
    return frame


def apply_empty_policy(cases: pd.DataFrame, policy: EmptyPolicy) -> pd.DataFrame:
    """The same rows with empty masks valued by the policy and the two mean-of-Dice columns added.

    cases: the frame of :func:`score_cases`; it is left as it is. nan in the result means: left out of that mean.
    Raises ValueError when the policy is unknown, a volume or a count of false positives is missing, or a score is nan
    or inf although its mask exists in both; the cases are named.
    """
    if policy not in get_args(EmptyPolicy):
        raise ValueError(f"policy must be one of {get_args(EmptyPolicy)}, received {policy!r}.")
    valued = cases.copy()
    for name in MASKS:
        in_truth, predicted = _presence(cases, name)
        _require_finite(cases, f"{_FALSE_POSITIVES}_{name}", np.ones(len(cases), bool))
        neither, one = ~in_truth & ~predicted, in_truth != predicted
        for metric, higher in _HIGHER_IS_BETTER.items():
            column = f"{metric}_{name}"
            _require_finite(cases, column, in_truth & predicted)
            best, worst = (1.0, 0.0) if higher else (0.0, MISSED_HAUSDORFF_MM)
            if policy == "ignore":
                best, worst = float("nan"), worst if higher else float("nan")
            valued.loc[neither, column] = best
            valued.loc[one, column] = worst
    if policy == "brats":
        valued["dice_background"] = valued["dice_background"].fillna(1.0)  # nan only if every voxel is tumour in both
    for column, names in _MEANS.items():
        valued[column] = valued[[f"dice_{name}" for name in names]].mean(axis=1)
    return valued


def summarise(
    cases: pd.DataFrame, *, policy: EmptyPolicy = "brats", seed: int = 0, n_resamples: int = 10_000
) -> pd.DataFrame:
    """One row per metric over the cohort.

    Columns: metric, mean, sd (n - 1), median, low and high (95 % bootstrap interval of the mean over cases, nan when
    n < 3), n (cases in the mean), n_empty (in neither truth nor prediction), n_missed (in the truth only), n_false
    (predicted only), n_left_out (nan under the policy: n + n_left_out is the number of cases), higher_is_better
    (None for volumes). For the two means of Dice the three counts are cases with at least one such class.
    """
    valued = apply_empty_policy(cases, policy)
    rows = []
    for metric in METRICS:
        values = valued[metric].dropna().to_numpy(float)
        counts = _absences(cases, metric)
        interval = bootstrap_interval(values, seed=seed, n_resamples=n_resamples)
        rows.append(
            {
                "metric": metric,
                "mean": float(values.mean()) if values.size else float("nan"),
                "sd": float(values.std(ddof=1)) if values.size > 1 else float("nan"),
                "median": float(np.median(values)) if values.size else float("nan"),
                "low": interval.low,
                "high": interval.high,
                "n": values.size,
                **counts,
                "n_left_out": len(cases) - values.size,
                "higher_is_better": higher_is_better(metric),
            }
        )
    return pd.DataFrame(rows).astype({"higher_is_better": object})


def higher_is_better(metric: str) -> bool | None:
    """Direction of a metric by its name, e.g. ``hd95_WT`` -> False; None for a volume, which has none.

    Raises ValueError when the name is not one that the summary has.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, received {metric!r}.")
    stem = metric.rpartition("_")[0]
    return metric in _MEANS or (_HIGHER_IS_BETTER | {_FALSE_POSITIVES: False}).get(stem)


def _row(
    case: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    surface_tolerance_mm: float,
) -> dict[str, str | float]:
    try:
        scores = score_case(prediction, truth, spacing_mm=spacing_mm, surface_tolerance_mm=surface_tolerance_mm)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Case {case}: {error}") from error
    return {"case": case} | scores


def _count_pairs(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Voxels per pair of classes (predicted, true)."""
    n = len(CLASSES)
    highest = max(int(prediction.max(initial=0)), int(truth.max(initial=0)))
    if highest >= n:
        raise ValueError(f"Classes must lie between 0 and {n - 1} ({', '.join(CLASSES)}), received {highest}.")
    return np.bincount((prediction * np.uint8(n) + truth).ravel(), minlength=n * n).reshape(n, n)


def _dice(together: np.ndarray, members: tuple[int, ...]) -> float:
    total = together[members, :].sum() + together[:, members].sum()
    return float(2 * together[np.ix_(members, members)].sum() / total) if total else float("nan")


def _presence(cases: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series]:
    """Per case, whether the mask has voxels in the truth and in the prediction."""
    columns = [f"{volume}_{name}" for volume in _VOLUMES]
    for column in columns:
        _require_finite(cases, column, np.ones(len(cases), bool))
    return cases[columns[0]] > 0, cases[columns[1]] > 0


def _require_finite(cases: pd.DataFrame, column: str, where: pd.Series | np.ndarray) -> None:
    lost = cases.loc[where & ~np.isfinite(cases[column]), "case"].tolist()
    if lost:
        raise ValueError(f"{column} must be finite for cases {lost}, received nan or inf.")


def _absences(cases: pd.DataFrame, metric: str) -> dict[str, int]:
    """Cases whose mask (for a mean of Dice: any of its masks) is absent from both, the prediction, or the truth."""
    names = _MEANS.get(metric, (metric.rpartition("_")[2],))
    absent = {kind: np.zeros(len(cases), bool) for kind in ("n_empty", "n_missed", "n_false")}
    for name in set(names) - {"background"}:
        in_truth, predicted = (present.to_numpy() for present in _presence(cases, name))
        absent["n_empty"] |= ~in_truth & ~predicted
        absent["n_missed"] |= in_truth & ~predicted
        absent["n_false"] |= ~in_truth & predicted
    return {kind: int(found.sum()) for kind, found in absent.items()}

"""What the scores of a cohort's cases come to: empty masks valued by a policy, means, intervals, counts.

========  ==================================  =======================================================
policy    both empty                          one empty
========  ==================================  =======================================================
brats     Dice 1, Hausdorff 0                 Dice 0, Hausdorff ``MISSED_HAUSDORFF_MM``
ignore    the case leaves that mean           Dice 0, Hausdorff left out of its mean and counted
========  ==================================  =======================================================

Surface Dice follows Dice. ``mean_dice`` (NCR, ED, ET) and ``mean_dice_with_background`` are the means within a case
under the policy; under ``ignore`` they run over the classes that count, and a case without any leaves the mean. RC is
part of no mean. The organisers' lesion-wise scores say themselves what an empty mask is worth: no policy changes them.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd

from common.lesions import DEFINITIONS
from common.scoring import CAVITY, MASKS
from common.statistics import bootstrap_interval

EmptyPolicy = Literal["brats", "ignore"]
MISSED_HAUSDORFF_MM = 373.13
"""The diagonal of 240 × 240 × 155 voxels at 1 mm, which no distance on BraTS's grid exceeds.

The organisers' programs charge other values, and per lesion: 374 mm (2023) and 337 mm (2024, post-treatment gliomas).
"""
PATIENT = "patient"
"""Column of cases whose patients may have several: whose each is. Without it each is a patient of its own."""
BY_PATIENT = "means are over scans, intervals and tests by patient"
"""What is said where patients have several."""

_MEANS = {"mean_dice": ("NCR", "ED", "ET"), "mean_dice_with_background": ("background", "NCR", "ED", "ET")}
_HIGHER_IS_BETTER = {"dice": True, "surface_dice": True, "hd": False, "hd95": False}
_FALSE_POSITIVES = "false_positive_voxels"
_VOLUMES = ("volume_truth_ml", "volume_predicted_ml")

_LESION_SCORES = {"dice": True, "hd95": False, "sensitivity": True, "tp": None, "fn": False, "fp": False}
"""Lesion-wise Dice and HD95 (mm), TP / (TP + FN), numbers of lesions found, missed and invented: higher is better?"""
_LESION_STEMS = {f"lesion_{score}_{name}": better for name in DEFINITIONS for score, better in _LESION_SCORES.items()}

_OF_MASKS = (*_HIGHER_IS_BETTER, _FALSE_POSITIVES, *_VOLUMES)


def _lesion_metrics(masks: Iterable[str]) -> tuple[str, ...]:
    masks = tuple(masks)
    return tuple(f"{stem}_{name}" for stem in _LESION_STEMS for name in masks)


def _metrics(masks: Iterable[str]) -> tuple[str, ...]:
    """Those of masks' voxels, in the order of a summary."""
    masks = tuple(masks)
    return (*_MEANS, "dice_background", *(f"{stem}_{name}" for stem in _OF_MASKS for name in masks))


LESION_METRICS = _lesion_metrics(MASKS)
METRICS = (*_metrics(MASKS), *LESION_METRICS)
"""Every metric of a summary, in its order, without those of RC."""


def with_patients(cases: pd.DataFrame, patients: Mapping[str, str]) -> pd.DataFrame:
    """The rows, with the column PATIENT where any patient of a cohort has several cases.

    patients: whose each case of the whole cohort is, so that all of its parts have the column or none.
    """
    if len(set(patients.values())) == len(patients):
        return cases
    whose = cases.assign(**{PATIENT: cases["case"].map(patients)})
    return whose[["case", PATIENT, *whose.columns.drop(["case", PATIENT])]]


def patients_of(cases: pd.DataFrame) -> np.ndarray | None:
    """Whose each case is, as :mod:`common.statistics` asks for it."""
    return cases[PATIENT].to_numpy(str) if PATIENT in cases else None


def apply_empty_policy(cases: pd.DataFrame, policy: EmptyPolicy) -> pd.DataFrame:
    """The same rows with empty masks valued by the policy and the two mean-of-Dice columns added.

    cases: the frame of :func:`score_cases`; it is left as it is. nan in the result means: left out of that mean.
    Raises ValueError when the policy is unknown, a volume or a count of false positives is missing, or a score is nan
    or inf although its mask exists in both; the cases are named.
    """
    if policy not in get_args(EmptyPolicy):
        raise ValueError(f"policy must be one of {get_args(EmptyPolicy)}, received {policy!r}.")
    valued = cases.copy()
    for name in masks_of(cases):
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
    for column in _lesion_metrics(masks_of(cases)) if has_lesions(cases) else ():
        _require_finite(cases, column, _is_defined(cases, column))
    if policy == "brats":
        valued["dice_background"] = valued["dice_background"].fillna(1.0)  # nan only if every voxel is tumour in both
    for column, names in _MEANS.items():
        valued[column] = valued[[f"dice_{name}" for name in names]].mean(axis=1)
    return valued


def summarise(
    cases: pd.DataFrame, *, policy: EmptyPolicy = "brats", seed: int = 0, n_resamples: int = 10_000
) -> pd.DataFrame:
    """One row per metric over the cohort.

    Columns: metric, mean, sd (n - 1), median, low and high (95 % bootstrap interval of the mean over cases, by patient
    where cases has PATIENT, nan when n < 3), n (cases in the mean), n_empty (in neither truth nor prediction), n_missed
    (in the truth only), n_false (predicted only), n_left_out (nan under the policy: n + n_left_out is the number of
    cases), higher_is_better (None for volumes and lesions found). For the two means of Dice the three counts are cases
    with at least one such class. Lesion-wise scores, which no policy changes, only where cases has them; the mean of
    lesion_fp is false positives per case.
    """
    valued = apply_empty_policy(cases, policy)
    rows = []
    for metric in metrics_of(cases):
        known = valued[valued[metric].notna()]
        values, counts = known[metric].to_numpy(float), _absences(cases, metric)
        interval = bootstrap_interval(values, seed=seed, patients=patients_of(known), n_resamples=n_resamples)
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


def masks_of(cases: pd.DataFrame) -> tuple[str, ...]:
    """MASKS, and RC where it was scored."""
    return (*MASKS, *(name for name in CAVITY if f"dice_{name}" in cases))


def metrics_of(cases: pd.DataFrame) -> tuple[str, ...]:
    """METRICS, with those of RC where it was scored; without the lesion-wise ones where none were."""
    masks = masks_of(cases)
    return _metrics(masks) + (_lesion_metrics(masks) if has_lesions(cases) else ())


def has_lesions(cases: pd.DataFrame) -> bool:
    """Whether the cases have lesion-wise scores; a view of the predictions has none beside those that do."""
    return bool(cases[[column for column in LESION_METRICS if column in cases]].notna().any(axis=None))


def higher_is_better(metric: str) -> bool | None:
    """Direction of a metric by its name, e.g. ``hd95_WT`` -> False; None for volumes and lesions found: they have none.

    Raises ValueError when the name is not one that the summary has.
    """
    if metric not in METRICS and metric not in _metrics(CAVITY) + _lesion_metrics(CAVITY):
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, received {metric!r}.")
    stem = metric.rpartition("_")[0]
    return metric in _MEANS or (_HIGHER_IS_BETTER | _LESION_STEMS | {_FALSE_POSITIVES: False}).get(stem)


def _is_defined(cases: pd.DataFrame, column: str) -> pd.Series:
    """Per case, whether a lesion-wise score has a value: sensitivity has none without lesions in the truth."""
    counts = [column.replace("_sensitivity_", f"_{count}_") for count in ("tp", "fn")]
    return (cases[counts].sum(axis=1) > 0) | ("_sensitivity_" not in column)


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

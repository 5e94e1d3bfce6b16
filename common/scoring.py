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

from collections.abc import Iterable
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
"""The diagonal of 240 × 240 × 155 voxels at 1 mm: what BraTS 2018-2021 charge for a missed or invented mask."""

_CLASS_MASKS = ("NCR", "ED", "ET")
_MEMBERS = {name: (index,) for index, name in enumerate(CLASSES) if index} | REGIONS
_MEMBERS = {name: _MEMBERS[name] for name in MASKS}
_MEANS = {"mean_dice": _CLASS_MASKS, "mean_dice_with_background": ("background", *_CLASS_MASKS)}
_DIRECTION = {"dice": True, "surface_dice": True, "mean_dice": True, "hd": False, "hd95": False}


def score_case(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float],
    surface_tolerance_mm: float = 1.0,
) -> dict[str, float]:
    """Every score of one case: dice_*, hd_*, hd95_* (mm), surface_dice_*, volume_truth_ml_*, volume_predicted_ml_*.

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
    surfaces = label_surface_distances(prediction, truth, masks=_MEMBERS, spacing_mm=spacing_mm)

    row = {"dice_background": _dice(together, (0,))}
    row |= {f"dice_{name}": _dice(together, members) for name, members in _MEMBERS.items()}
    for name, distances in surfaces.items():
        absent = all(direction.size == 0 for direction in distances)
        row[f"hd_{name}"] = float("nan") if absent else distances.hausdorff()
        row[f"hd95_{name}"] = float("nan") if absent else distances.hausdorff(95)
        row[f"surface_dice_{name}"] = distances.surface_dice(surface_tolerance_mm)
    for name, members in _MEMBERS.items():
        row[f"volume_truth_ml_{name}"] = float(together[:, members].sum() * voxel_ml)
        row[f"volume_predicted_ml_{name}"] = float(together[members, :].sum() * voxel_ml)
    return row


def score_cases(
    cases: Iterable[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float]]],
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
    Raises ValueError when the policy is unknown or a score is nan although its mask is present.
    """
    if policy not in get_args(EmptyPolicy):
        raise ValueError(f"policy must be one of {get_args(EmptyPolicy)}, received {policy!r}.")
    valued = cases.copy()
    for name in MASKS:
        in_truth, predicted = _presence(cases, name)
        neither, one = ~in_truth & ~predicted, in_truth != predicted
        for metric, both_empty, one_empty in (
            ("dice", 1.0, 0.0),
            ("surface_dice", 1.0, 0.0),
            ("hd", 0.0, MISSED_HAUSDORFF_MM),
            ("hd95", 0.0, MISSED_HAUSDORFF_MM),
        ):
            column = f"{metric}_{name}"
            lost = ~np.isfinite(cases[column]) & ~neither & ~one
            if lost.any():
                raise ValueError(
                    f"{column} must be finite where both masks exist, received {cases[lost]['case'].tolist()}."
                )
            if policy == "ignore":
                both_empty, one_empty = float("nan"), one_empty if _DIRECTION[metric] else float("nan")
            valued.loc[neither, column] = both_empty
            valued.loc[one, column] = one_empty
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
    for metric in _metrics():
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
    """Direction of a metric by its name, e.g. ``hd95_WT`` -> False; None for a volume, which has none."""
    if metric in _MEANS:
        return True
    stem = metric.rpartition("_")[0]
    return None if stem.startswith("volume_") else _DIRECTION[stem]


def _row(case: str, prediction: np.ndarray, truth: np.ndarray, spacing_mm, surface_tolerance_mm: float) -> dict:
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
    return cases[f"volume_truth_ml_{name}"] > 0, cases[f"volume_predicted_ml_{name}"] > 0


def _metrics() -> list[str]:
    names = [*_MEANS, "dice_background"]
    stems = ("dice", "hd", "hd95", "surface_dice", "volume_truth_ml", "volume_predicted_ml")
    return names + [f"{stem}_{name}" for stem in stems for name in MASKS]


def _absences(cases: pd.DataFrame, metric: str) -> dict[str, int]:
    names = _CLASS_MASKS if metric in _MEANS else (metric.rpartition("_")[2],)
    found = [_presence(cases, name) for name in names if name in MASKS]
    count = lambda rule: int(np.any([rule(*pair) for pair in found], axis=0).sum()) if found else 0  # noqa: E731
    return {
        "n_empty": count(lambda truth, predicted: ~truth & ~predicted),
        "n_missed": count(lambda truth, predicted: truth & ~predicted),
        "n_false": count(lambda truth, predicted: ~truth & predicted),
    }

"""Predictions and truth in, one row of scores per case out, and the summary of a cohort.

Rows know no policy: a mask absent from prediction and truth has Dice, Hausdorff and surface Dice nan; absent from one
of them, Dice and surface Dice 0 and Hausdorff inf. :func:`apply_empty_policy` says what that is worth:

========  ==================================  =======================================================
policy    both empty                          one empty
========  ==================================  =======================================================
brats     Dice 1, Hausdorff 0                 Dice 0, Hausdorff ``MISSED_HAUSDORFF_MM``
ignore    the case leaves that mean           Dice 0, Hausdorff left out of its mean and counted
========  ==================================  =======================================================

The resection cavity of masks made after treatment (RC) is a mask of its own where it is asked for (``cavity``); it is
part of no region and of no mean.

Surface Dice follows Dice. ``mean_dice`` (NCR, ED, ET) and ``mean_dice_with_background`` are the means within a case
under the policy; under ``ignore`` they run over the classes that count, and a case without any leaves the mean.

``hd95_*`` is not the BraTS organisers' HD95, and ``MISSED_HAUSDORFF_MM`` not what their programs charge. Their
lesion-wise scores stand beside ours as ``lesion_<score>_<definition>_<mask>`` (``lesion_dice_brats2023_ET``), by the
definitions of ``common.lesions``, which say themselves what an empty mask is worth: no policy changes them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.labels import CLASSES, CLASSES_WITH_CAVITY, RC, REGIONS
from common.lesions import DEFINITIONS, Lesion, LesionScores, lesion_scores
from common.metrics import (
    check_label_maps,
    crop_to_foreground,
    label_surface_distances,
    near_mm,
    voxel_volume_ml,
)
from common.statistics import bootstrap_interval

EmptyPolicy = Literal["brats", "ignore"]
MASKS = ("NCR", "ED", "ET", "TC", "WT")
MISSED_HAUSDORFF_MM = 373.13
"""The diagonal of 240 × 240 × 155 voxels at 1 mm, which no distance on BraTS's grid exceeds.

The organisers' programs charge other values, and per lesion: 374 mm (2023) and 337 mm (2024, post-treatment gliomas).
"""

MEMBERS: dict[str, tuple[int, ...]] = {
    name: REGIONS[name] if name in REGIONS else (CLASSES.index(name),) for name in MASKS
}
"""The classes that make up each mask."""
CAVITY: dict[str, tuple[int, ...]] = {RC: (CLASSES_WITH_CAVITY.index(RC),)}
"""The mask that comes on top where the resection cavity is scored."""

PATIENT = "patient"
"""Column of cases whose patients may have several: whose each is. Without it each is a patient of its own."""
BY_PATIENT = "means are over scans, intervals and tests by patient"
"""What is said where patients have several."""

_MEANS = {"mean_dice": ("NCR", "ED", "ET"), "mean_dice_with_background": ("background", "NCR", "ED", "ET")}
_HIGHER_IS_BETTER = {"dice": True, "surface_dice": True, "hd": False, "hd95": False}
_LOWEST_PERCENTILE = 95.0
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


class Scores(NamedTuple):
    """Scores of a cohort. cases: one row per case. lesions: one per lesion of the truth and per false positive.

    Columns of lesions: case, definition, region, and the fields of ``common.lesions.Lesion``.
    """

    cases: pd.DataFrame
    lesions: pd.DataFrame


def score_case(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    surface_tolerance_mm: float = 1.0,
    cavity: bool = False,
) -> dict[str, float]:
    """Every score of one case: dice_*, hd_*, hd95_* (mm), surface_dice_*, false_positive_voxels_* (in the prediction
    only), volume_truth_ml_*, volume_predicted_ml_*.

    prediction, truth: uint8 classes (x, y, z) on the same grid. ``*`` runs over MASKS, with cavity over RC too; Dice
    also over background. Raises ValueError when the shapes differ, a class is not one of CLASSES (with cavity of
    CLASSES_WITH_CAVITY) or spacing_mm is not one positive number per axis; TypeError when a label map is not uint8.
    """
    check_label_maps(prediction, truth)
    masks = MEMBERS | CAVITY if cavity else MEMBERS
    voxel_ml = voxel_volume_ml(spacing_mm)
    n_voxels = truth.size
    prediction, truth = crop_to_foreground(prediction, truth)
    together = _count_pairs(prediction, truth, CLASSES_WITH_CAVITY if cavity else CLASSES)
    together[0, 0] += n_voxels - truth.size
    lowest = _LOWEST_PERCENTILE if surface_tolerance_mm <= near_mm(spacing_mm) else 0.0
    surfaces = label_surface_distances(prediction, truth, masks=masks, spacing_mm=spacing_mm, from_percentile=lowest)

    row = {"dice_background": _dice(together, (0,))}
    row |= {f"dice_{name}": _dice(together, members) for name, members in masks.items()}
    for name, distances in surfaces.items():
        absent = all(direction.size == 0 for direction in distances)
        row[f"hd_{name}"] = float("nan") if absent else distances.hausdorff()
        row[f"hd95_{name}"] = float("nan") if absent else distances.hausdorff(_LOWEST_PERCENTILE)
        row[f"surface_dice_{name}"] = distances.surface_dice(surface_tolerance_mm)
    for name, members in masks.items():
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
    lesions_of: Callable[[str], bool] = lambda case: True,
    cavity: bool = False,
    on_scored: Callable[[str], object] = lambda case: None,
) -> Scores:
    """:func:`score_case` and the lesion-wise scores of each (case, prediction, truth, spacing_mm), in the order given.

    cases is consumed lazily, so a generator that loads its volumes keeps few of them in memory; n_jobs threads score.
    lesions_of: says by its name whether a case's lesions are scored, which takes longer than all the rest; the columns
    of the others are nan. cavity: RC is scored too. on_scored: is told of every case that is done.
    Raises ValueError when a case occurs twice, and what score_case raises with the case named.
    """
    jobs = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(_score)(*case, surface_tolerance_mm, lesions=lesions_of(case[0]), cavity=cavity) for case in cases
    )
    scored = []
    for each in jobs:
        scored.append(each)
        on_scored(str(each[0]["case"]))
    if not scored:
        raise ValueError("At least one case must be given to score, received none.")
    frame = pd.DataFrame([row for row, _ in scored])
    if frame["case"].duplicated().any():
        raise ValueError(
            f"Each case must occur once, received {sorted(frame['case'][frame['case'].duplicated()])} again."
        )
    lesions = [lesion for _, found in scored for lesion in found]
    return Scores(frame, pd.DataFrame(lesions, columns=["case", "definition", "region", *Lesion._fields]))


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


def _score(
    case: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    surface_tolerance_mm: float,
    *,
    lesions: bool,
    cavity: bool,
) -> tuple[dict[str, str | float], list[tuple[object, ...]]]:
    """A row of cases and the rows of its lesions."""
    try:
        row = score_case(
            prediction, truth, spacing_mm=spacing_mm, surface_tolerance_mm=surface_tolerance_mm, cavity=cavity
        )
        regions = (*MASKS, *CAVITY) if cavity else MASKS
        found = lesion_scores(prediction, truth, spacing_mm=spacing_mm, regions=regions) if lesions else {}
    except (TypeError, ValueError) as error:
        raise type(error)(f"Case {case}: {error}") from error
    for name, of_regions in found.items():
        for region, scores in of_regions.items():
            row |= {f"lesion_{key}_{name}_{region}": value for key, value in _lesion_row(scores).items()}
    rows: list[tuple[object, ...]] = [
        (case, name, region, *lesion)
        for name, of_regions in found.items()
        for region, scores in of_regions.items()
        for lesion in scores.lesions
    ]
    return {"case": case} | row, rows


def _lesion_row(scores: LesionScores) -> dict[str, float]:
    counts = {
        short: float(scores.count(state)) for short, state in (("tp", "found"), ("fn", "missed"), ("fp", "invented"))
    }
    return {"dice": scores.dice, "hd95": scores.hd95_mm, "sensitivity": scores.sensitivity} | counts


def _is_defined(cases: pd.DataFrame, column: str) -> pd.Series:
    """Per case, whether a lesion-wise score has a value: sensitivity has none without lesions in the truth."""
    counts = [column.replace("_sensitivity_", f"_{count}_") for count in ("tp", "fn")]
    return (cases[counts].sum(axis=1) > 0) | ("_sensitivity_" not in column)


def _count_pairs(prediction: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Voxels per pair of classes (predicted, true)."""
    n = len(classes)
    highest = max(int(prediction.max(initial=0)), int(truth.max(initial=0)))
    if highest >= n:
        raise ValueError(f"Classes must lie between 0 and {n - 1} ({', '.join(classes)}), received {highest}.")
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

"""Predictions and truth in, one row of scores per case out.

Rows know no policy: a mask absent from prediction and truth has Dice, Hausdorff and surface Dice nan; absent from one
of them, Dice and surface Dice 0 and Hausdorff inf. What that is worth, :mod:`common.summary` says.

The resection cavity of masks made after treatment (RC) is a mask of its own where it is asked for (``cavity``); it is
part of no region.

``hd95_*`` is not the BraTS organisers' HD95. Their lesion-wise scores stand beside ours as
``lesion_<score>_<definition>_<mask>`` (``lesion_dice_brats2023_ET``), by the definitions of ``common.lesions``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.labels import CLASSES, CLASSES_WITH_CAVITY, RC, REGIONS
from common.lesions import Lesion, LesionScores, lesion_scores
from common.metrics import (
    check_label_maps,
    crop_to_foreground,
    label_surface_distances,
    near_mm,
    voxel_volume_ml,
)

_LOWEST_PERCENTILE = 95.0
MASKS = ("NCR", "ED", "ET", "TC", "WT")
MEMBERS: dict[str, tuple[int, ...]] = {
    name: REGIONS[name] if name in REGIONS else (CLASSES.index(name),) for name in MASKS
}
"""The classes that make up each mask."""
CAVITY: dict[str, tuple[int, ...]] = {RC: (CLASSES_WITH_CAVITY.index(RC),)}
"""The mask that comes on top where the resection cavity is scored."""


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
        row[f"false_positive_voxels_{name}"] = float(together[members, :].sum() - right)
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

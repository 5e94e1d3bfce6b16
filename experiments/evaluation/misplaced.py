"""Label maps that are not what they should be: mirrored, moved, another case's, or nearly equal to another method's."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import nibabel as nib
import numpy as np
import pandas as pd

from common.words import listed
from experiments.evaluation.summary import NEARLY

LITTLE = 0.5
"""Dice of the whole tumour, below which a label map may be mirrored or another case's."""
GAIN = 0.3
"""Dice that it must gain otherwise for a note; a bad answer gains some by chance."""
WELL = 0.8
"""Dice below which a label map may be moved, and which it must reach where it should lie: large tumours keep most of
theirs in a shift by a few voxels."""
MOVED_GAIN = 0.2
"""Dice that it must gain there."""
APART_VOXELS = 2
"""By which shifts of one method may differ, axis by axis, and still be one: middles of answers are that exact."""
LOOKED_AT = 12
"""A method's label maps that are, those first that meet least."""
SLIGHTLY = 0.01
"""By which Dice and volumes of label maps may differ that are then compared voxel by voxel."""
ALONG = {"L": "left to right", "P": "front to back", "I": "top to bottom"}
TURNED = {"R": "L", "A": "P", "S": "I"}


def suspects(cases: pd.DataFrame) -> dict[str, list[str]]:
    """By method, the cases whose label map and truth both hold a tumour and do not meet well.

    cases: a row per method and case, as in cases.csv.
    """
    both = cases[np.isfinite(cases["hd95_WT"]) & (cases["dice_WT"] < WELL)].sort_values("dice_WT")
    return {str(method): list(rows["case"][:LOOKED_AT]) for method, rows in both.groupby("method", sort=False)}


def notes(
    method: str,
    predicted: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    affines: Mapping[str, np.ndarray],
) -> Iterator[str]:
    """What is said of a method's suspects.

    predicted, truths: by case the whole tumour (x, y, z), bool, on the truth's grid; affines: of these grids.
    """
    mirrored: dict[str, list[str]] = {}
    met: dict[str, tuple[float, float]] = {}
    shift, moved = _moved(predicted, truths)
    for case, own in predicted.items():
        read = _dice(own, truths[case])
        if read >= LITTLE:
            continue
        others = {other: truth for other, truth in truths.items() if other != case and truth.shape == own.shape}
        found = {f"the truth of {other}, exchanged with it?": _dice(own, truth) for other, truth in others.items()}
        turned = {_along(axes, affines[case]): _dice(np.flip(own, axes), truths[case]) for axes in _AXES}
        best = max(found | turned, key=(found | turned).get)
        gain = (found | turned)[best]
        if gain < max(read + GAIN, moved.get(case, (0.0, 0.0))[0]):
            continue
        met[case] = gain, read
        if best in turned:
            mirrored.setdefault(best, []).append(case)
        else:
            yield f"{method}: {case} meets {best}{_said(gain, read)}"
    for along, cases in mirrored.items():
        yield f"{method}: {listed(cases)} would meet the truth mirrored {along}{_said_of(cases, met)}"
    if cases := [case for case in moved if case not in met]:
        along = ", ".join(f"{voxels:+d}" for voxels in shift)
        yield (
            f"{method}: {listed(cases)} would meet the truth moved by ({along}) voxels along the axes of its "
            f"grid{_said_of(cases, moved)}: was a crop's offset lost?"
        )


def alike(cases: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """By pair of methods, the cases whose label maps have nearly the same scores and volumes, but not all the same: at
    most LOOKED_AT, which may be equal but for a few voxels. cases: as of :func:`suspects`."""
    names = [name for name in cases if name.startswith(("dice_", "volume_predicted_ml_"))]
    of = {str(method): rows.set_index("case")[names] for method, rows in cases.groupby("method", sort=False)}
    found = {}
    for one, other in itertools.combinations(of, 2):
        first, second = of[one], of[other].loc[of[one].index]
        near = np.isclose(first, second, rtol=SLIGHTLY, atol=SLIGHTLY, equal_nan=True).all(axis=1)
        equal = np.isclose(first, second, rtol=0, atol=0, equal_nan=True).all(axis=1)
        found[one, other] = list(first.index[near & ~equal][:LOOKED_AT])
    return found


def nearly_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two label maps (x, y, z) of one grid differ in fewer than NEARLY of their tumour's voxels."""
    return bool(np.count_nonzero(one != other) < NEARLY * np.count_nonzero(one | other))


def _moved(
    predicted: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, tuple[float, float]]]:
    """The shift in voxels that most label maps need, and at least two, and the Dice of these by case: with its own
    shift, by which the whole tumours' middles differ, and as it is read."""
    shifts, met = {}, {}
    for case, own in predicted.items():
        places, truth = np.argwhere(own), truths[case]
        shift = np.rint(np.argwhere(truth).mean(axis=0) - places.mean(axis=0)).astype(int)
        there = places + shift
        there = there[((there >= 0) & (there < truth.shape)).all(axis=1)]
        dice = float(2 * np.count_nonzero(truth[tuple(there.T)]) / (len(places) + np.count_nonzero(truth)))
        read = _dice(own, truth)
        if dice >= max(WELL, read + MOVED_GAIN):
            shifts[case], met[case] = shift, (dice, read)
    if not shifts:
        return np.zeros(3, int), {}
    middle = np.quantile(list(shifts.values()), 0.5, axis=0, method="lower")
    alike = [case for case, shift in shifts.items() if (np.abs(shift - middle) <= APART_VOXELS).all()]
    return middle, {case: met[case] for case in alike} if 2 <= len(alike) > len(predicted) / 2 else {}


_AXES = tuple(axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n))


def _along(axes: tuple[int, ...], affine: np.ndarray) -> str:
    codes = nib.aff2axcodes(affine)
    return " and ".join(ALONG[TURNED.get(codes[axis], codes[axis])] for axis in axes)


def _said_of(cases: Sequence[str], met: Mapping[str, tuple[float, float]]) -> str:
    return _said(*np.mean([met[case] for case in cases], axis=0))


def _said(found: float, read: float) -> str:
    return f" (Dice of the whole tumour {found:.2f} in place of {read:.2f})"


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other)))

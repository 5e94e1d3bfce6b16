"""Label maps that hardly meet their truth: those that would mirrored, and those that meet another case's."""

import itertools
from collections.abc import Iterator, Mapping

import nibabel as nib
import numpy as np
import pandas as pd

LITTLE = 0.5
"""Dice of the whole tumour, below which a label map is looked at."""
GAIN = 0.3
"""Dice that it must gain otherwise for a note; a bad answer gains some by chance."""
LOOKED_AT = 12
"""A method's label maps that are, those first that meet least."""
ALONG = {"L": "left to right", "P": "front to back", "I": "top to bottom"}
TURNED = {"R": "L", "A": "P", "S": "I"}


def suspects(cases: pd.DataFrame) -> dict[str, list[str]]:
    """By method, the cases whose label map and truth both hold a tumour and hardly meet.

    cases: a row per method and case, as in cases.csv.
    """
    both = cases[np.isfinite(cases["hd95_WT"]) & (cases["dice_WT"] < LITTLE)].sort_values("dice_WT")
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
    for case, own in predicted.items():
        read = _dice(own, truths[case])
        others = {other: truth for other, truth in truths.items() if other != case and truth.shape == own.shape}
        found = {
            f"meets the truth of {other}, exchanged with it?": _dice(own, truth) for other, truth in others.items()
        }
        for axes in _AXES:
            found[f"would meet its truth mirrored {_along(axes, affines[case])}"] = _dice(
                np.flip(own, axes), truths[case]
            )
        best = max(found, key=found.get)
        if found[best] >= read + GAIN:
            yield f"{method}: {case} {best} (Dice of the whole tumour {found[best]:.2f} in place of {read:.2f})"


_AXES = tuple(axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n))


def _along(axes: tuple[int, ...], affine: np.ndarray) -> str:
    codes = nib.aff2axcodes(affine)
    return " and ".join(ALONG[TURNED.get(codes[axis], codes[axis])] for axis in axes)


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other)))

"""From the probabilities of the nested regions ET, TC and WT, or of labels, to labels, and how that is decided.

What is kept of a prediction (thresholds, the smallest ET, the smallest part) is chosen on predictions of patients that
no network has been trained on, and stands beside the networks that it was chosen for: it does not carry over to others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from common.labels import CLASSES, REGIONS
from common.settings import check
from common.volumes import bounding_box

NCR, ED, ET = (CLASSES.index(name) for name in ("NCR", "ED", "ET"))
THRESHOLDS = tuple(round(0.3 + 0.05 * step, 2) for step in range(9))
SMALLEST_ET_ML = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
SMALLEST_PART_ML = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
MASKS = (*REGIONS.values(), (NCR,), (ED,))
LEAST_GAIN = 0.005
"""How much a choice must add to the mean Dice to be taken in place of the plainer one."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a voxel's probabilities, and of what is too small to be believed."""

    thresholds: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Of ET, TC and WT: what a probability must exceed."""
    smallest_et_ml: float = 0.0
    """A patient's ET of less than this in all becomes NCR, which holds what does not enhance."""
    smallest_part_ml: float = 0.0
    """Connected parts (faces, edges, corners) of the whole tumour of less than this become background."""

    def __post_init__(self) -> None:
        inside = len(self.thresholds) == len(REGIONS) and all(0 < each < 1 for each in self.thresholds)
        checks = ((inside, "thresholds", "three probabilities between 0 and 1"),)
        check(self, checks, not_negative=("smallest_et_ml", "smallest_part_ml"))


def decode_regions(probabilities: np.ndarray, decision: Decision, *, voxel_ml: float) -> np.ndarray:
    """Probabilities (ET/TC/WT, x, y, z) to classes uint8 (x, y, z).

    A voxel has the innermost region whose threshold its probability exceeds: one that is ET is so whatever it is
    given for TC and WT. What ET and TC enclose is TC as well (:func:`enclosed`): of experts' cores on 26 real patients
    at most 0.5 % is not, while a network may call the inside of a ring of ET oedema.
    """
    et, tc, wt = (p > threshold for p, threshold in zip(probabilities, decision.thresholds, strict=True))
    labels = np.zeros(probabilities.shape[1:], dtype=np.uint8)
    labels[wt], labels[tc] = ED, NCR
    core = bounding_box(tc | et)
    labels[core][enclosed((tc | et)[core])] = NCR
    if np.count_nonzero(et) * voxel_ml >= decision.smallest_et_ml:
        labels[et] = ET
    else:
        labels[et] = NCR
    if decision.smallest_part_ml:
        near = labels[bounding_box(labels != 0)]
        parts, _ = ndimage.label(near, structure=np.ones((3, 3, 3)))
        small = np.bincount(parts.ravel()) * voxel_ml < decision.smallest_part_ml
        near[small[parts]] = 0
    return labels


def enclosed(mask: np.ndarray) -> np.ndarray:
    """Voxels outside a bool mask (x, y, z) that it encloses in at least two of the three planes through each.

    Two, as a shell is often open somewhere, and a bend of it closes a ring in one plane by chance.
    """
    outside = np.pad(~mask, 1, constant_values=True)
    votes = np.zeros(outside.shape, dtype=np.uint8)
    for axis in range(3):
        within = ndimage.generate_binary_structure(3, 1)
        np.moveaxis(within, axis, 0)[[0, 2]] = False
        parts = np.moveaxis(ndimage.label(outside, within)[0], axis, 0)
        np.moveaxis(votes, axis, 0)[...] += (parts != 0) & (parts != parts[:, :1, :1])  # a plane's corner is open
    return (votes >= 2)[1:-1, 1:-1, 1:-1]


def decode_labels(probability: np.ndarray, threshold: float | None) -> np.ndarray:
    """(NCR/ED/ET, ...) to classes: the most probable label where its probability exceeds the threshold, else 0.

    threshold: None takes the background's probability, which a softmax's three labels leave: the argmax of all four.
    """
    labels = probability.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    labels[probability.max(axis=0) <= (1 - probability.sum(axis=0) if threshold is None else threshold)] = 0
    return labels


@dataclass(frozen=True)
class Case:
    """A patient as a network saw it that was not trained on it, cut to where there is anything to decide.

    probabilities: (ET/TC/WT, x, y, z) in whole 255ths, uint8. truth: classes uint8 (x, y, z).
    """

    probabilities: np.ndarray
    truth: np.ndarray
    voxel_ml: float

    @classmethod
    def of(cls, probabilities: np.ndarray, truth: np.ndarray, *, voxel_ml: float) -> "Case":
        """The case of float probabilities and a truth on the same grid."""
        whole = np.rint(probabilities * 255).astype(np.uint8)
        near = bounding_box((whole.max(axis=0) > 255 * THRESHOLDS[0]) | (truth != 0))
        return cls(whole[:, *near].copy(), truth[near].copy(), voxel_ml)

    def decoded(self, decision: Decision) -> np.ndarray:
        return decode_regions(self.probabilities / np.float32(255), decision, voxel_ml=self.voxel_ml)


def mean_dice(cases: Iterable[Case], decision: Decision) -> float:
    """Mean Dice over the cases and over ET, TC, WT, NCR and ED; a mask rightly empty counts 1."""
    scores = []
    for case in cases:
        labels = case.decoded(decision)
        for members in MASKS:
            predicted, truth = np.isin(labels, members), np.isin(case.truth, members)
            both = np.count_nonzero(predicted) + np.count_nonzero(truth)
            scores.append(2 * np.count_nonzero(predicted & truth) / both if both else 1.0)
    return float(np.mean(scores))


def choose(cases: Sequence[Case], unenhanced: Sequence[Case] = ()) -> Decision:
    """The decision with the best :func:`mean_dice` on the cases, found one part after the other, plainer ones first.

    Thresholds: of all three regions the same, then each of its own; then the smallest part and the smallest ET. A part
    of the decision moves only for a gain of LEAST_GAIN. Without cases it is the default.
    unenhanced: patients whose tumour does not enhance, on whom, and on the others, the smallest ET is chosen: where all
    patients enhance, nothing else says how much ET a network invents.
    """
    best = Decision()
    if cases:
        best = _better(best, (replace(best, thresholds=(each, each, each)) for each in THRESHOLDS), cases)
        for region in range(len(REGIONS)):
            offered = (replace(best, thresholds=_with(best.thresholds, region, each)) for each in THRESHOLDS)
            best = _better(best, offered, cases)
        best = _better(best, (replace(best, smallest_part_ml=each) for each in SMALLEST_PART_ML), cases)
        offered = (replace(best, smallest_et_ml=each) for each in SMALLEST_ET_ML)
        best = _better(best, offered, (*cases, *unenhanced))
    return best


def _better(best: Decision, offered: Iterable[Decision], cases: Sequence[Case]) -> Decision:
    scores = {decision: mean_dice(cases, decision) for decision in (best, *offered)}
    found = max(scores, key=scores.__getitem__)
    return found if scores[found] >= scores[best] + LEAST_GAIN else best


def _with(values: tuple[float, float, float], place: int, value: float) -> tuple[float, float, float]:
    first, second, third = (value if each == place else old for each, old in enumerate(values))
    return first, second, third

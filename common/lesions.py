"""Lesion-wise Dice and HD95 as the BraTS organisers' programs compute them, beside the scores of ``common.scoring``.

Two definitions, by name:

``brats2023`` (gliomas; the programs ``BraTS-2023-Metrics``). Each region alone. Voxels of the truth that one dilated
component holds are one lesion. Every component of the prediction that touches the dilated lesion matches it, whole, and
may match others too; Dice and HD95 compare the lesion, undilated, with the union of its matches. A component that
matches nothing is a false positive, of any size. Lesions up to the threshold leave the sums, found or missed, but what
matched them is no false positive. The score is the sum over lesions, divided by lesions and false positives; in HD95 a
missed lesion and a false positive are charged 374 mm.

``brats2024`` (gliomas after treatment; ``BraTS-2024-Metrics``). In addition, components of the prediction are merged
by dilation, and deleted up to the threshold, in voxels; lesions of one tissue (NCR, ED, ET, RC) become one where they
touch the same lesion of another, in truth and prediction; other thresholds, 337 mm charged.

Connectivity: components over 26 neighbours, dilation and touching over 18. HD95 is ``common.surfels``'s. A case with
neither lesions in the sums nor false positives has Dice 1 and HD95 0: the definitions say what an empty mask is worth,
and the empty-mask policies of ``common.summary`` do not apply. A lesion that touches several of another tissue goes
with the lowest-numbered one, numbers following the order of voxels, x slowest. NCR is called NETC and ED SNFH in 2024.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import scipy  # its parts when they are first used: a third of a second

from common import labels, surfels
from common.metrics import check_label_maps, checked_spacing, foreground_box

REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType({**labels.REGIONS, "NCR": (1,), "ED": (2,), "RC": (4,)})
"""The classes that make up each region; 4 is the resection cavity of post-treatment masks."""

_HIGHEST_CLASS = 4
_JOINED_BY = {"NCR": ("ET", "RC"), "ET": ("NCR", "RC"), "RC": ("ET", "NCR"), "ED": ("ET", "RC", "NCR")}
_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)
_MARGIN = 6  # voxels: the largest dilation, and one that stays background
_STEPS = [step for step in product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() < 3]  # to the 18 neighbours


@dataclass(frozen=True, kw_only=True)
class Definition:
    """The numbers in which the organisers' definitions differ. The mappings name regions that deviate."""

    name: str
    charged_mm: float
    """HD95 of a missed lesion and of a false positive."""
    dilation: int
    """Steps over 18 neighbours."""
    dilation_of: Mapping[str, int]
    threshold: float
    """Largest lesion that does not count, in mm³; of a prediction that is merged, largest one deleted, in voxels."""
    threshold_of: Mapping[str, float]
    merges: bool
    """Whether predictions are merged by dilation and tissues that touch the same lesion of another joined."""

    def reach(self, region: str) -> int:
        return self.dilation_of.get(region, self.dilation)

    def smallest(self, region: str) -> float:
        return self.threshold_of.get(region, self.threshold)


_EVERYWHERE: Mapping[str, int] = MappingProxyType({})
BRATS_2023 = Definition(
    name="brats2023",
    charged_mm=374,
    dilation=3,
    dilation_of=_EVERYWHERE,
    threshold=50,
    threshold_of=_EVERYWHERE,
    merges=False,
)
BRATS_2024 = Definition(
    name="brats2024",
    charged_mm=337,
    dilation=3,
    dilation_of=MappingProxyType({"NCR": 5, "RC": 5}),
    threshold=20,
    threshold_of=MappingProxyType({"ET": 10}),
    merges=True,
)
DEFINITIONS: Mapping[str, Definition] = MappingProxyType({each.name: each for each in (BRATS_2023, BRATS_2024)})


class Lesion(NamedTuple):
    """A lesion of the truth, found or missed, or one that the prediction invented (a false positive)."""

    state: Literal["found", "missed", "invented"]
    counted: bool
    """False: up to the definition's threshold, so left out of every sum."""
    volume_mm3: float
    dice: float
    hd95_mm: float


class LesionScores(NamedTuple):
    """Scores of one region of one case."""

    dice: float
    hd95_mm: float
    lesions: tuple[Lesion, ...]

    def count(self, state: str) -> int:
        """Lesions of a state, without those up to the threshold: found are TP, missed FN, invented FP."""
        return sum(lesion.state == state and lesion.counted for lesion in self.lesions)

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN); nan where the truth has no lesion that counts."""
        found, missed = self.count("found"), self.count("missed")
        return found / (found + missed) if found + missed else float("nan")


def lesion_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    definitions: Iterable[Definition] = tuple(DEFINITIONS.values()),
    regions: Iterable[str] = ("NCR", "ED", "ET", "TC", "WT"),
) -> dict[str, dict[str, LesionScores]]:
    """Definition's name -> region -> scores of one case.

    prediction, truth: uint8 classes 0 to 4 (x, y, z) on the same grid. regions: names of REGIONS.
    Raises ValueError when the shapes differ, a class is above 4, a region is not known or spacing_mm is not one
    positive number per axis; TypeError when a label map is not uint8.
    """
    check_label_maps(prediction, truth)
    spacing = checked_spacing(spacing_mm)
    regions = tuple(regions)
    if unknown := set(regions) - set(REGIONS):
        raise ValueError(f"regions must be of {', '.join(REGIONS)}, received {', '.join(sorted(unknown))}.")
    if (highest := max(int(each.max(initial=0)) for each in (prediction, truth))) > _HIGHEST_CLASS:
        raise ValueError(f"Classes must lie between 0 and {_HIGHEST_CLASS}, received {highest}.")
    box = foreground_box(prediction, truth)
    scan = tuple(
        slice(_MARGIN - min(_MARGIN, part.start), _MARGIN + part.stop - part.start + min(_MARGIN, size - part.stop))
        for part, size in zip(box, truth.shape, strict=True)
    )
    maps = [_Map(np.pad(each[box], _MARGIN), scan) for each in (prediction, truth)]
    case = _Case(maps[0], maps[1], spacing.tolist())
    found = {
        definition.name: {region: case.scores(region, definition) for region in regions} for definition in definitions
    }
    # A cache of a bound method refers to its own object: the arrays would wait for the collector of cycles, which
    # counts objects and not their size, and a cohort's would take gigabytes.
    for each in (case.prediction, case.truth, case):
        vars(each).clear()
    return found


class _Map:
    """A label map's regions and their components, each computed once.

    classes: cut to what matters, with _MARGIN voxels of background around. scan: the part of it that lies in the scan.
    """

    def __init__(self, classes: np.ndarray, scan: tuple[slice, ...]) -> None:
        self.classes, self.scan = classes, scan
        self.mask = cache(self._mask)
        self.components = cache(self._components)

    def _mask(self, region: str) -> np.ndarray:
        members = np.zeros(_HIGHEST_CLASS + 1, bool)
        members[list(REGIONS[region])] = True
        return members[self.classes]

    def _components(self, region: str, reach: int) -> np.ndarray:
        """Components of the dilated region, numbered from 1 in the order of their first voxels in the scan."""
        components = np.zeros(self.classes.shape, np.int32)
        components[self.scan] = scipy.ndimage.label(_dilated(self.mask(region), reach)[self.scan], _ALL_NEIGHBOURS)[0]
        return components

    def sizes(self, region: str, reach: int) -> np.ndarray:
        """Voxels of the undilated region in each component; entry 0 is no component."""
        return np.bincount(self.components(region, reach)[self.mask(region)], minlength=1)

    def merged(self, region: str, definition: Definition, *, delete: bool) -> np.ndarray:
        """Component of the dilated region -> its lesion under a definition that merges; 0 where it is deleted."""
        lesions = self._kept(region, definition, delete)
        for other in _JOINED_BY.get(region, ()):
            if np.count_nonzero(np.unique(lesions)) > 1:
                neighbours = self._kept(other, definition, delete)
                pairs = self._touching(region, other, definition)
                both = [(own, int(neighbours[theirs])) for own, theirs in pairs if lesions[own] and neighbours[theirs]]
                lesions = _joined(lesions, both)
        return lesions

    def _kept(self, region: str, definition: Definition, delete: bool) -> np.ndarray:
        sizes = self.sizes(region, definition.reach(region))
        return np.where(sizes > (definition.smallest(region) if delete else 0), np.arange(sizes.size), 0)

    def _touching(self, region: str, other: str, definition: Definition) -> list[tuple[int, int]]:
        """Components of two regions, dilated, of which a voxel of the one region has a voxel of the other beside it."""
        own, theirs = (self.components(name, definition.reach(name)).ravel() for name in (region, other))
        there = self.mask(other)
        where = np.flatnonzero(self.mask(region))
        found = set()
        for step in _STEPS:
            beside = where + int(np.dot(step, there.strides))
            both = there.ravel()[beside]
            found |= set(_pairs(own[where[both]], theirs[beside[both]])[0])
        return sorted(found)


class _Case:
    """Truth and prediction of one case."""

    def __init__(self, prediction: _Map, truth: _Map, spacing_mm: list[float]) -> None:
        self.prediction, self.truth, self.spacing_mm = prediction, truth, spacing_mm
        self.overlap = cache(self._overlap)
        self.boxes = cache(lambda which, region, reach: scipy.ndimage.find_objects(which.components(region, reach)))
        self.hd95 = cache(self._hd95)

    def scores(self, region: str, definition: Definition) -> LesionScores:
        """Scores of one region under one definition."""
        reach = definition.reach(region)
        volumes = self.truth.sizes(region, reach)
        sizes = self.prediction.sizes(region, 0)
        lesion_of, part_of = np.arange(volumes.size), np.arange(sizes.size)
        if definition.merges:
            lesion_of = self.truth.merged(region, definition, delete=False)
            part_of = self._merged_parts(region, definition)
        touching, pairs, shared = self.overlap(region, reach)
        matches: dict[int, set[int]] = {lesion: set() for lesion in np.unique(lesion_of[1:]).tolist()}
        for component, part in touching:
            matches[int(lesion_of[component])] |= {int(part_of[part])} - {0}
        lesions = []
        voxel = self.spacing_mm
        for lesion, matched in matches.items():
            own, theirs = lesion_of == lesion, np.isin(part_of, list(matched))
            volume = float(volumes[own].sum()) * voxel[0] * voxel[1] * voxel[2]
            counted = volume > definition.smallest(region)
            if matched:
                common = sum(n for (a, b), n in zip(pairs, shared, strict=True) if own[a] and theirs[b])
                dice = 2 * common / float(volumes[own].sum() + sizes[theirs].sum())
                chosen = (tuple(np.flatnonzero(each).tolist()) for each in (own, theirs))
                lesions.append(Lesion("found", counted, volume, dice, self.hd95(region, reach, *chosen)))
            else:
                lesions.append(Lesion("missed", counted, volume, 0.0, float(definition.charged_mm)))
        for part in sorted(set(part_of[1:].tolist()) - {0}.union(*matches.values())):
            volume = float(sizes[part_of == part].sum()) * voxel[0] * voxel[1] * voxel[2]
            lesions.append(Lesion("invented", True, volume, 0.0, float(definition.charged_mm)))
        summed = [lesion for lesion in lesions if lesion.counted]
        if not summed:
            return LesionScores(1.0, 0.0, tuple(lesions))
        dice, hd95_mm = (sum(getattr(each, name) for each in summed) / len(summed) for name in ("dice", "hd95_mm"))
        return LesionScores(dice, hd95_mm, tuple(lesions))

    def _merged_parts(self, region: str, definition: Definition) -> np.ndarray:
        """Component of the prediction -> the merged lesion to which it belongs, 0 where that is deleted."""
        dilated = self.prediction.components(region, definition.reach(region))
        components = self.prediction.components(region, 0)
        parts = np.zeros(self.prediction.sizes(region, 0).size, int)
        mask = self.prediction.mask(region)
        parts[components[mask]] = self.prediction.merged(region, definition, delete=True)[dilated[mask]]
        return parts

    def _overlap(self, region: str, reach: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[int]]:
        """Pairs of a dilated component of the truth and a component of the prediction that it reaches; those pairs that
        have voxels of the truth itself in common, and how many."""
        dilated, components = self.truth.components(region, reach), self.prediction.components(region, 0)
        near = self.prediction.mask(region) & (dilated > 0)
        both = self.prediction.mask(region) & self.truth.mask(region)
        return _pairs(dilated[near], components[near])[0], *_pairs(dilated[both], components[both])

    def _hd95(self, region: str, reach: int, own: tuple[int, ...], theirs: tuple[int, ...]) -> float:
        """HD95 in mm between some of the truth's components, undilated, and some of the prediction's."""
        boxes = [self.boxes(self.truth, region, reach)[each - 1] for each in own]
        boxes += [self.boxes(self.prediction, region, 0)[each - 1] for each in theirs]
        box = tuple(
            slice(min(each.start for each in axis), max(each.stop for each in axis))
            for axis in zip(*boxes, strict=True)
        )
        truth = np.isin(self.truth.components(region, reach)[box], own) & self.truth.mask(region)[box]
        prediction = np.isin(self.prediction.components(region, 0)[box], theirs)
        return surfels.hausdorff(prediction, truth, spacing_mm=self.spacing_mm, percentile=95)


def _dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask grown by so many steps over 18 neighbours, which are the three planes through a voxel.

    A row's end runs into the next one's start, harmlessly while the outermost voxels are background.
    """
    for _ in range(steps):
        x, y = _thickened(mask, 0), _thickened(mask, 1)
        mask = _thickened(x, 1) | _thickened(x, 2) | _thickened(y, 2)
    return mask


def _thickened(mask: np.ndarray, axis: int) -> np.ndarray:
    thick = mask.copy()
    step = mask.strides[axis]
    thick.ravel()[step:] |= mask.ravel()[:-step]
    thick.ravel()[:-step] |= mask.ravel()[step:]
    return thick


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[list[tuple[int, int]], list[int]]:
    """Distinct pairs of two arrays' numbers, and how often each occurs."""
    base = int(second.max(initial=0)) + 1
    found, counts = np.unique(first.astype(np.int64) * base + second, return_counts=True)
    return list(zip((found // base).tolist(), (found % base).tolist(), strict=True)), counts.tolist()


def _joined(lesions: np.ndarray, touching: Iterable[tuple[int, int]]) -> np.ndarray:
    """The lesions again, those made one of which the lowest-numbered neighbour is the same lesion.

    lesions: component -> lesion. touching: (component, neighbouring lesion).
    """
    lowest: dict[int, int] = {}
    for component, neighbour in touching:
        lesion = int(lesions[component])
        lowest[lesion] = min(neighbour, lowest.get(lesion, neighbour))
    first: dict[int, int] = {}
    joined = lesions.copy()
    for lesion, neighbour in sorted(lowest.items()):
        joined[lesions == lesion] = first.setdefault(neighbour, lesion)
    return joined

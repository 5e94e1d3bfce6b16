"""Label conventions of brain-tumour masks and the one used inside: 0 background, 1 NCR, 2 ED, 3 ET, 4 RC.

RC, the resection cavity, is in masks made after treatment only (BraTS 2024). It is part of no region, and no network
here knows it; scores do.

The same numbers mean different tissue in different releases (1 is NCR in BraTS and ED in the Medical Segmentation
Decathlon), so a mask is only read under a convention that the file names, a dataset.json or the user settles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

CLASSES = ("background", "NCR", "ED", "ET")
"""What networks tell apart."""
RC = "RC"
CLASSES_WITH_CAVITY = (*CLASSES, RC)
Cavity = Literal["background", "leave-out"]
"""What becomes of the resection cavity where RC cannot be a class: background, or subjects with one take no part."""
REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType({"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)})
ROUNDING = 0.01
"""How far a mask's value may lie from a whole number: 8 bits scaled to 0..4 leave 0.008, interpolation any distance."""
READ_OTHERWISE = "could be read as"
"""What errors say before the known conventions that allow a mask's values."""
_UNKNOWN = 255
_IGNORE = "ignore"
"""nnU-Net's name for a value that is of no class."""
_OTHERS = (
    "BraTS-PED 2024 has 1 ET, 2 NET, 3 CC, 4 ED (2023 other values), BraTS-MEN-RT 1 for the whole target, and scans "
    "after treatment (BraTS 2024) 4 for the resection cavity, RC"
)


@dataclass(frozen=True)
class LabelConvention:
    """The values that NCR, ED and ET, and where masks have it RC, have in a mask; background is always 0.

    rc_is_background: RC is read as background. ignored: value of voxels that nobody has judged (nnU-Net's "ignore"),
    which are of no class. Raises ValueError unless the values are distinct whole numbers from 1 to 254.
    """

    name: str
    ncr: int
    ed: int
    et: int
    rc: int | None = None
    rc_is_background: bool = False
    ignored: int | None = None

    def __post_init__(self) -> None:
        values, names = self.values[1:], ", ".join(self.classes[1:])
        if self.ignored is not None:
            values, names = (*values, self.ignored), f"{names}, {_IGNORE}"
        if not all(type(v) is int and 0 < v < _UNKNOWN for v in values) or len(set(values)) < len(values):
            raise ValueError(f"{self.name}: {names} need distinct whole numbers from 1 to 254, received {values}")

    def __str__(self) -> str:
        by_value = sorted(zip(self.values[1:], self.classes[1:], strict=True))
        named = ", ".join(f"{value} {name}" for value, name in by_value)
        return f"{self.name} ({named}{', which is read as background' if self.rc_is_background else ''})"

    @property
    def values(self) -> tuple[int, ...]:
        """Mask values in the order of :attr:`classes`."""
        return (0, self.ncr, self.ed, self.et) + (() if self.rc is None else (self.rc,))

    @property
    def classes(self) -> tuple[str, ...]:
        """CLASSES, and RC where masks have it."""
        return CLASSES if self.rc is None else CLASSES_WITH_CAVITY

    @property
    def has_cavity(self) -> bool:
        """Whether masks may give class RC."""
        return self.rc is not None and not self.rc_is_background

    @property
    def reading(self) -> tuple[int | str, ...]:
        """What makes the same classes of the same mask: the values, and that RC is none."""
        return (*self.values, "RC is background") if self.rc_is_background else self.values

    def to_classes(self, mask: np.ndarray) -> np.ndarray:
        """Classes, indices of :attr:`classes` (uint8, any shape), of a mask of whole numbers, stored as integers or, to
        within ROUNDING, as floats.

        Raises ValueError naming the values that this convention lacks and the conventions that have them.
        """
        if mask.dtype.kind == "f":
            mask = _rounded(mask)
        small = mask.astype(np.uint8, copy=False) if mask.dtype.kind in "bui" else _whole_numbers(mask)
        # Comparing bytes is several times faster than looking every voxel up. A value that is none of ours stays 0.
        classes = np.zeros_like(small)
        for index, value in enumerate(self.values[1:], start=1):
            share = (small == value).view(np.uint8)
            share *= np.uint8(index)
            classes += share
        known = np.count_nonzero(classes) == np.count_nonzero(small)
        if not known or (mask.dtype.itemsize > 1 and not np.array_equal(small, mask)):
            found = np.unique(mask)
            unknown = [_plain(v) for v in found if v not in self.values]
            if unknown == [self.ignored]:
                raise ValueError(
                    f"{np.count_nonzero(mask == self.ignored)} voxels have the value {self.ignored}, which is named "
                    f"{_IGNORE}: nobody has said of which class they are, and neither training nor scores pass over "
                    "voxels; give them the values of their classes, or leave the subject out"
                )
            raise ValueError(
                f"mask values {_shorten(unknown)} are not in {self}; "
                f"the mask as a whole holds {_shorten([_plain(v) for v in found])}, which {_readings(found)}"
            )
        if self.rc_is_background:
            classes[classes == CLASSES_WITH_CAVITY.index(RC)] = 0
        return classes

    def from_classes(self, labels: np.ndarray) -> np.ndarray:
        """Mask values (uint8) of whole-number classes, any shape. Raises ValueError for what is no class here."""
        if labels.dtype.kind not in "iu":
            raise ValueError(f"expected classes of an integer type, found {labels.dtype}")
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.values)):
            raise ValueError(f"expected classes 0 to {len(self.values) - 1}, found {labels.min()} to {labels.max()}")
        return np.array(self.values, np.uint8)[labels]


BRATS_2018 = LabelConvention("brats2018", ncr=1, ed=2, et=4)
BRATS_2023 = LabelConvention("brats2023", ncr=1, ed=2, et=3)
MSD = LabelConvention("msd", ncr=2, ed=1, et=3)
BRATS_2024 = LabelConvention("brats2024", ncr=1, ed=2, et=3, rc=4)
CONVENTIONS: Mapping[str, LabelConvention] = MappingProxyType(
    {c.name: c for c in (BRATS_2018, BRATS_2023, MSD, BRATS_2024)}
)
# What the file names of a release promise; MSD and nnU-Net folders need their dataset.json.
BY_FILE_NAMES: Mapping[str, LabelConvention] = MappingProxyType(
    {"UCSF-PDGM": BRATS_2018, "UPENN-GBM": BRATS_2018, "BraTS 2018-2021": BRATS_2018, "BraTS 2023": BRATS_2023}
)
# Since 2023 the file names are shared by collections whose ids tell which one it is, and with which values.
_COLLECTION = re.compile(r"BraTS-([A-Z]+(?:-RT)?)-\d+(?:-(\d+))?", re.IGNORECASE)
_TUMOURS = MappingProxyType(
    {
        "GLI": "glioma",
        "SSA": "Sub-Saharan Africa",
        "MEN": "meningioma, whose classes have the same values",
        "MET": "metastases, whose classes have the same values",
    }
)
_POST_TREATMENT = 100  # BraTS 2024: time points from here on are after treatment, with 4 for the resection cavity


def convention_of_id(layout: str, name: str) -> tuple[LabelConvention, str]:
    """Convention of a mask from its subject's id, and what the id says of the data.

    layout: one of BY_FILE_NAMES. Raises ValueError saying why where file names and id do not settle it.
    """
    match = _COLLECTION.match(name)
    if match is None and layout != "BraTS 2023":
        return BY_FILE_NAMES[layout], layout
    if match is None:
        raise ValueError(
            f"ids like {name} do not say which collection they are of: file names of BraTS 2023 are shared by adult "
            f"masks, {BRATS_2023}, and others, {_OTHERS}"
        )
    collection, time_point = match[1].upper(), match[2]
    if collection not in _TUMOURS:
        raise ValueError(f"masks of BraTS-{collection} need not have the values of {BRATS_2023}: {_OTHERS}")
    if layout != "BraTS 2023":
        raise ValueError(
            f"ids like {name} are of BraTS 2023, {BRATS_2023}, and the file names of {layout}, {BY_FILE_NAMES[layout]}"
        )
    if collection == "GLI" and int(time_point or 0) >= _POST_TREATMENT:
        return BRATS_2024, "BraTS-GLI after treatment, in which 4 is the resection cavity (RC)"
    return BRATS_2023, f"BraTS-{collection} ({_TUMOURS[collection]})"


def infer_convention(layout: str, values: Iterable[int] = (), *, names: object = None) -> LabelConvention:
    """Convention of a cohort from its layout, the values seen in its masks and the `labels` of its dataset.json.

    layout: a layout's name as in `common.cohort`. values: of one mask, or the union over a cohort; may be empty.
    Raises ValueError naming every possible reading when the three together do not settle it.
    """
    seen = set(values) - {0}
    convention = convention_from_names(names) if names is not None else BY_FILE_NAMES.get(layout)
    if {3, 4} <= seen and (convention is None or convention.rc is None):
        raise ValueError(f"mask values {sorted(seen)} hold both 3 and 4, which {_readings(seen)}")
    if convention is None:
        raise ValueError(f"{layout} folder without labels in a dataset.json: its mask values {_readings(seen or {3})}")
    if unknown := sorted(seen - set(convention.values)):
        raise ValueError(f"mask values {unknown} are not in {convention}; {sorted(seen)} {_readings(seen)}")
    return convention


def convention_from_names(names: object) -> LabelConvention:
    """Convention from the `labels` of a dataset.json.

    names: {"1": "edema", ...} (MSD), {"edema": 1, ...} (nnU-Net) or regions {"whole tumor": [1, 2, 3], ...} (nnU-Net).
    `regions_class_order` is not needed: a mask stores the labels that the regions are made of.
    RC may be among them, and nnU-Net's "ignore". Raises ValueError when a name is not known, is not one class, or a
    class is missing, or these are no names and values at all.
    """
    if not isinstance(names, Mapping):
        raise ValueError(f'expected labels as an object of names and values, {{"NCR": 1, ...}}, found {names!r:.100}')
    by_name = {str(v): int(k) for k, v in names.items()} if all(str(k).isdecimal() for k in names) else dict(names)
    sets: dict[str, frozenset[int]] = {}
    for name, value in by_name.items():
        meaning = _meaning(name)
        if meaning in sets:
            raise ValueError(f"two labels mean {meaning} in {dict(names)}")
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        if not all(type(v) is int for v in values):
            raise ValueError(f"expected whole numbers as the values of {name!r}, found {value!r}")
        sets[meaning] = frozenset(values)
    if sets.pop("background", frozenset([0])) != {0}:
        raise ValueError(f"expected background to be 0, found {dict(names)}")
    if set(sets) - {RC, _IGNORE} == {"WT", "TC", "ET"}:
        if not sets["ET"] < sets["TC"] < sets["WT"]:
            raise ValueError(f"expected the regions ET, TC and WT to lie inside one another, found {dict(names)}")
        whole, core = sets.pop("WT"), sets.pop("TC")
        sets |= {"NCR": core - sets["ET"], "ED": whole - core}
    if not set(CLASSES[1:]) <= set(sets) <= {*CLASSES[1:], RC, _IGNORE} or any(len(s) != 1 for s in sets.values()):
        raise ValueError(
            "expected one label each for NCR, ED and ET (or the regions WT, TC and ET), and at most one for RC and for "
            f"{_IGNORE}, found {dict(names)}"
        )
    by_class: dict[str, Any] = {name: next(iter(values)) for name, values in sets.items()}
    ignored = by_class.pop(_IGNORE, None)
    named = LabelConvention("dataset.json", **{name.lower(): value for name, value in by_class.items()})
    return replace({c.values: c for c in CONVENTIONS.values()}.get(named.values, named), ignored=ignored)


def _meaning(name: str) -> str:
    """The class or region that a label's name stands for. Raises ValueError unless there is exactly one."""
    text = re.sub(r"[^a-z0-9]+", " ", name.lower())
    words = set(text.split())
    # "non-enhancing" must not count as "enhancing", nor BraTS 2023's name of oedema, "surrounding non-enhancing
    # FLAIR hyperintensity", as the non-enhancing core.
    oedema = bool(re.search(r"edema|peritumou?ral|hyperintens", text) or words & {"ed", "snfh"})
    non_enhancing = bool(re.search(r"non ?enh|unenh", text))
    necrotic = bool("necro" in text or words & {"ncr", "net", "netc"} or (non_enhancing and not oedema))
    enhancing = bool(re.search(r"enhanc", re.sub(r"non ?enh\w*|unenh\w*", "", text)) or "et" in words)
    found = [
        meaning
        for meaning, holds in (
            ("background", "background" in words),
            ("NCR", necrotic),
            ("ED", oedema),
            ("ET", enhancing),
            ("WT", "whole" in words or "wt" in words),
            ("TC", ("core" in words or "tc" in words) and not (necrotic or enhancing)),
            (RC, "cavity" in words or "rc" in words),
            (_IGNORE, _IGNORE in words),
        )
        if holds
    ]
    if len(found) != 1:
        known = f"background, NCR, ED, ET, WT, TC, RC or {_IGNORE}"
        what = f"could mean {' or '.join(found)}" if found else f"is not a known name of {known}"
        raise ValueError(f"label name {name!r} {what}")
    return found[0]


def _rounded(mask: np.ndarray) -> np.ndarray:
    """Whole numbers where all values are that but for rounding, as in a file that stores them scaled; else the mask."""
    with np.errstate(invalid="ignore"):  # infinities and NaN have no distance from themselves
        whole = np.rint(mask)
        return whole if (np.abs(mask - whole) <= ROUNDING).all() else mask


def _whole_numbers(mask: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN and infinities turn into some number, which then differs from the mask
        return mask.astype(np.uint8)


def _readings(found: Iterable[float]) -> str:
    """Which known conventions allow a set of mask values, as the end of an error's sentence."""
    found = set(found)
    # A mask without the value of RC says nothing for the one convention that has it.
    fitting = [str(c) for c in CONVENTIONS.values() if found <= set(c.values) and c.rc in (None, *found)]
    others = f"; {_OTHERS}" if 4 in found else ""
    if not fitting:
        return f"no known convention allows ({'; '.join(map(str, CONVENTIONS.values()))}){others}"
    settled = "name the convention that is meant (--convention, or labels of a mapping file)"
    return f"{READ_OTHERWISE} {' or '.join(fitting)}: {settled}{others}"


def _plain(value: np.generic) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _shorten(values: list[int | float], limit: int = 8) -> str:
    return str(values) if len(values) <= limit else f"{str(values[:limit])[:-1]}, ... {len(values)} in all]"

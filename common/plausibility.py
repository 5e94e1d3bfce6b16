"""Whether a cohort's masks look like gliomas: oedema outside, enhancing tumour around the necrotic core.

Numbers that mean other tissue than they are read as (another release, children's tumours, a wrong convention) turn this
inside out, in most masks at once, where a single glioma may well have another shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from common.labels import CLASSES
from common.volumes import bounding_box

MINIMUM_MASKS = 3
_BACKGROUND, _NCR, _ED, _ET = range(len(CLASSES))


@dataclass(frozen=True)
class Layers:
    """Of one mask. outermost: the class with most of the tumour's surface; core: with most of the core's, NCR or ET.

    None where the mask lacks a class that could be there: all three for outermost, NCR and ET for core.
    """

    outermost: str | None
    core: str | None


def layers(labels: np.ndarray) -> Layers:
    """How the classes (x, y, z) lie in each other, by the faces between voxels of different classes.

    The resection cavity counts as background, of which it holds fluid or air.
    """
    labels = np.where(labels < len(CLASSES), labels, np.uint8(_BACKGROUND))
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in bounding_box(labels != _BACKGROUND))
    inside = labels[box]
    faces = np.zeros((len(CLASSES), len(CLASSES)), int)
    for axis in range(3):
        line = np.moveaxis(inside, axis, 0)
        pairs = line[:-1] * len(CLASSES) + line[1:]
        counts = np.bincount(pairs.ravel(), minlength=faces.size).reshape(faces.shape)
        faces += counts + counts.T
    there = {name for value, name in enumerate(CLASSES) if (inside == value).any()}
    surface = faces[_BACKGROUND, _NCR:]
    core = faces[[_NCR, _ET]][:, [_BACKGROUND, _ED]].sum(axis=1)
    return Layers(
        CLASSES[_NCR + int(surface.argmax())] if there >= {"NCR", "ED", "ET"} else None,
        ("NCR", "ET")[int(core.argmax())] if there >= {"NCR", "ET"} else None,
    )


def doubts(masks: Iterable[Layers]) -> list[str]:
    """What contradicts the anatomy in more than half of the masks that could tell, of three or more."""
    masks = list(masks)
    found = []
    for what, expected, values in (
        ("the tumour's surface", "ED", [mask.outermost for mask in masks if mask.outermost]),
        ("the core's surface", "ET", [mask.core for mask in masks if mask.core]),
    ):
        others = [value for value in values if value != expected]
        if len(values) >= MINIMUM_MASKS and len(others) > len(values) / 2:
            most = max(set(others), key=others.count)
            found.append(
                f"in {len(others)} of {len(values)} masks most of {what} is {most}, in gliomas it is {expected}: "
                "check that the masks' values mean what they are read as"
            )
    return found


def absences(masks: Iterable[frozenset[str]]) -> list[str]:
    """Empty masks, and classes that none of them holds; masks: the classes that each of them holds."""
    masks = list(masks)
    empty = sum(not classes for classes in masks)
    return [*([f"{empty} of {len(masks)} masks are empty"] if empty else []), *absent(masks)]


def absent(masks: Collection[Set[str]], *, expected: Sequence[str] = CLASSES[1:]) -> list[str]:
    """Expected classes that none of the masks holds, where three or more hold any; masks: the classes of each."""
    missing = [name for name in expected if not any(name in classes for classes in masks)]
    if not missing or sum(map(bool, masks)) < MINIMUM_MASKS:
        return []
    return [
        f"none of {len(masks)} masks holds {' or '.join(missing)}: check that the masks' values mean what they are "
        "read as, and that they are no masks of the whole tumour or brain"
    ]

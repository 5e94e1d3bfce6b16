"""Whether a mask belongs to its patient's scans, or was shifted, turned, mirrored or taken from another patient.

Told by what holds on any scanner and in any unit: a glioma lies in the brain, and its oedema is brighter in FLAIR than
most of the brain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.labels import CLASSES
from common.volumes import bounding_box

OUTSIDE = 0.05
"""Share of the labelled voxels that may lie outside the brain; 38 patients of several hospitals had none there."""
BRIGHTER = 0.65
"""Share of pairs, one voxel of the oedema and one of the brain without tumour, in which the oedema is the brighter one;
of those 38 patients it was 0.77 or more."""
FEWEST_VOXELS = 500
_EVERY = 4  # in each direction: of a BraTS brain some 20 000 voxels
_MOST_VOXELS = 20_000
_WHY = "is the mask shifted, turned or another patient's?"


def mismatch(images: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[str, ...]:
    """What speaks against a mask being of these scans, in words.

    images: (x, y, z) by contrast, background 0. labels: classes uint8 (x, y, z) on their grid. Masks of those 38
    patients were doubted when mirrored (92 %), turned by a right angle (76 %), shifted by 25 mm along z (87 %; by 10 mm
    37 %) or another patient's (80 %), their own never. Without FLAIR only their place is looked at.
    """
    box = bounding_box(labels != 0)
    inside = labels[box]
    tumour = (inside > 0) & (inside < len(CLASSES))
    if np.count_nonzero(tumour) < FEWEST_VOXELS:
        return ()
    brain = np.logical_or.reduce([image[box] != 0 for image in images.values()])
    found = []
    if np.count_nonzero(tumour & ~brain) > OUTSIDE * np.count_nonzero(tumour):
        found.append(f"labelled voxels lie outside the brain: {_WHY}")
    if "FLAIR" in images and not found:
        flair, some = images["FLAIR"], (slice(None, None, _EVERY),) * 3
        rest = flair[some][(labels[some] == 0) & (flair[some] != 0)]
        # Tumours of little oedema are bright as a whole, others have dark necrosis.
        parts = [flair[box][part & brain] for part in (tumour, inside == CLASSES.index("ED"))]
        shares = [_brighter(part, rest) for part in parts if min(part.size, rest.size) >= FEWEST_VOXELS]
        if shares and max(shares) < BRIGHTER:
            found.append(f"the labelled tumour is no brighter in FLAIR than the brain: {_WHY}")
    return tuple(found)


def _brighter(values: np.ndarray, others: np.ndarray) -> float:
    """Share of pairs in which the first is greater, equal ones by half: the area under the ROC curve."""
    values = values[:: -(-len(values) // _MOST_VOXELS)]
    others = np.sort(others)
    below = np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")
    return float(below.mean()) / (2 * len(others))

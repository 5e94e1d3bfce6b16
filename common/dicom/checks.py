"""Whether images are one stack, by what their headers say: what keeps them from it, and what their user should know.

One place judges, so that an audit, a training and a prediction say the same of the same folder.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from common.dicom.elements import ONE_AS_A_RULE, ONE_IN_A_STACK
from common.dicom.file import DIMENSION, Image
from common.dicom.planes import normal, plane_of
from common.walk import shown

MINIMUM_IMAGES = 3
# Rounded cosines of one stack differ by 1e-6; 1e-3 moves the far edge of a head by a quarter of a millimetre.
ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-3  # of the pixel spacing, as a fraction
SAME_POSITION_MM = 0.01  # thinner than any slice, coarser than what rounding makes of one position
UNEVEN = 0.1  # of the median distance between images: rounding stays far below, a missing image far above
GAP = 0.5  # of the smallest distance: from here on an image is missing, or one of another stack has come in
SIDEWAYS_PIXELS = 0.5
_STACK_MARKS = (*ONE_IN_A_STACK, "StackID", "TemporalPositionIndex")
_RULE_MARKS = (*ONE_AS_A_RULE, "EffectiveEchoTime", "FrameAcquisitionNumber")


def problems(images: Sequence[Image]) -> list[str]:
    """Everything that keeps at least one image from being part of one stack with the others."""
    found = []
    kinds = _kinds(images, lambda image: image.shape)
    if len(kinds) > 1:
        found.append(f"expected images of one size, found {_counted(kinds, lambda shape: '{} x {}'.format(*shape))}")
    spacings = np.array([image.spacing_mm for image in images]).reshape(-1, 2)
    if len(groups := _groups(images, np.log(spacings), SPACING_TOLERANCE)) > 1:
        sizes = ("{:.4g} x {:.4g} mm".format(*group[0].spacing_mm) + f" ({len(group)})" for group in groups)
        found.append(f"expected one pixel spacing, found {' and '.join(sizes)}")
    if len(groups := orientations(images)) > 1:
        names = (f"{_name(group[0].orientation)} ({len(group)}, as {group[0].path.name})" for group in groups)
        found.append(f"expected one orientation, found {len(groups)}: {' and '.join(names)}")
    if pairs := duplicates(images):
        first = " and ".join(f"{image.path.name}, image {image.index + 1}" for image in pairs[0])
        found.append(f"expected one image per position, found {len(pairs)} too many, the first pair {first}")
    if len(groups) == 1 and not pairs and len(images) >= MINIMUM_IMAGES:
        found += _gaps(images)
    return found + _several_acquisitions(images) + _unlike_pixels(images)


def notes(images: Sequence[Image]) -> list[str]:
    """What changes the grey values of a stack, or may, and is no reason to refuse it."""
    found = []
    gaps = np.diff(in_order(images)[0])
    low, middle, high = np.quantile(gaps, (0, 0.5, 1))
    if high - low > UNEVEN * middle:
        found.append(f"uneven distances between images, {low:.3g} to {high:.3g} mm")
    if (shift := _sideways_pixels(images)) > SIDEWAYS_PIXELS:
        found.append(f"images shifted against each other by up to {shift:.3g} pixels, which is not undone")
    if not _are_marked_alike(images):
        if len(_marks(images, "SeriesInstanceUID")) > 1:
            found.append("every image has a SeriesInstanceUID of its own")
        for keyword in _RULE_MARKS:
            if len(kinds := _marks(images, keyword)) > 1:
                found.append(f"{len(kinds)} values of {keyword}: {_counted(kinds)}")
    for what, of_image in (
        ("BitsStored", lambda image: image.stored.bits),
        ("PixelRepresentation", lambda image: int(image.stored.is_signed)),
        ("RescaleSlope", lambda image: image.slope),
        ("RescaleIntercept", lambda image: image.intercept),
        ("PixelPaddingValue", lambda image: image.stored.padding),
    ):
        if len(kinds := _kinds(images, of_image)) > 1:
            found.append(f"{len(kinds)} values of {what}, each used for its own images: {_counted(kinds)}")
    first = images[0]
    if (intercept := first.intercept) != 0:
        found.append(f"a stored 0 is a grey value of {intercept:g} (RescaleIntercept)")
    if min(image.slope for image in images) < 0:
        found.append("a RescaleSlope below 0 turns dark and bright round")
    if first.stored.low_is_bright:
        found.append("MONOCHROME1, low is bright: turned round")
    if first.stored.padding not in (None, (0, 0)):
        found.append("stored values from {} to {} are padding and taken as 0".format(*first.stored.padding))
    return found


def pixel_notes(n_more_bits: int, lowest: float) -> list[str]:
    """What decoded images add to that: how many had more bits than are stored, and the lowest grey value."""
    found = [f"bits beyond those stored in {n_more_bits} images, left out"] if n_more_bits else []
    return [*found, f"grey values below 0, down to {lowest:g}"] if lowest < 0 else found


def mirror(images: Sequence[Image]) -> int | None:
    """Where low is bright, one number for the whole stack: lowest and highest value that its stored bits can hold,
    added. None where bright is high."""
    stored = images[0].stored
    if not stored.low_is_bright:
        return None
    return -1 if stored.is_signed else 2 ** max(image.stored.bits for image in images) - 1


def orientations(images: Sequence[Image]) -> list[list[Image]]:
    """The images in groups of one orientation, the largest group first."""
    return _groups(images, [image.orientation for image in images], ORIENTATION_TOLERANCE)


def duplicates(images: Sequence[Image]) -> list[tuple[Image, Image]]:
    """Pairs of images of one orientation that lie at the same position along its normal."""
    pairs = []
    for group in orientations(images):
        positions, ordered = in_order(group)
        same = np.flatnonzero(np.diff(positions) < SAME_POSITION_MM)
        pairs += [(ordered[i], ordered[i + 1]) for i in same]
    return pairs


def in_order(images: Sequence[Image]) -> tuple[np.ndarray, list[Image]]:
    """Positions along the normal of the first image, ascending, and the images in that order."""
    positions = np.array([image.position_mm for image in images]) @ normal(images[0].orientation)
    order = np.argsort(positions, kind="stable")
    return positions[order], [images[index] for index in order]


def _gaps(images: Sequence[Image]) -> list[str]:
    positions, ordered = in_order(images)
    gaps = np.diff(positions)
    if gaps.max() - gaps.min() <= GAP * gaps.min():
        return []
    widest = int(gaps.argmax())
    names = " and ".join(f"{image.path.name}, image {image.index + 1}" for image in ordered[widest : widest + 2])
    return [
        f"expected images one distance apart, found distances from {gaps.min():.4g} to {gaps.max():.4g} mm, the widest "
        f"between {names}: images are missing, or those of two scans are mixed"
    ]


def _several_acquisitions(images: Sequence[Image]) -> list[str]:
    found: list[str] = []
    if _are_marked_alike(images):
        return found
    dimensions = dict.fromkeys(mark for image in images for mark in image.marks if mark.startswith(DIMENSION))
    for keyword in (*_STACK_MARKS, *dimensions):
        kinds = _marks(images, keyword)
        # A broken pseudonymisation gives every file a series of its own, and a dimension may count the places.
        if 1 < len(kinds) < len(images) or (len(kinds) > 1 and keyword not in ("SeriesInstanceUID", *dimensions)):
            found.append(f"expected one {keyword}, found {len(kinds)}: {_counted(kinds)}")
    return found


def _unlike_pixels(images: Sequence[Image]) -> list[str]:
    """Low is bright can be turned round only with one number for all images."""
    kinds = _kinds(images, lambda image: image.stored.low_is_bright)
    if len(kinds) > 1:
        return [f"expected MONOCHROME1 or MONOCHROME2, found both ({kinds[True]} and {kinds[False]})"]
    if True not in kinds:
        return []
    kinds = _kinds(images, lambda image: (image.stored.is_signed, image.slope, image.intercept))
    if len(kinds) > 1:
        return [f"expected one rescaling and sign of MONOCHROME1 (low is bright), found {len(kinds)}"]
    return []


def _sideways_pixels(images: Sequence[Image]) -> float:
    """How far the first pixels' centres lie from the line through the first of them along the normal."""
    places = np.array([image.position_mm for image in images])
    places = places - places[0]
    across = places - np.outer(places @ (axis := normal(images[0].orientation)), axis)
    return float(np.linalg.norm(across, axis=1).max() / min(images[0].spacing_mm))


def _are_marked_alike(images: Sequence[Image]) -> bool:
    return all(image.marks == images[0].marks for image in images)


def _marks(images: Sequence[Image], keyword: str) -> Counter[str | float]:
    """An image's mark as a number where it is one: 90 and 90.0 are one echo time."""
    texts: Counter[str | float] = Counter(image.marks.get(keyword, "") for image in images)
    if len(texts) == 1:
        return texts
    numbers: Counter[str | float] = Counter()
    for mark, n in texts.items():
        try:
            numbers[round(float(mark), 3)] += n
        except ValueError:
            numbers[mark] += n
    return numbers


def _kinds(images: Sequence[Image], of_image: Callable[[Image], Hashable]) -> Counter[Any]:
    return Counter(map(of_image, images))


def _counted(kinds: Counter[Any], name: Callable[[Any], str] = shown) -> str:
    """The most frequent ones with their counts."""
    words = [f"{name(kind) if kind not in ('', None) else 'none'} ({n})" for kind, n in kinds.most_common(3)]
    return " and ".join(words) + (", ..." if len(kinds) > len(words) else "")


def _name(orientation: Sequence[float]) -> str:
    return f"{plane_of(orientation)} {tuple(round(cosine, 3) for cosine in orientation)}"


def _groups(images: Sequence[Image], values: Sequence[Sequence[float]], tolerance: float) -> list[list[Image]]:
    """The images in groups whose values differ from the group's first by the tolerance at most, the largest first."""
    left, groups = np.arange(len(images)), []
    table = np.asarray(values)
    while left.size:
        near = np.abs(table[left] - table[left[0]]).max(axis=1) <= tolerance
        groups.append([images[index] for index in left[near]])
        left = left[~near]
    return sorted(groups, key=len, reverse=True)

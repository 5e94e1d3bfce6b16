"""Anatomical planes of DICOM images."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Plane = Literal["axial", "sagittal", "coronal", "oblique"]
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")  # by the patient's axis that the normal follows: x, y, z
# Clinical planes are tilted by 10 to 30 degrees (along the skull base, across the hippocampus) and keep their names. A
# normal within 36.9 degrees of an axis names the plane, the limit of GDCM and PixelMed; past 45 another axis is nearer.
PLANE_COSINE = 0.8


def plane_of(orientation: Sequence[float]) -> Plane:
    """The plane's name by the patient's axis nearest to its normal; oblique when that is more than 36.9 degrees away.

    orientation: ImageOrientationPatient, the directions along a row and along a column.
    """
    cosines = np.abs(normal(orientation))
    return PLANES[int(cosines.argmax())] if cosines.max() > PLANE_COSINE else "oblique"


def normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    """Row direction x column direction of an ImageOrientationPatient."""
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return (b * f - c * e, c * d - a * f, a * e - b * d)

"""What a scan's header says about where its voxels lie, and whether that can be trusted."""

from collections.abc import Sequence
from itertools import product

import nibabel as nib
import numpy as np

from common.nifti import Scan, unit_is_said

VOXEL_MM = (0.1, 20.0)
"""Smallest and largest side of a voxel that a scan of a head has; a wrong unit is off by a thousand."""
FIELD_MM = 512.0
"""Longest side of a scan of a head."""
SIZE_TOLERANCE = 0.01
"""Share by which two statements of one voxel size may differ."""
OBLIQUE_DEGREES = 20.0
"""Largest angle between an axis of the scan and the body's axis that it is taken for. Heads lie less askew; networks
that were shown heads in one frame are not asked about others."""
OBLIQUE_NOTE_DEGREES = 1.0
"""Smallest such angle that is worth a note."""
SHEAR_DEGREES = 1.0
"""Largest departure from right angles between a scan's axes."""
GRID_TOLERANCE_MM = 0.1
"""By which the voxels of two files of one grid may lie apart: tools round headers (float32 to about 1e-5 mm, text to
some decimals), and a tenth of a voxel of 1 mm moves nothing that is seen or scored."""
OFFSET_MM = 1.0
"""Difference between sform and qform, at equal voxel sizes and directions, that is worth a note."""


def apart_mm(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> float:
    """How far, at most, the same voxel of a grid (x, y, z) lies apart by two affines (4, 4) in mm.

    The farthest is one at a corner: what differs grows with the voxels' indices.
    """
    corners = np.array([*product(*((0, n - 1) for n in shape), [1])])
    return float(np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max())


def problem(scan: Scan) -> str | None:
    """Why the header's geometry cannot be trusted or used; None where it can.

    Refused: no statement of the axes' directions, sform, qform or pixdim that contradict each other in voxel size or
    direction, voxels or fields of view that no head has, axes that are sheared or far from the body's.
    """
    header, sizes = scan.header, np.array(scan.spacing_mm)
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        return (
            "its header does not say which way the axes run (sform and qform codes are 0): expected one of them, set "
            "it from the file's source"
        )
    if not (VOXEL_MM[0] <= sizes.min() and sizes.max() <= VOXEL_MM[1]):
        return (
            f"expected voxels of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm, found {by(sizes)} mm: check the header's unit"
        )
    if (field := sizes * scan.data.shape[:3]).max() > FIELD_MM:
        return f"expected a scan of at most {FIELD_MM:g} mm along each axis, found {by(field)} mm"
    columns = scan.affine[:3, :3] / sizes
    if (shear := np.degrees(np.arcsin(min(1.0, float(np.abs(np.triu(columns.T @ columns, 1)).max()))))) > SHEAR_DEGREES:
        return f"expected axes at right angles, found them sheared by {shear:.1f} degrees; resample it first"
    if (oblique := _oblique_degrees(scan)) > OBLIQUE_DEGREES:
        return (
            f"expected axes within {OBLIQUE_DEGREES:g} degrees of the body's, found {oblique:.0f}; register it to the "
            "SRI24 template, as BraTS does"
        )
    stated = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64)) * scan.unit_mm
    if np.isfinite(stated).all() and stated.all() and (np.abs(stated / sizes - 1) > SIZE_TOLERANCE).any():
        return f"its sform and its pixdim contradict each other: voxels of {by(sizes)} mm and of {by(stated)} mm"
    if sform > 0 and qform > 0:
        other = _qform(scan)
        if other is None:
            return "its qform code says that its qform is valid, but it is not (pixdim and quaternion)"
        if (axes := _axes(scan.affine)) != (turned := _axes(other)):
            return f"its sform and its qform contradict each other: axes {axes} and {turned}; keep the right one"
    return None


def notes(scan: Scan) -> list[str]:
    """What the header leaves open, and how it was read."""
    found = []
    if not unit_is_said(scan.header):
        found.append("its header gives no unit of length, taken for mm")
    if int(scan.header["sform_code"]) > 0 and int(scan.header["qform_code"]) > 0:
        other = _qform(scan)
        if other is not None and (apart := float(np.abs(other - scan.affine).max())) > OFFSET_MM:
            found.append(f"its sform and its qform differ by up to {apart:.3g} mm, the sform is used")
    if (oblique := _oblique_degrees(scan)) > OBLIQUE_NOTE_DEGREES:
        found.append(f"its axes lie up to {oblique:.0f} degrees askew, taken for the body's nearest")
    return found


def by(numbers: np.ndarray | tuple[float, ...]) -> str:
    """Three numbers as "1 x 1 x 2.5"."""
    return " x ".join(f"{float(number):.4g}" for number in numbers)


def _oblique_degrees(scan: Scan) -> float:
    """Largest angle between an axis of the scan and the body's nearest."""
    cosines = np.abs(scan.affine[:3, :3] / scan.spacing_mm).max(axis=0)
    return float(np.degrees(np.arccos(min(1.0, float(cosines.min())))))


def _qform(scan: Scan) -> np.ndarray | None:
    try:
        affine = scan.header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= scan.unit_mm
    return affine if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0 else None


def _axes(affine: np.ndarray) -> str:
    return "".join(str(code) for code in nib.aff2axcodes(affine))

"""What another scanner or another pipeline does to scans: gain, bias field, noise, blur, thick slices, brain masks, ...

Changes of a subject's checked scans, before anything is prepared from them, for asking how much of a network's score
each of them costs. The background stays exactly 0, as of scans without skull. What is drawn at random is a function of
(seed, case, kind of change), so that two networks meet the same scans, and a change's strengths differ in nothing else.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from common import volumes
from common.nifti import Scan, to_axes

Scans = Mapping[str, Scan]
FWHM = 2 * np.sqrt(2 * np.log(2))
"""Full width at half maximum of a Gaussian, in its standard deviations."""
BIAS_KNOTS_MM = 80.0
"""Distance of the knots between which a bias field is interpolated: about half a head, as of coils around it."""


@dataclass(frozen=True)
class Change:
    """One change of scans. kind: what is changed. strength: how much, in the unit that the words say, or of which."""

    kind: str
    strength: float | str
    words: str

    @property
    def name(self) -> str:
        if self.strength == 0:
            return self.kind
        return f"{self.kind}_{self.strength}" if isinstance(self.strength, str) else f"{self.kind}_{self.strength:g}"

    def apply(self, scans: Scans, *, seed: int, case: str) -> dict[str, Scan]:
        """The changed scans, by contrast; those of a contrast that is missing lack it. Strength 0 changes nothing.

        scans: checked, (x, y, z), all on one grid. seed, case: what is drawn at random is theirs and the kind's.
        """
        if self.strength == 0:
            return dict(scans)
        digest = hashlib.sha256(repr((seed, case, self.kind)).encode()).digest()
        return _KINDS[self.kind](scans, self.strength, np.random.default_rng(list(digest)))


def gain(scans: Scans, most: float, rng: np.random.Generator) -> dict[str, Scan]:
    """Each contrast times a factor of its own, log-uniform from 1 / (1 + most) to 1 + most."""
    return _each(scans, lambda image, _: image * np.float32((1 + most) ** rng.uniform(-1, 1)))


def bias(scans: Scans, most: float, rng: np.random.Generator) -> dict[str, Scan]:
    """Each contrast times a smooth field of its own; its logarithm reaches +/- log(1 + most) about 0 in the brain."""

    def change(image: np.ndarray, scan: Scan) -> np.ndarray:
        field = smooth_field(image.shape, scan.spacing_mm, rng)
        inside = field[image != 0]
        middle, reach = (inside.max() + inside.min()) / 2, (inside.max() - inside.min()) / 2
        return image * np.exp(np.float32(np.log(1 + most) / reach) * (field - middle)) if reach > 0 else image

    return _each(scans, change)


def smooth_field(shape: tuple[int, ...], spacing_mm: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal draws at knots BIAS_KNOTS_MM apart, cubic splines between them: float32 (x, y, z)."""
    knots = [max(4, round(n * side / BIAS_KNOTS_MM) + 1) for n, side in zip(shape, spacing_mm, strict=True)]
    field = rng.standard_normal(knots)
    for axis, (n, k) in enumerate(zip(shape, knots, strict=True)):
        field = make_interp_spline(np.arange(k), field, axis=axis)(np.linspace(0, k - 1, n))
    return field.astype(np.float32)


def noise(scans: Scans, share: float, rng: np.random.Generator) -> dict[str, Scan]:
    """Rician noise (Gudbjartsson and Patz 1995): the magnitude of the image with normal noise in both of its channels,
    whose SD is a share of the mean over the brain."""

    def change(image: np.ndarray, _: Scan) -> np.ndarray:
        sd = np.float32(share * image[image != 0].mean(dtype=np.float64))
        real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) * sd for _ in range(2))
        return np.hypot(image + real, imaginary)

    return _each(scans, change)


def blur(scans: Scans, fwhm_mm: float, rng: np.random.Generator) -> dict[str, Scan]:
    """A Gaussian of so many mm full width at half maximum, over the brain's voxels alone: its edge stays an edge."""

    def change(image: np.ndarray, scan: Scan) -> np.ndarray:
        sd = [fwhm_mm / FWHM / side for side in scan.spacing_mm]
        return _within_brain(image, lambda values: ndimage.gaussian_filter(values, sd))

    return _each(scans, change)


def slices(scans: Scans, thickness_mm: float, rng: np.random.Generator) -> dict[str, Scan]:
    """Axial slices so thick: resampled along the axis from feet to head and back, linearly, over the brain alone."""

    def change(image: np.ndarray, scan: Scan) -> np.ndarray:
        turned = to_axes(image, scan.affine)
        (axis,) = np.flatnonzero(nib.io_orientation(scan.affine)[:, 0] == 2)
        thick = (*turned.shape[:2], max(1, round(turned.shape[2] * scan.spacing_mm[axis] / thickness_mm)))
        resampled = _within_brain(turned, lambda values: volumes.resize(volumes.resize(values, thick), turned.shape))
        back = np.empty_like(image)
        to_axes(back, scan.affine)[...] = resampled
        return back

    return _each(scans, change)


def gamma(scans: Scans, most: float, rng: np.random.Generator) -> dict[str, Scan]:
    """Each contrast, in shares of its maximum, to an exponent of its own: 1 + most or 1 / (1 + most)."""

    def change(image: np.ndarray, _: Scan) -> np.ndarray:
        largest = np.abs(image).max()
        exponent = np.float32((1 + most) ** rng.choice([-1, 1]))
        return np.sign(image) * largest * (np.abs(image) / largest) ** exponent

    return _each(scans, change)


def eroded(scans: Scans, depth_mm: float, rng: np.random.Generator) -> dict[str, Scan]:
    """A brain mask that is so many mm too small all around."""
    brain, spacing_mm = _brain(scans)
    kept = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1] > depth_mm
    return _each(scans, lambda image, _: image * kept)


def shifted(scans: Scans, distance_mm: float, rng: np.random.Generator) -> dict[str, Scan]:
    """A brain mask that lies so many mm beside the brain, along one axis of the scan, drawn with its direction."""
    brain, spacing_mm = _brain(scans)
    axis = int(rng.integers(3))
    step = int(rng.choice([-1, 1])) * max(1, round(distance_mm / spacing_mm[axis]))
    start = [step if i == axis else 0 for i in range(3)]
    kept = volumes.window(brain, start, brain.shape)
    return _each(scans, lambda image, _: image * kept)


def missing(scans: Scans, contrast: str, rng: np.random.Generator) -> dict[str, Scan]:
    """One contrast was not acquired."""
    return {name: scan for name, scan in scans.items() if name != contrast}


def swapped(scans: Scans, pair: str, rng: np.random.Generator) -> dict[str, Scan]:
    """Two contrasts, as ``T1-T1ce``, under each other's names."""
    one, other = pair.split("-")
    return {**scans, one: scans[other], other: scans[one]}


def _each(scans: Scans, change: Callable[[np.ndarray, Scan], np.ndarray]) -> dict[str, Scan]:
    """Every contrast changed as float32; what was 0 stays 0."""
    changed = {}
    for name, scan in scans.items():
        image = scan.data.astype(np.float32)
        data = np.asarray(change(image, scan), np.float32)
        data[image == 0] = 0
        changed[name] = replace(scan, data=data)
    return changed


def _within_brain(image: np.ndarray, smooth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A linear smoothing of the brain's voxels in which the background has no share."""
    brain = (image != 0).astype(np.float32)
    values, share = smooth(image), smooth(brain)
    return np.divide(values, share, out=np.zeros_like(values), where=(brain != 0) & (share > 0))


def _brain(scans: Scans) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Voxels that are not 0 in any contrast, and their size in mm."""
    return np.logical_or.reduce([scan.data != 0 for scan in scans.values()]), next(iter(scans.values())).spacing_mm


_KINDS: dict[str, Callable[[Scans, Any, np.random.Generator], dict[str, Scan]]] = {
    each.__name__: each for each in (gain, bias, noise, blur, slices, gamma, eroded, shifted, missing, swapped)
}

CHANGES = (
    *(Change("gain", most, f"gain of each contrast up to {1 + most:g}-fold") for most in (0.25, 1.0)),
    *(Change("bias", most, f"bias field up to +{100 * most:g} %") for most in (0.2, 0.4, 0.8)),
    *(Change("noise", share, f"Rician noise, SD {100 * share:g} % of the mean") for share in (0.05, 0.1, 0.2)),
    *(Change("blur", fwhm, f"blur, {fwhm:g} mm FWHM") for fwhm in (2.0, 4.0)),
    *(Change("slices", mm, f"axial slices of {mm:g} mm") for mm in (2.0, 5.0)),
    *(Change("gamma", most, f"gamma {1 + most:g} or 1/{1 + most:g}") for most in (0.25, 0.5)),
    *(Change("eroded", mm, f"brain mask {mm:g} mm too small") for mm in (2.0, 5.0)),
    *(Change("shifted", mm, f"brain mask {mm:g} mm aside") for mm in (3.0, 10.0)),
    *(Change("missing", name, f"no {name}") for name in ("FLAIR", "T1", "T1ce", "T2")),
    *(
        Change("swapped", pair, f"{pair.replace('-', ' and ')} swapped")
        for pair in ("T1-T1ce", "FLAIR-T2", "FLAIR-T1ce")
    ),
)
"""What is measured, in the order of the table."""


def changes_of(contrasts: tuple[str, ...]) -> tuple[Change, ...]:
    """The changes that a network of these contrasts can notice."""
    return tuple(
        change
        for change in CHANGES
        if not isinstance(change.strength, str) or set(change.strength.split("-")) <= set(contrasts)
    )

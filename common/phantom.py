"""The embedded cohort: synthetic glioma patients in BraTS's layout, on the MNI152 template that nilearn carries.

What they are: a real average anatomy (MNI152 2009, T1 with grey- and white-matter maps) that every subject deforms in
its own way, given four contrasts, a tumour and a scanner's faults. Their difficulty is calibrated on real subjects
(`tests/common/test_phantom.py` holds the figures), so that a pipeline can be run, tested and timed without patient data.
What they are not: patients. Nothing measured on them says anything about a clinical question.

A subject is a pure function of (seed, subject), read from top to bottom below:
anatomy -> deformation -> tumour -> contrasts -> artefacts.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import joblib
import nibabel
import numpy as np
from scipy import ndimage, sparse, special
from tqdm import tqdm

GENERATOR_VERSION = 1
"""Raise it whenever a change alters any voxel: a folder made by another version is then refused, not mixed."""

SHAPE = (240, 240, 155)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
"""BraTS: 1 mm isotropic, x towards the patient's left, y towards the back, z towards the head."""

CASES = (
    "typical",
    "no_et",
    "typical",
    "tiny_core",
    "typical",
    "two_foci",
    "typical",
    "saturated",
    "typical",
    "typical",
)
"""Kind of subject number i: CASES[i % 10]. A schedule, not a draw, so that even ten subjects hold every hard case."""

_BOX = (slice(34, 206), slice(26, 222), slice(0, 152))  # holds every brain; all work is done inside it
_NODE = 4  # mm between the nodes of the deformation
_COARSE = 3  # mm, grid on which oedema spreads
_SPLINE_SD = 0.479**1.5  # SD of a cubic B-spline surface through white noise of SD 1, in three dimensions

# Intensity relative to the median of normal brain. Medians over 21 real BraTS subjects.
_TISSUE = {  # WM, GM, CSF
    "FLAIR": (0.96, 1.10, 0.30),
    "T1": (1.19, 0.86, 0.38),
    "T1ce": (1.12, 0.88, 0.40),
    "T2": (0.82, 1.15, 3.00),
}
_LESION = {  # ED, ET, NCR: mean over real subjects and the SD between subjects
    "FLAIR": ((1.95, 0.30), (2.10, 0.35), (2.05, 0.45)),
    "T1": ((0.90, 0.07), (0.88, 0.09), (0.76, 0.11)),
    "T1ce": ((0.88, 0.06), (1.75, 0.22), (0.82, 0.10)),
    "T2": ((1.75, 0.25), (1.70, 0.22), (2.20, 0.40)),
}
_SCALE = {"FLAIR": (210, 0.40), "T1": (350, 0.25), "T1ce": (410, 0.17), "T2": (260, 0.70)}  # median, SD of its log
_NOISE = {"FLAIR": 0.075, "T1": 0.055, "T1ce": 0.065, "T2": 0.07}  # SD before resampling, of the brain's median


@dataclass(frozen=True)
class Phantom:
    """One synthetic subject. images: contrast -> int16 (240, 240, 155), background exactly 0; labels: uint8 classes
    (0 background, 1 NCR, 2 ED, 3 ET) on the same grid; affine: (4, 4), voxel to mm, RAS+; case: which of CASES."""

    id: str
    images: dict[str, np.ndarray]
    labels: np.ndarray
    affine: np.ndarray
    case: str


def make_phantom(subject: int, *, seed: int) -> Phantom:
    """Synthetic subject number `subject` of the cohort `seed`; the same two numbers give the same voxels.

    Raises ValueError when either is negative.
    """
    if subject < 0 or seed < 0:
        raise ValueError(f"subject and seed must be 0 or more, got subject={subject}, seed={seed}.")
    rng = np.random.default_rng([seed, subject])
    case = CASES[subject % len(CASES)]
    coordinates, foci = _deform(rng, case)
    anatomy = _sample_anatomy(rng, coordinates)
    tumour = _grow_tumour(rng, anatomy, foci, case)
    images = _acquire(rng, _contrasts(rng, anatomy, tumour), anatomy["brain"], case)
    return Phantom(
        id=_name(subject),
        images={contrast: _whole(image, np.int16) for contrast, image in images.items()},
        labels=_whole(tumour["labels"], np.uint8),
        affine=AFFINE.copy(),
        case=case,
    )


# --- anatomy: the template, once per process --------------------------------------------------------------------------


@functools.cache
def _template() -> dict[str, np.ndarray]:
    """float32 (197, 233, 189) maps: wm, gm, csf in 0..1, t1 in 0..1, depth and ventricle as signed distances in mm
    (depth positive inside the brain, ventricle negative inside the ventricles),"""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    t1, gm, wm = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    brain = t1 > 0
    depth = _signed_distance(brain)
    csf = np.clip(1 - gm - wm, 0, 1) * brain
    inner = ndimage.binary_opening((csf > 0.5) & (depth > 18))
    components, n = ndimage.label(inner)
    sizes = ndimage.sum_labels(inner, components, range(1, n + 1))
    ventricle = -_signed_distance(components == 1 + int(np.argmax(sizes)))
    return {"t1": t1, "wm": wm, "gm": gm, "csf": csf, "depth": depth, "ventricle": ventricle}


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the mask's border in voxels, positive inside; float32."""
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return (inside - outside).astype(np.float32)


# --- smooth fields ----------------------------------------------------------------------------------------------------


@functools.cache
def _spline_matrix(n: int, spacing: int) -> sparse.csr_array:
    """(n, nodes): cubic B-spline weights, node k lying at voxel (k - 1) * spacing. Reproduces linear fields exactly."""
    position = np.arange(n) / spacing
    first = np.floor(position).astype(int)
    t = (position - first).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3], axis=1) / 6
    columns = first[:, None] + np.arange(4)
    rows = np.repeat(np.arange(n), 4)
    return sparse.csr_array((weights.ravel(), (rows, columns.ravel())), shape=(n, first[-1] + 4))


def _nodes(shape: tuple[int, ...], spacing: int) -> tuple[int, ...]:
    return tuple(_spline_matrix(n, spacing).shape[1] for n in shape)


def _upsample(nodes: np.ndarray, shape: tuple[int, ...], spacing: int) -> np.ndarray:
    """Cubic B-spline field of `shape` from its nodes. Sparse products, since BLAS may round differently per thread."""
    for axis in (2, 1, 0):
        moved = np.moveaxis(nodes, axis, 0)
        flat = _spline_matrix(shape[axis], spacing) @ np.ascontiguousarray(moved).reshape(len(moved), -1)
        nodes = np.moveaxis(flat.reshape(shape[axis], *moved.shape[1:]), 0, axis)
    return nodes


def _noise(rng: np.random.Generator, shape: tuple[int, ...], spacing: int) -> np.ndarray:
    """Smooth Gaussian noise of SD about 1 whose features are about 2 * spacing voxels wide."""
    return _upsample(rng.standard_normal(_nodes(shape, spacing), np.float32) / _SPLINE_SD, shape, spacing)


def _box_shape() -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in _BOX)


def _whole(boxed: np.ndarray, dtype: type) -> np.ndarray:
    whole = np.zeros(SHAPE, dtype)
    whole[_BOX] = boxed
    return whole


# --- deformation: where each voxel of the subject lies in the template ------------------------------------------------


@dataclass(frozen=True)
class _Focus:
    """One tumour core: centre in voxels of the box, mean radius in mm."""

    centre: np.ndarray
    radius: float


def _deform(rng: np.random.Generator, case: str) -> tuple[np.ndarray, list[_Focus]]:
    """Template coordinates (3, *box) of the subject's voxels, mass effect included, and the tumour's foci."""
    shape = _box_shape()
    counts = _nodes(shape, _NODE)
    position = np.stack(np.meshgrid(*[(np.arange(n) - 1.0) * _NODE for n in counts], indexing="ij"))  # (3, nodes)

    angles = np.deg2rad(rng.normal(0, (3, 2, 2.5)))
    scale = rng.normal(0.935, 0.025) * np.exp(rng.normal(0, 0.02, 3))
    centre = np.array([119, 128, 70]) + rng.normal(0, (1, 3, 2)) - [s.start for s in _BOX]
    # BraTS's x and y run to the left and back, the template's to the right and front
    linear = _rotation(angles) @ np.diag([-1 / scale[0], -1 / scale[1], 1 / scale[2]])
    template = np.tensordot(linear, position - centre.reshape(3, 1, 1, 1), axes=1)
    template += np.array([98, 113, 78]).reshape(3, 1, 1, 1)
    for spacing, amplitude in ((10, 2.6), (4, 1.5), (2, 0.8)):  # in nodes, mm: shape of the head, lobes, folds
        for axis in range(3):
            template[axis] += amplitude * _noise(rng, counts, spacing)

    foci = [_place(rng, template, position, case)]
    if case == "two_foci":
        foci.append(_place(rng, template, position, case, away_from=foci[0]))
    for focus in foci:
        offset = position - focus.centre.reshape(3, 1, 1, 1)
        squared = np.sum(offset**2, axis=0)
        push = rng.uniform(0.15, 0.45) * np.exp(-squared / (2 * (1.25 * focus.radius + 4) ** 2))
        template -= np.tensordot(linear, push * offset, axes=1)
    return np.stack([_upsample(t.astype(np.float32), shape, _NODE) for t in template]), foci


def _rotation(angles: np.ndarray) -> np.ndarray:
    x, y, z = angles
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _place(rng, template, position, case, away_from: _Focus | None = None) -> _Focus:
    """A focus in cerebral white matter, its core wholly inside one hemisphere."""
    radius = rng.uniform(6, 9) if case == "tiny_core" or away_from else float(np.clip(rng.normal(17, 4.0), 10, 24))
    wm, depth, ventricle = (
        ndimage.map_coordinates(_template()[name], template, order=1, prefilter=False)
        for name in ("wm", "depth", "ventricle")
    )
    midline = np.abs(template[0] - 98)
    room = (wm > 0.6) & (depth > 0.55 * radius) & (midline > 0.75 * radius + 4) & (template[2] > 55) & (ventricle > 3)
    if away_from:
        distance = np.sqrt(np.sum((position - away_from.centre.reshape(3, 1, 1, 1)) ** 2, axis=0))
        room &= (distance > away_from.radius + radius + 4) & (distance < away_from.radius + radius + 45)
    candidates = np.argwhere(room)
    return _Focus(position[(slice(None), *candidates[rng.integers(len(candidates))])], radius)


def _sample_anatomy(rng: np.random.Generator, coordinates: np.ndarray) -> dict[str, np.ndarray]:
    """Fields (*box) of the subject: brain (bool), wm, gm, csf (sum 1 inside), t1, depth, ventricle, midline in mm.

    An average of 152 heads has blurred folds: its maps are sharpened at a level that smooth noise moves about, so that
    each subject gets crisp folds of its own, where the average is unsure.
    """
    template = _template()
    shape = coordinates.shape[1:]
    half = np.ascontiguousarray(coordinates[:, ::2, ::2, ::2])
    depth, ventricle = (
        _upsample_linear(ndimage.map_coordinates(template[name], half, order=1, prefilter=False, cval=-20), shape)
        for name in ("depth", "ventricle")
    )
    brain = depth + 0.8 * _noise(rng, shape, 3) > 0.6
    points = np.ascontiguousarray(coordinates[:, brain])
    wm, gm, t1 = (
        ndimage.map_coordinates(template[name], points, order=1, prefilter=False) for name in ("wm", "gm", "t1")
    )
    depth_in, ventricle_in = depth[brain], ventricle[brain]
    csf = np.clip(1 - wm - gm, 0, 1)

    folds = _noise(rng, shape, 4)[brain] + 0.6 * _noise(rng, shape, 3)[brain]
    cortical = special.expit((24 - depth_in) / 4) * special.expit((ventricle_in - 4) / 2)
    sharp_wm = special.expit(9 * (wm - 0.5 + 0.13 * folds))
    atrophy = rng.uniform(-0.04, 0.06)
    sharp_csf = special.expit(22 * (csf - 0.22 + atrophy + 0.06 * _noise(rng, shape, 3)[brain]))
    dilation = rng.uniform(-0.5, 3.0)
    in_ventricle = special.expit(2.5 * (dilation - ventricle_in))
    csf = np.maximum(cortical * sharp_csf + (1 - cortical) * csf, in_ventricle)
    wm = (cortical * sharp_wm + (1 - cortical) * wm) * (1 - csf)

    def put(values):
        field = np.zeros(shape, np.float32)
        field[brain] = values
        return field

    return {
        "brain": brain, "wm": put(wm), "csf": put(csf), "gm": put(1 - wm - csf), "t1": put(t1),
        "depth": depth, "ventricle": ventricle - np.float32(dilation), "midline": coordinates[0] - 98,
    }  # fmt: skip


def _upsample_linear(half: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Doubles each axis by linear interpolation, cut to `shape`."""
    for axis, n in enumerate(shape):
        last = np.take(half, [-1], axis=axis)
        following = np.concatenate([np.delete(half, 0, axis=axis), last], axis=axis)
        both = np.stack([half, (half + following) / 2], axis=axis + 1)
        half = both.reshape(*half.shape[:axis], -1, *half.shape[axis + 1 :])
        half = np.take(half, range(n), axis=axis)
    return half


# --- tumour -----------------------------------------------------------------------------------------------------------


def _grow_tumour(rng, anatomy: dict[str, np.ndarray], foci: list[_Focus], case: str) -> dict[str, np.ndarray]:
    """labels (*box) and the soft fields that the contrasts follow: oedema, core, necrosis, enhancement, each 0..1."""
    shape = anatomy["wm"].shape
    tissue = anatomy["brain"] & (anatomy["csf"] < 0.6)
    axes = [np.arange(n, dtype=np.float32) for n in shape]
    core = np.full(shape, 1e3, np.float32)  # signed distance to the core's border in mm, negative inside
    for focus in foci:
        stretch = np.exp(rng.normal(0, 0.13, 3))
        squared = sum(
            ((axes[k] - focus.centre[k]) / stretch[k]).reshape([-1 if j == k else 1 for j in range(3)]) ** 2
            for k in range(3)
        )
        core = np.minimum(core, np.sqrt(squared) - focus.radius)
    radius = foci[0].radius
    core += 0.17 * radius * _noise(rng, shape, 8) + 0.09 * radius * _noise(rng, shape, 4) + 0.4 * _noise(rng, shape, 2)
    core += 6 * anatomy["csf"] * (anatomy["ventricle"] < 6)  # stays out of the ventricles

    rim = rng.uniform(2.2, 4.5) * np.exp(0.35 * _noise(rng, shape, 6))
    gap = _noise(rng, shape, 6) - rng.uniform(1.1, 1.9)  # positive where the rim does not enhance
    pocket = _noise(rng, shape, 3) - rng.uniform(1.5, 2.4)  # positive in enhancing islands of the core
    enhancing = np.maximum(core + rim, 2.5 * pocket)  # > 0 in the rim
    if case == "no_et":
        enhancing = np.full(shape, -5.0, np.float32)
    enhancing = np.minimum(enhancing, -2.5 * gap)

    spread = _spread(rng, anatomy, core, case)
    labels = np.zeros(shape, np.uint8)
    labels[(spread < 0) & tissue] = 2
    in_core = (core < 0) & anatomy["brain"]
    labels[in_core] = 1
    labels[in_core & (enhancing > 0)] = 3
    return {"labels": labels, "core": core, "enhancing": enhancing, "spread": spread}


def _spread(rng, anatomy, core: np.ndarray, case: str) -> np.ndarray:
    """Level set (*box), about mm, negative in the oedema: travel time from the core through white matter.

    Water runs along white matter, hardly into cortex, not through CSF; the time is relaxed on a 3 mm grid until it no
    longer changes, and the extent is the level that holds the volume drawn for this subject.
    """
    step = (slice(None, None, _COARSE),) * 3
    wm, csf, brain, coarse_core = (anatomy["wm"][step], anatomy["csf"][step], anatomy["brain"][step], core[step])
    smooth_wm = ndimage.uniform_filter(wm, 2)
    cost = _COARSE / (0.08 + 0.92 * np.maximum(smooth_wm, 0) ** 1.5) * np.exp(0.45 * _noise(rng, wm.shape, 4))
    cost = np.where(brain & (csf < 0.6), cost, 60.0).astype(np.float32)
    arrival = np.where(coarse_core < 0, 0, 1e4).astype(np.float32)
    offsets = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]
    for _ in range(30):
        for offset in offsets:
            length = np.float32(np.sqrt(np.sum(np.square(offset))))
            here = tuple(slice(max(o, 0), n + min(o, 0)) for o, n in zip(offset, arrival.shape, strict=True))
            there = tuple(slice(max(-o, 0), n + min(-o, 0)) for o, n in zip(offset, arrival.shape, strict=True))
            way = length * (cost[here] + cost[there]) / 2
            np.minimum(arrival[here], arrival[there] + way, out=arrival[here])
            np.minimum(arrival[there], arrival[here] + way, out=arrival[there])
    volume_ml = float(np.clip(np.exp(rng.normal(np.log(45), 0.65)), 9, 150))
    outside = np.sort(arrival[(coarse_core > 0) & brain & (csf < 0.6)])
    extent = outside[min(int(volume_ml * 1000 / _COARSE**3), len(outside) - 1)]
    return _zoom(np.minimum(arrival, 3 * extent + 30) - extent, core.shape)


def _zoom(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.pad(coarse, [(1, 3)] * 3, mode="edge").astype(np.float32)
    counts = _nodes(shape, _COARSE)
    return _upsample(padded[: counts[0], : counts[1], : counts[2]], shape, _COARSE)


# --- contrasts --------------------------------------------------------------------------------------------------------


def _contrasts(rng, anatomy, tumour) -> dict[str, np.ndarray]:
    """Noise-free images (*box), float32, relative to the median of normal brain."""
    wm, gm, csf, brain = anatomy["wm"], anatomy["gm"], anatomy["csf"], anatomy["brain"]
    shape = wm.shape
    ventricle, depth = anatomy["ventricle"], anatomy["depth"]
    texture = _noise(rng, shape, 2)
    patches = _noise(rng, shape, 6)

    # normal structures that are bright where a tumour would be
    lining = np.exp(-np.square(ventricle / 1.6)) * (1 - csf)
    caps = special.expit((rng.uniform(1, 7) - ventricle + 2.5 * patches) / 1.2) * wm
    hyperintensities = special.expit(6 * (_noise(rng, shape, 4) - rng.uniform(1.9, 3.0))) * wm
    vessels = np.exp(-(np.square(_noise(rng, shape, 6)) + np.square(_noise(rng, shape, 5))) / 0.012)
    vessels *= special.expit((5 - depth) / 1.5) + csf * (ventricle > 3) + 0.15
    sinus = np.exp(-np.square(anatomy["midline"] / 2.2)) * special.expit((3.5 - depth) / 0.8)
    plexus = special.expit(5 * (_noise(rng, shape, 3) - 0.8)) * (ventricle < -0.5)

    # soft lesion fields; the image fades over a few mm where the mask has its border
    fade = rng.uniform(2.5, 7.0)
    oedema = special.expit(-(tumour["spread"] + 0.3 * fade) / fade * 2.2) * (1 - csf) * (0.62 + 0.38 * wm)
    inside = special.expit(-tumour["core"] / 0.5)
    enhancing = special.expit(tumour["enhancing"] / 0.5)
    mottle = _noise(rng, shape, 3)
    severity = rng.normal(0, 1)  # FLAIR and T2 brightness go together

    images = {}
    for contrast, (white, grey, water) in _TISSUE.items():
        white, grey = np.array((white, grey)) * np.exp(rng.normal(0, 0.02, 2))
        water = water * np.exp(rng.normal(0, 0.15))
        image = white * wm + grey * gm + water * csf
        image += 0.03 * texture * (1 - csf) + 0.03 * patches
        deep = np.clip((depth - 20) / 10, 0, 1) * gm
        if contrast in ("T1", "T1ce"):
            image += 0.8 * (anatomy["t1"] - 0.67) * deep
        if contrast == "FLAIR":
            image += (0.35 * lining + rng.uniform(0.2, 0.7) * caps + 0.7 * hyperintensities) * (1 - csf)
            image += 0.10 * gm * (depth > 8) + 0.7 * plexus
        if contrast == "T2":
            image += 0.35 * caps + 0.5 * hyperintensities - 1.0 * plexus
        if contrast == "T1":
            image += -0.10 * caps - 0.12 * hyperintensities + 0.3 * plexus
        if contrast == "T1ce":
            image += 2.2 * np.minimum(vessels, 1) + 2.6 * sinus + 1.0 * plexus
        (ed, ed_sd), (et, et_sd), (ncr, ncr_sd) = _LESION[contrast]
        shared = severity if contrast in ("FLAIR", "T2") else rng.normal(0, 1)
        ed += ed_sd * (0.8 * shared + 0.6 * rng.normal(0, 1))
        et += et_sd * (0.6 * shared + 0.8 * rng.normal(0, 1))
        ncr += ncr_sd * rng.normal(0, 1)
        ed = max(ed, 1.2) if contrast == "FLAIR" else ed
        spread = 0.15 if contrast in ("FLAIR", "T2") else 0.04
        image += oedema * ((ed - (white + grey) / 2) * (1 + spread * patches) + spread * mottle)
        solid = et * (1 + 0.18 * mottle) * enhancing + ncr * (1 + 0.16 * patches) * (1 - enhancing)
        image = image + inside * (solid - image)
        images[contrast] = np.where(brain, image, 0).astype(np.float32)
    return images


# --- artefacts --------------------------------------------------------------------------------------------------------


def _acquire(rng, images: dict[str, np.ndarray], brain: np.ndarray, case: str) -> dict[str, np.ndarray]:
    """int16 images (*box): bias field, thick slices, Rician noise, resampling to 1 mm, the scanner's scale."""
    acquired = {}
    for contrast, image in images.items():
        shape = image.shape
        image = image * np.exp(rng.uniform(0.03, 0.08) * _noise(rng, shape, 40))
        thick = {"FLAIR": 0.85, "T2": 0.6, "T1": 0.1, "T1ce": 0.05}[contrast]
        slices = int(rng.integers(3, 6)) if rng.random() < thick else 1
        if slices > 1:
            image = ndimage.uniform_filter1d(image, slices, axis=2)[:, :, ::slices]
        sigma = _NOISE[contrast] * np.exp(rng.normal(0, 0.2))
        real, imaginary = rng.standard_normal((2, *image.shape), np.float32) * np.float32(sigma)
        image = np.sqrt(np.square(image + real) + np.square(imaginary))
        if slices > 1:
            image = _linear_z(image, slices, shape[2])
        for axis in range(3 if slices == 1 else 2):
            shift = rng.uniform(0.1, 0.25)
            image = ndimage.correlate1d(image, [shift, 1 - 2 * shift, shift], axis=axis)
        median, spread = _SCALE[contrast]
        scale = median * np.exp(rng.normal(0, spread))
        if case == "saturated" and contrast in ("T1ce", "T2"):
            scale = 32767 / np.quantile(image[brain][::50], rng.uniform(0.985, 0.998))
        acquired[contrast] = np.where(brain, np.clip(np.rint(image * scale), 1, 32767), 0).astype(np.int16)
    return acquired


def _linear_z(image: np.ndarray, spacing: int, n: int) -> np.ndarray:
    """Slices `spacing` apart interpolated linearly to n slices of 1 mm."""
    position = np.minimum(np.arange(n) / spacing, image.shape[2] - 1)
    low = np.minimum(position.astype(int), image.shape[2] - 2)
    weight = (position - low).astype(np.float32)
    return image[:, :, low] * (1 - weight) + image[:, :, low + 1] * weight


# --- the cohort on disk -----------------------------------------------------------------------------------------------


def write_cohort(folder: Path | str, *, n_subjects: int, seed: int, n_jobs: int = -1) -> Path:
    """Write subjects 0 .. n_subjects - 1 in BraTS 2021's layout and return the folder.

    <folder>/Phantom_00000/Phantom_00000_{flair,t1,t1ce,t2,seg}.nii.gz and so on, labels 1, 2, 4; cohort.json names the
    seed and the generator's version. Only missing subjects are made. A subject's folder appears by one rename, so a
    kill leaves no half of one and two processes may write the same cohort. Subjects beyond n_subjects, of an earlier
    call, stay. n_jobs: processes, -1 for one per core (about 0.7 GB of memory each).
    Raises ValueError when the folder holds a cohort of another seed or generator version, or n_subjects < 1.
    """
    if n_subjects < 1:
        raise ValueError(f"n_subjects must be at least 1, got {n_subjects}.")
    folder = Path(folder)
    partial = folder / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    _claim(folder, {"generator": "phantom", "version": GENERATOR_VERSION, "seed": seed})
    for leftover in partial.iterdir():  # of a killed run; the age spares what another process is writing now
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
    missing = [subject for subject in range(n_subjects) if not (folder / _name(subject)).exists()]
    jobs = (joblib.delayed(_write_subject)(folder, subject, seed) for subject in missing)
    with joblib.Parallel(n_jobs=min(n_jobs, len(missing)) or 1, return_as="generator_unordered") as parallel:
        for _ in tqdm(parallel(jobs), total=len(missing), desc="synthetic subjects", disable=not missing):
            pass
    return folder


def _name(subject: int) -> str:
    return f"Phantom_{subject:05d}"


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """Write cohort.json if there is none; otherwise check that it says the same."""
    target = folder / "cohort.json"
    temporary = folder / ".partial" / f"{uuid.uuid4().hex}.json"
    temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    try:
        os.link(temporary, target)  # unlike a rename, fails when another process was first
    except FileExistsError:
        found = json.loads(target.read_text(encoding="utf-8"))
        if found != identity:
            raise ValueError(f"{folder} holds another cohort: wanted {identity}, found {found}.") from None
    finally:
        temporary.unlink()


def _write_subject(folder: Path, subject: int, seed: int) -> None:
    from common import nifti
    from common.labels import BRATS_2018

    phantom = make_phantom(subject, seed=seed)
    header = nibabel.Nifti1Image(phantom.labels, phantom.affine).header
    partial = folder / ".partial" / f"{phantom.id}-{uuid.uuid4().hex}"
    partial.mkdir(parents=True)
    for contrast, image in phantom.images.items():
        nifti.write(partial / f"{phantom.id}_{contrast.lower()}.nii.gz", image, like=header)
    nifti.write(partial / f"{phantom.id}_seg.nii.gz", BRATS_2018.from_classes(phantom.labels), like=header)
    try:
        partial.rename(folder / phantom.id)
    except OSError:  # another process was first: same seed, same voxels
        if not (folder / phantom.id).exists():
            raise
        shutil.rmtree(partial)

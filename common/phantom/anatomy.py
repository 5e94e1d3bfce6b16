"""Anatomy of a phantom: the MNI152 template that nilearn carries, smooth random fields, and each subject's deformation.

All work is done inside BOX, a part of BraTS's grid that holds every brain, on its voxels of 1 mm or on every second
one. A field is either an array of the box's shape on that grid or, once the brain is known, a vector with one number
per brain voxel (`field[brain]`), which is a third of the work.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy  # its parts when they are first used: a third of a second

BOX = (slice(38, 202), slice(22, 228), slice(0, 155))
SHAPE = tuple(s.stop - s.start for s in BOX)
NODE = 4
"""Spacing in mm of the nodes that carry the deformation."""

_MIDDLE = np.array([98.0, 113.0, 78.0])  # of the template's brain, voxels; x = 98 is the midline
_ATRIUM = np.array([24.0, 92.0, 88.0])  # where the choroid plexus is thickest: distance from the midline, y, z
_SPLINE_SD = 0.479**1.5  # SD of a cubic B-spline surface through white noise of SD 1, in three dimensions


@dataclass(frozen=True)
class Pose:
    """Where a subject lies in the template. position: (3, *nodes) voxels of the box; template: (3, *nodes) template
    voxels at those positions; linear: (3, 3), box to template directions."""

    position: np.ndarray
    template: np.ndarray
    linear: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """A subject's anatomy. brain: bool, the box's shape. Vectors over brain voxels: wm, gm, csf (fractions that sum to
    1), t1 (the template's, 0..1), depth (mm below the surface), ventricle (mm, negative inside), plexus (0..1, the
    likely place of choroid plexus), sinus (0..1, along the superior sagittal sinus). age: 0 young .. 1 old."""

    brain: np.ndarray
    wm: np.ndarray
    gm: np.ndarray
    csf: np.ndarray
    t1: np.ndarray
    depth: np.ndarray
    ventricle: np.ndarray
    plexus: np.ndarray
    sinus: np.ndarray
    age: float
    voxel_mm: int

    def whole(self, vector: np.ndarray) -> np.ndarray:
        """The vector as a field of the box's shape, 0 outside the brain."""
        field = np.zeros(self.brain.shape, vector.dtype)
        field[self.brain] = vector
        return field

    def noise(self, rng: np.random.Generator, spacing_mm: int) -> np.ndarray:
        """Smooth Gaussian noise of the box's shape; features are about 2 * spacing_mm wide."""
        return noise(rng, self.brain.shape, spacing_mm / self.voxel_mm)


@functools.cache
def template() -> dict[str, np.ndarray]:
    """float32 (197, 233, 189) maps of the MNI152 2009 template: t1, wm, gm in 0..1; depth and ventricle in mm, the
    first positive inside the brain, the second negative inside the lateral ventricles. Made once per process."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template  # slow import

    t1, gm, wm = (
        np.asarray(load(resolution=1).dataobj, dtype=np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    depth = signed_distance(t1 > 0)
    fluid = scipy.ndimage.binary_opening((gm + wm < 0.5) & (depth > 18))
    components, n = scipy.ndimage.label(fluid)
    sizes = scipy.ndimage.sum_labels(fluid, components, range(1, n + 1))
    lateral = components == 1 + int(np.argmax(sizes))
    ventricle = -2 * _double(signed_distance(lateral[::2, ::2, ::2]), t1.shape)
    return {"t1": t1, "wm": wm, "gm": gm, "depth": depth, "ventricle": ventricle}


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the mask's border in voxels, positive inside; float32."""
    inside, outside = scipy.ndimage.distance_transform_edt(mask), scipy.ndimage.distance_transform_edt(~mask)
    return (inside - outside).astype(np.float32)


def look_up(name: str, coordinates: np.ndarray) -> np.ndarray:
    """Template map at coordinates (3, ...), linearly interpolated; -20 outside the template for distances, else 0."""
    outside = -20.0 if name == "depth" else 0.0
    return scipy.ndimage.map_coordinates(template()[name], coordinates, order=1, prefilter=False, cval=outside)


# --- smooth fields ----------------------------------------------------------------------------------------------------


@functools.cache
def _spline_matrix(n: int, spacing: float) -> scipy.sparse.csr_array:
    """(n, nodes): cubic B-spline weights, node k lying at voxel (k - 1) * spacing. Reproduces linear fields exactly."""
    position = np.arange(n) / spacing
    first = np.floor(position).astype(int)
    t = (position - first).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3], axis=1) / 6
    columns = first[:, None] + np.arange(4)
    return scipy.sparse.csr_array(
        (weights.ravel(), (np.repeat(np.arange(n), 4), columns.ravel())), shape=(n, first[-1] + 4)
    )


def node_shape(shape: tuple[int, ...], spacing: float) -> tuple[int, ...]:
    """How many nodes `upsample` needs per axis for a field of `shape`."""
    return tuple(_spline_matrix(n, spacing).shape[1] for n in shape)


def upsample(nodes: np.ndarray, shape: tuple[int, ...], spacing: float) -> np.ndarray:
    """Cubic B-spline field of `shape` from its nodes. Sparse products, since BLAS may round differently per thread."""
    for axis in (2, 1, 0):
        moved = np.moveaxis(nodes, axis, 0)
        flat = _spline_matrix(shape[axis], spacing) @ np.ascontiguousarray(moved).reshape(len(moved), -1)
        nodes = np.moveaxis(flat.reshape(shape[axis], *moved.shape[1:]), 0, axis)
    return nodes


def noise(rng: np.random.Generator, shape: tuple[int, ...], spacing: float) -> np.ndarray:
    """Smooth Gaussian noise (float32) of SD about 1, whose features are about 2 * spacing voxels wide."""
    nodes = rng.standard_normal(node_shape(shape, spacing), np.float32)
    return upsample(nodes / np.float32(_SPLINE_SD), shape, spacing)


# --- one subject ------------------------------------------------------------------------------------------------------


def draw_pose(rng: np.random.Generator) -> Pose:
    """An affine transform and smooth displacements at three scales: the head's shape, its lobes, its folds."""
    counts = node_shape(SHAPE, NODE)
    position = np.stack(np.meshgrid(*[(np.arange(n) - 1.0) * NODE for n in counts], indexing="ij"))
    scale = rng.normal(0.93, 0.016) * np.exp(rng.normal(0, 0.02, 3))
    centre = np.array([119, 127, 69]) + rng.normal(0, (1, 2.5, 2)) - [s.start for s in BOX]
    # BraTS's x and y run to the left and back, the template's to the right and front.
    linear = _rotation(*np.deg2rad(rng.normal(0, (3, 2, 2.5)))) @ np.diag([-1, -1, 1] / scale)
    mapped = np.tensordot(linear, position - centre.reshape(3, 1, 1, 1), axes=1) + _MIDDLE.reshape(3, 1, 1, 1)
    for spacing, amplitude_mm in ((10, 2.6), (4, 1.5), (2, 0.8)):
        mapped += amplitude_mm * np.stack([noise(rng, counts, spacing) for _ in range(3)])
    return Pose(position, mapped, linear)


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def sample_anatomy(rng: np.random.Generator, mapped: np.ndarray, *, voxel_mm: int = 1) -> Anatomy:
    """The subject's anatomy from the template coordinates of its nodes (3, *nodes), on every voxel_mm-th voxel of BOX.

    The template is an average of 152 heads: its folds are blurred. The maps are sharpened at a level that smooth noise
    moves about, so that each subject gets crisp folds of its own where the average is unsure.
    """
    shape = tuple(-(-n // voxel_mm) for n in SHAPE)

    def texture(spacing_mm: int) -> np.ndarray:
        return noise(rng, shape, spacing_mm / voxel_mm)

    age = rng.beta(1.2, 1.2)
    coordinates = np.stack([upsample(axis.astype(np.float32), shape, NODE / voxel_mm) for axis in mapped])
    half = np.ascontiguousarray(coordinates[:, ::2, ::2, ::2])
    depth = _double(look_up("depth", half), shape)
    brain = depth + 0.8 * texture(3) > 0.6
    points, depth = coordinates[:, brain], depth[brain]
    ventricle = _double(look_up("ventricle", half), shape)[brain]
    wm, gm, t1 = look_up("wm", points), look_up("gm", points), look_up("t1", points)
    csf = np.clip(1 - wm - gm, 0, 1)

    cortical = scipy.special.expit((24 - depth) / 4) * scipy.special.expit((ventricle - 4) / 2)
    folds = texture(4)[brain] + 0.6 * texture(3)[brain]
    sharp_wm = scipy.special.expit(12 * (wm - 0.5 + 0.13 * folds))
    sharp_csf = scipy.special.expit(34 * (csf - 0.26 + 0.10 * age + 0.07 * texture(3)[brain]))
    ventricle = ventricle - np.float32(-0.5 + 4.0 * age * rng.uniform(0.3, 1))
    csf = np.maximum(cortical * sharp_csf + (1 - cortical) * csf, scipy.special.expit(-2.5 * ventricle))
    wm = (cortical * sharp_wm + (1 - cortical) * wm) * (1 - csf)

    # a skull-stripper takes some of the fluid on the surface away, more in one subject than in another
    kept = (csf < 0.7) | (depth > rng.uniform(0, 4.5))
    brain[brain] = kept
    x, y, z = points
    off_midline = np.abs(x - _MIDDLE[0])
    plexus = np.exp(
        -(np.square(off_midline - _ATRIUM[0]) + np.square(y - _ATRIUM[1]) + np.square(z - _ATRIUM[2])) / 150
    )
    surface = scipy.special.expit((3.0 - depth) / 0.6) * scipy.special.expit((60 - np.minimum(y, 220 - z * 1.4)) / 5)
    sinus = np.exp(-np.square(off_midline / 2.5)) * surface
    vectors = {"wm": wm, "gm": 1 - wm - csf, "csf": csf, "t1": t1, "depth": depth, "ventricle": ventricle}
    vectors |= {"plexus": plexus, "sinus": sinus}
    vectors = {name: v[kept].astype(np.float32) for name, v in vectors.items()}
    return Anatomy(brain=brain, age=age, voxel_mm=voxel_mm, **vectors)


def _double(half: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Twice as many voxels along each axis by linear interpolation, cut to `shape`."""
    for axis, n in enumerate(shape):
        last = np.take(half, [-1], axis=axis)
        following = np.concatenate([np.delete(half, 0, axis=axis), last], axis=axis)
        pairs = np.stack([half, (half + following) / 2], axis=axis + 1)
        half = np.take(pairs.reshape(*half.shape[:axis], -1, *half.shape[axis + 1 :]), range(n), axis=axis)
    return half

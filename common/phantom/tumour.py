"""Tumour of a phantom: where it lies, how it pushes, its core, enhancing rim, necrosis and oedema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts when they are first used: a third of a second

from common.phantom.anatomy import Anatomy, Pose, look_up, node_shape, noise, upsample

_COARSE = 3  # mm, grid on which oedema spreads (4 when a voxel has 2 mm)
_STEPS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]


@dataclass(frozen=True)
class Focus:
    """One tumour core: centre in mm from the box's first voxel, mean radius in mm."""

    centre: np.ndarray
    radius: float


@dataclass(frozen=True)
class Tumour:
    """labels: uint8 classes, the box's shape. Level sets in about mm, vectors over brain voxels: core (negative inside
    the tumour core), enhancing (positive in the rim), rim (the rim's thickness), spread (negative in the oedema)."""

    labels: np.ndarray
    core: np.ndarray
    enhancing: np.ndarray
    rim: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a tumour grows, where it is drawn at random the two ends of a uniform distribution; lengths in mm."""

    lobes: tuple[float, float] = (0.16, 0.055)
    """Amplitudes of the core's coarse and fine irregularity, of its radius."""
    rim: tuple[float, float] = (3.5, 7.5)
    """Mean thickness of the enhancing rim."""
    gap: tuple[float, float] = (1.5, 2.5)
    """Parts of the rim above so many standard deviations of smooth noise do not enhance."""
    enhances: bool = True
    oedema_ml: tuple[float, float] = (48, 0.75)
    """Median volume of the oedema, and the SD of its logarithm."""
    oedema_limits_ml: tuple[float, float] = (9, 165)


def place_foci(rng: np.random.Generator, pose: Pose, case: str) -> list[Focus]:
    """Foci in cerebral white matter, each core within one hemisphere, the second of two within reach of the first."""
    wm, depth, ventricle = (look_up(name, pose.template) for name in ("wm", "depth", "ventricle"))
    off_midline, height = np.abs(pose.template[0] - 98), pose.template[2]

    def draw(radius: float, allowed: np.ndarray) -> Focus:
        room = (
            (wm > 0.6) & (depth > 0.55 * radius) & (off_midline > 0.75 * radius + 4) & (height > 55) & (ventricle > 3)
        )
        candidates = np.argwhere(room & allowed)
        return Focus(pose.position[(slice(None), *candidates[rng.integers(len(candidates))])], radius)

    radius = rng.uniform(6, 9) if case == "tiny_core" else float(np.clip(rng.normal(17.5, 3.5), 10, 23))
    foci = [draw(radius, np.ones(wm.shape, bool))]
    if case == "two_foci":
        second = float(rng.uniform(9, 13))
        distance = np.sqrt(np.sum(np.square(pose.position - foci[0].centre.reshape(3, 1, 1, 1)), axis=0))
        foci.append(draw(second, (distance > 1.2 * (radius + second)) & (distance < radius + second + 45)))
    return foci


def push_tissue(rng: np.random.Generator, pose: Pose, foci: list[Focus]) -> np.ndarray:
    """The pose's template coordinates (3, *nodes) with the mass effect: tissue moves away from each core."""
    mapped = pose.template.copy()
    free = np.clip(look_up("depth", pose.template) / 12, 0, 1)  # the skull does not give way
    for focus in foci:
        offset = pose.position - focus.centre.reshape(3, 1, 1, 1)
        reach = 1.25 * focus.radius + 4
        push = rng.uniform(0.2, 0.5) * free * np.exp(-np.sum(np.square(offset), axis=0) / (2 * reach**2))
        mapped -= np.tensordot(pose.linear, push * offset, axes=1)
    return mapped


def grow_tumour(rng: np.random.Generator, anatomy: Anatomy, foci: list[Focus], growth: Growth = Growth()) -> Tumour:
    """Core, rim and oedema as smooth level sets, and the labels that a rater would draw along them."""
    brain, tissue = anatomy.brain, anatomy.csf < 0.6

    def texture(spacing_mm: int) -> np.ndarray:
        return anatomy.noise(rng, spacing_mm)

    core = np.full(brain.shape, 1e3, np.float32)
    for focus in foci:
        stretch = np.exp(rng.normal(0, 0.13, 3)).astype(np.float32)
        x, y, z = (
            np.square((np.arange(n, dtype=np.float32) * anatomy.voxel_mm - c) / s)
            for n, c, s in zip(brain.shape, focus.centre.astype(np.float32), stretch, strict=True)
        )
        core = np.minimum(core, np.sqrt(x[:, None, None] + y[:, None] + z) - np.float32(focus.radius))
    radius = np.float32(foci[0].radius)
    coarse, fine = growth.lobes
    core += radius * (coarse * texture(8) + fine * texture(4)) + 0.4 * texture(2)
    core_in = core[brain] + 6 * anatomy.csf * (anatomy.ventricle < 6)  # stays out of the ventricles

    rim = np.float32(rng.uniform(*growth.rim)) * np.exp(0.4 * texture(5)[brain])
    gap = texture(6)[brain] - rng.uniform(*growth.gap)  # positive where the rim does not enhance
    pocket = texture(3)[brain] - rng.uniform(1.4, 2.4)  # positive in enhancing islands of the core
    enhancing = np.minimum(np.maximum(core_in + rim, 2.5 * pocket), -2.5 * gap)
    if not growth.enhances:
        enhancing[:] = -5

    spread = _spread_oedema(rng, anatomy, anatomy.whole(core_in), growth)
    labels = np.where((spread < 0) & tissue, 2, 0).astype(np.uint8)
    labels[core_in < 0] = 1
    labels[(core_in < 0) & (enhancing > 0)] = 3
    return Tumour(anatomy.whole(labels), core_in, enhancing, rim, spread)


def _spread_oedema(rng: np.random.Generator, anatomy: Anatomy, core: np.ndarray, growth: Growth) -> np.ndarray:
    """Level set, vector over brain voxels, negative in the oedema: travel time of water from the core, less its extent.

    Water runs along white matter, hardly into cortex, not through fluid. The time is relaxed on a coarse grid over all
    neighbours (Bellman-Ford), far enough for any oedema; the extent is the time that holds the volume drawn.
    """
    every = round(_COARSE / anatomy.voxel_mm)
    coarse = every * anatomy.voxel_mm
    step = (slice(None, None, every),) * 3
    wm, csf, brain = anatomy.whole(anatomy.wm)[step], anatomy.whole(anatomy.csf)[step], anatomy.brain[step]
    passable = brain & (csf < 0.6)
    speed = 0.08 + 0.92 * np.clip(scipy.ndimage.uniform_filter(wm, 2), 0, 1) ** 1.5
    cost = np.where(passable, coarse / speed * np.exp(0.45 * noise(rng, wm.shape, 4)), 60).astype(np.float32)
    inside = brain & (core[step] < 0)
    arrival = np.where(inside, 0, 1e4).astype(np.float32)
    ways = []
    for offset in _STEPS:
        here = tuple(slice(max(o, 0), n + min(o, 0)) for o, n in zip(offset, arrival.shape, strict=True))
        there = tuple(slice(max(-o, 0), n + min(-o, 0)) for o, n in zip(offset, arrival.shape, strict=True))
        ways.append((here, there, np.float32(np.linalg.norm(offset) / 2) * (cost[here] + cost[there])))
    for _ in range(30):
        for here, there, way in ways:
            np.minimum(arrival[here], arrival[there] + way, out=arrival[here])
            np.minimum(arrival[there], arrival[here] + way, out=arrival[there])
    median_ml, spread = growth.oedema_ml
    volume_ml = np.clip(np.exp(rng.normal(np.log(median_ml), spread)), *growth.oedema_limits_ml)
    outside = np.sort(arrival[passable & ~inside])
    extent = outside[min(int(volume_ml * 1000 / coarse**3), len(outside) - 1)]
    nodes = np.pad(np.minimum(arrival, 3 * extent + 30) - extent, [(1, 3)] * 3, mode="edge")
    used = node_shape(anatomy.brain.shape, every)
    return upsample(nodes[: used[0], : used[1], : used[2]], anatomy.brain.shape, every)[anatomy.brain]

"""Synthetic patients drawn far beyond any scanner and any one hospital's tumours, to be mixed into real training.

Domain randomisation (Billot et al. 2023, "SynthSeg"): a network that has seen contrasts, noise, resolutions and heads
of every sort learns what stays the same. The anatomy and the growth of tumours are the embedded phantoms'; drawn anew
are the head's shape, the kind of tumour, the mean of each tissue in each contrast, and the scanner's faults.
What always holds is what a radiologist goes by: enhancement is what T1ce shows more brightly than T1 and than all
around it, oedema is bright in FLAIR, and the core differs from the oedema in one contrast or more.

A subject is a pure function of (seed, subject), its kind of the number alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import scipy  # its parts when they are first used: a third of a second

from common.files import write_csv
from common.phantom.anatomy import BOX, NODE, Anatomy, Pose, draw_pose, look_up, node_shape, noise, sample_anatomy
from common.phantom.anatomy import SHAPE as BOX_SHAPE
from common.phantom.cohort import AFFINE, SHAPE, Phantom, draw_contrasts, resample_slices, write_phantom
from common.phantom.folder import fill
from common.phantom.tumour import Focus, Growth, Tumour, grow_tumour, push_tissue
from common.subject import CONTRASTS

GENERATOR_VERSION = 1
"""Raise it whenever a change alters any voxel: a folder made by another version is then refused, not mixed."""
Kind = Literal["typical", "no_enhancement", "several", "no_necrosis", "huge", "cavity", "tiny"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What subject i is: KINDS[i % 7]. no_enhancement: no ET. no_necrosis: the core is all ET. cavity: after an operation,
fluid (background) in an incomplete rim of ET, no NCR."""
KINDS_FILE = "kinds.csv"

_BRAIN_CENTRE = (98.0, 113.0, 78.0)  # of the template, voxels
_MARGIN = 0.3  # of the brain's median, by which what must be told apart differs
_TISSUES = ("wm", "gm", "csf", "ED", "ET", "NCR")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """The two ends of the number of foci and of their radii in mm, and growth as in ``Growth``."""

    foci: tuple[int, int] = (1, 2)
    radius: tuple[float, float] = (6, 24)
    rim: tuple[float, float] = (1.5, 9)
    oedema_ml: tuple[float, float] = (35, 1.0)
    oedema_limits_ml: tuple[float, float] = (0.5, 180)
    lobes: tuple[float, float] = (0.08, 0.28)
    fingers: tuple[float, float] = (0, 15)
    """How far grey matter keeps the oedema back, in mm."""
    enhances: bool = True


_DRAWN = {
    "typical": _Kind(),
    "no_enhancement": _Kind(radius=(9, 28), enhances=False),
    "several": _Kind(foci=(3, 6), radius=(3, 13)),
    "no_necrosis": _Kind(radius=(4, 18)),
    "huge": _Kind(foci=(1, 1), radius=(27, 38), oedema_ml=(90, 0.6), oedema_limits_ml=(20, 260)),
    "cavity": _Kind(foci=(1, 1), radius=(12, 26), rim=(1.5, 4), lobes=(0.08, 0.16)),
    "tiny": _Kind(
        foci=(1, 1), radius=(3, 5.5), rim=(1, 3), oedema_ml=(2, 0.8), oedema_limits_ml=(0.2, 8), fingers=(0, 2)
    ),
}


def kind_of(subject: int) -> Kind:
    """The kind of tumour of a subject, by its number."""
    return KINDS[subject % len(KINDS)]


def name_of(subject: int) -> str:
    return f"Randomised_{subject:05d}"


def make_randomised(subject: int, *, seed: int) -> Phantom:
    """Synthetic subject number ``subject`` of the randomised cohort ``seed``; the same two give the same voxels.

    Raises ValueError when either is negative.
    """
    if subject < 0 or seed < 0:
        raise ValueError(f"subject and seed must be 0 or more, got subject={subject} and seed={seed}.")
    rng = np.random.default_rng([seed, subject, 1])  # three numbers: no stream of the embedded phantoms'
    kind = kind_of(subject)
    pose = _reshaped(rng, draw_pose(rng))
    foci = _place(rng, pose, _DRAWN[kind])
    anatomy = sample_anatomy(rng, push_tissue(rng, pose, foci))
    tumour = grow_tumour(rng, anatomy, foci, _growth(rng, _DRAWN[kind]))
    tumour = _fingered(tumour, anatomy, rng.uniform(*_DRAWN[kind].fingers))
    tumour, cavity = _of_kind(kind, tumour, anatomy)
    draw = _realistic if rng.random() < 0.5 else _random
    images = {}
    for contrast, vector in draw(rng, anatomy, tumour).items():
        fluid = np.median(vector[anatomy.csf > 0.9])
        whole = anatomy.whole(vector + cavity * (fluid - vector))
        images[contrast] = np.zeros(SHAPE, np.int16)
        images[contrast][BOX] = _acquire(rng, whole, anatomy.brain)
    labels = np.zeros(SHAPE, np.uint8)
    labels[BOX] = tumour.labels
    return Phantom(name_of(subject), images, labels, AFFINE.copy(), kind)


# --- shape ------------------------------------------------------------------------------------------------------------


def _reshaped(rng: np.random.Generator, pose: Pose) -> Pose:
    """Another head: scaled and sheared further along each axis, and bent."""
    centre = np.reshape(_BRAIN_CENTRE, (3, 1, 1, 1))
    stretch = np.diag(np.exp(rng.normal(0.03, 0.06, 3))) + rng.normal(0, 0.03, (3, 3))
    counts = node_shape(BOX_SHAPE, NODE)
    bend = rng.uniform(0, 4) * np.stack([noise(rng, counts, 8) for _ in range(3)])
    template = np.tensordot(stretch, pose.template - centre, axes=1) + centre + bend
    return Pose(pose.position, template, stretch @ pose.linear)


def _place(rng: np.random.Generator, pose: Pose, drawn: _Kind) -> list[Focus]:
    """Foci anywhere in white matter, on the midline and in the cerebellum too, apart from each other where possible."""
    wm, depth, ventricle = (look_up(name, pose.template) for name in ("wm", "depth", "ventricle"))
    foci: list[Focus] = []
    allowed = (wm > 0.5) & (ventricle > 1)
    for _ in range(int(rng.integers(*drawn.foci, endpoint=True))):
        radius = float(rng.uniform(*drawn.radius))
        room = allowed & (depth > 0.5 * radius)
        nodes = np.argwhere(room if room.any() else allowed & (depth > 2))
        if not len(nodes):
            break
        foci.append(Focus(pose.position[(slice(None), *nodes[rng.integers(len(nodes))])], radius))
        distance = np.sqrt(np.sum(np.square(pose.position - foci[-1].centre.reshape(3, 1, 1, 1)), axis=0))
        allowed &= distance > 1.3 * radius + 5
    return foci


def _growth(rng: np.random.Generator, drawn: _Kind) -> Growth:
    thickness, gap = rng.uniform(*drawn.rim), rng.uniform(0.9, 2.6)
    return Growth(
        lobes=(rng.uniform(*drawn.lobes), rng.uniform(0.02, 0.10)),
        rim=(thickness, 1.3 * thickness),
        gap=(gap, gap + 0.3),
        enhances=drawn.enhances,
        oedema_ml=drawn.oedema_ml,
        oedema_limits_ml=drawn.oedema_limits_ml,
    )


def _fingered(tumour: Tumour, anatomy: Anatomy, mm: float) -> Tumour:
    """Oedema that grey matter keeps back by so many mm: it ends in fingers between the folds."""
    spread = tumour.spread + np.float32(mm) * anatomy.gm
    labels = tumour.labels[anatomy.brain]
    labels[(labels == 2) & (spread >= 0)] = 0
    return replace(tumour, labels=anatomy.whole(labels), spread=spread)


def _of_kind(kind: Kind, tumour: Tumour, anatomy: Anatomy) -> tuple[Tumour, np.ndarray]:
    """The tumour as its kind wants it, and how much of each brain voxel is a cavity (0..1)."""
    cavity = np.zeros(tumour.core.shape, np.float32)
    labels = tumour.labels[anatomy.brain]
    if kind == "no_necrosis":
        labels[labels == 1] = 3
        tumour = replace(tumour, enhancing=np.maximum(tumour.enhancing, 0.5 - tumour.core))
    elif kind == "cavity":
        depth = tumour.core + tumour.rim  # negative in the cavity
        enhancing = np.minimum(tumour.enhancing, depth)
        cavity = scipy.special.expit(-depth / 0.4)
        labels[tumour.core < 0] = 2
        labels[depth < 0] = 0
        labels[(tumour.core < 0) & (enhancing > 0)] = 3
        # Only the rim that is left is solid; where it is not, there is oedema.
        spread = np.minimum(tumour.spread, tumour.core)
        tumour = replace(tumour, core=np.maximum(tumour.core, -enhancing), enhancing=enhancing, spread=spread)
    return replace(tumour, labels=anatomy.whole(labels)), cavity


# --- contrasts --------------------------------------------------------------------------------------------------------


def _realistic(rng: np.random.Generator, anatomy: Anatomy, tumour: Tumour) -> dict[str, np.ndarray]:
    """The embedded phantoms' contrasts with every tissue moved and the scale of grey values bent."""
    images = {}
    for contrast, image in draw_contrasts(rng, anatomy, tumour).items():
        wm, gm, csf = rng.normal(0, 0.15, 3)
        moved = np.maximum(image + wm * anatomy.wm + gm * anatomy.gm + csf * anatomy.csf, 0.05)
        images[contrast] = (moved ** np.exp(rng.normal(0, 0.25))).astype(np.float32)
    return images


def _random(rng: np.random.Generator, anatomy: Anatomy, tumour: Tumour) -> dict[str, np.ndarray]:
    """Contrasts with a random mean for each tissue and a random SD of its texture."""
    levels = draw_levels(rng)
    blur = rng.uniform(0.3, 1.0)  # mm over which the borders of the parts fade
    oedema = scipy.special.expit(-1.5 * (tumour.spread / rng.uniform(0.6, 4.0) + 0.2)) * (1 - anatomy.csf)
    inside, enhancing = scipy.special.expit(-tumour.core / blur), scipy.special.expit(tumour.enhancing / blur)
    weights = {"wm": anatomy.wm, "gm": anatomy.gm, "csf": anatomy.csf}
    weights = {name: weight * (1 - oedema) for name, weight in weights.items()} | {"ED": oedema}
    weights["ED"] = 1 - weights["wm"] - weights["gm"] - weights["csf"]
    weights = {name: weight * (1 - inside) for name, weight in weights.items()}
    weights |= {"ET": inside * enhancing, "NCR": inside * (1 - enhancing)}
    textures = [anatomy.noise(rng, spacing)[anatomy.brain] for spacing in (2, 4, 9)]
    images = {}
    for contrast, level in levels.items():
        image = np.zeros(anatomy.wm.shape, np.float32)
        for name, weight in weights.items():
            texture = textures[rng.integers(len(textures))]
            image += weight * (np.float32(level[name]) + np.float32(rng.uniform(0, 0.12)) * texture)
        images[contrast] = np.maximum(image, 0.02)
    return images


def draw_levels(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Mean of each tissue and part of the tumour in each contrast, near 1; what always holds is told above."""
    levels = {
        contrast: dict(zip(_TISSUES, rng.uniform(0.15, 2.0, len(_TISSUES)), strict=True)) for contrast in CONTRASTS
    }
    flair, t1, t1ce = (levels[contrast] for contrast in ("FLAIR", "T1", "T1ce"))
    if rng.random() < 0.7:  # as a rule the agent changes nothing else
        t1ce |= {name: t1[name] * float(np.exp(rng.normal(0, 0.04))) for name in ("wm", "gm", "csf", "ED", "NCR")}
    flair["ED"] = max(flair["wm"], flair["gm"]) + _MARGIN + rng.uniform(0.1, 1.2)
    apart = levels[CONTRASTS[rng.integers(len(CONTRASTS))]]
    apart["NCR"] = apart["ED"] + (_MARGIN + rng.uniform(0, 0.7)) * (1 if apart["ED"] < 1 or rng.random() < 0.5 else -1)
    apart["NCR"] = max(apart["NCR"], 0.05)
    t1ce["ET"] = max(t1["ET"], *(t1ce[name] for name in ("wm", "gm", "ED", "NCR"))) + _MARGIN + rng.uniform(0, 1.2)
    return levels


def _acquire(rng: np.random.Generator, image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """int16, the box's shape: inhomogeneity, blur, thick slices along any axis, Rician noise, any scale."""
    image = image * np.exp(np.float32(rng.uniform(0.02, 0.35)) * noise(rng, image.shape, int(rng.integers(18, 60))))
    if rng.random() < 0.5:
        image = scipy.ndimage.gaussian_filter(image, rng.uniform(0.2, 1.2, 3))
    axis = int(rng.choice(3, p=(0.2, 0.2, 0.6)))
    thickness = int(rng.integers(2, 8)) if rng.random() < 0.5 else 1
    n = image.shape[axis]
    if thickness > 1:
        image = scipy.ndimage.uniform_filter1d(image, thickness, axis=axis)
        image = np.moveaxis(np.moveaxis(image, axis, 2)[:, :, ::thickness], 2, axis)
    sigma = np.float32(np.exp(rng.uniform(np.log(0.01), np.log(0.25))))
    real, imaginary = rng.standard_normal((2, *image.shape), np.float32) * sigma
    image = np.sqrt(np.square(image + real) + np.square(imaginary))
    if thickness > 1:
        image = np.moveaxis(resample_slices(np.moveaxis(image, axis, 2), thickness, n), 2, axis)
    scale = np.float32(np.exp(rng.uniform(np.log(80), np.log(4000))))
    return np.where(brain, np.clip(np.rint(image * scale), 1, 32767), 0).astype(np.int16)


# --- the cohort on disk -----------------------------------------------------------------------------------------------


def write_randomised(folder: Path | str, *, n_subjects: int, seed: int, n_jobs: int = -1) -> Path:
    """Write subjects 0 .. n_subjects - 1 as ``common.phantom.cohort.write_cohort`` does, and return the folder.

    Beside them lies kinds.csv: the columns subject and kind, of every subject that the folder holds.
    Raises ValueError when the folder holds another cohort, or n_subjects < 1.
    """
    if n_subjects < 1:
        raise ValueError(f"n_subjects must be at least 1, got {n_subjects}.")
    folder = fill(
        Path(folder),
        [name_of(subject) for subject in range(n_subjects)],
        functools.partial(_write_subject, seed=seed),
        identity={"generator": "phantom_randomised", "version": GENERATOR_VERSION, "seed": seed},
        n_jobs=n_jobs,
        what="randomised subjects",
    )
    held = [
        subject for subject in range(len(list(folder.glob("Randomised_*")))) if (folder / name_of(subject)).exists()
    ]
    write_csv(folder / KINDS_FILE, pd.DataFrame({"subject": map(name_of, held), "kind": map(kind_of, held)}))
    return folder


def _write_subject(subject: int, folder: Path, *, seed: int) -> None:
    write_phantom(make_randomised(subject, seed=seed), folder)

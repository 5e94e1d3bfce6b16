"""Rigid registration of one contrast to another by mutual information, coarse to fine (SimpleITK).

Mattes' mutual information on voxels that are drawn by a fixed seed, in one thread: the same images give the same
transform to the last bit. It begins where the headers say the patient lay and where the images' centres of mass would
meet, and goes on from the better of the two; a result that is worse than the headers' own is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.preprocess.space import in_words, load_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk

LEVELS_MM = (4.0, 2.0, 1.0)
"""Voxel sizes, coarse to fine, each with a Gaussian of half its size."""
SAMPLES = 40_000
BINS = 48
SEED = 20_211


@dataclass(frozen=True)
class Motion:
    """How a contrast was brought to the reference.

    transform: from the reference's space (mm) to the contrast's. moved_mm, turned_degrees: how far it carries the
    middle of the reference's field of view, and turns it. start: where the search began. gain: mutual information
    above that of the headers' own place; 0 where they were as good.
    """

    transform: sitk.Transform
    moved_mm: float
    turned_degrees: float
    start: str
    gain: float

    def __str__(self) -> str:
        if not self.gain:
            return "left where its header has it"
        return f"moved by {self.moved_mm:.1f} mm and turned by {self.turned_degrees:.1f} degrees, begun at {self.start}"


@in_words("two images of one head to register")
def register(fixed: sitk.Image, moving: sitk.Image) -> Motion:
    """The rigid motion from ``fixed``, the reference, to ``moving``, both float32 in the patient's space.

    Raises ValueError when they have nothing in common that could be registered.
    """
    sitk = load_sitk()
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    still = sitk.Euler3DTransform()
    still.SetCenter(middle)
    centred = sitk.Euler3DTransform(still)
    centred.SetTranslation((_centre_of_mass(moving) - _centre_of_mass(fixed)).tolist())
    images = [_level(fixed, level) for level in LEVELS_MM], [_level(moving, level) for level in LEVELS_MM]
    begun = {"its header's place": still, "the centre of mass": centred}
    coarse = {start: _optimised(images[0][0], images[1][0], at, level=0) for start, at in begun.items()}
    start = min(coarse, key=lambda start: _metric(images[0][0], images[1][0], coarse[start], level=0))
    transform = coarse[start]
    for level in range(1, len(LEVELS_MM)):
        transform = _optimised(images[0][level], images[1][level], transform, level=level)
    before, after = (_metric(images[0][1], images[1][1], at, level=1) for at in (still, transform))
    if after >= before:
        return Motion(still, 0.0, 0.0, "its header's place", 0.0)
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    return Motion(
        transform,
        float(np.linalg.norm(np.array(transform.TransformPoint(middle)) - middle)),
        float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))),
        start,
        before - after,
    )


def _level(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Smoothed and resampled to about cubic voxels: of uneven ones, the short sides would rule the metric."""
    sitk = load_sitk()
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    smoothed = sitk.SmoothingRecursiveGaussian(image, [max(voxel_mm / 2, 1e-3)] * 3)
    shape = np.maximum(1, np.round(size * spacing / voxel_mm)).astype(int)
    steps = size * spacing / shape
    origin = image.TransformContinuousIndexToPhysicalPoint(((steps / spacing - 1) / 2).tolist())
    return sitk.Resample(
        smoothed,
        shape.tolist(),
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkLinear,
        origin,
        steps.tolist(),
        image.GetDirection(),
        0.0,
    )


def _method(fixed: sitk.Image, *, level: int) -> sitk.ImageRegistrationMethod:
    sitk = load_sitk()
    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(1)
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    share = min(1.0, SAMPLES / np.prod(fixed.GetSize()))
    method.SetMetricSamplingStrategy(method.RANDOM if share < 1 else method.NONE)
    method.SetMetricSamplingPercentage(float(share), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseFixedImageGradientFilterOff()  # gradients at the samples alone
    method.MetricUseMovingImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=LEVELS_MM[level],
        minStep=LEVELS_MM[level] / 400,
        numberOfIterations=100,
        relaxationFactor=0.5,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _optimised(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform, *, level: int
) -> sitk.Euler3DTransform:
    sitk = load_sitk()
    method = _method(fixed, level=level)
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform


def _metric(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, *, level: int) -> float:
    """Negative mutual information: the lower, the better."""
    method = _method(fixed, level=level)
    method.SetInitialTransform(transform)
    return method.MetricEvaluate(fixed, moving)


def _centre_of_mass(image: sitk.Image) -> np.ndarray:
    """In mm, of grey values above the mean, which noise in the air has none of."""
    sitk = load_sitk()
    values = sitk.GetArrayViewFromImage(image)
    bright = np.argwhere(values > values.mean())
    middle = bright.mean(axis=0)[::-1] if len(bright) else (np.array(image.GetSize()) - 1) / 2
    return np.array(image.TransformContinuousIndexToPhysicalPoint(middle.tolist()))

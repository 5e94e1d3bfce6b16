"""HD95 weighed by area against the package that defines it, and where that package has no answer."""

import numpy as np
import pytest
from scipy import ndimage

from common import surfels
from common.metrics import hausdorff


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the package's way to scipy.ndimage
@pytest.mark.parametrize("seed", range(12))
def test_equals_surface_distance(seed):
    import surface_distance

    rng = np.random.default_rng(seed)
    shape, spacing_mm = rng.integers(4, 18, 3), ((1, 1, 1), (0.7, 1.3, 2.9))[seed % 2]
    noise = [ndimage.gaussian_filter(rng.normal(size=shape), seed // 2 % 3) for _ in range(2)]
    prediction, truth = (each > np.quantile(each, 0.7) for each in noise)
    distances = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    for percentile in (50, 95, 100):
        expected = surface_distance.compute_robust_hausdorff(distances, percentile)
        assert surfels.hausdorff(prediction, truth, spacing_mm=spacing_mm, percentile=percentile) == expected


def test_counts_area_and_not_voxels():
    """A slab of 20 × 20 voxels, and the same with a spike of 8: under 5 % of the surface by area, so HD95 stays 0."""
    truth = np.zeros((20, 20, 12), bool)
    truth[:, :, 0] = True
    prediction = truth.copy()
    prediction[9, 9, :9] = True
    assert surfels.hausdorff(prediction, truth, spacing_mm=(1, 1, 2), percentile=95) == 0
    assert surfels.hausdorff(prediction, truth, spacing_mm=(1, 1, 2)) == 16


def test_empty_masks_and_bad_input_as_in_metrics():
    nothing, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    assert surfels.hausdorff(nothing, nothing, spacing_mm=(1, 1, 1)) == 0
    assert surfels.hausdorff(nothing, full, spacing_mm=(1, 1, 1)) == np.inf
    for measure in (surfels.hausdorff, hausdorff):
        with pytest.raises(ValueError, match="Both must be"):
            measure(full, full[1:], spacing_mm=(1, 1, 1))
        with pytest.raises(TypeError, match="A mask must be boolean, received uint8"):
            measure(full.view(np.uint8), full, spacing_mm=(1, 1, 1))
        with pytest.raises(ValueError, match="percentile must lie between 0 and 100, received 950"):
            measure(full, full, spacing_mm=(1, 1, 1), percentile=950)
        with pytest.raises(ValueError, match="spacing_mm must be one positive number per axis"):
            measure(full, full, spacing_mm=(1, 1))

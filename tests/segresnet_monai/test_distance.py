"""The distance transform against scipy's and against distances counted by hand, on both of its paths."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

torch = pytest.importorskip("torch")

from segresnet_monai import distance  # noqa: E402
from segresnet_monai.distance import by_comparison, squared_distance  # noqa: E402


def without_infinities(masks):
    """The GPU's path, which works on any device, as squared_distance uses it."""
    squared = by_comparison(masks)
    return squared.masked_fill(squared.isinf(), 0)


PATHS = pytest.mark.parametrize("transform", [squared_distance, without_infinities])


def reference(mask):
    """Each side by scipy, in float64; what has no other side is 0."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return distance_transform_edt(mask) ** 2 + distance_transform_edt(~mask) ** 2


@PATHS
@pytest.mark.parametrize("shape", [(9, 9, 9), (3, 40, 7), (1, 5, 33), (24, 1, 2)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_every_mask_of_a_batch_equals_scipys(transform, shape, share):
    masks = np.random.default_rng(0).random((2, 3, *shape)) < share
    masks[0, 1], masks[1, 2] = False, True
    expected = np.array([[reference(mask) for mask in sample] for sample in masks])
    squared = transform(torch.from_numpy(masks))
    assert squared.dtype == torch.float32
    np.testing.assert_allclose(squared, expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(squared, squared.round())


@PATHS
def test_distances_counted_by_hand(transform):
    """One voxel at (1, 2, 0) of 4 x 5 x 3: a corner at (3, 4, 2) is 2, 2 and 2 away, and it itself 1 from outside."""
    mask = torch.zeros(1, 1, 4, 5, 3, dtype=torch.bool)
    mask[0, 0, 1, 2, 0] = True
    squared = transform(mask)[0, 0]
    assert squared[3, 4, 2] == 12
    assert squared[1, 2, 0] == 1
    assert squared[0, 0, 0] == 5
    # Both values are treated alike, and the edge of the volume is no boundary.
    torch.testing.assert_close(transform(~mask)[0, 0], squared, rtol=0, atol=0)


@PATHS
@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_a_boundary_has_no_distances(transform, value):
    assert not transform(torch.full((1, 2, 4, 5, 6), value)).any()


@PATHS
def test_memory_order_changes_nothing(transform):
    masks = torch.from_numpy(np.random.default_rng(1).random((2, 3, 6, 8, 10)) < 0.3)
    turned = masks.contiguous(memory_format=torch.channels_last_3d)
    assert not turned.is_contiguous()
    torch.testing.assert_close(transform(turned), transform(masks), rtol=0, atol=0)
    assert transform(turned).is_contiguous()


@pytest.mark.parametrize("comparisons", [1, 1000, 10**6])
def test_few_comparisons_at_a_time_give_the_same(monkeypatch, comparisons):
    masks = torch.from_numpy(np.random.default_rng(2).random((1, 2, 7, 9, 11)) < 0.2)
    expected = squared_distance(masks)
    monkeypatch.setattr(distance, "COMPARISONS", comparisons)
    torch.testing.assert_close(without_infinities(masks), expected, rtol=0, atol=0)


def test_numbers_are_no_masks():
    with pytest.raises(TypeError, match=r"expected boolean masks, received torch\.float32"):
        squared_distance(torch.zeros(1, 1, 2, 2, 2))

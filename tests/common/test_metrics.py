"""Metrics against brute force over all voxel pairs, numbers derived by hand, MONAI and surface-distance."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from common import metrics

SPACING_MM = (0.7, 1.3, 2.9)
MONAI_WARNINGS = pytest.mark.filterwarnings(
    # MONAI 1.6 calls its own function with an argument that it has deprecated.
    "ignore:.*always_return_as_numpy:FutureWarning"
)
SURFACE_DISTANCE_WARNINGS = pytest.mark.filterwarnings(
    # surface-distance 0.1 reaches scipy.ndimage through its deprecated namespaces.
    "ignore:Please import `:DeprecationWarning"
)


def brute_force_surface(mask):
    """Set voxels with an unset or missing face neighbour, one voxel at a time."""
    surface = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(3), (-1, 1)):
            neighbour = list(voxel)
            neighbour[axis] += step
            outside = not 0 <= neighbour[axis] < mask.shape[axis]
            if outside or not mask[tuple(neighbour)]:
                surface.append(voxel)
                break
    return np.array(surface, dtype=float).reshape(-1, 3)


def brute_force_distances(source, target, spacing_mm):
    """Ascending distance of each surface voxel of source to the nearest of target, from all pairs."""
    here, there = (brute_force_surface(mask) * spacing_mm for mask in (source, target))
    if not len(there):
        return np.full(len(here), np.inf)
    pairs = np.linalg.norm(here[:, None] - there[None], axis=-1)
    return np.sort(pairs.min(axis=1)) if len(here) else np.empty(0)


def blobs(seed, shape=(12, 11, 9), share=0.25):
    """Two overlapping smooth random masks that reach the border of the volume."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    fields = [ndimage.gaussian_filter(common + 0.5 * rng.normal(size=shape), 1) for _ in range(2)]
    return [field > np.quantile(field, 1 - share) for field in fields]


def random_labels(seed, shape=(14, 12, 10)):
    rng = np.random.default_rng(seed)
    return [rng.choice(4, size=shape, p=[0.85, 0.05, 0.06, 0.04]).astype(np.uint8) for _ in range(2)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.9])
@pytest.mark.parametrize("spacing_mm", [SPACING_MM, (2.0, 0.5, 1.0)])
def test_every_distance_equals_brute_force(seed, share, spacing_mm):
    prediction, truth = blobs(seed, share=share)
    found = metrics.surface_distances(prediction, truth, spacing_mm=spacing_mm)
    for distances, pair in zip(found, ((prediction, truth), (truth, prediction)), strict=True):
        np.testing.assert_allclose(distances, brute_force_distances(*pair, spacing_mm), rtol=1e-12)
    expected = max(np.percentile(distances, 95) for distances in found)
    assert metrics.hausdorff(prediction, truth, spacing_mm=spacing_mm, percentile=95) == pytest.approx(expected)


@pytest.mark.parametrize("query_cost", [-1e9, 1e9], ids=["tree", "transform"])
@pytest.mark.parametrize("seed", [0, 1])
def test_far_voxels_equal_brute_force_by_either_search(monkeypatch, query_cost, seed):
    """Surfaces farther apart than the direct look-up reaches, once by each way of searching."""
    monkeypatch.setattr(metrics, "_QUERY_COST", query_cost)
    rng = np.random.default_rng(seed)
    prediction, truth = np.zeros((2, 40, 9, 22), bool)
    prediction[:6, 2:7, :7] = rng.random((6, 5, 7)) < 0.7
    truth[30:38, 1:8, 12:20] = rng.random((8, 7, 8)) < 0.7
    truth[2, 3, 3] = True
    found = metrics.surface_distances(prediction, truth, spacing_mm=SPACING_MM)
    for distances, pair in zip(found, ((prediction, truth), (truth, prediction)), strict=True):
        np.testing.assert_allclose(distances, brute_force_distances(*pair, SPACING_MM), rtol=1e-12)


@pytest.mark.parametrize("from_percentile", [30, 95])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_lies_above_the_lowest_percentile_equals_brute_force(monkeypatch, from_percentile, seed):
    """Far surfaces, of which most distances are only bounded: what is asked for is exact and in its place."""
    monkeypatch.setattr(metrics, "_FEWEST_BOUNDED", 1)
    monkeypatch.setattr(metrics, "_QUERY_COST", -1e9)
    rng = np.random.default_rng(seed)
    prediction, truth = np.zeros((2, 44, 17, 23), np.uint8)
    prediction[:30] = rng.random((30, 17, 23)) < 0.1
    truth[33:41, 3:9, 12:20] = rng.random((8, 6, 8)) < 0.7
    truth[2, 3, 3] = True
    found = metrics.label_surface_distances(
        prediction, truth, masks={"mask": (1,)}, spacing_mm=SPACING_MM, from_percentile=from_percentile
    )["mask"]
    bounded = 0
    for distances, pair in zip(found, ((prediction, truth), (truth, prediction)), strict=True):
        expected = brute_force_distances(*pair, SPACING_MM)
        rank = int(from_percentile / 100 * (len(expected) - 1))
        np.testing.assert_allclose(distances[rank:], expected[rank:], rtol=1e-12)
        near = np.searchsorted(expected, metrics.near_mm(SPACING_MM))
        np.testing.assert_allclose(distances[:near], expected[:near], rtol=1e-12)
        assert (np.diff(distances) >= 0).all()
        assert (distances >= expected * (1 - 1e-12)).all()
        bounded += np.count_nonzero(distances > expected * (1 + 1e-12))
    assert bounded > 50


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_all_masks_of_a_label_map_equal_one_at_a_time(seed, order):
    prediction, truth = random_labels(seed)
    masks = {"NCR": (1,), "ED": (2,), "ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
    if order == "strided":
        given = [np.repeat(labels, 2, axis=1)[:, ::2] for labels in (prediction, truth)]
    else:
        given = [np.asarray(labels, order=order) for labels in (prediction, truth)]
    found = metrics.label_surface_distances(*given, masks=masks, spacing_mm=SPACING_MM)
    assert list(found) == list(masks)
    for name, classes in masks.items():
        pair = np.isin(prediction, classes), np.isin(truth, classes)
        np.testing.assert_allclose(found[name][0], brute_force_distances(*pair, SPACING_MM), rtol=1e-12)
        np.testing.assert_allclose(found[name][1], brute_force_distances(*pair[::-1], SPACING_MM), rtol=1e-12)


def test_two_voxels_are_as_far_apart_as_their_centres():
    prediction, truth = np.zeros((2, 20, 8, 8), bool)
    prediction[1, 1, 1] = truth[11, 3, 2] = True
    expected = math.hypot(10 * 0.7, 2 * 1.3, 1 * 2.9)
    assert metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM) == pytest.approx(expected)
    assert metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM, percentile=95) == pytest.approx(expected)


def test_percentile_is_taken_per_direction_and_the_larger_kept():
    """A row of 20 voxels, and the same row with one voxel 5 further along z: 20 zeros and one 5 × 2.9 mm."""
    truth = np.zeros((22, 3, 9), bool)
    truth[1:21, 1, 1] = True
    prediction = truth.copy()
    prediction[10, 1, 6] = True
    far = 5 * 2.9
    # Rank 0.96 × 20 = 19.2 of 0..20: a fifth of the way from the last 0 to the far voxel.
    assert metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM, percentile=96) == pytest.approx(0.2 * far)
    assert metrics.hausdorff(truth, prediction, spacing_mm=SPACING_MM, percentile=96) == pytest.approx(0.2 * far)
    assert metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM, percentile=95) == 0
    assert metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM) == pytest.approx(far)
    # 20 + 20 voxels at distance 0, one far: 40 of 41.
    assert metrics.surface_dice(prediction, truth, spacing_mm=SPACING_MM, tolerance_mm=0) == pytest.approx(40 / 41)
    assert metrics.surface_dice(prediction, truth, spacing_mm=SPACING_MM, tolerance_mm=far) == 1


def test_the_edge_of_the_volume_bounds_a_mask():
    """A mask that fills the volume has its outer layer as surface; a voxel at the very centre is as far as it gets."""
    prediction = np.ones((5, 7, 9), bool)
    truth = np.zeros_like(prediction)
    truth[2, 3, 4] = True
    found = metrics.surface_distances(prediction, truth, spacing_mm=SPACING_MM)
    assert found.prediction_to_truth.size == 5 * 7 * 9 - 3 * 5 * 7
    assert found.prediction_to_truth[-1] == pytest.approx(math.hypot(2 * 0.7, 3 * 1.3, 4 * 2.9))
    np.testing.assert_allclose(found.truth_to_prediction, [2 * 0.7])


def test_dice_and_volume_by_hand():
    prediction, truth = np.zeros((2, 4, 5, 6), bool)
    prediction[0, 0, :4] = True
    truth[0, 0, 2:5] = True
    assert metrics.dice(prediction, truth) == pytest.approx(2 * 2 / (4 + 3))
    assert metrics.volume_ml(truth, spacing_mm=SPACING_MM) == pytest.approx(3 * 0.7 * 1.3 * 2.9 / 1000)


def test_empty_masks():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    assert metrics.hausdorff(empty, empty, spacing_mm=SPACING_MM) == 0
    assert math.isnan(metrics.dice(empty, empty))
    assert math.isnan(metrics.surface_dice(empty, empty, spacing_mm=SPACING_MM, tolerance_mm=1))
    for pair in ((empty, full), (full, empty)):
        assert metrics.dice(*pair) == 0
        assert metrics.surface_dice(*pair, spacing_mm=SPACING_MM, tolerance_mm=1) == 0
        for percentile in (0, 95, 100):
            assert metrics.hausdorff(*pair, spacing_mm=SPACING_MM, percentile=percentile) == math.inf


@MONAI_WARNINGS
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_monai(seed):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    prediction, truth = blobs(seed, shape=(40, 36, 20), share=0.1)
    pair = [torch.from_numpy(mask[None, None]) for mask in (prediction, truth)]
    settings = {"include_background": True, "spacing": SPACING_MM}
    assert metrics.dice(prediction, truth) == pytest.approx(float(monai.compute_dice(*pair)), abs=1e-5)
    for percentile in (95, 100):
        theirs = float(monai.compute_hausdorff_distance(*pair, percentile=percentile, **settings))
        ours = metrics.hausdorff(prediction, truth, spacing_mm=SPACING_MM, percentile=percentile)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for tolerance in (0.0, 1.0, 2.9):
        theirs = float(monai.compute_surface_dice(*pair, class_thresholds=[tolerance], **settings))
        ours = metrics.surface_dice(prediction, truth, spacing_mm=SPACING_MM, tolerance_mm=tolerance)
        assert ours == pytest.approx(theirs, abs=1e-5)


@SURFACE_DISTANCE_WARNINGS
def test_how_surface_distance_differs():
    """It puts surface points on voxel corners and weighs each by its area; Dice and the distance of far masks agree.

    Two plates, 6 × 6 voxels and one thick: the second lies 3 voxels away along y. All 36 voxels of each are surface
    and 3 × 1.3 mm from the other. On corners a plate is two layers of 7 × 7 points, the nearer of which is 2 × 1.3 mm
    from the other plate's nearer layer, so that only part of the area is as far as we say.
    """
    peer = pytest.importorskip("surface_distance")
    prediction, truth = np.zeros((2, 10, 8, 10), bool)
    prediction[2:8, 2, 2:8] = truth[2:8, 5, 2:8] = True
    theirs = peer.compute_surface_distances(truth, prediction, SPACING_MM)
    ours = metrics.surface_distances(prediction, truth, spacing_mm=SPACING_MM)
    np.testing.assert_allclose(ours, np.full((2, 36), 3 * 1.3))
    assert peer.compute_robust_hausdorff(theirs, 100) == pytest.approx(ours.hausdorff())
    corners = theirs["distances_pred_to_gt"]
    assert corners.size == 2 * 7 * 7
    np.testing.assert_allclose(corners, np.repeat([2 * 1.3, 3 * 1.3], 49))
    assert peer.compute_surface_dice_at_tolerance(theirs, 3.0) == pytest.approx(0.5)
    assert ours.surface_dice(3.0) == 0
    assert peer.compute_dice_coefficient(truth, prediction) == metrics.dice(prediction, truth)


@MONAI_WARNINGS
def test_equals_monai_on_real_masks(real_data):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    nibabel = pytest.importorskip("nibabel")
    file = sorted(real_data.glob("brats/*/*_seg.nii.gz"))[0]
    truth = np.asarray(nibabel.load(file).dataobj) > 0
    prediction = ndimage.binary_dilation(np.roll(truth, (3, -2, 1), (0, 1, 2)))
    prediction[20:26, 40:44, 100:103] = True
    pair = [torch.from_numpy(np.ascontiguousarray(mask)[None, None]) for mask in (prediction, truth)]
    ours = metrics.surface_distances(prediction, truth, spacing_mm=SPACING_MM)
    for percentile in (95, 100):
        theirs = monai.compute_hausdorff_distance(
            *pair, include_background=True, percentile=percentile, spacing=SPACING_MM
        )
        assert ours.hausdorff(percentile) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_crop_keeps_the_foreground_of_both(order):
    prediction, truth = (np.zeros((9, 8, 7), np.uint8, order=order) for _ in range(2))
    prediction[2, 3, 6] = truth[5, 1, 4] = 3
    cropped = metrics.crop_to_foreground(prediction, truth)
    np.testing.assert_array_equal(cropped, np.stack([prediction, truth])[:, 2:6, 1:4, 4:7])
    for empty in (np.zeros((9, 8, 7), np.uint8), np.zeros((0, 8, 7), np.uint8)):
        assert metrics.crop_to_foreground(empty, empty)[0].size == 0


def test_monai_interpolates_between_ranks_in_single_precision():
    """Hence HD95 may differ from MONAI's by more than 1e-5 mm where the rank falls between two far distances."""
    torch = pytest.importorskip("torch")
    distances = np.sort(np.r_[np.ones(12873), np.full(676, 40.0)])
    ours = metrics.SurfaceDistances(distances, distances).hausdorff(100 * 12872.3 / 13548)
    assert ours == pytest.approx(1 + 0.3 * 39, rel=1e-9)
    single = torch.quantile(torch.tensor(distances, dtype=torch.float32), 12872.3 / 13548)
    assert 1e-5 < abs(float(single) - ours) < 0.1


def test_errors_say_what_was_wanted_and_what_came():
    mask = np.zeros((4, 5, 6), bool)
    with pytest.raises(ValueError, match=r"one shape, received \(4, 5, 6\) and \(4, 5, 5\)"):
        metrics.dice(mask, mask[..., 1:])
    with pytest.raises(ValueError, match=r"one shape, received \(5, 6\) and \(5, 6\)"):
        metrics.hausdorff(mask[0], mask[0], spacing_mm=SPACING_MM)
    for spacing_mm in ((1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, math.nan, 1.0), 1.0):
        with pytest.raises(ValueError, match="one positive number per axis"):
            metrics.hausdorff(mask, mask, spacing_mm=spacing_mm)
        with pytest.raises(ValueError, match="one positive number per axis"):
            metrics.volume_ml(mask, spacing_mm=spacing_mm)
    with pytest.raises(ValueError, match="between 0 and 100, received 101"):
        metrics.hausdorff(mask, mask, spacing_mm=SPACING_MM, percentile=101)
    with pytest.raises(ValueError, match="finite and not negative, received -1"):
        metrics.surface_dice(mask, mask, spacing_mm=SPACING_MM, tolerance_mm=-1)
    with pytest.raises(TypeError, match="boolean, received uint8"):
        metrics.dice(mask.astype(np.uint8), mask)
    with pytest.raises(TypeError, match="uint8 classes, received bool"):
        metrics.label_surface_distances(mask, mask, masks={"WT": (1,)}, spacing_mm=SPACING_MM)
    with pytest.raises(ValueError, match="at most 8 masks, one per bit of a byte, received 9"):
        metrics.label_surface_distances(
            *np.zeros((2, 4, 5, 6), np.uint8), masks={str(i): (i,) for i in range(9)}, spacing_mm=SPACING_MM
        )

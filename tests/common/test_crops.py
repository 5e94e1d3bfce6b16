from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common import volumes
from common.augmentation import Augmentation
from common.crops import augmented, crop_start, rotated, zoomed
from common.recipe import Volume
from common.subject import CONTRASTS

GRID, START = (40, 44, 36), (3, 4, 2)


@pytest.fixture(scope="module")
def volume():
    """Smooth contrasts in an ellipsoid of brain, with a tumour of nested classes off its centre."""
    rng = np.random.default_rng(3)
    shape = (32, 36, 30)
    apart = np.linalg.norm(
        (np.indices(shape).T - np.array([16, 18, 15])).T / np.array([15, 17, 14]).reshape(3, 1, 1, 1), axis=0
    )
    tumour = np.linalg.norm((np.indices(shape).T - np.array([20, 14, 16])).T, axis=0)
    smooth = [ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in CONTRASTS]
    image = np.array([s / s.std() * 5000 for s in smooth]) * (apart < 1)
    labels = np.select([tumour < 3, tumour < 5, tumour < 7], [1, 3, 2], 0)
    voxels = np.concatenate([np.rint(image), labels[None]]).astype(np.int16)
    steps = (1e-4, 2e-4, 3e-4, 4e-4)
    return Volume("a", voxels, steps, GRID, START, (0, 0, 0), GRID, 0.1, SimpleNamespace(shape=GRID))


def full(volume):
    image, labels = np.zeros((4, *GRID), np.float32), np.zeros(GRID, np.uint8)
    image[:, *volume.box], labels[volume.box] = volume.image(), volume.labels()
    return image, labels


def test_a_crop_that_is_not_moved_is_the_window(volume):
    image, labels = full(volume)
    own = zoomed(volume, (-4, 6, 10), (24, 24, 24))
    np.testing.assert_allclose(own[0], volumes.window(image, (-4, 6, 10), (24, 24, 24)), atol=1e-6)
    np.testing.assert_array_equal(own[1], volumes.window(labels, (-4, 6, 10), (24, 24, 24)))


@pytest.mark.parametrize("zoom", [0.75, 1.5])
def test_zoom_resamples_the_window_about_the_same_centre(volume, zoom):
    image, labels = full(volume)
    start, size = (8, 8, 8), (24, 24, 24)
    seen = (round(24 / zoom),) * 3
    first = [s + (24 - n) // 2 for s, n in zip(start, seen, strict=True)]
    window = volumes.window(image, first, seen)
    own, classes = zoomed(volume, start, size, zoom)
    wanted = np.stack([volumes.resize(contrast, size) for contrast in window])
    nearest = [np.floor((np.arange(24) + 0.5) * n / 24).astype(int) for n in seen]
    brain = (window != 0)[:, *np.ix_(*nearest)]
    np.testing.assert_allclose(own, wanted * brain, atol=1e-4)
    np.testing.assert_array_equal(classes, volumes.window(labels, first, seen)[np.ix_(*nearest)])
    for value in (1, 2, 3):
        expected = (volumes.window(labels, first, seen) == value).sum() * np.prod(size) / np.prod(seen)
        assert (classes == value).sum() == pytest.approx(expected, rel=0.15)


def test_rotation_and_zoom_are_scipys_of_the_whole_grid(volume):
    image, labels = full(volume)
    start, size, degrees = (6, 10, 4), (24, 20, 26), (12.0, -25.0, 18.0)
    own, classes = rotated(volume, start, size, 1.2, degrees)
    middle = np.add(start, (np.array(size) - 1) / 2)
    for target in ((0, 0, 0), (5, 17, 20), (12, 10, 13), (23, 19, 25)):
        turn = Rotation.from_euler("xyz", degrees, degrees=True)
        where = middle + turn.inv().apply(np.array(target) - (np.array(size) - 1) / 2) / 1.2
        nearest = tuple(np.rint(where).astype(int))
        inside = all(0 <= i < n for i, n in zip(nearest, GRID, strict=True))
        assert classes[target] == (labels[nearest] if inside else 0)
        for contrast, channel in zip(image, own, strict=True):
            value = ndimage.map_coordinates(contrast, where[:, None], order=1)[0]
            wanted = value if inside and contrast[nearest] else 0
            assert channel[target] == pytest.approx(wanted, abs=2e-4)
    quarter, turned = rotated(volume, (8, 8, 8), (20, 20, 20), 1.0, (0, 0, 90)), zoomed(volume, (8, 8, 8), (20, 20, 20))
    np.testing.assert_array_equal(quarter[1], np.rot90(turned[1], 1))
    np.testing.assert_allclose(quarter[0], np.rot90(turned[0], 1, (1, 2)), atol=1e-3)


def test_a_crop_that_sees_no_brain_is_background(volume):
    for image, labels in (
        rotated(volume, (90, 0, 0), (8, 8, 8), 1.0, (5, 5, 5)),
        zoomed(volume, (90, 0, 0), (8, 8, 8), 0.8),
    ):
        assert not image.any()
        assert not labels.any()


def test_augmented_crops_keep_their_background_and_follow_the_seed(volume):
    moved = Augmentation(zoom_probability=0.5, rotation_probability=0.5)
    seen = set()
    for seed in range(12):
        first, again = (
            augmented(volume, (8, 8, 8), (24, 24, 24), moved, CONTRASTS, np.random.default_rng(seed)) for _ in range(2)
        )
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
        assert set(np.unique(first[1])) <= {0, 1, 2, 3}
        seen.add(first[0].tobytes())
    assert len(seen) > 6


def test_crops_on_labels_take_every_class_as_often_and_hold_its_voxel(volume):
    labels = full(volume)[1]
    positions = {value: np.argwhere(labels == value) for value in (1, 2, 3)}
    # One voxel per class tells which was drawn; the third lies in a corner, where the bounds move the crop.
    positions = {1: positions[1][:1], 3: positions[3][:1], 2: np.array([[3, 4, 2]])}
    rng, found, middle = np.random.default_rng(0), Counter(), []
    for _ in range(900):
        start = np.array(crop_start(volume, (8, 8, 8), rng, label_probability=1.0, label_positions=positions))
        held = [v for v, p in positions.items() if ((p[0] >= start) & (p[0] < start + 8)).all()]
        assert held
        assert (start >= 0).all()
        assert (start + 8 <= GRID).all()
        if 2 in held:
            found[2] += 1
        else:
            near = min(held, key=lambda v: np.abs(positions[v][0] - start - 4).max())
            middle.append(positions[near][0] - start)
    assert abs(found[2] - 300) < 5 * np.sqrt(900 * 2 / 9)
    assert np.min(middle) >= 2
    assert np.max(middle) <= 6


def test_half_of_the_crops_are_centred_and_a_subject_without_tumour_has_crops_anywhere(volume):
    voxel = {3: np.array([[5, 6, 4]])}
    rng = np.random.default_rng(1)
    starts = np.array(
        [crop_start(volume, (4, 4, 4), rng, label_probability=0.5, label_positions=voxel) for _ in range(1000)]
    )
    held = ((starts <= voxel[3][0]) & (starts + 4 > voxel[3][0])).all(axis=1)
    assert abs(held.mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)
    free = [
        crop_start(volume, (4, 4, 4), np.random.default_rng(2), label_probability=p, label_positions={})
        for p in (0.0, 1.0)
    ]
    assert all(0 <= s <= n - 4 for start in free for s, n in zip(start, GRID, strict=True))


def test_slices_hold_the_voxel_that_a_crop_is_centred_on(volume):
    positions = {1: np.array([[20, 20, 5], [20, 20, 20]]), 2: np.array([[20, 20, 30]])}
    rng = np.random.default_rng(0)
    for _ in range(50):
        z = crop_start(
            volume, (8, 8, 8), rng, slices=(16, 28), extent=GRID, label_probability=1.0, label_positions=positions
        )[2]
        assert 16 <= z <= 20
        assert z <= 20 < z + 8

"""Decoding and clean-up against loops over voxels and scipy on padded volumes."""

import time
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from unet_tf.postprocess import clean, decode_labels

PARAMETERS = ("opening_voxels", "closing_voxels", "minimum_component_voxels")
FACES = [step for step in product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
AROUND = [step for step in product((-1, 0, 1), repeat=3) if any(step)]


def neighbours(voxel, shape, steps):
    for step in steps:
        place = tuple(v + s for v, s in zip(voxel, step, strict=True))
        if all(0 <= p < n for p, n in zip(place, shape, strict=True)):
            yield place


def eroded(mask):
    return {v for v in mask[0] if all(n in mask[0] for n in neighbours(v, mask[1], FACES))}, mask[1]


def dilated(mask):
    return mask[0] | {n for v in mask[0] for n in neighbours(v, mask[1], FACES)}, mask[1]


def repeated(change, mask, times):
    for _ in range(times):
        mask = change(mask)
    return mask


def reference(labels, opening_voxels=0, closing_voxels=0, minimum_component_voxels=0):
    """The same with sets of voxels, one voxel after the other."""
    shape, classes = labels.shape, {tuple(map(int, v)): labels[tuple(v)] for v in np.argwhere(labels)}
    opened = repeated(dilated, repeated(eroded, (set(classes), shape), opening_voxels), opening_voxels)[0]
    classes = {v: c for v, c in classes.items() if v in opened}
    closed = repeated(eroded, repeated(dilated, (set(classes), shape), closing_voxels), closing_voxels)[0]
    tumour = dict(classes)
    for voxel in closed - set(tumour):
        nearest = min(tumour, key=lambda t: (sum((a - b) ** 2 for a, b in zip(t, voxel, strict=True)), t[::-1]))
        classes[voxel] = tumour[nearest]
    result, left = np.zeros_like(labels), set(classes)
    while left:
        part = frontier = {left.pop()}
        while frontier:
            frontier = {n for v in frontier for n in neighbours(v, shape, AROUND)} & left
            part, left = part | frontier, left - frontier
        if len(part) >= minimum_component_voxels:
            for voxel in part:
                result[voxel] = classes[voxel]
    return result


def random_labels(seed, shape=(9, 10, 8), share=0.4, smooth=0.7):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), smooth)
    return np.where(field > np.quantile(field, 1 - share), rng.integers(1, 4, shape), 0).astype(np.uint8)


def test_decoding_takes_the_most_probable_class():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), (5, 6, 7)).transpose(3, 0, 1, 2)
    labels = decode_labels(probabilities)
    assert labels.dtype == np.uint8
    for voxel in np.ndindex(5, 6, 7):
        p = [probabilities[(c, *voxel)] for c in range(4)]
        assert p[labels[voxel]] == max(p)


def test_a_voxel_is_tumour_where_its_labels_together_exceed_the_threshold():
    voxels = [(0.40, 0.10, 0.25, 0.25), (0.45, 0.30, 0.25, 0.00), (0.80, 0.00, 0.05, 0.15), (0.50, 0.50, 0.00, 0.00)]
    probabilities = np.array(voxels).T.reshape(4, 4, 1, 1)  # together 0.60, 0.55, 0.20, 0.50
    assert decode_labels(probabilities).ravel().tolist() == [0, 0, 0, 0]
    assert decode_labels(probabilities, 0.5).ravel().tolist() == [2, 1, 0, 0]
    assert decode_labels(probabilities, 0.58).ravel().tolist() == [2, 0, 0, 0]
    assert decode_labels(probabilities, 0.1).ravel().tolist() == [2, 1, 3, 1]


@pytest.mark.parametrize(
    "values", [(1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 0, 10), (1, 1, 10), (2, 2, 5), (1, 3, 0)]
)
def test_cleaning_equals_the_same_done_voxel_by_voxel(values):
    parameters = dict(zip(PARAMETERS, values, strict=True))
    changed = 0
    for seed, share, smooth in ((0, 0.4, 0.7), (1, 0.7, 0.9), (2, 0.15, 0.4), (3, 0.9, 0.0)):
        labels = random_labels(seed, share=share, smooth=smooth)
        expected = reference(labels, **parameters)
        np.testing.assert_array_equal(clean(labels, **parameters), expected)
        changed += (expected != labels).any()
    assert changed


@pytest.mark.parametrize("seed", [0, 1])
def test_inside_a_margin_opening_and_closing_are_scipys(seed):
    labels = np.pad(random_labels(seed), 4)
    opened = ndimage.binary_opening(labels != 0, iterations=1)
    np.testing.assert_array_equal(clean(labels, opening_voxels=1), labels * opened)
    closed = ndimage.binary_closing(labels != 0, iterations=2)
    np.testing.assert_array_equal(clean(labels, closing_voxels=2) != 0, closed)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_what_the_closing_adds_takes_the_class_of_a_nearest_tumour_voxel(radius):
    labels = random_labels(5, shape=(12, 12, 12), share=0.2, smooth=1.0)
    closed = clean(labels, closing_voxels=radius)
    distance = ndimage.distance_transform_edt(labels == 0)
    to_class = [ndimage.distance_transform_edt(labels != c) for c in (1, 2, 3)]
    added = np.argwhere((closed != 0) & (labels == 0))
    assert len(added) > 5
    for voxel in map(tuple, added):
        assert to_class[closed[voxel] - 1][voxel] == distance[voxel]
    np.testing.assert_array_equal(closed[labels != 0], labels[labels != 0])


def test_parts_that_touch_at_a_corner_are_one():
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[:2, :2, :2], labels[2:4, 2:4, 2:4] = 1, 3
    np.testing.assert_array_equal(clean(labels, minimum_component_voxels=16), labels)
    assert not clean(labels, minimum_component_voxels=17).any()


def test_a_part_of_exactly_the_smallest_size_stays():
    labels = np.zeros((12, 8, 8), np.uint8)
    labels[1:4, 1:4, 1:4], labels[8:10, 1:4, 1:4] = 2, 1  # 27 and 18 voxels
    expected = labels.copy()
    np.testing.assert_array_equal(clean(labels, minimum_component_voxels=18), expected)
    expected[8:] = 0
    np.testing.assert_array_equal(clean(labels, minimum_component_voxels=19), expected)
    np.testing.assert_array_equal(clean(labels, minimum_component_voxels=27), expected)
    assert not clean(labels, minimum_component_voxels=28).any()


def test_a_part_of_several_classes_counts_as_a_whole():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2, 2, 2:4], labels[2, 3, 2:4], labels[3, 2:4, 2:4] = 1, 2, 3
    np.testing.assert_array_equal(clean(labels, minimum_component_voxels=8), labels)


@pytest.mark.parametrize("radius", [1, 2])
def test_a_tumour_cut_off_by_the_border_is_not_eroded_there(radius):
    labels = np.full((9, 5, 7), 2, np.uint8)
    np.testing.assert_array_equal(clean(labels, opening_voxels=radius, closing_voxels=radius), labels)
    labels[5:] = 0
    np.testing.assert_array_equal(clean(labels, opening_voxels=radius, closing_voxels=radius), labels)


def test_single_voxels_go_with_the_opening():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[4, 4, 4] = 3
    assert not clean(labels, opening_voxels=1).any()


@pytest.mark.parametrize("values", [(0, 0, 0), (1, 1, 100), (3, 5, 1)])
def test_an_empty_map_stays_empty(values):
    cleaned = clean(np.zeros((6, 7, 8), np.uint8), **dict(zip(PARAMETERS, values, strict=True)))
    assert cleaned.shape == (6, 7, 8)
    assert not cleaned.any()


def test_without_parameters_nothing_changes():
    labels = random_labels(6)
    np.testing.assert_array_equal(clean(labels), labels)


def test_the_input_is_left_alone_and_any_integers_become_uint8():
    labels = random_labels(7).astype(np.int64)
    labels.setflags(write=False)
    before = labels.copy()
    cleaned = clean(labels, opening_voxels=1, closing_voxels=1, minimum_component_voxels=20)
    np.testing.assert_array_equal(labels, before)
    assert cleaned.dtype == np.uint8
    assert not np.shares_memory(cleaned, labels)


def test_a_scattered_prediction_takes_no_longer_than_its_volume_needs():
    """A badly trained network's false positives; a distance transform of the volume alone takes longer than this."""
    labels = np.zeros((240, 240, 155), np.uint8)
    rng = np.random.default_rng(0)
    labels[56:184, 56:184, 13:141] = (rng.random((128, 128, 128)) < 0.3) * rng.integers(1, 4, (128, 128, 128))
    parameters = {"closing_voxels": 1, "minimum_component_voxels": 100}
    clean(labels[:64, :64, :64], **parameters)
    began = time.process_time()
    clean(labels, **parameters)
    cleaning = time.process_time() - began
    began = time.process_time()
    ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    assert cleaning < time.process_time() - began

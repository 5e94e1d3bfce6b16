import itertools

import numpy as np
import pytest
from scipy import ndimage

from common import volumes


def brute_force_box(mask):
    found = np.argwhere(mask)
    return tuple(slice(low, high + 1) for low, high in zip(found.min(axis=0), found.max(axis=0), strict=True))


def triangle_oracle(array, shape):
    """Resampling voxel by voxel: a weighted mean of all source voxels, written from the definition."""
    result = np.zeros(shape)
    for target in np.ndindex(*shape):
        total = weight_sum = 0.0
        for source in np.ndindex(*array.shape):
            weight = 1.0
            for t, s, n_target, n_source in zip(target, source, shape, array.shape, strict=True):
                # positions as shares of the axis: voxel i of n has its centre at (i + 1/2) / n
                apart = abs((s + 0.5) / n_source - (t + 0.5) / n_target)
                weight *= max(0.0, 1 - apart / max(1 / n_source, 1 / n_target))
            total += weight * array[source]
            weight_sum += weight
        result[target] = total / weight_sum
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("voxels", [1, 2, 20])
def test_bounding_box_against_every_true_voxel(seed, voxels):
    rng = np.random.default_rng(seed)
    mask = np.zeros((5, 7, 6), bool)
    mask.flat[rng.choice(mask.size, voxels, replace=False)] = True
    expected = brute_force_box(mask)
    assert volumes.bounding_box(mask) == expected
    assert volumes.bounding_box(np.asfortranarray(mask)) == expected
    assert volumes.bounding_box(np.where(mask, np.int16(-3), np.int16(0))) == expected


def test_bounding_box_of_nothing_is_empty():
    mask = np.zeros((3, 4, 5), bool)
    assert mask[volumes.bounding_box(mask)].size == 0
    mask[2, 3, 4] = True
    assert volumes.bounding_box(mask) == (slice(2, 3), slice(3, 4), slice(4, 5))


@pytest.mark.parametrize("seed", range(5))
def test_union_is_the_box_of_all_voxels(seed):
    masks = np.random.default_rng(seed).random((3, 6, 7, 8)) < 0.02
    masks[1] = False
    masks[0, 3, 3, 3] = True
    boxes = [volumes.bounding_box(mask) for mask in masks]
    for order in itertools.permutations(boxes):
        assert volumes.union(*order) == brute_force_box(masks.any(axis=0))
    assert masks[1][volumes.union(boxes[1], boxes[1])].size == 0


@pytest.mark.parametrize("fill", [0, -7])
def test_window_against_a_padded_array(fill):
    """All kinds of place: inside, over either edge, wider than the volume, wholly outside it."""
    array = np.random.default_rng(1).integers(1, 1000, (2, 4, 5, 6)).astype(np.int16)
    margin = 16
    padded = np.pad(array, ((0, 0), *[(margin, margin)] * 3), constant_values=fill)
    kept = array.copy()
    rng = np.random.default_rng(2)
    views = 0
    for _ in range(1000):
        start, size = rng.integers(-9, 9, 3).tolist(), rng.integers(1, 8, 3).tolist()
        found = volumes.window(array, start, size, fill=fill)
        inside = tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
        np.testing.assert_array_equal(found, padded[:, *inside])
        assert found.dtype == np.int16
        fits = all(s >= 0 and s + n <= length for s, n, length in zip(start, size, (4, 5, 6), strict=True))
        assert np.shares_memory(found, array) == fits
        views += fits
    assert 0 < views < 1000
    np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("seed", range(3))
def test_the_two_boxes_of_an_overlap_hold_the_same_voxels(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        shape, start, size = rng.integers(1, 9, 3), rng.integers(-12, 12, 3), rng.integers(1, 9, 3)
        source, target = volumes.overlap_of(shape.tolist(), start.tolist(), size.tolist())
        place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
        window = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")) + start.reshape(3, 1, 1, 1)
        np.testing.assert_array_equal(place[:, *source], window[:, *target])
        inside = np.logical_and.reduce([(w >= 0) & (w < n) for w, n in zip(window, shape, strict=True)])
        assert np.count_nonzero(inside) == place[0][source].size


def test_linear_weights_by_hand():
    # 4 -> 2: the centres lie at 0.5 and 2.5, the triangle reaches 2 voxels: 3/4, 3/4, 1/4, made to sum to 1
    expected = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(volumes.linear_weights(4, 2), expected, rtol=1e-6)
    # 2 -> 4: the centres lie at -0.25, 0.25, 0.75, 1.25
    expected = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(volumes.linear_weights(2, 4), expected, rtol=1e-6)
    np.testing.assert_array_equal(volumes.linear_weights(3, 3), np.eye(3))


@pytest.mark.parametrize("shape", [(2, 3, 4), (7, 8, 9), (5, 2, 9), (4, 6, 3), (1, 1, 1), (5, 6, 7)])
def test_resize_against_a_loop_over_voxels(shape):
    array = np.random.default_rng(0).normal(size=(5, 6, 7))
    expected = triangle_oracle(array, shape)
    for order in "CF":
        found = volumes.resize(np.array(array, order=order), shape)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
    stacked = volumes.resize(np.stack([array, -2 * array])[None], shape)
    np.testing.assert_allclose(stacked, np.stack([expected, -2 * expected])[None], atol=4e-6)


@pytest.mark.parametrize("shape", [(4, 9, 7), (12, 3, 20), (8, 9, 30), (8, 9, 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_resizing_a_part_is_resizing_the_volume_around_it(shape, seed):
    rng = np.random.default_rng(seed)

    def box_in(lengths):
        return tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False).tolist())) for n in lengths)

    for _ in range(20):
        box, region = box_in((8, 9, 10)), box_in(shape)
        part = rng.normal(size=(2, *(s.stop - s.start for s in box)))
        volume = np.zeros((2, 8, 9, 10))
        volume[:, *box] = part
        expected = volumes.resize(volume, shape)
        found = volumes.resize_part(part, box, (8, 9, 10), shape, region)
        np.testing.assert_allclose(found, expected[:, *region], atol=1e-5)
        # the scaled box holds everything that resampling makes of the part
        outside = expected.copy()
        outside[:, *volumes.scaled_box(box, (8, 9, 10), shape)] = 0
        np.testing.assert_array_equal(outside, 0)


@pytest.mark.parametrize("shape", [(4, 9, 7), (5, 7, 8)])
def test_resizing_no_part_gives_zeros(shape):
    nothing = (slice(0, 0),) * 3
    region = (slice(0, 2), slice(1, 4), slice(0, 1))
    found = volumes.resize_part(np.zeros((0, 0, 0)), nothing, (5, 6, 7), shape, region)
    np.testing.assert_array_equal(found, np.zeros((2, 3, 1)))


def test_growing_against_scipy():
    array = np.random.default_rng(0).normal(size=(6, 5, 7)).astype(np.float32)
    expected = ndimage.zoom(array, (2, 3, 11 / 7), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(volumes.resize(array, (12, 15, 11)), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (9, 20), (31, 7)])
def test_resize_against_torch_in_plane(shape):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=(16, 13, 1)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array[None, None, :, :, 0]), shape, mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_allclose(volumes.resize(array, (*shape, 1))[..., 0], expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 9, 31), (20, 7, 1), (10, 40, 13)])
def test_resize_keeps_constants_and_both_ends(shape):
    constant = np.full((10, 12, 14), 3.25)
    np.testing.assert_allclose(volumes.resize(constant, shape), 3.25, rtol=1e-6)
    # A place that moved towards one end would break the mirror image.
    array = np.random.default_rng(3).normal(size=(10, 12, 14))
    for axis in range(3):
        mirrored = np.flip(volumes.resize(np.flip(array, axis), shape), axis)
        np.testing.assert_allclose(mirrored, volumes.resize(array, shape), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "tolerance"), [((12, 18, 9), 1e-5), ((72, 36, 108), 1e-5), ((25, 31, 17), 0.01), ((41, 47, 60), 0.01)]
)
def test_resize_keeps_the_integral_and_the_centre_of_mass(shape, tolerance):
    """Of a blob clear of the border; exactly where sizes are multiples of one another."""
    axes = np.meshgrid(*[np.arange(36)] * 3, indexing="ij")
    centre = (15.0, 18.5, 20.0)
    blob = np.exp(-sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) / 8)
    found = volumes.resize(blob, shape).astype(np.float64)
    voxel = np.prod([36 / n for n in shape])
    assert found.sum() * voxel == pytest.approx(blob.sum(), rel=tolerance)
    for axis, (n, c) in enumerate(zip(shape, centre, strict=True)):
        places = (np.arange(n) + 0.5) * 36 / n - 0.5
        profile = found.sum(axis=tuple(other for other in range(3) if other != axis))
        assert np.dot(places, profile) / profile.sum() == pytest.approx(c, abs=0.05)


@pytest.mark.parametrize("phase", [0.0, 1.0])
def test_a_smooth_field_survives_the_way_down_and_up(phase):
    waves = [np.cos(2 * np.pi * np.arange(48) / 24 + phase + axis) for axis in range(3)]
    field = waves[0][:, None, None] + waves[1][None, :, None] + waves[2]
    back = volumes.resize(volumes.resize(field, (24, 24, 24)), field.shape)
    # A triangle of half-width 2 passes sinc(2 f)^2 = 0.977 of the frequency f = 1/24, on the way down and up again.
    lost = 1 - (np.sinc(2 / 24) ** 2) ** 2
    inner = (slice(4, -4),) * 3
    assert np.abs(back - field)[inner].max() < 1.2 * lost * np.abs(field).max()
    assert np.abs(back - field)[inner].max() > 0.3 * lost  # the bound is of the size of the effect


def nested_balls(radii, size=48):
    axes = np.meshgrid(*[np.arange(size) - size / 2 + 0.3] * 3, indexing="ij")
    distance = np.sqrt(sum(a**2 for a in axes))
    labels = np.zeros((size,) * 3, np.uint8)
    for value, radius in radii.items():
        labels[distance < radius] = value
    return labels


@pytest.mark.parametrize("shape", [(24, 24, 24), (16, 16, 16), (29, 31, 37), (24, 48, 16), (70, 60, 48)])
def test_resized_labels_keep_their_volumes(shape):
    labels = nested_balls({2: 20, 3: 15, 1: 10})
    found = volumes.resize_labels(labels, shape, 4)
    assert found.dtype == np.uint8
    assert found.shape == shape
    voxel = labels.size / found.size
    for value in range(1, 4):
        true = np.count_nonzero(labels == value)
        assert np.count_nonzero(found == value) * voxel == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("shape", [(16, 16, 16), (29, 31, 37), (70, 60, 48)])
def test_resized_labels_never_meet_halfway(shape):
    # between 0 and 2, and between 3 and 1, lie values that a resampling of the numbers would invent
    labels = nested_balls({3: 20, 1: 10})
    labels[:, :, :5] = 0
    assert set(np.unique(volumes.resize_labels(labels, shape, 4))) == {0, 1, 3}
    only = np.where(labels > 0, 2, 0)
    assert set(np.unique(volumes.resize_labels(only, shape, 4))) == {0, 2}


def test_resized_labels_against_shares_voxel_by_voxel():
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    for shape in ((3, 4, 2), (7, 6, 9)):
        shares = np.stack([triangle_oracle((labels == value).astype(float), shape) for value in range(4)])
        clear = np.ptp(np.sort(shares, axis=0)[-2:], axis=0) > 1e-5
        assert clear.sum() > 0.8 * clear.size
        found = volumes.resize_labels(labels, shape, 4)
        np.testing.assert_array_equal(found[clear], shares.argmax(axis=0)[clear])
    np.testing.assert_array_equal(volumes.resize_labels(labels, labels.shape, 4), labels)


@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 3, 4), (10, 6, 21)])
def test_resized_background_is_background(shape):
    found = volumes.resize_labels(np.zeros((5, 6, 7), np.uint8), shape, 4)
    np.testing.assert_array_equal(found, np.zeros(shape))
    everywhere = volumes.resize_labels(np.full((5, 6, 7), 3, np.uint8), shape, 4)
    np.testing.assert_array_equal(everywhere, np.full(shape, 3))


def scan(dtype, seed=0, shape=(14, 12, 10)):
    """An image with a third of its voxels zero; negative values too where the type has them."""
    rng = np.random.default_rng(seed)
    values = rng.normal(400, 250, shape)
    values[rng.random(shape) < 1 / 3] = 0
    return (np.abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_zscores_equal_monai(dtype, order):
    transforms = pytest.importorskip("monai.transforms")
    image = np.array(scan(dtype), order=order)
    kept = image.copy()
    found = volumes.normalise_nonzero(image, *volumes.nonzero_mean_and_sd(image))
    expected = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(image[None].astype(np.float32))[0]
    np.testing.assert_allclose(found, np.asarray(expected), atol=2e-5)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert (found[image == 0] == 0).all()
    np.testing.assert_array_equal(image, kept)
    # the numbers are the whole scan's, whatever part is asked for
    crop = volumes.normalise_nonzero(image[3:9, 2:5, 4:], *volumes.nonzero_mean_and_sd(image))
    np.testing.assert_array_equal(crop, found[3:9, 2:5, 4:])


@pytest.mark.parametrize(("value", "exact_in_float32"), [(7, True), (-0.75, True), (0.1, False), (-1234.567, False)])
def test_a_constant_brain_is_centred_as_in_monai(value, exact_in_float32):
    transforms = pytest.importorskip("monai.transforms")
    image = np.zeros((30, 30, 30), np.float32)
    image[5:25, 5:25, 5:25] = value
    found = volumes.normalise_nonzero(image, *volumes.nonzero_mean_and_sd(image))
    np.testing.assert_array_equal(found, np.zeros_like(image))
    if exact_in_float32:  # elsewhere MONAI divides one rounding error by another: -1 everywhere for 0.1
        expected = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(image[None])[0]
        np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("offset", [0, 10000])
def test_mean_and_sd_against_the_nonzero_voxels_themselves(dtype, offset):
    image = scan(dtype)
    image[image != 0] += dtype(offset)
    values = image[image != 0].astype(np.longdouble)
    mean, sd = volumes.nonzero_mean_and_sd(image)
    assert mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert sd == pytest.approx(float(values.std()), rel=1e-9)
    assert isinstance(mean, float)
    assert isinstance(sd, float)
    # 32767 is where real scans saturate: its square must not be taken in 16 bits
    saturated = np.full((4, 4, 4), 32767, np.int16)
    assert volumes.nonzero_mean_and_sd(saturated) == (32767, 0)


def test_an_image_of_zeros_has_no_mean():
    with pytest.raises(ValueError, match="expected an image with non-zero voxels, received one that is zero"):
        volumes.nonzero_mean_and_sd(np.zeros((2, 3, 4)))

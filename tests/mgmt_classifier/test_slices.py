import numpy as np
import pytest

from mgmt_classifier.slices import central, tumour


def window_by_hand(centre, n_images, count):
    """Of all windows, those that lie inside the series; of them the one nearest to being centred."""
    wanted = [centre - count // 2 + k for k in range(count)]
    inside = [list(range(first, first + count)) for first in range(n_images - count + 1)]
    return min(inside, key=lambda window: abs(window[0] - wanted[0]))


def tumour_by_hand(images, count, percentile):
    """Pixel by pixel, in plain Python."""
    shown = sorted(float(pixel) for image in images for row in image for pixel in row if pixel != 0)
    rank = percentile / 100 * (len(shown) - 1)
    below = int(rank)
    above = min(below + 1, len(shown) - 1)
    threshold = shown[below] + (rank - below) * (shown[above] - shown[below])
    bright = [sum(float(pixel) > threshold for row in image for pixel in row) for image in images]
    return window_by_hand(bright.index(max(bright)), len(images), count)


@pytest.mark.parametrize(
    ("n_images", "count", "expected"),
    [
        (9, 3, [3, 4, 5]),  # the middle one of 9 is 4
        (8, 3, [3, 4, 5]),  # of the two in the middle of 8, the second
        (9, 4, [2, 3, 4, 5]),
        (3, 3, [0, 1, 2]),
        (4, 3, [1, 2, 3]),
        (1, 1, [0]),
    ],
)
def test_central_images_by_hand(n_images, count, expected):
    assert central(n_images, count).tolist() == expected


def test_central_images_lie_in_the_series_and_around_its_middle():
    for n_images in range(1, 40):
        for count in range(1, n_images + 1):
            assert central(n_images, count).tolist() == window_by_hand(n_images // 2, n_images, count)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tumour_images_against_plain_python(seed):
    rng = np.random.default_rng(seed)
    chosen = set()
    for _ in range(60):
        n_images = int(rng.integers(1, 12))
        images = rng.integers(0, 6, (n_images, 5, 6)) * rng.integers(0, 2, (n_images, 1, 1))
        images[int(rng.integers(n_images)), 0, 0] = 3  # at least one pixel that is not zero
        count, percentile = int(rng.integers(1, n_images + 1)), float(rng.choice([50, 80, 99.9]))
        found = tumour(images.astype(np.float32), count, percentile=percentile).tolist()
        assert found == tumour_by_hand(images, count, percentile)
        chosen.add(tuple(found))
    assert len(chosen) > 15


def bright_at(*places, n_images=11):
    """A series of ones with 4 bright pixels in each of the images named, as often as they are named."""
    images = np.ones((n_images, 30, 30), np.float32)
    for place in places:
        there = np.count_nonzero(images[place] > 1)
        images[place, 0, there : there + 4] = 9
    return images


def test_the_tumour_images_centre_is_the_image_with_most_bright_pixels():
    # of 9900 pixels 12 are bright, fewer than 1 %: the 99th percentile is 1
    assert tumour(bright_at(7, 7, 3), 5, percentile=99).tolist() == [5, 6, 7, 8, 9]
    assert tumour(bright_at(3, 7, 3), 5, percentile=99).tolist() == [1, 2, 3, 4, 5]


def test_of_equally_bright_images_the_first_is_the_centre():
    assert tumour(bright_at(8, 4), 3, percentile=99).tolist() == [3, 4, 5]


@pytest.mark.parametrize(("place", "expected"), [(0, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3, 4]), (10, [6, 7, 8, 9, 10])])
def test_at_the_ends_the_window_moves_inwards(place, expected):
    assert tumour(bright_at(place), 5, percentile=99).tolist() == expected


def test_black_pixels_do_not_count_for_the_percentile():
    """Half of one image is bright, all others but the last are black: of all pixels, more than 1 % lie above 8, but of
    those shown most do, so the 60th percentile is the bright value and nothing lies above it but the last image's."""
    images = np.zeros((20, 10, 10), np.float32)
    images[4, :5] = 8
    images[19, 0, 0] = 9
    assert np.percentile(images, 60) == 0
    assert tumour(images, 1, percentile=60).tolist() == [19]


def test_too_few_images_and_black_series_are_refused():
    with pytest.raises(ValueError, match="expected at least 15 images, found 14"):
        central(14, 15)
    with pytest.raises(ValueError, match="expected at least 4 images, found 3"):
        tumour(np.ones((3, 2, 2)), 4)
    with pytest.raises(ValueError, match="found zeros only"):
        tumour(np.zeros((3, 2, 2)), 2)

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common import crops  # noqa: E402
from common.augmentation import OTHER_SCANNERS, Augmentation  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.data import Crops, Rounds, to_channels, training_loader  # noqa: E402

CONFIG = Config(
    extent=(40, 48, 36), crop_voxels=(24, 32, 24), intensity_shift_sd=0.0, flip_probabilities=(0.0, 0.0, 0.0)
)


def crop_start(volume, config, rng):
    kept = {"crop_from": config.crop_from, "slices": config.slices, "extent": config.extent}
    return crops.crop_start(volume, config.crop_voxels, rng, **kept)


def full_grid(volume):
    """z-scores (contrast, x, y, z) and labels (x, y, z) of the whole grid, put together from the box."""
    image = np.zeros((len(volume.steps), *volume.grid_shape), np.float32)
    labels = np.zeros(volume.grid_shape, np.uint8)
    box = tuple(slice(b, b + n) for b, n in zip(volume.box_start, volume.box_shape, strict=True))
    image[:, *box], labels[box] = volume.image(), volume.labels()
    return image, labels


def find_crop(image, crop):
    """Every position at which a crop stands in a volume."""
    windows = np.lib.stride_tricks.sliding_window_view(image[0], crop.shape[1:])
    corner = np.argwhere(np.isclose(windows[..., 12, 16, 12], crop[0, 12, 16, 12], atol=1e-6))
    return [tuple(c) for c in corner if np.allclose(windows[*c], crop[0], atol=1e-6)]


def test_a_crop_without_augmentation_stands_in_the_volume_with_its_labels(tiny_entries):
    crops = Crops(tiny_entries, CONFIG)
    positions = set()
    for number in range(6):
        item = crops[number, 1]
        image, labels = full_grid(tiny_entries[1].open())
        (start,) = find_crop(image, item["image"].numpy())
        positions.add(start)
        window = tuple(slice(s, s + n) for s, n in zip(start, CONFIG.crop_voxels, strict=True))
        np.testing.assert_allclose(item["image"], image[:, *window], atol=1e-6)
        np.testing.assert_array_equal(item["labels"], labels[window])
        assert item["image"].dtype == torch.float32
        assert item["labels"].dtype == torch.uint8
    assert len(positions) > 1


def test_flips_turn_image_and_labels_together_and_all_axes_occur(tiny_entries):
    plain = Crops(tiny_entries, replace(CONFIG, crop_voxels=(40, 48, 40)))
    flipped = Crops(tiny_entries, replace(CONFIG, crop_voxels=(40, 48, 40), flip_probabilities=(1.0, 1.0, 1.0)))
    item, turned = plain[0, 0], flipped[0, 0]
    # One axis (z, 36 voxels in a crop of 40) leaves a choice of positions, which is the same draw in both.
    np.testing.assert_array_equal(turned["image"], item["image"].flip(1, 2, 3))
    np.testing.assert_array_equal(turned["labels"], item["labels"].flip(0, 1, 2))
    half = Crops(tiny_entries, replace(CONFIG, crop_voxels=(40, 48, 40), flip_probabilities=(0.5, 0.5, 0.5)))
    seen = set()
    for number in range(40):
        image, reference = half[number, 0]["image"], plain[number, 0]["image"]
        axes = [
            a
            for a in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3))
            if torch.equal(image, reference.flip(a))
        ]
        seen.update(axes[:1])
    assert len(seen) == 8


def test_the_shift_is_one_number_for_all_contrasts_within_its_bounds(tiny_entries):
    plain, shifted = Crops(tiny_entries, CONFIG), Crops(tiny_entries, replace(CONFIG, intensity_shift_sd=0.1))
    shifts = []
    for number in range(20):
        difference = (shifted[number, 2]["image"] - plain[number, 2]["image"]).numpy()
        assert np.ptp(difference) < 1e-6
        shifts.append(difference.mean())
    assert max(np.abs(shifts)) <= 0.1
    assert min(shifts) < -0.03 < 0.03 < max(shifts)


def test_items_are_functions_of_seed_round_and_subject(tiny_entries):
    config = replace(CONFIG, flip_probabilities=(0.5, 0.5, 0.5), intensity_shift_sd=0.1)
    first, again = Crops(tiny_entries, config), Crops(tiny_entries[::-1], config)
    torch.testing.assert_close(first[3, 0]["image"], again[3, len(tiny_entries) - 1]["image"], rtol=0, atol=0)
    for other in (first[4, 0], Crops(tiny_entries, replace(config, seed=1))[3, 0]):
        assert not torch.equal(first[3, 0]["image"], other["image"])


@pytest.mark.parametrize("seed", [0, 1])
def test_positions_are_uniform_over_those_that_fit(tiny_entries, seed):
    volume = tiny_entries[0].open()
    rng = np.random.default_rng(seed)
    starts = np.array([crop_start(volume, replace(CONFIG, crop_voxels=(24, 32, 40)), rng) for _ in range(2000)])
    # 40 x 48 x 36 voxels: 17 and 17 positions inside, and 5 that hold the whole of the shorter third axis.
    for axis, (low, high) in enumerate(((0, 16), (0, 16), (-4, 0))):
        counts = Counter(starts[:, axis].tolist())
        assert sorted(counts) == list(range(low, high + 1))
        expected = 2000 / (high - low + 1)
        assert max(abs(n - expected) for n in counts.values()) < 5 * np.sqrt(expected)


def test_crops_around_the_brain_hold_all_of_it(tiny_entries):
    volume = tiny_entries[0].open()
    config = replace(CONFIG, crop_voxels=(40, 48, 40), crop_from="brain")
    for seed in range(20):
        start = crop_start(volume, config, np.random.default_rng(seed))
        for s, side, b, n in zip(start, config.crop_voxels, volume.box_start, volume.box_shape, strict=True):
            assert s <= b
            assert s + side >= b + n


@pytest.mark.parametrize("crop_from", ["volume", "brain"])
@pytest.mark.parametrize(
    ("slices", "side", "expected"),
    [((8, 32), 24, {8}), ((8, 32), 16, set(range(8, 17))), ((10, 20), 16, set(range(4, 11)))],
)
def test_crops_come_from_the_slices_that_are_named(tiny_entries, crop_from, slices, side, expected):
    """A crop as long as the range has one position, a shorter one lies inside, a longer one holds all of it."""
    config = replace(CONFIG, crop_voxels=(24, 32, side), slices=slices, crop_from=crop_from)
    volume, rng = tiny_entries[0].open(), np.random.default_rng(0)
    starts = [crop_start(volume, config, rng) for _ in range(300)]
    assert {start[2] for start in starts} == expected
    # The other axes are drawn as they are without a range.
    others = [crop_start(volume, replace(config, slices=None), np.random.default_rng(seed))[:2] for seed in range(20)]
    assert others == [crop_start(volume, config, np.random.default_rng(seed))[:2] for seed in range(20)]


def test_slices_are_the_scans_on_a_coarser_grid_too(tiny_entries):
    """Slices 9 to 26 of 36 at 1 mm are 3 to 8 of 12 at 3 mm."""
    coarse = replace(tiny_entries[0].open(), grid_shape=(13, 16, 12), box_start=(0, 0, 0))
    config = replace(CONFIG, crop_voxels=(8, 8, 8), slices=(9, 27))
    starts = {crop_start(coarse, config, np.random.default_rng(seed))[2] for seed in range(40)}
    assert starts == {1, 2, 3}


def test_slices_are_not_counted_on_another_grid(tiny_entries):
    config = replace(CONFIG, slices=(10, 36), extent=(40, 48, 40))
    with pytest.raises(ValueError, match=r"BraTS_000: expected a scan on the grid of \(40, 48, 40\) .*\(40, 48, 36\)"):
        Crops(tiny_entries, config)[0, 0]


@pytest.mark.parametrize("length", [None, 3, 12])
def test_rounds_show_every_subject_equally_often(length):
    sampler = Rounds(5, length=length, seed=0)
    drawn = []
    for epoch in range(10):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler) == (length or 5)
        drawn += list(sampler)
    for number in range(len(drawn) // 5):
        chunk = drawn[5 * number : 5 * number + 5]
        assert {n for n, _ in chunk} == {number}
        assert sorted(index for _, index in chunk) == list(range(5))
    assert len({tuple(i for _, i in drawn[s : s + 5]) for s in range(0, 30, 5)}) > 1


def test_order_depends_on_the_seed_only():
    orders = [list(Rounds(30, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_workers_change_nothing(tiny_entries):
    batches = []
    for workers in (0, 2):
        loader = training_loader(tiny_entries, replace(CONFIG, workers=workers, flip_probabilities=(0.5, 0.5, 0.5)))
        epochs = []
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            epochs += [batch["image"].sum().item() for batch in loader]
        batches.append(epochs)
    assert batches[0] == batches[1]
    assert len(set(batches[0])) == len(batches[0])


def test_channels_are_the_tumour_labels_without_background():
    labels = torch.tensor([[0, 1], [2, 3]]).reshape(1, 2, 2, 1)
    expected = torch.tensor([[[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]]).reshape(1, 3, 2, 2, 1)
    torch.testing.assert_close(to_channels(labels).int(), expected.int())


def test_regions_lie_inside_one_another():
    labels = torch.arange(4, dtype=torch.uint8).reshape(1, 4, 1, 1)
    et, tc, wt = to_channels(labels, "regions")[0].flatten(1).tolist()
    assert (et, tc, wt) == (
        [False, False, False, True],
        [False, True, False, True],
        [False, True, True, True],
    )


def test_augmented_items_are_functions_of_seed_round_and_subject_and_keep_their_form(tiny_entries):
    config = replace(CONFIG, augmentation=replace(OTHER_SCANNERS, zoom_probability=1.0), label_crop_probability=0.5)
    first, again = Crops(tiny_entries, config), Crops(tiny_entries[::-1], config)
    item = first[3, 0]
    torch.testing.assert_close(item, again[3, len(tiny_entries) - 1], rtol=0, atol=0)
    assert item["image"].shape == (4, *CONFIG.crop_voxels)
    assert (item["image"].dtype, item["labels"].dtype) == (torch.float32, torch.uint8)
    for other in (first[4, 0], Crops(tiny_entries, replace(config, seed=1))[3, 0]):
        assert not torch.equal(item["image"], other["image"])


def test_an_augmentation_that_changes_nothing_gives_the_plain_items(tiny_entries):
    config = replace(CONFIG, flip_probabilities=(0.5, 0.5, 0.5), intensity_shift_sd=0.1)
    drawn = replace(config, augmentation=Augmentation(blur_probability=1e-12))
    for number in range(6):
        torch.testing.assert_close(
            Crops(tiny_entries, drawn)[number, 0], Crops(tiny_entries, config)[number, 0], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_gives_the_same_augmented_items(tiny_entries, workers):
    config = replace(
        CONFIG, augmentation=OTHER_SCANNERS, label_crop_probability=0.5, workers=workers, crops_per_epoch=5
    )
    whole, resumed = training_loader(tiny_entries, config), training_loader(tiny_entries, config)
    for epoch in range(2):
        whole.batch_sampler.sampler.set_epoch(epoch)
        expected = list(whole)
    resumed.batch_sampler.sampler.set_epoch(1)
    torch.testing.assert_close(list(resumed), expected, rtol=0, atol=0)


def test_crops_are_centred_on_labels_at_their_probability(tiny_entries):
    sizes = []
    for probability in (0.0, 1.0):
        crops = Crops(tiny_entries, replace(CONFIG, crop_voxels=(8, 8, 8), label_crop_probability=probability))
        sizes.append(np.mean([bool(crops[number, 0]["labels"].any()) for number in range(60)]))
    assert sizes[1] == 1.0
    assert sizes[0] < 0.8

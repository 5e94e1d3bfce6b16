from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from common.augmentation import (
    OTHER_SCANNERS,
    Augmentation,
    change_core,
    change_intensities,
    coarse_weights,
    fit_line,
    gaussian_weights,
    raise_to,
    remove_enhancement,
    spread,
    without_enhancement,
)
from common.cohort import find_subjects
from common.prepared import prepare
from common.recipe import Recipe
from common.subject import CONTRASTS
from common.volumes import along_axes
from tests.cohorts import write_cohort

CHANGES = ("brightness", "contrast", "gamma", "bias_field", "blur", "low_resolution", "noise")


@pytest.fixture
def crop():
    """Four contrasts of a ball of brain with a tumour: ET around NCR, within ED."""
    rng = np.random.default_rng(7)
    apart = np.linalg.norm(np.indices((21, 24, 18)) - np.array([10, 12, 9])[:, None, None, None], axis=0)
    image = rng.normal(0, 1, (4, *apart.shape)).astype(np.float32) * (apart < 9)
    labels = np.select([apart < 2, apart < 4, apart < 6], [1, 3, 2], 0).astype(np.uint8)
    return image, labels


def changed(crop, augmentation, seed=0):
    image, labels = (part.copy() for part in crop)
    change_intensities(image, labels, augmentation, CONTRASTS, np.random.default_rng(seed))
    return image, labels


def test_nothing_is_changed_by_default_and_everything_follows_the_seed(crop):
    image, labels = changed(crop, Augmentation())
    np.testing.assert_array_equal(image, crop[0])
    np.testing.assert_array_equal(labels, crop[1])
    always = replace(OTHER_SCANNERS, **{f"{name}_probability": 1.0 for name in CHANGES})
    first, again, other = (changed(crop, always, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_comes_at_its_probability_for_each_contrast_alone_and_leaves_the_background(crop, name):
    augmentation = Augmentation(**{f"{name}_probability": 0.3})
    outcomes = [changed(crop, augmentation, seed)[0] for seed in range(60)]
    hit = np.array([[not np.array_equal(a, b) for a, b in zip(image, crop[0], strict=True)] for image in outcomes])
    assert abs(hit.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / hit.size)
    assert hit.sum(axis=1).std() > 0  # not all four together
    for image in outcomes:
        assert image.dtype == np.float32
        assert not image[crop[0] == 0].any()


def test_brightness_is_one_factor_within_its_range(crop):
    factors = []
    for seed in range(40):
        image, _ = changed(crop, Augmentation(brightness_probability=1.0, brightness=(0.5, 2.0)), seed)
        ratio = (image / np.where(crop[0] == 0, 1, crop[0]))[crop[0] != 0].reshape(4, -1)
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(ratio.shape[1], 1), rtol=1e-5)
        factors.extend(ratio[:, 0])
    assert min(factors) >= 0.5
    assert max(factors) <= 2.0
    assert abs(np.median(np.log(factors))) < 0.2  # as often darker as brighter


def test_contrast_and_gamma_are_monais():
    transforms = pytest.importorskip("monai.transforms")
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(1).gamma(2.0, 1.0, 500).astype(np.float32) - 1
    fixed_mean = transforms.ScaleIntensityFixedMean(factor=0.4, preserve_range=True)(torch.from_numpy(values))
    np.testing.assert_allclose(spread(values, 1.4), fixed_mean, atol=1e-5)
    adjusted = transforms.AdjustContrast(0.7, retain_stats=True)(torch.from_numpy(values))
    # MONAI's SD is the sample's, and its range has 1e-7 added.
    np.testing.assert_allclose(raise_to(values, 0.7), adjusted, atol=1e-2)
    assert raise_to(values, 0.7).std() == pytest.approx(values.std(), rel=1e-5)
    np.testing.assert_array_equal(raise_to(np.ones(3, np.float32), 0.7), np.ones(3))


def test_smoothing_is_scipys_away_from_the_border_and_weights_sum_to_one():
    noise = np.random.default_rng(2).normal(size=(30, 26, 28))
    own = along_axes(noise, [gaussian_weights(side, 1.2) for side in noise.shape])
    inner = (slice(6, -6),) * 3
    np.testing.assert_allclose(own[inner], ndimage.gaussian_filter(noise, 1.2)[inner], atol=1e-5)
    for weights in (gaussian_weights(9, 2.0), coarse_weights(9, 0.5), coarse_weights(9, 0.01)):
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(coarse_weights(9, 1.0), np.eye(9))
    ramp = coarse_weights(64, 0.5) @ np.arange(64)
    np.testing.assert_allclose(ramp[4:-4], np.arange(64)[4:-4], atol=1e-4)


def test_noise_has_the_sd_that_was_drawn(crop):
    image, _ = changed(crop, Augmentation(noise_probability=1.0, noise_sd=(0.2, 0.2)))
    added = (image - crop[0])[crop[0] != 0]
    assert added.std() == pytest.approx(0.2, rel=0.05)
    assert abs(added.mean()) < 0.01


def test_a_contrast_is_missing_at_its_probability_but_t1ce_never(crop):
    always, sometimes = (Augmentation(dropout_probability=p) for p in (1.0, 0.5))
    there = lambda augmentation, seed: changed(crop, augmentation, seed)[0].any(axis=(1, 2, 3))  # noqa: E731
    kept = np.array([there(sometimes, seed) for seed in range(200)])
    t1ce = np.array([contrast == "T1ce" for contrast in CONTRASTS])
    assert kept[:, t1ce].all()
    assert np.all(np.abs(kept[:, ~t1ce].mean(axis=0) - 0.5) < 0.11)
    np.testing.assert_array_equal(there(always, 0), t1ce)


def test_without_t1ce_one_contrast_stays(crop):
    image, labels = crop[0][~np.isin(CONTRASTS, "T1ce")].copy(), crop[1].copy()
    others = [contrast for contrast in CONTRASTS if contrast != "T1ce"]
    change_intensities(image, labels, Augmentation(dropout_probability=1.0), others, np.random.default_rng(0))
    assert image.any(axis=(1, 2, 3)).sum() == 1


def test_a_tumour_without_enhancement_looks_as_t1_lets_expect_and_is_class_1(crop):
    image, labels = crop
    t1, brain, enhancing = image[1], image[1] != 0, labels == 3
    rng = np.random.default_rng(5)
    t1ce = (0.8 * t1 - 0.3 + 0.05 * rng.standard_normal(t1.shape)).astype(np.float32) * brain
    t1ce[brain & (rng.random(t1.shape) < 0.05)] = 6.0  # vessels
    t1ce[enhancing] = 4.0
    slope, offset, sd = fit_line(t1, t1ce, (labels == 0) & brain, np.random.default_rng(0))
    assert (slope, offset, sd) == pytest.approx((0.8, -0.3, 0.05), abs=0.02)
    new, classes = t1ce.copy(), labels.copy()
    remove_enhancement(new, t1, classes, np.random.default_rng(0))
    np.testing.assert_array_equal(classes, np.where(enhancing, 1, labels))
    left = (new - (0.8 * t1 - 0.3))[enhancing]
    assert abs(left.mean()) < 0.03
    assert 0.03 < left.std() < 0.08
    assert not new[~brain].any()
    far = ndimage.distance_transform_edt(~enhancing) > 7
    np.testing.assert_array_equal(new[far], t1ce[far])
    untouched = t1ce.copy()
    remove_enhancement(untouched, t1, np.zeros_like(labels), np.random.default_rng(0))
    np.testing.assert_array_equal(untouched, t1ce)


def test_a_crop_without_healthy_brain_takes_t1_itself(crop):
    t1, labels = crop[0][1], np.full(crop[1].shape, 3, np.uint8)
    t1ce = t1 + 3 * (t1 != 0)
    remove_enhancement(t1ce, t1, labels, np.random.default_rng(0))
    np.testing.assert_allclose(t1ce, t1, atol=1e-5)


def test_a_changed_core_has_other_means_and_its_texture_and_nothing_else_moves(crop):
    before, labels = crop[0], np.where(crop[1] == 3, 1, crop[1])
    core, brain = labels == 1, before != 0
    deep = ndimage.distance_transform_edt(core) >= 3
    assert deep.any()
    drawn = {contrast: [] for contrast in CONTRASTS}
    for seed in range(60):
        after = before.copy()
        change_core(after, labels, CONTRASTS, np.random.default_rng(seed))
        np.testing.assert_array_equal(after[:, ~core], before[:, ~core])
        np.testing.assert_array_equal(after != 0, brain)
        for contrast, old, new in zip(CONTRASTS, before, after, strict=True):
            moved = (new - old)[deep & (old != 0)]
            assert np.ptp(moved) < 1e-5  # one number, so the texture stays
            if moved.any():
                drawn[contrast].append(old[core].mean() + moved.mean())
    means = {contrast: np.array(found) for contrast, found in drawn.items()}
    assert all(30 <= len(found) <= 54 for found in means.values())  # 0.7 of 60
    assert means["FLAIR"].min() < -1
    assert means["FLAIR"].max() > 2
    assert means["T1"].min() > -2.01
    assert means["T1"].max() < 0.31
    assert means["T2"].min() > -0.51
    untouched = before.copy()
    change_core(untouched, np.where(core, 2, labels), CONTRASTS, np.random.default_rng(0))
    np.testing.assert_array_equal(untouched, before)


def test_an_augmentation_without_a_changed_core_draws_what_it_drew_before(crop):
    """The generator is asked only where the probability is above zero: older trainings go on with their crops."""
    image, labels = (each.copy() for each in crop)
    rng = np.random.default_rng(3)
    change_intensities(image, labels, Augmentation(), CONTRASTS, rng)
    expected = np.random.default_rng(3)
    expected.random()  # enhancement removed?
    expected.random(len(image))  # contrasts missing?
    for _ in image:
        expected.random(7)
    assert rng.random() == expected.random()


@pytest.mark.parametrize(
    "settings",
    [
        {"zoom_probability": 1.1}, {"noise_probability": -0.1}, {"zoom": (1.4, 0.7)}, {"gamma": (0.0, 1.0)},
        {"low_resolution": (0.5, 1.5)}, {"rotation_degrees": -1.0}, {"bias_field": -0.1}, {"noise_sd": (-0.1, 0.1)},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(ValueError, match=f"expected {next(iter(settings))} to be"):
        Augmentation(**settings)


def test_a_prepared_subject_without_enhancement_differs_about_its_tumour_only(tmp_path):
    subjects = find_subjects(write_cohort(tmp_path / "cohort", 1)).subjects
    volume = next(iter(prepare(subjects, Recipe(), tmp_path / "prepared", n_jobs=1).entries.values())).open()
    plain = without_enhancement(volume, CONTRASTS, np.random.default_rng(0))
    labels = volume.labels()
    np.testing.assert_array_equal(plain.labels(), np.where(labels == 3, 1, labels))
    channel = CONTRASTS.index("T1ce")
    for number, (before, after) in enumerate(zip(volume.image(), plain.image(), strict=True)):
        near = ndimage.binary_dilation(labels == 3, iterations=12)
        if number == channel:
            assert np.abs(after - before)[labels == 3].mean() > 0.1
            np.testing.assert_array_equal(after[~near], before[~near])
        else:
            np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(plain.image()[channel] == 0, volume.image()[channel] == 0)

"""Each change of scans against what it is by definition, on scans whose answer is known."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from common.nifti import Scan
from common.scanner import CHANGES, Change, changes_of

SHAPE = (48, 40, 36)
SPACING_MM = (1.0, 1.5, 2.0)
BOX = (slice(6, 42), slice(5, 35), slice(4, 32))
CONTRASTS = ("FLAIR", "T1", "T1ce", "T2")
INSIDE = (slice(16, 32), slice(14, 26), slice(12, 24))


def scan(inside, *, affine=None):
    """A brain that fills BOX with the given values."""
    data = np.zeros(SHAPE, np.int16)
    data[BOX] = np.broadcast_to(inside, SHAPE)[BOX]
    return Scan(data, np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0]) if affine is None else affine, None)


@pytest.fixture
def scans():
    rng = np.random.default_rng(5)
    return {name: scan(rng.integers(100, 900, SHAPE)) for name in CONTRASTS}


def changed(kind, strength, scans, *, seed=0, case="a"):
    return Change(kind, strength, "").apply(scans, seed=seed, case=case)


def ratio(kind, strength, scans, name="FLAIR", **drawn):
    return (changed(kind, strength, scans, **drawn)[name].data / np.where(scans[name].data, scans[name].data, 1))[BOX]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_what_every_change_keeps(change, scans):
    after, again = (change.apply(scans, seed=1, case="a") for _ in range(2))
    for name, one in after.items():
        assert one.data.tobytes() == again[name].data.tobytes()
        np.testing.assert_array_equal(one.affine, scans[name].affine)
        assert np.isfinite(one.data).all()
        assert not one.data[scans[name].data == 0].any()
    same = all(name in after and np.array_equal(after[name].data, scans[name].data) for name in scans)
    assert same == (change.name == "slices_2")  # as thick as they are
    untouched = replace(change, strength=0.0).apply(scans, seed=1, case="a")
    assert all(untouched[name] is scans[name] for name in scans)


@pytest.mark.parametrize("kind", ["gain", "bias", "noise", "gamma", "shifted"])
def test_seed_and_case_decide_what_is_drawn(kind, scans):
    drawn = [changed(kind, 4.0, scans, seed=seed, case=case) for seed in range(4) for case in "ab"]
    assert len({tuple(one[name].data.tobytes() for name in CONTRASTS) for one in drawn}) > 3


def test_gains_are_log_uniform_and_a_contrasts_own(scans):
    small = {name: one.data.astype(np.float32)[:9, :9, :9] for name, one in scans.items()}
    scans = {name: replace(scans[name], data=data) for name, data in small.items()}
    logs = []
    for case in map(str, range(300)):
        after = changed("gain", 1.0, scans, case=case)
        gains = [after[name].data.max() / scans[name].data.max() for name in CONTRASTS]
        inside = scans["T1"].data != 0
        np.testing.assert_allclose(after["T1"].data[inside] / scans["T1"].data[inside], gains[1], rtol=1e-5)
        logs.append(np.log2(gains))
    # Uniform from -1 to 1: mean 0, SD 1 / sqrt(3); 1200 draws know the mean to a standard error of 0.017.
    assert abs(np.mean(logs)) < 0.05
    assert np.std(logs) == pytest.approx(3**-0.5, abs=0.03)
    assert np.abs(logs).max() <= 1 + 1e-5
    assert np.abs(np.corrcoef(np.array(logs).T) - np.eye(4)).max() < 0.25


def test_strengths_of_a_change_differ_in_nothing_else(scans):
    weak, strong = (np.log(ratio("gain", most, scans).mean()) / np.log(1 + most) for most in (0.25, 1.0))
    assert weak == pytest.approx(strong, rel=1e-3)
    weak, strong = (np.log(ratio("bias", most, scans)) / np.log(1 + most) for most in (0.2, 0.8))
    np.testing.assert_allclose(weak, strong, atol=1e-4)


def test_a_bias_field_is_smooth_reaches_its_strength_and_is_a_contrasts_own(scans):
    log = np.log(ratio("bias", 0.4, scans))
    assert (log.max(), log.min()) == pytest.approx((np.log(1.4), -np.log(1.4)), abs=1e-4)
    # Knots lie 80 mm / 3 apart at the closest (four along an axis of 72 mm): over a voxel of 2 mm at most the field
    # moves by a small part of its range, where noise would move by most of it.
    steps = max(np.abs(np.diff(log, axis=axis)).max() for axis in range(3))
    assert steps < 0.2 * np.log(1.4)
    other = np.log(ratio("bias", 0.4, scans, "T1"))
    assert abs(np.corrcoef(log.ravel(), other.ravel())[0, 1]) < 0.95


@pytest.mark.parametrize(("value", "share"), [(400, 0.05), (400, 0.2), (50, 1.5)])
def test_rician_noise_has_the_second_moment_of_its_distribution(value, share):
    """E[m^2] = A^2 + 2 sigma^2 at every signal; far above the noise the SD is sigma."""
    noisy = changed("noise", share, {"T1": scan(value)})["T1"].data[BOX].astype(float)
    sd = share * value
    assert (noisy**2).mean() == pytest.approx(value**2 + 2 * sd**2, rel=0.03)
    assert noisy.min() > 0
    if share < 0.3:
        assert noisy.std() == pytest.approx(sd, rel=0.03)


def test_blur_spreads_a_point_as_wide_as_it_says_and_keeps_the_brains_edge():
    data = np.full(SHAPE, 100)
    data[24, 20, 18] = 20100
    spread = changed("blur", 4.0, {"T1": scan(data)})["T1"].data[BOX] - 100.0
    spread[np.abs(spread) < 1e-2] = 0
    for axis, side in enumerate(SPACING_MM):
        profile = spread.sum(axis=tuple(other for other in range(3) if other != axis))
        place = np.arange(len(profile)) * side
        middle = (profile * place).sum() / profile.sum()
        variance = (profile * (place - middle) ** 2).sum() / profile.sum()
        assert 2.3548 * variance**0.5 == pytest.approx(4.0, rel=0.06)
    np.testing.assert_allclose(changed("blur", 4.0, {"T1": scan(100)})["T1"].data[BOX], 100, rtol=1e-5)


def test_thick_slices_lose_what_changes_between_slices_and_nothing_within_one():
    x, _, z = np.indices(SHAPE)
    stripes = {"along": scan(500 + 300 * (-1) ** z), "within": scan(500 + 300 * (-1) ** x)}
    after = changed("slices", 6.0, stripes)
    assert np.abs(after["along"].data[INSIDE] - 500).max() < 40  # slices of 2 mm, averaged with a triangle of 6
    np.testing.assert_allclose(after["within"].data[BOX], stripes["within"].data[BOX], rtol=1e-5)
    ramp = changed("slices", 6.0, {"T1": scan(200 + 10 * z)})["T1"].data
    np.testing.assert_allclose(ramp[INSIDE], (200 + 10 * z)[INSIDE], atol=3)


def test_slices_are_the_patients_whatever_axis_a_file_stores_them_along(scans):
    turn = nib.orientations.axcodes2ornt("SPR"), nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(turn[1], turn[0])
    first = scans["FLAIR"]
    affine = first.affine @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    turned = Scan(nib.apply_orientation(first.data, turn), affine, None)
    expected = nib.apply_orientation(changed("slices", 5.0, {"FLAIR": first})["FLAIR"].data, turn)
    np.testing.assert_allclose(changed("slices", 5.0, {"FLAIR": turned})["FLAIR"].data, expected, rtol=1e-5)


def test_gamma_is_one_exponent_of_shares_of_the_maximum(scans):
    exponents = set()
    for case in "abcdef":
        before, after = (
            one["T2"].data[BOX] / one["T2"].data.max() for one in (scans, changed("gamma", 0.5, scans, case=case))
        )
        lower = before < 0.9
        found = np.log(after[lower]) / np.log(before[lower])
        assert np.ptp(found) < 1e-4
        exponents.add(round(float(found.mean()), 3))
    assert exponents == {1.5, 0.667}


def test_an_eroded_mask_loses_voxels_up_to_its_depth(scans):
    """A voxel goes where a background voxel's middle is no more than 3 mm away: 3, 2 and 1 of 1, 1.5 and 2 mm."""
    left = np.zeros(SHAPE, bool)
    left[9:39, 7:33, 5:31] = True
    for one in changed("eroded", 3.0, scans).values():
        np.testing.assert_array_equal(one.data != 0, left)


def test_a_shifted_mask_cuts_off_one_side(scans):
    seen = set()
    for case in map(str, range(30)):
        left = changed("shifted", 6.0, scans, case=case)["T1"].data != 0
        ends = [np.flatnonzero(left.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        cut = [(int(end[0]) - side.start, side.stop - 1 - int(end[-1])) for end, side in zip(ends, BOX, strict=True)]
        moved = [(axis, pair) for axis, pair in enumerate(cut) if any(pair)]
        ((axis, pair),) = moved
        assert sorted(pair) == [0, round(6 / SPACING_MM[axis])]
        seen.add((axis, pair[0] > 0))
    assert len(seen) == 6


def test_missing_and_swapped_contrasts(scans):
    assert list(changed("missing", "T1ce", scans)) == ["FLAIR", "T1", "T2"]
    after = changed("swapped", "FLAIR-T2", scans)
    assert list(after) == list(CONTRASTS)
    assert (after["FLAIR"], after["T2"], after["T1"]) == (scans["T2"], scans["FLAIR"], scans["T1"])


def test_a_network_of_two_contrasts_is_not_asked_about_others():
    names = {change.name for change in changes_of(("FLAIR", "T1ce"))}
    kinds = {change.kind for change in CHANGES}
    assert {name for name in names if "missing" in name or "swapped" in name} == {
        "missing_FLAIR", "missing_T1ce", "swapped_FLAIR-T1ce",
    }  # fmt: skip
    assert {name.partition("_")[0] for name in names} == kinds
    assert len({change.name for change in CHANGES}) == len(CHANGES)

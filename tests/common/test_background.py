"""What is taken for a brain on a background of 0, and what is not."""

import numpy as np
import pytest

from common import background
from common.cohort import find_subjects
from tests.cohorts import make_subject

SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def brain():
    return make_subject(6, shape=(60, 66, 52))[0]["t2"].astype(np.float32)


def test_brains_on_zero_are_taken_however_tightly_they_are_cut(brain):
    inside = np.argwhere(brain)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(axis=0), inside.max(axis=0), strict=True))
    zscored = np.where(brain > 0, (brain - brain[brain > 0].mean()) / brain[brain > 0].std(), 0)
    for scan in (brain, brain.astype(np.int16), brain[box], brain[:, :, 20:30], zscored, zscored[box]):
        assert background.problem(scan, spacing_mm=SPACING) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v, rng: (v - v.mean()) / v.std(),
        lambda v, rng: v + rng.uniform(0, 3e-7, v.shape),
        lambda v, rng: np.where(v > 0, v, -1024),
        lambda v, rng: v + 7,
        lambda v, rng: np.where(v > 0, v, rng.rayleigh(4, v.shape).round()),
        lambda v, rng: np.where((v == 0) & (np.indices(v.shape)[0] < 55) & (np.indices(v.shape).min(0) > 2), 1e-5, v),
        lambda v, rng: -v,
        lambda v, rng: np.where((v == 0) & (rng.random(v.shape) < 0.07), 3, v),
    ],
    ids=["z-scored whole", "tiny noise", "constant", "shifted", "air", "a halo on zero", "inverted", "specks"],
)
def test_other_backgrounds_are_refused(brain, spoil):
    spoiled = spoil(brain, np.random.default_rng(1)).astype(np.float32)
    found = background.problem(spoiled, spacing_mm=SPACING)
    assert found is not None
    assert "of its voxels are 0; expected a brain" in found or "no voxel is above 0" in found


def test_a_head_with_its_skull_is_more_than_a_brain():
    head = np.zeros((200, 220, 180), np.int16)
    head[20:180, 20:200, 20:160] = 100
    assert background.problem(head, spacing_mm=SPACING).startswith("4032 ml of it are not 0, more than any brain")
    assert background.problem(head, spacing_mm=(0.8, 0.8, 0.8)) is None  # 2064 ml


def test_real_scans_pass(real_data):
    for subject in find_subjects(real_data / "brats").subjects:
        for scan in subject.read()[0].values():
            assert background.problem(scan.data, spacing_mm=scan.spacing_mm) is None


def test_values_that_move_all_others_are_noted(brain):
    zscored = np.where(brain > 0, (brain - brain[brain > 0].mean()) / brain[brain > 0].std(), 0)
    assert background.notes(brain) == background.notes(zscored) == []
    bright, ringing = brain.copy(), brain.copy()
    bright[30, 33, 26] = 3e5
    ringing[brain == 0] = np.where(np.indices(brain.shape)[2][brain == 0] == 25, -4, 0)
    (peak,), (negative,) = background.notes(bright), background.notes(ringing)
    assert peak.startswith("its largest value, 3e+05, is far beyond all others")
    share = (ringing < 0).sum() / (ringing != 0).sum()
    assert negative.startswith(f"{share:.1%} of what is not 0 is negative")


def test_less_than_a_brain_is_noted():
    scan = np.zeros((100, 110, 120), np.int16)
    scan[10:90, 10:100, 10:110] = 5  # 720 ml
    assert background.brain_note(scan, spacing_mm=SPACING) is None
    assert background.brain_note(scan, spacing_mm=(0.5, 0.5, 0.5)).startswith(
        "90 ml of it are not 0, less than a brain"
    )


def test_contrasts_that_do_not_cover_one_brain_are_noted(brain):
    cut = brain.copy()
    cut[:, :, :26] = 0
    assert background.coverage_note({"T1": brain, "T2": brain * 2}) is None
    note = background.coverage_note({"T1": brain, "T2": cut})
    assert note.startswith("T2 5")
    assert "% of the voxels where any contrast is not 0" in note
    assert "T1" in background.coverage_note({"T1": brain, "T2": np.roll(brain, 6, axis=1)})

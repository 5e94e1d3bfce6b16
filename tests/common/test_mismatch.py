"""Masks that are not of their scans: a bright blob in a grey brain, real patients, and what is said of them where."""

import nibabel as nib
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from common.cohort import audit, find_subjects
from common.mismatch import BRIGHTER, FEWEST_VOXELS, OUTSIDE, mismatch
from common.prepared import prepare
from common.recipe import Recipe
from tests.cohorts import make_subject, write_cohort

PLACE, BRIGHTNESS = "labelled voxels lie outside the brain", "no brighter in FLAIR than the brain"
SHAPE = (60, 56, 48)
WRONG = {
    "mirrored": lambda mask: mask[::-1],
    "upside down": lambda mask: mask[:, :, ::-1],
    "turned about z": lambda mask: mask[::-1, ::-1],
    "shifted out": lambda mask: np.roll(mask, 25, axis=2),
}


def patient(seed=0):
    """A tumour left, in front and below the middle; FLAIR and T1, and its mask."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
    away = np.sqrt(((grid - np.array([18, 18, 16]).reshape(3, 1, 1, 1)) ** 2).sum(0))
    middle = (np.array(SHAPE) / 2).reshape(3, 1, 1, 1)
    brain = (((grid - middle) / (0.45 * middle * 2)) ** 2).sum(0) < 1
    mask = np.select([away < 3, away < 5, away < 9], [1, 3, 2], 0).astype(np.uint8) * brain
    flair = np.where(brain, rng.normal(100, 15, SHAPE) * np.where(mask == 2, 1.6, 1) * np.where(mask == 1, 0.5, 1), 0)
    return {"FLAIR": flair.astype(np.float32), "T1": (brain * 100).astype(np.int16)}, mask


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mask_of_its_own_scans_raises_no_doubt_and_one_put_elsewhere_does(seed):
    images, mask = patient(seed)
    assert mismatch(images, mask) == ()
    said = {name: mismatch(images, np.ascontiguousarray(change(mask))) for name, change in WRONG.items()}
    assert all(len(found) == 1 for found in said.values()), said
    assert PLACE in said.pop("shifted out")[0]
    assert all(BRIGHTNESS in found[0] for found in said.values())


def test_the_cohorts_of_these_tests_have_their_own_masks():
    for seed in range(3):
        images, mask = make_subject(seed, shape=(80, 96, 72))
        assert mismatch({"FLAIR": images["flair"]}, np.where(mask == 4, 3, mask)) == ()


def test_how_bright_a_tumour_is_is_told_by_the_rank_sum_statistic():
    """Of Mann and Whitney; both sides of the bound, the oedema that dims by and by."""
    images, mask = patient()
    verdicts = []
    for gain in (1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.15, 1.3):
        rng = np.random.default_rng(1)
        brain = images["T1"] != 0
        flair = np.where(brain, rng.normal(100, 15, SHAPE) * np.where(mask > 0, gain, 1), 0).astype(np.float32)
        some = (slice(None, None, 4),) * 3
        rest = flair[some][(mask[some] == 0) & brain[some]]
        shares = [
            mannwhitneyu(part, rest).statistic / part.size / rest.size for part in (flair[mask > 0], flair[mask == 2])
        ]
        verdicts.append(not mismatch({"FLAIR": flair}, mask))
        assert verdicts[-1] == (max(shares) >= BRIGHTER)
    assert set(verdicts) == {True, False}


def test_a_few_voxels_outside_the_brain_are_nothing():
    images, mask = patient()
    n = np.count_nonzero(mask)
    outside = np.flatnonzero(images["T1"].ravel() == 0)
    for share, doubted in ((OUTSIDE / 2, False), (2 * OUTSIDE, True)):
        more = mask.copy()
        more.flat[outside[: int(share * n)]] = 2
        assert bool(mismatch(images, more)) == doubted


def test_nothing_is_said_where_nothing_can_be_told():
    images, mask = patient()
    assert mismatch(images, np.zeros_like(mask)) == ()
    small = np.zeros_like(mask)
    small[25:30, 25:30, 20:25] = 2
    assert np.count_nonzero(small) < FEWEST_VOXELS
    assert mismatch(images, small) == ()
    assert mismatch({"T1": images["T1"]}, mask[::-1]) == ()
    whole = np.where(images["T1"] != 0, 2, 0).astype(np.uint8)
    assert mismatch(images, whole) == ()  # nothing to compare with
    cavity = np.where(mask > 0, 4, 0).astype(np.uint8)  # fluid or air, and nothing that is bright
    assert mismatch(images, cavity) == ()


def test_audits_and_prepared_entries_say_of_whom_the_masks_are_doubted(tmp_path):
    folder = write_cohort(tmp_path, 4, shape=(80, 96, 72))
    for wrong in ("BraTS_001", "BraTS_003"):
        file = folder / wrong / f"{wrong}_seg.nii.gz"
        mask = nib.load(file)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(mask.dataobj), 30, axis=2), mask.affine), file)
    (note,) = [note for note in audit(find_subjects(folder)).notes if PLACE in note]
    assert note.endswith(": 2 of 4 subjects (BraTS_001, BraTS_003)")
    entries = prepare(find_subjects(folder).subjects, Recipe(), tmp_path / "prepared", n_jobs=1).entries
    assert all(set(entry.mismatch) <= set(entry.doubts) for entry in entries.values())
    assert [id for id, entry in entries.items() if entry.mismatch] == ["BraTS_001", "BraTS_003"]


def test_real_patients_have_their_own_masks_and_are_told_from_wrong_ones(real_data):
    subjects = find_subjects(real_data / "brats").subjects
    read = [subject.read(("FLAIR", "T1ce")) for subject in subjects]
    scans = [{name: scan.data for name, scan in each.items()} for each, _ in read]
    masks = [np.where(mask.data == 4, 3, mask.data).astype(np.uint8) for _, mask in read]
    assert [mismatch(images, mask) for images, mask in zip(scans, masks, strict=True)] == [()] * len(subjects)
    found = [mismatch(images, mask[::-1]) for images, mask in zip(scans, masks, strict=True)]
    found += [mismatch(images, mask) for images, mask in zip(scans, masks[1:] + masks[:1], strict=True)]
    assert sum(map(bool, found)) >= 0.75 * len(found)

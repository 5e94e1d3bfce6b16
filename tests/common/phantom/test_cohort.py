"""The embedded cohort: form, determinism, hard cases, likeness to real subjects, and writing that survives a kill."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from common import nifti
from common.labels import BRATS_2018
from common.phantom.cohort import AFFINE, CASES, SHAPE, Phantom, make_phantom, write_cohort
from common.subject import CONTRASTS

SEED = 5
NCR, ED, ET = 1, 2, 3

# Figures of 22 real BraTS 2018 subjects (glioblastoma), measured with the functions of this file.
# Contrast-to-noise of the tumour (median in the label, less the median of the brain outside the tumour, over 1.4826
# times the median absolute deviation there): lowest and highest subject.
REAL_CNR = {
    "FLAIR": {"WT": (1.72, 6.68), "NCR": (2.62, 11.21), "ED": (1.50, 6.91), "ET": (1.97, 8.86)},
    "T1": {"WT": (-0.88, 0.40), "NCR": (-1.61, 0.69), "ED": (-0.84, 0.56), "ET": (-1.16, 0.57)},
    "T1ce": {"WT": (-1.11, 1.03), "NCR": (-1.71, 1.74), "ED": (-1.19, 0.34), "ET": (1.51, 7.09)},
    "T2": {"WT": (0.60, 4.27), "NCR": (0.96, 4.80), "ED": (0.37, 4.59), "ET": (0.37, 3.13)},
}
# Dice of WT under the best single FLAIR threshold, chosen per subject with the truth in hand.
REAL_THRESHOLD_DICE_MEAN, REAL_THRESHOLD_DICE_SD = 0.71, 0.19
REAL_THRESHOLD_DICE_RANGE = (0.26, 0.92)
REAL_VOLUME_ML = {NCR: (0.16, 30.2), ED: (9.1, 164.0), ET: (1.4, 40.1)}  # lowest and highest
REAL_VOLUME_MEAN_ML = {NCR: 9.7, ED: 61.8, ET: 15.9}


def best_threshold_dice(flair: np.ndarray, labels: np.ndarray) -> float:
    """Highest Dice of WT over all masks {flair >= threshold}."""
    brain = flair > 0
    every, tumour = (np.bincount(flair[m].astype(np.int64), minlength=32768) for m in (brain, brain & (labels > 0)))
    at_least = np.cumsum(every[::-1])
    hits = np.cumsum(tumour[::-1])
    return float(np.max(2 * hits / (at_least + np.count_nonzero(labels))))


def contrast_to_noise(image: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> float:
    normal = image[(image > 0) & (labels == 0)].astype(float)
    median = np.median(normal)
    return float((np.median(image[np.isin(labels, classes)]) - median) / (1.4826 * np.median(np.abs(normal - median))))


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """Ten subjects: one round of the schedule of CASES."""
    return [make_phantom(subject, seed=SEED) for subject in range(len(CASES))]


def test_best_threshold_dice_on_a_case_worked_by_hand():
    flair = np.array([0, 1, 2, 3, 4, 5], np.int16)
    labels = np.array([0, 0, 2, 0, 1, 3], np.uint8)
    # >= 4 finds 2 of 3 with no false one: 2*2/(2+3) = 0.8; >= 2 finds 3 with one false: 2*3/(4+3) = 6/7, the best
    assert best_threshold_dice(flair, labels) == pytest.approx(6 / 7)


def test_form_is_that_of_brats(phantoms):
    for number, phantom in enumerate(phantoms):
        assert phantom.id == f"Phantom_{number:05d}"
        assert phantom.case == CASES[number]
        assert tuple(phantom.images) == CONTRASTS
        np.testing.assert_array_equal(phantom.affine, AFFINE)
        assert phantom.labels.shape == SHAPE
        assert phantom.labels.dtype == np.uint8
        brain = phantom.images["FLAIR"] != 0
        for image in phantom.images.values():
            assert image.shape == SHAPE
            assert image.dtype == np.int16
            assert image.min() == 0
            np.testing.assert_array_equal(image != 0, brain)
        assert not np.any(phantom.labels[~brain])
        assert 1.0e6 < np.count_nonzero(brain) < 1.8e6  # real: 1.15 to 1.75 million voxels
        touched = [np.flatnonzero(brain.any(axis=other))[[0, -1]] for other in ((1, 2), (0, 2))]
        assert min(low for low, _ in touched) > 20  # a margin in plane, as real subjects have
        assert max(high for _, high in touched) < 225


def test_orientation_is_that_of_brats(phantoms):
    """The eyes' side is narrow and the second index runs to the back; ventricles (dark on T1) lie above the middle."""
    mean_t1 = np.mean([p.images["T1"] > 0 for p in phantoms], axis=0)
    plane = mean_t1[:, :, 70] > 0.5
    rows = np.flatnonzero(plane.any(axis=0))
    width = plane.sum(axis=0)
    assert width[rows[0] + 25] < width[rows[-1] - 25]  # frontal lobe narrower than the parietal
    assert mean_t1[:, 160:, 20].sum() > 3 * mean_t1[:, :90, 20].sum()  # the cerebellum: low and at the back


def test_same_numbers_same_voxels(phantoms):
    again = make_phantom(3, seed=SEED)
    for contrast in CONTRASTS:
        np.testing.assert_array_equal(again.images[contrast], phantoms[3].images[contrast])
    np.testing.assert_array_equal(again.labels, phantoms[3].labels)


def test_other_seed_and_other_subject_differ(phantoms):
    other_seed = make_phantom(3, seed=SEED + 1)
    assert np.any(other_seed.labels != phantoms[3].labels)
    assert np.any(phantoms[0].labels != phantoms[2].labels)
    assert all(np.any(other_seed.images[c] != phantoms[3].images[c]) for c in CONTRASTS)


@pytest.mark.parametrize(("subject", "seed"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(subject, seed):
    with pytest.raises(ValueError, match="must be 0 or more"):
        make_phantom(subject, seed=seed)


def test_hard_cases_occur(phantoms):
    by_case = {case: [p for p in phantoms if p.case == case] for case in CASES}
    for phantom in by_case["no_et"]:
        assert not np.any(phantom.labels == ET)
        assert np.any(phantom.labels == NCR)
    for phantom in by_case["tiny_core"]:
        assert 0 < np.isin(phantom.labels, (NCR, ET)).sum() < 5000  # 5 ml; the mean of real subjects is 26 ml
    for phantom in by_case["two_foci"]:
        pieces, n = ndimage.label(np.isin(phantom.labels, (NCR, ET)))
        assert n >= 2
        assert np.sort(np.bincount(pieces.ravel())[1:])[-2] > 200
    for phantom in by_case["saturated"]:
        assert sum(np.count_nonzero(image == 32767) for image in phantom.images.values()) > 500
    for phantom in by_case["typical"]:
        assert set(np.unique(phantom.labels)) == {0, NCR, ED, ET}
        assert max(image.max() for image in phantom.images.values()) < 32767


def test_one_flair_threshold_does_as_badly_as_on_real_subjects(phantoms):
    dice = [best_threshold_dice(p.images["FLAIR"], p.labels) for p in phantoms]
    assert 0.5 <= np.mean(dice) <= 0.8, dice
    assert np.std(dice) > REAL_THRESHOLD_DICE_SD / 2, dice
    assert max(dice) <= 0.97, dice


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrast_to_noise_is_within_the_real_range(phantoms, contrast):
    for region, (low, high) in REAL_CNR[contrast].items():
        classes = {"WT": (NCR, ED, ET), "NCR": (NCR,), "ED": (ED,), "ET": (ET,)}[region]
        values = [
            contrast_to_noise(p.images[contrast], p.labels, classes)
            for p in phantoms
            if np.isin(p.labels, classes).sum() > 500
        ]
        assert low <= np.mean(values) <= high, (region, values)
        margin = 0.25 * (high - low)  # 22 subjects do not show the whole range
        assert low - margin <= min(values), (region, values)
        assert max(values) <= high + margin, (region, values)


def test_volumes_are_like_real_ones(phantoms):
    typical = [p for p in phantoms if p.case == "typical"]
    for label, mean_ml in REAL_VOLUME_MEAN_ML.items():
        volumes = np.array([np.count_nonzero(p.labels == label) / 1000 for p in typical])
        assert mean_ml / 2 < volumes.mean() < mean_ml * 2, (label, volumes)
        assert volumes.max() < 1.5 * REAL_VOLUME_ML[label][1]


def test_real_subjects_lie_within_the_figures(real_data):
    """The constants above still mean what they say: real subjects, measured by the same functions, fall inside."""
    folders = sorted(path for path in (real_data / "brats").iterdir() if path.is_dir())
    assert folders
    for folder in folders:
        files = {c: next(folder.glob(f"*_{c.lower()}.nii*")) for c in CONTRASTS}
        labels = BRATS_2018.to_classes(nifti.read(next(folder.glob("*_seg.nii*"))).data)
        images = {c: nifti.read(path).data for c, path in files.items()}
        low, high = REAL_THRESHOLD_DICE_RANGE
        assert low - 0.005 <= best_threshold_dice(images["FLAIR"], labels) <= high + 0.005
        for contrast, image in images.items():
            low, high = REAL_CNR[contrast]["WT"]
            assert low - 0.01 <= contrast_to_noise(image, labels, (NCR, ED, ET)) <= high + 0.01
        for label, (low, high) in REAL_VOLUME_ML.items():
            assert low - 0.1 <= np.count_nonzero(labels == label) / 1000 <= high + 0.1


# --- writing ----------------------------------------------------------------------------------------------------------


def check_subject(folder: Path, phantom: Phantom) -> None:
    for contrast, image in phantom.images.items():
        scan = nifti.read(folder / phantom.id / f"{phantom.id}_{contrast.lower()}.nii.gz")
        np.testing.assert_array_equal(scan.data, image)
        np.testing.assert_array_equal(scan.affine, AFFINE)
        assert scan.data.dtype == np.int16
    mask = nifti.read(folder / phantom.id / f"{phantom.id}_seg.nii.gz").data
    assert set(np.unique(mask)) <= {0, 1, 2, 4}
    np.testing.assert_array_equal(BRATS_2018.to_classes(mask), phantom.labels)


def test_cohort_resumes_after_a_kill(tmp_path, monkeypatch, phantoms):
    written = []
    write = nifti.write

    def killed_at_the_seventh_file(path, data, *, like):
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data, like=like)

    monkeypatch.setattr(nifti, "write", killed_at_the_seventh_file)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, n_subjects=2, seed=SEED, n_jobs=1)
    assert sorted(p.name for p in tmp_path.glob("Phantom_*")) == ["Phantom_00000"]
    monkeypatch.setattr(nifti, "write", write)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "Phantom_00000").iterdir()}

    assert write_cohort(tmp_path, n_subjects=2, seed=SEED, n_jobs=1) == tmp_path

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "Phantom_00000").iterdir()} == before
    for phantom in phantoms[:2]:
        check_subject(tmp_path, phantom)


def test_two_writers_of_one_cohort(tmp_path, monkeypatch, phantoms):
    """While one writer is at its first file, another writes the whole cohort."""
    write = nifti.write

    def let_another_go_first(path, data, *, like):
        monkeypatch.setattr(nifti, "write", write)
        write_cohort(tmp_path, n_subjects=1, seed=SEED, n_jobs=1)
        write(path, data, like=like)

    monkeypatch.setattr(nifti, "write", let_another_go_first)
    write_cohort(tmp_path, n_subjects=1, seed=SEED, n_jobs=1)
    check_subject(tmp_path, phantoms[0])
    assert not list((tmp_path / ".partial").iterdir())


def test_leftovers_of_a_killed_writer_are_cleared_once_old(tmp_path, phantoms):
    write_cohort(tmp_path, n_subjects=1, seed=SEED, n_jobs=1)
    old, young = tmp_path / ".partial" / "old", tmp_path / ".partial" / "young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    write_cohort(tmp_path, n_subjects=1, seed=SEED, n_jobs=1)
    assert not old.exists()
    assert young.exists()


def test_another_cohort_is_refused(tmp_path):
    (tmp_path / "cohort.json").write_text('{"generator": "phantom", "version": 0, "seed": 5}')
    with pytest.raises(ValueError, match=r"holds another cohort: wanted .*found .*'version': 0"):
        write_cohort(tmp_path, n_subjects=1, seed=SEED)
    with pytest.raises(ValueError, match="n_subjects must be at least 1, got 0"):
        write_cohort(tmp_path, n_subjects=0, seed=SEED)

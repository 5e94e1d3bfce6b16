"""Randomised phantoms: what each kind says, what always holds of the contrasts, and a cohort that passes its audit."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from common import nifti
from common.cohort import audit, find_subjects
from common.phantom.randomised import KINDS, draw_levels, kind_of, make_randomised, name_of, write_randomised
from common.subject import CONTRASTS

SEED = 11
NCR, ED, ET = 1, 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One subject of each kind."""
    return write_randomised(tmp_path_factory.mktemp("randomised"), n_subjects=len(KINDS), seed=SEED, n_jobs=1)


@pytest.fixture(scope="module")
def labels(folder):
    """Classes by kind."""
    subjects = find_subjects(folder).subjects
    return {kind_of(number): subject.load_labels() for number, subject in enumerate(subjects)}


def test_the_cohort_passes_its_audit_and_says_of_what_kind_each_is(folder):
    cohort = find_subjects(folder)
    found = audit(cohort)
    assert [str(problem) for problem in found.problems] == []
    assert found.equal == ()
    assert not cohort.incomplete
    table = pd.read_csv(folder / "kinds.csv")
    assert list(table["subject"]) == [subject.id for subject in cohort.subjects]
    assert tuple(table["kind"]) == KINDS
    assert json.loads((folder / "cohort.json").read_text())["seed"] == SEED


def test_the_kinds_hold_what_they_say(labels):
    voxels = {kind: np.bincount(mask.ravel(), minlength=4) for kind, mask in labels.items()}
    assert all(len(counts) == 4 and counts[1:].sum() > 100 for counts in voxels.values())
    assert voxels["no_enhancement"][ET] == 0 < voxels["no_enhancement"][NCR]
    assert voxels["no_necrosis"][NCR] == 0 < voxels["no_necrosis"][ET]
    assert voxels["cavity"][NCR] == 0 < voxels["cavity"][ET]
    core = {kind: counts[NCR] + counts[ET] for kind, counts in voxels.items()}
    assert core["tiny"] < 4 / 3 * np.pi * 9**3 < core["huge"]
    cores, n = ndimage.label(np.isin(labels["several"], (NCR, ET)), np.ones((3, 3, 3)))
    assert n >= 3 or len(np.unique(cores[cores > 0])) >= 3


def test_a_cavity_is_background_within_the_tumour(folder, labels):
    mask = labels["cavity"] > 0
    enclosed = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=3)) & ~mask
    assert np.count_nonzero(enclosed) > 200
    flair = nifti.read(folder / name_of(KINDS.index("cavity")) / f"{name_of(KINDS.index('cavity'))}_flair.nii.gz").data
    assert (flair[mask] > 0).all()


def test_a_subject_is_a_function_of_its_number_and_the_seed(folder):
    number = KINDS.index("tiny")
    same, other = make_randomised(number, seed=SEED), make_randomised(number, seed=SEED + 1)
    for contrast in CONTRASTS:
        written = nifti.read(folder / same.id / f"{same.id}_{contrast.lower()}.nii.gz").data
        np.testing.assert_array_equal(written, same.images[contrast])
        assert not np.array_equal(same.images[contrast], other.images[contrast])
    assert not np.array_equal(same.labels, other.labels)
    with pytest.raises(ValueError, match="0 or more, got subject=-1"):
        make_randomised(-1, seed=0)


def test_another_seed_is_refused_in_the_same_folder(folder):
    with pytest.raises(ValueError, match="holds another cohort"):
        write_randomised(folder, n_subjects=1, seed=SEED + 1)


def test_what_a_radiologist_goes_by_always_holds():
    widest = {"wm": 0.0, "csf": 0.0}
    for number in range(400):
        levels = draw_levels(np.random.default_rng(number))
        flair, t1, t1ce = (levels[contrast] for contrast in ("FLAIR", "T1", "T1ce"))
        assert t1ce["ET"] > t1["ET"] + 0.29
        assert t1ce["ET"] > max(t1ce[name] for name in ("wm", "gm", "ED", "NCR")) + 0.29
        assert flair["ED"] > max(flair["wm"], flair["gm"]) + 0.29
        assert max(abs(level["NCR"] - level["ED"]) for level in levels.values()) > 0.29
        widest = {name: max(widest[name], t1[name]) for name in widest}
    assert min(widest.values()) > 1.9  # tissues themselves are free

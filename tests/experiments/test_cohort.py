"""The claims about the data, counted by hand on a small cohort."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests.cohorts import LPS_AFFINE

SHAPE = (240, 240, 155)


def write(folder, name, tumour, values):
    """A block of brain in slices 30 to 129 and a block of tumour, as BraTS scans."""
    brain = np.zeros(SHAPE, np.int16)
    brain[60:180, 60:180, 30:130] = np.random.default_rng(0).integers(50, 99, (120, 120, 100))
    labels = np.zeros(SHAPE, np.uint8)
    labels[tumour] = np.resize(values, labels[tumour].shape)
    (folder / name).mkdir(parents=True)
    for suffix, data in {"flair": brain, "t1": brain, "t1ce": brain, "t2": brain, "seg": labels}.items():
        nib.save(nib.Nifti1Image(data, LPS_AFFINE), folder / name / f"{name}_{suffix}.nii.gz")


def test_claims_are_what_one_counts_by_hand(run_module, tmp_path):
    data = tmp_path / "data"
    block = slice(80, 120), slice(80, 120)
    write(data, "A", (*block, slice(65, 85)), [1, 2, 4, 2])  # 32000 voxels, all in slices 60:135
    write(data, "B", (*block, slice(50, 70)), [2, 2, 4, 2])  # half of it below slice 60
    write(data, "C", (slice(80, 90), slice(80, 90), slice(100, 105)), [4, 4, 4, 4])  # 500 voxels: under 1 % of the crop
    done = run_module("experiments.cohort", "--data", data)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "cohort").iterdir()
    found = {line["key"].partition(".")[2]: line for line in json.loads((folder / "summary.json").read_text())}
    grid = np.prod(SHAPE)
    value = {name: line["value"] for name, line in found.items()}
    assert value["background_fraction"] == pytest.approx(1 - np.mean([32000, 32000, 500]) / grid)
    assert value["share_NCR"] == pytest.approx((0.25 + 0 + 0) / 3)
    assert value["share_ED"] == pytest.approx((0.5 + 0.75 + 0) / 3)
    assert value["share_ET"] == pytest.approx((0.25 + 0.25 + 1) / 3)
    assert value["label_shares"] == pytest.approx(1.5 / 0.25)
    assert (value["subjects"], value["subjects_excluded"], value["subjects_kept"]) == (3, 1, 2)
    assert found["excluded_fraction"]["reported"] == pytest.approx(0.079)
    assert value["slices_with_brain"] == 100
    assert value["slices_with_tumour"] == pytest.approx((20 + 20 + 5) / 3)
    assert value["tumour_in_unet25d_slices"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert value["whole_tumour_in_unet25d_slices"] == pytest.approx(2 / 3)
    assert all(line["low"] <= line["value"] <= line["high"] for line in found.values() if line["low"] is not None)


def test_every_problem_is_listed_and_the_good_subjects_are_measured(run_module, cohort, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    (data / "BraTS_000" / "BraTS_000_t1.nii.gz").unlink()
    file = data / "BraTS_004" / "BraTS_004_flair.nii.gz"
    file.write_bytes(file.read_bytes()[:-10])
    done = run_module("experiments.cohort", "--data", data)
    assert done.returncode == 0, done.stderr
    assert "4 good subjects, 2 with problems" in done.stdout
    assert "BraTS_000" in done.stdout
    assert "BraTS_004_flair.nii.gz" in done.stdout


def test_a_cohort_without_masks_is_refused(run_module, cohort, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    for mask in data.rglob("*_seg.nii.gz"):
        mask.unlink()
    refused = run_module("experiments.cohort", "--data", data)
    assert refused.returncode == 1
    assert "expected at least one good subject with a mask, found none" in refused.stderr
    assert "Traceback" not in refused.stderr

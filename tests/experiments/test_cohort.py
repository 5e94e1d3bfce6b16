"""The claims about the data, counted by hand on a small cohort."""

import json
import os
import shutil
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from common.cohort import find_subjects
from common.subject import Subject
from experiments import cohort
from experiments.base.results import reported
from experiments.segmentation import cohort as segmentation_cohort
from tests.cohorts import LPS_AFFINE
from tests.common.dicom.dicom_files import CORONAL, SAGITTAL, noise, write_series

SHAPE = (240, 240, 155)


@pytest.fixture
def cohort_folder(request):
    """Folder with six tiny subjects; the module has its fixture's name here."""
    return request.getfixturevalue("cohort")


def write(folder, name, tumour, values):
    """A block of brain in slices 30 to 129 and a block of tumour, as BraTS scans."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    scans = {contrast: np.zeros(SHAPE, np.int16) for contrast in ("flair", "t1", "t1ce", "t2")}
    for scan in scans.values():
        scan[60:180, 60:180, 30:130] = rng.integers(50, 99, (120, 120, 100))
    labels = np.zeros(SHAPE, np.uint8)
    labels[tumour] = np.resize(values, labels[tumour].shape)
    (folder / name).mkdir(parents=True)
    for suffix, data in {**scans, "seg": labels}.items():
        nib.save(nib.Nifti1Image(data, LPS_AFFINE), folder / name / f"{name}_{suffix}.nii.gz")


def test_those_in_doubt_are_pictured_first_and_of_the_others_evenly_many(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(segmentation_cohort, "draw_subjects", lambda path, subjects, **words: drawn.update(subjects))
    subjects = [Subject(f"s{number:02}", {}) for number in range(30)]
    segmentation_cohort.draw(tmp_path, subjects, {"s03", "s04"}, synthetic=False)
    doubted, others = list(drawn)[:2], list(drawn)[2:]
    assert doubted == ["s03: contrasts exchanged?", "s04: contrasts exchanged?"]
    assert (others[0], others[-1], len(others)) == ("s00", "s29", segmentation_cohort.DRAWN - 2)
    apart = np.diff([int(name[1:]) for name in others])
    assert apart.max() - apart.min() <= 2
    drawn.clear()
    segmentation_cohort.draw(tmp_path, subjects, {subject.id for subject in subjects}, synthetic=False)
    assert len(drawn) == segmentation_cohort.DRAWN // 2
    drawn.clear()
    segmentation_cohort.draw(tmp_path, subjects[:1], (), synthetic=False)
    assert list(drawn) == ["s00"]


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
    assert (folder / "figures" / "subjects.png").stat().st_size > 10_000
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


def test_every_problem_is_listed_and_the_good_subjects_are_measured(run_module, cohort_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(cohort_folder, data)
    (data / "BraTS_000" / "BraTS_000_t1.nii.gz").unlink()
    file = data / "BraTS_004" / "BraTS_004_flair.nii.gz"
    file.write_bytes(file.read_bytes()[:-10])
    done = run_module("experiments.cohort", "--data", data)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "cohort").iterdir()
    found = {line["key"].partition(".")[2]: line["value"] for line in json.loads((folder / "summary.json").read_text())}
    assert (found["subjects"], found["subjects_with_problems"]) == (4, 2)
    assert "BraTS_000" in done.stdout
    assert "BraTS_004_flair.nii.gz" in done.stdout


def test_odd_folders_and_copies_are_named(tmp_path, cohort_folder, capsys):
    data = tmp_path / "data"
    shutil.copytree(cohort_folder, data)
    os.rename(data / "BraTS_001", os.fsencode(data) + b"/B\xfcrger")
    os.mkfifo(data / "BraTS_002_flair.nii")
    (data / "latest").symlink_to(".")
    for scan in (data / "BraTS_003").iterdir():  # the same under another id, decompressed
        image = nib.load(scan)
        (data / "again").mkdir(exist_ok=True)
        image.to_filename(data / "again" / scan.name.replace("BraTS_003", "again").removesuffix(".gz"))
    _, found = run(tmp_path, "--data", data)
    assert found["subjects_with_the_scan_of_another"]["value"] == 1
    assert (found["subjects"]["value"], found["subjects_with_problems"]["value"]) == (5, 2)
    shown = capsys.readouterr().out
    for what in ("BraTS_003 = again: equal scans", "B\\udcfcrger: its name is no plain text", "found a named pipe"):
        assert what in shown
    assert "6 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by their names" in shown


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--mgmt-labels", "x.csv"), "expected --mgmt-data beside --mgmt-labels x.csv"),
        (("--mgmt-data", "x", "--convention", "msd"), "expected --data beside --convention"),
        (("--mgmt-data", "x", "--max-subjects", "3"), "expected --data beside --max-subjects"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, options, why):
    with pytest.raises(SystemExit, match=why):
        run(tmp_path, *options)


def test_a_cohort_without_masks_is_refused(run_module, cohort_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(cohort_folder, data)
    for mask in data.rglob("*_seg.nii.gz"):
        mask.unlink()
    refused = run_module("experiments.cohort", "--data", data)
    assert refused.returncode == 1
    assert "expected at least one good subject with a mask, found none" in refused.stderr
    assert "Traceback" not in refused.stderr


def run(tmp_path, *arguments):
    """The command in this process; returns the folder of the run and its results by name."""
    with pytest.MonkeyPatch.context() as patch:
        command = ["cohort", "--runs", tmp_path / "runs", "--jobs", "1", *arguments]
        patch.setattr(sys, "argv", [str(word) for word in command])
        cohort.main()
    folder = max((tmp_path / "runs" / "cohort").iterdir(), key=lambda path: (path / "summary.json").stat().st_mtime)
    lines = json.loads((folder / "summary.json").read_text())
    return folder, {line["key"].partition(".")[2]: line for line in lines}


def write_patients(folder):
    """Three patients with labels 1, 1, 0; five good series of 4 to 10 images, and one of two sizes."""
    dark = noise(10)
    dark[[0, 1, 9]] = 0  # three at the ends
    write_series(folder / "train" / "00001" / "FLAIR", dark)
    within = noise(6)
    within[[0, 3]] = 5  # one at an end, one within
    write_series(folder / "train" / "00001" / "T1w", within, orientation=SAGITTAL)
    write_series(folder / "train" / "00002" / "FLAIR", noise(4))
    write_series(folder / "train" / "00002" / "T2w", noise(7))
    write_series(folder / "train" / "00003" / "T1wCE", noise(5), orientation=CORONAL)
    write_series(folder / "train" / "00003" / "T2w", noise(3))
    write_series(folder / "train" / "00003" / "T2w", noise(3, (8, 9)), names="large{}.dcm", origin=(0, 0, 90))
    (folder / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n1,1\n2,1\n3,0\n")
    return folder


def test_claims_about_the_mgmt_series_are_what_one_counts_by_hand(tmp_path, capsys):
    folder, found = run(tmp_path, "--mgmt-data", write_patients(tmp_path / "mgmt"))
    value = {name: line["value"] for name, line in found.items() if name.startswith("mgmt_")}
    assert value["mgmt_patients"] == 3
    assert value["mgmt_classes"] == pytest.approx(2 / 3)
    exact = binomtest(2, 3).proportion_ci(0.95, method="exact")
    assert (found["mgmt_classes"]["low"], found["mgmt_classes"]["high"]) == pytest.approx(tuple(exact))
    # 10, 6, 4, 7, 5 and 3 + 3 images; within the patients 4, 3 and 1
    assert value["mgmt_images_per_series"] == "4 to 10 (median 6), within a patient by 3 (median)"
    assert found["mgmt_images_per_series"]["n"] == 6
    # the series of two sizes is none: it has no plane
    assert value["mgmt_planes"] == "axial 3, sagittal 1, coronal 1, oblique 0"
    assert value["mgmt_patients_with_several_planes"] == pytest.approx(1 / 3)
    assert value["mgmt_black_images"] == "15.6% of 32, 80.0% of these at the beginning or end"  # 5 of 32, 4 of 5
    assert value["mgmt_black_fraction"] == pytest.approx((5 / 16 + 0 + 0) / 3)
    assert (value["mgmt_unusable_series"], found["mgmt_unusable_series"]["n"]) == (7, 12)  # six have no folder
    assert "00003 T2w: expected images of one size" in capsys.readouterr().out
    assert len(pd.read_csv(folder / "mgmt_series.csv")) == 12


def test_a_task_without_a_cohort_is_listed_as_not_checked(cohort_folder, tmp_path):
    _, found = run(tmp_path, "--mgmt-data", write_patients(tmp_path / "mgmt"))
    assert found["subjects"] == {
        "key": "cohort.subjects",
        "reported": 1000,
        "value": "not checked: no --data given",
        "low": None,
        "high": None,
        "n": 0,
        "synthetic": False,
    }
    _, other = run(tmp_path, "--data", cohort_folder)
    assert other["subjects"]["value"] == 6
    assert other["mgmt_classes"]["value"] == "not checked: no --mgmt-data given"
    assert reported()["cohort"].keys() <= found.keys() & other.keys()
    _, both = run(tmp_path, "--data", cohort_folder, "--mgmt-data", tmp_path / "mgmt")
    assert [both["subjects"]["value"], both["mgmt_patients"]["value"]] == [6, 3]


def test_the_same_files_are_not_read_again(cohort_folder, tmp_path, capsys):
    arguments = ("--data", cohort_folder, "--mgmt-data", write_patients(tmp_path / "mgmt"))
    folder, found = run(tmp_path, *arguments)
    shown, written = capsys.readouterr().out, (folder / "summary.json").stat().st_mtime_ns
    assert run(tmp_path, *arguments) == (folder, found)
    assert capsys.readouterr().out == shown
    assert (folder / "summary.json").stat().st_mtime_ns == written
    assert run(tmp_path, *arguments, "--fresh") == (folder, found)
    assert (folder / "summary.json").stat().st_mtime_ns > written
    (tmp_path / "mgmt" / "train" / "00002" / "T2w" / "Image-6.dcm").unlink()
    other, changed = run(tmp_path, *arguments)
    assert other != folder
    # the differences are now 4, 2 and 1
    assert changed["mgmt_images_per_series"]["value"] == "4 to 10 (median 6), within a patient by 2 (median)"


def test_without_data_both_embedded_cohorts_are_checked(cohort_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort, "phantom_cohort", lambda folder, jobs, max_subjects: cohort_folder)
    monkeypatch.setattr(cohort, "phantom_patients", lambda options: write_patients(options.phantoms / "seed_effect"))
    folder, found = run(tmp_path, "--phantoms-mgmt", tmp_path / "phantoms_mgmt")
    assert folder.name.startswith("phantoms-")
    assert (found["subjects"]["value"], found["mgmt_patients"]["value"]) == (6, 3)
    assert all(line["synthetic"] for line in found.values())


def test_slices_are_counted_on_the_grid_of_brats_or_not_at_all(tmp_path):
    """Padded and turned, a subject has the counts it had; a head too long for the grid has none, and the reason."""
    write(tmp_path, "A", (slice(90, 110), slice(100, 140), slice(50, 75)), [1, 2, 4])
    for name in ("B", "C"):
        (tmp_path / name).mkdir()
        for suffix in ("flair", "t1", "t1ce", "t2", "seg"):
            data = np.asarray(nib.load(tmp_path / "A" / f"A_{suffix}.nii.gz").dataobj)
            data = np.pad(data, ((7, 9), (16, 0), (40, 61))) if name == "B" else data.repeat(2, axis=2)
            image = nib.as_closest_canonical(nib.Nifti1Image(data, LPS_AFFINE))
            nib.save(image, tmp_path / name / f"{name}_{suffix}.nii.gz")
    a, b, c = (segmentation_cohort.measure(subject) for subject in find_subjects(tmp_path).subjects)
    counted = ("crop_fraction", "slices_with_brain", "slices_with_tumour", "tumour_in_slices")
    # By the middle of its box, a block of slices 30 to 129 lies 8 slices lower than in A, where it is left alone.
    assert [a[name] for name in counted] == [20000 / 128**3, 100, 25, 15 / 25]
    assert [b[name] for name in counted] == [20000 / 128**3, 100, 25, 7 / 25]
    assert (
        "turned from RAS to LPS, brought from 256 x 256 x 256 to 240 x 240 x 155 voxels by its brain's box" in b["grid"]
    )
    assert all(np.isnan(c[name]) for name in counted)
    assert c["grid"].startswith("not checked: its brain measures 120 x 120 x 200 voxels")
    line = {each.key: each.value for each in segmentation_cohort.claims(pd.DataFrame([c]), 0, 0, 0, synthetic=True)}
    assert line["cohort.slices_with_brain"] == "not checked: no scan could be brought to BraTS's grid"
    assert line["cohort.subjects_kept"] == line["cohort.slices_with_brain"]

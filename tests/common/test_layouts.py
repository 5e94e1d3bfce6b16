import csv
import shutil

import nibabel as nib
import numpy as np
import pytest

from common.cohort import CohortError, audit, find_subjects
from common.cohort.clinical import subject_id
from common.cohort.names import FILE_NAMES
from common.labels import BRATS_2018, BY_FILE_NAMES
from common.splits import split_by_fractions
from common.subject import CONTRASTS, Subject
from tests.cohorts import make_subject
from tests.layouts import UCSF_OTHERS, save, write_ucsf, write_upenn

SHAPE = (20, 24, 18)


def check_subject(subject, seed, *, labels=None):
    """A subject gives the images of its phantom, in the order of CONTRASTS, and its classes."""
    images, own = make_subject(seed, SHAPE)
    read, _ = subject.load_images()
    for image, name in zip(read, ("flair", "t1", "t1ce", "t2"), strict=True):
        np.testing.assert_array_equal(image, images[name])
    classes = np.select([own == value for value in (1, 2, 4)], [1, 2, 3], 0) if labels is None else labels
    np.testing.assert_array_equal(subject.load_labels(), classes)


def test_layout_names_are_those_of_the_label_conventions():
    assert set(FILE_NAMES) == set(BY_FILE_NAMES)


def test_ucsf_pdgm_with_all_that_a_download_has(tmp_path):
    numbers = {"0004": 3, "0431": 4, "0431_FU001d": 5, "0541": 6}
    found = find_subjects(write_ucsf(tmp_path, numbers))
    assert found.layout == "UCSF-PDGM"
    assert [subject.id for subject in found.subjects] == [f"UCSF-PDGM-{number}" for number in numbers]
    assert found.incomplete == ()
    for subject, seed in zip(found.subjects, numbers.values(), strict=True):
        assert subject.convention == BRATS_2018
        check_subject(subject, seed)
    assert found.notes[:2] == (
        "4 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by their names: UCSF-PDGM",
        "16 files take no part: bias-corrected copies",
    )
    assert f"{4 * len(UCSF_OTHERS)} other scans take no part" in found.notes[2]
    assert audit(found, n_jobs=2).problems == ()


def test_the_bias_corrected_scans_serve_where_no_other_is_there(tmp_path):
    write_ucsf(tmp_path, {"0011": 0, "0012": 1})
    for file in tmp_path.rglob("UCSF-PDGM-0011_*"):
        if file.name.split("_")[-1] in ("FLAIR.nii.gz", "T1.nii.gz", "T1c.nii.gz", "T2.nii.gz"):
            file.unlink()
    found = find_subjects(tmp_path)  # never some subjects with and some without the correction
    assert [subject.id for subject in found.subjects] == ["UCSF-PDGM-0012"]
    assert found.incomplete[0].subject == "UCSF-PDGM-0011"
    assert "missing FLAIR, T1, T1ce, T2" in found.incomplete[0].what
    shutil.rmtree(next(tmp_path.rglob("UCSF-PDGM-0012_nifti")))
    gad = next(tmp_path.rglob("*_T1c_bias.nii.gz"))
    gad.rename(gad.with_name("UCSF-PDGM-0011_T1gad_bias.nii.gz"))
    found = find_subjects(tmp_path)
    images, _ = found.subjects[0].load_images()
    np.testing.assert_array_equal(images[2], (make_subject(0, SHAPE)[0]["t1ce"] * 1.25).astype(np.float32))
    assert found.notes[1] == "all scans are bias-corrected copies: the cohort has no others"


def test_upenn_gbm_tells_masks_corrected_by_hand_from_automated_ones(tmp_path):
    numbers = {"00001_11": "automated", "00002_11": "both", "00002_21": "none", "00003_11": "manual"}
    numbers["00630_21"] = "none"
    found = find_subjects(write_upenn(tmp_path, numbers))
    assert found.layout == "UPENN-GBM"
    assert [subject.id[10:] for subject in found.subjects] == ["00001_11", "00002_11", "00003_11"]
    assert found.incomplete == ()
    automated = np.array([0, 3, 2, 3, 3])[make_subject(0, SHAPE)[1]]
    check_subject(found.subjects[0], 0, labels=automated)
    check_subject(found.subjects[1], 1)
    check_subject(found.subjects[2], 3)
    assert found.notes[:4] == (
        "2 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by their names: UPENN-GBM, corrected by hand (images_segm)",
        "1 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by their names: UPENN-GBM, of an automated method, not "
        "corrected (automated_segm)",
        "1 files take no part: automated masks beside ones corrected by hand",
        "2 scans take no part: UPENN-GBM has no masks of them",
    )
    assert "35 other scans take no part" in found.notes[4]
    everyone = find_subjects(tmp_path, masks=False)
    assert [subject.id[10:] for subject in everyone.subjects] == list(numbers)
    assert {subject.label for subject in everyone.subjects} == {None}


def test_a_baseline_of_upenn_gbm_without_a_mask_is_a_problem(tmp_path):
    found = find_subjects(write_upenn(tmp_path, {"00007_11": "none", "00008_11": "manual"}))
    assert [(problem.subject, problem.what) for problem in found.incomplete] == [
        ("UPENN-GBM-00007_11", "missing its mask, which other subjects of the cohort have")
    ]


def rename(folder, before, after):
    for file in list(folder.rglob(f"*{before}")):
        file.rename(file.with_name(file.name.replace(before, after)))


def test_near_misses_of_the_collections_are_refused_with_the_reason(tmp_path):
    ucsf, upenn = write_ucsf(tmp_path / "ucsf", {"0021": 0}), write_upenn(tmp_path / "upenn", {"00005_11": "manual"})
    rename(ucsf, "_T1c.nii.gz", "_T1ce.nii.gz")
    with pytest.raises(CohortError, match=r"found UCSF-PDGM \(UCSF-PDGM-0021_.*BraTS 2018-2021 \(.*_T1ce\.nii\.gz\)"):
        find_subjects(ucsf)
    next(ucsf.rglob("*_T1ce.nii.gz")).unlink()
    for file in ucsf.rglob("*_bias.nii.gz"):
        file.unlink()
    with pytest.raises(CohortError, match=r"looks like UCSF-PDGM, but no subject is complete.*missing T1ce"):
        find_subjects(ucsf)
    shutil.rmtree(upenn / "NIfTI-files" / "images_structural")
    shutil.rmtree(upenn / "NIfTI-files" / "images_segm")
    with pytest.raises(CohortError, match=r"UPENN-GBM with the skull.*images_structural"):
        find_subjects(upenn)


def test_a_mask_of_another_convention_in_a_collection_is_named(tmp_path):
    folder = write_ucsf(tmp_path, {"0030": 0, "0031": 1})
    for file in folder.rglob("*_tumor_segmentation.nii.gz"):
        mask = np.asarray(nib.load(file).dataobj)
        save(file, np.where(mask == 4, 3, mask))
    problems = audit(find_subjects(folder)).problems
    assert [problem.subject[-4:] for problem in problems] == ["0030", "0031"]
    assert all("mask values [3] are not in brats2018" in problem.what for problem in problems)


def test_names_of_brats_with_ids_of_a_collection_are_those_of_brats(tmp_path):
    images, labels = make_subject(0, SHAPE)
    for word, data in {**images, "seg": labels}.items():
        save(tmp_path / "UCSF-PDGM-0007" / f"UCSF-PDGM-0007_{word}.nii.gz", data)
    found = find_subjects(tmp_path)
    assert found.layout == "BraTS 2018-2021"
    check_subject(found.subjects[0], 0)


def test_one_patients_scans_stay_on_one_side_of_every_split(tmp_path):
    ids = ["UCSF-PDGM-0431", "UCSF-PDGM-0431_FU001d", "UCSF-PDGM-0278"]
    ids += ["UPENN-GBM-00002_11", "UPENN-GBM-00002_21"] + [f"UCSF-PDGM-{n:04d}" for n in range(10, 40)]
    subjects = [Subject(name, {}) for name in ids]
    for seed in range(20):
        split = split_by_fractions(subjects, fractions=(0.6, 0.2, 0.2), seed=seed)
        for part in (split.train, split.validation, split.test):
            assert len({"UCSF-PDGM-0431", "UCSF-PDGM-0431_FU001d", "UCSF-PDGM-0278"} & set(part)) in (0, 3)
            assert len({"UPENN-GBM-00002_11", "UPENN-GBM-00002_21"} & set(part)) in (0, 2)


def test_every_row_of_the_collections_tables_finds_its_scans(tmp_path):
    write_ucsf(tmp_path / "ucsf", {"0004": 0, "0391": 1, "0391_FU016d": 2})
    write_upenn(tmp_path / "upenn", {"00001_11": "none", "00001_21": "none"})
    for folder, table in (("ucsf", "UCSF-PDGM-metadata_v5.csv"), ("upenn", "UPENN-GBM_clinical_info_v2.1.csv")):
        with (tmp_path / folder / table).open(encoding="utf-8") as file:
            rows = [subject_id(row["ID"]) for row in csv.DictReader(file)]
        assert rows == [subject.id for subject in find_subjects(tmp_path / folder, masks=False).subjects]
    assert subject_id(" ucsf-pdgm-541 ") == "UCSF-PDGM-0541"
    assert subject_id("BraTS2021_00097") == "BraTS2021_00097"


def test_the_contrasts_are_in_one_order():
    assert CONTRASTS == ("FLAIR", "T1", "T1ce", "T2")  # the order of make_subject's images, in which they are written

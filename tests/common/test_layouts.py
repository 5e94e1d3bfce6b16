import csv
import shutil

import nibabel as nib
import numpy as np
import pytest

from common.cohort import CohortError, audit, find_subjects
from common.cohort.clinical import subject_id
from common.cohort.mapping import read_mapping
from common.cohort.names import FILE_NAMES
from common.labels import BRATS_2018, BRATS_2023, BRATS_2024, BY_FILE_NAMES, LabelConvention
from common.splits import split_by_fractions
from common.subject import Subject
from tests.cohorts import make_subject
from tests.layouts import UCSF_OTHERS, save, write_2023, write_bids, write_ucsf, write_upenn

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


@pytest.mark.parametrize(("write", "numbers"), [(write_ucsf, {"0004": 0}), (write_upenn, {"00001_11": "both"})])
def test_a_suffix_in_capitals_is_one(tmp_path, write, numbers):
    folder = write(tmp_path, numbers)
    before = find_subjects(folder)
    rename(folder, ".nii.gz", ".NII.GZ")
    found = find_subjects(folder)
    assert (found.layout, found.incomplete, found.notes[:2]) == (before.layout, (), before.notes[:2])
    check_subject(found.subjects[0], 0)


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
    assert found.notes[:3] == (
        "2 masks are read as brats2018 (1 NCR, 2 ED, 4 ET), by their names: UPENN-GBM, corrected by hand (images_segm)",
        "1 mask is read as brats2018 (1 NCR, 2 ED, 4 ET), by their names: UPENN-GBM, of an automated method, not "
        "corrected (automated_segm)",
        "1 file takes no part: automated masks beside ones corrected by hand",
    )
    assert "35 other scans take no part" in found.notes[3]
    assert found.notes[4] == "2 scans take no part: UPENN-GBM has no masks of them"
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


GLI = {"00005-100": 0, "00005-101": 1, "00006-100": 2, "00020-000": 3}


def with_cavity(seed):
    """Classes of a phantom whose necrotic core has been resected: its voxels are RC."""
    return np.array([0, 4, 2, 0, 3], np.uint8)[make_subject(seed, SHAPE)[1]]


def test_brats_2024_has_the_resection_cavity_as_a_class_of_its_own(tmp_path):
    found = find_subjects(write_2023(tmp_path, "GLI", GLI, resected=("00005-101", "00006-100")))
    assert found.layout == "BraTS 2023"
    assert [subject.patient for subject in found.subjects] == [
        f"BraTS-GLI-{n}" for n in ("00005", "00005", "00006", "00020")
    ]
    assert [subject.convention for subject in found.subjects] == [*[BRATS_2024] * 3, BRATS_2023]
    assert (found.with_cavity, found.cavities) == (3, ())
    check_subject(found.subjects[0], 0)
    check_subject(found.subjects[1], 1, labels=with_cavity(1))
    assert found.notes[0] == ("1 mask is read as brats2023 (1 NCR, 2 ED, 3 ET), by their names: BraTS-GLI (glioma)")
    assert "3 masks are read as brats2024 (1 NCR, 2 ED, 3 ET, 4 RC), by their names" in found.notes[1]
    assert audit(found, n_jobs=2).problems == ()


def test_the_user_decides_what_becomes_of_the_cavity(tmp_path):
    write_2023(tmp_path, "GLI", GLI, resected=("00005-101", "00006-100"))
    read = find_subjects(tmp_path)
    background = find_subjects(tmp_path, cavity="background")
    assert (background.with_cavity, background.cavities, len(background.subjects)) == (0, (), 4)
    labels = with_cavity(2)
    check_subject(background.subjects[2], 2, labels=np.where(labels == 4, 0, labels))
    assert "4 RC, which is read as background" in background.notes[1]
    left_out = find_subjects(tmp_path, cavity="leave-out")
    assert [subject.id[10:] for subject in left_out.subjects] == ["00005-100", "00020-000"]
    assert (left_out.with_cavity, left_out.cavities) == (0, ("BraTS-GLI-00005-101", "BraTS-GLI-00006-100"))
    assert left_out.notes[-1] == "2 subjects take no part, as their masks hold the resection cavity (RC)"
    check_subject(left_out.subjects[0], 0)
    # What is stored for one reading must not serve another.
    prints = {cohort.subjects[0].fingerprint() for cohort in (read, background)}
    assert len(prints) == 2
    for name in ("BraTS-GLI-00005-100", "BraTS-GLI-00020-000"):
        shutil.rmtree(next(tmp_path.rglob(name)))
    with pytest.raises(CohortError, match="expected subjects without a resection cavity"):
        find_subjects(tmp_path, cavity="leave-out")


def test_a_damaged_mask_is_not_left_out_as_a_cavity(tmp_path):
    write_2023(tmp_path, "GLI", {"00001-100": 0, "00002-100": 1}, resected=("00001-100",))
    file = next(tmp_path.rglob("*00002-100-seg.nii.gz"))
    blurred = np.asarray(nib.load(file).dataobj) * np.float32(1.2)  # holds 3.6, as interpolation leaves it
    file.write_bytes(file.read_bytes()[:-9])
    found = find_subjects(tmp_path, cavity="leave-out")
    assert [problem.file for problem in audit(found).problems] == [file]
    save(file, blurred)
    (problem,) = audit(find_subjects(tmp_path, cavity="leave-out")).problems
    assert "3.6" in problem.what


def test_brats_africa_says_which_subjects_have_no_glioma(tmp_path):
    write_2023(tmp_path / "95_Glioma", "SSA", {"00002-000": 0, "00007-000": 1})
    found = find_subjects(write_2023(tmp_path / "51_OtherNeoplasms", "SSA", {"00009-000": 2}).parent)
    assert [subject.id[10:] for subject in found.subjects] == ["00002-000", "00007-000", "00009-000"]
    check_subject(found.subjects[2], 2)
    assert found.notes == (
        "2 masks are read as brats2023 (1 NCR, 2 ED, 3 ET), by their names: BraTS-SSA (Sub-Saharan Africa)",
        "1 mask is read as brats2023 (1 NCR, 2 ED, 3 ET), by their names: BraTS-SSA (Sub-Saharan Africa), "
        "in OtherNeoplasms: no gliomas",
    )


def test_near_misses_of_brats_2023_names(tmp_path):
    folder = write_2023(tmp_path / "peds", "PED", {"00003-000": 0, "00004-000": 1})
    with pytest.raises(CohortError, match=r"masks of BraTS-PED need not have.*has 1 ET, 2 NET, 3 CC, 4 ED"):
        find_subjects(folder)
    folder = write_2023(tmp_path / "before", "GLI", {"00003-000": 0, "00004-000": 1}, resected=("00004-000",))
    (problem,) = audit(find_subjects(folder)).problems  # 4 before treatment is no cavity
    assert problem.subject == "BraTS-GLI-00004-000"
    assert "mask values [4] are not in brats2023" in problem.what
    folder = write_2023(tmp_path / "africa", "SSA", {"00003-000": 0})
    rename(folder, "-t1c.nii.gz", "_t1ce.nii.gz")
    with pytest.raises(CohortError, match=r"BraTS 2018-2021 \(.*_t1ce.*BraTS 2023 \("):
        find_subjects(folder)


MAPPING = """
FLAIR = "{patient}/{session}/anat/{patient}_{session}_FLAIR.nii.gz"
T1 = "{patient}/{session}/anat/{patient}_{session}_T1w.nii.gz"
T1ce = "{patient}/{session}/anat/{patient}_{session}_ce-gadolinium_T1w.nii.gz"
T2 = "{patient}/{session}/anat/{patient}_{session}_T2w.nii.gz"
label = "derivatives/masks/{patient}/{session}/anat/{patient}_{session}_dseg.nii.gz"
labels = {NCR = 3, ED = 1, ET = 2}
"""
OWN = LabelConvention("mapping.toml", ncr=3, ed=1, et=2)


def mapping(folder, text=MAPPING):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mapping.toml").write_text(text, encoding="utf-8")
    return folder / "mapping.toml"


def test_a_mapping_file_describes_a_folder_of_bids(tmp_path):
    sessions = {("sub-01", "ses-1"): 0, ("sub-01", "ses-2"): 1, ("sub-02", "ses-1"): 2, ("sub-10", "ses-1"): 3}
    folder = write_bids(tmp_path / "data", sessions, OWN)
    found = find_subjects(folder, layout=mapping(tmp_path))
    assert found.layout == "mapping.toml"
    assert [subject.id for subject in found.subjects] == [
        "sub-01_ses-1",
        "sub-01_ses-2",
        "sub-02_ses-1",
        "sub-10_ses-1",
    ]
    assert [subject.patient for subject in found.subjects] == ["sub-01", "sub-01", "sub-02", "sub-10"]
    for subject, seed in zip(found.subjects, sessions.values(), strict=True):
        check_subject(subject, seed)
    assert found.notes[0] == "4 masks are read as mapping.toml (1 ED, 2 ET, 3 NCR), by mapping.toml"
    assert "8 other scans take no part" in found.notes[1]
    assert audit(found, n_jobs=2).problems == ()
    with pytest.raises(CohortError, match=r"mapping\.toml says .* contradicts the named convention msd"):
        find_subjects(folder, layout=tmp_path / "mapping.toml", convention="msd")
    with pytest.raises(CohortError, match=r"looks like BraTS 2018-2021.*missing T1, T1ce.*needs a mapping file"):
        find_subjects(folder)


def test_the_example_of_the_mappings_docstring_is_one(tmp_path):
    example = read_mapping.__globals__["__doc__"].split("\n\n")[1]
    folder = write_bids(tmp_path / "data", {("sub-5", "ses-1"): 5}, BRATS_2023)
    found = find_subjects(folder, layout=mapping(tmp_path, "\n".join(line.strip() for line in example.splitlines())))
    check_subject(found.subjects[0], 5)
    assert found.subjects[0].convention == BRATS_2023
    assert len(example.splitlines()) == 6


def test_a_mapping_chooses_among_a_collections_files(tmp_path):
    folder = write_ucsf(tmp_path / "data", {"0061": 0, "0061_FU003d": 1})
    words = {"FLAIR": "FLAIR", "T1": "T1", "T1ce": "T1c", "T2": "T2"}
    lines = [f'{contrast} = "*/{{patient}}_nifti/{{patient}}_{word}_bias.nii.gz"' for contrast, word in words.items()]
    found = find_subjects(folder, layout=mapping(tmp_path, "\n".join(lines)))
    assert [subject.id for subject in found.subjects] == ["UCSF-PDGM-0061", "UCSF-PDGM-0061_FU003d"]
    assert {subject.patient for subject in found.subjects} == {"UCSF-PDGM-0061"}
    assert all(file.name.endswith("_bias.nii.gz") for file in found.subjects[1].images.values())
    assert found.subjects[0].label is None


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("T2 =", "T2w =", "expected the keys FLAIR, T1, T1ce, T2, label, labels, found 'T2w'"),
        ('T2 = "{patient}/{session}/anat/{patient}_{session}_T2w.nii.gz"', "", "found none for T2"),
        ("labels = {NCR = 3, ED = 1, ET = 2}", "", "expected labels beside label, found none"),
        ("label =", "#", "expected label beside labels, found none"),
        ("ET = 2}", "ET = 1}", r"distinct whole numbers from 1 to 254, received \(3, 1, 1\)"),
        ("ET = 2}", "ET = true}", "distinct whole numbers"),
        ("ET = 2}", "CC = 2}", "expected as labels the values"),
        ("{NCR = 3, ED = 1, ET = 2}", '"brats2019"', "expected as labels the values .* found 'brats2019'"),
        ("_FLAIR.nii.gz", "_FLAIR.nii.bz2", r"ends in \.nii or \.nii\.gz as FLAIR"),
        ("_FLAIR.nii.gz", "_{run}_FLAIR.nii.gz", r"in braces only, found \{run\} in FLAIR"),
        ("{patient}_{session}_T2w", "{patient}_{session_T2w", "in braces only"),
        ("{patient}/{session}/anat/{patient}_{session}_T2w", "all/T2", r"expected \{patient\} in the path of T2"),
        (
            "{patient}/{session}/anat/{patient}_{session}_T2w",
            "{patient}/T2",
            "every path with .*session.* or none",
        ),
        ("_T2w.nii.gz", "_T1w.nii.gz", "expected a path of its own for T2, found that of T1"),
        ('T2 = "', 'T2 = "/', "expected a path below the folder of scans"),
        ('T2 = "', 'T2 = "../', "expected a path below the folder of scans"),
        ('T2 = "{patient}/', 'T2 = 7 #"', "expected a path as T2, found 7"),
        ("FLAIR = ", "FLAIR ", r"expected a mapping file \(TOML\), but .*line 2"),
    ],
)
def test_what_is_no_mapping_is_refused_with_the_reason(tmp_path, before, after, why):
    assert before in MAPPING
    with pytest.raises(CohortError, match=why) as raised:
        read_mapping(mapping(tmp_path, MAPPING.replace(before, after, 1)))
    assert str(tmp_path / "mapping.toml") in str(raised.value)


def test_near_misses_of_a_mapping_name_the_path_that_fits_no_file(tmp_path):
    folder = write_bids(tmp_path / "data", {("sub-01", "ses-1"): 0}, OWN)
    with pytest.raises(CohortError, match=r"T1ce = '.*ce-gd_T1w.*found none but .*sub-01_ses-1_ce-gadolinium_T1w"):
        find_subjects(folder, layout=mapping(tmp_path, MAPPING.replace("ce-gadolinium", "ce-gd")))
    with pytest.raises(CohortError, match=r"label = .*found none but"):
        find_subjects(folder, layout=mapping(tmp_path, MAPPING.replace("_dseg", "_seg")))
    with pytest.raises(CohortError, match=r"each file in one place, found .*ce-gadolinium_T1w.* as T1 and T1ce"):
        find_subjects(folder, layout=mapping(tmp_path, MAPPING.replace("_{session}_T1w", "_{session}_*T1w")))
    with pytest.raises(CohortError, match=r"absent\.toml: expected a mapping file"):
        find_subjects(folder, layout=tmp_path / "absent.toml")


def write_scans(folder, names):
    """An empty file of each name; finding opens none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_an_id_is_patient_and_session_in_whatever_order_a_path_has_them(tmp_path):
    text = 'FLAIR = "flair/{session}/{patient}.nii.gz"\n' + "".join(
        f'{contrast} = "{contrast.lower()}/{{patient}}/{{session}}.nii.gz"\n' for contrast in ("T1", "T1ce", "T2")
    )
    names = [f"flair/{session}/{patient}.nii.gz" for patient in (1, 2) for session in (1, 2)]
    names += [
        f"{c}/{patient}/{session}.nii.gz" for c in ("t1", "t1ce", "t2") for patient in (1, 2) for session in (1, 2)
    ]
    found = find_subjects(write_scans(tmp_path / "scans", names), layout=mapping(tmp_path, text))
    subject = next(subject for subject in found.subjects if subject.id == "1_2")
    assert subject.patient == "1"
    places = {contrast: path.relative_to(tmp_path / "scans").as_posix() for contrast, path in subject.images.items()}
    assert places["FLAIR"] == "flair/2/1.nii.gz"
    assert places["T1"] == "t1/1/2.nii.gz"


@pytest.mark.parametrize(
    ("pattern", "names", "said"),
    [
        ("{session}_{patient}", ("2019_01_P1", "2019_02_P1"), "expected one way"),
        ("{patient}_{session}", ("P_001_1", "P_002_1"), "expected one way"),
        ("{patient}/{session}", ("A_1/2", "A/1_2"), "expected ids that tell patients apart"),
    ],
)
def test_names_that_can_be_read_in_two_ways_are_refused(tmp_path, pattern, names, said):
    text = "".join(f'{c} = "{pattern}_{c}.nii.gz"\n' for c in ("FLAIR", "T1", "T1ce", "T2"))
    files = [f"{name}_{c}.nii.gz" for name in names for c in ("FLAIR", "T1", "T1ce", "T2")]
    with pytest.raises(CohortError, match=said):
        find_subjects(write_scans(tmp_path / "scans", files), layout=mapping(tmp_path, text))

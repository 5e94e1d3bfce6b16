"""Patients, labels and the audit of the MGMT cohort: each kind of bad folder is named, none is a crash."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import RLELossless

from common.cohort import CohortError
from common.dicom import mgmt_cohort
from common.dicom.mgmt_cohort import CONTRASTS, DOUBTFUL, audit, find_patients, totals
from common.dicom.mgmt_labels import read_labels
from common.splits import split_by_fractions
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, noise, tilted, write_enhanced, write_series


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "BraTS21ID,MGMT_value\n00002,1\n00003,0\n01010,1\n",
        "BraTS21ID,MGMT_value\n2,1\n3,0\n1010,1\n",
        'site,BraTS21ID,fold,MGMT_value\nA,"00002",1,1\n,3 ,2, 0\nB,1010,3,1.0\n',
        "\ufeffBraTS21ID,MGMT_value\r\n00002,1\r\n00003,0.0\r\n01010,1\r\n",
    ],
    ids=["padded", "not padded", "more columns", "byte order mark"],
)
def test_the_label_tables_variants(tmp_path, text):
    assert read_labels(table(tmp_path / "labels.csv", text)) == {"00002": 1, "00003": 0, "01010": 1}


def test_other_ids_stay_as_they_are(tmp_path):
    text = "BraTS21ID,MGMT_value\nUPENN-7,1\nNA,0\n"
    assert read_labels(table(tmp_path / "labels.csv", text)) == {"UPENN-7": 1, "NA": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "BraTS21ID,MGMT_value\n00002,1\n00003,0.5\n",
            "line 3: expected MGMT_value 0 or 1 for patient 00003, found 0.5",
        ),
        ("BraTS21ID,MGMT_value\n00002,\n", "line 2: expected MGMT_value 0 or 1 for patient 00002, found none"),
        ("BraTS21ID,MGMT_value\n00002,2\n", "line 2: expected MGMT_value 0 or 1 for patient 00002, found 2"),
        ("BraTS21ID,MGMT_value\n00002,1\n2,1\n", "line 3: expected each patient once, found 00002 again"),
        ("BraTS21ID,MGMT_value\n,1\n", "line 2: expected each patient once, found no id"),
        ("BraTS21ID,MGMT_value\n", "expected a row per patient, found none"),
        ("id,MGMT_value\n00002,1\n", "expected the columns BraTS21ID and MGMT_value, each once, found id, MGMT_value"),
        ("", "expected a CSV with the columns BraTS21ID and MGMT_value, but"),
        ("BraTS21ID,MGMT_value\n00002,1,4,5\n1,2\n", "line 2: expected 2 values as in its first line, found 4"),
        (
            "BraTS21ID,MGMT_value\n00002,1\n17.0,1\n",
            "line 3: expected an id such as 00012 in plain digits, found '17.0'",
        ),
        ("BraTS21ID,MGMT_value\n2e3,1\n", "plain digits, found '2e3'"),
        ("BraTS21ID,MGMT_value\n\u0664\u0662,1\n", r"plain digits, found '\u0664\u0662'"),
        ("BraTS21ID,MGMT_value\n+42,1\n", "plain digits, found '+42'"),
        ("BraTS21ID,MGMT_value\n4\u200b2,1\n", r"plain digits, found '4\u200b2'"),
        ("BraTS21ID,MGMT_value\n00042,1\n000042,0\n", "line 3: expected each patient once, found 00042 again"),
        ("BraTS21ID,MGMT_value,MGMT_value\n00042,1,0\n", "each once, found BraTS21ID, MGMT_value, MGMT_value"),
    ],
    ids=lambda value: value[-40:],
)
def test_a_label_table_that_cannot_be_trusted(tmp_path, text, words):
    path = table(tmp_path / "labels.csv", text)
    with pytest.raises(CohortError) as error:
        read_labels(path)
    assert str(error.value).startswith(str(path))
    assert words in str(error.value)


def test_a_label_table_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(CohortError, match="but it is a named pipe"):
        read_labels(tmp_path / "labels.csv")


def test_a_label_table_that_is_not_there(tmp_path):
    with pytest.raises(CohortError, match=r"nowhere\.csv: expected a CSV"):
        read_labels(tmp_path / "nowhere.csv")


def test_the_public_label_table(real_data):
    labels = read_labels(real_data / "mgmt" / "train_labels.csv")
    assert Counter(labels.values()) == {1: 307, 0: 278}
    assert list(labels)[:3] == ["00000", "00002", "00003"]
    assert set(DOUBTFUL) < set(labels)
    assert all(len(name) == 5 for name in labels)


@pytest.fixture
def cohort_folder(tmp_path):
    """Three patients; 00002 lacks a contrast, 7 is not padded and has no label; the table has one more."""
    for name, contrasts in (("00000", CONTRASTS), ("00002", CONTRASTS[:3]), ("7", CONTRASTS)):
        for contrast in contrasts:
            (tmp_path / "train" / name / contrast).mkdir(parents=True)
    table(tmp_path / "train_labels.csv", "BraTS21ID,MGMT_value\n0,1\n2,0\n3,1\n")
    return tmp_path


def test_patients_and_labels_are_held_against_each_other(cohort_folder):
    cohort = find_patients(cohort_folder)
    assert [(patient.id, patient.label) for patient in cohort.patients] == [("00000", 1), ("00002", 0), ("00007", None)]
    assert [patient.missing for patient in cohort.patients] == [(), ("T2w",), ()]
    assert cohort.patients[2].folders["T1wCE"] == cohort_folder / "train" / "7" / "T1wCE"
    assert (cohort.without_images, cohort.without_label) == (("00003",), ("00007",))


@pytest.mark.parametrize(("folder", "listed"), [("Ja\u0308ger", "J\u00e4ger"), ("J\u00e4ger", "Ja\u0308ger")])
def test_a_patient_as_a_mac_writes_it_is_the_tables(cohort_folder, tmp_path, folder, listed):
    (cohort_folder / "train" / folder / "FLAIR").mkdir(parents=True)
    other = table(tmp_path / "other.csv", f"BraTS21ID,MGMT_value\n{listed},1\n")
    patient = find_patients(cohort_folder, other).patients[-1]
    assert (patient.id, patient.label) == ("J\u00e4ger", 1)
    assert patient.folders["FLAIR"].is_dir()


def test_bins_are_no_patients_and_an_empty_patient_is_one(cohort_folder):
    for name in ("#recycle", "$RECYCLE.BIN", "00001"):
        (cohort_folder / "train" / name).mkdir()
    (cohort_folder / "train" / "00004").symlink_to(cohort_folder / "train")
    cohort = find_patients(cohort_folder)
    assert [patient.id for patient in cohort.patients] == ["00000", "00001", "00002", "00004", "00007"]
    assert cohort.others == ("#recycle", "$RECYCLE.BIN")
    assert cohort.patients[1].missing == cohort.patients[3].missing == CONTRASTS
    assert cohort.any_series == cohort_folder / "train" / "00000" / "FLAIR"


def test_a_patient_whose_folder_cannot_be_listed_is_named(cohort_folder, monkeypatch):
    def listing(path):
        if "00002" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", listing)
    rows = audit(find_patients(cohort_folder), n_jobs=1)
    own = rows[rows["patient"] == "00002"]["problem"]
    assert len(own) == 4
    assert own.str.contains("expected a folder of DICOM files, found: Permission denied").all()


def test_series_are_found_in_capitals_or_not(tmp_path):
    for name in ("flair", "t1w", "T1WCE", "T2w", "t2W"):  # of T2w the competition's own writing counts
        (tmp_path / "00001" / name).mkdir(parents=True)
    (patient,) = find_patients(tmp_path).patients
    names = {contrast: folder.name for contrast, folder in patient.folders.items()}
    assert names == {"FLAIR": "flair", "T1w": "t1w", "T1wCE": "T1WCE", "T2w": "T2w"}
    (tmp_path / "00001" / "T1W").mkdir()
    with pytest.raises(CohortError, match=r"00001: expected one folder T1w, found T1W and t1w$"):
        find_patients(tmp_path)


def test_images_one_folder_deeper_are_told(tmp_path):
    write_series(tmp_path / "00001" / "FLAIR" / "DICOM", noise(4))
    (tmp_path / "00001" / "T1w" / "reports").mkdir(parents=True)
    (tmp_path / "00001" / "T1w" / "reports" / "notes.txt").write_text("no image")
    rows = audit(find_patients(tmp_path), n_jobs=1).set_index("contrast")
    assert rows["problem"]["FLAIR"] == "expected images in the folder itself, found them one folder deeper, in DICOM"
    assert rows["problem"]["T1w"].startswith("expected at least 3 images, found 0 beside 1 other files")
    write_series(tmp_path / "00001" / "FLAIR", noise(4))  # what lies below images is none of the series'
    rows = audit(find_patients(tmp_path), n_jobs=1).set_index("contrast")
    assert (rows["problem"]["FLAIR"], rows["note"]["FLAIR"]) == ("", "no DICOM images: DICOM")


def test_the_train_folder_itself(cohort_folder):
    cohort = find_patients(cohort_folder / "train", cohort_folder / "train_labels.csv")
    assert cohort.patients == find_patients(cohort_folder).patients
    unlabelled = find_patients(cohort_folder / "train")
    assert {patient.label for patient in unlabelled.patients} == {None}
    assert unlabelled.without_label == ("00000", "00002", "00007")
    assert unlabelled.without_images == ()


def test_another_table_than_the_one_beside_the_folder(cohort_folder, tmp_path):
    other = table(tmp_path / "other.csv", "BraTS21ID,MGMT_value\n00000,0\n")
    assert [patient.label for patient in find_patients(cohort_folder, other).patients] == [0, None, None]


def test_patients_can_be_split(cohort_folder):
    split = split_by_fractions(find_patients(cohort_folder).patients, seed=0)
    assert sorted(split.train + split.validation + split.test) == ["00000", "00002", "00007"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "expected a folder of patients, found none"),
        (lambda folder: shutil.rmtree(folder / "train"), "found no folder"),
        (lambda folder: (folder / "train" / "00007").mkdir(), "found another one of patient 00007"),
        (lambda folder: table(folder / "train_labels.csv", "BraTS21ID,MGMT_value\n9,1\n"), "found none of these 3"),
    ],
    ids=["no folder", "no patients", "twice", "others' labels"],
)
def test_a_folder_that_is_no_cohort(cohort_folder, change, words):
    change(cohort_folder)
    with pytest.raises(CohortError) as error:
        find_patients(cohort_folder)
    assert str(cohort_folder) in str(error.value)
    assert words in str(error.value)


def test_a_file_in_place_of_a_cohort(tmp_path):
    with pytest.raises(CohortError, match="expected a folder of patients, found a file"):
        find_patients(table(tmp_path / "labels.csv", ""))


def test_a_folder_of_other_scans_is_described(tmp_path):
    (tmp_path / "BraTS_001").mkdir()
    with pytest.raises(CohortError, match=r"expected folders <patient>/\{FLAIR,T1w,T1wCE,T2w\}.*found BraTS_001"):
        find_patients(tmp_path)


def test_the_fingerprint_follows_the_files_not_their_place(tmp_path):
    for contrast in ("FLAIR", "T1w"):
        write_series(tmp_path / "00001" / contrast, noise(3))
    (patient,) = find_patients(tmp_path).patients
    first = patient.fingerprint("FLAIR")
    assert first == patient.fingerprint("FLAIR")
    shutil.copytree(tmp_path / "00001", tmp_path / "00002")  # keeps the times of change
    assert find_patients(tmp_path).patients[1].fingerprint("FLAIR") == first
    file = tmp_path / "00001" / "FLAIR" / "Image-1.dcm"
    seen = {first}
    stat = file.stat()
    for change in (
        lambda: os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1)),
        lambda: file.rename(file.with_name("Image-7.dcm")),
        lambda: (tmp_path / "00001" / "FLAIR" / "Image-9.dcm").write_bytes(b"more"),
        lambda: (tmp_path / "00001" / "FLAIR" / "Image-9.dcm").unlink(),
    ):
        change()
        seen.add(patient.fingerprint("FLAIR"))
    assert len(seen) == 4  # the last change undoes the one before
    with pytest.raises(KeyError):
        patient.fingerprint("T2w")


def write_hazards(folder):
    """One kind of trouble per patient and contrast; returns the expected rows of the audit, by patient and contrast."""
    root = folder / "train"
    sizes = [noise(3), noise(2, (8, 7))]
    expected = {}

    def place(patient, contrast, problem="", note="", **facts):
        defaults = {"images": 4, "blank": 0, "duplicates": 0, "orientations": 1, "sizes": 1, "unreadable": 0}
        defaults |= {"ignored": 0} | ({"blank_first": 0, "blank_last": 0} if "plane" in facts else {})
        expected[patient, contrast] = {**defaults, **facts, "problem": problem, "note": note}
        return root / patient / contrast

    black_ends = noise(6)
    black_ends[[0, 1, 5]] = 0
    facts = {"images": 6, "blank": 3, "blank_first": 2, "blank_last": 1}
    backwards = list(range(6))[::-1]  # the files' names say nothing
    write_series(place("00000", "FLAIR", **facts, plane="axial"), black_ends, order=backwards)
    dark = noise(4, (5, 3))
    dark[1] = 9  # black within the series is at neither end
    write_series(place("00000", "T1w", blank=1, plane="sagittal"), dark, orientation=SAGITTAL)
    write_series(place("00000", "T1wCE", plane="oblique"), noise(4, seed=1), orientation=tilted(45))
    write_enhanced(place("00000", "T2w", plane="coronal") / "all.dcm", noise(4, seed=2), orientation=CORONAL)

    place("00002", "FLAIR", problem="no folder", images=0, orientations=0, sizes=0)
    write_series(place("00002", "T1w", problem="expected at least 3 images, found 1", images=1), noise(1))
    black = np.full((4, 6, 7), 7, np.uint16)
    facts = {"blank": 4, "blank_first": 4, "blank_last": 4}
    write_series(place("00002", "T1wCE", problem="found 4 of a single grey value", **facts, plane="axial"), black)
    target = place("00002", "T2w", problem="one size, found 6 x 7 (3) and 8 x 7 (2)", images=5, sizes=2)
    write_series(target, sizes[0])
    write_series(target, sizes[1], names="tall-{}.dcm", origin=(0, 0, 90))

    target = place("00003", "FLAIR", problem="Image-2.dcm: truncated pixel data: expected 84", images=3, unreadable=1)
    file = write_series(target, noise(4)) / "Image-2.dcm"
    file.write_bytes(file.read_bytes()[:-20])
    target = place("00003", "T1w", problem="one orientation, found 2", images=5, orientations=2)
    write_series(target, noise(3))
    write_series(target, noise(2), orientation=SAGITTAL, names="b{}.dcm")
    target = place("00003", "T1wCE", problem="found 2 too many", images=6, duplicates=2)
    write_series(target, noise(4))
    write_series(target, noise(2, seed=1), names="b{}.dcm")
    place("00003", "T2w", problem="expected at least 3 images, found 0", images=0, orientations=0, sizes=0).mkdir()

    target = place("00109", "FLAIR", note="doubtful case", ignored=1, plane="axial")
    write_series(target, noise(4))
    (target / "notes.txt").write_text("not a scan")
    target = place("00109", "T1w", problem="distances from 2.5 to 5 mm, the widest between Image-2.dcm, image 1 and Im")
    (write_series(target, noise(5)) / "Image-3.dcm").unlink()
    target = place("00109", "T1wCE", problem="Image-0.dcm: expected DICM at byte 128", images=3, unreadable=1)
    (write_series(target, noise(4)) / "Image-0.dcm").write_bytes(b"damaged")
    target = place("00109", "T2w", problem="expected a folder of DICOM files", images=0, orientations=0, sizes=0)
    target.write_bytes(b"a file")
    return expected


def test_every_hazard_is_a_row_of_the_audit(tmp_path):
    expected = write_hazards(tmp_path)
    table(tmp_path / "train_labels.csv", "BraTS21ID,MGMT_value\n0,1\n2,0\n")
    cohort = find_patients(tmp_path)
    found = audit(cohort, n_jobs=1)
    assert list(zip(found["patient"], found["contrast"], strict=True)) == [
        (patient, contrast) for patient in ("00000", "00002", "00003", "00109") for contrast in CONTRASTS
    ]
    for row in found.to_dict("records"):
        facts = dict(expected[row["patient"], row["contrast"]])
        assert row["note"].startswith("doubtful case") == (row["patient"] == "00109")
        if (row["patient"], row["contrast"]) == ("00109", "T2w"):
            facts["problem"] = "no folder"  # a file of that name is none
        for words in (facts.pop("problem"), facts.pop("note")):
            assert words in f"{row['problem']}; {row['note']}", row
        assert bool(expected[row["patient"], row["contrast"]]["problem"]) == bool(row["problem"]), row
        plane = facts.pop("plane", None)
        assert row["plane"] == plane or (plane is None and pd.isna(row["plane"])), row
        assert {name: row[name] for name in facts} == facts, row
        assert str(tmp_path) not in row["problem"]
    first = found.iloc[0]
    assert tuple(first[["rows", "columns", "spacing_mm", "row_spacing_mm", "column_spacing_mm"]]) == (
        6, 7, 2.5, 0.5, 0.75,
    )  # fmt: skip
    assert found["label"][found["patient"] == "00002"].eq(0).all()
    pd.testing.assert_frame_equal(audit(cohort, n_jobs=2), found)
    counts = totals(found)
    assert counts["all"]["series"] == 14
    assert counts["all"]["missing"] == 2
    assert counts["all"]["unusable"] == 9
    assert counts["all"]["images"] == found["images"].sum()
    assert counts.loc["all blank"].tolist() == [0, 0, 1, 0, 1]
    assert counts.loc["unreadable"].tolist() == [1, 0, 1, 0, 2]


def write_twice(folder):
    """Five patients: 00002 has 00001's FLAIR, written by another program, and a T1wCE that is its T1w; 00004's FLAIR is
    00003's, who has another label; 00005 has half of 00001's T1w."""
    flair, t1w = noise(6), noise(4, seed=1)
    write_series(folder / "train" / "00001" / "FLAIR", flair, SeriesInstanceUID="1.2.1")
    write_series(folder / "train" / "00001" / "T1w", noise(7, seed=5), SeriesInstanceUID="1.2.2")
    backwards = {"order": [5, 4, 3, 2, 1, 0], "names": "again-{}.dcm", "syntax": RLELossless}
    write_series(folder / "train" / "00002" / "FLAIR", flair, **backwards, SeriesInstanceUID="1.2.3")
    for contrast in ("T1w", "T1wCE"):
        write_series(folder / "train" / "00002" / contrast, t1w)
    write_series(folder / "train" / "00003" / "FLAIR", noise(4, seed=2))
    shutil.copytree(folder / "train" / "00003" / "FLAIR", folder / "train" / "00004" / "FLAIR")
    write_series(folder / "train" / "00005" / "T1w", noise(7, seed=5)[:4], SeriesInstanceUID="1.2.2")
    table(folder / "train_labels.csv", "BraTS21ID,MGMT_value\n1,1\n2,1\n3,0\n4,1\n5,1\n")
    return folder


def test_series_that_hold_anothers_images_are_named(tmp_path):
    rows = audit(find_patients(write_twice(tmp_path)), n_jobs=1).set_index(["patient", "contrast"])
    problems = rows["problem"][rows["problem"] != "no folder"]
    assert problems[problems != ""].to_dict() == {
        ("00002", "FLAIR"): "has the FLAIR series of patient 00001, expected one of its own",
        ("00002", "T1wCE"): "is a copy of T1w, expected two different series",
        ("00003", "FLAIR"): "has the FLAIR series of patient 00004, whose label is another",
        ("00004", "FLAIR"): "has the FLAIR series of patient 00003, whose label is another",
    }
    assert rows["note"][rows["note"] != ""].to_dict() == {
        ("00001", "T1w"): "has the SeriesInstanceUID of 00005 T1w, and other images",
        ("00005", "T1w"): "has the SeriesInstanceUID of 00001 T1w, and other images",
    }
    assert (rows["images"]["00002", "FLAIR"], rows["plane"]["00002", "FLAIR"]) == (6, "axial")
    file = tmp_path / "train" / "00002" / "FLAIR" / "again-0.dcm"
    dataset = pydicom.dcmread(file)
    dataset.decompress()
    dataset.PixelData = dataset.PixelData[:-2] + b"\x07\x00"  # one pixel is another
    dataset.save_as(file)
    rows = audit(find_patients(tmp_path), n_jobs=1).set_index(["patient", "contrast"])
    assert rows["problem"]["00002", "FLAIR"] == ""


def test_an_image_that_cannot_be_decoded_is_counted(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "00001" / "FLAIR", noise(4))

    def decode(path, stored, indices):
        if path.name == "Image-2.dcm":
            raise mgmt_cohort.DicomError(f"{path}: its image 1 cannot be decoded: damaged")
        return original(path, stored, indices)

    original = mgmt_cohort.decode
    monkeypatch.setattr(mgmt_cohort, "decode", decode)
    row = audit(find_patients(tmp_path), n_jobs=1).iloc[0]
    assert (row["unreadable"], row["problem"]) == (1, "Image-2.dcm: its image 1 cannot be decoded: damaged")
    assert str(folder) not in row["problem"]


def test_a_cohort_without_a_single_good_series(tmp_path):
    write_series(tmp_path / "00001" / "FLAIR", noise(1))
    found = audit(find_patients(tmp_path), n_jobs=1)
    assert found["problem"].ne("").all()
    assert totals(found).loc[["series", "missing", "unusable", "axial"], "all"].tolist() == [1, 3, 1, 0]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mgmt_cohort", *map(str, arguments)])
    mgmt_cohort.main()


def test_the_command_prints_the_table_and_what_is_wrong(tmp_path, monkeypatch, capsys):
    write_hazards(tmp_path)
    table(tmp_path / "train_labels.csv", "BraTS21ID,MGMT_value\n0,1\n2,0\n9,0\n")
    run(monkeypatch, tmp_path, "--jobs", 1)
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.lstrip().startswith(("00000 ", "00002 "))]) == 8 + 4
    assert "00003 T1w: expected one orientation, found 2" in said
    assert "00109 FLAIR: doubtful case: the organisers" in said
    assert "4 patients: 1 methylated, 1 not, 2 without a label" in said
    assert "labels without images: 00009" in said
    assert "images without a label: 00003, 00109" in said
    csv = tmp_path / "out" / "audit.csv"
    run(monkeypatch, tmp_path / "train", "--jobs", 1, "--csv", csv, "--labels", tmp_path / "train_labels.csv")
    written = pd.read_csv(csv, dtype={"patient": str})
    assert len(written) == 16
    assert written["patient"][0] == "00000"
    assert "spacing_mm" not in capsys.readouterr().out  # with a file, the table is not printed as well


@pytest.mark.parametrize("labels", [None, "nowhere.csv"])
def test_bad_input_ends_with_one_line_and_status_1(tmp_path, labels):
    folder = tmp_path / "train" if labels else tmp_path / "nowhere"
    if labels:
        write_series(tmp_path / "train" / "00001" / "FLAIR", noise(3), orientation=AXIAL)
    command = [sys.executable, "-m", "common.dicom.mgmt_cohort", folder, *(["--labels", labels] if labels else [])]
    root = Path(mgmt_cohort.__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1

"""Clinical tables in the collections' own columns and words; near misses are refused with the line."""

import pytest

from common.cohort import CohortError
from common.cohort.clinical_table import Clinical, find_table, is_later, read_clinical, read_mapping

UCSF = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
    "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort"
)
UPENN = (
    "ID,Gender,Age_at_scan_years,Survival_from_surgery_days_UPDATED,Survival_Status,Survival_Censor,IDH1,MGMT,KPS,"
    "GTR_over90percent,Time_since_baseline_preop,PsP_TP_score"
)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def ucsf(id, mgmt, idh="wildtype", brats="", sex="M", age="61"):
    return f'{id},{sex},{age},4,"Glioblastoma, IDH-wildtype",{mgmt},0,unknown,{idh},1,400,STR,No,{brats},,'


def test_ucsf(tmp_path):
    lines = [
        ucsf("UCSF-PDGM-007", "positive", brats="BraTS2021_00312"),
        ucsf("UCSF-PDGM-008", "negative", "IDH1 p.R132H", sex="F", age="33.5"),
        ucsf("UCSF-PDGM-019", "indeterminate", "mutated (NOS)"),
        ucsf("UCSF-PDGM-0433_FU007d", "", age=""),
    ]
    table = read_clinical(write(tmp_path / "UCSF-PDGM-metadata_v5.csv", UCSF, *lines))
    assert (table.collection, table.says_brats21) == ("UCSF-PDGM", True)
    assert table.scans["UCSF-PDGM-0007"] == Clinical(
        id="UCSF-PDGM-0007", mgmt=1, mgmt_said="positive", sex="M", age=61, idh="wildtype", brats21_id="00312"
    )
    second, third, late = list(table.scans.values())[1:]
    assert (second.mgmt, second.idh, second.sex, second.age, second.brats21_id) == (0, "mutant", "F", 33.5, None)
    assert (third.mgmt, third.mgmt_said, third.idh) == (None, "indeterminate", "mutant")
    assert (late.id, late.mgmt, late.mgmt_said, late.age) == ("UCSF-PDGM-0433_FU007d", None, "nothing", None)


def test_upenn_with_its_scanners(tmp_path):
    rows = [f"UPENN-GBM-{n:05}_11,F,50.25,300,Deceased,1,{idh},{mgmt},80,Y,1,NA" for n, (idh, mgmt) in enumerate(
        [("Wildtype", "Methylated"), ("Mutated", "Unmethylated"), ("NOS/NEC", "Indeterminate"), ("", "Not Available")]
    )]  # fmt: skip
    write(
        tmp_path / "UPENN-GBM_acquisition.csv",
        "ID,Manufacturer,Model,Magnetic Field Strength,T1 Imaging Frequency",
        "UPENN-GBM-00000_11,SIEMENS,TrioTim,3,123",
        "UPENN-GBM-00001_11,SIEMENS,Verio,,123",
    )
    table = read_clinical(write(tmp_path / "UPENN-GBM_clinical_info_v2.1.csv", UPENN, *rows))
    assert (table.collection, table.says_brats21) == ("UPENN-GBM", False)
    assert [scan.mgmt for scan in table.scans.values()] == [1, 0, None, None]
    assert [scan.idh for scan in table.scans.values()] == ["wildtype", "mutant", None, None]
    assert [scan.scanner for scan in table.scans.values()] == ["SIEMENS TrioTim 3 T", "SIEMENS Verio", None, None]


def test_a_table_of_ones_own(tmp_path):
    table = read_clinical(write(tmp_path / "patients.csv", "id,mgmt,scanner", "case_001,1,B", "case_002,unknown,"))
    assert (table.collection, table.says_brats21) == ("own", False)
    assert [(s.mgmt, s.scanner, s.sex) for s in table.scans.values()] == [(1, "B", None), (None, None, None)]


def test_an_id_as_a_mac_writes_it_is_the_cohorts(tmp_path):
    assert list(read_clinical(write(tmp_path / "patients.csv", "id,mgmt", "Ja\u0308ger,1")).scans) == ["J\u00e4ger"]


def test_ids_of_brats_tell_their_number_where_the_table_has_none(tmp_path):
    rows = ["BraTS2021_00312,1", "BraTS-GLI-01666-000,0", "BraTS-GLI-00040,0"]
    table = read_clinical(write(tmp_path / "patients.csv", "id,mgmt", *rows))
    assert [scan.brats21_id for scan in table.scans.values()] == ["00312", "01666", "00040"]
    assert table.says_brats21
    rows += ["BraTS-GLI-00312-101,1", "BraTS-SSA-00007-000,1", "case_00007,1"]  # other scans, other collections
    table = read_clinical(write(tmp_path / "patients.csv", "id,mgmt", *rows))
    assert [scan.brats21_id for scan in table.scans.values()][3:] == [None, None, None]
    assert not table.says_brats21
    table = read_clinical(
        write(tmp_path / "patients.csv", "id,mgmt,brats21_id", "BraTS2021_00312,1,", "a,1,77", "b,1,")
    )
    assert [scan.brats21_id for scan in table.scans.values()] == ["00312", "00077", None]
    assert table.says_brats21


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([UCSF, ucsf("UCSF-PDGM-007", "methylatd")], "line 2: expected positive, .* found 'methylatd'"),
        ([UCSF, ucsf("UCSF-PDGM-007", "positive", "IHD1")], "line 2: expected wildtype, .* found 'IHD1'"),
        ([UCSF, ucsf("UCSF-PDGM-007", "positive", age="old")], "line 2: expected an age in years, found 'old'"),
        ([UCSF, ucsf("UCSF-PDGM-007", "positive", sex="X")], "line 2: expected F or M as sex, found 'X'"),
        ([UCSF, ucsf("UCSF-PDGM-007", "positive", brats="00312.0")], "line 2: expected an id of BraTS 2021"),
        ([UCSF, ucsf("UCSF-PDGM-007", "1"), ucsf("UCSF-PDGM-0007", "0")], "line 3: .* found UCSF-PDGM-0007 again"),
        ([UCSF, ucsf("", "positive")], "line 2: expected each scan once, found no id"),
        ([UCSF, "UCSF-PDGM-007,M"], "line 2: expected 16 values as in its first line, found 2"),
        ([UCSF], "expected a row per scan, found none"),
        (["BraTS21ID,MGMT_value", "1,0"], "expected the columns ID and MGMT status .* found BraTS21ID, MGMT_value"),
        (["id;mgmt;age", "a;1;63,5"], "separated by commas, found semicolons: id;mgmt;age"),
        (["id,mgmt,mgmt", "1,0,1"], "each once, found id, mgmt, mgmt"),
        (["ID,MGMT,MGMT status", "1,Methylated,positive"], "each once, found ID, MGMT, MGMT status"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(lines, what, tmp_path):
    with pytest.raises(CohortError, match=what) as refused:
        read_clinical(write(tmp_path / "table.csv", *lines))
    assert "table.csv" in str(refused.value)


def test_scans_after_the_first_operation_are_told_by_their_ids():
    later = ("UCSF-PDGM-0012_FU016d", "UPENN-GBM-00001_21")
    assert [is_later(name) for name in (*later, "UCSF-PDGM-0012", "UPENN-GBM-00001_11", "sub_21")] == [
        *(True, True, False, False, False)
    ]


def test_the_organisers_mapping(tmp_path):
    header = (
        "Data Collection (as on TCIA+additional),Site ID,PatientID on TCIA Radiology Portal,"
        "Study date (m/d/yyyy) per PatientID,BraTS2021 ID,Segmentation (Task 1) Cohort,MGMT (Task 2) Cohort,MGMT value"
    )
    rows = ["UPENN-GBM,3,UPENN-GBM-00021,1/2/2010,BraTS2021_00777,Training,Training,1", "new,9,,,BraTS2021_00778,,,"]
    rows.append("UPENN-GBM,3,UPENN-GBM-00021,1/2/2012,BraTS2021_00801,Training,,")
    assert read_mapping(write(tmp_path / "m.csv", header, *rows)) == {"UPENN-GBM-00021": {"00777", "00801"}}
    with pytest.raises(CohortError, match="expected the columns PatientID on TCIA Radiology Portal and BraTS2021 ID"):
        read_mapping(write(tmp_path / "m.csv", "id,number", "1,2"))


def test_a_table_is_found_in_or_above_its_cohort(tmp_path):
    scans = tmp_path / "a" / "NIfTI-files" / "images_structural"
    scans.mkdir(parents=True)
    with pytest.raises(CohortError, match="found none; name it"):
        find_table(scans)
    above = write(tmp_path / "a" / "UPENN-GBM_clinical_info_v2.1.csv", UPENN)
    assert find_table(scans) == above
    near = write(scans / "patients.csv", "id,mgmt")
    assert find_table(scans) == near
    write(scans / "UCSF-PDGM-metadata_v2.csv", UCSF)
    with pytest.raises(CohortError, match=r"found UCSF-PDGM-metadata_v2\.csv, patients\.csv; name the one"):
        find_table(scans)

"""Who is in two cohorts is found by numbers, by rows of tables and by scans."""

import nibabel as nib
import numpy as np
import pytest

from experiments.base.options import Refused
from experiments.mgmt.sites import SEEN, SiteOptions, read_site, read_sites

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_site(folder, names, *, seed):
    """A cohort of random scans, no two alike; returns its folder."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for word in ("flair", "t1", "t1ce", "t2"):
            values = rng.integers(1, 99, (4, 4, 4)).astype(np.int16)
            nib.save(nib.Nifti1Image(values, AFFINE), folder / name / f"{name}_{word}.nii.gz")
    return folder


def write_table(folder, rows, header="id,mgmt"):
    (folder / "patients.csv").write_text("\n".join([header, *rows]) + "\n")


def brats(folder):
    """Patients 40 to 45 of BraTS 2021, without a word on it in the table."""
    names = [f"BraTS2021_{number:05}" for number in range(40, 46)]
    write_site(folder, names, seed=1)
    write_table(folder, [f"{name},{place % 2}" for place, name in enumerate(names)])
    return folder


def test_folders_of_brats_tell_who_is_in_the_training_cohort(tmp_path):
    folder = brats(tmp_path / "brats")
    site = read_site("b", folder, None, SiteOptions(), known={"00041", "00044", "00046"}, overlap={})
    assert site.left_out == {SEEN: ("BraTS2021_00041", "BraTS2021_00044")}
    assert not any("nothing says" in note for note in site.notes)


def options_of(folder, **others):
    return SiteOptions(sites=(f"a={folder / 'a'}", f"b={folder / 'b'}"), **others)


def test_two_sites_with_a_patient_of_one_number_are_refused(tmp_path):
    brats(tmp_path / "a")
    names = [f"case_{number}" for number in range(5)]
    write_site(tmp_path / "b", names, seed=2)
    for first, header in ((50, "id,mgmt,brats21_id"), (43, "id,mgmt,brats21_id"), (50, "id,mgmt,scanner")):
        rows = [f"{name},{place % 2},{first + place}" for place, name in enumerate(names)]
        write_table(tmp_path / "b", rows, header)
        if first == 43:
            with pytest.raises(Refused, match="found case_0, number 00043 of BraTS 2021, in a too"):
                read_sites(options_of(tmp_path), set())
        else:
            assert [len(site.clinical) for site in read_sites(options_of(tmp_path), set())] == [6, 5]
    mapping = tmp_path / "mapping.csv"
    mapping.write_text("PatientID on TCIA Radiology Portal,BraTS2021 ID\ncase_2,BraTS2021_00045\n")
    with pytest.raises(Refused, match="found case_2, number 00045 of BraTS 2021, in a too"):
        read_sites(options_of(tmp_path, overlap=mapping), set())
    # whoever is left out for the training cohort is in no site
    assert [len(site.clinical) for site in read_sites(options_of(tmp_path, overlap=mapping), {"00045"})] == [5, 4]


def test_one_table_of_two_sites_is_refused_where_a_row_would_count_for_both(tmp_path):
    names = [f"c_{number}" for number in range(9)]
    write_site(tmp_path / "a", names[:5], seed=3)
    write_site(tmp_path / "b", names[5:], seed=4)
    write_table(tmp_path, [f"{name},{place % 2}" for place, name in enumerate(names)])
    assert [len(site.clinical) for site in read_sites(options_of(tmp_path), set())] == [5, 4]
    write_site(tmp_path / "b", names[4:5], seed=5)
    with pytest.raises(Refused, match=r"found the row c_4 of .*patients\.csv in a too"):
        read_sites(options_of(tmp_path), set())

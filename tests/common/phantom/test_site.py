"""The second site and the confounder on a stand-in for anatomies, which take seconds: layout, table, independence."""

import textwrap

import nibabel as nib
import numpy as np
import pytest

from common.cohort import find_subjects
from common.cohort.clinical_table import find_table, read_clinical
from common.dicom.mgmt_cohort import CONTRASTS
from common.phantom import dicom, site
from common.phantom.dicom import CONFOUNDED_FIELD, Imagined, is_methylated, make_patient
from common.phantom.folder import embedded_cohort
from common.phantom.series import Volume
from common.phantom.site import make_scans, write_site
from common.subject import examine

FIRST_MM = np.array([-40.0, -52.0, -36.0])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """An ellipsoid of one grey value with a tumour whose brightness is the planted effect."""

    def imagine(patient, *, seed, effect):
        grid = np.indices((40, 50, 36))
        middle = np.array([20, 25, 18]).reshape(3, 1, 1, 1)
        brain = (((grid - middle) / np.array([17, 22, 15]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
        tumour = ((grid - middle + 4) ** 2).sum(0) < 16
        methylated = is_methylated(patient, seed=seed)
        image = (brain * (1 + tumour * (0.8 - effect * 0.5 * methylated))).astype(np.float32)
        rng = np.random.default_rng([seed, patient])
        volume = Volume(FIRST_MM, 2, brain, tumour)
        return Imagined(dict.fromkeys(CONTRASTS, image), volume, (2 * tumour).astype(np.uint8), 0.5, methylated, rng)

    monkeypatch.setattr(dicom, "imagine", imagine)
    monkeypatch.setattr(site, "imagine", imagine)


def sides(patient, **options):
    """Width of the field of view of each series, mm."""
    made = make_patient(patient, seed=5, **options)
    return np.array([max((s.geometry.spacing_mm * s.geometry.shape)[1:]) for s in made.series.values()])


def test_a_confounder_widens_the_images_of_methylated_patients_alone():
    statuses = [is_methylated(patient, seed=5) for patient in range(4)]
    for methylated in (False, True):
        patient = statuses.index(methylated)
        ratio = sides(patient, confounder=0.8) / sides(patient)
        np.testing.assert_allclose(ratio, 1 + 0.8 * CONFOUNDED_FIELD * methylated, atol=0.02)
    assert sorted(statuses) == [False, False, True, True]
    with pytest.raises(ValueError, match="confounder=-1"):
        make_patient(0, seed=5, confounder=-1)


def test_a_patient_of_the_site(tmp_path):
    made, again = make_scans(3, seed=8), make_scans(3, seed=8)
    for suffix, image in made.images.items():
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image, again.images[suffix])
    brain = made.images["flair"] > 0
    assert all(((image > 0) == brain).all() for image in made.images.values())
    # DICOM's millimetres run to the left, back and head, NIfTI's to the right, front and head
    np.testing.assert_allclose(made.affine @ [3, 4, 5, 1], [40 - 6, 52 - 8, -36 + 10, 1])
    tumour = made.classes > 0
    assert made.images["flair"][tumour].mean() > made.images["flair"][brain & ~tumour].mean()


def test_which_scanner_a_patient_is_scanned_on_has_nothing_to_do_with_the_status():
    facts = [make_scans(patient, seed=8) for patient in range(12)]
    noisy = np.array([made.clinical.scanner == "noisy" for made in facts])
    methylated = np.array([is_methylated(patient, seed=8) for patient in range(12)])
    # differences of neighbours in the middle of the brain, which a bias field hardly touches
    middles = [made.images["t1"][12:26, 25:40, 12:24].astype(float) for made in facts]
    noise = np.array([np.diff(middle, axis=0).std() / np.median(middle) for middle in middles])
    assert noise[noisy].min() > 1.5 * noise[~noisy].max()
    assert len({*zip(noisy.tolist(), methylated.tolist(), strict=True)}) == 4


def test_the_folder_is_a_cohort_with_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "_UNDECIDED", 5)
    folder = write_site(tmp_path / "site", n_patients=5, seed=4, effect=0.5, n_jobs=1)
    cohort = find_subjects(folder)
    assert len(cohort.subjects) == 5
    assert examine(cohort.subjects[0]).problems == ()
    table = read_clinical(find_table(folder))
    assert {subject.id for subject in cohort.subjects} == set(table.scans)
    said = [scan.mgmt for scan in table.scans.values()]
    assert said[4] is None
    assert said[:4] == [int(is_methylated(patient, seed=4)) for patient in range(4)]
    assert embedded_cohort(cohort.subjects[0].images["FLAIR"]) == folder
    scan = nib.load(cohort.subjects[0].images["T1"])
    np.testing.assert_array_equal(np.asarray(scan.dataobj), make_scans(0, seed=4, effect=0.5).images["t1"])
    paragraph = (folder / "README.md").read_text().partition("\n\n")[2]
    assert "No patient was scanned" in paragraph
    assert paragraph == textwrap.fill(paragraph, 120) + "\n"  # no line broken before it is full
    with pytest.raises(ValueError, match="holds another cohort"):
        write_site(folder, n_patients=6, seed=4, effect=0.5, n_jobs=1)

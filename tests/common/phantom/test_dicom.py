"""The embedded MGMT cohort: determinism, geometry, the link with status and its absence, hazards, and its folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileDataset
from scipy import ndimage

from common.dicom.mgmt_cohort import CONTRASTS
from common.phantom import dicom
from common.phantom.dicom import PhantomPatient, is_methylated, make_patient, read_truth, write_cohort
from common.phantom.series import Geometry, Volume

SEED = 3
N_PATIENTS = 20
N_IN_MEMORY = 12


def headers_by_number(folder: Path) -> list[FileDataset]:
    """Every image of a series in the order of the numbers in the file names."""
    paths = sorted(folder.glob("Image-*.dcm"), key=lambda path: int(path.stem.removeprefix("Image-")))
    return [pydicom.dcmread(path) for path in paths]


def place(header: FileDataset) -> float:
    """Position along the normal of the image plane, mm."""
    x, y = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.cross(x, y) @ np.array(header.ImagePositionPatient, float))


def coordinates(header: FileDataset) -> np.ndarray:
    """(rows, columns, 3) patient coordinates of the pixels' middles: DICOM PS3.3, equation C.7.6.2.1-1."""
    (xx, xy, xz), (yx, yy, yz) = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, header.PixelSpacing)
    sx, sy, sz = map(float, header.ImagePositionPatient)
    matrix = np.array(
        [
            [xx * between_columns, yx * between_rows, 0, sx],
            [xy * between_columns, yy * between_rows, 0, sy],
            [xz * between_columns, yz * between_rows, 0, sz],
            [0, 0, 0, 1],
        ]
    )
    points = np.array([[(c, r, 0, 1) for c in range(header.Columns)] for r in range(header.Rows)], float)
    return (points @ matrix.T)[..., :3]


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Share of pairs in which the positive is the larger one, by counting."""
    return float(np.mean(np.sign(positive[:, None] - negative[None]) / 2 + 0.5))


def brightness(patient: PhantomPatient, contrast: str) -> float:
    """Mean of the tumour relative to the median of the rest of the brain."""
    series = patient.series[contrast]
    return float(series.pixels[series.tumour].mean() / np.median(series.pixels[(series.pixels > 0) & ~series.tumour]))


@pytest.fixture(scope="module")
def patients() -> list[PhantomPatient]:
    return [make_patient(patient, seed=SEED) for patient in range(N_IN_MEMORY)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("mgmt") / "phantoms", n_patients=N_PATIENTS, seed=SEED, n_jobs=2)


@pytest.fixture(scope="module")
def headers(cohort) -> dict[tuple[str, str], list[FileDataset]]:
    return {
        (folder.name, contrast): headers_by_number(folder / contrast)
        for folder in sorted((cohort / "train").iterdir())
        for contrast in CONTRASTS
    }


# --- a patient --------------------------------------------------------------------------------------------------------


def test_same_numbers_same_patient(patients):
    again = make_patient(2, seed=SEED)
    for contrast, series in patients[2].series.items():
        np.testing.assert_array_equal(again.series[contrast].pixels, series.pixels)
        np.testing.assert_array_equal(again.series[contrast].tumour, series.tumour)
        np.testing.assert_array_equal(again.series[contrast].geometry.origin_mm, series.geometry.origin_mm)
        assert again.series[contrast].slope == series.slope


def test_other_seed_and_other_patient_differ(patients):
    for other in (make_patient(2, seed=SEED + 1), patients[3]):
        for contrast, series in patients[2].series.items():
            assert np.any(other.series[contrast].geometry.origin_mm != series.geometry.origin_mm)
        assert other.tumour_ml != patients[2].tumour_ml


def test_half_are_methylated_in_an_order_of_the_seed():
    orders = [[is_methylated(patient, seed=seed) for patient in range(400)] for seed in (SEED, SEED + 1)]
    for order in orders:
        assert np.all(np.reshape(order, (100, 4)).sum(axis=1) == 2)
        # 100 blocks of 6 equally likely arrangements; a fixed one would fill one cell
        assert len({tuple(block) for block in np.reshape(order, (100, 4))}) == 6
    assert 100 < np.sum(np.array(orders[0]) != orders[1]) < 300


@pytest.mark.parametrize(
    ("patient", "seed", "effect"), [(-1, 0, 1.0), (10_000, 0, 1.0), (0, -1, 1.0), (0, 0, -0.5), (0, 0, float("nan"))]
)
def test_impossible_numbers_are_refused(patient, seed, effect):
    with pytest.raises(
        ValueError, match=r"expected patient in 0 .. 9999 and seed, effect and confounder of 0 or more, received"
    ):
        make_patient(patient, seed=seed, effect=effect)


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_headers_place_every_pixel_where_it_was_sampled(patients, headers):
    """Three fields that hold their own coordinate, sampled as images are, against the standard's formula."""
    planes = set()
    for patient in patients:
        first, step = patient.volume.first_mm, patient.volume.voxel_mm
        axes = [first[axis] + step * np.arange(n) for axis, n in enumerate(patient.volume.brain.shape)]
        ramps = [field.astype(np.float32) for field in np.meshgrid(*axes, indexing="ij")]
        for contrast, series in patient.series.items():
            if series.geometry.plane in planes and len(planes) < 4:
                continue
            inside = patient.volume.sample(np.ones(patient.volume.brain.shape, np.float32), series.geometry) == 1
            sampled = np.stack([patient.volume.sample(ramp, series.geometry) for ramp in ramps], axis=-1)
            for image, header in enumerate(sorted(headers[patient.id, contrast], key=place)):
                np.testing.assert_allclose(
                    sampled[image][inside[image]], coordinates(header)[inside[image]], atol=2e-3, rtol=0
                )
                np.testing.assert_array_equal(header.pixel_array, series.pixels[image])
            assert inside.any()
            planes.add(series.geometry.plane)
        if planes == {"axial", "sagittal", "coronal", "oblique"}:
            return
    pytest.fail(f"met only {planes}")


def test_the_tumour_lies_at_one_place_in_all_series(patients, headers):
    for patient in patients:
        voxels = np.argwhere(patient.volume.tumour)
        expected = patient.volume.first_mm + patient.volume.voxel_mm * voxels.mean(axis=0)
        for contrast, series in patient.series.items():
            ordered = sorted(headers[patient.id, contrast], key=place)
            points = [coordinates(h)[t] for h, t in zip(ordered, series.tumour, strict=True) if t.any()]
            np.testing.assert_allclose(np.concatenate(points).mean(axis=0), expected, atol=2.5)


def test_the_head_is_upright(patients):
    """Cerebellum and temporal lobes: low in the head the brain is narrower from front to back than high up."""
    for patient in patients:
        brain = patient.volume.brain
        high, low = (np.ptp(np.flatnonzero(brain[:, :, z].any(axis=0))) for z in (45, 8))
        assert high > 1.2 * low


def test_sampling_averages_two_places_a_quarter_of_the_thickness_from_the_middle():
    """One plane of ones between planes of zeros, 2 mm apart: linear interpolation sees a triangle of 2 mm half-width,
    and a slice of 8 mm the mean of two triangles shifted by 2 mm up and down."""
    field = np.zeros((20, 20, 40), np.float32)
    field[:, :, 20] = 1  # at z = 40 mm
    volume = Volume(np.zeros(3), 2, field > 0, field > 0)
    axes = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    geometry = Geometry("axial", axes, np.array([10.0, 10, 36]), np.array([1.0, 3, 3]), (9, 2, 2), 8.0)
    np.testing.assert_allclose(volume.sample(field, geometry)[:, 1, 0], [0, 0.25, 0.5, 0.25, 0, 0.25, 0.5, 0.25, 0])


# --- the link with status ---------------------------------------------------------------------------------------------


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("train", "truth")
        for path in sorted((folder / part).rglob("*.*"))
    }


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_status_enters_no_file_without_an_effect(tmp_path, monkeypatch, effect):
    """The same cohort with every status turned round: without an effect, nothing but the table changes."""
    write_cohort(tmp_path / "as_drawn", n_patients=2, seed=SEED, effect=effect, n_jobs=1)
    monkeypatch.setattr(dicom, "is_methylated", lambda patient, *, seed: not is_methylated(patient, seed=seed))
    write_cohort(tmp_path / "turned", n_patients=2, seed=SEED, effect=effect, n_jobs=1)
    drawn, turned = (pd.read_csv(tmp_path / name / "train_labels.csv") for name in ("as_drawn", "turned"))
    assert (drawn["MGMT_value"] == 1 - turned["MGMT_value"]).all()
    first, second = all_files(tmp_path / "as_drawn"), all_files(tmp_path / "turned")
    assert list(first) == list(second)
    changed = {name for name in first if first[name] != second[name]}
    if effect == 0:
        assert not changed
    else:
        assert {Path(name).parts[2] for name in changed} == set(CONTRASTS)


def test_the_effect_stays_near_the_tumour(patients):
    for number in (0, 1):
        without = make_patient(number, seed=SEED, effect=0.0)
        for contrast, series in without.series.items():
            other = patients[number].series[contrast].pixels.astype(int)
            near = np.stack([ndimage.binary_dilation(mask, iterations=5) for mask in series.tumour])
            near = ndimage.binary_dilation(near, np.ones((5, 1, 1)))
            difference = np.abs(other - series.pixels)
            assert difference[series.tumour].mean() > 20 * difference[~near].mean()
            np.testing.assert_array_equal(other > 0, series.pixels > 0)


def test_a_tumours_brightness_tells_the_classes_apart(patients):
    for contrast, sign in (("FLAIR", -1), ("T1w", 1), ("T1wCE", 1), ("T2w", -1)):
        values = np.array([sign * brightness(patient, contrast) for patient in patients])
        status = np.array([patient.methylated for patient in patients])
        assert auc(values[status], values[~status]) > (0.8 if contrast in ("FLAIR", "T1w") else 0.5)


@pytest.mark.slow
def test_best_auc_is_high_but_not_perfect_and_chance_without_effect():
    numbers = range(100, 220)
    status = np.array([is_methylated(number, seed=SEED) for number in numbers])
    made = [make_patient(number, seed=SEED) for number in numbers]
    neutral = [make_patient(number, seed=SEED, effect=0.0) for number in numbers]
    both = np.zeros(len(made))
    for contrast, sign in (("FLAIR", -1), ("T1w", 1)):
        values = np.log([brightness(patient, contrast) for patient in made]) * sign
        assert 0.90 <= auc(values[status], values[~status]) <= 0.985
        both += values / values.std()
        values = np.array([brightness(patient, contrast) for patient in neutral]) * sign
        assert 0.35 <= auc(values[status], values[~status]) <= 0.65  # SE of an AUC at chance: 0.053
    assert 0.92 <= auc(both[status], both[~status]) <= 0.985


def test_the_brightest_flair_pixels_find_the_tumour(patients):
    """The report's slice choice: the image with most pixels above the 99.9th percentile of the non-zero ones."""
    found = []
    for patient in patients:
        series = patient.series["FLAIR"]
        above = series.pixels > np.percentile(series.pixels[series.pixels > 0], 99.9)
        found.append(series.tumour[np.argmax(above.sum(axis=(1, 2)))].any())
    assert np.mean(found) >= 0.9


# --- what the competition's data is like ------------------------------------------------------------------------------


def test_every_hazard_occurs(headers):
    planes, numbering, slopes, shapes, spacings, counts = set(), set(), set(), set(), set(), set()
    for (_, contrast), series in headers.items():
        places = np.array([place(header) for header in series])
        ordered = sorted(series, key=place)
        assert not ordered[0].pixel_array.any()
        assert not ordered[-1].pixel_array.any()
        assert np.ptp(np.diff(np.sort(places))) < 1e-4
        normal = np.abs(np.cross(*np.array(series[0].ImageOrientationPatient, float).reshape(2, 3)))
        planes.add("oblique" if normal.max() < 0.8 else ("sagittal", "coronal", "axial")[int(normal.argmax())])
        assert normal.max() < 0.999999  # no plane lies exactly along the patient's axes
        steps = np.sign(np.diff(places))
        numbering.add({1.0: "along", -1.0: "against"}[steps[0]] if np.ptp(steps) == 0 else "interleaved")
        slopes.add("none" if "RescaleSlope" not in series[0] else "one" if series[0].RescaleSlope == 1 else "other")
        shapes.add("square" if series[0].Rows == series[0].Columns else "rectangular")
        spacings.add(series[0].PixelSpacing[0] == series[0].PixelSpacing[1])
        counts.add(len(series))
        if contrast == "FLAIR":
            assert len(series) >= 31  # the report's final model takes 31 images
    assert planes == {"axial", "sagittal", "coronal", "oblique"}
    assert numbering == {"along", "against", "interleaved"}
    assert slopes == {"none", "one", "other"}
    assert shapes == {"square", "rectangular"}
    assert spacings == {True, False}
    assert len(counts) > 10
    by_patient = {}
    for (patient, _), series in headers.items():
        by_patient.setdefault(patient, set()).add((series[0].Rows, series[0].Columns))
    assert sum(len(sizes) > 1 for sizes in by_patient.values()) > N_PATIENTS / 2


def test_headers_are_those_of_synthetic_mr_images(headers):
    identifiers = []
    for (patient, contrast), series in headers.items():
        for number, header in enumerate(series, start=1):
            assert header.Modality == "MR"
            assert header.PatientID == patient
            assert str(header.PatientName) == f"PHANTOM^{patient}"
            assert "Synthetic" in header.ImageComments
            assert header.SeriesDescription == contrast
            assert header.InstanceNumber == number
            assert (header.BitsAllocated, header.BitsStored, header.PixelRepresentation) == (16, 12, 0)
            assert header.pixel_array.max() < 4096
            assert header.SOPInstanceUID == header.file_meta.MediaStorageSOPInstanceUID
        thickness = float(series[0].SliceThickness)
        assert 0.79 * np.diff(sorted(map(place, series)))[0] < thickness < 7
        identifiers += [header.SOPInstanceUID for header in series]
        assert len({header.SeriesInstanceUID for header in series}) == 1
    assert len(set(identifiers)) == len(identifiers)
    assert len({series[0].SeriesInstanceUID for series in headers.values()}) == 4 * N_PATIENTS
    assert len({header.StudyInstanceUID for series in headers.values() for header in series}) == N_PATIENTS


def test_identifiers_are_functions_of_all_arguments(headers, tmp_path):
    for arguments in ({"seed": SEED + 1, "effect": 1.0}, {"seed": SEED, "effect": 0.5}):
        folder = write_cohort(tmp_path / str(arguments["seed"]), n_patients=1, n_jobs=1, **arguments)
        other = {header.SOPInstanceUID for header in headers_by_number(folder / "train" / "90000" / "FLAIR")}
        assert not other & {header.SOPInstanceUID for header in headers["90000", "FLAIR"]}


# --- the folder -------------------------------------------------------------------------------------------------------


def test_labels_and_truth_belong_to_the_images(cohort, patients):
    labels = pd.read_csv(cohort / "train_labels.csv", dtype={"BraTS21ID": str})
    assert list(labels.columns) == ["BraTS21ID", "MGMT_value"]
    assert list(labels["BraTS21ID"]) == [str(90000 + number) for number in range(N_PATIENTS)]
    assert list(labels["MGMT_value"]) == [int(is_methylated(number, seed=SEED)) for number in range(N_PATIENTS)]
    assert sorted(path.name for path in (cohort / "train").iterdir()) == list(labels["BraTS21ID"])
    assert "synthetic" in (cohort / "README.md").read_text()
    truth = read_truth(cohort).set_index(["id", "contrast"])
    assert len(truth) == 4 * N_PATIENTS
    for number, patient in enumerate(patients):
        assert patient.methylated == labels["MGMT_value"][number]
        for contrast, series in patient.series.items():
            row = truth.loc[patient.id, contrast]
            assert row["tumour_ml"] == pytest.approx(patient.volume.tumour.sum() * 0.008)
            assert row["plane"] == series.geometry.plane
            assert row["images"] == len(list((cohort / "train" / patient.id / contrast).iterdir()))
            assert row["tumour_pixels"] == tuple(np.count_nonzero(mask) for mask in series.tumour)


def test_truth_is_asked_of_a_cohort_only(tmp_path):
    with pytest.raises(ValueError, match="holds no synthetic cohort"):
        read_truth(tmp_path)


def test_a_complete_folder_is_reused(cohort):
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*") if path.is_file() or path.parent != cohort}
    assert write_cohort(cohort, n_patients=N_PATIENTS, seed=SEED, n_jobs=1) == cohort
    after = {path: path.stat().st_mtime_ns for path in cohort.rglob("*") if path.is_file() or path.parent != cohort}
    assert after == before


@pytest.mark.parametrize("change", [{"seed": SEED + 1}, {"effect": 0.0}, {"n_patients": 19}])
def test_a_folder_made_with_other_arguments_is_refused(cohort, change):
    arguments = {"n_patients": N_PATIENTS, "seed": SEED, "effect": 1.0, "n_jobs": 1} | change
    with pytest.raises(ValueError, match="holds another cohort: wanted"):
        write_cohort(cohort, **arguments)


def test_a_folder_of_another_version_is_refused(cohort, monkeypatch):
    monkeypatch.setattr(dicom, "GENERATOR_VERSION", dicom.GENERATOR_VERSION + 1)
    with pytest.raises(ValueError, match="holds another cohort: wanted"):
        write_cohort(cohort, n_patients=N_PATIENTS, seed=SEED, n_jobs=1)


def test_impossible_cohorts_are_refused_before_a_folder_is_made(tmp_path):
    for arguments in ({"n_patients": 0, "seed": 1}, {"n_patients": 1, "seed": -1}, {"n_patients": 10_001, "seed": 1}):
        with pytest.raises(ValueError, match="expected"):
            write_cohort(tmp_path / "new", n_jobs=1, **arguments)
    assert not (tmp_path / "new").exists()


def test_cohort_resumes_after_a_kill(tmp_path, monkeypatch, cohort):
    """Killed in the middle of the second patient: no labels yet, and the same files once it is run again."""
    save, saved = FileDataset.save_as, []

    def killed(self, path, **options):
        saved.append(path)
        if self.PatientID == "90001" and self.SeriesDescription == "T1wCE":
            raise KeyboardInterrupt
        save(self, path, **options)

    monkeypatch.setattr(FileDataset, "save_as", killed)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "new", n_patients=2, seed=SEED, n_jobs=1)
    assert [path.name for path in (tmp_path / "new" / "train").iterdir()] == ["90000"]
    assert not (tmp_path / "new" / "train_labels.csv").exists()
    monkeypatch.setattr(FileDataset, "save_as", save)
    write_cohort(tmp_path / "new", n_patients=2, seed=SEED, n_jobs=1)
    whole = all_files(cohort)
    assert all(whole[name] == data for name, data in all_files(tmp_path / "new").items())
    assert sum(name.startswith("train/90001/") for name in all_files(tmp_path / "new")) == sum(
        name.startswith("train/90001/") for name in whole
    )
    assert len(pd.read_csv(tmp_path / "new" / "train_labels.csv")) == 2

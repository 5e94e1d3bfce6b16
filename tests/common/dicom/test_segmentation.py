"""A segmentation as DICOM: read back by highdicom and by a reader of our own, to the same voxels and volumes."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from common.dicom.pixels import DicomError
from common.dicom.segmentation import Algorithm, write_report, write_segmentation
from common.dicom.series import look
from common.labels import CLASSES
from tests.common.dicom.dicom_files import CORONAL, SAGITTAL, noise, tilted, write_enhanced, write_series

ALGORITHM = Algorithm(name="A network", version="1.2")
SPACING_MM = (2.5, 0.5, 0.75)
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}


def classes(shape=(7, 6, 9), *, seed=3) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    labels[0] = labels[-2] = 0
    labels[2][labels[2] == 1] = 0
    return labels


def read(path, folder) -> np.ndarray:
    """Classes (image, row, column) of a binary Segmentation by what the standard says, frame by frame: bits are
    numbered from the lowest, a frame's segment and place stand in its functional groups."""
    dataset = pydicom.dcmread(path)
    assert (dataset.SegmentationType, dataset.BitsAllocated) == ("BINARY", 1)
    numbers = {segment.SegmentNumber: segment.SegmentLabel for segment in dataset.SegmentSequence}
    rows, columns, content = dataset.Rows, dataset.Columns, np.frombuffer(dataset.PixelData, np.uint8)
    axis = np.cross(*np.reshape(folder.images[0].orientation, (2, 3)))
    places = {tuple(np.round(image.position_mm, 3)) for image in folder.images}
    ordered = sorted(places, key=lambda place: np.dot(place, axis))
    labels = np.zeros((len(ordered), rows, columns), np.uint8)
    for frame, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        label = numbers[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        place = ordered.index(tuple(np.round([float(x) for x in position], 3)))
        bits = np.arange(frame * rows * columns, (frame + 1) * rows * columns)
        inside = (content[bits // 8] >> (bits % 8) & 1).reshape(rows, columns) == 1
        assert not labels[place][inside].any()
        labels[place][inside] = CLASSES.index(label)
    return labels


@pytest.mark.parametrize("orientation", [tilted(20), SAGITTAL, CORONAL])
@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 6, 7], [4, 1, 7, 2, 6, 3, 5]])
def test_two_readers_find_the_voxels_that_were_written(tmp_path, orientation, order):
    labels = classes()
    write_series(tmp_path / "in", noise(7, (6, 9)), orientation=orientation, spacing_mm=SPACING_MM, order=order, **UIDS)
    folder = look(tmp_path / "in")
    write_segmentation(tmp_path / "seg.dcm", labels, folder, algorithm=ALGORITHM)
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", folder), labels)
    found = hd.seg.segread(tmp_path / "seg.dcm")
    uids = [pydicom.dcmread(tmp_path / "in" / f"Image-{number}.dcm").SOPInstanceUID for number in order]
    again = found.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(again, labels)


def test_an_enhanced_series_frames_are_found_however_they_are_stored(tmp_path):
    labels = classes((5, 6, 9))
    write_enhanced(tmp_path / "in" / "a.dcm", noise(5, (6, 9)), order=[3, 0, 4, 1, 2], **UIDS)
    folder = look(tmp_path / "in")
    write_segmentation(tmp_path / "seg.dcm", labels, folder, algorithm=ALGORITHM)
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", folder), labels)


def test_what_the_objects_say(tmp_path):
    labels = classes()
    write_series(tmp_path / "in", noise(7, (6, 9)), spacing_mm=SPACING_MM, PatientSex="U", **UIDS)
    folder = look(tmp_path / "in")
    made = write_segmentation(tmp_path / "seg.dcm", labels, folder, algorithm=ALGORITHM)
    volumes_ml = write_report(tmp_path / "report.dcm", made, folder, algorithm=ALGORITHM)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    # PS3.16, CID 7168
    said = []
    for segment in dataset.SegmentSequence:
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        said.append((segment.SegmentLabel, segment.SegmentAlgorithmType, code.CodeValue, code.CodingSchemeDesignator))
    assert said == [
        ("NCR", "AUTOMATIC", "6574001", "SCT"),
        ("ED", "AUTOMATIC", "79654002", "SCT"),
        ("ET", "AUTOMATIC", "C113842", "NCIt"),
    ]
    assert dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2"
    referred = dataset.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == UIDS["SeriesInstanceUID"]
    assert len(referred.ReferencedInstanceSequence) == 7
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == ("1.2.3", "1.2.3.5")

    voxel_ml = 2.5 * 0.5 * 0.75 / 1000
    expected = {name: np.count_nonzero(labels == CLASSES.index(name)) * voxel_ml for name in CLASSES[1:]}
    assert volumes_ml == pytest.approx(expected)
    report = hd.sr.srread(tmp_path / "report.dcm")
    assert report.StudyInstanceUID == "1.2.3"
    groups = report.content.get_volumetric_roi_measurement_groups()
    for group, (name, volume) in zip(groups, expected.items(), strict=True):
        assert group.referenced_segment.referenced_sop_instance_uid == made.SOPInstanceUID
        (measurement,) = group.get_measurements()
        assert (measurement.name.value, measurement.unit.value) == ("118565006", "mL")
        assert measurement.value == pytest.approx(volume, abs=1e-6)
        assert group.finding_type.value == {"NCR": "6574001", "ED": "79654002", "ET": "C113842"}[name]


@pytest.mark.parametrize("series", ["ge", "philips", "siemens", "compressed_jpegls"])
def test_real_scanners_series_are_referred_to(tmp_path, real_data, series):
    folder = look(real_data / "dicom" / series)
    labels = np.zeros((len(folder.images), *folder.series().shape), np.uint8)
    labels[1, 40:43, 50:60] = np.arange(30).reshape(3, 10) % 4
    made = write_segmentation(tmp_path / "seg.dcm", labels, folder, algorithm=ALGORITHM)
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", folder), labels)
    write_report(tmp_path / "sr.dcm", made, folder, algorithm=ALGORITHM)


@pytest.mark.parametrize("there", [(), (2,), (1, 3)])
def test_classes_that_were_not_found_have_no_volume(tmp_path, there):
    write_series(tmp_path / "in", noise(4, (6, 9)), **UIDS)
    folder, labels = look(tmp_path / "in"), classes((4, 6, 9))
    labels[~np.isin(labels, there)] = 0
    made = write_segmentation(tmp_path / "seg.dcm", labels, folder, algorithm=ALGORITHM)
    np.testing.assert_array_equal(read(tmp_path / "seg.dcm", folder), labels)
    volumes_ml = write_report(tmp_path / "sr.dcm", made, folder, algorithm=ALGORITHM)
    assert [name for name, volume in volumes_ml.items() if volume] == [CLASSES[value] for value in there]
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value > 0 for group in groups] == [value in there for value in (1, 2, 3)]


def test_what_cannot_be_referred_to_is_named(tmp_path):
    write_series(tmp_path / "in", noise(4), **(UIDS | {"StudyInstanceUID": None}))
    with pytest.raises(DicomError, match=r"Image-\d\.dcm: expected StudyInstanceUID.*write \.nii\.gz"):
        write_segmentation(tmp_path / "seg.dcm", np.zeros((4, 6, 7)), look(tmp_path / "in"), algorithm=ALGORITHM)
    write_series(tmp_path / "other", noise(4), **(UIDS | {"StudyInstanceUID": generate_uid()}))
    for labels in (np.zeros((4, 7, 6)), np.full((4, 6, 7), 4)):
        with pytest.raises(ValueError, match="expected classes below 4 of shape"):
            write_segmentation(tmp_path / "seg.dcm", labels, look(tmp_path / "other"), algorithm=ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()

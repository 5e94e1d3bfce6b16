"""Header fields that change grey values, or tell that a folder is no one stack: refused, or read right and noted."""

import os
import socket

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from common.dicom.mgmt_cohort import Patient, _row
from common.dicom.pixels import DicomError
from common.dicom.series import read_series
from mgmt_classifier.data import SliceRecipe, UnusableError, make
from tests.common.dicom.dicom_files import (
    SAGITTAL,
    merged,
    noise,
    save,
    write_enhanced,
    write_series,
)


def change(folder, places, **changes):
    """Change elements of some of a series' files."""
    for place in places:
        dataset = pydicom.dcmread(folder / f"Image-{place}.dcm")
        if (padding := changes.get("PixelPaddingValue")) is not None:
            dataset.add_new("PixelPaddingValue", "US", padding)  # pydicom would not know its VR
        save(dataset, folder / f"Image-{place}.dcm", **changes)


def judged(folder):
    """The one word of audit, preparation and reading: its problem and its note."""
    row = _row(Patient("7", {"FLAIR": folder}), "FLAIR")
    recipe = SliceRecipe(contrast="FLAIR", slices="tumour", images=3, percentile=90.0, image_size=(8, 8))
    if row["problem"]:
        with pytest.raises(UnusableError) as refused:
            make(Patient("7", {"FLAIR": folder}), recipe)
        assert row["problem"].split("; and ")[0][:60] in str(refused.value).replace(f"{folder}{os.sep}", "")
    else:
        assert "; ".join(make(Patient("7", {"FLAIR": folder}), recipe)[1]["notes"]) == row["note"]
    return row["problem"], row["note"]


@pytest.mark.parametrize(
    ("dtype", "vr", "written", "value"),
    [
        (np.uint16, "US", 37, 37),
        (np.int16, "SS", -1700, -1700),
        (np.int16, "US", 65536 - 1700, -1700),  # without its sign, as converters write it
    ],
)
def test_padding_is_no_image(tmp_path, dtype, vr, written, value):
    pixels = noise(5, dtype=dtype, most=2000) + 40
    pixels[:, :2] = value
    folder = write_series(tmp_path, pixels, RescaleSlope="2", RescaleIntercept="-11")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new("PixelPaddingValue", vr, written)
        dataset.save_as(path)
    expected = np.where(pixels == value, 0, pixels * 2.0 - 11)
    np.testing.assert_array_equal(read_series(folder).read(), expected)
    assert "padding and taken as 0" in judged(folder)[1]


def test_a_range_of_padding_and_a_value_that_the_stored_bits_cannot_hold(tmp_path):
    pixels = noise(4, most=4000)
    changes = {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 900}
    folder = write_series(tmp_path / "range", pixels, **changes)
    np.testing.assert_array_equal(read_series(folder).read(), np.where((pixels >= 5) & (pixels <= 900), 0, pixels))
    pixels[0, 0, :3] = 0xFFFF  # the whole cell; 0xFFF of the 12 stored bits is an image's white
    pixels[0, 1, :3] = 0x0FFF
    folder = write_series(tmp_path / "cell", pixels, PixelPaddingValue=0xFFFF)
    np.testing.assert_array_equal(read_series(folder).read()[0, :2, :3], [[0] * 3, [4095] * 3])


def test_low_is_bright_is_turned_round_with_one_number(tmp_path):
    pixels = noise(6, most=200)
    folder = write_series(tmp_path, pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=9, HighBit=8)
    change(folder, (1, 4), BitsStored=11, HighBit=10)
    np.testing.assert_array_equal(read_series(folder).read(), 2**11 - 1 - pixels.astype(int))
    problem, note = judged(folder)
    assert not problem
    assert "2 values of BitsStored" in note


def test_high_bits_are_no_part_of_a_pixel_and_are_told(tmp_path):
    pixels = noise(4, most=4000)
    folder = write_series(tmp_path, pixels | 0x2000)
    np.testing.assert_array_equal(read_series(folder).read(), pixels)
    assert "bits beyond those stored in 4 images" in judged(folder)[1]
    signed = (noise(4, dtype=np.int16, most=3000) - 1500).astype(np.int16)  # their upper bits repeat the sign
    folder = write_series(tmp_path / "signed", signed)
    np.testing.assert_array_equal(read_series(folder).read(), signed)
    assert judged(folder)[1] == f"grey values below 0, down to {signed.min()}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"HighBit": 15}, "expected a HighBit of 11"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "expected MONOCHROME1 or MONOCHROME2, found both"),
        ({"SeriesInstanceUID": "1.2.77"}, "expected one SeriesInstanceUID, found 2"),
        ({"TemporalPositionIdentifier": 2}, "expected one TemporalPositionIdentifier, found 2"),
        ({"ImagePositionPatient": [-10, -20, 31.1]}, "expected images one distance apart"),
        ({"PixelData": bytes(86)}, "surplus pixel data: expected 84 bytes, found a length of 86"),
        ({"PixelRepresentation": 2}, "a PixelRepresentation of 0 or 1"),
        ({"RescaleSlope": "1e300"}, "expected grey values of 32 bits"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_unlike_the_others_is_refused_everywhere(tmp_path, changes, words):
    folder = write_series(tmp_path, noise(7), SeriesInstanceUID="1.2.3", EchoTime="12.0")
    change(folder, (3,), **changes)
    assert words in judged(folder)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RescaleSlope": "3"}, "2 values of RescaleSlope"),
        ({"RescaleIntercept": "30"}, "2 values of RescaleIntercept"),
        ({"PixelRepresentation": 1}, "2 values of PixelRepresentation"),
        ({"PixelPaddingValue": 300}, "2 values of PixelPaddingValue"),
        ({"EchoTime": "88"}, "2 values of EchoTime: 12.0 (6) and 88.0 (1)"),
        ({"SeriesNumber": 5}, "2 values of SeriesNumber: none (6) and 5.0 (1)"),
        ({"SeriesDescription": "t2\x1b[2J"}, r"2 values of SeriesDescription: none (6) and t2\x1b[2J (1)"),
        ({"AcquisitionNumber": 2}, "2 values of AcquisitionNumber: none (6) and 2.0 (1)"),
        ({"ImagePositionPatient": [-3, -20, 37.5]}, "images shifted against each other by up to 14 pixels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_may_be_meant_is_read_and_noted_everywhere(tmp_path, changes, words):
    folder = write_series(tmp_path, noise(7), EchoTime="12.0")
    change(folder, (0,), EchoTime="12")  # the same number
    change(folder, (3,), **changes)
    problem, note = judged(folder)
    assert not problem
    assert words in note


def test_a_series_per_file_is_a_broken_pseudonym_not_seven_scans(tmp_path):
    folder = write_series(tmp_path, noise(7))
    for place in range(7):
        change(folder, (place,), SeriesInstanceUID=f"1.2.{place + 1}")
    assert judged(folder) == ("", "every image has a SeriesInstanceUID of its own")


@pytest.mark.parametrize("n_images", [4, 9])
def test_a_missing_image_is_a_problem_however_short_the_series(tmp_path, n_images):
    folder = write_series(tmp_path, noise(n_images), orientation=SAGITTAL)
    (folder / "Image-1.dcm").unlink()
    assert "distances from 2.5 to 5 mm, the widest between" in judged(folder)[0]


def test_the_dimensions_of_an_enhanced_file(tmp_path):
    path = write_enhanced(tmp_path / "all.dcm", noise(6))
    dataset = pydicom.dcmread(path)
    pointers = [Dataset(), Dataset()]
    pointers[0].DimensionIndexPointer, pointers[1].DimensionIndexPointer = Tag("InStackPositionNumber"), Tag("EchoTime")
    dataset.DimensionIndexSequence = Sequence(pointers)
    for place, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = Dataset()
        content.DimensionIndexValues = [place + 1, 1]
        own = Dataset()
        own.FrameContentSequence = Sequence([content])
        item.update(merged(own))
    save(dataset, path)
    assert judged(tmp_path) == ("", "")
    dataset.PerFrameFunctionalGroupsSequence[2].FrameContentSequence[0].DimensionIndexValues = [3, 2]
    save(dataset, path)
    assert "expected one dimension (0018,0081), found 2" in judged(tmp_path)[0]


def test_more_compressed_images_than_the_header_counts(tmp_path):
    path = write_enhanced(tmp_path / "all.dcm", noise(4), syntax=RLELossless)
    dataset = pydicom.dcmread(path)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=4))
    dataset.PixelData = encapsulate([*frames, frames[0]])
    save(dataset, path)
    with pytest.raises(DicomError, match="surplus pixel data: expected 4 compressed images, found 5 in 5 pieces"):
        read_series(tmp_path)
    dataset.PixelData = encapsulate(frames)
    swapped = bytearray(dataset.PixelData)
    swapped[8:12], swapped[12:16] = swapped[12:16], swapped[8:12]  # the table of offsets
    dataset.PixelData = bytes(swapped)
    save(dataset, path)
    with pytest.raises(DicomError, match="expected a table of offsets that points to the 4 compressed images"):
        read_series(tmp_path)


@pytest.mark.parametrize("padding", [b"\xff", b"\0" * 3, b"\xff\xff\0", b"\0" * 15, b"\xff" * 40])
def test_padding_after_the_end_mark_is_no_truncation(tmp_path, padding):
    encode = pytest.importorskip("openjpeg.utils", reason="needs the extra dicom: pylibjpeg-openjpeg").encode_array
    pixels = noise(3, (40, 33))
    folder = write_series(tmp_path, pixels)
    streams = [encode(image, photometric_interpretation=2, bits_stored=12, use_mct=False) for image in pixels]
    for end, is_read in ((padding, True), (b"", True), (None, False)):
        for place, stream in enumerate(streams):
            path = folder / f"Image-{place}.dcm"
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
            dataset.PixelData = encapsulate([stream[: len(stream) // 2] + padding if end is None else stream + end])
            dataset["PixelData"].VR = "OB"
            save(dataset, path)
        if is_read:
            np.testing.assert_array_equal(read_series(folder).read(), pixels)
        else:
            with pytest.raises(DicomError, match="expected the mark that ends image 1"):
                read_series(folder)


@pytest.mark.parametrize("kept", [0.25, 0.8, 0.95])
def test_jpeg_ls_that_was_cut_and_closed_is_refused(tmp_path, kept):
    """CharLS notices; libjpeg, to which pydicom would turn next, fills the rest of the image."""
    encode = pytest.importorskip("jpeg_ls", reason="needs the extra dicom: pyjpegls").encode_array
    pixels = noise(3, (40, 33))
    folder = write_series(tmp_path, pixels)
    for place, stream in enumerate(bytes(encode(image)) for image in pixels):
        dataset = pydicom.dcmread(folder / f"Image-{place}.dcm")
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.PixelData = encapsulate([stream[: int(len(stream) * kept)] + b"\xff\xd9" if place == 1 else stream])
        dataset["PixelData"].VR = "OB"
        save(dataset, folder / f"Image-{place}.dcm")
    series = read_series(folder)
    np.testing.assert_array_equal(series.read([0, 2]), pixels[[0, 2]])
    with pytest.raises(DicomError, match=r"Image-1.dcm: its image 1 cannot be decoded"):
        series.read()


def test_what_is_no_file_is_named_at_once(tmp_path):
    folder = write_series(tmp_path / "FLAIR", noise(4))
    os.mkfifo(folder / "pipe.dcm")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "gone.dcm").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
    problem, _ = judged(folder)
    assert "gone.dcm: expected a readable file, found a link that leads nowhere" in problem
    assert "loop: expected a readable file, found" in problem
    assert "pipe.dcm: expected a readable file, found a named pipe" in problem
    assert "and 1 more" in problem


def test_names_that_are_no_utf8_are_written_out(tmp_path):
    folder = write_series(tmp_path, noise(4))
    with open(os.fsencode(folder) + b"/b\xe4d.dcm", "wb") as file:
        file.write(b"damaged")
    problem, _ = judged(folder)
    assert problem.startswith("b\\udce4d.dcm: expected DICM")
    problem.encode("utf-8")

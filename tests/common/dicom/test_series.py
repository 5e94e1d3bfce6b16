"""Reading series: order, plane, spacing and pixels against what was written, pydicom and highdicom; what is refused."""

import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

from common.dicom import series
from common.dicom.file import read_header
from common.dicom.series import DicomError, look, plane_of, read_series
from tests.common.dicom.dicom_files import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    group,
    header,
    merged,
    noise,
    save,
    tilted,
    write_compressed,
    write_enhanced,
    write_series,
)

SHUFFLED = [3, 0, 4, 2, 1]  # file numbers in geometric order: neither ascending nor descending


def oblique_in_two_axes():
    row = np.array([0.9, 0.3, 0.1])
    row /= np.linalg.norm(row)
    column = np.cross([0.1, -0.2, 1.0], row)
    return (*row.tolist(), *(column / np.linalg.norm(column)).tolist())


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, tilted(25), oblique_in_two_axes()], ids=str)
def test_images_come_in_the_order_of_their_positions(tmp_path, orientation):
    pixels = noise(5)
    folder = write_series(tmp_path, pixels, orientation=orientation, order=SHUFFLED)
    series = read_series(folder)
    assert len(series) == 5
    assert [frame.path.name for frame in series.frames] == [f"Image-{number}.dcm" for number in SHUFFLED]
    np.testing.assert_array_equal(series.read(), pixels)
    np.testing.assert_allclose(np.diff([frame.position_mm for frame in series.frames]), 2.5, atol=1e-5)
    assert series.spacing_mm == pytest.approx((2.5, 0.5, 0.75), abs=1e-5)  # PixelSpacing: between rows, then columns
    assert series.shape == (6, 7)
    assert series.frames[0].position_mm == pytest.approx(
        np.dot((-10, -20, 30), np.cross(orientation[:3], orientation[3:])), abs=1e-5
    )


def test_highdicom_gives_the_same_order_and_distance(tmp_path):
    spatial = pytest.importorskip("highdicom").spatial
    folder = write_series(tmp_path, noise(5), orientation=oblique_in_two_axes(), order=SHUFFLED)
    files = sorted(folder.iterdir())
    # "RD": along the rows to the right, along the columns downwards, and the third axis to complete a right hand.
    between, places = spatial.get_series_volume_positions([pydicom.dcmread(f) for f in files], index_convention="RD")
    series = read_series(folder)
    assert [frame.path for frame in series.frames] == [files[places.index(place)] for place in range(5)]
    assert series.spacing_mm[0] == pytest.approx(between, abs=1e-6)


def test_the_opposite_normal_turns_the_order_round(tmp_path):
    row, column = AXIAL[:3], AXIAL[3:]
    write_series(tmp_path / "up", noise(4))
    write_series(tmp_path / "down", noise(4), orientation=(*row, *(-np.array(column)).tolist()))
    up, down = (read_series(tmp_path / name) for name in ("up", "down"))
    heights = [
        [pydicom.dcmread(frame.path).ImagePositionPatient[2] for frame in series.frames] for series in (up, down)
    ]
    assert heights[0] == sorted(heights[0])
    assert heights[1] == sorted(heights[1], reverse=True)
    assert up.plane == down.plane == "axial"


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"),
        (SAGITTAL, "sagittal"),
        (CORONAL, "coronal"),
        (tilted(30), "axial"),
        (tilted(-36.8), "axial"),
        (tilted(37), "oblique"),
        (tilted(53), "oblique"),
        (tilted(53.2), "coronal"),
        (tilted(30, SAGITTAL), "sagittal"),
        ((0, 1, 0, -1, 0, 0), "axial"),  # turned within the plane
        ((*(np.array([1, 1, 0]) / np.sqrt(2)), *(np.array([1, -1, 0]) / np.sqrt(2))), "axial"),
    ],
    ids=str,
)
def test_the_plane_is_that_of_the_nearest_axis_up_to_37_degrees(orientation, plane):
    assert plane_of(orientation) == plane


def test_only_the_images_asked_for_are_decoded(tmp_path):
    pixels = noise(5)
    series = read_series(write_series(tmp_path, pixels))
    for place in (0, 3, 4):
        series.frames[place].path.write_bytes(b"")
    np.testing.assert_array_equal(series.read([2, 1, 2]), pixels[[2, 1, 2]])
    np.testing.assert_array_equal(series.read(np.array([1])), pixels[[1]])
    assert series.read([]).shape == (0, 6, 7)
    with pytest.raises(DicomError, match=r"Image-3\.dcm: its image 1 cannot be decoded"):
        series.read([2, 3])
    with pytest.raises(IndexError):
        series.read([5])


def test_a_series_can_go_to_another_process(tmp_path):
    pixels = noise(4)
    content = pickle.dumps(read_series(write_series(tmp_path, pixels)))
    assert len(content) < 4000
    np.testing.assert_array_equal(pickle.loads(content).read(), pixels)


NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


@pytest.mark.parametrize(
    ("syntax", "dtype"),
    [
        *((syntax, dtype) for syntax in (*NATIVE, RLELossless) for dtype in (np.uint8, np.uint16, np.int16)),
        *((syntax, np.uint32) for syntax in NATIVE),
    ],
)
@pytest.mark.parametrize("shape", [(6, 7), (5, 3)])
def test_every_way_of_storing_gives_the_same_pixels(tmp_path, syntax, dtype, shape):
    pixels = noise(3, shape, dtype=dtype, most=256 if dtype == np.uint8 else 2000)
    if dtype == np.int16:
        pixels -= 1000
    folder = write_series(tmp_path, pixels, syntax=syntax)
    images = read_series(folder).read()
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, pixels)
    oracle = np.stack([pydicom.dcmread(folder / f"Image-{number}.dcm").pixel_array for number in range(3)])
    np.testing.assert_array_equal(images, oracle)


def test_bits_beyond_those_stored_are_not_part_of_a_pixel(tmp_path):
    pixels = noise(3)
    folder = write_series(tmp_path, pixels | 0xF000)  # 12 bits stored: the others hold an overlay in old files
    np.testing.assert_array_equal(read_series(folder).read(), pixels)


def test_grey_values_are_rescaled_per_file(tmp_path):
    pixels = noise(3)
    for place, (slope, intercept) in enumerate([(2.0, -1024.0), (0.1, 0.5), (1.0, 0.0)]):
        position = {"ImagePositionPatient": [0, 0, place], "ImageOrientationPatient": list(AXIAL)}
        rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept, "PixelSpacing": [1, 1]}
        save(header(pixels[place]), tmp_path / f"{place}.dcm", **position, **rescale)
    images = read_series(tmp_path).read()
    np.testing.assert_array_equal(images[0], pixels[0] * 2.0 - 1024)
    np.testing.assert_allclose(images[1], pixels[1] * 0.1 + 0.5, rtol=1e-7)
    np.testing.assert_array_equal(images[2], pixels[2])


@pytest.mark.parametrize(("dtype", "low"), [(np.uint16, 0), (np.int16, -2048)])
def test_monochrome1_is_mirrored_so_that_bright_is_high(tmp_path, dtype, low):
    pixels = (noise(3).astype(int) + low).astype(dtype)
    pixels[0, 0, :2] = low, low + 4095
    folder = write_series(tmp_path, pixels, PhotometricInterpretation="MONOCHROME1")
    # By hand: the darkest of the 12 stored bits becomes the brightest and the reverse.
    np.testing.assert_array_equal(read_series(folder).read(), (2 * low + 4095) - pixels.astype(int))


@pytest.mark.parametrize("orientation_per_frame", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_an_enhanced_file_reads_as_the_classic_ones(tmp_path, orientation_per_frame, syntax):
    pixels = noise(5)
    options = {"orientation": tilted(20, CORONAL), "order": SHUFFLED}
    classic = read_series(write_series(tmp_path / "classic", pixels, **options))
    path = write_enhanced(
        tmp_path / "enhanced" / "all.dcm",
        pixels,
        **options,
        syntax=syntax,
        orientation_per_frame=orientation_per_frame,
    )
    series = read_series(path.parent)
    np.testing.assert_array_equal(series.read(), pixels)
    np.testing.assert_array_equal(series.read([4, 0]), pixels[[4, 0]])
    assert [frame.index for frame in series.frames] == np.argsort(SHUFFLED).tolist()
    assert (series.plane, series.shape, series.spacing_mm) == (classic.plane, classic.shape, classic.spacing_mm)
    np.testing.assert_allclose([f.position_mm for f in series.frames], [f.position_mm for f in classic.frames])


def test_an_enhanced_file_is_rescaled_frame_by_frame(tmp_path):
    pixels = noise(4)
    rescale = [(1.0, 0.0), (2.0, -5.0), (0.5, 0.0), (1.0, 100.0)]
    write_enhanced(tmp_path / "all.dcm", pixels, order=[2, 0, 3, 1], rescale=rescale)
    slope, intercept = np.array(rescale).T[:, :, None, None]
    np.testing.assert_array_equal(read_series(tmp_path).read(), pixels * slope + intercept)


def test_two_enhanced_files_are_one_series(tmp_path):
    pixels = noise(6)
    write_enhanced(tmp_path / "b.dcm", pixels[:3])
    write_enhanced(tmp_path / "a.dcm", pixels[3:], origin=(-10, -20, 37.5))
    np.testing.assert_array_equal(read_series(tmp_path).read(), pixels)


def test_what_is_no_image_is_left_aside_and_told(tmp_path):
    pixels = noise(3)
    write_series(tmp_path, pixels, names="IM{:05}")  # no suffix: the preamble tells
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "._IM00000.dcm").write_bytes(b"left by macOS")
    (tmp_path / "folder").mkdir()
    for name, kind in (("DICOMDIR", MediaStorageDirectoryStorage), ("report", BasicTextSRStorage)):
        dataset = header(pixels[0], kind=kind)
        del dataset.PixelData
        save(dataset, tmp_path / name)
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.read(), pixels)
    assert series.ignored == ("._IM00000.dcm", "DICOMDIR", "empty", "folder", "notes.txt", "report")


def test_an_image_of_a_vendors_own_kind_is_read(tmp_path):
    pixels = noise(3)
    for place in range(3):
        dataset = header(pixels[place], kind="1.3.46.670589.11.0.0.12.1")
        elements = {"ImagePositionPatient": [0, 0, place], "ImageOrientationPatient": list(AXIAL)}
        save(dataset, tmp_path / f"{place}.dcm", PixelSpacing=[1, 1], **elements)
    dataset = header(pixels[0], kind="1.3.46.670589.11.0.0.12.2")
    del dataset.PixelData, dataset.Rows
    save(dataset, tmp_path / "settings.dcm")
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.read(), pixels)
    assert series.ignored == ("settings.dcm",)


def refused(folder, *words):
    with pytest.raises(DicomError) as error:
        read_series(folder)
    assert str(error.value).startswith(str(folder))
    for word in words:
        assert word in str(error.value)


def test_a_folder_that_is_none(tmp_path):
    refused(tmp_path / "nowhere", "expected a folder of DICOM files, found: No such file or directory")
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file", "found: Not a directory")


@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_fewer_than_three_images(tmp_path, n_images):
    write_series(tmp_path, noise(3)[:n_images])
    (tmp_path / "notes.txt").write_text("not a scan")
    refused(tmp_path, f"expected at least 3 images, found {n_images} beside 1 other files", "missing image")


def test_mixed_sizes_spacings_and_orientations_are_all_named(tmp_path):
    write_series(tmp_path, noise(4))
    write_series(tmp_path, noise(2, (8, 7)), names="tall-{}.dcm", origin=(0, 0, 90), spacing_mm=(2.5, 0.4, 0.75))
    write_series(tmp_path, noise(1), names="turned-{}.dcm", orientation=SAGITTAL)
    refused(
        tmp_path,
        "expected images of one size, found 6 x 7 (5) and 8 x 7 (2)",
        "expected one pixel spacing, found 0.5 x 0.75 mm (5) and 0.4 x 0.75 mm (2)",
        "expected one orientation, found 2: axial (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) (6, as Image-0.dcm) and sagittal",
    )


def test_directions_that_differ_by_rounding_are_one_orientation(tmp_path):
    write_series(tmp_path, noise(2), orientation=tilted(10))
    write_series(tmp_path, noise(2), orientation=tilted(10.005), names="b{}.dcm", origin=(-10.0, -20.87, 34.92))
    assert len(read_series(tmp_path)) == 4


def test_duplicates(tmp_path):
    write_series(tmp_path, noise(4))
    write_series(tmp_path, noise(2, seed=1), names="again-{}.dcm", origin=(-10, -20, 32.501))
    refused(tmp_path, "expected one image per position, found 2 too many", "Image-1.dcm, image 1 and again-0.dcm")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ImagePositionPatient": None}, "expected 3 numbers as ImagePositionPatient, found none"),
        ({"ImageOrientationPatient": None}, "expected 6 numbers as ImageOrientationPatient, found none"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "expected two perpendicular directions"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "expected two perpendicular directions"),
        ({"PixelSpacing": None}, "expected 2 numbers as PixelSpacing, found none"),
        ({"PixelSpacing": [0.5, 0]}, "expected a positive PixelSpacing"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "found 0"),
        ({"Rows": None}, "expected the element Rows, found none"),
        ({"BitsStored": None}, "expected the element BitsStored, found none"),
        ({"BitsStored": 17}, "17 of 16 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "found 1 of kind PALETTE COLOR"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "found 3 of kind RGB"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "found a lookup table"),
        ({"NumberOfFrames": 2, "Rows": 3}, "expected the place of each of 2 images, found 0"),
        ({"PixelData": None}, "the file ends inside its header"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_header_that_says_too_little_or_too_much(tmp_path, changes, words):
    write_series(tmp_path, noise(3))
    bad = write_series(tmp_path / "bad", noise(1), **changes) / "Image-0.dcm"
    shutil.move(bad, tmp_path / "bad.dcm")
    refused(tmp_path, f"{tmp_path / 'bad.dcm'}: ", words)


@pytest.mark.parametrize("value", [b"1,5\\2,5\\3,5 ", b"1\\nan\\3 ", b"1\\2 "])
def test_positions_that_are_no_numbers(tmp_path, value):
    write_series(tmp_path, noise(3), origin=(1, 2, 3))
    path = tmp_path / "Image-0.dcm"
    own = b"1.0\\2.0\\3.0 "
    assert own in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(own, value.ljust(len(own))))
    refused(tmp_path, "Image-0.dcm: expected", "numbers as ImagePositionPatient, found")


def test_a_dcm_file_that_is_no_dicom_file(tmp_path):
    write_series(tmp_path, noise(3))
    (tmp_path / "Image-3.dcm").write_bytes(b"x" * 200)
    refused(tmp_path, "Image-3.dcm: expected DICM at byte 128, found b'xxxx' in 200 bytes")


def test_a_deflated_file(tmp_path):
    write_series(tmp_path, noise(3), syntax=DeflatedExplicitVRLittleEndian)
    refused(tmp_path, "deflated as a whole")


def test_a_file_that_cannot_be_opened(tmp_path):
    write_series(tmp_path, noise(3))
    (tmp_path / "Image-9.dcm").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "Image-9.dcm: expected a readable file, found a link that leads nowhere")


def test_truncated_pixels_are_found_on_opening(tmp_path):
    pixels = noise(3, (16, 16))
    for folder, path in (
        ("classic", write_series(tmp_path / "classic", pixels) / "Image-1.dcm"),
        ("enhanced", write_enhanced(tmp_path / "enhanced" / "all.dcm", pixels)),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        expected = 512 if folder == "classic" else 3 * 512
        refused(tmp_path / folder, f"{path}: truncated pixel data: expected {expected} bytes, found {expected - 100}")
        path.write_bytes(whole[:400])
        refused(tmp_path / folder, f"{path}: ")
    write_series(tmp_path / "short", pixels, PixelData=bytes(510))  # whole files, but an element that is too short
    refused(tmp_path / "short", "truncated pixel data: expected 512 bytes, found 510")


def test_truncated_compressed_pixels(tmp_path):
    folder = write_series(tmp_path, noise(3, (16, 16)), syntax=RLELossless)
    path = folder / "Image-1.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(folder, "Image-1.dcm: truncated pixel data: expected", "bytes of compressed pixels")
    path.write_bytes(whole[:-8])
    refused(folder, "Image-1.dcm: truncated pixel data: expected a mark that ends the compressed pixels, found 0 bytes")


def test_an_enhanced_file_with_too_few_compressed_frames(tmp_path):
    path = write_enhanced(tmp_path / "all.dcm", noise(4), syntax=RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 5
    dataset.PerFrameFunctionalGroupsSequence.append(
        merged(group("PlanePositionSequence", ImagePositionPatient=[0, 0, 99]))
    )
    save(dataset, path)
    refused(tmp_path, "truncated pixel data: expected 5 compressed images, found 4")


def test_an_enhanced_file_with_too_few_places(tmp_path):
    path = write_enhanced(tmp_path / "all.dcm", noise(4))
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[3]
    save(dataset, path)
    refused(tmp_path, "expected the place of each of 4 images, found 3")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_no_memory_is_taken_for_pixels_that_are_not_there(tmp_path, syntax):
    write_series(tmp_path, noise(3), syntax=syntax)
    dataset = pydicom.dcmread(tmp_path / "Image-0.dcm")
    save(dataset, tmp_path / "Image-0.dcm", Rows=60000, Columns=60000)
    read_header(tmp_path / "Image-1.dcm")
    tracemalloc.start()
    refused(tmp_path, "Image-0.dcm: expected images of 1 to 67108864 pixels", "60000 x 60000")
    save(dataset, tmp_path / "Image-0.dcm", Rows=8000, Columns=8000)
    if syntax == ExplicitVRLittleEndian:
        refused(tmp_path, "truncated pixel data: expected 128000000 bytes, found 84")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what it finds odd
def test_random_damage_gives_the_readers_own_errors_only(tmp_path):
    write_series(tmp_path, noise(1))
    write_series(tmp_path, noise(1), names="rle-{}.dcm", syntax=RLELossless)
    write_enhanced(tmp_path / "all.dcm", noise(3), rescale=[(1, 0), (2, 0), (3, 0)])
    rng = np.random.default_rng(0)
    outcomes = set()
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(250):
            damaged = bytearray(whole)
            place = rng.integers(len(whole) - 4)
            match rng.integers(3):
                case 0:
                    damaged[place] ^= 1 << rng.integers(8)
                case 1:
                    damaged[place : place + 4] = rng.bytes(4)
                case 2:
                    del damaged[place:]
            path.write_bytes(damaged)
            try:
                for image in read_header(path):
                    next(series.decode(path, image.stored, [image.index]))
                outcomes.add("read")
            except DicomError as error:
                outcomes.add(str(error).startswith(str(path)))
    assert outcomes == {"read", True}


def hide_decoders(folder, script):
    """Run a script in a process that cannot import any decoder of compressed pixels."""
    hidden = ("pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls", "gdcm", "PIL")
    lines = f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n{script}"
    root = Path(series.__file__).parents[2]
    return subprocess.run([sys.executable, "-c", lines, folder], cwd=root, capture_output=True, text=True, check=True)


def test_a_missing_decoder_is_named_with_the_command_that_installs_it(tmp_path):
    for number in range(3):
        dataset = header(noise(1)[0])
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 not looked at \xff\xd9"])
        dataset["PixelData"].is_undefined_length = True
        elements = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": list(AXIAL)}
        save(dataset, tmp_path / f"{number}.dcm", PixelSpacing=[1, 1], **elements)
    script = (
        "from common.dicom.series import DicomError, read_series\n"
        "try:\n    read_series(sys.argv[1])\n"
        "except DicomError as error:\n    print(error)"
    )
    said = hide_decoders(tmp_path, script).stdout
    assert "0.dcm: compressed as JPEG-LS Lossless Image Compression, which needs a decoder" in said
    assert "pip install pyjpegls pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg" in said


GOOD = ("ge", "siemens", "philips", "compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle")
PLANES = {"philips": "coronal"}


def need_decoders(name):
    if name.startswith("compressed") and not name.endswith("rle"):
        pytest.importorskip("libjpeg", reason="needs the extra dicom: pylibjpeg-libjpeg")
        pytest.importorskip("openjpeg", reason="needs the extra dicom: pylibjpeg-openjpeg")


@pytest.mark.parametrize("name", GOOD)
def test_real_series(real_data, name):
    need_decoders(name)
    folder = real_data / "dicom" / name
    series = read_series(folder)
    files = {path: pydicom.dcmread(path) for path in folder.iterdir()}
    assert {frame.path for frame in series.frames} == set(files)
    ordered = [files[frame.path] for frame in series.frames]
    # By hand: the step from image to image points along the normal and has the length that is reported.
    orientation = np.array(ordered[0].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    steps = np.diff([np.array(file.ImagePositionPatient, float) for file in ordered], axis=0)
    np.testing.assert_allclose(steps, series.spacing_mm[0] * normal[None].repeat(len(steps), 0), atol=2e-3)
    assert series.spacing_mm[1:] == tuple(ordered[0].PixelSpacing)
    assert series.plane == PLANES.get(name, "sagittal")
    images = series.read()
    for image, file in zip(images, ordered, strict=True):
        pixels = file.pixel_array * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
        np.testing.assert_array_equal(image, pixels.astype(np.float32))
    np.testing.assert_array_equal(series.read([2]), images[[2]])


def test_real_series_are_the_same_however_they_are_compressed(real_data):
    names = [name for name in GOOD if name.startswith("compressed")]
    for name in names:
        need_decoders(name)
    first, *others = (read_series(real_data / "dicom" / name).read() for name in names)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_real_folders_that_are_no_series(real_data):
    refused(real_data / "dicom" / "bad_two_slices", "expected at least 3 images, found 2")
    mixed = real_data / "dicom" / "bad_mixed_orientation"
    refused(mixed, "expected one orientation, found 2: sagittal", "axial", "found 0.32 x 0.32 mm (2) and 0.5556")
    folder = look(mixed)
    assert len(folder.images) == 4
    assert [len(images) for images in folder.orientations] == [2, 2]


@pytest.mark.parametrize("name", ["compressed_j2k", "compressed_jpeg", "compressed_jpegls"])
def test_a_compressed_image_that_was_cut_before_it_was_stored(real_data, tmp_path, name):
    """Decoders return zeros, or nothing, where such a JPEG ends too early."""
    source = min((real_data / "dicom" / name).iterdir())
    (image,) = generate_frames(pydicom.dcmread(source).PixelData, number_of_frames=1)
    path = write_compressed(tmp_path / "cut.dcm", source, [image[: len(image) // 4 * 2]])
    with pytest.raises(DicomError, match=r"cut\.dcm: truncated pixel data: expected the mark that ends image 1"):
        read_header(path)
    padded = write_compressed(tmp_path / "padded.dcm", source, [image + b"\0\0"], SOPInstanceUID=generate_uid())
    assert len(read_header(padded)) == 1

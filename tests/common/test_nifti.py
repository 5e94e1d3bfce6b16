import gzip
import hashlib
import io
import os
import tracemalloc
import warnings
import zlib

import nibabel as nib
import numpy as np
import pytest

from common import nifti
from common.nifti import ScanError

AFFINE = np.array([[-1.5, 0.1, 0, 10], [0.1, 1.25, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
SHAPE = (7, 5, 4)


def save(path, data, *, kind=nib.Nifti1Image, endianness="<", affine=AFFINE, stored=None, extension=False):
    """Write with nibabel, the oracle of these tests."""
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(stored or data.dtype)
    image = kind(data, affine, header)
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    image.to_filename(path)
    return path


def noise(dtype, shape=SHAPE, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * 100).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        *[(dtype, 0, 100) for dtype in "BHILQbhilqfd"],
        *[(dtype, -100, 100) for dtype in "bhilqfd"],
        *[(dtype, -(2**15), 2**15) for dtype in "hi"],
        *[(dtype, 2**30, 2**30 + 50) for dtype in "iILQ"],
        ("i", -(2**31), 2**31 - 1),
        ("Q", 2**63, 2**64 - 1),
    ],
)
def test_grey_values_are_those_of_sorting(dtype, low, high):
    data = np.random.default_rng(0).integers(low, high, SHAPE, "Q" if high > 2**63 else "q").astype(dtype)
    data[::2] = 0
    values, counts = nifti.Scan(data, AFFINE, nib.Nifti1Header()).grey_values
    expected, expected_counts = np.unique(data[data != 0], return_counts=True)
    np.testing.assert_array_equal(values, expected, strict=True)
    np.testing.assert_array_equal(counts, expected_counts, strict=True)


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.nii").symlink_to("/dev/zero")
    for name, what in (("scan.nii.gz", "a named pipe"), ("scan.nii", "a device")):
        with pytest.raises(ScanError, match=f"{name}: expected a file, found {what}"):
            nifti.read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.int16, {}),
        (np.uint8, {}),
        (np.float32, {}),
        (np.float64, {}),
        (np.uint16, {"kind": nib.Nifti2Image}),
        (np.int16, {"endianness": ">"}),
        (np.float32, {"endianness": ">", "kind": nib.Nifti2Image}),
        (np.int16, {"extension": True}),
        (np.float64, {"stored": np.int16}),  # nibabel then chooses slope and intercept
        (np.float64, {"stored": np.uint8, "endianness": ">"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 3), (1, 1, 1), (*SHAPE, 1)], ids=str)
def test_reads_what_nibabel_reads(tmp_path, suffix, dtype, options, shape):
    data = noise(dtype, shape)
    if "stored" in options:
        data = data + 1000 * np.pi  # an intercept that matters
    path = save(tmp_path / f"scan{suffix}", data, **options)
    scan, oracle = nifti.read(path), nib.load(path)
    if "stored" in options and data.size > 1:
        assert oracle.dataobj.slope != 1.0
        assert scan.data.dtype == np.float32
        np.testing.assert_allclose(scan.data, np.asarray(oracle.dataobj), rtol=1e-6)
    elif "stored" not in options:
        assert scan.data.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(scan.data, np.asarray(oracle.dataobj))
    assert scan.data.dtype.isnative
    assert scan.data.flags.f_contiguous
    np.testing.assert_array_equal(scan.affine, oracle.affine)
    assert scan.affine.dtype == np.float64
    assert scan.spacing_mm == pytest.approx(tuple(np.linalg.norm(AFFINE[:3, :3], axis=0)), rel=1e-6)
    assert nifti.read_header(path).binaryblock == scan.header.binaryblock


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [
        (0.5, -3, np.array([2, -7], np.float32)),
        (1, -3, np.array([7, -11], np.float32)),
        (2, 0, np.array([20, -16], np.float32)),
        (1, 0, np.array([10, -8], np.int16)),
        (0, 5, np.array([10, -8], np.int16)),  # the standard: a slope of 0 means no scaling
    ],
)
def test_slope_and_intercept_by_hand(tmp_path, slope, inter, expected):
    header = nib.Nifti1Header()
    header.set_data_shape((2, 1, 1))
    header.set_data_dtype(np.int16)
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["vox_offset"] = 352
    path = tmp_path / "scan.nii"
    path.write_bytes(header.binaryblock + bytes(4) + np.array([10, -8], "<i2").tobytes())
    data = nifti.read(path).data.ravel()
    np.testing.assert_array_equal(data, expected)
    assert data.dtype == expected.dtype


def test_nan_and_infinity_are_returned(tmp_path):
    data = np.array([np.nan, np.inf, -np.inf, 1], np.float32).reshape(4, 1, 1)
    np.testing.assert_array_equal(nifti.read(save(tmp_path / "scan.nii.gz", data)).data, data)


def flip(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def silent_misreadings(path, content, bits, read):
    """How many flips give, without an error, voxels or an affine that are not the file's own."""
    path.write_bytes(content)
    data, affine = read(path)
    wrong = 0
    for bit in bits:
        path.write_bytes(flip(content, bit))
        try:
            found, found_affine = read(path)
        except ScanError:
            continue
        wrong += not (np.array_equal(found, data) and np.array_equal(found_affine, affine))
    return wrong


def read_both(path):
    scan = nifti.read(path)
    return scan.data, scan.affine


def read_without_checksum(path):
    """What a reader gets that stops at the last voxel; undecodable streams count as noticed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            header = nib.Nifti1Header.from_fileobj(
                io.BytesIO(plain := zlib.decompressobj(-15).decompress(path.read_bytes()[10:]))
            )
            count = int(np.prod(header.get_data_shape()))
            voxels = np.frombuffer(plain, header.get_data_dtype(), count, header.get_data_offset())
            return voxels, header.get_best_affine()
    except Exception as error:
        raise ScanError(str(path)) from error


@pytest.mark.parametrize("seed", [0, 1])
def test_no_random_bit_flip_is_read_silently(tmp_path, seed):
    path = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(noise(np.int16, (16, 16, 12), seed), AFFINE)
    content = gzip.compress(image.to_bytes(), mtime=0)
    bits = np.random.default_rng(seed).integers(0, 8 * len(content), 200)
    assert silent_misreadings(path, content, bits, read_both) == 0
    assert silent_misreadings(path, content, bits, read_without_checksum) > 20  # or the flips would prove nothing


def test_no_bit_flip_at_all_is_read_silently(tmp_path):
    content = gzip.compress(nib.Nifti1Image(noise(np.int16, (3, 3, 3)), AFFINE).to_bytes(), mtime=0)
    assert silent_misreadings(tmp_path / "scan.nii.gz", content, range(8 * len(content)), read_both) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_no_bit_flip_of_a_real_mask_is_read_silently(real_data, tmp_path, seed):
    content = sorted((real_data / "brats").glob("*/*_seg.nii.gz"))[seed].read_bytes()
    bits = np.random.default_rng(seed).integers(0, 8 * len(content), 100)
    assert silent_misreadings(tmp_path / "scan.nii.gz", content, bits, read_both) == 0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_truncation_is_noticed(tmp_path, suffix):
    path = save(tmp_path / f"scan{suffix}", noise(np.int16, (3, 3, 3)))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ScanError, match=r"scan\.nii"):
            nifti.read(path)


def test_gzip_members_and_trailing_bytes(tmp_path):
    path = tmp_path / "scan.nii.gz"
    data = noise(np.int16)
    plain = nib.Nifti1Image(data, AFFINE).to_bytes()
    members = [
        gzip.compress(plain[:100]),
        gzip.compress(plain[100:400]),
        gzip.compress(plain[400:]),
        gzip.compress(b""),
    ]
    path.write_bytes(b"".join(members))
    np.testing.assert_array_equal(nifti.read(path).data, data)
    path.write_bytes(gzip.compress(plain) + bytes(512))  # tape padding, which gzip itself allows
    np.testing.assert_array_equal(nifti.read(path).data, data)
    for rest in (b"garbage!", gzip.compress(b"x"), gzip.compress(plain)[:-9]):
        path.write_bytes(gzip.compress(plain) + rest)
        with pytest.raises(ScanError, match=r"scan\.nii\.gz"):
            nifti.read(path)
    path.write_bytes(flip(b"".join(members), 8 * (len(members[0]) - 8)))  # checksum of the first member
    with pytest.raises(ScanError, match="damaged"):
        nifti.read(path)


def test_more_voxels_than_the_header_says(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(nib.Nifti1Image(noise(np.int16), AFFINE).to_bytes() + b"\0")
    with pytest.raises(ScanError, match="holds more than the 280 bytes"):
        nifti.read(path)


def header_of(shape, dtype=np.int16, **fields):
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header_of((32767, 32767, 32767), np.float64), "more than the limit of 4294967296"),
        (header_of((1000, 1000, 1000)), "the file holds"),
        (header_of((2, 2)), "three or four axes"),
        (header_of((2, 2, 2, 2, 2)), "three or four axes"),
        (header_of((2, 2, 2), dim=[3, 2, 0, 2, 1, 1, 1, 1]), "at least one voxel"),
        (header_of((2, 2, 2), dim=[3, 2, -2, 2, 1, 1, 1, 1]), "at least one voxel"),
        (header_of((2, 2, 2), dim=[9, 2, 2, 2, 2, 2, 2, 2]), "shape|axes|not valid"),
        (header_of((2, 2, 2), np.complex64), "integers or real numbers"),
        (header_of((2, 2, 2), datatype=999), "not valid"),
        (header_of((2, 2, 2), magic=b"ni1"), "single-file"),
        (header_of((2, 2, 2), magic=b"xyz"), "not valid"),
        (header_of((2, 2, 2), vox_offset=100), "not valid|inside the header"),
        (header_of((2, 2, 2), vox_offset=-352), "not valid|inside the header"),
        (header_of((2, 2, 2), vox_offset=1e12), "more than the limit"),
        (header_of((2, 2, 2), vox_offset=np.nan), "not valid"),
        (header_of((2, 2, 2), sform_code=1), "invertible affine"),
        (header_of((2, 2, 2), sform_code=1, srow_x=[np.nan] * 4), "invertible affine"),
        (header_of((2, 2, 2), scl_slope=2, scl_inter=np.inf), "not valid"),
        (header_of((2, 2, 2), scl_slope=-np.inf), "finite scl_slope, found -inf"),
        (b"\x00" * 400, "begins with 348"),
        (b"", "begins with 348|an empty file"),
        (header_of((2, 2, 2))[:300], "ends inside its header"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_impossible_headers_are_refused(tmp_path, content, why, suffix):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    for read in (nifti.read, nifti.read_header):
        with pytest.raises(ScanError, match=why) as raised:
            read(path)
        assert str(path) in str(raised.value)


def test_no_memory_is_taken_for_a_bomb(tmp_path):
    path = tmp_path / "scan.nii.gz"
    honest, bomb = header_of((4, 4, 4)), bytes(100_000_000)
    tracemalloc.start()
    try:
        path.write_bytes(gzip.compress(honest + bomb, 1))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(ScanError, match="holds more than"):
            nifti.read(path)
        path.write_bytes(gzip.compress(header_of((20000, 20000, 20))))  # 16 GB of voxels in a file of 100 bytes
        with pytest.raises(ScanError, match="limit"):
            nifti.read(path)
        assert tracemalloc.get_traced_memory()[1] - before < 5_000_000
    finally:
        tracemalloc.stop()


def test_the_limit_counts_the_whole_file(tmp_path):
    path = save(tmp_path / "scan.nii.gz", noise(np.int16))
    size = len(gzip.decompress(path.read_bytes()))
    assert nifti.read(path, max_bytes=size).data.shape == SHAPE
    for read in (nifti.read, nifti.read_header):
        with pytest.raises(ScanError, match=f"limit of {size - 1}"):
            read(path, max_bytes=size - 1)


def test_header_is_read_without_the_voxels(tmp_path):
    path = save(tmp_path / "scan.nii.gz", noise(np.int16, (64, 64, 32)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert nifti.read_header(path).get_data_shape() == (64, 64, 32)
    with pytest.raises(ScanError, match="truncated"):
        nifti.read(path)


def test_other_names_and_missing_files(tmp_path):
    with pytest.raises(ScanError, match=r"ends in \.nii or \.nii\.gz"):
        nifti.read(tmp_path / "scan.mgz")
    with pytest.raises(FileNotFoundError, match=r"scan\.nii"):
        nifti.read(tmp_path / "scan.nii")
    plain = save(tmp_path / "scan.nii", noise(np.int16))
    plain.rename(tmp_path / "scan.nii.gz")
    with pytest.raises(ScanError, match="gzip"):
        nifti.read(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, SHAPE), (np.float32, SHAPE), (">i2", (*SHAPE, 4))])
def test_nibabel_reads_what_is_written(tmp_path, suffix, kind, endianness, dtype, shape):
    reference = kind(noise(np.float64), AFFINE, kind.header_class(endianness=endianness))
    reference.set_qform(AFFINE @ np.diag([1, 1, 1, 1]), code=1, strip_shears=True)
    reference.set_sform(AFFINE, code=4)
    reference.header.set_xyzt_units("mm", "sec")
    reference.set_data_dtype(np.int16)  # so that the source is scaled, which must not be carried over
    reference.to_filename(tmp_path / "reference.nii.gz")
    like = nifti.read(tmp_path / "reference.nii.gz")
    data = noise(dtype, shape, seed=5)
    path = tmp_path / f"written{suffix}"
    nifti.write(path, data, like=like)
    written, reference = nib.load(path), nib.load(tmp_path / "reference.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    assert written.get_data_dtype() == np.dtype(dtype).newbyteorder("<")
    np.testing.assert_array_equal(written.affine, reference.affine)
    for mine, theirs in zip(written.get_qform(coded=True), reference.get_qform(coded=True), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert written.get_sform(coded=True)[1] == 4
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert (written.dataobj.slope, written.dataobj.inter) == (1.0, 0.0)
    np.testing.assert_array_equal(nifti.read(path).data, data)
    first = path.read_bytes()
    nifti.write(path, np.ascontiguousarray(data), like=like.header)
    assert path.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reference.nii.gz", path.name]


def test_write_refuses_another_grid_and_types_without_a_nifti_code(tmp_path):
    like = nifti.read(save(tmp_path / "like.nii", noise(np.int16)))
    with pytest.raises(ScanError, match=r"\(7, 5, 3\) cannot lie on a grid of \(7, 5, 4\)"):
        nifti.write(tmp_path / "new.nii", np.zeros((7, 5, 3), np.uint8), like=like)
    with pytest.raises(ScanError, match="type bool"):
        nifti.write(tmp_path / "new.nii", np.zeros(SHAPE, bool), like=like)
    assert not (tmp_path / "new.nii").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "scan.nii.gz", noise(np.int16))
    like, before = nifti.read(path), path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        nifti.write(path, np.zeros(SHAPE, np.uint8), like=like)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_fingerprint_follows_content_alone(tmp_path, suffix):
    like = nifti.read(save(tmp_path / "like.nii", noise(np.int16)))
    paths = [tmp_path / f"{name}{suffix}" for name in "abc"]
    data = noise(np.int16)
    nifti.write(paths[0], data, like=like)
    nifti.write(paths[1], data, like=like)
    data[3, 2, 1] += 1
    nifti.write(paths[2], data, like=like)
    os.utime(paths[1], (1, 1))
    first, second, third = map(nifti.content_fingerprint, paths)
    assert first == second != third
    assert int(first.split("-")[0], 16) == paths[0].stat().st_size


def test_fingerprint_is_the_gzip_trailer(tmp_path):
    path = save(tmp_path / "scan.nii.gz", noise(np.int16))
    plain = gzip.decompress(path.read_bytes())
    checksum, length = zlib.crc32(plain).to_bytes(4, "little"), len(plain).to_bytes(4, "little")
    assert nifti.content_fingerprint(path) == f"{path.stat().st_size:x}-{(checksum + length).hex()}"


def test_fingerprint_sees_all_members(tmp_path):
    # bgzip ends every file with the same empty member: its trailer says nothing about the voxels before it
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for path, last in zip(paths, (1, 2), strict=True):
        data = np.full((3, 3, 3), last, np.uint8)
        path.write_bytes(
            gzip.compress(nib.Nifti1Image(data, AFFINE).to_bytes(), 0, mtime=0) + gzip.compress(b"", mtime=0)
        )
    assert paths[0].stat().st_size == paths[1].stat().st_size
    assert nifti.content_fingerprint(paths[0]) != nifti.content_fingerprint(paths[1])


@pytest.mark.parametrize("content", [b"", b"short", b"not a gzip stream at all"])
def test_fingerprint_of_what_is_no_scan(tmp_path, content):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    assert nifti.content_fingerprint(path) == f"{len(content):x}-{digest}"


def test_real_scans_are_read_as_nibabel_reads_them(real_data):
    paths = sorted((real_data / "brats").glob("*/*.nii.gz"))[:6]
    assert len(paths) == 6
    for path in paths:
        scan, oracle = nifti.read(path), nib.load(path)
        np.testing.assert_array_equal(scan.data, np.asarray(oracle.dataobj))
        assert scan.data.dtype == oracle.get_data_dtype()
        np.testing.assert_array_equal(scan.affine, oracle.affine)
        assert scan.spacing_mm == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\n<html><title>503</title>" + bytes(400), "a web page in place of the scan"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:77", "a Git LFS pointer in place of the scan"),
        (b"", "an empty file|begins with 348"),
    ],
)
def test_what_is_no_scan_is_told(tmp_path, content, why, suffix):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(ScanError, match=why):
        nifti.read(path)


def test_a_name_that_lies_about_compression_is_told(tmp_path):
    plain = nib.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)).to_bytes()
    for name, content, wanted in (
        ("a.nii.gz", plain, r"a\.nii\.gz: a plain NIfTI file, .* it should end in \.nii$"),
        ("b.nii", gzip.compress(plain), r"b\.nii: a gzip file, .* it should end in \.nii\.gz$"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match=wanted):
            nifti.read(tmp_path / name)

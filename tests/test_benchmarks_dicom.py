"""The DICOM benchmark runs, and its sides do the same work."""

import json

import numpy as np
import pydicom
import pytest

pytest.importorskip("torch")
pytest.importorskip("SimpleITK")

from benchmarks import dicom
from benchmarks.compare import report


@pytest.fixture
def folder(tmp_path):
    return dicom.write_synthetic(tmp_path / "series", n_images=12, side=32)


def test_reading(folder, tmp_path):
    rows = dicom.time_series(folder, 5, repeats=1)
    report(rows, tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["name"], row["peer"]) for row in written} == {
        (f"{what} of 12", peer)
        for what in ("5 central", "5 tumour", "every image")
        for peer in ("pydicom", "SimpleITK")
    }
    assert all(row["floor_s"] > 0 for row in written)


def test_every_side_reads_the_same(folder):
    dicom.check_order(folder)
    plain = np.stack(dicom.with_pydicom([folder / f"Image-{number}.dcm" for number in range(12)]))
    np.testing.assert_array_equal(dicom.read_central(folder, 5), plain[4:9])
    bright = [np.count_nonzero(image > np.percentile(plain[plain > 0], 99.9)) for image in plain]
    first = int(np.argmax(bright)) - 1
    assert 6 <= first <= 7  # the ball is cut by two images
    np.testing.assert_array_equal(dicom.read_tumour(folder, 3), plain[first : first + 3])


def test_another_order_is_noticed(folder):
    dataset = pydicom.dcmread(folder / "Image-3.dcm")
    pixels = dataset.pixel_array.copy()
    pixels[0, 0] = 4000
    original = dicom.with_simpleitk(folder)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(folder / "Image-3.dcm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicom, "with_simpleitk", lambda _: original)
        with pytest.raises(ValueError, match="same order"):
            dicom.check_order(folder)

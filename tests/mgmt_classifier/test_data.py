"""The prepared slices against scikit-learn's and torch's arithmetic, bad patients, the store's promises, samples."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

torch = pytest.importorskip("torch")

from common import store as common_store  # noqa: E402
from common.dicom.mgmt_cohort import Patient  # noqa: E402
from common.store import StoreError  # noqa: E402
from mgmt_classifier.data import Batches, Order, SliceRecipe, Slices, network_input, prepare  # noqa: E402
from tests.common.dicom.dicom_files import SAGITTAL, noise, write_series  # noqa: E402
from tests.mgmt_classifier.conftest import write_patient  # noqa: E402

RECIPE = SliceRecipe(contrast="FLAIR", slices="central", images=5, percentile=99.9, image_size=(16, 12))
ROOT = Path(__file__).parents[2]


def patient_of(folder, **contrasts):
    return Patient(folder.name, {name: folder / name for name in contrasts or ("FLAIR",)})


def prepare_one(patient, recipe, folder):
    store = prepare([patient], recipe, folder, n_jobs=1)
    assert store.problems == ()
    return store.entries[patient.id]


def resized(pixels, size):
    """The oracle: torch's antialiased linear resize of (images, rows, columns)."""
    images = torch.from_numpy(pixels.astype(np.float32))[None]
    return torch.nn.functional.interpolate(
        images, size, mode="bilinear", align_corners=False, antialias=True
    )[0].numpy()  # fmt: skip


@pytest.mark.parametrize("size", [(16, 12), (40, 50), (33, 20)])
def test_central_images_resized_as_torch_does(tmp_path, size):
    pixels = noise(11, (33, 28), seed=1)
    write_series(tmp_path / "00001" / "FLAIR", pixels, order=[3, 7, 1, 10, 0, 2, 9, 8, 4, 6, 5])
    entry = prepare_one(patient_of(tmp_path / "00001"), replace(RECIPE, image_size=size), tmp_path / "store")
    expected = resized(pixels[3:8], size)
    images = entry.open()
    assert images.dtype == np.int16
    assert images.shape == (5, *size)
    step = pixels[3:8].max() / 32767
    assert np.abs(images * step - expected).max() <= 0.52 * step + 1e-3
    assert step < 0.13  # of the scanner's own unit
    assert entry.geometry["indices"] == (3, 4, 5, 6, 7)
    assert entry.geometry["series_images"] == 11
    assert entry.geometry["plane"] == "axial"
    assert entry.geometry["spacing_mm"] == pytest.approx((2.5, 0.5, 0.75))


def test_the_integers_lose_nothing_that_matters(tmp_path):
    """z-scores from the store against those of float64: apart by less than a tenth of the scanner's own unit."""
    pixels = noise(5, (64, 64), seed=2)
    pixels[pixels < 1000] = 0
    write_series(tmp_path / "00001" / "FLAIR", pixels)
    entry = prepare_one(patient_of(tmp_path / "00001"), replace(RECIPE, image_size=(64, 64)), tmp_path / "store")
    shown = pixels[pixels > 0].astype(np.float64)
    expected = np.where(pixels > 0, (pixels - shown.mean()) / shown.std(), 0)
    found = network_input(entry.open(), entry.geometry, intensity="zscore")
    assert found.shape == (1, 5, 64, 64)
    assert found.dtype == np.float32
    assert np.abs(found[0] - expected).max() < 0.1 / shown.std()
    np.testing.assert_array_equal(found[0] == 0, pixels == 0)
    largest = network_input(entry.open(), entry.geometry, intensity="maximum")
    np.testing.assert_allclose(largest[0], pixels / pixels.max(), atol=1e-4)


def test_the_brightest_images_of_the_whole_series(tmp_path):
    pixels = np.full((12, 30, 30), 100, np.uint16)
    pixels[2, :3, :3] = 900
    pixels[8, :4, :3] = 900  # 12 of 10,800 pixels; the 99.8th percentile lies between
    write_series(tmp_path / "00001" / "FLAIR", pixels)
    recipe = replace(RECIPE, slices="tumour", percentile=99.5)
    entry = prepare_one(patient_of(tmp_path / "00001"), recipe, tmp_path / "store")
    assert entry.geometry["indices"] == (6, 7, 8, 9, 10)
    expected = resized(pixels[6:11], (16, 12)) * (32767 / 900)
    assert np.abs(entry.open() - expected).max() <= 1
    central = prepare_one(patient_of(tmp_path / "00001"), RECIPE, tmp_path / "store")
    assert central.geometry["indices"] == (4, 5, 6, 7, 8)
    assert central.path != entry.path


def test_only_the_chosen_images_are_decoded(tmp_path, monkeypatch):
    from common.dicom import series

    write_series(tmp_path / "00001" / "FLAIR", noise(9))
    decoded, decode = [], series.decode
    monkeypatch.setattr(series, "decode", lambda path, *rest: decoded.append(path.name) or decode(path, *rest))
    prepare_one(patient_of(tmp_path / "00001"), replace(RECIPE, images=3), tmp_path / "store")
    assert sorted(decoded) == ["Image-3.dcm", "Image-4.dcm", "Image-5.dcm"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_bad_patients_are_all_named_and_none_is_stored(tmp_path):
    folder = tmp_path / "train"
    for number in range(9):
        write_patient(folder / f"{number:05}", methylated=False, seed=number)
    found = [patient_of(path) for path in sorted(folder.iterdir())]
    found[1] = Patient("00001", {"T1w": folder / "00001" / "T1w"})
    for number in range(4, 9):
        (folder / "00002" / "FLAIR" / f"Image-{number}.dcm").unlink()
    for path in (folder / "00003" / "FLAIR").iterdir():
        path.unlink()
    write_series(folder / "00003" / "FLAIR", np.zeros((9, 6, 7), np.uint16))
    truncate(folder / "00004" / "FLAIR" / "Image-4.dcm")
    for path in (folder / "00005" / "FLAIR").iterdir():
        path.unlink()
    write_series(folder / "00006" / "FLAIR", noise(9), names="other-{}.dcm", orientation=SAGITTAL)
    pixels = np.zeros((9, 6, 7), np.uint16)
    pixels[:2] = 5
    for path in (folder / "00007" / "FLAIR").iterdir():
        path.unlink()
    write_series(folder / "00007" / "FLAIR", pixels)  # shows something, but not in its middle
    expected = {
        "00001": "expected a series FLAIR, found T1w",
        "00002": "expected at least 5 images, found 4",
        "00003": "found values from 0 to 0",
        "00004": "truncated pixel data",
        "00005": "found 0",
        "00006": "expected images of one size",
        "00007": "in the 5 images from 3 of 9, found values from 0 to 0",
    }
    for jobs in (1, 2):
        store = prepare(found, RECIPE, tmp_path / "store", n_jobs=jobs)
        assert list(store.entries) == ["00000", "00008"]
        assert {problem.subject for problem in store.problems} == expected.keys()
        for problem in store.problems:
            assert expected[problem.subject] in problem.what
            assert problem.file == (None if problem.subject == "00001" else folder / problem.subject / "FLAIR")
    assert {path.name[:5] for path in (tmp_path / "store").rglob("0*-*")} == {"00000", "00008"}
    black = prepare(found[3:4], replace(RECIPE, slices="tumour"), tmp_path / "store", n_jobs=1).problems
    assert "found 9 that are all zero" in black[0].what


def test_pixels_that_cannot_be_decoded_are_a_problem(tmp_path):
    from pydicom.uid import RLELossless

    write_series(tmp_path / "00001" / "FLAIR", noise(9), syntax=RLELossless)
    path = tmp_path / "00001" / "FLAIR" / "Image-4.dcm"
    dataset = pydicom.dcmread(path)
    whole = dataset.PixelData
    dataset.PixelData = whole[:84] + b"\x7f" * (len(whole) - 92) + whole[-8:]
    dataset.save_as(path)
    (problem,) = prepare([patient_of(tmp_path / "00001")], RECIPE, tmp_path / "store", n_jobs=1).problems
    assert "Image-4.dcm" in problem.what
    assert "cannot be decoded" in problem.what


def content(store):
    files = (path for path in store.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def test_a_second_call_finds_everything_and_damage_is_mended(patients, tmp_path):
    first = prepare(patients[:3], RECIPE, tmp_path, n_jobs=2)
    whole = content(tmp_path)
    again = prepare(patients[:3], RECIPE, tmp_path, n_jobs=1)
    assert (first.prepared, again.prepared, again.remade) == (3, 0, ())
    assert again.entries == first.entries
    (npy,), (record,) = tmp_path.rglob("00001-*.npy"), tmp_path.rglob("00002-*.json")
    for path, position in ((npy, -50), (record, 30)):
        damaged = bytearray(path.read_bytes())
        damaged[position] ^= 4
        path.write_bytes(damaged)
    mended = prepare(patients[:3], RECIPE, tmp_path, n_jobs=1)
    assert mended.remade == ("00001", "00002")
    assert content(tmp_path) == whole


def test_every_part_of_a_recipe_and_a_changed_file_are_another_entry(tmp_path):
    write_patient(tmp_path / "00001", methylated=False, seed=0)
    patient = patient_of(tmp_path / "00001")
    changes = ({"slices": "tumour"}, {"images": 3}, {"percentile": 90.0}, {"image_size": (8, 8)}, {"contrast": "T1w"})
    other = Patient("00001", patient.folders | {"T1w": tmp_path / "00001" / "T1w"})
    names = {prepare_one(other, replace(RECIPE, **change), tmp_path / "s").path.name for change in ({}, *changes)}
    assert len(names) == 6
    before = prepare_one(patient, RECIPE, tmp_path / "s")
    dataset = pydicom.dcmread(tmp_path / "00001" / "FLAIR" / "Image-4.dcm")
    dataset.PixelData = bytes(reversed(dataset.PixelData))
    dataset.save_as(tmp_path / "00001" / "FLAIR" / "Image-4.dcm")
    after = prepare_one(patient, RECIPE, tmp_path / "s")
    assert after.path != before.path
    assert not np.array_equal(after.open(), before.open())


def test_a_full_disk_is_told(patients, tmp_path, monkeypatch):
    def fail(path, value, **options):
        if path.name.startswith("00001"):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(common_store, "write_json", fail)
    with pytest.raises(StoreError, match="the disk is full: subject 00001 needs"):
        prepare(patients[:3], RECIPE, tmp_path, n_jobs=1)


PROGRAM = """
import json, sys
from pathlib import Path
from common.dicom.mgmt_cohort import Patient
from mgmt_classifier.data import SliceRecipe, prepare
told = json.loads(sys.argv[1])
patients = [Patient(id, {"FLAIR": Path(folder)}) for id, folder in told["patients"]]
recipe = SliceRecipe(**told["recipe"] | {"image_size": tuple(told["recipe"]["image_size"])})
print("ready", flush=True)
prepare(patients, recipe, told["folder"], n_jobs=1)
"""


def test_a_killed_preparation_ends_as_if_undisturbed(patients, tmp_path):
    import json
    from dataclasses import asdict

    prepare(patients, RECIPE, tmp_path / "whole", n_jobs=1)
    told = {"patients": [(p.id, str(p.folders["FLAIR"])) for p in patients], "recipe": asdict(RECIPE)}
    for number, wait in enumerate((0.02, 0.1)):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(told | {"folder": str(folder)})],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert content(folder).items() <= content(tmp_path / "whole").items()
        assert prepare(patients, RECIPE, folder, n_jobs=1).remade == ()
        assert content(folder) == content(tmp_path / "whole")


def test_entries_are_maps_that_nobody_can_write_to(labelled):
    entry = pickle.loads(pickle.dumps(labelled[0][0]))
    images = entry.open()
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0] = 1


def test_items_are_normalised_images_with_label_and_id(labelled):
    samples = Slices(labelled, intensity="maximum")
    assert len(samples) == 14
    for index in (2, 5):
        item, (entry, label) = samples[3, index], labelled[index]
        assert item["id"] == entry.id
        assert (item["label"], item["label"].dtype) == (label, np.float32)
        np.testing.assert_array_equal(item["image"], network_input(entry.open(), entry.geometry, intensity="maximum"))
        assert item["image"].max() == 1


def test_flips_turn_columns_and_are_functions_of_seed_epoch_and_patient(labelled):
    plain, always = Slices(labelled), Slices(labelled, flip_probability=1.0)
    np.testing.assert_array_equal(always[0, 1]["image"], plain[0, 1]["image"][..., ::-1])

    def flipped(seed, order=slice(None)):
        samples = Slices(labelled[order], flip_probability=0.5, seed=seed)
        turned = {}
        for epoch in range(6):
            for index, (entry, _) in enumerate(samples.patients):
                image = samples[epoch, index]["image"]
                reference = plain[0, [e.id for e, _ in labelled].index(entry.id)]["image"]
                turned[epoch, entry.id] = not np.array_equal(image, reference)
        return turned

    first = flipped(0)
    assert first == flipped(0, slice(None, None, -1))
    assert first != flipped(1)
    assert 25 < sum(first.values()) < 59  # 84 draws at one half: 42 +- 3.7 standard deviations
    assert len({tuple(v for (e, _), v in first.items() if e == epoch) for epoch in range(6)}) == 6


def test_orders_show_everybody_once_and_depend_on_seed_and_epoch():
    def orders(seed):
        order = Order(30, seed=seed)
        drawn = []
        for epoch in range(3):
            order.set_epoch(epoch)
            positions = list(order)
            assert {e for e, _ in positions} == {epoch}
            assert sorted(index for _, index in positions) == list(range(30))
            drawn.append(tuple(index for _, index in positions))
        return drawn

    assert orders(0) == orders(0) != orders(1)
    assert len(set(orders(0))) == 3


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (10, 4, [4, 4, 2]), (5, 4, [5]), (3, 4, [3]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_one_patient_left_over_joins_the_step_before(n, batch_size, sizes):
    order = Order(n, seed=0)
    batches = Batches(order, batch_size=batch_size)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)
    assert [position for batch in batches for position in batch] == list(order)


def test_reading_more_patients_takes_no_more_memory(labelled):
    import tracemalloc

    samples = Slices(labelled)
    samples[0, 0]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(len(labelled)):
        samples[0, index]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < samples[0, 0]["image"].nbytes


def test_real_series_are_prepared_and_bad_ones_refused(real_data, tmp_path):
    folders = sorted(path for path in (real_data / "dicom").iterdir())
    found = [Patient(path.name, {"FLAIR": path}) for path in folders]
    store = prepare(found, replace(RECIPE, images=3, image_size=(64, 64)), tmp_path, n_jobs=1)
    bad = {path.name for path in folders if path.name.startswith("bad_")}
    assert bad <= {problem.subject for problem in store.problems}
    for problem in store.problems:
        assert problem.subject in bad or "expected at least 3 images" in problem.what, problem
    for entry in store.entries.values():
        image = network_input(entry.open(), entry.geometry, intensity="zscore")
        shown = image[image != 0].astype(np.float64)
        assert shown.mean() == pytest.approx(0, abs=1e-3)
        assert shown.std() == pytest.approx(1, abs=1e-3)
    assert len(store.entries) >= 3

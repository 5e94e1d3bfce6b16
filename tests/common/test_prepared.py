import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from common import store as common_store
from common import volumes
from common.cohort import find_subjects
from common.identity import content_digest
from common.labels import BRATS_2018
from common.nifti import ScanError
from common.prepared import StoreError, expected_bytes, prepare
from common.recipe import Recipe, decode
from common.subject import CONTRASTS, Subject

ROOT = Path(__file__).parents[2]
SUFFIXES = {"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2"}
SHAPE = (18, 16, 12)
BRAIN = (slice(4, 15), slice(3, 13), slice(2, 10))
TUMOUR = (slice(6, 11), slice(5, 10), slice(4, 8))


def save(path, data, spacing=(1.0, 1.0, 1.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])).to_filename(path)
    return path


def file_of(folder, name, role):
    return folder / name / f"{name}_{'seg' if role == 'label' else SUFFIXES[role]}.nii.gz"


def make_subject(folder, name, *, seed=0, label=True, shape=SHAPE, spacing=(1.0, 1.0, 1.0)):
    """A brain with holes in it, a coverage of its own for each contrast, and a tumour of all three classes."""
    rng = np.random.default_rng(seed)
    for number, contrast in enumerate(CONTRASTS):
        image = np.zeros(shape, np.int16)
        brain = (BRAIN[0], BRAIN[1], slice(BRAIN[2].start, BRAIN[2].stop - number % 2))
        image[brain] = rng.integers(1, 1500, image[brain].shape) + 100 * number
        image[brain][rng.random(image[brain].shape) < 0.1] = 0
        save(file_of(folder, name, contrast), image, spacing)
    if label:
        classes = np.zeros(shape, np.uint8)
        classes[TUMOUR] = rng.integers(0, 4, classes[TUMOUR].shape)
        save(file_of(folder, name, "label"), BRATS_2018.from_classes(classes), spacing)
    return folder / name


@pytest.fixture
def cohort(tmp_path):
    """Three subjects; the store of a test lies beside them."""
    for number in range(3):
        make_subject(tmp_path / "scans", f"BraTS2021_0000{number}", seed=number)
    return tmp_path / "scans"


def subjects_of(folder):
    return find_subjects(folder).subjects


def prepare_all(folder, store, recipe=None, **options):
    return prepare(subjects_of(folder), recipe or Recipe(), store, n_jobs=1, **options)


def content(store):
    """Every file of a store that is not a temporary one, by its path."""
    files = (path for path in store.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def only(store, pattern):
    (path,) = store.rglob(pattern)
    return path


def stored_as(subject, contrast):
    return np.asarray(nib.load(subject.images[contrast]).dataobj)


def zscores(subject, contrasts=CONTRASTS):
    """The oracle: MONAI's intensity normalisation of nibabel's voxels, (contrast, x, y, z) on the scan's grid."""
    transforms = pytest.importorskip("monai.transforms")
    images = np.stack([stored_as(subject, contrast) for contrast in contrasts]).astype(np.float32)
    return np.asarray(transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(images))


def true_classes(subject):
    mask = np.asarray(nib.load(subject.label).dataobj)
    return np.where(mask == 4, 3, mask)


def on_grid(volume, box):
    """An array over the volume's box, put into zeros of the whole grid."""
    grid = np.zeros((*box.shape[:-3], *volume.grid_shape), box.dtype)
    grid[..., *(slice(b, b + n) for b, n in zip(volume.box_start, volume.box_shape, strict=True))] = box
    return grid


def check_equals_monai(subject, volume, contrasts=CONTRASTS):
    """The whole volume within half a step (and float32's rounding) of MONAI's z-scores, background and labels exact."""
    expected, found = zscores(subject, contrasts), on_grid(volume, volume.image())
    assert found.dtype == np.float32
    for step, ours, theirs, contrast in zip(volume.steps, found, expected, contrasts, strict=True):
        assert np.abs(ours - theirs).max() <= 0.52 * step + 1e-5
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-4)
        scan = stored_as(subject, contrast)
        assert (ours[scan == 0] == 0).all()
        assert step * scan[scan != 0].std() <= 1  # the scan's own integers lie no closer than the steps
    np.testing.assert_array_equal(on_grid(volume, volume.labels()), true_classes(subject))
    # no plane of voxels is kept for nothing
    anything = (expected != 0).any(axis=0) | (true_classes(subject) > 0)
    filled = np.argwhere(anything)
    assert volume.box_start == tuple(filled.min(axis=0))
    assert volume.box_shape == tuple(np.ptp(filled, axis=0) + 1)


def test_voxels_decode_to_the_zscores_of_monai(cohort, tmp_path):
    store = prepare_all(cohort, tmp_path / "store")
    assert list(store.entries) == [f"BraTS2021_0000{number}" for number in range(3)]
    assert (store.problems, store.prepared, store.remade) == ((), 3, ())
    for subject in subjects_of(cohort):
        volume = store.entries[subject.id].open()
        assert volume.id == subject.id
        assert (volume.grid_shape, volume.source_shape) == (SHAPE, SHAPE)
        assert volume.source_spacing_mm == (1, 1, 1)
        assert volume.box_shape == (11, 10, 8)
        check_equals_monai(subject, volume)


def test_contrasts_come_in_the_order_of_the_recipe(cohort, tmp_path):
    recipe = Recipe(contrasts=("T1ce", "FLAIR"))
    store = prepare_all(cohort, tmp_path / "store", recipe)
    subject = subjects_of(cohort)[1]
    check_equals_monai(subject, store.entries[subject.id].open(), recipe.contrasts)
    # T1 and T2 end one plane earlier than the others: alone they need a smaller box
    alone = prepare_all(cohort, tmp_path / "store", Recipe(contrasts=("T1", "T2")))
    assert alone.entries[subject.id].open().box_shape == (11, 10, 7)


def test_entries_are_maps_that_nobody_can_write_to(cohort, tmp_path):
    entry = next(iter(prepare_all(cohort, tmp_path / "store").entries.values()))
    assert len(pickle.dumps(entry)) < 2000
    volume = pickle.loads(pickle.dumps(entry)).open()
    assert isinstance(volume.voxels, np.memmap)
    assert volume.voxels.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0, 0] = 1


def test_a_second_call_finds_everything_intact(cohort, tmp_path):
    first = prepare_all(cohort, tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*-*")}
    again = prepare_all(cohort, tmp_path / "store")
    assert again.entries == first.entries
    assert (again.prepared, again.remade) == (0, ())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*-*")} == before


@pytest.mark.parametrize("seed", [0, 1])
def test_a_window_anywhere_is_a_crop_of_the_whole_volume(cohort, tmp_path, seed):
    volume = next(iter(prepare_all(cohort, tmp_path / "store").entries.values())).open()
    margin = 20
    padded = np.pad(on_grid(volume, volume.voxels), ((0, 0), *[(margin, margin)] * 3))
    rng = np.random.default_rng(seed)
    views = 0
    for _ in range(300):
        start, size = rng.integers(-8, 18, 3), rng.integers(1, 12, 3)
        found = volume.window(start.tolist(), size.tolist())
        place = tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
        np.testing.assert_array_equal(found, padded[:, *place])
        views += np.shares_memory(found, volume.voxels)
    assert 0 < views < 300


def test_decode_in_any_memory_order():
    voxels = np.random.default_rng(0).integers(-32767, 32768, (2, 4, 5, 6)).astype(np.int16)
    steps = (0.001, 0.25)
    for seen in (voxels, np.asfortranarray(voxels), np.flip(voxels, (1, 3)), voxels[:, ::2, 1:]):
        found = decode(seen, steps)
        np.testing.assert_allclose(found, seen * np.reshape(steps, (2, 1, 1, 1)), rtol=1e-6)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
    with pytest.raises(ValueError, match="shorter"):  # the label channel has no step
        decode(np.concatenate([voxels, voxels[:1]]), steps)


@pytest.mark.parametrize(
    ("spacing", "spacing_mm", "grid"),
    [
        ((1.0, 1.0, 1.0), 3.0, (6, 5, 4)),  # 18 x 16 x 12 mm; 16 / 3 rounds to 5
        ((1.0, 1.0, 5.0), 2.0, (9, 8, 30)),  # shrinks in-plane, grows 2.5 times along z
        ((1.0, 0.5, 4.0), 1.0, (18, 8, 48)),  # x stays as it is, z grows 4 times
        ((1.0, 1.0, 6.0), 1.0, (18, 16, 72)),
        ((0.25, 2.0, 1.0), 60.0, (1, 1, 1)),
    ],
)
def test_another_voxel_size(tmp_path, spacing, spacing_mm, grid):
    make_subject(tmp_path / "scans", "BraTS2021_00001", spacing=spacing)
    (subject,) = subjects_of(tmp_path / "scans")
    store = prepare_all(tmp_path / "scans", tmp_path / "store", Recipe(spacing_mm=spacing_mm))
    volume = store.entries[subject.id].open()
    assert (volume.grid_shape, volume.source_shape, volume.source_spacing_mm) == (grid, SHAPE, spacing)
    # The whole grid is what the whole scan gives, so nothing is lost outside the box.
    expected = volumes.resize(zscores(subject), grid)
    found = on_grid(volume, volume.image())
    for step, ours, theirs in zip(volume.steps, found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 0.52 * step + 1e-5
    labels = volumes.resize_labels(true_classes(subject), grid, 4)
    np.testing.assert_array_equal(on_grid(volume, volume.labels()), labels)
    if min(grid) > 4:
        assert np.prod(volume.box_shape) < 0.9 * np.prod(grid)
        assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_growing_against_scipy(tmp_path):
    make_subject(tmp_path / "scans", "BraTS2021_00001", spacing=(2.0, 3.0, 5.0))
    (subject,) = subjects_of(tmp_path / "scans")
    volume = prepare_all(tmp_path / "scans", tmp_path / "s", Recipe(spacing_mm=1.0)).entries[subject.id].open()
    assert volume.grid_shape == (36, 48, 60)
    found = on_grid(volume, volume.image())
    for step, ours, theirs in zip(volume.steps, found, zscores(subject), strict=True):
        expected = ndimage.zoom(theirs, (2, 3, 5), order=1, mode="nearest", grid_mode=True)
        assert np.abs(ours - expected).max() <= 0.52 * step + 1e-5


def test_a_voxel_size_that_changes_nothing_resamples_nothing(cohort, tmp_path):
    plain = prepare_all(cohort, tmp_path / "plain")
    same = prepare_all(cohort, tmp_path / "same", Recipe(spacing_mm=1.0))
    for name, entry in plain.entries.items():
        np.testing.assert_array_equal(entry.open().voxels, same.entries[name].open().voxels)


def test_labels_outside_the_brain_are_kept(cohort, tmp_path):
    name = "BraTS2021_00001"
    classes = np.zeros(SHAPE, np.uint8)
    classes[0, 15, 11] = 3
    classes[5, 5, 5] = 2
    save(file_of(cohort, name, "label"), BRATS_2018.from_classes(classes))
    subject = subjects_of(cohort)[1]
    volume = prepare_all(cohort, tmp_path / "store").entries[name].open()
    check_equals_monai(subject, volume)
    assert volume.labels().max() == 3
    assert volume.box_start == (0, 3, 2)


@pytest.mark.parametrize("spacing_mm", [None, 3.0, 0.5])
def test_an_empty_mask_is_a_mask(cohort, tmp_path, spacing_mm):
    save(file_of(cohort, "BraTS2021_00001", "label"), np.zeros(SHAPE, np.uint8))
    volume = prepare_all(cohort, tmp_path / "s", Recipe(spacing_mm=spacing_mm)).entries["BraTS2021_00001"].open()
    assert volume.has_label
    np.testing.assert_array_equal(volume.labels(), np.zeros(volume.box_shape))


def test_a_subject_without_labels(tmp_path):
    make_subject(tmp_path / "scans", "BraTS2021_00001", label=False)
    (subject,) = subjects_of(tmp_path / "scans")
    volume = prepare_all(tmp_path / "scans", tmp_path / "store").entries[subject.id].open()
    assert not volume.has_label
    assert volume.voxels.shape == (4, 11, 10, 8)
    found = on_grid(volume, volume.image())
    np.testing.assert_allclose(found, zscores(subject), atol=0.52 * max(volume.steps))
    with pytest.raises(ValueError, match="BraTS2021_00001: expected a subject with labels"):
        volume.labels()
    make_subject(tmp_path / "scans", "BraTS2021_00001")
    with_labels = prepare_all(tmp_path / "scans", tmp_path / "store")
    assert with_labels.prepared == 1
    assert with_labels.entries[subject.id].open().has_label


def test_a_brain_of_one_value_becomes_zero(tmp_path):
    make_subject(tmp_path / "scans", "BraTS2021_00001")
    image = np.zeros(SHAPE, np.float32)
    image[BRAIN] = 0.1
    save(file_of(tmp_path / "scans", "BraTS2021_00001", "T2"), image)
    (entry,) = prepare_all(tmp_path / "scans", tmp_path / "store").entries.values()
    np.testing.assert_array_equal(entry.open().image()[3], 0)
    assert entry.open().image()[2].std() > 0.5


def test_threads_and_recipes_do_not_disturb_each_other(cohort, tmp_path):
    prepare_all(cohort, tmp_path / "one")
    prepare(subjects_of(cohort), Recipe(), tmp_path / "many", n_jobs=3)
    assert content(tmp_path / "one") == content(tmp_path / "many")
    prepare_all(cohort, tmp_path / "many", Recipe(spacing_mm=2.0))
    prepare_all(cohort, tmp_path / "many", Recipe(contrasts=("T1", "FLAIR", "T1ce", "T2")))
    assert len(list((tmp_path / "many").iterdir())) == 3
    assert content(tmp_path / "one").items() < content(tmp_path / "many").items()
    assert prepare([], Recipe(), tmp_path / "none").entries == {}


def test_content_decides_what_is_made_again(cohort, tmp_path):
    store = tmp_path / "store"
    first = prepare_all(cohort, store)
    shutil.copytree(cohort, tmp_path / "elsewhere")
    moved = prepare_all(tmp_path / "elsewhere", store)
    assert (moved.entries, moved.prepared) == (first.entries, 0)
    changed = stored_as(subjects_of(cohort)[1], "T2").copy()
    changed[7, 7, 7] += 1
    save(file_of(cohort, "BraTS2021_00001", "T2"), changed)
    after = prepare_all(cohort, store)
    assert (after.prepared, after.remade) == (1, ())
    assert {name for name in first.entries if first.entries[name] != after.entries[name]} == {"BraTS2021_00001"}
    check_equals_monai(subjects_of(cohort)[1], after.entries["BraTS2021_00001"].open())
    # the entry made from the copy is still there, and still right
    assert prepare_all(tmp_path / "elsewhere", store).prepared == 0


def flip(path, position, bit=0):
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1 << bit
    path.write_bytes(damaged)


def replace_text(path, old, new):
    text = path.read_bytes()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new))


DAMAGES = {
    "a voxel": lambda npy, record: flip(npy, -777, 6),
    "the first voxel": lambda npy, record: flip(npy, 128),
    "the last voxel": lambda npy, record: flip(npy, -1),
    "byte order": lambda npy, record: replace_text(npy, b"<i2", b">i2"),
    "an open quote": lambda npy, record: replace_text(npy, b"'descr'", b"#descr'"),
    "a shape that is no tuple": lambda npy, record: replace_text(npy, b"(5, 11", b"(5! 11"),
    "another shape of as many voxels": lambda npy, record: replace_text(npy, b"11, 10", b"10, 11"),
    "truncated": lambda npy, record: os.truncate(npy, npy.stat().st_size - 2),
    "cut inside the header": lambda npy, record: os.truncate(npy, 50),
    "no byte left": lambda npy, record: os.truncate(npy, 0),
    "longer": lambda npy, record: npy.write_bytes(npy.read_bytes() + b"\0\0"),
    "zeros": lambda npy, record: npy.write_bytes(bytes(npy.stat().st_size)),
    "no voxels": lambda npy, record: npy.unlink(),
    "record of text": lambda npy, record: record.write_text("garbage"),
    "record of bytes": lambda npy, record: record.write_bytes(b"\xff\xfe\x00{"),
    "record of a list": lambda npy, record: record.write_text("[1, 2]"),
    "record of null": lambda npy, record: record.write_text('{"geometry": null, "checksum": 1}'),
    "record without a field": lambda npy, record: replace_text(record, b"grid_shape", b"grad_shape"),
    "record cut off": lambda npy, record: os.truncate(record, 40),
    "empty record": lambda npy, record: os.truncate(record, 0),
    "another place of the box": lambda npy, record: replace_text(
        record, b'"box_start": [\n   4', b'"box_start": [\n   5'
    ),
    "another step": lambda npy, record: replace_text(record, b'"steps": [\n   5', b'"steps": [\n   6'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_mended(cohort, tmp_path, damage):
    store = tmp_path / "store"
    whole = prepare_all(cohort, store)
    expected = content(store)
    npy, record = only(store, "BraTS2021_00001-*.npy"), only(store, "BraTS2021_00001-*.json")
    DAMAGES[damage](npy, record)
    assert content(store) != expected
    mended = prepare_all(cohort, store)
    assert mended.remade == ("BraTS2021_00001",)
    assert mended.prepared == 1
    assert mended.entries == whole.entries
    assert content(store) == expected


def test_a_folder_in_the_place_of_an_entry_is_not_deleted(cohort, tmp_path):
    prepare_all(cohort, tmp_path / "store")
    npy = only(tmp_path / "store", "BraTS2021_00001-*.npy")
    npy.unlink()
    (npy / "something").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot be written \(Is a directory\)"):
        prepare_all(cohort, tmp_path / "store")
    assert (npy / "something").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_any_flipped_bit_is_noticed(tmp_path, seed):
    make_subject(tmp_path / "scans", "BraTS2021_00001", seed=seed)
    store = tmp_path / "store"
    prepare_all(tmp_path / "scans", store)
    expected = content(store)
    rng = np.random.default_rng(seed)
    for kind, first, last in [*[("npy", 0, 128)] * 12, *[("npy", 128, 8000)] * 4, *[("json", 0, 500)] * 12]:
        path = only(store, f"BraTS2021_00001-*.{kind}")
        position = int(rng.integers(first, min(last, path.stat().st_size)))
        if kind == "json" and path.read_bytes()[position : position + 1].isspace():
            continue  # what stands between two values has no meaning
        flip(path, position, int(rng.integers(8)))
        assert prepare_all(tmp_path / "scans", store).remade == ("BraTS2021_00001",)
        assert content(store) == expected


def test_voxels_without_a_record_are_not_believed(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_all(cohort, store)
    expected = content(store)
    npy, record = only(store, "BraTS2021_00001-*.npy"), only(store, "BraTS2021_00001-*.json")
    record.unlink()
    flip(npy, 500)
    made = prepare_all(cohort, store)
    assert (made.prepared, made.remade) == (1, ())
    assert content(store) == expected


def test_leftovers_of_a_kill_are_no_entries(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_all(cohort, tmp_path / "undisturbed")
    prepare_all(cohort, store)
    (folder,) = store.iterdir()
    npy = only(store, "BraTS2021_00001-*.npy")
    old, recent = folder / ".aaaa.part", folder / ".bbbb.part"
    for part in (old, recent):
        part.write_bytes(npy.read_bytes()[:1000])
    for path in (npy, only(store, "BraTS2021_00001-*.json")):
        path.unlink()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    assert prepare_all(cohort, store).prepared == 1
    assert content(store) == content(tmp_path / "undisturbed")
    # the recent one may belong to a process at work
    assert (old.exists(), recent.exists()) == (False, True)


CHILDREN = """
import os, random, signal, sys, time
from pathlib import Path
from common import prepared
from common.cohort import find_subjects
from common.recipe import Recipe

subjects, stores = find_subjects(sys.argv[2]).subjects, Path(sys.argv[3])

def child(store, die_at=None, after=False, wait=None):
    if pid := os.fork():
        return pid
    rename, count = os.replace, 0
    def replace(*names):
        nonlocal count
        count += 1
        if count == die_at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*names)
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replace
    if wait is not None:
        os.read(wait, 1)
    try:
        prepared.prepare(subjects, Recipe(), store, n_jobs=1)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

if sys.argv[1] == "renames":
    for die_at in range(1, 2 + 2 * len(subjects)):
        for after in (False, True):
            print(status(child(stores / f"{die_at}{after}", die_at, after)))
elif sys.argv[1] == "moments":
    begin = time.perf_counter()
    print(status(child(stores / "whole")))
    whole, rng = time.perf_counter() - begin, random.Random(0)
    for number in range(16):
        pid = child(stores / str(number))
        time.sleep(rng.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        status(pid)
elif sys.argv[1] == "together":
    for number in range(6):
        wait, go = os.pipe()
        pids = [child(stores / str(number), wait=wait) for _ in range(3)]
        os.write(go, b"123")
        print(*map(status, pids))
"""


def children(what, cohort, stores):
    """Processes that prepare the cohort, one start of the interpreter for all; their exit statuses."""
    result = subprocess.run(
        [sys.executable, "-c", CHILDREN, what, cohort, stores], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return [int(status) for status in result.stdout.split()], result.stderr


@pytest.mark.parametrize("what", ["renames", "moments"])
def test_killed_anywhere_the_store_ends_as_if_undisturbed(cohort, tmp_path, what):
    reference = prepare_all(cohort, tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed")
    statuses, stderr = children(what, cohort, tmp_path / "killed")
    assert set(statuses) == ({-9} if what == "renames" else {0}), stderr
    incomplete = 0
    for store in (tmp_path / "killed").iterdir():
        # Before anything is mended: what stands under a final name is whole.
        found = content(store)
        assert found.items() <= expected.items()
        incomplete += found != expected
        records = sum(name.endswith(".json") for name in found) - 1  # beside recipe.json
        finished = prepare_all(cohort, store)
        assert (finished.prepared, finished.remade) == (3 - max(records, 0), ())
        assert {name: entry.geometry for name, entry in finished.entries.items()} == {
            name: entry.geometry for name, entry in reference.entries.items()
        }
        assert content(store) == expected
    assert incomplete > 2


def test_processes_that_prepare_the_same_cohort_together(cohort, tmp_path):
    prepare_all(cohort, tmp_path / "undisturbed")
    statuses, stderr = children("together", cohort, tmp_path / "shared")
    assert statuses == [0] * 18, stderr
    for store in (tmp_path / "shared").iterdir():
        assert content(store) == content(tmp_path / "undisturbed")
        assert list(store.rglob(".*")) == []
        assert prepare_all(cohort, store).prepared == 0


class FullDisk(io.FileIO):
    """A file on a disk with room for so many bytes: takes a part of what is written, then nothing, as Linux does."""

    room = 0

    def write(self, content):
        some = memoryview(content).cast("B")[: FullDisk.room]
        if not some:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        FullDisk.room -= len(some)
        return super().write(some)

    def fileno(self):
        raise AssertionError("written past the disk's size")


@contextmanager
def room_for(monkeypatch, n_bytes):
    opened = Path.open

    def open_voxels(path, mode="r", *arguments, **options):
        if mode == "wb" and path.suffix == ".part":
            return io.BufferedWriter(FullDisk(path, "w"))
        return opened(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, "room", n_bytes)
        patch.setattr(Path, "open", open_voxels)
        yield


@pytest.mark.parametrize("room", [0, 100, 128, 4000, 8928 + 1, 8928 + 5000])
def test_a_full_disk(cohort, tmp_path, monkeypatch, room):
    """An entry's voxels take 128 + 2 x 5 x 11 x 10 x 8 = 8928 bytes; the cohort has three."""
    store = tmp_path / "store"
    with (
        room_for(monkeypatch, room),
        pytest.raises(StoreError, match=r"disk is full: .* is already prepared is kept") as raised,
    ):
        prepare_all(cohort, store)
    assert f"{store}/" in str(raised.value)
    assert f"subject BraTS2021_0000{room // 8928} needs 0 MiB" in str(raised.value)
    assert list(store.rglob(".*.part")) == []
    kept = [path.stat().st_size for path in store.rglob("*.npy")]
    assert kept == [8928] * (room // 8928)
    finished = prepare_all(cohort, store)
    assert (finished.prepared, finished.remade) == (3 - room // 8928, ())
    prepare_all(cohort, tmp_path / "undisturbed")
    assert content(store) == content(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_too_full_for_the_record(cohort, tmp_path, monkeypatch, number):
    store = tmp_path / "store"
    write_json = common_store.write_json

    def fail_for_the_second(path, value, **options):
        if path.name.startswith("BraTS2021_00001"):
            raise OSError(number, os.strerror(number))
        write_json(path, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(common_store, "write_json", fail_for_the_second)
        with pytest.raises(StoreError, match="disk is full: subject BraTS2021_00001"):
            prepare_all(cohort, store)
    assert (len(list(store.rglob("*.npy"))), len(list(store.rglob("BraTS*.json")))) == (2, 1)
    flip(only(store, "BraTS2021_00001-*.npy"), 500)
    assert prepare_all(cohort, store).prepared == 2
    prepare_all(cohort, tmp_path / "undisturbed")
    assert content(store) == content(tmp_path / "undisturbed")


def test_a_damaged_entry_and_a_full_disk(cohort, tmp_path, monkeypatch):
    """The damaged voxels lose their record before anything else, so they are not read whatever happens then."""
    store = tmp_path / "store"
    prepare_all(cohort, store)
    flip(only(store, "BraTS2021_00001-*.npy"), 500)
    with room_for(monkeypatch, 10), pytest.raises(StoreError, match="disk is full: subject BraTS2021_00001"):
        prepare_all(cohort, store)
    assert list(store.rglob("BraTS2021_00001-*.json")) == []
    assert prepare_all(cohort, store).prepared == 1


def test_a_folder_that_cannot_be_written(cohort, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/store.*the prepared store cannot be written \(Not a directory\)"):
        prepare_all(cohort, tmp_path / "file" / "store")

    def fail(path, value, **options):
        if path.name != "recipe.json":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(common_store, "write_json", fail)
    with pytest.raises(StoreError, match=r"store/.*cannot be written \(Input/output error\)"):
        prepare_all(cohort, tmp_path / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(cohort, tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(StoreError, match=r"store.*cannot be written \(Permission denied\)"):
        prepare_all(cohort, tmp_path / "store")


def test_all_bad_subjects_are_listed_and_none_is_stored(tmp_path):
    folder = tmp_path / "scans"
    names = [f"BraTS2021_0000{number}" for number in range(7)]
    for number, name in enumerate(names):
        make_subject(folder, name, seed=number)
    (*_, gone) = found = subjects_of(folder)
    flair = file_of(folder, names[1], "FLAIR")
    flair.write_bytes(flair.read_bytes()[:-20])
    save(file_of(folder, names[1], "T2"), np.arange(8, dtype=np.int16).reshape(2, 2, 2))
    image = stored_as(found[2], "T1").astype(np.float32)
    image[0, 0, 0] = np.nan
    save(file_of(folder, names[2], "T1"), image)
    save(file_of(folder, names[2], "label"), np.full(SHAPE, 7, np.uint8))
    save(file_of(folder, names[3], "label"), np.zeros((2, 2, 2), np.uint8))
    save(file_of(folder, names[4], "T1ce"), np.zeros(SHAPE, np.int16))
    file_of(folder, names[6], "T2").unlink()  # between finding and preparing
    assert gone.id == names[6]
    for jobs in (1, 3):
        store = prepare(found, Recipe(), tmp_path / "store", n_jobs=jobs)
        assert list(store.entries) == [names[0], names[5]]
        assert store.prepared == (2 if jobs == 1 else 0)
        told = [(problem.subject[-1], problem.file.name.split("_")[-1][:-7]) for problem in store.problems]
        assert sorted(told) == [
            ("1", "flair"),
            ("1", "t2"),
            ("2", "seg"),
            ("2", "t1"),
            ("3", "seg"),
            ("4", "t1ce"),
            ("6", "t2"),
        ]
        assert {problem.subject: problem for problem in store.problems}[names[6]].what.endswith(
            f"No such file or directory: '{gone.images['T2']}'"
        )
    assert {path.name.split("-")[0] for path in tmp_path.rglob("BraTS*-*")} == {names[0], names[5]}


def test_an_entry_of_a_scan_that_became_bad_is_not_given(cohort, tmp_path):
    prepare_all(cohort, tmp_path / "store")
    t1 = file_of(cohort, "BraTS2021_00001", "T1")
    t1.write_bytes(t1.read_bytes()[:-1])
    store = prepare_all(cohort, tmp_path / "store")
    assert list(store.entries) == ["BraTS2021_00000", "BraTS2021_00002"]
    assert [problem.file for problem in store.problems] == [t1]


@pytest.mark.parametrize("step", ["fingerprint", "read"])
@pytest.mark.parametrize("error", [ScanError("t1.nii.gz: damaged"), OSError(errno.EMFILE, "Too many open files")])
def test_a_failure_that_a_second_look_does_not_find_is_named_all_the_same(cohort, tmp_path, monkeypatch, step, error):
    whole = getattr(Subject, step)

    def fail(subject, *arguments):
        if subject.id == "BraTS2021_00001":
            raise error
        return whole(subject, *arguments)

    monkeypatch.setattr(Subject, step, fail)
    store = prepare_all(cohort, tmp_path / "store")
    assert list(store.entries) == ["BraTS2021_00000", "BraTS2021_00002"]
    assert [(problem.subject, problem.what) for problem in store.problems] == [("BraTS2021_00001", str(error))]


def test_recipes_and_conventions_are_part_of_the_name(cohort, tmp_path):
    subject = subjects_of(cohort)[0]
    others = [subject, replace(subject, label=None, convention=None)]
    others.append(replace(subject, images={**subject.images, "T1": subject.images["T2"], "T2": subject.images["T1"]}))
    recipes = [Recipe(), Recipe(spacing_mm=1.0), Recipe(contrasts=CONTRASTS[::-1])]
    stores = [prepare([other], recipe, tmp_path / "store", n_jobs=1) for other in others for recipe in recipes]
    assert [store.prepared for store in stores] == [1] * 9
    assert len({store.entries[subject.id].path for store in stores}) == 9
    paths = {store.entries[subject.id].path for store in stores}
    assert len({path.name for path in paths}) == 9


def test_an_entry_holds_the_contents_of_its_contrasts_and_a_long_id(cohort, tmp_path):
    subject = replace(subjects_of(cohort)[0], id="long" * 60)
    (entry,) = prepare([subject], Recipe(contrasts=("T1", "T2")), tmp_path / "store", n_jobs=1).entries.values()
    assert (entry.id, entry.open().id) == (subject.id, subject.id)
    assert entry.contents == {c: content_digest(subject.read([c])[0][c]) for c in ("T1", "T2")}
    again = prepare([subject], Recipe(contrasts=("T1", "T2")), tmp_path / "store", n_jobs=1)
    assert (again.prepared, again.entries[subject.id].contents) == (0, entry.contents)


def test_an_entry_knows_voxels_of_every_class_that_is_there(cohort, tmp_path):
    found = []
    for run in ("a", "b"):
        for entry in prepare_all(cohort, tmp_path / run).entries.values():
            volume, positions = entry.open(), entry.label_positions
            labels = volume.labels()
            assert list(positions) == [value for value in (1, 2, 3) if (labels == value).any()]
            for value, voxels in positions.items():
                of_class = np.argwhere(labels == value) + volume.box_start
                assert len(voxels) == min(256, len(of_class))
                assert len({*map(tuple, voxels)}) == len(voxels)
                assert {*map(tuple, voxels)} <= {*map(tuple, of_class)}
                assert np.abs(voxels.mean(axis=0) - of_class.mean(axis=0)).max() < of_class.std(axis=0).max() / 3 + 1e-9
            found.append({value: voxels.tolist() for value, voxels in positions.items()})
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    unlabelled = replace(subjects_of(cohort)[0], label=None, convention=None)
    (entry,) = prepare([unlabelled], Recipe(), tmp_path / "c", n_jobs=1).entries.values()
    assert entry.label_positions == {}


def test_a_real_subject_against_monai(real_data, tmp_path):
    subject = subjects_of(real_data / "brats")[0]
    store = prepare([subject], Recipe(), tmp_path / "store", n_jobs=1)
    assert store.problems == ()
    volume = store.entries[subject.id].open()
    assert volume.grid_shape == (240, 240, 155)
    check_equals_monai(subject, volume)
    # a third of the bytes of the whole volume, as the module promises
    assert np.prod(volume.box_shape) < 0.4 * np.prod(volume.grid_shape)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(spacing_mm=4.0),
        Recipe(shape=(96, 120, 64)),
        Recipe(spacing_mm=2.0, extent=(240, 240, 155)),
        Recipe(crop=((40, 200), (40, 140), (7, 154)), spacing_mm=2.0, contrasts=("FLAIR", "T1ce")),
    ],
)
def test_what_a_store_takes_is_told_before_it_is_made(tmp_path, recipe):
    affine = np.zeros((4, 4))
    affine[[2, 0, 1, 3], range(4)] = (2.0, -2.0, -4.0, 1.0)  # stored as (z, x, y)
    z, x, y = np.ogrid[:78, :120, :60]
    brain = ((z - 38) / 35) ** 2 + ((x - 60) / 35) ** 2 + ((y - 30) / 22) ** 2 < 1  # 140, 140 and 176 mm: an adult's
    rng = np.random.default_rng(0)
    for number in range(2):
        for contrast in CONTRASTS:
            path = file_of(tmp_path / "scans", f"BraTS2021_0000{number}", contrast)
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image((brain * rng.integers(1, 1500, brain.shape)).astype(np.int16), affine).to_filename(path)
        nib.Nifti1Image(brain.astype(np.uint8), affine).to_filename(path.with_name(path.parent.name + "_seg.nii.gz"))
    subjects = subjects_of(tmp_path / "scans")
    assert not prepare(subjects, recipe, tmp_path / "store", n_jobs=1).problems
    stored = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.npy"))
    assert expected_bytes(subjects, recipe) == pytest.approx(stored, rel=0.15)


def test_what_a_store_takes_is_not_told_of_scans_without_a_header(cohort):
    for path in cohort.rglob("*.nii.gz"):
        path.write_bytes(b"")
    assert expected_bytes(subjects_of(cohort), Recipe()) == 0

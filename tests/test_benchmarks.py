"""Each benchmark at a tiny size: it runs, its sides agree, and the JSON has the keys. No time is asserted."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.cohort import find_subjects
from common.prepared import prepare
from common.subject import Subject

pytest.importorskip("torch")
pytest.importorskip("monai")

import torch

from benchmarks import augmentation, basis, inference, loading, segresnet_step, steps
from benchmarks.compare import Row, report
from segresnet_monai.config import Config
from segresnet_monai.inference import build

KEYS = {"name", "ours_s", "peer", "peer_s", "ratio", "floor_s"}
CONFIG = Config(
    initial_filters=8, encoder_blocks=(1, 1), decoder_blocks=(1,), crop_voxels=(16, 16, 16), window_overlap=0.25
)
CPU = torch.device("cpu")

# MONAI warns of a DICOM decoder that nothing here uses.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Floors of a machine of 100 GFLOP/s (measuring the real one takes seconds), and one thread: the work is tiny."""
    monkeypatch.setattr(basis, "product_rate", lambda device, dtype: 1e11)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, ...]:
    """Two subjects in BraTS 2021's layout: noise in a box, half of it labelled."""
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    for name in ("A_0", "B_0"):
        (folder / name).mkdir()
        brain = np.zeros((28, 32, 24), np.int16)
        brain[4:22, 5:29, 3:21] = 1
        mask = brain * rng.choice(np.array([0, 1, 2, 4], np.int16), brain.shape)
        scans = {c: brain * rng.integers(1, 1000, brain.shape, np.int16) for c in ("flair", "t1", "t1ce", "t2")}
        for contrast, voxels in (scans | {"seg": mask}).items():
            nib.save(nib.Nifti1Image(voxels, np.diag([-1, -1, 1, 1])), folder / name / f"{name}_{contrast}.nii.gz")
    return find_subjects(folder).subjects


def check(rows: list[Row], path: Path, peers: set[str]) -> None:
    report(rows, path)
    written = json.loads(path.read_text())
    assert {row["peer"] for row in written} == peers
    for row in written:
        assert set(row) == KEYS
        assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"])
        assert row["floor_s"] > 0


def test_our_crop_and_monais_differ_by_the_stores_rounding_only(subjects, tmp_path):
    entries = prepare(subjects, CONFIG.recipe, tmp_path, n_jobs=1).entries
    for subject in subjects:
        # Half a step of rounding, and as much again at most for MONAI's float32 mean and standard deviation.
        assert loading.largest_difference_in_steps(entries[subject.id], subject, CONFIG) < 1


def test_unequal_labels_are_noticed(subjects, tmp_path):
    entries = prepare(subjects, CONFIG.recipe, tmp_path, n_jobs=1).entries
    with pytest.raises(ValueError, match="labels"):
        loading.largest_difference_in_steps(entries["A_0"], subjects[1], CONFIG)


def test_training_samples(subjects, tmp_path):
    pytest.importorskip("torchio")
    entries = list(prepare(subjects, CONFIG.recipe, tmp_path, n_jobs=1).entries.values())
    rows = loading.time_samples(subjects, entries, CONFIG, repeats=1)
    kinds = {"", " PersistentDataset", " CacheDataset", " CacheDataset, no copy"}
    check(rows, tmp_path / "rows.json", {f"MONAI{kind}" for kind in kinds} | {"TorchIO"})
    assert set(loading.memory_per_subject(subjects, entries, CONFIG)) == {"ours", "MONAI CacheDataset"}


def test_augmented_crops(subjects, tmp_path):
    entries = list(prepare(subjects, CONFIG.recipe, tmp_path / "store", n_jobs=1).entries.values())
    config = replace(augmentation.CONFIG, crop_voxels=(32, 32, 32))
    rows = augmentation.time_crops(subjects, entries, config, n_crops=3, repeats=1)
    kinds = ("PersistentDataset", "CacheDataset", "CacheDataset, no copy")
    check(rows, tmp_path / "rows.json", {f"MONAI {kind}" for kind in kinds})
    for work in augmentation.monai(subjects, config, tmp_path / "cache").values():
        sample = work()
        assert (sample["image"].shape, sample["labels"].shape) == ((4, 32, 32, 32), (1, 32, 32, 32))


def test_loading_without_its_extra_says_so(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"TorchIO.*benchmarks\]"):
        loading.main(loading.Options())


def test_every_side_gives_samples_of_one_form(subjects, tmp_path):
    pytest.importorskip("torchio")
    entries = list(prepare(subjects, CONFIG.recipe, tmp_path / "store", n_jobs=1).entries.values())
    sides = [loading.ours(entries, CONFIG), loading.items(loading.TorchIO(subjects, CONFIG))]
    sides += [loading.items(dataset) for dataset in loading.monai(subjects, CONFIG, tmp_path / "cache").values()]
    for side in sides:
        for _ in range(3):
            sample = side()
            assert sample["image"].shape == (4, *CONFIG.crop_voxels)
            assert sample["image"].dtype == torch.float32
            assert sample["labels"].squeeze().shape == CONFIG.crop_voxels


def test_preparing(subjects, tmp_path):
    check(loading.time_preparing(subjects, CONFIG, repeats=1), tmp_path / "rows.json", {"nibabel decoding"})


def test_training_step(tmp_path):
    rows = segresnet_step.time_step(CONFIG, CPU, repeats=1)
    check(rows, tmp_path / "rows.json", {"PyTorch and MONAI"})


@pytest.mark.parametrize("network", ["segresnet", "segresnet_ds"])
def test_training_step_in_bfloat16(tmp_path, network):
    rows = segresnet_step.time_bfloat16(replace(CONFIG, network=network, batch_size=2, dropout=0.0), repeats=1)
    check(rows, tmp_path / "rows.json", {"ours in float32", "bfloat16, PyTorch's normalisation"})


def test_memory_that_a_step_keeps_is_counted_by_shapes():
    """One convolution, two bytes a value: its input alone, which the first layer has in float32 and in bfloat16."""

    class Single(steps.Step):
        def loss(self, batch):
            return self.network(batch["image"]).sum()

    image = torch.zeros(2, 4, 8, 8, 8)
    single = Single(torch.nn.Conv3d(4, 8, 3, bias=False), CONFIG, CPU, fused=False, bfloat16=True)
    assert steps.kept_gib(single, {"image": image}) * 2**30 == image.numel() * 2
    assert segresnet_step.kept_memory_gib(replace(CONFIG, batch_size=4)) == pytest.approx(
        4 * segresnet_step.kept_memory_gib(CONFIG)
    )


def test_steps_from_the_same_weights_stay_together():
    ours, peer = segresnet_step.Ours(CONFIG, CPU), segresnet_step.Monai(CONFIG, CPU)
    data = segresnet_step.batch(CONFIG, CPU)
    for step in range(2):
        torch.manual_seed(step)
        own = ours.step(data)
        torch.manual_seed(step)
        assert float(own) == pytest.approx(float(peer.step(data)), abs=steps.LOSS_TOLERANCE)


def test_flops_of_a_convolution():
    # Every output voxel takes one product and one sum per weight: 2 x 8 channels x 4 channels x 27 x 5 x 5 x 5.
    image, weight = torch.empty(1, 4, 7, 7, 7, device="meta"), torch.empty(8, 4, 3, 3, 3, device="meta")
    assert basis.flops(lambda: torch.nn.functional.conv3d(image, weight)) == 2 * 8 * 4 * 27 * 125


@pytest.mark.parametrize("spacing_mm", [None, 1.5])
def test_prediction(subjects, tmp_path, spacing_mm):
    config = replace(CONFIG, spacing_mm=spacing_mm)
    entries = prepare(subjects, config.recipe, tmp_path, n_jobs=1).entries
    subject, network = subjects[0], build(config).eval()
    rows = inference.time_subject(subject, entries[subject.id], network, config, 1, trained=True)
    check(rows, tmp_path / "rows.json", {"MONAI, full grid"})


def test_both_predictions_are_equal_where_the_box_is_the_grid(subjects, tmp_path):
    volume = prepare(subjects[:1], CONFIG.recipe, tmp_path, n_jobs=1).entries["A_0"].open()
    whole = replace(volume, voxels=volume.window((0, 0, 0), volume.grid_shape), box_start=(0, 0, 0))
    peer = segresnet_step.monai_network(CONFIG).eval()
    theirs = inference.predict_full_grid(peer, inference.full_grid(volume), volume, CONFIG)
    own = inference.predict_volume(build(CONFIG).eval(), whole, CONFIG)
    # Sums of another order: a probability at the threshold may fall to either side.
    assert np.mean(own != theirs) < 1e-3


def test_options_change_the_network():
    default, changed = inference.Options(), inference.Options(filters=16, window=32, spacing_mm=3.0)
    assert inference.configuration(default, CPU)[1] == inference.CPU
    config = inference.configuration(changed, CPU)[1]
    assert (config.initial_filters, config.crop_voxels, config.spacing_mm) == (16, (32, 32, 32), 3.0)

"""The benchmarks of this package at a tiny size: they run and their sides agree. No time is asserted."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from benchmarks import basis, resnet10_step, slices_loading, steps  # noqa: E402
from mgmt_classifier.config import Config  # noqa: E402
from mgmt_classifier.data import prepare  # noqa: E402

CPU = torch.device("cpu")
# MONAI warns of a DICOM decoder that nothing here uses.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch):
    """Floors of a machine of 100 GFLOP/s and 10 GB/s: measuring the real one takes seconds."""
    monkeypatch.setattr(basis, "product_rate", lambda device, dtype: 1e11)
    monkeypatch.setattr(basis, "copy_rate", lambda: 1e10)


@pytest.mark.parametrize("slices", ["central", "tumour"])
def test_a_prepared_sample_is_that_of_the_series_files(patients, tmp_path, slices):
    config = Config(images=5, image_size=(32, 32), slices=slices, percentile=90.0)
    entries = list(prepare(patients[:4], config.recipe, tmp_path, n_jobs=1).entries.values())
    assert slices_loading.largest_difference(patients[:4], entries, config) < 2e-3
    assert slices_loading.largest_difference(patients[1:4] + patients[:1], entries, config) > 0.5


def test_training_samples(patients):
    (row,) = slices_loading.time_samples("sample", patients[:2], Config(images=5, image_size=(32, 32)), repeats=1)
    assert row.floor_s == pytest.approx(6 * 5 * 32 * 32 / 1e10)
    assert row.ratio == pytest.approx(row.peer_s / row.ours_s)


def test_patients_that_cannot_be_prepared_are_named(patients):
    with pytest.raises(ValueError, match="expected at least 15 images, found 9"):
        slices_loading.time_samples("sample", patients[:1], Config(), repeats=1)


def test_training_step(tiny, monkeypatch):
    monkeypatch.setattr(resnet10_step, "peak_memory", lambda side, config, device: 1.0)
    (row,) = resnet10_step.time_step(replace(tiny, images=9), CPU, repeats=1)
    assert row.floor_s > 0
    assert row.name == "4 filters, stride 2, 9x32x32, batch 4, cpu"


def test_steps_from_the_same_weights_stay_together(tiny):
    # stride 1: MONAI's own convolution has no right gradient over 5 images with stride 2 (mgmt_classifier.model)
    config = replace(tiny, first_stride=1)
    ours, peer = resnet10_step.Ours(config, CPU), resnet10_step.Monai(config, CPU)
    data = resnet10_step.batch(config, CPU)
    losses = [(float(ours.step(data)), float(peer.step(data))) for _ in range(3)]
    assert losses == [pytest.approx(pair[::-1], abs=steps.LOSS_TOLERANCE) for pair in losses]
    assert losses[2][0] < losses[0][0]


@pytest.mark.slow
def test_a_fresh_process_measures_its_own_peak(tiny):
    assert 0.1 < resnet10_step.peak_memory("ours", tiny, CPU) < 4


def test_the_sizes_of_the_comparisons():
    sizes = [
        (c.filters, c.images, c.image_size, c.batch_size) for c in resnet10_step.cases(resnet10_step.Options(), CPU)
    ]
    assert sizes[0] == (8, 15, (64, 64), 8)
    paper = resnet10_step.cases(resnet10_step.Options(paper=True), CPU)[len(sizes) :]
    assert paper == [Config(batch_size=4), Config(batch_size=8)]
    (single,) = resnet10_step.cases(resnet10_step.Options(size=(7, 32, 48), filters=4, batch_size=2), CPU)
    assert single == Config(images=7, image_size=(32, 48), filters=4, batch_size=2)
    assert np.isclose(resnet10_step.step_flops(single) / resnet10_step.step_flops(replace(single, batch_size=4)), 0.5)

"""The benchmark of the Hausdorff loss at a tiny size: it runs, its sides agree. No time is asserted."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from benchmarks import basis, hausdorff  # noqa: E402
from benchmarks.compare import report  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402

CPU = torch.device("cpu")
CONFIG = Config(initial_filters=8, encoder_blocks=(1, 1), decoder_blocks=(1,), crop_voxels=(24, 24, 24))


def test_loss_and_step(monkeypatch, tmp_path):
    monkeypatch.setattr(basis, "product_rate", lambda device, dtype: 1e11)
    rows = hausdorff.time_loss(24, CPU, repeats=1) + hausdorff.time_step(CONFIG, CPU, repeats=1)
    report(rows, tmp_path / "rows.json")
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["peer"] for row in written] == ["MONAI", "Dice loss"]
    assert all(row["ratio"] > 0 and row["floor_s"] > 0 for row in written)


def test_unequal_losses_are_noticed(monkeypatch):
    monkeypatch.setattr(hausdorff, "hausdorff", lambda logits, channels: logits.mean())
    with pytest.raises(ValueError, match=r"expected both losses within 0\.0001"):
        hausdorff.time_loss(24, CPU, repeats=1)


def test_blobs_are_regions_of_the_size_that_is_said():
    inside = hausdorff.blobs(96, 0, CPU) > 0
    assert inside.float().mean().item() == pytest.approx(0.07, abs=0.02)
    # Few neighbours differ, unlike in noise, where a seventh of such pairs would.
    assert (inside[..., 1:] != inside[..., :-1]).float().mean() < 0.03

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segresnet_monai.losses import dice, dice_bce  # noqa: E402


def reference(logits, channels):
    """Dice loss with squared denominators, and mean binary cross entropy, from the definitions in double precision."""
    p = 1 / (1 + np.exp(-logits.astype(float)))
    axes = (2, 3, 4)
    overlap = 2 * (p * channels).sum(axes)
    soft_dice = 1 - overlap / ((p**2).sum(axes) + (channels**2).sum(axes) + 1e-5)
    entropy = -(channels * np.log(p) + (1 - channels) * np.log(1 - p)).mean()
    return soft_dice.mean(), entropy


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_equal_their_definitions(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 5, 6, 7)).astype(np.float32)
    channels = rng.random((2, 3, 5, 6, 7)) < 0.3
    soft_dice, entropy = reference(logits, channels.astype(float))
    arguments = torch.from_numpy(logits), torch.from_numpy(channels)
    assert dice(*arguments).item() == pytest.approx(soft_dice, abs=1e-6)
    assert dice_bce(*arguments).item() == pytest.approx(soft_dice + entropy, abs=1e-6)


def test_every_channel_counts():
    """include_background=False would drop the first channel, which is a tumour label here."""
    logits = torch.full((1, 3, 4, 4, 4), -20.0)
    channels = torch.zeros(1, 3, 4, 4, 4, dtype=torch.bool)
    channels[:, 0, :2] = True
    missed = dice(logits, channels)
    logits[:, 0, :2] = 20.0
    assert missed.item() == pytest.approx(1.0)
    assert dice(logits, channels).item() == pytest.approx(2 / 3, abs=1e-3)


def test_half_precision_sums_do_not_overflow():
    logits = torch.full((1, 3, 64, 64, 64), 5.0, dtype=torch.float16)
    channels = torch.ones(1, 3, 64, 64, 64, dtype=torch.bool)
    assert dice(logits, channels).item() == pytest.approx(0.0, abs=1e-3)

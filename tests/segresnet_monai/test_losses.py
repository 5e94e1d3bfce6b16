from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import log_softmax, softmax

torch = pytest.importorskip("torch")

from monai.losses import GeneralizedWassersteinDiceLoss, HausdorffDTLoss  # noqa: E402

from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.data import to_channels  # noqa: E402
from segresnet_monai.losses import (  # noqa: E402
    DiceHausdorff,
    batch_dice_bce,
    build_loss,
    deeply_supervised,
    dice,
    dice_bce,
    dice_ce_monai,
    gwdl,
    hausdorff,
)

(NAMES,) = (get_args(field.type) for field in fields(Config) if field.name == "loss")

# Fidon et al.'s: background, NCR, ED, ET.
DISTANCES = np.array([[0, 1, 1, 1], [1, 0, 0.6, 0.5], [1, 0.6, 0, 0.7], [1, 0.5, 0.7, 0]])


def smooth(shape, seed):
    """Noise with structures of a few voxels, mean 0 and standard deviation 1."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, 0, 3, 3, 3))
    return (noise / noise.std()).astype(np.float32)


def random_labels(shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, shape, dtype=np.uint8))


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


@pytest.mark.parametrize("seed", [0, 1])
def test_dice_ce_as_monai_has_it_takes_a_softmax_over_the_tumour_channels(seed):
    logits = 2 * smooth((2, 3, 8, 7, 6), seed)
    channels = to_channels(random_labels((2, 8, 7, 6), seed))
    truth = channels.numpy().astype(float)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    axes = (2, 3, 4)
    # MONAI's defaults: no squares, 1e-5 above and below.
    soft_dice = 1 - (2 * (p * truth).sum(axes) + 1e-5) / (p.sum(axes) + truth.sum(axes) + 1e-5)
    entropy = -(truth * log_softmax(logits.astype(float), axis=1)).sum(1).mean()
    value = dice_ce_monai(torch.from_numpy(logits), channels).item()
    assert value == pytest.approx(soft_dice.mean() + entropy, abs=1e-5)
    assert abs(value - dice_bce(torch.from_numpy(logits), channels).item()) > 0.05


def wasserstein(logits, labels):
    """1 - 2 TP / (2 TP + errors) of Fidon et al. (2017), one sample, with labels as whole numbers."""
    p = softmax(logits.astype(float), axis=0)
    error = np.einsum("l...,l...->...", p, np.moveaxis(DISTANCES[labels], -1, 0))
    right = (DISTANCES[labels, 0] * (1 - error)).sum()
    return 1 - 2 * right / (2 * right + error.sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_wasserstein_loss_equals_its_definition_and_monais(seed):
    logits = 2 * smooth((2, 4, 6, 7, 8), seed)
    labels = random_labels((2, 6, 7, 8), seed)
    value = gwdl(torch.from_numpy(logits), to_channels(labels)).item()
    expected = np.mean([wasserstein(*sample) for sample in zip(logits, labels.numpy(), strict=True)])
    assert value == pytest.approx(expected, abs=1e-5)
    theirs = GeneralizedWassersteinDiceLoss(DISTANCES.astype(np.float32))(torch.from_numpy(logits), labels)
    assert value == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("truth", [1, 2, 3])
@pytest.mark.parametrize("said", [0, 1, 2, 3])
def test_wasserstein_loss_knows_which_label_is_which(truth, said):
    """All of n voxels wrong by d: TP = n (1 - d), errors n d, so the loss is 1 - 2 (1 - d) / (2 - d)."""
    labels = torch.full((1, 4, 4, 4), truth, dtype=torch.uint8)
    logits = torch.zeros(1, 4, 4, 4, 4)
    logits[:, said] = 100
    apart = DISTANCES[truth, said]
    value = gwdl(logits, to_channels(labels)).item()
    assert value == pytest.approx(1 - 2 * (1 - apart) / (2 - apart), abs=1e-4)


def hausdorff_pair(seed):
    """Logits and channels of two samples; in the second one truth is empty and one prediction is everywhere."""
    logits, truth = 3 * smooth((2, 3, 20, 24, 28), seed) - 2, smooth((2, 3, 20, 24, 28), seed + 10) > 1
    truth[1, 0] = False
    logits[1, 2] = np.abs(logits[1, 2]) + 0.1
    return torch.from_numpy(logits), torch.from_numpy(truth)


@pytest.mark.parametrize("seed", [0, 1])
def test_hausdorff_loss_and_its_gradient_equal_monais(seed):
    logits, channels = hausdorff_pair(seed)
    found = []
    for loss in (hausdorff, HausdorffDTLoss(alpha=2.0, include_background=True, sigmoid=True)):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, channels.float())
        value.backward()
        found.append((value, leaf.grad))
    assert found[0][0] > 1
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-9)


def test_hausdorff_loss_counted_by_hand():
    """A line of five voxels: truth is the first, prediction the first three, at 0.8 inside and 0.2 outside.

    Squared distances to the truth's boundary 1, 1, 4, 9, 16, to the prediction's 9, 4, 1, 1, 4; squared errors 0.04,
    0.64, 0.64, 0.04, 0.04. The other two channels are right and sure.
    """
    truth = torch.zeros(1, 3, 5, 1, 1, dtype=torch.bool)
    truth[0, 0, 0] = True
    logits = torch.full((1, 3, 5, 1, 1), -100.0)
    logits[0, 0, :, 0, 0] = np.log(4.0) * torch.tensor([1.0, 1, 1, -1, -1])
    expected = (0.04 * 10 + 0.64 * 5 + 0.64 * 5 + 0.04 * 10 + 0.04 * 20) / 15
    assert hausdorff(logits, truth).item() == pytest.approx(expected, rel=1e-5)


def test_hausdorff_and_dice_loss_count_the_same_on_average_over_the_epoch_before():
    pairs = [hausdorff_pair(seed) for seed in range(4)]
    parts = np.array([[loss(*pair).item() for loss in (hausdorff, dice)] for pair in pairs])
    both = DiceHausdorff()
    both.start_epoch()
    # No epoch before: both parts of each step are equal.
    assert [both(*pair).item() for pair in pairs[:3]] == pytest.approx(2 * parts[:3, 0])
    both.start_epoch()
    weight = parts[:3, 0].mean() / parts[:3, 1].mean()
    assert both(*pairs[3]).item() == pytest.approx(parts[3, 0] + weight * parts[3, 1])
    both.start_epoch()
    weight = parts[3, 0] / parts[3, 1]
    assert both(*pairs[0]).item() == pytest.approx(parts[0, 0] + weight * parts[0, 1])


def test_the_weight_of_the_dice_loss_has_no_gradient():
    logits, channels = hausdorff_pair(0)
    gradients = []
    weight = (hausdorff(logits, channels) / dice(logits, channels)).item()
    for loss in (DiceHausdorff(), lambda *pair: hausdorff(*pair) + weight * dice(*pair)):
        leaf = logits.clone().requires_grad_()
        loss(leaf, channels).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-9)


def test_an_epoch_without_any_error_leaves_the_loss_finite():
    channels = to_channels(random_labels((1, 12, 12, 12), 0))
    logits = 200 * channels.float() - 100
    both = DiceHausdorff()
    for _ in range(2):
        both.start_epoch()
        assert both(logits, channels).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_whatever_is_empty_and_in_half_precision(name):
    channels = to_channels(random_labels((2, 6, 7, 8), 0))
    channels[1] = False
    n = 4 if name == "gwdl" else 3
    for logits in (smooth((2, n, 6, 7, 8), 1), np.full((2, n, 6, 7, 8), -30, np.float32)):
        leaf = torch.from_numpy(logits).half().requires_grad_()
        loss = build_loss(name)(leaf, channels)
        assert loss.dtype == torch.float32
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    logits = torch.from_numpy(smooth((1, 4 if name == "gwdl" else 3, 8, 8, 8), 3))
    channels = to_channels(random_labels((1, 8, 8, 8), 3))
    expected = build_loss(name)(logits, channels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(build_loss(name)(logits, channels), expected, rtol=0, atol=0)


def batch_reference(logits, channels):
    p = 1 / (1 + np.exp(-logits.astype(float)))
    axes = (0, 2, 3, 4)
    soft = 1 - (2 * (p * channels).sum(axes) + 1e-5) / (p.sum(axes) + channels.sum(axes) + 1e-5)
    return soft.mean() - (channels * np.log(p) + (1 - channels) * np.log(1 - p)).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_batch_dice_is_that_of_all_samples_together(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 5, 6, 7)).astype(np.float32)
    channels = rng.random((2, 3, 5, 6, 7)) < 0.3
    channels[1, 0] = False
    found = batch_dice_bce(torch.from_numpy(logits), torch.from_numpy(channels)).item()
    assert found == pytest.approx(batch_reference(logits, channels.astype(float)), abs=1e-6)


def test_each_level_of_a_deeply_supervised_network_weighs_half_of_the_one_above():
    rng = np.random.default_rng(2)
    channels = np.repeat(np.repeat(np.repeat(rng.random((2, 3, 3, 4, 2)) < 0.4, 4, 2), 4, 3), 4, 4)
    outputs = [rng.normal(size=(2, 3, 12 // n, 16 // n, 8 // n)).astype(np.float32) for n in (1, 2, 4)]
    expected = sum(
        weight * batch_reference(logits, channels[..., ::n, ::n, ::n].astype(float))
        for logits, n, weight in zip(outputs, (1, 2, 4), (1, 0.5, 0.25), strict=True)
    )
    loss = deeply_supervised(batch_dice_bce)
    found = loss([torch.from_numpy(logits) for logits in outputs], torch.from_numpy(channels))
    assert found.item() == pytest.approx(expected, abs=1e-5)

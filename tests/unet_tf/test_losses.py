"""Losses and metrics against numpy and MONAI."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from unet_tf import losses  # noqa: E402

OF_PROBABILITIES = ("cross_entropy", "dice_focal")
NAMES = ("cross_entropy", "dice", "focal", "dice_focal", "accuracy", "mean_dice")
SHAPE = (2, 5, 6, 7)


def drawn(seed, classes=(0, 1, 2, 3), shape=SHAPE):
    """Labels of these classes and softmax probabilities of all four."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (*shape, 4))
    probabilities = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return rng.choice(classes, shape).astype(np.uint8), probabilities.astype(np.float32)


def value(name, labels, probabilities):
    return float(keras.ops.convert_to_numpy(getattr(losses, name)(labels, probabilities)))


def reference(name, labels, probabilities):
    """From the definitions, in double precision, one subject, class and voxel after the other."""
    p = probabilities.astype(np.float64)
    true = np.array([q[c] for q, c in zip(p.reshape(-1, 4), labels.ravel(), strict=True)])
    if name == "cross_entropy":
        return -np.log(true).mean()
    if name == "focal":
        return -((1 - true) ** 2 * np.log(true)).mean()
    if name == "accuracy":
        return np.mean([np.argmax(q) == c for q, c in zip(p.reshape(-1, 4), labels.ravel(), strict=True)])
    found = []
    for truth, guess in zip(labels, p, strict=True):
        for c in range(4):
            if name == "dice":
                total = (truth == c).sum() + guess[..., c].sum()
                found.append(1 - (2 * guess[truth == c][:, c].sum() + 1e-5) / (total + 1e-5))
            elif c:
                decoded = guess.argmax(-1) == c
                total = decoded.sum() + (truth == c).sum()
                found.append(2 * (decoded & (truth == c)).sum() / total if total else 1.0)
    return np.mean(found)


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (0, 2), (0,), (1, 3)])
@pytest.mark.parametrize("name", ["cross_entropy", "dice", "focal", "accuracy", "mean_dice"])
def test_values_equal_their_definitions(name, classes):
    for seed in (0, 1):
        drawing = drawn(seed, classes)
        assert value(name, *drawing) == pytest.approx(reference(name, *drawing), abs=2e-6)


def test_dice_focal_is_the_sum_of_both():
    drawing = drawn(0)
    assert value("dice_focal", *drawing) == pytest.approx(
        reference("dice", *drawing) + reference("focal", *drawing), abs=2e-6
    )


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (0, 2), (0,)])
def test_dice_equals_monais(classes):
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.losses")
    labels, probabilities = drawn(2, classes)
    truth = torch.from_numpy(np.moveaxis(np.eye(4, dtype=np.float32)[labels], -1, 1).copy())
    guess = torch.from_numpy(np.moveaxis(probabilities, -1, 1).copy())
    assert value("dice", labels, probabilities) == pytest.approx(monai.DiceLoss()(guess, truth).item(), abs=1e-6)


def test_focal_is_monais_summed_over_classes():
    """MONAI averages over classes too, of which only the true one is not zero."""
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.losses")
    labels, probabilities = drawn(3)
    scores = torch.from_numpy(np.moveaxis(np.log(probabilities), -1, 1).copy())  # whose softmax they are
    theirs = monai.FocalLoss(include_background=True, to_onehot_y=True, use_softmax=True, gamma=2.0)
    expected = 4 * theirs(scores, torch.from_numpy(labels.astype(np.int64))[:, None]).item()
    assert value("focal", labels, probabilities) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_slices_count_as_one_subject(name):
    labels, probabilities = drawn(4, shape=(5, 6, 7))
    assert value(name, labels, probabilities) == pytest.approx(value(name, labels[None], probabilities[None]), abs=1e-6)


def test_subjects_are_averaged_and_not_pooled():
    """A large tumour must not hide a small one: Dice 1 and 0 of two subjects are 1/2."""
    labels = np.zeros((2, 6, 6, 6), np.uint8)
    labels[0, :4], labels[1, 0, 0, 0] = 2, 2
    guess = labels.copy()
    guess[1] = 0
    expected = np.mean([[1, 1, 1], [1, 0, 1]])  # NCR and ET are rightly not found
    assert value("mean_dice", labels, np.eye(4, dtype=np.float32)[guess]) == pytest.approx(expected)


def test_a_class_that_is_found_where_there_is_none_counts_zero():
    labels = np.zeros((1, 4, 4, 4), np.uint8)
    guess = labels.copy()
    guess[0, 0, 0, 0] = 3
    assert value("mean_dice", labels, np.eye(4, dtype=np.float32)[guess]) == pytest.approx(2 / 3)


def test_a_perfect_prediction_loses_nothing():
    labels, _ = drawn(5)
    perfect = np.eye(4, dtype=np.float32)[labels]
    assert [value(name, labels, perfect) for name in NAMES] == pytest.approx([0, 0, 0, 0, 1, 1], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_probabilities_are_taken_as_they_are_and_summed_in_float32(name, dtype):
    labels, probabilities = drawn(6)
    half = keras.ops.cast(probabilities, dtype)
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(half, "float32"))
    result = getattr(losses, name)(labels, half)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    assert float(keras.ops.convert_to_numpy(result)) == pytest.approx(value(name, labels, rounded), abs=1e-6)


def test_sums_over_many_half_precision_voxels_do_not_overflow():
    labels = np.zeros((1, 48, 48, 48), np.uint8)  # 110 592 voxels; float16 ends at 65 504
    half = keras.ops.cast(np.eye(4, dtype=np.float32)[labels], "float16")
    assert value("dice", labels, half) == pytest.approx(0, abs=1e-6)


def of_regions(seed):
    """Labels of which one sample lacks ET, and logits of ET, TC and WT, some of them far beyond a sigmoid's range."""
    labels, _ = drawn(seed)
    labels[0][labels[0] == 3] = 2
    logits = np.random.default_rng(seed).normal(0, 3, (*SHAPE, 3)).astype(np.float32)
    logits[:, 0, 0] = np.array([60.0, -60.0, 200.0], np.float32)
    return labels, logits


def test_batch_dice_bce_and_its_gradient_equal_the_segresnets():
    """Whose Dice is MONAI's of the batch, and whose channels are made by its own code."""
    torch = pytest.importorskip("torch")
    from segresnet_monai.data import to_channels
    from segresnet_monai.losses import batch_dice_bce

    labels, logits = of_regions(8)
    theirs = torch.from_numpy(np.moveaxis(logits, -1, 1).copy())
    expected = batch_dice_bce(theirs, to_channels(torch.from_numpy(labels), "regions"))
    assert value("batch_dice_bce", labels, logits) == pytest.approx(expected.item(), rel=1e-5)
    slices = (values.reshape(-1, *SHAPE[2:], *values.shape[4:]) for values in (labels, logits))
    assert value("batch_dice_bce", *slices) == pytest.approx(expected.item(), rel=1e-5)
    found = gradient("batch_dice_bce", labels[:1], logits[:1])
    alone = torch.from_numpy(np.moveaxis(logits[:1], -1, 1).copy()).requires_grad_()
    batch_dice_bce(alone, to_channels(torch.from_numpy(labels[:1]), "regions")).backward()
    wanted = np.moveaxis(alone.grad.numpy(), 1, -1)
    unchanged = np.abs(logits[:1]) < 30  # elsewhere a step of this size is lost in the weight's last bit
    np.testing.assert_allclose(found[unchanged], wanted[unchanged], rtol=1e-3, atol=1e-6)
    assert np.abs(wanted[unchanged]).max() > 1e-4


class Table(keras.layers.Layer):
    """Probabilities that are the weights themselves, so that a step of 1 shows the gradient."""

    def __init__(self, values):
        super().__init__()
        self.table = self.add_weight(shape=values.shape, initializer="zeros")
        self.table.assign(values)

    def call(self, x):
        return 0 * x + self.table


def gradient(name, labels, probabilities):
    table = Table(probabilities)
    network = keras.Sequential([keras.Input(probabilities.shape[1:]), table])
    network.compile(keras.optimizers.SGD(1.0), loss=getattr(losses, name), jit_compile=False)
    network.train_on_batch(np.zeros_like(probabilities), labels)
    return probabilities - keras.ops.convert_to_numpy(table.table)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_gradients_are_finite_where_probabilities_are_0_and_1(name):
    labels = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2) % 4
    right, wrong = np.eye(4, dtype=np.float32)[labels], np.eye(4, dtype=np.float32)[(labels + 1) % 4]
    for probabilities in (right, wrong):
        assert np.isfinite(gradient(name, labels, probabilities)).all()


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_gradients_equal_differences_of_the_definition(name):
    labels, probabilities = drawn(7, shape=(1, 2, 2, 3))
    found, parts = gradient(name, labels, probabilities), ("dice", "focal") if name == "dice_focal" else (name,)
    for index in ((0, 0, 0, 0), (0, 1, 1, 2), (0, 1, 0, 1)):
        for c in range(4):
            ends = []
            for change in (1e-4, -1e-4):
                moved = probabilities.astype(np.float64)
                moved[(*index, c)] += change
                ends.append(sum(reference(part, labels, moved) for part in parts))
            assert found[(*index, c)] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-5)

"""The network: size, outputs, seeds, operations, and the same predictions on every backend."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from unet_tf.model import build_unet, convolutions  # noqa: E402

SMALL = {"filters": 2, "levels": 2}
PROGRAM = """
import sys
import keras, numpy as np
from unet_tf.config import Config
from unet_tf.model import build_unet
from unet_tf.train import averaged, compiled
folder = sys.argv[1]
for dims in (2, 3):
    network = build_unet(spatial_dims=dims, filters=4, levels=2, seed=9)
    np.savez(f"{folder}/{keras.backend.backend()}{dims}.npz", *network.get_weights())
    network.load_weights(f"{folder}/{dims}.weights.h5")
    np.save(f"{folder}/{keras.backend.backend()}{dims}.npy", network.predict_on_batch(np.load(f"{folder}/{dims}.npy")))
config = Config(crop_voxels=(8, 8, 8), weight_average=0.9, patience=None, filters=2, levels=1)
network = compiled(config)
image = np.random.default_rng(0).random((1, 8, 8, 8, 4), np.float32)
network.train_on_batch(image, np.zeros((1, 8, 8, 8), np.uint8))
found = []
for _ in range(2):
    with averaged(network, config):
        found += [network.predict_on_batch(image) for _ in range(2)]
assert all(np.array_equal(found[0], other) for other in found)
"""


def image_for(dims, batch=2, side=12, channels=4, seed=0):
    return np.random.default_rng(seed).random((batch, *[side] * dims, channels)).astype(np.float32)


def parameters(dims, in_channels, filters, levels):
    """Kernel voxels times channels, and one bias per filter, layer by layer."""

    def convolution(i, o, kernel=3):
        return kernel**dims * i * o + o

    def block(i, o):
        return convolution(i, o) + convolution(o, o)

    widths = [filters * 2**level for level in range(levels + 1)]
    down = sum(block(i, o) for i, o in zip([in_channels, *widths], widths, strict=False))
    up = sum(convolution(2 * o, o, kernel=2) + block(2 * o, o) for o in widths[:-1])
    return down + up + convolution(filters, 4, kernel=1)


@pytest.mark.parametrize(("dims", "channels", "stated"), [(3, 4, 5_646_260), (2, 6, 1_941_588)])
def test_size_is_that_of_the_docstring(dims, channels, stated):
    network = build_unet(spatial_dims=dims, in_channels=channels, filters=16, levels=4)
    assert network.count_params() == parameters(dims, channels, 16, 4) == stated
    assert f"{stated:,}".replace(",", " ") in build_unet.__doc__


@pytest.mark.parametrize("dims", [2, 3])
def test_probabilities_have_the_shape_of_the_image_and_sum_to_one(dims):
    found = build_unet(spatial_dims=dims, in_channels=3, **SMALL).predict_on_batch(image_for(dims, channels=3))
    assert found.shape == (2, *[12] * dims, 4)
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_one_network_takes_any_sides_that_its_levels_divide():
    network = build_unet(**SMALL)
    assert network.predict_on_batch(np.zeros((1, 8, 12, 4, 4), np.float32)).shape == (1, 8, 12, 4, 4)


@pytest.mark.parametrize("dims", [2, 3])
def test_normalised_a_brighter_scan_is_the_same_and_another_sample_of_the_step_changes_nothing(dims):
    images = image_for(dims) - 0.5
    plain, normalised = (build_unet(spatial_dims=dims, normalisation=kind, **SMALL) for kind in ("none", "instance"))
    found = normalised.predict_on_batch(images)
    # without biases, which start at 0, a gain passes convolutions and ReLUs as it is
    np.testing.assert_allclose(normalised.predict_on_batch(100 * images), found, atol=0.02)
    assert np.abs(plain.predict_on_batch(100 * images) - plain.predict_on_batch(images)).max() > 0.2
    np.testing.assert_allclose(normalised.predict_on_batch(images[:1]), found[:1], atol=1e-5)


def test_half_precision_computes_in_bfloat16_and_says_float32():
    network = build_unet(precision="mixed_bfloat16", **SMALL)
    found = network.predict_on_batch(image_for(3))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    assert {layer.compute_dtype for layer in network.layers if layer.weights} == {"bfloat16"}
    assert {w.dtype for w in network.weights} == {"float32"}
    full = build_unet(**SMALL).predict_on_batch(image_for(3))
    assert 0 < np.abs(found - full).max() < 0.1


def test_weights_are_a_function_of_the_seed_alone():
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        keras.utils.set_random_seed(number)
        weights.append(build_unet(seed=seed, **SMALL).get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    kernels = [(a, b) for a, b in zip(weights[0], weights[2], strict=True) if a.ndim > 1]
    assert not any(np.array_equal(a, b) for a, b in kernels)


def test_no_two_layers_start_with_the_same_weights():
    kernels = [w for w in build_unet(filters=2, levels=3).get_weights() if w.ndim > 1]
    for number, one in enumerate(kernels):
        for other in kernels[:number]:
            assert one.shape != other.shape or not np.allclose(one, other)


def test_dropout_acts_in_training_only():
    network, image = build_unet(dropout=0.5, **SMALL), image_for(3)
    training = [keras.ops.convert_to_numpy(network(image, training=True)) for _ in range(2)]
    assert np.abs(training[0] - training[1]).max() > 1e-3
    np.testing.assert_array_equal(*[network.predict_on_batch(image) for _ in range(2)])


def test_convolutions_of_a_small_network_equal_a_count_by_hand():
    """One level, two filters, 8 x 8 x 8: 512 voxels outside, 64 in the bottom block."""
    found = convolutions(build_unet(filters=2, levels=1), (8, 8, 8, 4))
    by_hand = [
        (512, 27, 4, 2),
        (512, 27, 2, 2),
        (64, 27, 2, 4),
        (64, 27, 4, 4),
        (64, 8, 4, 2),  # transposed: its kernel is applied at each voxel of its input
        (512, 27, 4, 2),
        (512, 27, 2, 2),
        (512, 1, 2, 4),
    ]
    described = [(c.positions, int(np.prod(c.kernel)), c.in_channels, c.out_channels) for c in found]
    assert sorted(described) == sorted(by_hand)
    assert sum(c.flop for c in found) == 2 * sum(p * k * i * o for p, k, i, o in by_hand)


@pytest.mark.parametrize("dims", [2, 3])
def test_operations_equal_those_that_torch_counts(dims):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    plain = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dims]
    transposed = {2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}[dims]
    pool = {2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}[dims]

    def block(x, width):
        x = plain(x.shape[1], width, 3, padding=1, device="meta")(x)
        return plain(width, width, 3, padding=1, device="meta")(x)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        first = block(torch.empty(1, 6, *[16] * dims, device="meta"), 4)
        second = block(pool(first, 2), 8)
        x = block(pool(second, 2), 16)
        for width, skip in ((8, second), (4, first)):
            x = transposed(2 * width, width, 2, stride=2, device="meta")(x)
            x = block(torch.cat([skip, x], 1), width)
        plain(4, 4, 1, device="meta")(x)
    network = build_unet(spatial_dims=dims, in_channels=6, filters=4, levels=2)
    assert sum(c.flop for c in convolutions(network, (*[16] * dims, 6))) == counter.get_total_flops()


@pytest.fixture(scope="module")
def on_other_backends(tmp_path_factory):
    """Predictions of the same weights for the same images: here, and in a process for each other backend."""
    folder = tmp_path_factory.mktemp("backends")
    here, others = keras.backend.backend(), {}
    for dims in (2, 3):
        network = build_unet(spatial_dims=dims, filters=4, levels=2, seed=4)
        network.save_weights(folder / f"{dims}.weights.h5")
        np.save(folder / f"{dims}.npy", image_for(dims))
        np.save(folder / f"{here}{dims}.npy", network.predict_on_batch(image_for(dims)))
    for name in {"tensorflow", "torch", "jax"} - {here}:
        if importlib.util.find_spec(name):
            others[name] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(folder)],
                env={**os.environ, "KERAS_BACKEND": name},
                cwd=Path(__file__).parents[2],
                stderr=subprocess.PIPE,
                text=True,
            )
    said = {name: process.communicate()[1] for name, process in others.items()}
    assert not any(process.returncode for process in others.values()), said
    return folder, here, set(others)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_predictions_are_the_same_on_every_backend(on_other_backends, backend, dims):
    folder, here, others = on_other_backends
    if backend not in others:
        pytest.skip(f"{backend} is not installed, or runs these tests")
    expected, found = (np.load(folder / f"{name}{dims}.npy") for name in (here, backend))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_initial_weights_are_the_same_on_every_backend(on_other_backends, backend, dims):
    folder, _, others = on_other_backends
    if backend not in others:
        pytest.skip(f"{backend} is not installed, or runs these tests")
    expected = build_unet(spatial_dims=dims, filters=4, levels=2, seed=9).get_weights()
    with np.load(folder / f"{backend}{dims}.npz") as found:
        for number, weights in enumerate(expected):
            np.testing.assert_array_equal(found[f"arr_{number}"], weights)


def test_initial_weights_have_hes_spread():
    """Variance 2 / inputs, so that ReLU layers keep the size of what passes through them."""
    network = build_unet(filters=16, levels=2)
    layer = max((each for each in network.layers if hasattr(each, "kernel")), key=lambda each: each.kernel.shape[-1])
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    assert kernel.shape == (3, 3, 3, 32, 64)
    assert kernel.var() == pytest.approx(2 / (27 * 32), rel=0.03)
    assert abs(kernel.mean()) < 1e-3


@pytest.mark.parametrize("probability", [0.01, 0.2])
def test_the_untrained_network_gives_tumour_labels_the_probability_asked_for(probability):
    network = build_unet(spatial_dims=2, filters=4, levels=2, seed=3, initial_probability=probability)
    predicted = np.asarray(network(np.zeros((1, 8, 8, 4), np.float32)))  # zeros leave the biases alone
    np.testing.assert_allclose(
        predicted, np.broadcast_to([1 - 3 * probability] + [probability] * 3, predicted.shape), rtol=1e-5
    )

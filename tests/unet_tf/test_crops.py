"""Random crops and regions: the SegResNet's recipe on a U-Net, against what the SegResNet itself does with it."""

import os
from dataclasses import replace

import numpy as np
import pytest

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from monai.inferers import sliding_window_inference  # noqa: E402

import segresnet_monai.inference as theirs  # noqa: E402
from common.augmentation import OTHER_SCANNERS  # noqa: E402
from common.runs import Run  # noqa: E402
from segresnet_monai.config import Config as SegResNet  # noqa: E402
from segresnet_monai.data import training_loader  # noqa: E402
from segresnet_monai.train import learning_rate as their_rate  # noqa: E402
from unet_tf import inference, windows  # noqa: E402
from unet_tf.config import Config  # noqa: E402
from unet_tf.data import Batches, as_input, as_labels  # noqa: E402
from unet_tf.train import averaged, compiled, fit, learning_rate  # noqa: E402

SHARED = {
    "crop_voxels": (16, 24, 16),
    "crop_from": "brain",
    "label_crop_probability": 0.5,
    "flip_probabilities": (0.5, 0.5, 0.0),
    "intensity_shift_sd": 0.1,
    "augmentation": replace(OTHER_SCANNERS, gamma_probability=1.0, noise_probability=0.5),
    "crops_per_epoch": 7,
    "targets": "regions",
    "loss": "batch_dice_bce",
    "dropout": 0.2,
    "initial_probability": 0.05,
    "learning_rate": 1e-2,
    "weight_decay": 1e-3,
    "warmup_epochs": 2,
    "gradient_norm": 1.0,
    "weight_average": 0.9,
    "batch_size": 2,
    "epochs": 5,
    "validate_every": 2,
    "window_weights": "gaussian",
    "average_flips": True,
    "seed": 3,
}
CONFIG = Config(**SHARED, intensity="zscore", schedule="cosine", patience=None, filters=2, levels=2)
SLICES = replace(CONFIG, spatial_dims=2, context=1)
SEGRESNET = SegResNet(**SHARED, encoder_blocks=(1, 1), decoder_blocks=(1,), workers=0)


@pytest.fixture(scope="module")
def entries(entries_of):
    assert CONFIG.recipe == SEGRESNET.recipe
    return entries_of(CONFIG)


@pytest.mark.parametrize("config", [CONFIG, SLICES], ids=["3D", "2.5D"])
def test_batches_are_the_segresnets_bit_for_bit(entries, config):
    loader, batches = training_loader(entries, SEGRESNET), Batches(entries, config, shuffle=True)
    for epoch in (0, 3):
        loader.batch_sampler.sampler.set_epoch(epoch)
        batches.epoch = epoch
        wanted = list(loader)
        assert len(batches) == len(wanted) == 4
        for step, batch in enumerate(wanted):
            images, labels = batches[step]
            samples = list(zip(batch["image"].numpy(), batch["labels"].numpy(), strict=True))
            np.testing.assert_array_equal(images, np.concatenate([as_input(image, config) for image, _ in samples]))
            np.testing.assert_array_equal(labels, np.concatenate([as_labels(each, config) for _, each in samples]))
    assert any(batch["labels"].any() for batch in wanted)


def test_layouts_hold_every_voxel_once():
    image = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(np.moveaxis(as_input(image, CONFIG)[0], -1, 0), image)
    slices = as_input(image, SLICES)  # (z, x, y, below/centre/above x contrast)
    for z in range(5):
        for k, neighbour in enumerate((max(z - 1, 0), z, min(z + 1, 4))):
            np.testing.assert_array_equal(slices[z, ..., 2 * k : 2 * k + 2], image[..., neighbour].transpose(1, 2, 0))


def test_the_learning_rate_is_the_segresnets():
    for warmup in (0, 2):
        ours, other = (replace(each, warmup_epochs=warmup, epochs=9) for each in (CONFIG, SEGRESNET))
        assert [learning_rate(ours, e) for e in range(9)] == [their_rate(other, e) for e in range(9)]
    assert learning_rate(Config(), 50) == Config().learning_rate


def test_the_average_of_the_weights_is_that_of_every_step_with_the_same_start(entries):
    network, batches = compiled(CONFIG), Batches(entries, CONFIG, shuffle=True)
    average = None
    for step in range(4):
        network.train_on_batch(*batches[step])
        weights = [value.astype(np.float64) for value in network.get_weights()]
        decay = min(0.9, (1 + step) / (10 + step))
        average = (
            weights
            if average is None
            else [decay * old + (1 - decay) * new for old, new in zip(average, weights, strict=True)]
        )
    with averaged(network, CONFIG):
        for found, wanted in zip(network.get_weights(), average, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    for found, wanted in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
    assert not np.allclose(weights[0], average[0], atol=1e-4)


def test_a_step_is_torchs_adamw_on_shortened_gradients():
    """Up to epsilon, which the two put at other places."""
    start = np.array([3.0, -4.0, 0.5], np.float32)
    gradients = [np.array(g, np.float32) for g in ([3.0, 4.0, 0.0], [0.1, -0.2, 0.3], [-5.0, 1.0, 2.0])]
    from unet_tf.train import _optimiser

    ours, variable = _optimiser(replace(CONFIG, weight_decay=0.1)), keras.Variable(start)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    other = torch.optim.AdamW([parameter], lr=CONFIG.learning_rate, weight_decay=0.1)
    for gradient in gradients:
        ours.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        parameter.grad = torch.from_numpy(gradient.copy())
        torch.nn.utils.clip_grad_norm_([parameter], CONFIG.gradient_norm)
        other.step()
        found = keras.ops.convert_to_numpy(variable.value)
        np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 24, 16), (19, 40, 33), (11, 24, 50), (5, 6, 7)])
@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_windows_are_monais(shape, weights, overlap):
    """The network adds to each voxel how far it lies from its window's corner, so that windows count."""
    size = (16, 24, 16)
    ramp = np.arange(np.prod(size), dtype=np.float32).reshape(size) / 1000
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    found = windows.slide(lambda window: window[:1] * 2 + ramp, image, size, overlap=overlap, weights=weights)
    wanted = sliding_window_inference(
        torch.from_numpy(image)[None],
        size,
        1,
        lambda window: window[:, :1] * 2 + torch.from_numpy(ramp),
        overlap=overlap,
        mode=weights,
    )[0]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)


class Both(torch.nn.Module):
    """A network of logits that is not symmetric under flips, for either framework."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, image):  # (n, contrast, x, y, z)
        ramp = torch.linspace(-3, 3, image.shape[2]).reshape(1, 1, -1, 1, 1)
        return self.scale * torch.stack([image[:, c] + 0.2 * c for c in range(3)], 1) + ramp

    def predict_on_batch(self, seen):  # (n, x, y, z, contrast)
        with torch.inference_mode():
            return np.moveaxis(self(torch.from_numpy(np.moveaxis(seen, -1, 1).copy())).numpy(), 1, -1)


@pytest.mark.parametrize("average_flips", [False, True])
def test_probabilities_and_labels_are_the_segresnets(entries, average_flips):
    ours, other = (replace(each, average_flips=average_flips, mixed_precision=False) if each is SEGRESNET else
                   replace(each, average_flips=average_flips, opening_voxels=0, closing_voxels=0,
                           minimum_component_voxels=0) for each in (CONFIG, SEGRESNET))  # fmt: skip
    network, volume = Both(), entries[1].open()
    wanted = theirs.probabilities(network, volume, other).numpy()
    np.testing.assert_allclose(inference.probabilities(network, volume, ours), wanted, atol=1e-5)
    found, labels = inference.predict_volume(network, volume, ours), theirs.predict_volume(network, volume, other)
    assert (found != labels).mean() < 1e-4  # rounding, at a threshold
    assert set(np.unique(found)) == {0, 1, 2, 3}
    ((_, same, views),) = inference.predict(network, entries[1:2], ours)
    np.testing.assert_array_equal(same, found)
    np.testing.assert_array_equal(views()["before_postprocessing"], found)
    np.testing.assert_array_equal(views()["geometric_ceiling"][volume.box], volume.labels())


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    "config", [pytest.param(CONFIG, id="3D"), pytest.param(SLICES, id="2.5D", marks=pytest.mark.slow)]
)
def test_an_interrupted_training_ends_with_the_same_bits(entries, config, tmp_path, monkeypatch):
    config = replace(config, average_flips=False, window_overlap=0.0)  # of prediction alone, half of the time
    with Run(tmp_path / "whole") as run:
        chosen = fit(entries[:3], entries[3:], config, run)
        network = inference.load(config, chosen)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows()]
    assert [bool(row["validation_mean_dice"]) for row in rows] == [False, True, False, True, True]
    rename, seen = os.replace, []

    def dying(source, target):
        seen.append(str(target).rpartition("/")[2])
        if seen.count("last.npz") == 3 or (seen.count("history.csv") == 2 and seen[-1] == "history.csv"):
            raise Interrupted
        rename(source, target)

    with Run(tmp_path / "killed") as run:
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", dying)
                with pytest.raises(Interrupted):
                    fit(entries[:3], entries[3:], config, run)
        fit(entries[:3], entries[3:], config, run)
        again = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history.rows()]
    assert again == rows
    for name in ("best", "last"):
        found, wanted = (
            inference.load(config, tmp_path / each / "checkpoints" / f"{name}.weights.h5").get_weights()
            for each in ("killed", "whole")
        )
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not np.allclose(network.get_weights()[0], inference.build(config).get_weights()[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop_voxels": (16, 24, 18)}, "crop_voxels"),
        ({"crop_voxels": None}, "random crops beside crop_from|random crops beside label_crop_probability"),
        (
            {"intensity": "maximum"},
            "intensity to be zscore, in whose unit intensity_shift_sd, augmentation.noise_sd are",
        ),
        ({"targets": "classes"}, "loss to be batch_dice_bce of regions"),
        ({"loss": "dice_focal"}, "loss to be batch_dice_bce of regions"),
        ({"patience": 3}, "patience to be None beside random crops"),
        ({"devices": 2}, "devices to be 1"),
        ({"schedule": "constant"}, "warmup_epochs"),
        ({"warmup_epochs": 5}, "warmup_epochs to be below epochs"),
        ({"flip_probabilities": (0.5, 0.5)}, "three probabilities"),
        ({"weight_average": 1.0}, "weight_average"),
        ({"spacing_mm": 0.0}, "spacing_mm"),
        ({"window_overlap": 1.0}, "window_overlap"),
        ({"gradient_norm": 0.0}, "gradient_norm"),
        ({"label_crop_probability": 1.5}, "label_crop_probability"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(ValueError, match=f"expected .*{said}"):
        replace(CONFIG, **change)

"""GradCAM++ against the paper's formula, MONAI's and planted evidence; a randomised network must lose it."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from monai.visualize import GradCAMpp  # noqa: E402

from common.runs import Run  # noqa: E402
from mgmt_classifier.config import Config  # noqa: E402
from mgmt_classifier.data import network_input, prepare  # noqa: E402
from mgmt_classifier.explain import Panel, draw, saliency, target_layer  # noqa: E402
from mgmt_classifier.inference import load  # noqa: E402
from mgmt_classifier.model import build_classifier  # noqa: E402
from mgmt_classifier.train import fit  # noqa: E402
from tests.mgmt_classifier.conftest import SHAPE, SPOT  # noqa: E402

# Divided by a maximum that all patients share, so that the spot changes no pixel but its own.
CONFIG = Config(
    images=5,
    image_size=(56, 56),
    intensity="maximum",
    filters=4,
    batch_size=4,
    learning_rate=3e-3,
    epochs=15,
    workers=0,
    keep="last",
)
# The spot after resizing from 40 x 36, half a position of the 7 x 7 map wider.
INSIDE = tuple(
    slice(round(place.start * 56 / side) - 4, round(place.stop * 56 / side) + 4)
    for place, side in zip(SPOT, SHAPE, strict=True)
)


def sample(entry):
    return network_input(entry.open(), entry.geometry, intensity=CONFIG.intensity)


@pytest.fixture(scope="module")
def planted(patients, tmp_path_factory):
    """A network that uses the spot, and the images of methylated patients that it has not seen."""
    folder = tmp_path_factory.mktemp("explain")
    store = prepare(patients, CONFIG.recipe, folder / "store", n_jobs=1)
    labelled = [(store.entries[patient.id], patient.label) for patient in patients]
    with Run(folder / "run") as run:
        fit(CONFIG, labelled[:10], [], run)
    network = load(CONFIG, run.checkpoints / "last.pt")
    images = {label: [sample(entry) for entry, own in labelled[10:] if own == label] for label in (0, 1)}
    with torch.inference_mode():
        found = {label: network(torch.from_numpy(np.stack(own))) for label, own in images.items()}
    assert (found[1] > 0).all()
    assert (found[0] < 0).all()
    return network, images[1]


def share_inside(network, images):
    """Mean saliency inside the spot as a multiple of that of the whole image."""
    ratios = []
    for image in images:
        found = saliency(network, image)
        ratios.append(found[:, *INSIDE].mean() / found.mean())
    return float(np.mean(ratios))


def test_saliency_is_high_where_the_evidence_is_and_a_randomised_network_loses_it(planted):
    """The sanity check of Adebayo et al. (2018): what the map shows must depend on what the network has learned."""
    network, images = planted
    for image in images:
        found = saliency(network, image)
        _, *place = np.unravel_index(found.argmax(), found.shape)
        assert all(side.start <= position < side.stop for side, position in zip(INSIDE, place, strict=True))
    assert share_inside(network, images) > 1.4
    randomised = [share_inside(build_classifier(filters=4, seed=seed).eval(), images) for seed in range(1, 6)]
    assert np.mean(randomised) < 1.2


@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
def test_maps_have_the_images_shape_and_reach_one(backbone):
    network = build_classifier(backbone=backbone, filters=4, seed=1).eval()
    torch.nn.init.constant_([layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1].weight, 1)
    image = np.random.default_rng(0).normal(size=(1, 7, 64, 48)).astype(np.float32)
    found = saliency(network, image)
    assert found.shape == (7, 64, 48)
    assert found.dtype == np.float32
    assert (found.min() >= 0, found.max()) == (True, 1)
    np.testing.assert_array_equal(found, saliency(network, image))


def by_the_paper(network, image, layer):
    """Equations 10, 11 and 19 as they stand, with Y = exp(S), in loops over channels."""
    kept = []
    handle = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    score = network(image[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    maps, gradient, score = kept[0][0].detach().double(), gradient[0].double(), score.double()
    total = torch.zeros_like(maps[0])
    for channel in range(len(maps)):
        g, a = gradient[channel], maps[channel]
        first, second, third = (torch.exp(score) * g**power for power in (1, 2, 3))
        denominator = 2 * second + a.sum() * third
        alpha = torch.where(denominator != 0, second / denominator, 0)
        total += (alpha * first.clamp(min=0)).sum() * a
    total = total.clamp(min=0)
    size = image.shape[1:]
    resized = torch.nn.functional.interpolate(total[None, None], size, mode="trilinear", align_corners=False)[0, 0]
    return (resized / resized.max()).detach().numpy()


def test_the_map_is_the_papers_and_monais(planted):
    """MONAI multiplies by the gradients inside the sum over positions. The paper does not; it is the same at the last
    level, where gradients do not depend on the position."""
    network, (small, *_) = copy.deepcopy(planted[0]), planted[1]  # MONAI leaves its hooks behind
    found = saliency(network, small)
    layer = target_layer(network, small.shape)
    assert layer == "0.layer3"
    np.testing.assert_allclose(found, by_the_paper(network, torch.from_numpy(small), layer), atol=1e-5)

    large = np.ascontiguousarray(small.repeat(2, axis=2).repeat(2, axis=3))
    layer = target_layer(network, large.shape)
    assert layer == "0.layer4"
    image = torch.from_numpy(large)
    with torch.no_grad():
        network[0].fc.weight *= 100  # MONAI adds 1e-7 to squared gradients
        network[0].fc.bias -= network(image[None])  # and takes the logit's exponential
    found = saliency(network, large)
    np.testing.assert_allclose(found, by_the_paper(network, image, layer), atol=1e-5)

    class TwoDimensional(torch.nn.Module):
        """MONAI's class wants logits (n, classes)."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)[:, None]

    monai = GradCAMpp(TwoDimensional().eval(), f"network.{layer}", postprocessing=lambda x: x)
    theirs = monai(image[None], class_idx=0)[0, 0].detach().numpy()
    np.testing.assert_allclose(found, theirs / theirs.max(), atol=1e-3)


def test_large_logits_give_no_nan(planted):
    network, images = planted
    expected = saliency(network, images[0])
    linear = network[0].fc
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    try:
        with torch.no_grad():
            linear.bias += 1000.0  # the same gradients, a logit whose exponential overflows
        np.testing.assert_allclose(saliency(network, images[0]), expected, atol=1e-6)
        with torch.no_grad():
            linear.weight *= 1e4
        assert np.isfinite(saliency(network, images[0])).all()
    finally:
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)


def test_nothing_that_speaks_for_it_is_a_black_map():
    network = build_classifier(filters=4).eval()
    torch.nn.init.constant_(network[0].fc.weight, -1.0)
    image = np.random.default_rng(0).normal(size=(1, 3, 112, 112)).astype(np.float32)
    assert target_layer(network, image.shape) == "0.layer4"  # what lies behind it has the weight's sign
    np.testing.assert_array_equal(saliency(network, image), 0)


def test_the_network_is_left_alone(planted):
    network, images = planted
    before = {name: value.clone() for name, value in network.state_dict().items()}
    saliency(network, images[0])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.inference_mode():
        inside = saliency(network, images[0])  # also where the caller has switched gradients off
    np.testing.assert_array_equal(inside, saliency(network, images[0]))
    network.train()
    with pytest.raises(ValueError, match="expected a network in evaluation mode"):
        saliency(network, images[0])
    network.eval()


@pytest.mark.parametrize(
    ("backbone", "stride", "shape", "layer", "side"),
    [
        ("resnet10", 1, (15, 255, 255), "0.layer4", 16),
        ("resnet10", 2, (15, 255, 255), "0.layer4", 8),
        ("resnet10", 1, (15, 64, 64), "0.layer3", 8),
        ("resnet10", 2, (31, 64, 64), "0.layer2", 8),
        ("resnet10", 2, (5, 8, 8), "0.act", 4),
        ("vgg16", 1, (15, 255, 255), "0.29", 15),
        ("vgg16", 1, (15, 64, 64), "0.22", 8),
    ],
)
def test_the_target_is_the_last_level_with_seven_positions(backbone, stride, shape, layer, side):
    network = build_classifier(backbone=backbone, filters=4, first_stride=stride)
    assert target_layer(network, (1, *shape)) == layer
    sizes = []
    network.to("meta").get_submodule(layer).register_forward_hook(lambda m, i, output: sizes.append(output.shape[3:]))
    network(torch.empty(2, 1, *shape, device="meta"))
    assert min(sizes[0]) == side


def test_the_picture_shows_the_image_with_the_largest_saliency_on_the_brain(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    image = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    heat = np.zeros_like(image)
    heat[1, 2, 2], heat[2, 5, 5] = 0.8, 1
    image[2, 5, 5] = 0  # background
    panels = [Panel(title="FLAIR", image=image, saliency=heat, positions=(20, 21, 22))] * 2
    titles, shown = [], []
    set_title, imshow = Axes.set_title, Axes.imshow
    monkeypatch.setattr(Axes, "set_title", lambda axis, text, **o: titles.append(text) or set_title(axis, text, **o))
    monkeypatch.setattr(Axes, "imshow", lambda axis, data, **o: shown.append(data) or imshow(axis, data, **o))
    draw(tmp_path / "figures" / "saliency.png", panels, title="patient")
    assert titles == ["FLAIR", "image 22 with the evidence"] * 2
    for data, expected in zip(shown, [image[1], image[1], heat[1]] * 2, strict=True):
        np.testing.assert_array_equal(data, expected)
    assert (tmp_path / "figures" / "saliency.png").read_bytes()[:4] == b"\x89PNG"

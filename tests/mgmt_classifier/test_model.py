import pytest

torch = pytest.importorskip("torch")

from monai.networks.nets import resnet10  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from common.costs import gflop  # noqa: E402
from mgmt_classifier.model import Conv3d, build_classifier, convolutions  # noqa: E402


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_resnet_is_monais_own():
    ours = build_classifier(seed=3, first_stride=2)
    theirs = resnet10(spatial_dims=3, n_input_channels=1, num_classes=1, conv1_t_stride=2)
    theirs.load_state_dict({name.removeprefix("0."): value for name, value in ours.state_dict().items()})
    image = torch.randn(2, 1, 5, 40, 36, generator=torch.Generator().manual_seed(0))
    for network in (ours, theirs):
        network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image)[:, 0], rtol=1e-4, atol=1e-5)
    assert ours(image).shape == (2,)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_images", [3, 5, 6, 7, 8, 15])
def test_the_first_convolutions_gradient_is_right_however_few_images(n_images, stride):
    """PyTorch 2.13's own is not with 5 to 7 images and stride 2; the oracle is its double-precision loop."""
    generator = torch.Generator().manual_seed(n_images)
    image = torch.randn(4, 1, n_images, 32, 32, generator=generator)
    conv = build_classifier(filters=4, first_stride=stride)[0].conv1
    weight = conv.weight.detach().double().requires_grad_()
    expected = torch.nn.functional.conv3d(image.double(), weight, stride=stride, padding=3)
    factors = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (expected * factors).sum().backward()
    found = conv(image.contiguous(memory_format=torch.channels_last_3d))
    (found * factors).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("filters", "expected"), [(64, 14_356_929), (8, None)])
def test_parameters_of_the_resnet_layer_by_layer(filters, expected):
    widths = [filters, 2 * filters, 4 * filters, 8 * filters]
    count = 7**3 * filters + 2 * filters  # first convolution and its normalisation
    for before, width in zip([filters, *widths], widths, strict=False):
        count += 27 * width * (before + width) + 2 * 2 * width
        if before != width:
            count += before * width + width + 2 * width  # a shortcut with bias, and its normalisation
    count += widths[-1] + 1
    assert n_parameters(build_classifier(filters=filters)) == count
    assert expected in (None, count)


@pytest.mark.parametrize(("filters", "expected"), [(64, 163_682_113), (4, None)])
def test_parameters_of_the_vgg_layer_by_layer(filters, expected):
    """Configuration D of the paper's Table 1, with 27 in place of 9 weights per kernel."""
    table = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    widths = [width * filters // 64 for width in table]
    hidden = 4096 * filters // 64
    count = sum(27 * i * o + o for i, o in zip([1, *widths], widths, strict=False))
    count += (7 * 7 * widths[-1] + 1) * hidden + (hidden + 1) * hidden + hidden + 1
    network = build_classifier(backbone="vgg16", filters=filters)
    assert n_parameters(network) == count
    assert expected in (None, count)
    kinds = [type(layer).__name__ for layer in network[0]]
    assert (kinds.count("Conv3d"), kinds.count("Linear"), kinds.count("_Halve")) == (13, 3, 5)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((15, 255, 255), (1, 7, 7)),  # 15, 7, 3, 1 images, then in-plane only; 255, 127, 63, 31, 15, 7
        ((31, 224, 224), (1, 7, 7)),
        ((3, 64, 64), (1, 2, 2)),
        ((64, 32, 16), (2, 1, 1)),
    ],
)
def test_the_vgg_halves_every_axis_that_has_two_positions(shape, last):
    network = build_classifier(backbone="vgg16", filters=4).to("meta")
    seen = []
    halves = [layer for layer in network[0] if type(layer).__name__ == "_Halve"]
    halves[-1].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[2:])))
    assert network(torch.empty(2, 1, *shape, device="meta")).shape == (2,)
    assert seen == [last]


def test_pooling_in_the_vgg_is_torchs():
    network = build_classifier(backbone="vgg16", filters=4)
    halve = next(layer for layer in network[0] if type(layer).__name__ == "_Halve")
    image = torch.randn(1, 2, 5, 8, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(halve(image), torch.nn.MaxPool3d(2)(image))
    flat = image[:, :, :1]
    torch.testing.assert_close(halve(flat), torch.nn.MaxPool3d((1, 2, 2))(flat))


@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_are_those_that_torch_counts(backbone, stride):
    network = build_classifier(backbone=backbone, filters=8, first_stride=stride)
    with FlopCounterMode(display=False) as counter:
        network.to("meta")(torch.empty(1, 1, 15, 64, 48, device="meta"))
    linear = 2 * sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    found = gflop(convolutions(build_classifier(backbone=backbone, filters=8, first_stride=stride), (1, 15, 64, 48)))
    assert found == pytest.approx((counter.get_total_flops() - linear) / 1e9, rel=1e-12)


def test_the_first_stride_is_on_all_axes():
    sizes = []
    for stride in (1, 2):
        network = build_classifier(filters=4, first_stride=stride).to("meta")
        network[0].conv1.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
        network(torch.empty(2, 1, 15, 64, 64, device="meta"))
    assert sizes == [(15, 64, 64), (8, 32, 32)]


def test_counting_operations_leaves_the_network_alone():
    network = build_classifier(filters=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    convolutions(network, (1, 5, 32, 32))
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
def test_weights_are_a_function_of_the_seed_and_the_global_state_is_left_alone(backbone):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = [build_classifier(backbone=backbone, filters=4, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))


@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
def test_bfloat16_logits_are_close_to_float32s(backbone):
    """A dozen layers or so each round to 2^-9 of a value; the logit is small beside what its sum is made of."""
    network = build_classifier(backbone=backbone, filters=8).eval()
    image = torch.randn(3, 1, 9, 32, 32, generator=torch.Generator().manual_seed(0))
    features = []
    last = next(layer for layer in reversed(list(network.modules())) if isinstance(layer, torch.nn.Linear))
    last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].float()))
    with torch.inference_mode():
        network(image)
        with torch.autocast("cpu", torch.bfloat16):
            network(image)
    wanted, found = features
    assert 0 < (found - wanted).norm() / wanted.norm() < 4 * 2**-9 * 16**0.5


def test_pooling_stays_in_bfloat16():
    """Autocast would have it in float32: as much memory again, and two casts of the largest feature map."""
    network = build_classifier(filters=8)
    kinds = []
    network[0].maxpool.register_forward_hook(
        lambda module, inputs, output: kinds.append((inputs[0].dtype, output.dtype))
    )
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(2, 1, 5, 32, 32))
    assert kinds == [(torch.bfloat16, torch.bfloat16)]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_bfloat16_gradients_are_those_of_double_precision(depth):
    """PyTorch 2.13's own are not at a depth of 2: what they hold is what the memory held."""
    image = torch.randn(2, 8, depth, 6, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    conv = Conv3d(8, 4, 3, padding=1, bias=False)
    weight = conv.weight.detach().bfloat16().double().requires_grad_()
    wanted = torch.nn.functional.conv3d(image.double(), weight, padding=1)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted.backward(gradient.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = conv(image.contiguous(memory_format=torch.channels_last_3d))
    found.backward(gradient)
    assert (found.double() - wanted).norm() < 2**-8 * wanted.norm()
    assert (conv.weight.grad.double() - weight.grad).norm() < 2**-8 * weight.grad.norm()


def test_every_resnet10_convolution_has_them():
    network = build_classifier(filters=8)
    assert {type(layer) for layer in network.modules() if isinstance(layer, torch.nn.Conv3d)} == {Conv3d}

import pytest

torch = pytest.importorskip("torch")

from monai.networks.nets import SegResNet, SegResNetVAE  # noqa: E402

from common.costs import gflop  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.inference import build  # noqa: E402
from segresnet_monai.model import build_segresnet, build_segresnet_ds, convolutions  # noqa: E402

SIZE = {"initial_filters": 8, "encoder_blocks": (1, 2, 2, 4), "decoder_blocks": (1, 1, 1)}


def plain(**changes):
    """MONAI's network as its user would build it."""
    return SegResNet(
        spatial_dims=3,
        in_channels=4,
        out_channels=3,
        init_filters=8,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
        **changes,
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_faster_convolutions_change_neither_values_nor_gradients(batch):
    ours, theirs = build_segresnet(dropout=0.0, seed=3, **SIZE), plain()
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    image = torch.randn(batch, 4, 16, 24, 32)
    outputs = ours(image), theirs(image)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)
    ours.eval()
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)


def test_small_samples_do_take_onednn():
    """The plain loop is an operator of its own; it must not appear in our step, and does in the plain one."""
    image = torch.randn(1, 4, 16, 24, 32)
    ran = []
    for network in (build_segresnet(**SIZE), plain(dropout_prob=0.2)):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            network(image).mean().backward()
        ran.append({event.key for event in profile.key_averages()})
    assert "aten::slow_conv3d_forward" not in ran[0]
    assert "aten::slow_conv3d_forward" in ran[1]


def test_size_is_the_papers():
    """4.7 million parameters at 16 filters: the encoder's four levels and the decoder, counted layer by layer."""
    conv = lambda i, o, k=3: i * o * k**3  # noqa: E731
    block = lambda c: 2 * (conv(c, c) + 2 * c)  # noqa: E731  (two convolutions without bias, two group norms)
    widths = (16, 32, 64, 128)
    encoder = conv(4, 16) + sum(n * block(c) for n, c in zip((1, 2, 2, 4), widths, strict=True))
    down = sum(conv(c, 2 * c) for c in widths[:-1])
    up = sum(conv(2 * c, c, 1) + block(c) for c in widths[:-1])
    last = 2 * 16 + conv(16, 3, 1) + 3
    network = build_segresnet()
    assert sum(p.numel() for p in network.parameters()) == encoder + down + up + last == 4_702_227


@pytest.mark.parametrize(("side", "expected"), [(128, 296), (64, 37)])
def test_operations_of_the_papers_network_counted_layer_by_layer(side, expected):
    """A convolution does two operations per weight and place; each level has an eighth of the places above."""
    places = [(side >> level) ** 3 for level in range(4)]
    widths, blocks = (16, 32, 64, 128), (1, 2, 2, 4)
    encoder = sum(2 * n * 27 * c * c * p for n, c, p in zip(blocks, widths, places, strict=True))
    down = sum(27 * c * 2 * c * p for c, p in zip(widths, places[1:], strict=False))
    # on the way up: channels halved at the coarse level, then one block of two convolutions at the fine one
    up = sum(2 * c * c * places[k + 1] + 2 * 27 * c * c * places[k] for k, c in enumerate(widths[:-1]))
    ends = (27 * 4 * 16 + 16 * 3) * places[0]
    found = gflop(convolutions(build_segresnet(), (4, side, side, side)))
    assert found == pytest.approx(2 * (encoder + down + up + ends) / 1e9, rel=1e-12)
    assert found == pytest.approx(expected, rel=0.01)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        plain().to("meta")(torch.empty(1, 4, 32, 48, 16))
    ours = gflop(convolutions(build_segresnet(**SIZE), (4, 32, 48, 16)))
    assert ours == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-12)


def test_counting_operations_leaves_the_network_alone():
    network = build_segresnet(**SIZE)
    image = torch.randn(1, 4, 16, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in network.modules()]
    torch.manual_seed(1)
    expected = network(image)
    state = torch.random.get_rng_state()
    first = convolutions(network, (4, 16, 16, 16))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert [len(module._forward_hooks) for module in network.modules()] == hooks
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    torch.manual_seed(1)
    torch.testing.assert_close(network(image), expected, rtol=0, atol=0)
    assert convolutions(network.eval(), (4, 16, 16, 16)) == first
    assert not network.training


@pytest.mark.parametrize("probability", [0.01, 0.3])
def test_the_untrained_network_says_the_probability_it_was_given(probability):
    torch.manual_seed(0)
    image = torch.randn(2, 4, 16, 16, 16)
    with torch.inference_mode():
        logits = build_segresnet(initial_probability=probability, **SIZE).eval()(image)
    assert logits.median().sigmoid().item() == pytest.approx(probability, rel=0.2)


@pytest.mark.parametrize("probability", [0.01, 0.2])
def test_the_untrained_softmax_says_it_of_every_tumour_label(probability):
    torch.manual_seed(0)
    image = torch.randn(2, 4, 16, 16, 16)
    with torch.inference_mode():
        logits = build_segresnet(initial_probability=probability, softmax=True, **SIZE).eval()(image)
    shares = logits.softmax(1).median(dim=2).values.flatten(2).median(dim=2).values.mean(0)
    assert shares.tolist() == pytest.approx([1 - 3 * probability, *[probability] * 3], rel=0.5)


def test_the_autoencoder_is_monais_and_speaks_in_training_only():
    crop = (16, 32, 16)
    ours = build_segresnet(vae_crop_voxels=crop, dropout=0.0, **SIZE)
    theirs = SegResNetVAE(
        crop,
        spatial_dims=3,
        in_channels=4,
        out_channels=3,
        init_filters=8,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 4, *crop, generator=torch.Generator().manual_seed(0))
    found = []
    for network in (ours, theirs):
        torch.manual_seed(1)  # of the autoencoder's noise
        found.append(network(image.contiguous(memory_format=torch.channels_last_3d) if network is ours else image))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert found[0][1] > 0
    (found[0][0].mean() + found[0][1]).backward()
    assert ours.vae_fc3.weight.grad.abs().max() > 0
    # In evaluation the size is free.
    longer = torch.randn(1, 4, 16, 32, 24)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(longer), theirs.eval()(longer)[0], rtol=1e-4, atol=1e-5)


def kept_values(network, image):
    """How many values the forward pass keeps for the backward pass, weights left out; the output and the gradients."""
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.layout is torch.strided and tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(image)
    held = sum(kept.values())
    sum(part.square().mean() for part in ([output] if isinstance(output, torch.Tensor) else output)).backward()
    return held, output, [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (build_segresnet, {"dropout": 0.2}),
        (build_segresnet, {"dropout": 0.2, "vae_crop_voxels": (16, 16, 32)}),
        (build_segresnet_ds, {"supervised_levels": 2}),
    ],
)
def test_computing_activations_again_keeps_less_and_changes_nothing(build, settings):
    settings = {**settings, "seed": 1, **SIZE}
    image = torch.randn(1, 4, 16, 16, 32, generator=torch.Generator().manual_seed(0))
    held, outputs, gradients = zip(
        *(kept_values(build(recompute_activations=again, **settings), image) for again in (False, True)),
        strict=True,
    )
    assert held[1] < 0.7 * held[0]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("build", "settings"),
    [(build_segresnet, {"vae_crop_voxels": (16, 16, 16)}), (build_segresnet_ds, {"supervised_levels": 2})],
)
def test_operations_are_counted_in_whatever_way_activations_are_kept(build, settings):
    network = build(recompute_activations=True, **settings, **SIZE)
    of_plain = {} if build is build_segresnet else settings  # the autoencoder's branch is not counted
    expected = convolutions(build(**of_plain, **SIZE), (4, 16, 16, 16))
    assert convolutions(network, (4, 16, 16, 16)) == expected
    network.eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 4, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_weights_are_a_function_of_the_seed_and_the_global_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = [build_segresnet(seed=seed, **SIZE).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not torch.equal(states[0]["convInit.conv.weight"], states[2]["convInit.conv.weight"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"network": "segresnet_ds", "dropout": 0.0}, {"network": "pocket", "initial_filters": 16}, {"loss": "gwdl"}],
)
def test_bfloat16_logits_are_close_to_float32s(settings):
    """Some twenty layers one after the other each round to 2^-9 of a value; their squares add up."""
    network = build(Config(**settings)).eval()
    image = torch.randn(1, 4, 16, 16, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(image.contiguous(memory_format=torch.channels_last_3d))
    assert found.dtype == torch.bfloat16
    assert 0 < (found - wanted).norm() / wanted.norm() < 4 * 2**-9 * 20**0.5

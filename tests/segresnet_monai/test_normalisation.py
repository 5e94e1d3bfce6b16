"""Normalisation in bfloat16: gradients by definition, in double precision, and the layers that stay as they were."""

import copy

import pytest

torch = pytest.importorskip("torch")

from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.inference import build  # noqa: E402
from segresnet_monai.normalisation import GroupNorm, InstanceNorm3d, with_fast_backward  # noqa: E402

ROUNDING = 3 * 2**-9
"""The scale, the rest and their sum are rounded once each, by 2^-9 of their size at most."""


def reference(x, dy, weight, bias, groups, eps=1e-5):
    """Normalised values and gradients of x, weight and bias, from the definition."""
    x, weight, bias = (part.detach().double().requires_grad_() for part in (x, weight, bias))
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normalised = (centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()).reshape(x.shape)
    y = normalised * weight.view(1, -1, 1, 1, 1) + bias.view(1, -1, 1, 1, 1)
    return y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy.double())


@pytest.mark.parametrize(
    ("channels", "groups", "samples", "shape"),
    [
        (16, 8, 1, (16, 12, 20)),
        (24, 8, 2, (5, 7, 3)),
        (32, 32, 2, (8, 8, 8)),
        (8, 1, 3, (1, 1, 9)),
        (1024, 8, 1, (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_gradients_are_those_of_the_definition(channels, groups, samples, shape, channels_last):
    generator = torch.Generator().manual_seed(channels)
    offset, spread = (5 * torch.rand(1, channels, 1, 1, 1, generator=generator) for _ in range(2))
    x = (torch.randn(samples, channels, *shape, generator=generator) * spread + offset).bfloat16()
    dy = torch.randn(x.shape, generator=generator).bfloat16()
    if channels_last:
        x, dy = (part.contiguous(memory_format=torch.channels_last_3d) for part in (x, dy))
    layer = GroupNorm(groups, channels) if groups < channels else InstanceNorm3d(channels, affine=True)
    torch.nn.init.uniform_(layer.weight, 0.5, 2.0, generator=generator)
    torch.nn.init.normal_(layer.bias, generator=generator)
    x.requires_grad_()
    y = layer(x)
    y.backward(dy)
    found = (y.detach(), x.grad, layer.weight.grad, layer.bias.grad)
    for part, wanted in zip(found, reference(x, dy, layer.weight, layer.bias, groups), strict=True):
        assert (part.double() - wanted).norm() <= ROUNDING * wanted.norm()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


def test_instances_without_weights_have_gradients_too():
    """PyTorch keeps their statistics in bfloat16: with a mean of some standard deviations, another result."""
    x = (torch.randn(2, 8, 6, 4, 5, generator=torch.Generator().manual_seed(0)) + 30).bfloat16().requires_grad_()
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    InstanceNorm3d(8)(x).backward(dy)
    wanted = reference(x, dy, torch.ones(8), torch.zeros(8), groups=8)[1]
    assert (x.grad.double() - wanted).norm() <= ROUNDING * wanted.norm()


@pytest.mark.parametrize("network", ["segresnet", "segresnet_ds", "pocket"])
def test_networks_have_the_same_weights_and_the_same_float32_values(network):
    small = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1), "initial_filters": 8}
    ours = build(Config(network=network, dropout=0.0, **small))
    plain = copy.deepcopy(ours)
    swapped = [layer for layer in plain.modules() if isinstance(layer, GroupNorm | InstanceNorm3d)]
    for layer in swapped:
        layer.__class__ = type(layer).__base__
    assert len(swapped) >= 6
    assert list(ours.state_dict()) == list(plain.state_dict())
    image, gradients = torch.randn(2, 4, 16, 8, 16, generator=torch.Generator().manual_seed(0)), []
    for network in (ours, plain):
        torch.manual_seed(0)
        network(image).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_running_statistics_are_left_alone():
    layer = torch.nn.InstanceNorm3d(8, track_running_stats=True)
    assert type(with_fast_backward(torch.nn.Sequential(layer))[0]) is torch.nn.InstanceNorm3d

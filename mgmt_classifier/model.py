"""The networks: MONAI's 3D ResNet10 and a 3D VGG16, one contrast's images in, one logit per patient out."""

import copy
from typing import Literal

import torch
from monai.networks.nets import ResNet
from torch import nn

from common.costs import Convolution

VGG16 = (2, 2, 3, 3, 3)
"""Convolutions per level of configuration D of Simonyan & Zisserman (2015), Table 1; a pooling follows each level."""
VGG_POSITIONS = (1, 7, 7)
"""What the fully connected layers see: 7 x 7 as in the paper (images of 224), of one image."""
VGG_HIDDEN = 64
"""Units of a fully connected layer per filter of the first level: 4096 at 64."""


def build_classifier(
    *, backbone: Literal["resnet10", "vgg16"] = "resnet10", filters: int = 64, first_stride: int = 1, seed: int = 0
) -> nn.Sequential:
    """A network from (n, 1, images, rows, columns) to logits (n,) of a methylated MGMT promoter.

    filters: of the first level; the papers have 64, and the other widths follow in proportion. first_stride: of
    ResNet10's first convolution, on all axes. The initial weights are a function of ``seed`` and leave torch's global
    random state as it was. The memory is laid out channels last, which the CPU's and the GPU's convolutions prefer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _resnet10(filters, first_stride) if backbone == "resnet10" else _vgg16(filters)
    for layer in network.modules():
        if type(layer) is nn.Conv3d:
            layer.__class__ = Conv3d
    return nn.Sequential(network, nn.Flatten(0)).to(memory_format=torch.channels_last_3d)


def convolutions(network: nn.Module, input_shape: tuple[int, ...]) -> list[Convolution]:
    """Every convolution of one forward pass over one sample (1, images, rows, columns). Leaves the network alone."""
    network = copy.deepcopy(network).to("meta").eval()  # shapes without arithmetic
    found = []

    def note(module: nn.Conv3d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        found.append(
            Convolution(
                positions=output.shape[2:].numel(),
                kernel=module.kernel_size,
                in_channels=module.in_channels,
                out_channels=module.out_channels,
            )
        )

    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    return found


def _resnet10(filters: int, first_stride: int) -> ResNet:
    """MONAI's ``resnet10``, whose function takes no widths: 14,356,929 parameters at 64 filters.

    As there, the first convolution is 7 x 7 x 7 and the shortcuts are convolutions with a bias.
    """
    network = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[filters, 2 * filters, 4 * filters, 8 * filters],
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=first_stride,
        num_classes=1,
    )
    # On the CPU, oneDNN's weight gradient of this convolution with stride 2 over 5, 6 or 7 images is wrong, or writes
    # beyond its memory (PyTorch 2.13). Padding beforehand is the same sum and takes another route.
    padding = network.conv1.padding
    network.conv1.padding = (0, *padding[1:])
    network.conv1.register_forward_pre_hook(_PadImages(padding[0]))
    network.maxpool = _MaxPool(*(getattr(network.maxpool, name) for name in ("kernel_size", "stride", "padding")))
    return network


def _vgg16(filters: int) -> nn.Sequential:
    """VGG16 with 3 x 3 x 3 convolutions: 163,682,113 parameters at 64 filters.

    As in the paper: 13 convolutions, each with a ReLU and no normalisation, five poolings, three fully connected
    layers, dropout of 0.5 after the first two. What differs: one input channel, one output, images of any size
    (averages over 1 x 7 x 7 parts where the last level is larger or smaller), an axis of one position is not pooled,
    and initial weights by He et al. (2015), since the paper's own needed a smaller network trained before.
    """
    layers: list[nn.Module] = []
    channels = 1
    for level, n_convolutions in enumerate(VGG16):
        width = filters * min(2**level, 8)
        for _ in range(n_convolutions):
            layers += [nn.Conv3d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
            channels = width
        layers.append(_Halve())
    hidden = VGG_HIDDEN * filters
    layers += [nn.AdaptiveAvgPool3d(VGG_POSITIONS), nn.Flatten()]
    layers += [nn.Linear(channels * 49, hidden), nn.ReLU(), nn.Dropout(0.5)]
    layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 1)]
    for layer in layers:
        if isinstance(layer, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class Conv3d(nn.Conv3d):
    """PyTorch's, with right weight gradients in bfloat16 on the CPU where there are two images.

    oneDNN's (PyTorch 2.13) for kernels of 3 with stride 1 are those of memory that nothing was written to. With a
    black image before and one after, which are cut off again, the sums are the same and take another route.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.device.type == "cpu" and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        if half and x.shape[2] == 2 and self.kernel_size[0] == 3 and self.stride[0] == 1:
            padded = nn.functional.pad(x, (0, 0, 0, 0, 1, 1))
            return super().forward(padded)[:, :, 1:-1].contiguous(memory_format=torch.channels_last_3d)
        return super().forward(x)


class _PadImages:
    """Black images before the first and after the last, as a convolution's own padding has them."""

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return nn.functional.pad(inputs[0], (0, 0, 0, 0, self.n_images, self.n_images))


class _MaxPool(nn.MaxPool3d):
    """PyTorch's, in the precision of its input: on the CPU autocast would have it in float32, of the same values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


class _Halve(nn.Module):
    """Maximum over pairs of positions along every axis that has two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):  # as above
            return nn.functional.max_pool3d(x, [min(2, length) for length in x.shape[2:]])

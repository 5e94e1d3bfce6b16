"""The network: MONAI's SegResNet with one sigmoid channel per tumour label."""

import copy
import math

import torch
from monai.networks.nets import SegResNet

from common.costs import Convolution
from common.labels import CLASSES

TUMOUR_CLASSES = CLASSES[1:]


def build_segresnet(
    *,
    in_channels: int = 4,
    initial_filters: int = 16,
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 4),
    decoder_blocks: tuple[int, ...] = (1, 1, 1),
    dropout: float = 0.2,
    initial_probability: float | None = None,
    seed: int = 0,
) -> SegResNet:
    """SegResNet (Myronenko 2018, without the VAE branch): (n, contrast, x, y, z) to logits (n, NCR/ED/ET, x, y, z).

    initial_probability sets the last bias so that the untrained network gives every label that probability (Lin et al.
    2017): near the labels' true share, no step is lost on learning that most voxels are background.
    Sides must be multiples of 2 to the power of (levels - 1). The initial weights are a function of ``seed`` and leave
    torch's global random state as it was. The memory is laid out channels last, which the CPU's and the GPU's
    convolutions prefer; shapes do not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegResNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=len(TUMOUR_CLASSES),
            init_filters=initial_filters,
            blocks_down=encoder_blocks,
            blocks_up=decoder_blocks,
            dropout_prob=dropout,
        )
    if initial_probability is not None:
        torch.nn.init.constant_(
            network.conv_final[-1].conv.bias, math.log(initial_probability / (1 - initial_probability))
        )
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(_to_onednn)
            module.register_forward_hook(_from_onednn)
    return network.to(memory_format=torch.channels_last_3d)


def convolutions(network: torch.nn.Module, input_shape: tuple[int, ...]) -> list[Convolution]:
    """Every convolution of one forward pass over one sample of shape (contrast, x, y, z). Leaves the network alone."""
    network = copy.deepcopy(network).to("meta").eval()  # shapes without arithmetic
    found = []

    def note(module: torch.nn.Conv3d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        found.append(
            Convolution(
                positions=output.shape[2:].numel(),
                kernel=module.kernel_size,
                in_channels=module.in_channels,
                out_channels=module.out_channels,
            )
        )

    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(note)
    network(torch.empty(1, *input_shape, device="meta"))
    return found


# On the CPU PyTorch sends a convolution of one small sample (contrast * x * y of at most this many values) to a plain
# loop that is up to ten times slower than oneDNN's. Handing it a tensor in oneDNN's own layout settles the choice.
_SMALL = 20480


def _to_onednn(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    (x,) = inputs
    if x.device.type == "cpu" and x.dtype == torch.float32 and len(x) == 1 and x.shape[1:4].numel() <= _SMALL:
        return (x.to_mkldnn(),)
    return None


def _from_onednn(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
    if output.layout is torch._mkldnn:
        return output.to_dense().contiguous(memory_format=torch.channels_last_3d)
    return None

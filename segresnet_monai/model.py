"""The network: MONAI's SegResNet with one sigmoid channel per tumour label, or a softmax over all classes."""

import copy
import math
from functools import partial

import torch
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets import DynUNet, SegResNet, SegResNetDS, SegResNetVAE
from monai.networks.nets.segresnet_ds import SegResBlock
from torch.utils.checkpoint import checkpoint

from common.costs import Convolution
from common.labels import CLASSES
from segresnet_monai.normalisation import with_fast_backward

TUMOUR_CLASSES = CLASSES[1:]


def build_segresnet(
    *,
    in_channels: int = 4,
    initial_filters: int = 16,
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 4),
    decoder_blocks: tuple[int, ...] = (1, 1, 1),
    dropout: float = 0.2,
    initial_probability: float | None = None,
    softmax: bool = False,
    vae_crop_voxels: tuple[int, int, int] | None = None,
    recompute_activations: bool = False,
    seed: int = 0,
) -> SegResNet:
    """SegResNet (Myronenko 2018): (n, contrast, x, y, z) to logits (n, NCR/ED/ET, x, y, z).

    softmax: the logits are those of four classes, background first. vae_crop_voxels: with the VAE branch, for training
    crops of this size, whose sides are multiples of 2 to the power of levels; in training the result is then (logits,
    the branch's loss). recompute_activations: keep a residual block's input only, and compute the block again in the
    backward pass. initial_probability sets the last bias so that the untrained network gives every label that
    probability (Lin et al. 2017): near the labels' true share, no step is lost on learning that most voxels are
    background.
    Sides must be multiples of 2 to the power of (levels - 1). The initial weights are a function of ``seed`` and leave
    torch's global random state as it was. The memory is laid out channels last, which the CPU's and the GPU's
    convolutions prefer; shapes do not change.
    """
    kind = SegResNet if vae_crop_voxels is None else partial(WithVae, input_image_size=vae_crop_voxels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=len(CLASSES if softmax else TUMOUR_CLASSES),
            init_filters=initial_filters,
            blocks_down=encoder_blocks,
            blocks_up=decoder_blocks,
            dropout_prob=dropout,
        )
    start_at(network.conv_final[-1].conv.bias, initial_probability, softmax=softmax)
    if recompute_activations:
        _recompute(network)
    return _laid_out(network)


def build_segresnet_ds(
    *,
    in_channels: int = 4,
    initial_filters: int = 16,
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 4),
    decoder_blocks: tuple[int, ...] = (1, 1, 1),
    supervised_levels: int = 1,
    initial_probability: float | None = None,
    softmax: bool = False,
    recompute_activations: bool = False,
    seed: int = 0,
) -> SegResNetDS:
    """Auto3DSeg's SegResNetDS: as :func:`build_segresnet`'s network, with instance normalisation and without dropout.

    With several supervised levels it returns, in training, the list of their logits, the largest first.
    recompute_activations: as :func:`build_segresnet`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegResNetDS(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=len(CLASSES if softmax else TUMOUR_CLASSES),
            init_filters=initial_filters,
            blocks_down=encoder_blocks,
            blocks_up=decoder_blocks,
            norm="instance",
            dsdepth=supervised_levels,
        )
    for level in network.up_layers:
        if isinstance(level["head"], torch.nn.Conv3d):
            start_at(level["head"].bias, initial_probability, softmax=softmax)
    if recompute_activations:
        _recompute(network)
    return _laid_out(network)


class Pocket(DynUNet):
    """MONAI's DynUNet, whose result in training is a list of logits where several levels are supervised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        logits = super().forward(x)
        return list(logits.unbind(1)) if self.training and self.deep_supervision else logits


def build_pocket(
    *,
    in_channels: int = 4,
    filters: int = 32,
    levels: int = 4,
    dropout: float = 0.0,
    supervised_levels: int = 1,
    initial_probability: float | None = None,
    softmax: bool = False,
    seed: int = 0,
) -> Pocket:
    """A U-Net of residual blocks with the same few filters at every level (after nnunet-pocket of MIST): MONAI's
    DynUNet with instance normalisation, (n, contrast, x, y, z) to logits as :func:`build_segresnet`'s.

    With several supervised levels it returns, in training, the list of their logits at full size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Pocket(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=len(CLASSES if softmax else TUMOUR_CLASSES),
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=[filters] * levels,
            dropout=dropout or None,
            deep_supervision=supervised_levels > 1,
            deep_supr_num=max(supervised_levels - 1, 1),
            res_block=True,
        )
    start_at(network.output_block.conv.conv.bias, initial_probability, softmax=softmax)
    if supervised_levels > 1:
        for head in network.deep_supervision_heads:
            start_at(head.conv.conv.bias, initial_probability, softmax=softmax)
    return _laid_out(network)


def _recompute(network: torch.nn.Module) -> None:
    """Have the network keep its residual blocks' inputs only, and compute the blocks again in the backward pass."""
    for module in network.modules():
        if isinstance(module, ResBlock | SegResBlock):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def start_at(bias: torch.Tensor, probability: float | None, *, softmax: bool) -> None:
    """Set the last bias so that the untrained network gives every label that probability."""
    if probability is None:
        return
    others = len(TUMOUR_CLASSES) * probability if softmax else probability
    torch.nn.init.constant_(bias, math.log(probability / (1 - others)))
    if softmax:
        torch.nn.init.zeros_(bias[:1])


def _laid_out(network: torch.nn.Module) -> torch.nn.Module:
    """The network with its memory channels last and, on the CPU, small convolutions and normalisations made fast."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(_to_onednn)
            module.register_forward_hook(_from_onednn)
    return with_fast_backward(network).to(memory_format=torch.channels_last_3d)


class WithVae(SegResNetVAE):
    """MONAI's SegResNetVAE, whose result in evaluation is the logits alone, as sliding windows want it."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        # Its flattening is a view, which a channels-last tensor does not have.
        self.vae_down.register_forward_hook(lambda module, inputs, output: output.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        logits, loss = super().forward(x)
        return (logits, loss) if self.training else logits


def convolutions(network: torch.nn.Module, input_shape: tuple[int, ...]) -> list[Convolution]:
    """Every convolution of one prediction of a sample of shape (contrast, x, y, z). Leaves the network alone."""
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
# Bfloat16 takes oneDNN by itself, and autocast has no such kernel.
_SMALL = 20480


def _to_onednn(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    (x,) = inputs
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if plain and len(x) == 1 and x.shape[1:4].numel() <= _SMALL:
        return (x.to_mkldnn(),)
    return None


def _from_onednn(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
    if output.layout is torch._mkldnn:
        return output.to_dense().contiguous(memory_format=torch.channels_last_3d)
    return None

"""The network: MONAI's SegResNet with one sigmoid channel per tumour label, or a softmax over all classes."""

import copy
import math
from functools import partial

import torch
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets import SegResNet, SegResNetVAE
from torch.utils.checkpoint import checkpoint

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
    if initial_probability is not None:
        bias = network.conv_final[-1].conv.bias
        others = len(TUMOUR_CLASSES) * initial_probability if softmax else initial_probability
        torch.nn.init.constant_(bias, math.log(initial_probability / (1 - others)))
        if softmax:
            torch.nn.init.zeros_(bias[:1])
    for module in network.modules():
        if recompute_activations and isinstance(module, ResBlock):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(_to_onednn)
            module.register_forward_hook(_from_onednn)
    return network.to(memory_format=torch.channels_last_3d)


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

"""Where in the images a network found what speaks for methylation: GradCAM++ (Chattopadhay et al. 2018)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from common.files import atomic_path

LEAST_SIDE = 7  # rows and columns of the coarsest map that still tells where: that of the papers' last level
COLOURS = "viridis"  # told apart with any colour vision, and darker to brighter on paper


def saliency(network: nn.Sequential, image: np.ndarray) -> np.ndarray:
    """GradCAM++ of the logit, float32 (images, rows, columns) between 0 and 1, the largest value being 1.

    network: of :func:`mgmt_classifier.model.build_classifier`, in evaluation mode. image: its input (1, images, rows,
    columns). All zero where nothing speaks for methylation. The map is that of :func:`target_layer`, interpolated.
    Raises ValueError when the network is in training mode: batch normalisation would explain the batch.
    """
    if network.training:
        raise ValueError("expected a network in evaluation mode, received one in training mode")
    layer = network.get_submodule(target_layer(network, image.shape))
    kept: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    device = next(network.parameters()).device
    try:
        # A caller may have switched gradients off.
        with torch.inference_mode(False), torch.enable_grad():
            logit = network(torch.from_numpy(np.ascontiguousarray(image))[None].to(device))
            (gradients,) = torch.autograd.grad(logit.sum(), kept[0])
    finally:
        handle.remove()
    maps, gradients = kept[0].detach()[0].double(), gradients[0].double()  # (channel, images, rows, columns)
    # The paper's factor of a position, g^2 / (2 g^2 + sum(A) g^3), is 1 / (2 + g sum(A)). Only positive gradients
    # count, and after a ReLU no A is negative, so nothing is ever divided by zero. Its exp(logit), which overflows for
    # a network that is sure, is the same for all channels and goes when the largest value becomes 1.
    positive = gradients.clamp(min=0)
    weights = (positive / (2 + positive * maps.sum(dim=(1, 2, 3), keepdim=True))).sum(dim=(1, 2, 3))
    combined = torch.einsum("c,cxyz->xyz", weights, maps).clamp(min=0)
    resized = nn.functional.interpolate(combined[None, None], image.shape[1:], mode="trilinear", align_corners=False)
    largest = resized.max()
    return (resized / largest if largest > 0 else resized)[0, 0].float().cpu().numpy()


def target_layer(network: nn.Sequential, input_shape: Sequence[int]) -> str:
    """Name of the last level after a ReLU whose maps have at least 7 rows and columns (D: the report says "one of the
    last layers"); of the first level where no map is as large.

    input_shape: (1, images, rows, columns). At 255 x 255 it is ResNet10's layer4, 16 x 16, and VGG16's last
    convolution, 15 x 15; on smaller images an earlier one, since 2 x 2 positions cannot tell where anything is.
    """
    network = copy.deepcopy(network).to("meta").eval()
    sides: dict[str, int] = {}
    for name, module in network[0].named_children():
        if isinstance(module, nn.Sequential | nn.ReLU):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: sides.update({name: min(output.shape[3:], default=0)})
            )
    with torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    large = [name for name, side in sides.items() if side >= LEAST_SIDE]
    return f"0.{large[-1] if large else next(iter(sides))}"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One row of the picture. image: grey values (images, rows, columns), of any unit; saliency: of the same shape,
    between 0 and 1; positions: of the images in their series, counted from 0."""

    title: str
    image: np.ndarray
    saliency: np.ndarray
    positions: Sequence[int]

    @property
    def shown(self) -> int:
        """Which image is shown: the one with the largest saliency on the brain, where grey values are not zero."""
        return int(np.where(self.image != 0, self.saliency, 0).max(axis=(1, 2)).argmax())


def draw(path: Path, panels: Sequence[Panel], *, title: str) -> None:
    """Image | overlay, one row per panel, of the image that the panel shows, as a picture at ``path``."""
    figure = Figure(figsize=(7.5, 3.1 * len(panels) + 0.6), layout="constrained")
    for row, panel in zip(figure.subplots(len(panels), 2, squeeze=False), panels, strict=True):
        shown = panel.shown
        grey = panel.image[shown]
        low, high = np.percentile(grey, (1, 99.5))
        for axis in row:
            axis.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axis.set_axis_off()
        heat = panel.saliency[shown]
        row[1].imshow(heat, cmap=COLOURS, vmin=0, vmax=1, alpha=0.7 * heat)
        row[0].set_title(panel.title, loc="left", fontsize=10, parse_math=False)
        row[1].set_title(f"image {panel.positions[shown] + 1} with the evidence", loc="left", fontsize=10)
    bar = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), COLOURS)
    figure.colorbar(bar, ax=figure.axes, shrink=0.6, label="GradCAM++: evidence for methylation, relative")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)

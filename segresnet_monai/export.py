"""Trained networks as files for other programs, ONNX and TorchScript, and such a file as a network that predicts."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy.special import expit, softmax

from common.exported import Agreement, Exported, agreement, sealed
from common.regions import Decision
from common.runs import RunError
from segresnet_monai.bundle_transforms import Together
from segresnet_monai.config import Config
from segresnet_monai.model import TUMOUR_CLASSES

KIND = "segresnet"
INPUT, OUTPUT = "image", "logits"
TRAINING_ONLY = "vae_"
"""How the names of weights begin that only training has."""


def definition(config: Config) -> dict[str, Any]:
    """MONAI's class and arguments of a network that predicts, as a bundle's configuration has them.

    Raises ValueError for a network that is not known here.
    """
    shared = {"spatial_dims": 3, "in_channels": len(config.contrasts), "out_channels": channels(config)}
    if config.network == "pocket":
        levels = len(config.encoder_blocks)
        return {
            "_target_": "DynUNet",
            **shared,
            "kernel_size": [3] * levels,
            "strides": [1] + [2] * (levels - 1),
            "upsample_kernel_size": [2] * (levels - 1),
            "filters": [config.initial_filters] * levels,
            "dropout": config.dropout or None,
            "deep_supervision": config.supervised_levels > 1,
            "deep_supr_num": max(config.supervised_levels - 1, 1),
            "res_block": True,
        }
    blocks = {"blocks_down": list(config.encoder_blocks), "blocks_up": list(config.decoder_blocks)}
    shared |= blocks | {"init_filters": config.initial_filters}
    if config.network == "segresnet_ds":
        return {"_target_": "SegResNetDS", **shared, "norm": "instance", "dsdepth": config.supervised_levels}
    if config.network == "segresnet":
        return {"_target_": "SegResNet", **shared, "dropout_prob": config.dropout}
    raise RunError(
        f"expected a network whose definition {__name__} knows, found {config.network}: add what MONAI calls it there"
    )


def channels(config: Config) -> int:
    """Channels of a network's output."""
    return len(TUMOUR_CLASSES) + config.softmax


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What of a network's weights predicts, on the CPU."""
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith(TRAINING_ONLY)}
    return {name: value.detach().cpu().contiguous() for name, value in kept.items()}


def together(networks: Sequence[torch.nn.Module], config: Config) -> Together:
    """Plain MONAI copies of trained networks, in float32 on the CPU, without what makes training fast.

    One that is given several times is one copy, so that a file has its weights once.
    The hooks that hand small convolutions to oneDNN can be neither exported nor traced.
    """
    copies = {}
    for network in dict.fromkeys(networks):
        copy = ConfigParser({"network": definition(config)}).get_parsed_content("network")
        copy.load_state_dict(weights(network))
        copies[network] = copy
    return Together([copies[network] for network in networks]).eval()


class _Normalise(torch.nn.Module):
    """Group or instance normalisation whose means are taken axis by axis.

    ONNX Runtime's own sums all voxels of a channel in float32 one after the other: 1e-4 of a probability.
    """

    def __init__(self, layer: torch.nn.GroupNorm | torch.nn.InstanceNorm3d) -> None:
        super().__init__()
        self.groups = layer.num_groups if isinstance(layer, torch.nn.GroupNorm) else layer.num_features
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
        parts = parts - _mean(parts)
        y = (parts * torch.rsqrt(_mean(parts * parts) + self.eps)).reshape(x.shape)
        if self.weight is None:
            return y
        return y * self.weight.reshape(1, -1, 1, 1, 1) + self.bias.reshape(1, -1, 1, 1, 1)


def _mean(parts: torch.Tensor) -> torch.Tensor:
    for axis in (5, 4, 3, 2):
        parts = parts.mean(axis, keepdim=True)
    return parts


def with_exact_means(network: torch.nn.Module) -> torch.nn.Module:
    """The same network, whose normalisations are :class:`_Normalise`."""
    for level in list(network.modules()):
        for name, layer in level.named_children():
            if isinstance(layer, torch.nn.GroupNorm | torch.nn.InstanceNorm3d):
                setattr(level, name, _Normalise(layer))
    return network


def example(config: Config, *, seed: int = 0) -> torch.Tensor:
    """A window (1, contrast, x, y, z) such as networks see: noise of mean 0 and SD 1 in a ball, and 0 around it."""
    noise = torch.randn((1, len(config.contrasts), *config.crop_voxels), generator=torch.Generator().manual_seed(seed))
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in config.crop_voxels), indexing="ij")
    return noise * (sum(axis**2 for axis in axes) < 1)


def to_onnx(networks: Sequence[torch.nn.Module], config: Config, path: Path, about: Mapping[str, object]) -> None:
    """Write the networks as one ONNX file: ``image`` (1, contrast, x, y, z) of a window to ``logits``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what of torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own use of PyTorch
        program = torch.onnx.export(
            with_exact_means(together(networks, config)),
            (example(config),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
        )
    path.write_bytes(sealed(program.model_proto, about))


def to_torchscript(networks: Sequence[torch.nn.Module], config: Config, path: Path, about: str) -> None:
    """Trace the networks and write them, with what the file says of itself (JSON) as ``about.json`` inside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PyTorch will have something else one day
        with torch.inference_mode():
            traced = torch.jit.trace(together(networks, config), example(config))
        torch.jit.save(traced, path, _extra_files={"about.json": about})


def read_torchscript(path: Path) -> torch.nn.Module:
    """The traced networks, as PyTorch alone opens them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, map_location="cpu").eval()


class FromOnnx(torch.nn.Module):
    """An exported file where a network is expected. count: of the networks whose logits it returns."""

    def __init__(self, file: Exported) -> None:
        super().__init__()
        self.file, self.count = file, file.about["networks"]
        self.place = torch.nn.Parameter(torch.empty(0), requires_grad=False)  # the device of its inputs and outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.file(**{INPUT: np.ascontiguousarray(x.float().cpu())})
        return torch.from_numpy(found[OUTPUT]).to(x.device)


def load_onnx(
    path: str | Path, *, device: str | torch.device | None = None
) -> tuple[list[torch.nn.Module], Config, Decision | None]:
    """As :func:`segresnet_monai.inference.load_runs`, of an exported file. Raises RunError when it is damaged."""
    file = Exported(path, kind=KIND, model=dict, networks=int, decision=(dict, type(None)))
    config, decision = file.model(file.about["model"], Config), file.about["decision"]
    decision = None if decision is None else file.model(decision, Decision)
    return [FromOnnx(file).eval().to(device or "cpu")], config, decision


def agrees(networks: Sequence[torch.nn.Module], config: Config, exported: torch.nn.Module, path: Path) -> Agreement:
    """How near the probabilities of a written file, opened, come to the networks' own on :func:`example`."""
    window = example(config, seed=1)

    def of(*predictors: torch.nn.Module) -> np.ndarray:
        with torch.inference_mode():
            logits = np.concatenate([network(window).numpy() for network in predictors], axis=1)
        several = logits.reshape(len(networks), channels(config), *config.crop_voxels)
        return softmax(several, axis=1) if config.softmax else expit(several)

    plain = together(networks, config)
    return agreement(path, run=lambda: of(*networks), file=lambda: of(exported), plain=lambda: of(plain))

"""Trained MGMT models as files for other programs, ONNX and TorchScript, and such a file as models that predict."""

import copy
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from common.exported import Agreement, Exported, agreement, sealed
from mgmt_classifier.config import Config

KIND = "mgmt"
Models = Mapping[str, tuple[torch.nn.Module, Config]]
"""By contrast, in the order of the inputs."""


class SideBySide(torch.nn.Module):
    """Models of several contrasts: their images (1, 1, images, rows, columns), each its own, to one logit (1,) each."""

    def __init__(self, models: Models) -> None:
        super().__init__()
        copies = [copy.deepcopy(network) for network, _ in models.values()]
        for level in [level for network in copies for level in network.modules()]:
            for name, inner in level.named_children():
                if isinstance(inner, torch.nn.AdaptiveAvgPool3d):
                    setattr(level, name, _Averages(inner.output_size))
        self.networks = torch.nn.ModuleList(copies).to("cpu", memory_format=torch.contiguous_format)

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(network(image) for network, image in zip(self.networks, images, strict=True))


class _Averages(torch.nn.Module):
    """AdaptiveAvgPool3d, which ONNX has not: means of parts, which overlap where they do not divide an axis."""

    def __init__(self, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis, n in enumerate(self.size, start=2):
            length = x.shape[axis]
            parts = [(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]
            x = torch.cat([x.narrow(axis, low, high - low).mean(axis, keepdim=True) for low, high in parts], axis)
        return x


def examples(models: Models, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images such as each network sees: noise of mean 0 and SD 1."""
    drawn = torch.Generator().manual_seed(seed)
    return {
        contrast: torch.randn((1, 1, config.images, *config.image_size), generator=drawn)
        for contrast, (_, config) in models.items()
    }


def output(contrast: str) -> str:
    """Name of a contrast's output."""
    return f"logit_{contrast}"


def to_onnx(models: Models, path: Path, about: Mapping[str, object]) -> None:
    """Write the models as one ONNX file: an input of each contrast's name, and an output ``logit_<contrast>``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what of torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own use of PyTorch
        program = torch.onnx.export(
            SideBySide(models).eval(),
            tuple(examples(models).values()),
            input_names=list(models),
            output_names=[output(contrast) for contrast in models],
            dynamo=True,
            verbose=False,
        )
    path.write_bytes(sealed(program.model_proto, about))


def to_torchscript(models: Models, path: Path, about: str) -> None:
    """Trace the models and write them, with what the file says of itself (JSON) as ``about.json`` inside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PyTorch will have something else one day
        with torch.inference_mode():
            traced = torch.jit.trace(SideBySide(models).eval(), tuple(examples(models).values()))
        torch.jit.save(traced, path, _extra_files={"about.json": about})


def read_torchscript(path: Path) -> torch.nn.Module:
    """The traced models, as PyTorch alone opens them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, map_location="cpu").eval()


class FromOnnx:
    """An exported file's models."""

    def __init__(self, path: str | Path) -> None:
        """Raises RunError when the file is damaged or another's."""
        self.file = Exported(path, kind=KIND, models=dict)
        self.configs = {
            contrast: self.file.model(model["model"], Config) for contrast, model in self.file.about["models"].items()
        }

    def __call__(self, images: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Each contrast's logit, of its images (1, images, rows, columns)."""
        found = self.file(**{contrast: images[contrast][None] for contrast in self.configs})
        return {contrast: float(found[output(contrast)][0]) for contrast in self.configs}


def agrees(models: Models, path: Path) -> Agreement:
    """How near the probabilities of a written file, .onnx or .ts, come to the models' own on :func:`examples`."""
    images = examples(models, seed=1)

    def run() -> np.ndarray:
        with torch.inference_mode():
            pairs = zip(models.values(), images.values(), strict=True)
            return expit([float(network(image)) for (network, _), image in pairs])

    if path.suffix == ".ts":
        traced = read_torchscript(path)
        return agreement(path, run=run, file=lambda: expit([float(logit) for logit in traced(*images.values())]))
    exported = FromOnnx(path)
    arrays = {contrast: image[0].numpy() for contrast, image in images.items()}
    return agreement(path, run=run, file=lambda: expit([*exported(arrays).values()]))

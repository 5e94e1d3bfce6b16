"""Probabilities of a methylated MGMT promoter from trained models."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from common.files import check_archive
from common.networks import read_model_config, require_weights
from common.precision import resolve_for_prediction
from common.runs import RunError
from mgmt_classifier.config import Config
from mgmt_classifier.data import Entry, network_input
from mgmt_classifier.model import build_classifier


def build(config: Config) -> torch.nn.Sequential:
    """The network that a configuration describes, with its initial weights."""
    return build_classifier(
        backbone=config.backbone, filters=config.filters, first_stride=config.first_stride, seed=config.seed
    )


def load(config: Config, weights: str | Path, device: str | torch.device | None = None) -> torch.nn.Sequential:
    """The network with trained weights, ready to predict.

    Raises RunError when the file is damaged, holds anything but finite tensors, or fits another network.
    """
    try:
        network = build(config)
        check_archive(weights)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ValueError("NaN or infinity among them")
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{weights}: expected intact weights of this configuration's {config.backbone}, found: {error}"
        ) from None
    return network.eval().to(device or default_device())


def load_run(folder: str | Path, *, device: str | torch.device | None = None) -> tuple[torch.nn.Sequential, Config]:
    """Network and configuration of a run's folder.

    Raises ValueError when the folder is not an MGMT model's run, or has no (intact) trained weights yet.
    """
    folder = Path(folder)
    config = read_model_config(folder, Config)
    weights = folder / "checkpoints" / f"{config.keep}.pt"
    require_weights(folder, weights)
    return load(config, weights, device), config


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The precision that a configuration asks of a prediction on a device, as a context."""
    precision = resolve_for_prediction(
        config.precision, mixed_precision=config.mixed_precision, gpu=device.type == "cuda"
    )
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def logits(network: torch.nn.Module, entries: Sequence[Entry], config: Config) -> torch.Tensor:
    """float32 (n,) on the CPU, of prepared patients in their order, ``batch_size`` at a time.

    Raises RunError when one is not finite.
    """
    device = next(network.parameters()).device
    found = []
    with torch.inference_mode(), autocast(config, device):
        for start in range(0, len(entries), config.batch_size):
            batch = entries[start : start + config.batch_size]
            images = [network_input(entry.open(), entry.geometry, intensity=config.intensity) for entry in batch]
            found.append(network(to_device(torch.from_numpy(np.stack(images)), device)).float().cpu())
    together = torch.cat(found) if found else torch.empty(0)
    if wrong := [entry.id for entry, finite in zip(entries, together.isfinite(), strict=True) if not finite]:
        raise RunError(f"expected finite outputs of the network, found NaN or infinity for {', '.join(wrong)}")
    return together


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images (n, 1, images, rows, columns) where and as the network's convolutions prefer them."""
    return images.to(device).contiguous(memory_format=torch.channels_last_3d)


def probability(logits: torch.Tensor) -> np.ndarray:
    """float64 (n,): in float32, two patients of whom the network is sure would tie at 1.

    SciPy's, because PyTorch's gives equal logits unequal probabilities in the last digit, by their place in the array.
    """
    return expit(logits.double().numpy())


def predict(run_folder: str | Path, entries: Sequence[Entry]) -> Iterator[tuple[str, float]]:
    """Patient id and probability of methylation, by a run's kept weights. Raises ValueError as :func:`load_run`."""
    network, config = load_run(run_folder)
    found = probability(logits(network, entries, config))
    yield from zip((entry.id for entry in entries), found.tolist(), strict=True)

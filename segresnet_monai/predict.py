"""Whole volumes through a trained SegResNet, and the command for one's own patient.

``python -m segresnet_monai.predict --run RUN --flair F --t1 T --t1ce C --t2 T2 --output seg.nii.gz``
"""

import pickle
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from monai.inferers import sliding_window_inference

from common.files import check_archive
from common.patient import PatientArguments, report, segment
from common.prepared import Entry
from common.recipe import Volume
from common.runs import RunError, read_model_config
from segresnet_monai.config import Config
from segresnet_monai.model import build_segresnet


def build(config: Config) -> torch.nn.Module:
    """The network that a configuration describes, with its initial weights."""
    return build_segresnet(
        in_channels=len(config.contrasts),
        initial_filters=config.initial_filters,
        encoder_blocks=config.encoder_blocks,
        decoder_blocks=config.decoder_blocks,
        dropout=config.dropout,
        initial_probability=config.initial_probability,
        softmax=config.softmax,
        vae_crop_voxels=config.crop_voxels if config.vae else None,
        recompute_activations=config.recompute_activations,
        seed=config.seed,
    )


def load(config: Config, weights: str | Path, device: str | torch.device | None = None) -> torch.nn.Module:
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
            f"{weights}: expected intact weights of this configuration's SegResNet, found: {error}"
        ) from None
    return network.eval().to(device or default_device())


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def probabilities(network: torch.nn.Module, volume: Volume, config: Config) -> torch.Tensor:
    """Probabilities (NCR/ED/ET, x, y, z), float32 on the network's device, over the volume's brain box.

    Windows of ``crop_voxels`` slide over the brain's bounding box only: outside it every contrast is zero and there is
    no tumour. Where the box is smaller than a window, the window reaches into that background, as crops do in training.
    Raises RunError when the network's outputs are not finite.
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(volume.image())[None].to(device)
    autocast = torch.autocast(device.type, torch.float16, enabled=config.mixed_precision and device.type == "cuda")
    with torch.inference_mode(), autocast:
        logits = sliding_window_inference(
            image, config.crop_voxels, sw_batch_size=1, predictor=network, overlap=config.window_overlap
        )
        logits = logits[0].float()
        if not logits.isfinite().all():
            raise RunError(f"{volume.id}: expected finite outputs of the network, found NaN or infinity")
        return logits.softmax(0)[1:] if config.softmax else logits.sigmoid()


def decode_labels(probability: np.ndarray, threshold: float | None) -> np.ndarray:
    """(NCR/ED/ET, ...) to classes: the most probable label where its probability exceeds the threshold, else 0.

    threshold: None takes the background's probability, which a softmax's three labels leave: the argmax of all four.
    """
    labels = probability.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    labels[probability.max(axis=0) <= (1 - probability.sum(axis=0) if threshold is None else threshold)] = 0
    return labels


def predict_volume(network: torch.nn.Module, volume: Volume, config: Config) -> np.ndarray:
    """Classes 0 to 3, uint8 (x, y, z) on the scan's own grid.

    Where the network works on another voxel size, its probabilities are interpolated linearly before they are decoded.
    """
    probability = probabilities(network, volume, config).cpu().numpy()
    probability, region = volume.on_scan(probability, volume.box)
    labels = np.zeros(volume.source_shape, dtype=np.uint8)
    labels[region] = decode_labels(probability, config.label_threshold)
    return labels


def predict(network: torch.nn.Module, entries: Iterable[Entry], config: Config) -> Iterator[tuple[str, np.ndarray]]:
    """Case id and labels uint8 (x, y, z) on the scan's own grid, one prepared subject after the other."""
    for entry in entries:
        yield entry.id, predict_volume(network, entry.open(), config)


def load_run(folder: str | Path, *, device: str | torch.device | None = None) -> tuple[torch.nn.Module, Config]:
    """Network and configuration of a run's folder.

    Raises ValueError when the folder is not a SegResNet's run, or has no trained weights yet.
    """
    folder = Path(folder)
    config = read_model_config(folder, Config)
    weights = folder / "checkpoints" / f"{config.checkpoint}.pt"
    if not weights.exists():
        raise ValueError(f"{folder}: expected trained weights at {weights}, found none; has the run finished?")
    return load(config, weights, device), config


@dataclass(frozen=True, kw_only=True)
class Arguments(PatientArguments):
    """Segment one's own patient with a trained SegResNet: four scans in, one segmentation and its volumes in ml out.

    The scans must be as in BraTS: co-registered on one grid, skull-stripped (background exactly 0), 1 mm isotropic; the
    order and direction of the axes are read from the files. Research software: not for diagnosis.
    """

    device: str | None = None
    """Torch device; by default the GPU where there is one."""


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m segresnet_monai.predict")
    try:
        network, config = load_run(arguments.run, device=arguments.device)
        volumes_ml = segment(arguments, config.recipe, lambda volume: predict_volume(network, volume, config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    report(volumes_ml, arguments.output)


if __name__ == "__main__":
    main()

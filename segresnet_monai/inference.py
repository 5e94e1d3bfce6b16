"""Whole volumes through a trained SegResNet."""

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from common.files import check_archive, read_json, typed
from common.flips import averaged_flips
from common.labels import REGIONS
from common.networks import read_model_config, require_weights
from common.precision import resolve_for_prediction
from common.prepared import Entry
from common.recipe import Volume
from common.regions import Decision, decode_labels, decode_regions
from common.runs import RunError
from common.words import listed
from segresnet_monai.config import DECISION, NETWORKS, Config
from segresnet_monai.model import build_pocket, build_segresnet, build_segresnet_ds
from segresnet_monai.start import KEPT


def build(config: Config) -> torch.nn.Module:
    """The network that a configuration describes, with its initial weights."""
    shared = {
        "in_channels": len(config.contrasts),
        "initial_probability": config.initial_probability,
        "softmax": config.softmax,
        "seed": config.seed,
    }
    blocks = {"encoder_blocks": config.encoder_blocks, "decoder_blocks": config.decoder_blocks}
    if config.network == "pocket":
        return build_pocket(
            filters=config.initial_filters,
            levels=len(config.encoder_blocks),
            dropout=config.dropout,
            supervised_levels=config.supervised_levels,
            **shared,
        )
    if config.network == "segresnet_ds":
        return build_segresnet_ds(
            initial_filters=config.initial_filters,
            supervised_levels=config.supervised_levels,
            recompute_activations=config.recompute_activations,
            **blocks,
            **shared,
        )
    return build_segresnet(
        initial_filters=config.initial_filters,
        dropout=config.dropout,
        vae_crop_voxels=config.crop_voxels if config.vae else None,
        recompute_activations=config.recompute_activations,
        **blocks,
        **shared,
    )


def load(config: Config, weights: str | Path, device: str | torch.device | None = None) -> torch.nn.Module:
    """The network with trained weights, ready to predict.

    Raises RunError when the file is damaged, holds anything but finite tensors, or fits another network.
    """
    try:
        network = build(config)
        network.load_state_dict(read_weights(weights))
        if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
            raise ValueError("NaN or infinity among them")
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{weights}: expected intact weights of this configuration's SegResNet, found: {error}"
        ) from None
    return network.eval().to(device or default_device())


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """A network's parameters by name, on the CPU. Raises what zip, pickle and torch raise of a damaged file."""
    check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


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
    precision = resolve_for_prediction(
        config.precision, mixed_precision=config.mixed_precision, gpu=device.type == "cuda"
    )
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    with torch.inference_mode(), autocast:
        total = sum(_probabilities(network, image, volume.id, config, flips) for flips in averaged_flips(config))
        return total / len(averaged_flips(config))


def _probabilities(
    network: torch.nn.Module, image: torch.Tensor, case: str, config: Config, flips: tuple[int, ...]
) -> torch.Tensor:
    flipped = [axis + 2 for axis in flips]
    logits = sliding_window_inference(
        image.flip(flipped) if flips else image,
        config.crop_voxels,
        sw_batch_size=1,
        predictor=network,
        overlap=config.window_overlap,
        mode=config.window_weights,
    )
    logits = (logits.flip(flipped) if flips else logits)[0].float()
    if not logits.isfinite().all():
        raise RunError(f"{case}: expected finite outputs of the network, found NaN or infinity")
    several = logits.unflatten(0, (getattr(network, "count", 1), -1))  # an exported file may hold several networks
    return (several.softmax(1)[:, 1:] if config.softmax else several.sigmoid()).mean(0)


def decode(probability: np.ndarray, config: Config, decision: Decision | None = None, *, voxel_ml: float) -> np.ndarray:
    """Probabilities of the network's channels (channel, x, y, z) to classes uint8 (x, y, z).

    decision: of the regions; None takes the configuration's threshold for all three. Labels have no other than that.
    """
    if config.targets == "regions":
        plain = Decision(thresholds=(config.probability_threshold,) * len(REGIONS))
        return decode_regions(probability, decision or plain, voxel_ml=voxel_ml)
    return decode_labels(probability, config.label_threshold)


def predict_volume(
    networks: torch.nn.Module | Sequence[torch.nn.Module],
    volume: Volume,
    config: Config,
    decision: Decision | None = None,
) -> np.ndarray:
    """Classes 0 to 3, uint8 (x, y, z) on the scan's own grid; of several networks, by the mean of their probabilities.

    A network that is given several times counts as often. Where networks work on another voxel size, probabilities are
    interpolated linearly before they are decoded.
    """
    networks = [networks] if isinstance(networks, torch.nn.Module) else networks
    probability, region = volume.on_working_grid(mean_probabilities(networks, volume, config), volume.box)
    labels = decode(probability, config, decision, voxel_ml=volume.placement.voxel_ml)
    return volume.to_source(labels, region)


def mean_probabilities(networks: Sequence[torch.nn.Module], volume: Volume, config: Config) -> np.ndarray:
    """As :func:`probabilities`, of several networks, each of which counts as often as it is given."""
    each = (
        times * probabilities(network, volume, config).cpu().numpy() for network, times in Counter(networks).items()
    )
    return sum(each) / len(networks)


def predict(
    networks: torch.nn.Module | Sequence[torch.nn.Module],
    entries: Iterable[Entry],
    config: Config,
    decision: Decision | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Case id and labels uint8 (x, y, z) on the scan's own grid, one prepared subject after the other."""
    for entry in entries:
        yield entry.id, predict_volume(networks, entry.open(), config, decision)


def load_run(folder: str | Path, *, device: str | torch.device | None = None) -> tuple[torch.nn.Module, Config]:
    """Network and configuration of a run's folder.

    Raises ValueError when the folder is not a SegResNet's run, or has no trained weights yet.
    """
    folder = Path(folder)
    config = read_model_config(folder, Config)
    weights = folder / "checkpoints" / f"{config.checkpoint}.pt"
    require_weights(folder, weights)
    return load(config, weights, device), config


def load_runs(
    folder: str | Path, *, device: str | torch.device | None = None
) -> tuple[list[torch.nn.Module], Config, Decision | None]:
    """The networks of a run's folder, which predict as one, their configuration and how their regions are decided.

    Of a single training's run, its network and no decision. Where a training has kept the weights that it started from
    (``segresnet_monai.start.KEPT``), they are one more network, as often as there are trainings. Raises ValueError as
    :func:`load_run`, and RunError when the trainings are not of one configuration, some have kept their start and
    others have not, or the decision is damaged.
    """
    folder = Path(folder)
    if not (folder / NETWORKS).exists():
        return *load_together([folder], device=device), None
    names = read_json(folder / NETWORKS, list)
    if not names:
        raise RunError(f"{folder / NETWORKS}: expected the folders of networks, found none")
    networks, config = load_together([folder / name for name in names], device=device)
    try:
        decision = typed(Decision, read_json(folder / DECISION, dict))
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / DECISION}: expected how regions are decided, found: {error}") from error
    return networks, config, decision


def load_together(
    folders: Sequence[Path], *, device: str | torch.device | None = None
) -> tuple[list[torch.nn.Module], Config]:
    """The networks of one or more trainings' folders, as :func:`load_runs` has them, and their configuration.

    Where trainings keep their start, it counts a third: each trained network stands twice beside it (docs/LOG.md).
    """
    loaded = [load_run(folder, device=device) for folder in folders]
    configs = [config for _, config in loaded]
    where = listed(list(map(str, folders)))
    if any(config != configs[0] for config in configs):
        raise RunError(f"{where}: expected networks of one configuration, found others")
    networks = [network for network, _ in loaded]
    starts = [folder / KEPT for folder in folders if (folder / KEPT).exists()]
    if starts and len(starts) < len(folders):
        raise RunError(f"{where}: expected {KEPT} in all or in none, found it in {len(starts)} of {len(folders)}")
    if starts:
        networks = [*networks, *networks, *[load(configs[0], starts[0], device)] * len(starts)]
    return networks, configs[0]

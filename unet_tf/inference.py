"""Whole volumes through a trained U-Net."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
from scipy.special import expit

from common.files import check_seal
from common.flips import averaged_flips
from common.labels import CLASSES, REGIONS
from common.networks import read_model_config, require_weights
from common.prepared import Entry
from common.recipe import Volume
from common.regions import Decision, decode_regions
from common.runs import RunError
from common.volumes import Box
from unet_tf.config import Config
from unet_tf.data import as_input, network_input, network_labels
from unet_tf.devices import policy
from unet_tf.model import build_unet
from unet_tf.postprocess import clean, decode_labels
from unet_tf.windows import slide


def build(config: Config) -> keras.Model:
    """The network that a configuration describes, with its initial weights."""
    return build_unet(
        spatial_dims=config.spatial_dims,
        in_channels=config.channels,
        filters=config.filters,
        levels=config.levels,
        dropout=config.dropout,
        normalisation=config.normalisation,
        regions=config.targets == "regions",
        initial_probability=config.initial_probability,
        precision=policy(config),
        seed=config.seed,
    )


def load(config: Config, weights: str | Path) -> keras.Model:
    """The network with trained weights (``.weights.h5``), ready to predict.

    The network is built from the configuration and only numbers are read, so no file can bring code along. Raises
    RunError when the file is damaged, holds anything but finite numbers, or fits another network. A file without a
    digest, as earlier versions wrote it, is taken as it is.
    """
    try:
        check_seal(Path(weights))
        network = build(config)
        # Left alone, Keras would compile with XLA on a TensorFlow GPU.
        network.jit_compile = config.jit_compile or keras.backend.backend() == "jax"
        _check_numbers_only(Path(weights), most=max(math.prod(v.shape) for v in network.variables))
        with warnings.catch_warnings():
            # Before its error Keras warns of what it will not load.
            warnings.simplefilter("ignore", UserWarning)
            network.load_weights(weights)
        if not all(np.isfinite(value).all() for value in network.get_weights()):
            raise ValueError("NaN or infinity among them")
    except Exception as error:  # h5py, HDF5 and Keras have a dozen ways to say that bytes are wrong
        raise RunError(f"{weights}: expected intact weights of this configuration's U-Net, found: {error}") from None
    return network


def probabilities(network: keras.Model, volume: Volume, config: Config) -> np.ndarray:
    """Probabilities (class or region, x, y, z), float32, over what the network sees of a subject (:func:`seen`).

    A network of random crops has windows of their size slide over the brain's box: outside it every contrast is zero
    and there is no tumour. Raises RunError when the outputs are not finite.
    """
    if config.crop_voxels is None:
        return _probabilities(_outputs(network, network_input(volume, config), config), volume.id, config)
    image, flips = volume.image(), averaged_flips(config)
    total = sum(_of_windows(network, image, volume.id, config, axes) for axes in flips)
    return total / np.float32(len(flips))


def _of_windows(
    network: keras.Model, image: np.ndarray, case: str, config: Config, flips: tuple[int, ...]
) -> np.ndarray:
    axes = [axis + 1 for axis in flips]
    outputs = slide(
        lambda window: _outputs(network, as_input(window, config), config),
        np.flip(image, axes),
        config.crop_voxels,
        overlap=config.window_overlap,
        weights=config.window_weights,
    )
    return _probabilities(np.flip(outputs, axes), case, config)


def _outputs(network: keras.Model, seen: np.ndarray, config: Config) -> np.ndarray:
    """What the network says of one sample, (channel, x, y, z)."""
    predicted = np.asarray(network.predict_on_batch(seen))
    return np.moveaxis(predicted[0], -1, 0) if config.spatial_dims == 3 else predicted.transpose(3, 1, 2, 0)


def _probabilities(outputs: np.ndarray, case: str, config: Config) -> np.ndarray:
    if not np.isfinite(outputs).all():
        raise RunError(f"{case}: expected finite outputs of the network, found NaN or infinity")
    return expit(outputs) if config.targets == "regions" else outputs


def seen(volume: Volume, config: Config) -> Box:
    """The part of the grid that a network predicts: with random crops the brain's box, else all of it."""
    return tuple(slice(0, n) for n in volume.grid_shape) if config.crop_voxels is None else volume.box


def on_scan(grid: np.ndarray, volume: Volume, config: Config, threshold: float | None = None) -> np.ndarray:
    """Probabilities (channel, x, y, z) of what the network sees as classes, uint8 (x, y, z), on the scan's own grid.

    Probabilities are interpolated linearly to the working grid and decoded there; outside the crop is background.
    threshold: of classes as :func:`unet_tf.postprocess.decode_labels` takes it; of regions None is 0.5.
    """
    return volume.to_source(*_decoded(grid, volume, config, threshold))


def postprocess(grid: np.ndarray, volume: Volume, config: Config) -> np.ndarray:
    """The same, thresholded as configured and cleaned."""
    labels, region = _decoded(grid, volume, config, config.probability_threshold)
    whole = np.zeros(volume.placement.shape, dtype=np.uint8)
    whole[region] = labels
    cleaned = clean(
        whole,
        opening_voxels=config.opening_voxels,
        closing_voxels=config.closing_voxels,
        minimum_component_voxels=config.minimum_component_voxels,
    )
    return volume.placement.to_source(cleaned)


def _decoded(grid: np.ndarray, volume: Volume, config: Config, threshold: float | None) -> tuple[np.ndarray, Box]:
    """Classes of the box of the working grid that the network sees, and the box."""
    resampled, region = volume.on_working_grid(grid, seen(volume, config))
    return decode(resampled, config, threshold, voxel_ml=volume.placement.voxel_ml), region


def decode(probability: np.ndarray, config: Config, threshold: float | None, *, voxel_ml: float) -> np.ndarray:
    """Probabilities (channel, x, y, z) to classes uint8 (x, y, z)."""
    if config.targets == "classes":
        return decode_labels(probability, threshold)
    decision = Decision() if threshold is None else Decision(thresholds=(threshold,) * len(REGIONS))
    return decode_regions(probability, decision, voxel_ml=voxel_ml)


def predict_volume(network: keras.Model, volume: Volume, config: Config) -> np.ndarray:
    """Classes after post-processing, uint8 (x, y, z), on the scan's own grid."""
    return postprocess(probabilities(network, volume, config), volume, config)


def predict(
    network: keras.Model, entries: Iterable[Entry], config: Config
) -> Iterator[tuple[str, np.ndarray, Callable[[], dict[str, np.ndarray]]]]:
    """Case id, labels uint8 (x, y, z) on the scan's own grid, and what makes two label maps to compare them with.

    ``before_postprocessing``: argmax, or regions above 0.5, alone. ``geometric_ceiling``: the truth after the crop, the
    resizing and the way back, the best that any network on this grid can do.
    """
    for entry in entries:
        volume = entry.open()
        grid = probabilities(network, volume, config)
        yield entry.id, postprocess(grid, volume, config), partial(_views, grid, volume, config)


def _views(grid: np.ndarray, volume: Volume, config: Config) -> dict[str, np.ndarray]:
    return {"before_postprocessing": on_scan(grid, volume, config), "geometric_ceiling": ceiling(volume, config)}


def ceiling(volume: Volume, config: Config) -> np.ndarray:
    """The truth as this network's grid holds it, back on the scan's own grid: classes uint8 (x, y, z)."""
    labels = network_labels(volume, config)
    truth = labels[0] if config.spatial_dims == 3 else np.moveaxis(labels, 0, -1)
    whole = tuple(slice(0, n) for n in volume.grid_shape)
    classes = (truth == np.arange(len(CLASSES)).reshape(-1, 1, 1, 1)).astype(np.float32)
    resampled, region = volume.on_working_grid(classes, whole)
    return volume.to_source(decode_labels(resampled), region)


def load_run(folder: str | Path) -> tuple[keras.Model, Config]:
    """Network and configuration of a run's folder.

    Raises ValueError when the folder is not a U-Net's run, or has no (intact) trained weights yet.
    """
    folder = Path(folder)
    config = read_model_config(folder, Config)
    weights = folder / "checkpoints" / f"{config.checkpoint}.weights.h5"
    require_weights(folder, weights)
    return load(config, weights), config


def _check_numbers_only(path: Path, *, most: int) -> None:
    """Raises ValueError unless every dataset of the HDF5 file lies in it and holds at most ``most`` plain numbers."""
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"a file called {path.name} where a .weights.h5 was expected (a .keras file may carry code)")

    def problem(place: str, link: object) -> str | None:
        if not isinstance(link, h5py.HardLink):
            return f"{place} is a link out of the file or to another place in it"
        item = file[place]
        if isinstance(item, h5py.Group):
            return None
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
            return f"{place} holds {item.dtype}, not numbers"
        if item.external or item.is_virtual:
            return f"{place} lies in another file"
        if item.size is None or item.size > most:
            return f"{place} claims {item.size} numbers, the network's largest weights have {most}"
        return None

    with h5py.File(path) as file:
        if found := file.visititems_links(problem):
            raise ValueError(found)

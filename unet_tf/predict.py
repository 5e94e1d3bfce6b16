"""Whole volumes through a trained U-Net, and the command for one's own patient.

``python -m unet_tf.predict --run RUN --flair F --t1 T --t1ce C --t2 T2 --output seg.nii.gz``
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import tyro

from common.files import check_seal
from common.labels import CLASSES
from common.patient import PatientArguments, report, segment
from common.prepared import Entry
from common.recipe import Volume
from common.runs import RunError, read_model_config
from unet_tf.config import Config
from unet_tf.data import network_input, network_labels
from unet_tf.model import build_unet
from unet_tf.postprocess import clean, decode_labels


def build(config: Config) -> keras.Model:
    """The network that a configuration describes, with its initial weights."""
    return build_unet(
        spatial_dims=config.spatial_dims,
        in_channels=config.channels,
        filters=config.filters,
        levels=config.levels,
        dropout=config.dropout,
        initial_probability=config.initial_probability,
        precision=config.precision,
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
    """Softmax probabilities (class, x, y, z), float32, over the grid that the network sees.

    Raises RunError when they are not finite.
    """
    predicted = np.asarray(network.predict_on_batch(network_input(volume, config)))
    if not np.isfinite(predicted).all():
        raise RunError(f"{volume.id}: expected finite outputs of the network, found NaN or infinity")
    return np.moveaxis(predicted[0], -1, 0) if config.spatial_dims == 3 else predicted.transpose(3, 1, 2, 0)


def on_scan(grid: np.ndarray, volume: Volume, threshold: float | None = None) -> np.ndarray:
    """Probabilities (class, x, y, z) of the grid as classes, uint8 (x, y, z), on the scan's own grid.

    Probabilities are interpolated linearly before they are decoded; outside the crop is background.
    """
    resampled, region = volume.on_scan(grid, tuple(slice(0, n) for n in volume.grid_shape))
    labels = np.zeros(volume.source_shape, dtype=np.uint8)
    labels[region] = decode_labels(resampled, threshold)
    return labels


def postprocess(grid: np.ndarray, volume: Volume, config: Config) -> np.ndarray:
    """Probabilities (class, x, y, z) of the grid as thresholded, cleaned classes uint8 (x, y, z) on the scan's grid."""
    return clean(
        on_scan(grid, volume, config.probability_threshold),
        opening_voxels=config.opening_voxels,
        closing_voxels=config.closing_voxels,
        minimum_component_voxels=config.minimum_component_voxels,
    )


def predict_volume(network: keras.Model, volume: Volume, config: Config) -> np.ndarray:
    """Classes after post-processing, uint8 (x, y, z), on the scan's own grid."""
    return postprocess(probabilities(network, volume, config), volume, config)


def predict(
    network: keras.Model, entries: Iterable[Entry], config: Config
) -> Iterator[tuple[str, np.ndarray, Callable[[], dict[str, np.ndarray]]]]:
    """Case id, labels uint8 (x, y, z) on the scan's own grid, and what makes two label maps to compare them with.

    ``before_postprocessing``: argmax alone. ``geometric_ceiling``: the truth after the crop, the resizing and the way
    back, the best that any network on this grid can do.
    """
    for entry in entries:
        volume = entry.open()
        grid = probabilities(network, volume, config)
        yield entry.id, postprocess(grid, volume, config), partial(_views, grid, volume, config)


def _views(grid: np.ndarray, volume: Volume, config: Config) -> dict[str, np.ndarray]:
    return {"before_postprocessing": on_scan(grid, volume), "geometric_ceiling": ceiling(volume, config)}


def ceiling(volume: Volume, config: Config) -> np.ndarray:
    """The truth as this network's grid holds it, back on the scan's own grid: classes uint8 (x, y, z)."""
    labels = network_labels(volume, config)
    truth = labels[0] if config.spatial_dims == 3 else np.moveaxis(labels, 0, -1)
    return on_scan((truth == np.arange(len(CLASSES)).reshape(-1, 1, 1, 1)).astype(np.float32), volume)


def load_run(folder: str | Path) -> tuple[keras.Model, Config]:
    """Network and configuration of a run's folder.

    Raises ValueError when the folder is not a U-Net's run, or has no (intact) trained weights yet.
    """
    folder = Path(folder)
    config = read_model_config(folder, Config)
    weights = folder / "checkpoints" / f"{config.checkpoint}.weights.h5"
    if not weights.exists():
        raise ValueError(f"{folder}: expected trained weights at {weights}, found none; has the run finished?")
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


@dataclass(frozen=True, kw_only=True)
class Arguments(PatientArguments):
    """Segment one's own patient with a trained U-Net: the scans that it was trained on in, one segmentation out.

    The scans must be as in BraTS: co-registered on one grid of 240 x 240 x 155 voxels of 1 mm, skull-stripped
    (background exactly 0); the order and direction of the axes are read from the files. Outside the network's crop
    everything is background. Research software: not for diagnosis.
    """


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m unet_tf.predict")
    try:
        network, config = load_run(arguments.run)
        volumes_ml = segment(arguments, config.recipe, lambda volume: predict_volume(network, volume, config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    report(volumes_ml, arguments.output)


if __name__ == "__main__":
    main()

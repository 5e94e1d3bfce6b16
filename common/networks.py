"""Whose network a run's folder holds: its configuration and weights, or the command that reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from common.files import read_json, typed
from common.runs import History, RunError

NETWORKS = {
    "segresnet_monai": ("a SegResNet", "encoder_blocks"),
    "unet_tf": ("a U-Net", "spatial_dims"),
    "mgmt_classifier": ("an MGMT classifier", "backbone"),
}
"""By package, its network in words and a setting that no other's have."""

EXPORTED = "model.onnx"
"""Name of an exported network's file, in a folder that is no run's."""

Config = TypeVar("Config")


def package_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The package whose network a run's folder holds, None where it does not say. config: what its config.json says."""
    if (folder / "ensemble.json").exists():
        return "mgmt_classifier"
    model = config.get("model")
    if isinstance(model, dict) and isinstance(model.get("network"), dict):  # several networks as one
        model = model["network"]
    return next((package for package, (_, own) in NETWORKS.items() if isinstance(model, dict) and own in model), None)


def require_run_of(package: str, folder: Path) -> None:
    """Raises RunError where a run's folder holds another package's network, with the command that reads it."""
    path = folder / "config.json"
    found = package_of(folder, read_json(path, dict) if path.exists() else {})
    if found not in (None, package):
        raise RunError(
            f"{folder}: expected the run of {NETWORKS[package][0]}, found that of {NETWORKS[found][0]}: "
            f"python -m {found}.predict reads it"
        )


def read_model_config(folder: Path, config: type[Config]) -> Config:
    """The model's configuration that a run's folder holds.

    Raises RunError when the folder is not a run's, or is the run of a model with other settings.
    """
    require_run_of(config.__module__.partition(".")[0], folder)
    path = folder / "config.json"
    if not path.exists():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        if (folder / EXPORTED).is_file():
            found = f"an exported network: name its file, {folder / EXPORTED}"
        raise RunError(f"{folder}: expected the folder of a run, found {found}")
    settings = read_json(path, dict).get("model")
    try:
        if not isinstance(settings, dict):
            raise ValueError("no settings of a model")
        return typed(config, settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{path}: expected settings of {config.__module__}, found: {error}") from None


def require_weights(folder: Path, weights: Path) -> None:
    """Raises ValueError where a run has no trained weights there, with how far its training has come."""
    if weights.exists():
        return
    done = History(folder / "history.csv").rows()
    why = f"it has {len(done)} epochs, and the command that began it goes on" if done else "has the run finished?"
    raise ValueError(f"{folder}: expected trained weights at {weights}, found none; {why}")

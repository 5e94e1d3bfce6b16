"""A finished run as what is exported of it: its networks, and what a prediction needs to know."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.files import read_json
from common.flips import averaged_flips
from common.labels import CLASSES, REGIONS
from common.loading import loading
from common.networks import package_of, read_model_config, require_weights
from common.runs import RunError, version
from experiments.base import results
from experiments.base.results import Result
from experiments.base.runs import read as run_file
from experiments.base.trainings import given
from experiments.mgmt.study import PREDICTIONS
from experiments.segmentation.finished import read_run, require_finished

SEGRESNET, UNET, MGMT = "segresnet", "unet", "mgmt"
PARTS = ("train", "validation", "test")
NAMED = 3
"""Networks that are named where more are found."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """kind: of network. networks: what the framework has loaded, as its package's export takes it. about: what a file
    says of itself. results: of its summary.json, where it has one."""

    folder: Path
    kind: str
    networks: Any
    about: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        return self.about["run"]


def kind_of(folder: Path) -> str:
    """Which kind of network a run's folder holds. Raises RunError when it is none's, with what it is instead."""
    config, damaged = run_file(folder, "config.json", dict)
    model = config.get("model")
    if package_of(folder, config) == "mgmt_classifier":
        return MGMT
    try:
        return read_run(folder).kind
    except RunError as error:
        below = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("checkpoints"))
        there = (
            f"; networks lie below it, in {', '.join(below[:NAMED])}{', ...' * (len(below) > NAMED)}" if below else ""
        )
        if damaged or isinstance(model, dict):
            raise RunError(f"{error}{there}") from None
        what = f"one of {config['experiment']}, which keeps none" if "experiment" in config else "no run"
        trackers = "; mlflow and wandb take such a run too" if config else ""
        raise RunError(f"{folder}: expected the run of a network, found {what}{there}{trackers}") from None


def require_complete(folder: Path) -> None:
    """Raises RunError when the run is none, or has not ended."""
    kind = kind_of(folder)
    if kind == MGMT and not (folder / "ensemble.json").exists():
        if not (folder / PREDICTIONS).exists():
            raise RunError(f"{folder}: expected a finished model, found no {PREDICTIONS}: has the training ended?")
    elif kind == MGMT:
        for contrast in given(folder, "ensemble", weights=dict)["weights"]:
            require_complete(folder / contrast)
    else:
        require_finished(read_run(folder))


def read(folder: Path) -> Source:
    """Load a run. Raises RunError when it is not finished, or damaged."""
    require_complete(folder)
    kind = kind_of(folder)
    summary = folder / "summary.json"
    shared = {
        "kind": kind,
        "run": f"{given(folder).get('experiment', folder.resolve().parent.name)}/{folder.resolve().name}",
        "version": version(),
        "synthetic": bool(given(folder, "data").get("synthetic")),
        "subjects": {part: len(given(folder, "split", **dict.fromkeys(PARTS, list))[part]) for part in PARTS},
    }
    load = {SEGRESNET: _segresnet, UNET: _unet, MGMT: _mgmt}[kind]
    try:
        networks, about = load(folder)
    except ValueError as error:
        raise RunError(str(error)) from error
    found = tuple(results.read_summary(summary)) if summary.exists() else ()
    return Source(folder=folder, kind=kind, networks=networks, about=shared | about, results=found)


def _segresnet(folder: Path) -> tuple[Any, dict]:
    with loading("PyTorch"):
        from segresnet_monai.inference import load_runs

    networks, config, decision = load_runs(folder, device="cpu")
    # What is exported computes in float32, whatever the network was trained in.
    config = replace(config, precision=None, mixed_precision=False)
    outputs = [*REGIONS] if config.targets == "regions" else [*CLASSES[0 if config.softmax else 1 :]]
    about = _segmentation(config, outputs, config.crop_voxels) | {
        "networks": len(networks),
        "averaged_flips": averaged_flips(config),
        "decision": None if decision is None else asdict(decision),
    }
    return (networks, config, decision), about


def _unet(folder: Path) -> tuple[Any, dict]:
    from unet_tf.config import Config

    os.environ["KERAS_BACKEND"] = backend = read_run(folder).backend
    with loading("Keras"):
        from unet_tf.inference import load

    config = replace(read_model_config(folder, Config), precision="float32")
    weights = folder / "checkpoints" / f"{config.checkpoint}.weights.h5"
    require_weights(folder, weights)
    network = load(config, weights)
    outputs = [*REGIONS] if config.targets == "regions" else [*CLASSES]
    about = _segmentation(config, outputs, config.grid_voxels) | {
        "networks": 1,
        "averaged_flips": averaged_flips(config),
        "backend": backend,
    }
    return (network, config), about


def _segmentation(config: Any, outputs: list[str], window_voxels: tuple[int, ...]) -> dict:
    return {
        "contrasts": config.contrasts,
        "outputs": outputs,
        "window_voxels": window_voxels,
        "grid": asdict(config.recipe.grid),
        "recipe": asdict(config.recipe),
        "model": asdict(config),
    }


def _mgmt(folder: Path) -> tuple[Any, dict]:
    with loading("PyTorch"):
        from mgmt_classifier.inference import load_run

    if (folder / "ensemble.json").exists():
        ensemble = given(folder, "ensemble", weights=dict, threshold=float)
        weights, threshold = ensemble["weights"], ensemble["threshold"]
        folders = {contrast: folder / contrast for contrast in weights}
    else:
        threshold = given(folder, "threshold", threshold=float)["threshold"]
        contrast = given(folder, model=dict)["model"]["contrast"]
        weights, folders = {contrast: 1.0}, {contrast: folder}
    networks = {contrast: load_run(own, device="cpu") for contrast, own in folders.items()}
    models = {
        contrast: {
            "model": asdict(config),
            "weight": weights[contrast],
            "threshold": given(folders[contrast], "threshold", threshold=float)["threshold"],
        }
        for contrast, (_, config) in networks.items()
    }
    return networks, {"models": models, "threshold": threshold}


def environment(folder: Path) -> Mapping[str, Any]:
    """What environment.json says of the last start; empty where it says nothing."""
    path = folder / "environment.json"
    starts = read_json(path, list) if path.exists() else []
    return starts[-1] if starts else {}

"""MGMT methylation of one's own patient, by a trained ensemble, with a picture of what spoke for it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from common.classification import predicted_positive
from common.dicom.mgmt_cohort import Patient, series_folders
from common.exported import SUFFIX
from common.files import read_json, write_json
from common.networks import require_run_of
from common.runs import RunError
from common.store import UnusableError
from common.walk import shown
from mgmt_classifier import explain
from mgmt_classifier.config import Config
from mgmt_classifier.data import make, network_input
from mgmt_classifier.ensemble import weighted_mean
from mgmt_classifier.inference import autocast, load_run, to_device

NOTICE = (
    "Research software, not a medical device: not for clinical use. Whether such images tell MGMT status is an open "
    "question; re-analyses of the public data set found no usable link."
)
SYNTHETIC_NOTE = (
    "This model was trained on synthetic phantoms, whose MGMT status is invented: for a real patient it means nothing."
)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Models that answer together; by contrast their settings, weights and own thresholds.

    logits: of each contrast's images (1, images, rows, columns). networks: for a look at what spoke for methylation,
    which an exported file does not allow.
    """

    configs: Mapping[str, Config]
    weights: Mapping[str, float]
    thresholds: Mapping[str, float]
    threshold: float
    synthetic: bool
    logits: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]]
    networks: Mapping[str, torch.nn.Module] = field(default_factory=dict)


def read_ensemble(run: Path) -> Ensemble:
    """The models of an ensemble's run. Raises ValueError when it is no trained one."""
    require_run_of("mgmt_classifier", run)
    ensemble = _read_json(run / "ensemble.json", "the folder of an ensemble's run")
    try:
        weights = {str(contrast): float(weight) for contrast, weight in ensemble["weights"].items()}
        threshold = float(ensemble["threshold"])
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold of {threshold}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{run}: expected weights and a threshold in ensemble.json, found: {error!r}") from None
    data = run / "data.json"
    synthetic = data.exists() and bool(_read_json(data, "a run's folder").get("synthetic"))
    networks, configs = {}, {}
    for contrast in weights:
        networks[contrast], configs[contrast] = load_run(run / contrast)
        if (found := configs[contrast].contrast) != contrast:
            raise ValueError(f"{run / contrast}: expected a model of {contrast}, found one of {found}")

    def logits(images: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {}
        for contrast, network in networks.items():
            device = device_of(network)
            with torch.inference_mode(), autocast(configs[contrast], device):
                found[contrast] = float(network(to_device(torch.from_numpy(images[contrast])[None], device)))
        return found

    return Ensemble(
        configs=configs,
        weights=weights,
        thresholds={contrast: _threshold(run / contrast / "threshold.json") for contrast in weights},
        threshold=threshold,
        synthetic=synthetic,
        logits=logits,
        networks=networks,
    )


def read_exported(file: Path) -> Ensemble:
    """The models of a file of ``experiments.export``. Raises ValueError when it is damaged or another's."""
    from mgmt_classifier.export import FromOnnx

    exported = FromOnnx(file)
    about = exported.file.about
    return Ensemble(
        configs=exported.configs,
        weights={contrast: model["weight"] for contrast, model in about["models"].items()},
        thresholds={contrast: model["threshold"] for contrast, model in about["models"].items()},
        threshold=about["threshold"],
        synthetic=about["synthetic"],
        logits=exported,
    )


def device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def predict_patient(run: Path, patient: Path, out: Path) -> dict[str, object]:
    """What the ensemble says of a patient, as it is written to result.json, beside saliency.png where run is a folder.

    Raises ValueError when the run is no trained ensemble or the patient's images cannot be used, naming why.
    """
    ensemble = read_exported(run) if run.suffix == SUFFIX else read_ensemble(run)
    own = Patient(id=shown(patient.resolve().name), folders=series_folders(patient))
    made, seen = {}, {}
    for contrast, config in ensemble.configs.items():
        try:
            images, geometry = made[contrast] = make(own, config.recipe)
        except UnusableError as error:
            raise ValueError("; ".join(map(str, error.problems))) from error
        seen[contrast] = network_input(images, geometry, intensity=config.intensity)
    models, panels = {}, []
    for contrast, logit in ensemble.logits(seen).items():
        if not math.isfinite(logit):
            raise RunError(f"{run}: expected a finite output of the network of {contrast}, found {logit}")
        found, (images, geometry) = float(expit(logit)), made[contrast]
        models[contrast] = {
            "probability": found,
            "threshold": ensemble.thresholds[contrast],
            "weight": ensemble.weights[contrast],
            "images": [index + 1 for index in geometry["indices"]],
            "series_images": geometry["series_images"],
            "notes": geometry["notes"],
        }
        if contrast in ensemble.networks:
            panels.append(
                explain.Panel(
                    title=f"{contrast}, probability {found:.2f}",
                    image=images,
                    saliency=explain.saliency(ensemble.networks[contrast], seen[contrast]),
                    positions=geometry["indices"],
                )
            )
    weights, threshold, synthetic = ensemble.weights, ensemble.threshold, ensemble.synthetic
    parts = {contrast: {own.id: model["probability"]} for contrast, model in models.items()}
    together = weighted_mean(parts, weights)[own.id]
    result = {
        "patient": own.id,
        "probability": together,
        "threshold": threshold,
        "called_methylated": bool(predicted_positive(together, threshold)),
        "models": models,
        "run": run,
        "synthetic": synthetic,
        "notice": NOTICE,
    }
    mark = " (model of synthetic phantoms)" if synthetic else ""
    if panels:
        explain.draw(out / "saliency.png", panels, title=f"{own.id}: what speaks for MGMT methylation{mark}")
    write_json(out / "result.json", result)
    return result


def report(result: dict) -> None:
    """Print what result.json says."""
    call = "methylated" if result["called_methylated"] else "not methylated"
    print(f"{result['patient']}: probability of MGMT methylation {result['probability']:.3f}")
    print(f"threshold {result['threshold']:.3f}: called {call}")
    for contrast, model in result["models"].items():
        first, last = model["images"][0], model["images"][-1]
        print(
            f"  {contrast:<6} probability {model['probability']:.3f}, weight {model['weight']:.2f}, own threshold "
            f"{model['threshold']:.3f}, images {first} to {last} of {model['series_images']}"
        )
        for note in model["notes"]:
            print(f"         note: {note}")
    if result["synthetic"]:
        print(SYNTHETIC_NOTE)
    print(NOTICE)


def _threshold(path: Path) -> float:
    written = _read_json(path, "a trained model's run")
    try:
        return float(written["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a threshold, found: {error!r}") from None


def _read_json(path: Path, wanted: str) -> dict:
    if not path.exists():
        raise ValueError(f"{path.parent}: expected {wanted}, found no {path.name} in it")
    return read_json(path, dict)

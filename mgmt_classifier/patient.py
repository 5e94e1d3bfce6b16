"""MGMT methylation of one's own patient, by a trained ensemble, with a picture of what spoke for it."""

import json
from pathlib import Path

import torch

from common.classification import predicted_positive
from common.dicom.mgmt_cohort import Patient, series_folders
from common.files import write_json
from common.runs import RunError
from common.store import UnusableError
from common.walk import shown
from mgmt_classifier import explain
from mgmt_classifier.data import make, network_input
from mgmt_classifier.ensemble import weighted_mean
from mgmt_classifier.inference import load_run, probability, to_device

NOTICE = (
    "Research software, not a medical device: not for clinical use. Whether such images tell MGMT status is an open "
    "question; re-analyses of the public data set found no usable link."
)
SYNTHETIC_NOTE = (
    "This model was trained on synthetic phantoms, whose MGMT status is invented: for a real patient it means nothing."
)


def predict_patient(run: Path, patient: Path, out: Path) -> dict[str, object]:
    """What the ensemble says of a patient, as it is written to result.json beside saliency.png.

    Raises ValueError when the run is no trained ensemble or the patient's images cannot be used, naming why.
    """
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
    own = Patient(id=shown(patient.resolve().name), folders=series_folders(patient))
    models, panels = {}, []
    for contrast, weight in weights.items():
        network, config = load_run(run / contrast)
        if config.contrast != contrast:
            raise ValueError(f"{run / contrast}: expected a model of {contrast}, found one of {config.contrast}")
        try:
            images, geometry = make(own, config.recipe)
        except UnusableError as error:
            raise ValueError("; ".join(map(str, error.problems))) from error
        image = network_input(images, geometry, intensity=config.intensity)
        with torch.inference_mode():
            logit = network(to_device(torch.from_numpy(image)[None], next(network.parameters()).device))
        if not logit.isfinite().all():
            raise RunError(f"{run / contrast}: expected a finite output of the network, found {float(logit)}")
        found = float(probability(logit.cpu())[0])
        models[contrast] = {
            "probability": found,
            "threshold": _threshold(run / contrast / "threshold.json"),
            "weight": weight,
            "images": [index + 1 for index in geometry["indices"]],
            "series_images": geometry["series_images"],
            "notes": geometry["notes"],
        }
        panels.append(
            explain.Panel(
                title=f"{contrast}, probability {found:.2f}",
                image=images,
                saliency=explain.saliency(network, image),
                positions=geometry["indices"],
            )
        )
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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: expected {wanted}, found no {path.name} in it") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected named values, found {type(content).__name__}")
    return content

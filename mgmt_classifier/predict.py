"""Probabilities of a methylated MGMT promoter from trained models, and the command for one's own patient.

``python -m mgmt_classifier.predict RUN PATIENT_FOLDER [--out FOLDER]``
"""

import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from scipy.special import expit

from common.classification import predicted_positive
from common.dicom.mgmt_cohort import Patient, series_folders
from common.files import check_archive, write_json
from common.precision import resolve_for_prediction
from common.runs import RunError, read_model_config
from common.store import UnusableError
from common.walk import shown
from mgmt_classifier import explain
from mgmt_classifier.config import Config
from mgmt_classifier.data import Entry, make, network_input
from mgmt_classifier.ensemble import weighted_mean
from mgmt_classifier.model import build_classifier

NOTICE = (
    "Research software, not a medical device: not for clinical use. Whether such images tell MGMT status is an open "
    "question; re-analyses of the public data set found no usable link."
)
SYNTHETIC_NOTE = (
    "This model was trained on synthetic phantoms, whose MGMT status is invented: for a real patient it means nothing."
)


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
    if not weights.exists():
        raise ValueError(f"{folder}: expected trained weights at {weights}, found none; has the run finished?")
    return load(config, weights, device), config


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def logits(network: torch.nn.Module, entries: Sequence[Entry], config: Config) -> torch.Tensor:
    """float32 (n,) on the CPU, of prepared patients in their order, ``batch_size`` at a time.

    Raises RunError when one is not finite.
    """
    device = next(network.parameters()).device
    precision = resolve_for_prediction(
        config.precision, mixed_precision=config.mixed_precision, gpu=device.type == "cuda"
    )
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    found = []
    with torch.inference_mode(), autocast:
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


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Estimate MGMT methylation of one's own patient with a trained ensemble. Research software: not for diagnosis.

    Prints the probability, the threshold and the models' parts, and writes them with a picture of what spoke for
    methylation.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an ensemble's run: ensemble.json and one model's folder per contrast."""
    patient: Annotated[Path, tyro.conf.Positional]
    """Folder of one patient: a folder of DICOM files per contrast, called FLAIR, T1w, T1wCE or T2w."""
    out: Path | None = None
    """Folder for result.json and saliency.png; by default mgmt_<patient> here."""


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


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m mgmt_classifier.predict")
    out = arguments.out or Path(f"mgmt_{arguments.patient.resolve().name}")
    try:
        result = predict_patient(arguments.run, arguments.patient, out)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    report(result)
    print(f"written: {out / 'result.json'}, {out / 'saliency.png'}")


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


if __name__ == "__main__":
    main()

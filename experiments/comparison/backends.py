"""The same Keras U-Nets on TensorFlow, torch and JAX: equal predictions from equal weights, and what a step costs."""

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import costs
from common.files import atomic_path, write_json, write_text
from common.networks import read_model_config
from common.runs import FAILURE, Run
from experiments.base.trainings import Training, given, state
from experiments.comparison import BACKENDS
from experiments.comparison.interpreters import NOT_INSTALLED, lacks
from experiments.segmentation.study import Study, restored

NETWORKS = ("unet3d", "unet25d")
CASES = 2
"""Test cases whose predictions are compared, the first by id."""
WARM_UP, STEPS = 2, 8
"""Training steps before the timed ones, which trace and compile, and the timed ones."""
EXPECTED_DIFFERENCE = 1e-4
"""Between probabilities in float32, whose sums each backend takes in another order."""
FOUND = "backend.json"
REFERENCE = "probabilities.npy"
COLUMNS = (
    *("network", "backend", "version", "state", "against", "largest_difference", "equal_labels", "n"),
    *("seconds_per_step", "steps", "seconds_per_case", "peak_memory_mib"),
)


def folder_of(study: Study, network: str, backend: str) -> Path:
    return study.run.folder / "backends" / network / backend


def trainings(study: Study, configs: Mapping[str, Any], interpreters: Mapping[str, Path]) -> list[Training]:
    """Every network on every backend, each measured in a process of its own; a backend that is missing is left out.

    All begin with the same random weights, which give every class much the same probability: labels then differ from
    voxel to voxel, and a small error of a backend would change some. The first backend is the others' reference, so it
    comes before them.
    """
    found = []
    for network in NETWORKS:
        config = replace(configs[network], initial_probability=None)
        there = []
        for backend in BACKENDS:
            folder, interpreter = folder_of(study, network, backend), interpreters[backend]
            if not (folder / FOUND).exists() and (reason := lacks(interpreter, ("keras", "h5py", backend))) is not None:
                write_text(folder / FAILURE, f"{reason}\n")
                continue
            reference = {"against": there[0], "after": (f"{network} on {there[0]}",)} if there else {"against": None}
            further = {"backend": backend, "interpreter": interpreter, "result": FOUND, **reference}
            found.append(study.training("backend", f"{network} on {backend}", config, folder, **further))
            there.append(backend)
    return found


def measure(folder: Path) -> None:
    """One network on this process's backend: its predictions against the reference, its seconds and its memory.

    The first backend writes the weights and its probabilities, the reference of the others.
    """
    from unet_tf.config import Config
    from unet_tf.data import Batches
    from unet_tf.devices import gpu_peak_mib
    from unet_tf.inference import build, load, postprocess, probabilities
    from unet_tf.train import compiled, save_weights

    config = read_model_config(folder, Config)
    against = given(folder)["against"]
    with Run(folder) as run:
        study = restored(run, config)
        weights = folder.with_name("initial.weights.h5")
        if not weights.exists():
            save_weights(weights, build(config))
        network = load(config, weights)
        cases = [entry.open() for entry in study.test[:CASES]]
        probabilities(network, cases[0], config)  # traces, compiles
        found, seconds = [], []
        for volume in cases:
            began = time.monotonic()
            found.append(probabilities(network, volume, config))
            postprocess(found[-1], volume, config)
            seconds.append(time.monotonic() - began)
        # Of random crops each case has a box of its own.
        everywhere = np.concatenate([each.reshape(len(each), -1) for each in found], axis=1)
        training = compiled(config)
        images, labels = Batches(study.train, config, shuffle=False)[0]
        steps = []
        for _ in range(WARM_UP + STEPS):
            began = time.monotonic()
            training.train_on_batch(images, labels)
            steps.append(time.monotonic() - began)
        line = {"network": folder.parent.name, "backend": folder.name, "version": version(folder.name)}
        line |= {"against": against, "n": len(cases), "steps": STEPS}
        if against is None:
            with atomic_path(folder / REFERENCE) as temporary, temporary.open("wb") as file:
                np.save(file, everywhere, allow_pickle=False)
        else:
            reference = np.load(folder.with_name(against) / REFERENCE, allow_pickle=False)
            line |= difference(reference, everywhere, regions=config.targets == "regions")
        line |= {"seconds_per_step": statistics.median(steps[WARM_UP:]), "seconds_per_case": statistics.median(seconds)}
        line |= {"peak_memory_mib": gpu_peak_mib() or costs.peak_memory_mib()}
        write_json(folder / FOUND, line)


def difference(reference: np.ndarray, probabilities: np.ndarray, *, regions: bool) -> dict[str, float]:
    """Largest absolute difference of two arrays of probabilities (class or region, voxel), and the share of voxels
    whose most probable class is the same, or whose regions above 0.5 are."""
    if regions:
        equal = ((reference > 0.5) == (probabilities > 0.5)).all(axis=0)
    else:
        equal = reference.argmax(axis=0) == probabilities.argmax(axis=0)
    return {
        "largest_difference": float(np.abs(reference - probabilities).max()),
        "equal_labels": float(equal.mean()),
    }


def read(study: Study) -> pd.DataFrame:
    """What was measured, one row per network and backend; its state says why a row has no numbers."""
    rows = []
    for network in NETWORKS:
        for backend in BACKENDS:
            folder = folder_of(study, network, backend)
            row = {"network": network, "backend": backend, "state": "finished"}
            if (folder / FOUND).exists():
                row |= json.loads((folder / FOUND).read_text(encoding="utf-8"))
            else:
                # A backend that is not there has not failed.
                row["state"] = state(folder, FOUND).replace(f"failed: {NOT_INSTALLED}", NOT_INSTALLED)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)

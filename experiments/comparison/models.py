"""Models of several frameworks on the same cases: each a training with a folder of its own, then compared."""

import itertools
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from common import costs
from common.files import write_text
from common.loading import loading
from common.networks import read_model_config
from common.runs import FAILURE, Run
from common.statistics import holm
from common.summary import EmptyPolicy, apply_empty_policy, higher_is_better
from experiments.base.options import Refused
from experiments.base.trainings import Training, given, state
from experiments.comparison import MODELS
from experiments.comparison.interpreters import lacks
from experiments.segmentation.adopted import adopt_training
from experiments.segmentation.paired import difference
from experiments.segmentation.scores import score
from experiments.segmentation.study import Study, restored

PACKAGES = {
    "segresnet": ("torch", "monai", "lightning"),
    "unet3d": ("keras", "h5py", "tensorflow"),
    "unet25d": ("keras", "h5py", "tensorflow"),
}
BACKEND = {"unet3d": "tensorflow", "unet25d": "tensorflow"}
"""Keras', of the U-Nets."""
COMPARED = ("mean_dice", "dice_NCR", "dice_ED", "dice_ET", "dice_TC", "dice_WT", "hd_TC", "hd_WT")
COSTS = (
    *("parameters", "gflop_per_sample", "seconds_per_step", "seconds_per_sample", "seconds_per_epoch"),
    *("peak_memory_mib", "seconds_per_case"),
)
TIMED_EPOCHS = 3
"""Whose median is the seconds per epoch of a training that was taken over."""


def folder_of(study: Study, model: str) -> Path:
    return study.run.folder / "models" / model


def trainings(study: Study, configs: Mapping[str, Any], interpreters: Mapping[str, Path]) -> list[Training]:
    """The models, each a training with a folder of its own; one whose interpreter lacks something has failed."""
    found = []
    for model in MODELS:
        folder, interpreter = folder_of(study, model), interpreters[model]
        if state(folder) != "finished" and (reason := lacks(interpreter, PACKAGES[model])) is not None:
            write_text(folder / FAILURE, f"{reason}\n")
            continue
        further = {"prefix": f"{model}__", "interpreter": interpreter}
        further |= {"backend": BACKEND[model]} if model in BACKEND else {}
        found.append(study.training("model", model, configs[model], folder, **further))
    return found


def train(folder: Path) -> None:
    """One model, in this process, as its folder describes it.

    A training that another experiment has done is taken over. Its costs are not, for they belong to the machine and the
    process that it ran in: a few epochs are trained here to measure them.
    """
    if given(folder)["name"] == "segresnet":
        from segresnet_monai.config import Config

        with loading("PyTorch"):
            from segresnet_monai.inference import load_run, predict
            from segresnet_monai.train import fit

        shortened = {"epochs": TIMED_EPOCHS, "continued_from": None}
    else:
        from unet_tf.config import Config

        with loading("Keras"):
            from unet_tf.inference import load_run, predict
            from unet_tf.train import fit

        shortened = {"epochs": TIMED_EPOCHS}

    config = read_model_config(folder, Config)
    with Run(folder) as run:
        study = restored(run, config)
        adopted = None if study.options.fresh else adopt_training(study, config)
        if adopted is None:
            fit(study.train, study.validation, config, run)
        else:
            print(f"trained already, with these settings on these subjects: {adopted}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as short, Run(short) as timed:
                fit(study.train, study.validation, replace(config, **shortened), timed)
                costs.record(run, **json.loads((timed.folder / "costs.json").read_text(encoding="utf-8")))
        network, _ = load_run(folder)
        score(study, predict(network, study.test, config))


def read_cases(study: Study) -> pd.DataFrame:
    """cases.csv of every finished model, one below the other, with the column ``model`` in front.

    Raises Refused when a model has scored other cases than the split's test part.
    """
    frames = []
    for model in MODELS:
        folder = folder_of(study, model)
        if state(folder) != "finished":
            continue
        cases = pd.read_csv(folder / "cases.csv", dtype={"case": str, "patient": str, "view": str}).fillna({"view": ""})
        scored = sorted(cases["case"][cases["view"] == ""])
        if scored != sorted(study.split.test):
            raise Refused(
                f"{folder / 'cases.csv'}: expected one row of each test case, {sorted(study.split.test)}, found "
                f"{scored}; --fresh starts over"
            )
        frames.append(cases.assign(model=model))
    if not frames:
        return pd.DataFrame({"model": [], "case": [], "view": []})
    cases = pd.concat(frames)
    return cases[["model", *cases.columns.drop("model")]]


def compare(scores: pd.DataFrame) -> pd.DataFrame:
    """Every pair of models on the same cases, metric by metric.

    scores: (model, case) -> the metrics of COMPARED, under an empty-mask policy; nan where a case has no score.
    Columns: model, against, metric, difference (model - against), low, high, n, p (Wilcoxon's)
    and p_holm, over all rows of the frame together.
    """
    rows = []
    models = [model for model in MODELS if model in scores.index.get_level_values("model")]
    for (model, against), metric in itertools.product(itertools.combinations(models, 2), COMPARED):
        _, found = difference(scores.loc[against], scores.loc[model], metric)
        rows.append((model, against, metric, found.value, found.low, found.high, found.n, found.p))
    names = ["model", "against", "metric", "difference", "low", "high", "n", "p"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)), higher_is_better=frame["metric"].map(higher_is_better))


def read_costs(study: Study, configs: Mapping[str, Any]) -> pd.DataFrame:
    """One row per model: its state, epochs and steps trained, what it costs (COSTS) and where it was trained.

    The memory is the GPU's where one was used. An epoch is one crop of each subject unless the SegResNet's
    configuration says otherwise, so seconds per sample are what compares.
    """
    rows = []
    for model in MODELS:
        folder = folder_of(study, model)
        row = {"model": model, "state": state(folder)}
        if state(folder) == "finished":
            known = json.loads((folder / "costs.json").read_text(encoding="utf-8"))
            known["peak_memory_mib"] = known["gpu_peak_memory_mib"] or known["peak_memory_mib"]
            known["seconds_per_sample"] = known["seconds_per_step"] / configs[model].batch_size
            adopted = folder / "adopted.txt"
            steps = pd.read_csv(folder / "history.csv")["steps"]
            row |= {"epochs": len(steps), "steps": int(steps.sum())} | {name: known[name] for name in COSTS}
            row["training"] = adopted.read_text(encoding="utf-8").strip() if adopted.exists() else "here"
        rows.append(row)
    return pd.DataFrame(rows, columns=["model", "state", "epochs", "steps", *COSTS, "training"])


def valued(cases: pd.DataFrame, policy: EmptyPolicy) -> pd.DataFrame:
    """The metrics of the predictions themselves, (model, case) -> metric, with empty masks valued by the policy."""
    predicted = cases[cases["view"] == ""]
    scores = predicted if predicted.empty else apply_empty_policy(predicted, policy)
    return scores.set_index(["model", "case"])

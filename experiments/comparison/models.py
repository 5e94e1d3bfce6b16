"""Models of several frameworks on the same cases: each trained and scored in a process of its own, then compared."""

import itertools
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from common import costs, prepared
from common.cohort import find_subjects
from common.files import write_json
from common.recipe import Recipe
from common.runs import Run, read_model_config
from common.scoring import EmptyPolicy, apply_empty_policy, higher_is_better
from common.splits import PARTS, Split
from common.statistics import holm, paired_difference
from experiments.comparison import EXPERIMENT, MODELS, processes
from experiments.finished import adopt_training
from experiments.study import Options, Refused, Study
from experiments.variations import FAILURE, is_finished, state

if TYPE_CHECKING:
    from experiments.compare_frameworks import Frameworks

PACKAGES = {
    "segresnet": ("torch", "monai", "lightning"),
    "unet3d": ("keras", "h5py", "tensorflow"),
    "unet25d": ("keras", "h5py", "tensorflow"),
}
FRAMEWORK = {"segresnet": "torch", "unet3d": "tensorflow", "unet25d": "tensorflow"}
COMPARED = ("mean_dice", "dice_NCR", "dice_ED", "dice_ET", "dice_TC", "dice_WT", "hd_TC", "hd_WT")
COSTS = (
    *("parameters", "gflop_per_sample", "seconds_per_step", "seconds_per_sample", "seconds_per_epoch"),
    *("peak_memory_mib", "seconds_per_case"),
)
TIMED_EPOCHS = 3
"""Whose median is the seconds per epoch of a training that was taken over."""


def folder_of(study: Study, model: str) -> Path:
    return study.run.folder / "models" / model


def run_models(study: Study, frameworks: "Frameworks", interpreters: Mapping[str, Path]) -> None:
    """Train and score the models that are not finished, one after the other; why one failed is kept in its folder."""
    for model in MODELS:
        folder = folder_of(study, model)
        if is_finished(folder):
            continue
        print(f"{MODELS[model]}: {folder}", file=sys.stderr)
        settings = {"experiment": EXPERIMENT, "name": model, "options": asdict(study.options)}
        write_json(folder / "config.json", settings | {"model": asdict(getattr(frameworks, model))})
        processes.run(
            interpreters[model],
            "experiments.comparison.models:train_and_score",
            folder,
            packages=PACKAGES[model],
            backend=FRAMEWORK[model],
            failure=folder / FAILURE,
        )


def train_and_score(folder: Path) -> None:
    """One model, in this process, as its folder's config.json says; the other half of :func:`run_models`.

    A training that another experiment has done is taken over. Its costs are not, for they belong to the machine and the
    process that it ran in: a few epochs are trained here to measure them.
    """
    if folder.name == "segresnet":
        from segresnet_monai.config import Config
        from segresnet_monai.predict import load_run, predict
        from segresnet_monai.train import fit

        shortened = {"epochs": TIMED_EPOCHS, "continued_from": None}
    else:
        from unet_tf.config import Config
        from unet_tf.predict import load_run, predict
        from unet_tf.train import fit

        shortened = {"epochs": TIMED_EPOCHS}

    config = read_model_config(folder, Config)
    with Run(folder) as run:
        study = restored(run, folder.parents[1], config.recipe)
        adopted = None if study.options.fresh else adopt_training(study, config)
        if adopted is None:
            fit(study.train, study.validation, config, run)
        else:
            print(f"trained already, with these settings on these subjects: {adopted}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as short, Run(short) as timed:
                fit(study.train, study.validation, replace(config, **shortened), timed)
                costs.record(run, **json.loads((timed.folder / "costs.json").read_text(encoding="utf-8")))
        network, _ = load_run(folder)
        study.score(predict(network, study.test, config))


def restored(run: Run, whole: Path, recipe: Recipe) -> Study:
    """The comparison's study as one of its processes sees it, with the store of one recipe and a run of its own.

    whole: folder of the comparison's run. Raises ValueError when a subject of the split cannot be prepared any more.
    """
    settings, data, split = (
        json.loads((path).read_text(encoding="utf-8"))
        for path in (run.folder / "config.json", whole / "data.json", whole / "split.json")
    )
    options = _options(settings["options"])
    cohort = find_subjects(Path(data["folder"]), convention=options.convention, max_subjects=options.max_subjects)
    split = Split(split["name"], *(tuple(split[part]) for part in PARTS))
    used = {*split.train, *split.validation, *split.test}
    subjects = [subject for subject in cohort.subjects if subject.id in used]
    store = prepared.prepare(subjects, recipe, options.prepared, n_jobs=options.jobs)
    if missing := used - set(store.entries):
        raise ValueError(f"{cohort.folder}: expected the subjects that the comparison began with, found no {missing}")
    run.describe(config=settings, data=data, split=split.as_dict())
    return Study(
        experiment=EXPERIMENT,
        options=options,
        cohort=cohort,
        store=store,
        split=split,
        run=run,
        left_out=(),
        minimum_mask_fraction=0.0,
        excluded=(),
        prefix=f"{settings['name']}__",
    )


def _options(written: Mapping[str, object]) -> Options:
    """Options as config.json holds them."""
    values = {field.name: written[field.name] for field in fields(Options)}
    for name in ("data", "subjects", "runs", "prepared", "phantoms"):
        values[name] = None if values[name] is None else Path(values[name])
    return Options(**values)


def read_cases(study: Study) -> pd.DataFrame:
    """cases.csv of every finished model, one below the other, with the column ``model`` in front.

    Raises Refused when a model has scored other cases than the split's test part.
    """
    frames = []
    for model in MODELS:
        folder = folder_of(study, model)
        if not is_finished(folder):
            continue
        cases = pd.read_csv(folder / "cases.csv", dtype={"case": str, "view": str}).fillna({"view": ""})
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
        both = pd.concat([scores.loc[against, metric], scores.loc[model, metric]], axis=1, keys=["first", "second"])
        both = both.dropna()
        found = paired_difference(both["first"], both["second"], seed=0)
        rows.append((model, against, metric, found.value, found.low, found.high, found.n, found.p))
    names = ["model", "against", "metric", "difference", "low", "high", "n", "p"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)), higher_is_better=frame["metric"].map(higher_is_better))


def read_costs(study: Study, frameworks: "Frameworks") -> pd.DataFrame:
    """One row per model: its state, epochs and steps trained, what it costs (COSTS) and where it was trained.

    The memory is the GPU's where one was used. An epoch is one crop of each subject unless the SegResNet's
    configuration says otherwise, so seconds per sample are what compares.
    """
    rows = []
    for model in MODELS:
        folder = folder_of(study, model)
        row = {"model": model, "state": state(folder)}
        if is_finished(folder):
            known = json.loads((folder / "costs.json").read_text(encoding="utf-8"))
            known["peak_memory_mib"] = known["gpu_peak_memory_mib"] or known["peak_memory_mib"]
            known["seconds_per_sample"] = known["seconds_per_step"] / getattr(frameworks, model).batch_size
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

"""The final model over parts and seeds: each seed trained in a run folder of its own, scored on both parts, averaged.

``seed<k>/`` holds a training, ``seed<k>/validation/`` and ``seed<k>/test/`` its scores and label maps; the table's
folder holds what is put together from them: scores.csv, label_size.csv, figures/label_size.png, summary.json.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from common.files import write_csv, write_json
from common.loading import loading
from common.networks import read_model_config
from common.runs import Run
from common.statistics import bootstrap_interval
from common.summary import EmptyPolicy, apply_empty_policy, metrics_of, patients_of
from experiments.base import results
from experiments.base.engines import run
from experiments.base.results import Result
from experiments.base.trainings import require
from experiments.drawing.style import save_for_screen
from experiments.segmentation import label_size, scores
from experiments.segmentation.adopted import adopt_training
from experiments.segmentation.study import Study, restored
from segresnet_monai.config import Config

PREFIXES = {"validation": "", "test": "test."}
"""Scored part -> what stands before its results' names: the report's numbers are of its validation part."""
SHOWN = (
    *("mean_dice", "mean_dice_with_background"),
    *(f"dice_{name}" for name in ("NCR", "ED", "ET", "TC", "WT")),
    *("hd_TC", "hd_WT", "hd95_TC", "hd95_WT"),
    *(f"surface_dice_{name}" for name in ("NCR", "ED", "ET", "TC", "WT")),
    *results.LESIONS_IN_TABLE,
)
COUNTS = ("n_empty", "n_missed", "n_false", "n_left_out")
SEEDS = "seeds"


def folder_of(study: Study, number: int) -> Path:
    return study.run.folder / f"seed{number}"


def is_finished(study: Study) -> bool:
    """Whether the table was made, of as many seeds as are asked for now."""
    if not study.run.is_finished:
        return False
    made = {result.key: result.value for result in results.read_summary(study.run.folder / "summary.json")}
    return made[f"{study.experiment}.{SEEDS}"] == study.options.seeds


def run_seeds(study: Study, config: Config) -> None:
    """Train the seeds that are not finished, each in a folder of its own. Raises RunError when one fails."""
    trainings = [
        study.training("final", f"seed{number}", replace(config, seed=config.seed + number), folder_of(study, number))
        for number in range(study.options.seeds)
    ]
    require(run(trainings, study.options))


def train(folder: Path) -> None:
    """Train with one seed, as the folder describes it, or take the training over from a run that has done it, and
    score validation and test."""
    config = read_model_config(folder, Config)
    with Run(folder) as opened:
        study = restored(opened, config)
        with loading("PyTorch"):
            from segresnet_monai.inference import load_run, predict
            from segresnet_monai.train import fit

        adopted = None if study.options.fresh else adopt_training(study, config)
        if adopted is None:
            fit(study.train, study.validation, config, opened)
        else:
            print(f"trained already, with these settings on these subjects: {adopted}", file=sys.stderr)
        scores.draw_curves(study)
        network, _ = load_run(folder)
        summary = []
        for part, prefix in PREFIXES.items():
            with Run(folder / part) as scored:
                if not scored.is_finished:
                    of_part = replace(study, run=scored, prefix=prefix)
                    entries = getattr(study, part)
                    found = scores.write_scores(of_part, predict(network, entries, config), n_cases=len(entries))
                    scores.write_summary(of_part, found)
            summary += results.read_summary(scored.folder / "summary.json")
        write_json(folder / "summary.json", results.as_rows(summary))


def _settings(study: Study, config: Config) -> dict[str, object]:
    return {"experiment": study.experiment, "options": asdict(study.options), "model": asdict(config)}


def over_seeds(folders: Sequence[Path], policy: EmptyPolicy) -> pd.DataFrame:
    """One row per metric over the cases of several runs' folders, in which the same cases were scored.

    Columns: metric; mean, low, high (95 % bootstrap interval over cases, nan when n < 3) and n, of every case's mean
    over the seeds in which it has a score; seeds; seed_sd (n - 1), seed_min and seed_max of the seeds' own means, nan
    for one seed; n_empty, n_missed, n_false and n_left_out as in ``common.summary.summarise``, summed over seeds.
    Lesion-wise scores only where every folder has them. Raises ValueError when the folders' cases differ.
    """
    valued = [apply_empty_policy(results.read_cases(folder), policy).set_index("case") for folder in folders]
    for folder, frame in zip(folders, valued, strict=True):
        if set(frame.index) != set(valued[0].index):
            raise ValueError(f"{folder}: expected the cases of {folders[0]}, found others")
    metrics = min((metrics_of(frame) for frame in valued), key=len)
    by_case = pd.concat(frame[list(metrics)] for frame in valued).groupby(level="case", sort=False).mean()
    whose = patients_of(valued[0].loc[by_case.index])
    by_seed = pd.DataFrame([frame[list(metrics)].mean() for frame in valued])
    counts = sum(results.read_cases(folder, "scores.csv").set_index("metric")[list(COUNTS)] for folder in folders)
    rows = []
    for metric in metrics:
        known = by_case[metric].notna().to_numpy()
        values = by_case.loc[known, metric].to_numpy(float)
        interval = bootstrap_interval(values, seed=0, patients=None if whose is None else whose[known])
        row = {"metric": metric, "mean": by_case[metric].mean(), "low": interval.low, "high": interval.high}
        row |= {"n": values.size, "seeds": len(folders), "seed_sd": by_seed[metric].std()}
        several = by_seed[metric] if len(folders) > 1 else by_seed[metric].iloc[:0]
        rows.append(row | {"seed_min": several.min(), "seed_max": several.max()} | dict(counts.loc[metric]))
    return pd.DataFrame(rows)


def summarise(study: Study, config: Config) -> None:
    """Put the seeds together: scores.csv, label_size.csv, their picture and, last, summary.json."""
    folder, seeds = study.run.folder, study.options.seeds
    parts, found = [], []
    for part, prefix in PREFIXES.items():
        of_part = over_seeds([folder_of(study, number) / part for number in range(seeds)], study.options.empty_masks)
        parts.append(of_part.assign(part=part))
        found += results.segmentation_results(study.experiment, of_part, synthetic=study.synthetic, prefix=prefix)
        found += _spread(study, of_part, prefix)
    found.append(study.result(SEEDS, seeds, seeds))
    sizes = label_size.label_sizes({part: folder_of(study, 0) / part for part in PREFIXES})
    found += label_size.size_results(study.experiment, sizes, synthetic=study.synthetic)
    write_csv(folder / "scores.csv", pd.concat(parts))
    write_csv(folder / "label_size.csv", sizes)
    text = f"Final SegResNet, first seed: {sizes['case'].nunique()} validation and test cases"
    save_for_screen(
        label_size.draw_label_sizes(sizes, text=text, synthetic=study.synthetic), study.run.figures / "label_size.png"
    )
    # The folder may have been made for fewer seeds.
    write_json(folder / "config.json", _settings(study, config))
    write_json(folder / "summary.json", results.as_rows(found))


def _spread(study: Study, scores: pd.DataFrame, prefix: str) -> list[Result]:
    """Of several seeds: how far the means of single trainings lie apart."""
    return [
        study.result(f"{prefix}{row.metric}_{name}", getattr(row, name), row.seeds)
        for row in scores.itertuples()
        if row.metric in SHOWN and row.seeds > 1
        for name in ("seed_sd", "seed_min", "seed_max")
    ]


def show(study: Study, config: Config) -> None:
    """Print the table, the spread between seeds, how to read both, and what they were measured on."""
    found = {result.key.partition(".")[2]: result for result in results.read_summary(study.run.folder / "summary.json")}
    sizes = [name for name in found if name.startswith(label_size.PREFIXES)]
    names = [name for name in _names() if name in found]  # a table made before there were lesion-wise scores has none
    rows = [found[name] for name in (*names, *sizes)]
    few = study.options.headlines_under
    texts = [results.segmentation_table(rows, headlines_under=few, parts=tuple(PREFIXES.values()))]
    seeds = study.options.seeds
    if seeds > 1:
        head = (f"spread of {seeds} seeds", "mean", "SD", "smallest", "largest")
        spread = [name for name in names if few is None or name.removeprefix(PREFIXES["test"]) in results.HEADLINES]
        lines = [(name, *(results.short(found[key].value) for key in (name, *_spread_keys(name)))) for name in spread]
        texts += ["", results.aligned([head, *lines]), ""]
    texts.append("test.*: of the test part, which nothing was chosen on; the others, as the report's, of validation")
    texts.append("missed_* and size_correlation_*: of the labels of both parts together")
    if config.checkpoint == "best":
        texts.append("the weights were chosen by their Dice on validation, which flatters its scores")
    small = found[label_size.SMALL]
    whose = f" (the first of {seeds} seeds)" if seeds > 1 else ""
    texts.append(f"small labels{whose}: reported: {small.reported}; this run: {small.value}")
    texts.append("missed: the truth has the label, the prediction no voxel of it in common with the truth")
    study.end(*texts)


def _names() -> list[str]:
    return [f"{prefix}{metric}" for prefix in PREFIXES.values() for metric in SHOWN]


def _spread_keys(name: str) -> list[str]:
    return [f"{name}_{each}" for each in ("seed_sd", "seed_min", "seed_max")]

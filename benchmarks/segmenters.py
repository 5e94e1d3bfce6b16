"""Segmentation methods at equal minutes, on the same folds of the same patients, scored by one evaluator.

    python -m benchmarks.segmenters --data FOLDER --minutes 5 --nnunet-python ENVIRONMENT/bin/python
    python -m benchmarks.segmenters --data FOLDER --minutes 25 --fold 1 2 --methods beyond table1_demo monai

Minutes are those of the training process on one thread of the processor (``benchmarks.budget``): the machine may be
shared, and time that passes is not comparable. Before each training its first 40 steps are measured and thrown away;
then its schedule is made as long as the minutes allow. Not counted, for any method: reading and preparing the scans
once, that measurement, and predicting. Every patient is predicted by the training that has not seen them, by the last
weights; nothing is chosen on any patient that is scored, so ``beyond`` goes without its thresholds.

beyond, table1_small, table1_demo: this suite's recipes at 2, 3 and 3 mm, bfloat16 but for table1_small.
monai, monai_2mm: the recipe of MONAI's BraTS example (SegResNet of 16 filters, Dice loss, Adam, random crop, flips,
scaled and shifted intensities; 1 mm as there, or 2 mm) in MONAI's classes, bfloat16; crops of 64 voxels a side in
place of 224 x 224 x 144, cut from the brain, its z-scores taken before the crop.
nnunet, nnunet_2mm: nnU-Net's 3d_fullres, nested regions, planned by its own planner for 1 GB (at 1 mm, which is what it
chooses for BraTS, or told 2 mm), its own augmentation, loss, SGD and polynomial schedule; float32, which is what its
trainer does on a CPU. It needs an environment of its own: ``pip install nnunetv2``.

The same command goes on where a killed one stopped: a finished method and fold is not trained again.
"""

import io
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import tyro

from common.files import file_stem, read_json
from common.runs import configuration_hash
from common.splits import Split, k_folds
from common.statistics import holm
from common.summary import apply_empty_policy
from experiments.base import results
from experiments.base.engines import run
from experiments.base.options import Refused, refusals
from experiments.base.reading import Reading
from experiments.base.trainings import Training, python, require
from experiments.evaluation import tables
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.inputs import ScoreOptions
from experiments.exporting.cohort import CONVENTION
from experiments.segmentation.paired import differences

Method = Literal["beyond", "table1_small", "table1_demo", "monai", "monai_2mm", "nnunet", "nnunet_2mm"]
DICE = (*(f"dice_{name}" for name in ("WT", "TC", "ET", "NCR", "ED")), "mean_dice")
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which patients, how many minutes, and which methods; the first one is what the others are compared with."""

    data: Path
    """Folder of scans with masks, in one of the known layouts."""
    minutes: float = 5.0
    """Processor minutes of each training, on one thread."""
    folds: int = 5
    """All patients in so many folds."""
    fold: tuple[int, ...] = ()
    """Of these folds, counted from 1; by default all."""
    methods: tuple[Method, ...] = get_args(Method)
    """Compared methods."""
    nnunet_python: Path | None = None
    """Interpreter of an environment with nnunetv2."""
    runs: Path = Path("runs")
    """Folder of the run folders."""

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"expected minutes above 0, received {self.minutes}")
        if wrong := [fold for fold in self.fold if not 1 <= fold <= self.folds]:
            raise ValueError(f"expected folds from 1 to {self.folds}, received {wrong[0]}")

    @property
    def chosen(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.fold))) or tuple(range(1, self.folds + 1))


def splits_of(data: Path, folds: int) -> list[Split]:
    """Every fold's patients to test on, all others to train on."""
    subjects = Reading().find(data).subjects
    made = k_folds(subjects, k=folds, seed=SPLIT_SEED)
    return [Split(each.name, tuple(sorted((*each.train, *each.validation))), (), each.test) for each in made]


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.segmenters", description=__doc__)
    with refusals():
        show(options, compare(options))


def compare(options: Options) -> Path:
    """Train what is not trained; returns the folder with ``trainings`` and ``label_maps``.

    Raises Refused, CohortError or RunError for what the user can mend, before any training where that can be known.
    """
    _require_nnunet(options)
    try:
        splits = splits_of(options.data, options.folds)
    except ValueError as error:
        raise Refused(f"{options.data}: {error}") from error
    study = options.runs / "segmenters" / f"{file_stem(options.data.resolve().name)}-{configuration_hash(splits)}"
    folder = study / f"{options.minutes:g}min"
    trainings = [_training(options, method, fold, study) for fold in options.chosen for method in options.methods]
    require(run(trainings))
    return folder


def _training(options: Options, method: Method, fold: int, study: Path) -> Training:
    name = f"{method}{fold}"
    told = {"method": method, "data": options.data, "folds": options.folds, "fold": fold, "minutes": options.minutes}
    told |= {"study": study} | ({"nnunet-python": options.nnunet_python} if options.nnunet_python else {})
    argv = python("-m", "benchmarks.segmenters_train", *(word for name in told for word in (f"--{name}", told[name])))
    return Training(name=name, argv=argv, folder=study / f"{options.minutes:g}min" / "trainings" / name, cores=1)


def _require_nnunet(options: Options) -> None:
    wanted = [method for method in options.methods if method.startswith("nnunet")]
    if not wanted:
        return
    advice = f"pip install nnunetv2 in an environment of its own, or leave {' and '.join(wanted)} out of --methods"
    if options.nnunet_python is None:
        raise Refused(f"expected --nnunet-python, an interpreter with nnunetv2, received none: {advice}")
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('nnunetv2') is None)"
    if subprocess.run([options.nnunet_python, "-c", probe], check=False).returncode:
        raise Refused(f"{options.nnunet_python}: expected an interpreter with nnunetv2, found it without: {advice}")


def show(options: Options, folder: Path) -> None:
    """Score all label maps and print what each method came to, and by how much it differs from the first one."""
    given = ScoreOptions(
        data=options.data,
        predictions=tuple(f"{method}={folder / 'label_maps' / method}" for method in options.methods),
        convention=tuple(f"{method}={CONVENTION.name}" for method in options.methods),
        cases="intersection" if options.fold else "all",
        runs=folder,
        cores=1,
    )
    with redirect_stdout(io.StringIO()):  # every metric of every pair of methods, which its page shows too
        scored = evaluate(given)
    summary = {each.key.partition(".")[2]: each for each in results.read_summary(scored / "summary.json")}
    rows = [("method", "steps", "minutes", "peak MiB", *(f"{metric} (95 % interval)" for metric in DICE))]
    for method in options.methods:
        found = [summary[f"{method}__{metric}"] for metric in DICE]
        cells = (
            f"{each.value:.3f}" + (f" ({each.low:.2f} to {each.high:.2f})" * (each.low is not None)) for each in found
        )
        rows.append((method, *_costs(options, folder, method), *cells))
    print(results.aligned(rows))
    print("steps, minutes: mean of the trainings; peak: the largest of their memories while training")
    if len(options.methods) > 1:
        print(f"\n{tables.differences_table(against_first(tables.read_table(scored / 'cases.csv'), options.methods))}")
    print(f"{summary[f'{options.methods[0]}__mean_dice'].n} cases, folds {', '.join(map(str, options.chosen))}")
    print(f"all scores: {scored}")


def _costs(options: Options, folder: Path, method: Method) -> tuple[str, str, str]:
    found = [read_json(folder / "trainings" / f"{method}{fold}" / "summary.json", dict) for fold in options.chosen]
    steps, minutes = (statistics.mean(each[name] for each in found) for name in ("steps", "minutes"))
    return f"{steps:.0f}", f"{minutes:.1f}", f"{max(each['peak_memory_mib'] for each in found):.0f}"


def against_first(cases: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Each further method minus the first on the same cases: differences of Dice, intervals, p after Holm over all."""
    valued = apply_empty_policy(cases, "brats")
    first, *others = ((method, valued[valued["method"] == method].set_index("case")) for method in methods)
    found = pd.concat(
        differences(first[1], frame, DICE).assign(method=method, against=first[0]) for method, frame in others
    )
    return found.assign(p_holm=holm(found["p"].to_numpy(float)))


if __name__ == "__main__":
    main()

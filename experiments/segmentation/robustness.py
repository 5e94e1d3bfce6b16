"""What scanner-like changes cost a finished run's network: the same test cases, changed in one way at a time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import write_csv, write_json
from common.grid import bring
from common.nifti import Scan
from common.progress import Progress
from common.recipe import Recipe, Volume, transform
from common.runs import Run, RunError, configuration_hash
from common.scanner import Change, changes_of
from common.scoring import MASKS, score_case
from common.statistics import FEWEST_CASES, bootstrap_interval
from common.subject import Subject
from common.summary import apply_empty_policy, patients_of, with_patients
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import at_least
from experiments.base.progress import step
from experiments.base.results import Result
from experiments.segmentation.finished import Finished, Networks, load, read_scores
from experiments.segmentation.paired import difference

FOLDER = "robustness"
STEPS = (1, 4, 5)
"""Of experiments.base.progress.STEPS: nothing is trained."""
UNTOUCHED = Change("untouched", 0.0, "untouched")
KEPT_SECONDS = 60.0
"""After which scores are written though their case has changes left: as much as a killed call loses."""
METRICS = ("mean_dice", *(f"dice_{name}" for name in MASKS))


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """Which cases are changed, and how they are drawn."""

    cases: int | None = None
    """The first so many test cases by id; by default all."""
    seed: int = 0
    """Of what is drawn: gains, fields, noise, directions."""
    data: Path | None = None
    """Folder of the scans, where they no longer lie where the run found them."""
    fresh: bool = False
    """Start over, in place of going on after the last finished case or showing the finished result."""

    def __post_init__(self) -> None:
        at_least(1, cases=self.cases)


def measure(run: Finished, options: ChangeOptions) -> Path:
    """Predict and score every change of every case, go on where a killed call stopped, and print the table."""
    with step(1, among=STEPS):
        subjects = _subjects(run, options)
    changes = (UNTOUCHED, *changes_of(run.recipe.contrasts))
    digest = configuration_hash(changes, [subject.id for subject in subjects], options.seed)
    folder = run.folder / FOLDER / f"{len(subjects)}cases_seed{options.seed}-{digest}"
    with Run(folder, fresh=options.fresh) as opened:
        if not opened.is_finished:
            settings = {"experiment": run.experiment, "run": run.folder.resolve(), "options": asdict(options)}
            write_json(folder / "config.json", settings | {"changes": changes})
            opened.note_start()
            with step(4, among=STEPS):
                cases = _cases(run, subjects, changes, options.seed, folder / "cases.csv")
                costs = costs_of(cases, run, changes)
            write_csv(folder / "costs.csv", costs)
            from experiments.segmentation.robustness_picture import draw_costs  # and with it the plotting library

            draw_costs(folder / "figures" / "costs.png", costs, synthetic=run.synthetic)
            write_json(folder / "summary.json", results.as_rows(_results(run, costs)))
        show(run, folder, changes)
    return folder


def _subjects(run: Finished, options: ChangeOptions) -> list[Subject]:
    """The test cases' scans. Raises RunError when they are not there, or not those that the run has scored."""
    if not run.split["test"]:
        raise RunError(f"{run.folder}: expected a run with a test part, found none")
    folder = options.data or Path(run.data["folder"])
    if not folder.is_dir():
        raise RunError(f"{folder}: expected the scans that the run has scored, found no folder; --data names it")
    there = {subject.id: subject for subject in run.reading.find(folder).subjects}
    wanted = sorted(run.split["test"])[: options.cases]
    if lost := [id for id in wanted if id not in there or there[id].fingerprint() != run.data["subjects"].get(id)]:
        raise RunError(f"{folder}: expected the test cases as {run.folder} has scored them, which differ: {lost}")
    return [there[id] for id in wanted]


def _cases(run: Finished, subjects: list[Subject], changes: tuple[Change, ...], seed: int, path: Path) -> pd.DataFrame:
    """One row per case and change, as ``common.scoring.score_case`` scores it; those of a killed call are kept."""
    rows = read_scores(path).to_dict("records") if path.exists() else []
    done = {(row["case"], row["change"]) for row in rows}
    networks = load(run)
    written = time.monotonic()
    with Progress("predicting", len(subjects) * len(changes), unit="volume", done=len(rows)) as progress:
        for subject in subjects:
            left = [change for change in changes if (subject.id, change.name) not in done]
            for row in score_changes(networks, run.recipe, subject, left, seed) if left else ():
                rows.append(row)
                progress.update()
                if row["change"] == left[-1].name or time.monotonic() - written > KEPT_SECONDS:
                    write_csv(path, pd.DataFrame(rows))
                    written = time.monotonic()
    return with_patients(read_scores(path), {subject.id: subject.patient for subject in subjects})


def score_changes(
    networks: Networks, recipe: Recipe, subject: Subject, changes: Sequence[Change], seed: int
) -> Iterator[dict[str, object]]:
    """A row per change: case, change, and the scores of what the network makes of the changed scans."""
    scans, mask = subject.read(recipe.contrasts)
    truth = subject.convention.to_classes(mask.data.reshape(mask.data.shape[:3], order="F"))
    spacing_mm = scans[recipe.contrasts[0]].spacing_mm
    for change in changes:
        volume = volume_of(subject.id, change.apply(scans, seed=seed, case=subject.id), scans, truth, recipe)
        yield {
            "case": subject.id,
            "change": change.name,
            **score_case(networks.volume(volume), truth, spacing_mm=spacing_mm),
        }


def volume_of(case: str, changed: dict[str, Scan], scans: dict[str, Scan], truth: np.ndarray, recipe: Recipe) -> Volume:
    """Changed scans as the recipe prepares them; a contrast that is missing is 0 everywhere.

    Of one's own patient a network refuses a missing contrast. Here what it would make of one is the question.
    """
    there = {name: scan for name, scan in changed.items() if scan.data.any()}
    absent = [name for name in recipe.contrasts if name not in there]
    volume = transform(case, bring({**scans, **there}, truth, recipe.grid), recipe)
    for name in absent:
        volume.voxels[recipe.contrasts.index(name)] = 0
    return volume


def costs_of(cases: pd.DataFrame, run: Finished, changes: tuple[Change, ...]) -> pd.DataFrame:
    """One row per change and metric of METRICS.

    Columns: change, words, metric; mean, low, high (95 % interval over cases) and n; cost, cost_low, cost_high: Dice
    points (hundredths) by which the untouched cases are better, paired by case, with 95 % interval.
    """
    valued = apply_empty_policy(cases, run.policy).set_index("case")
    before = valued[valued["change"] == UNTOUCHED.name]
    rows = []
    for change in changes:
        after = valued[valued["change"] == change.name]
        for metric in METRICS:
            _, cost = difference(after, before, metric)
            known = after[after[metric].notna()]
            values = known[metric].to_numpy(float)
            mean = values.mean() if values.size else np.nan
            ends = bootstrap_interval(values, seed=0, patients=patients_of(known))
            rows.append(
                (
                    *(change.name, change.words, metric, mean, *ends, values.size),
                    *(100 * each for each in (cost.value, cost.low, cost.high)),
                )
            )
    columns = ["change", "words", "metric", "mean", "low", "high", "n", "cost", "cost_low", "cost_high"]
    return pd.DataFrame(rows, columns=columns)


def _results(run: Finished, costs: pd.DataFrame) -> list[Result]:
    return [
        Result.of(
            run.experiment,
            _key(row.change, kind, row.metric),
            value,
            int(row.n),
            interval,
            synthetic=run.synthetic,
        )
        for row in costs.itertuples()
        for kind, value, interval in (
            ("after", row.mean, (row.low, row.high)),
            ("cost", row.cost, (row.cost_low, row.cost_high)),
        )
    ]


def show(run: Finished, folder: Path, changes: tuple[Change, ...]) -> None:
    """Print the table *change | mean Dice, NCR, ED, ET, TC, WT | cost of mean Dice and WT with intervals*."""
    found = {each.key.partition(".")[2]: each for each in results.read_summary(folder / "summary.json")}
    rows = [("change", *METRICS, "cost", "95 % interval", "cost WT", "95 % interval")]
    for change in changes:
        cells = [results.short(found[_key(change.name, "after", metric)].value) for metric in METRICS]
        for metric in ("mean_dice", "dice_WT"):
            cost = found[_key(change.name, "cost", metric)]
            cells += ["-" if cost.value is None else f"{cost.value:.1f}"]
            cells += ["" if cost.low is None else f"{cost.low:.1f} to {cost.high:.1f}"]
        rows.append((change.words, *cells))
    n = max(each.n for each in found.values())
    end(
        FOLDER,
        folder,
        results.aligned(rows),
        "cost: Dice points (hundredths) that the change takes, of mean_dice and of WT, paired by case; below 0: gains"
        + f"\nfewer than {FEWEST_CASES} cases: no interval, and no conclusion" * (n < FEWEST_CASES),
        notes=[
            *([results.SYNTHETIC_NOTE] if run.synthetic else []),
            results.patients(run.data["folder"], synthetic=run.synthetic),
            f"cases: {n}; empty masks: {run.policy}; costs of every label: costs.csv; every score: cases.csv",
        ],
        below=True,
        steps=STEPS,
    )


def _key(change: str, kind: str, metric: str) -> str:
    return f"{FOLDER}.{change}.{kind}_{metric}"

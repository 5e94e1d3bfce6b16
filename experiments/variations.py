"""Rows of a table of variations: each trained and scored in a process and a run folder of its own, then compared."""

import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from common.files import write_csv, write_json, write_text
from common.runs import History, Run
from common.scoring import EmptyPolicy, apply_empty_policy
from common.statistics import holm, paired_difference
from experiments import results
from experiments.results import Result
from experiments.study import Study

if TYPE_CHECKING:
    from experiments.table1_variations import Variation
    from segresnet_monai.config import Config

METRIC = "mean_dice_with_background"
SHOWN = (METRIC, "mean_dice", "dice_NCR", "dice_ED", "dice_ET", "hd_TC", "hd_WT", "hd95_TC", "hd95_WT")
BASELINE = "baseline"
SHORTER = "slices80"
FAILURE = "failure.txt"
COLUMNS = (
    *("row", "parent", "state", "reported", METRIC, "low", "high", "n"),
    *("mean_dice", "mean_dice_low", "mean_dice_high", "seconds_per_step", "peak_memory_mib"),
    *("from_parent", "from_parent_low", "from_parent_high", "from_parent_p"),
    *("from_baseline", "from_baseline_low", "from_baseline_high", "from_baseline_p"),
)


def folder_of(study: Study, row: str) -> Path:
    return study.run.folder / "rows" / row


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def with_continued(rows: Iterable[str], variations: "Mapping[str, Variation]") -> list[str]:
    """The rows in the table's order, and those whose training they continue."""
    wanted = set(rows)
    wanted |= {variations[row].parent for row in wanted if variations[row].config.continued_from is not None}
    return [row for row in variations if row in wanted]


def run_rows(study: Study, variations: "Mapping[str, Variation]", rows: Iterable[str]) -> None:
    """Train and score the rows that are not finished, one after the other; why one failed is kept in its folder.

    A process of its own for each: its peak memory is its own, and the system may kill it for want of memory.
    """
    # An open run cannot go to another process, which opens the row's.
    shared = replace(study, run=None)
    for row in with_continued(rows, variations):
        folder, variation = folder_of(study, row), variations[row]
        if is_finished(folder):
            continue
        (folder / FAILURE).unlink(missing_ok=True)
        print(f"row {row}: {folder}", file=sys.stderr)
        parent = None if variation.config.continued_from is None else folder_of(study, variation.parent)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            work = process.submit(train_and_score, shared, row, variation.config, study.run.folder, parent)
            try:
                failure = work.result()
            except BrokenProcessPool:
                failure = "the process was killed, as the system does for want of memory"
        if failure is not None:
            write_text(folder / FAILURE, failure)


def train_and_score(shared: Study, row: str, config: "Config", table: Path, parent: Path | None) -> str | None:
    """One row, in this process; returns the traceback of what stopped it, if anything did."""
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    # TensorBoard imports it wherever it is installed: seconds of each start, and half of the memory that is compared.
    sys.modules["tensorflow"] = None
    try:
        from segresnet_monai.predict import load, predict
        from segresnet_monai.train import continue_from, fit

        with Run(table / "rows" / row) as run:
            study = replace(shared, run=run, prefix=f"{row}__")
            settings = {"experiment": study.experiment, "row": row}
            settings |= {"options": asdict(study.options), "model": asdict(config)}
            data = json.loads((table / "data.json").read_text(encoding="utf-8"))
            run.describe(config=settings, data=data, split=study.split.as_dict())
            if parent is not None:
                continue_from(parent, config, run)
            weights = fit(study.train, study.validation, config, run)
            study.score(predict(load(config, weights), study.test, config))
    except Exception:  # whatever stopped it is the row's result, and must not stop the other rows
        return traceback.format_exc()
    return None


def _end_with_the_command() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def compare(study: Study, variations: "Mapping[str, Variation]") -> pd.DataFrame:
    """Every finished row against its parent and the baseline, where these are finished, on the same test cases.

    Columns: row, against, difference (row - against, of METRIC), low, high, n, p, p_holm (over all rows of the frame).
    """
    scores = {
        row: case_scores(folder_of(study, row), study.options.empty_masks)
        for row in variations
        if is_finished(folder_of(study, row))
    }
    pairs = [
        (row, against)
        for row, variation in variations.items()
        for against in dict.fromkeys((variation.parent, BASELINE))
        if row in scores and against in scores and row != against
    ]
    rows = []
    for row, against in pairs:
        # A case whose masks are all empty may have no score under the policy.
        both = pd.concat([scores[against], scores[row]], axis=1, keys=["first", "second"]).dropna()
        found = paired_difference(both["first"], both["second"], seed=0)
        rows.append((row, against, found.value, found.low, found.high, found.n, found.p))
    frame = pd.DataFrame(rows, columns=["row", "against", "difference", "low", "high", "n", "p"])
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def case_scores(folder: Path, policy: EmptyPolicy) -> pd.Series:
    """A row's METRIC by case."""
    cases = pd.read_csv(folder / "cases.csv", dtype={"case": str, "view": str})
    return apply_empty_policy(cases[cases["view"].isna()], policy).set_index("case")[METRIC]


def state(folder: Path) -> str:
    """``finished``, ``not run``, or why the row failed, in one line."""
    if is_finished(folder):
        return "finished"
    failure = folder / FAILURE
    if not failure.exists():
        return "not run"
    return f"failed: {failure.read_text(encoding='utf-8').strip().splitlines()[-1]}"


def summarise(study: Study, variations: "Mapping[str, Variation]") -> None:
    """Write comparisons.csv, variations.csv, figures/variations.png and, last, summary.json.

    Of every row: scores, differences from its parent and the baseline, costs.
    """
    from experiments.variations_picture import draw_variations  # and with it the plotting library

    comparisons = compare(study, variations)
    lines, found = [], []
    for row, variation in variations.items():
        folder = folder_of(study, row)
        scores, costs = _scores(study, row), _costs(folder)
        first = scores[0]
        # The baseline's number belongs to the experiment that trains nothing else.
        said = results.reported()["table1_baseline"][METRIC].value if row == BASELINE else first.reported
        line = {"row": row, "parent": variation.parent, "state": state(folder), "reported": said}
        line |= {"low": first.low, "high": first.high, "n": first.n} | costs
        if is_finished(folder):
            inner = next(result for result in scores if result.key.endswith("__mean_dice"))
            line |= {METRIC: first.value, "mean_dice": inner.value}
            line |= {"mean_dice_low": inner.low, "mean_dice_high": inner.high}
        found += scores
        found += [study.result(f"{row}__{name}", value, first.n) for name, value in costs.items()]
        for name, against in (("parent", variation.parent), (BASELINE, BASELINE)):
            for pair in comparisons[(comparisons["row"] == row) & (comparisons["against"] == against)].itertuples():
                line |= {f"from_{name}": pair.difference, f"from_{name}_low": pair.low, f"from_{name}_high": pair.high}
                line |= {f"from_{name}_p": pair.p_holm}
                ends = (pair.low, pair.high)
                found.append(study.result(f"{row}__difference_from_{name}", pair.difference, pair.n, ends))
                found.append(study.result(f"{row}__difference_from_{name}_p", pair.p_holm, pair.n))
        lines.append(line)
    found.append(_training_time(study))
    write_csv(study.run.folder / "comparisons.csv", comparisons)
    table = pd.DataFrame(lines, columns=COLUMNS)
    write_csv(study.run.folder / "variations.csv", table)
    draw_variations(study.run.figures / "variations.png", table, synthetic=study.synthetic)
    write_json(study.run.folder / "summary.json", results.as_rows(found))


def _scores(study: Study, row: str) -> list[Result]:
    """A row's results, METRIC first; of a row without any, one that says why."""
    folder = folder_of(study, row)
    if not is_finished(folder):
        return [study.result(f"{row}__{METRIC}", state(folder), 0)]
    scored = {result.key: result for result in results.read_summary(folder / "summary.json")}
    return [scored[f"{study.experiment}.{row}__{name}"] for name in SHOWN]


def _costs(folder: Path) -> dict[str, float]:
    """Seconds per training step and the peak memory of training, the GPU's where one was used."""
    if not is_finished(folder):
        return {}
    costs = json.loads((folder / "costs.json").read_text(encoding="utf-8"))
    return {
        "seconds_per_step": costs["seconds_per_step"],
        "peak_memory_mib": costs["gpu_peak_memory_mib"] or costs["peak_memory_mib"],
    }


def _training_time(study: Study) -> Result:
    """The training of slices80 over the baseline's, in seconds of the fastest epoch, which other work slows least."""
    name = f"{SHORTER}__training_time"
    folders = [folder_of(study, row) for row in (SHORTER, BASELINE)]
    if missing := [f"{folder.name} {state(folder)}" for folder in folders if not is_finished(folder)]:
        return study.result(name, f"not compared: {'; '.join(missing)}", 0)
    seconds = [History(folder / "history.csv").frame()["seconds"] for folder in folders]
    return study.result(name, seconds[0].min() / seconds[1].min(), len(seconds[0]))


def show(study: Study) -> None:
    """Print the table of variations, what failed and why, and what it was measured on."""
    lines = pd.read_csv(study.run.folder / "variations.csv").astype(object).to_dict("records")
    head = ("variation", "parent", "reported", METRIC, "95 % interval", "n", "from parent (p)", "from baseline (p)")
    print(results.aligned([(*head, "s/step", "MiB"), *map(_cells, lines)]))
    print("p: Wilcoxon's signed-rank test, after Holm over the table's comparisons (comparisons.csv)")
    training_time = _training_time(study)
    print(
        f"training time of {SHORTER} over the baseline's (fastest epochs): {results.short(training_time.value)}; "
        f"reported: {training_time.reported}"
    )
    for line in lines:
        if line["state"].startswith("failed"):
            print(f"{line['row']} {line['state']}; see rows/{line['row']}/{FAILURE}")
    study.show_data()


def _cells(line: Mapping[str, object]) -> tuple[str, ...]:
    def cell(name: str) -> str:
        return "-" if pd.isna(line[name]) else results.short(line[name])

    def difference(name: str) -> str:
        p = "-" if pd.isna(line[f"{name}_p"]) else f"{line[f'{name}_p']:.2g}"
        return "-" if pd.isna(line[name]) else f"{line[name]:+.3f} ({p})"

    interval = "" if pd.isna(line["low"]) else f"{cell('low')} to {cell('high')}"
    value = cell(METRIC) if line["state"] == "finished" else line["state"].partition(":")[0]
    memory = "-" if pd.isna(line["peak_memory_mib"]) else f"{line['peak_memory_mib']:.0f}"
    return (
        *(line["row"], cell("parent"), cell("reported"), value, interval, str(line["n"])),
        *(difference("from_parent"), difference("from_baseline"), cell("seconds_per_step"), memory),
    )

"""Rows of a table of variations: each a training with a folder of its own, then compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.files import write_csv, write_json
from common.runs import FAILURE, History, RunError
from common.statistics import holm
from common.summary import EmptyPolicy, apply_empty_policy
from common.words import p_value
from experiments.base import results
from experiments.base.ending import unfinished
from experiments.base.engines import run
from experiments.base.results import Result
from experiments.base.trainings import given, state
from experiments.segmentation.paired import difference
from experiments.segmentation.study import Study
from segresnet_monai.config import Config

METRIC = "mean_dice_with_background"
SHOWN = (METRIC, "mean_dice", "dice_NCR", "dice_ED", "dice_ET", "hd_TC", "hd_WT", "hd95_TC", "hd95_WT")
BASELINE = "baseline"
SHORTER = "slices80"
COLUMNS = (
    *("row", "parent", "state", "reported", METRIC, "low", "high", "n"),
    *("mean_dice", "mean_dice_low", "mean_dice_high", "seconds_per_step", "peak_memory_mib"),
    *("from_parent", "from_parent_low", "from_parent_high", "from_parent_p"),
    *("from_baseline", "from_baseline_low", "from_baseline_high", "from_baseline_p"),
)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A row of the table: its network, and the row of which it is one change."""

    parent: str | None
    config: Config


def folder_of(study: Study, row: str) -> Path:
    return study.run.folder / "rows" / row


def with_continued(rows: Iterable[str], variations: Mapping[str, Variation]) -> list[str]:
    """The rows in the table's order, and those whose training they continue."""
    wanted = set(rows)
    wanted |= {variations[row].parent for row in wanted if variations[row].config.continued_from is not None}
    return [row for row in variations if row in wanted]


def run_rows(study: Study, variations: Mapping[str, Variation], rows: Iterable[str]) -> None:
    """Train and score the rows that are not finished; why one failed is kept in its folder."""
    trainings = []
    for row in with_continued(rows, variations):
        config, parent = variations[row].config, variations[row].parent
        further: dict[str, object] = {"prefix": f"{row}__"}
        if config.continued_from is not None:
            further |= {"continues": folder_of(study, parent).resolve(), "after": (parent,)}
        trainings.append(study.training("segresnet", row, config, folder_of(study, row), **further))
    run(trainings, study.options)


def compare(study: Study, variations: Mapping[str, Variation]) -> pd.DataFrame:
    """Every finished row against its parent and the baseline, where these are finished, on the same test cases.

    Columns: row, against, difference (row - against, of METRIC), low, high, n, p, p_holm (over all rows of the frame).
    """
    scores = {
        row: case_scores(folder_of(study, row), study.options.empty_masks)
        for row in variations
        if state(folder_of(study, row)) == "finished"
    }
    pairs = [
        (row, against)
        for row, variation in variations.items()
        for against in dict.fromkeys((variation.parent, BASELINE))
        if row in scores and against in scores and row != against
    ]
    rows = []
    for row, against in pairs:
        _, found = difference(scores[against], scores[row], METRIC)
        rows.append((row, against, found.value, found.low, found.high, found.n, found.p))
    frame = pd.DataFrame(rows, columns=["row", "against", "difference", "low", "high", "n", "p"])
    return frame.assign(p_holm=holm(frame["p"].to_numpy(float)))


def case_scores(folder: Path, policy: EmptyPolicy) -> pd.DataFrame:
    """A row's scores by case, valued by the policy."""
    return apply_empty_policy(results.read_cases(folder), policy).set_index("case")


def summarise(study: Study, variations: Mapping[str, Variation]) -> None:
    """Write comparisons.csv, variations.csv, figures/variations.png and, last, summary.json.

    Of every row: scores, differences from its parent and the baseline, costs.
    """
    from experiments.segmentation.variations_picture import draw_variations  # and with it the plotting library

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
        if state(folder) == "finished":
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
    if state(folder) != "finished":
        return [study.result(f"{row}__{METRIC}", state(folder), 0)]
    scored = {result.key: result for result in results.read_summary(folder / "summary.json")}
    return [scored[f"{study.experiment}.{row}__{name}"] for name in SHOWN]


def _costs(folder: Path) -> dict[str, float]:
    """Seconds per training step and the peak memory of training, the GPU's where one was used."""
    if state(folder) != "finished":
        return {}
    costs = given(folder, "costs", seconds_per_step=float)
    return {
        "seconds_per_step": costs["seconds_per_step"],
        "peak_memory_mib": costs["gpu_peak_memory_mib"] or costs["peak_memory_mib"],
    }


def _training_time(study: Study) -> Result:
    """The training of slices80 over the baseline's, in seconds of the fastest epoch, which other work slows least."""
    name = f"{SHORTER}__training_time"
    folders = [folder_of(study, row) for row in (SHORTER, BASELINE)]
    if missing := [f"{folder.name} {state(folder)}" for folder in folders if state(folder) != "finished"]:
        return study.result(name, f"not compared: {'; '.join(missing)}", 0)
    seconds = [History(folder / "history.csv").frame()["seconds"] for folder in folders]
    return study.result(name, seconds[0].min() / seconds[1].min(), len(seconds[0]))


def show(study: Study) -> None:
    """Print the table of variations and what it was measured on. Raises RunError, after that, where a row failed."""
    lines = pd.read_csv(study.run.folder / "variations.csv").astype(object).to_dict("records")
    tests = pd.read_csv(study.run.folder / "comparisons.csv")
    head = ("variation", "parent", "reported", METRIC, "95 % interval", "n", "from parent (p)", "from baseline (p)")
    training_time = _training_time(study)
    study.end(
        results.aligned([(*head, "s/step", "MiB"), *map(_cells, lines)]),
        f"{METRIC}: {results.HEADLINES[METRIC]}",
        "from parent, from baseline: its difference on the same test cases (comparisons.csv)",
        results.p_note(tests),
        *equal_rows(tests),
        "s/step, MiB: seconds of a training step, most memory in use",
        f"training time of {SHORTER} over the baseline's (fastest epochs): {results.short(training_time.value)}; "
        f"reported: {training_time.reported}",
        missing=unfinished((line["row"], line["state"]) for line in lines),
    )
    if failed := [line for line in lines if line["state"].startswith("failed")]:
        raise RunError(
            f"{len(failed)} of the table's {len(lines)} rows failed, why in rows/*/{FAILURE}; the same command tries "
            "them again"
        )


def equal_rows(tests: pd.DataFrame) -> list[str]:
    """Which rows have no other scores than the row that they are compared with."""
    same = tests[(tests["difference"] == 0) & (tests["low"] == 0) & (tests["high"] == 0)]
    return [
        f"{row.row} has the scores of {row.against} in each of {row.n} cases: the change had no effect"
        for row in same.itertuples()
    ]


def _cells(line: Mapping[str, object]) -> tuple[str, ...]:
    def cell(name: str) -> str:
        return "-" if pd.isna(line[name]) else results.short(line[name])

    def difference(name: str) -> str:
        p = "-" if pd.isna(line[f"{name}_p"]) else p_value(line[f"{name}_p"])
        return "-" if pd.isna(line[name]) else f"{line[name]:+.3f} ({p})"

    interval = "" if pd.isna(line["low"]) else f"{cell('low')} to {cell('high')}"
    value = cell(METRIC) if line["state"] == "finished" else line["state"].partition(":")[0]
    memory = "-" if pd.isna(line["peak_memory_mib"]) else f"{line['peak_memory_mib']:.0f}"
    return (
        *(line["row"], cell("parent"), cell("reported"), value, interval, str(line["n"])),
        *(difference("from_parent"), difference("from_baseline"), cell("seconds_per_step"), memory),
    )

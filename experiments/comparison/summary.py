"""What a comparison of models comes to: its files, and the report's claims in the words that the numbers bear out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from common.files import write_csv, write_json
from common.words import p_value, plural
from experiments.base import results
from experiments.base.results import Result
from experiments.base.trainings import state
from experiments.comparison import MODELS, RECIPES, picture
from experiments.comparison.models import COSTS, compare, folder_of, read_cases, read_costs, valued
from experiments.segmentation.study import Study

SHOWN = (
    *("mean_dice", "dice_NCR", "dice_ED", "dice_ET", "dice_TC", "dice_WT", "mean_dice_with_background"),
    *("hd_TC", "hd_WT", "hd95_TC", "hd95_WT"),
)
CEILING = "geometric_ceiling"
CLAIMS = ("segresnet_against_unet3d", "segresnet_better_on", "unet25d_against_unet3d")
"""What the report claims of its networks."""
NO_CASE = "not compared: no case that both have a score for"
SAME = 0.05
"""Share of a cost; what differs by less is called equal."""
CLAIMED = ("dice_NCR", "dice_ED", "dice_ET", "hd_TC", "hd_WT")
"""The metrics that the report's claim is about, and those of the same kind."""


def summarise(study: Study, configs: Mapping[str, Any], backends: pd.DataFrame) -> None:
    """Write cases.csv, models.csv, comparisons.csv, backends.csv, the picture and, last, summary.json."""
    cases, costs = read_cases(study), read_costs(study, configs)
    scores = valued(cases, study.options.empty_masks)
    comparisons = compare(scores)
    folder = study.run.folder
    frames = {"cases": cases, "models": costs, "comparisons": comparisons, "backends": backends}
    for name, frame in frames.items():
        write_csv(folder / f"{name}.csv", frame)
    found = [each for model in MODELS for each in _scores(study, model)]
    path = folder / "figures" / "comparison.png"
    picture.draw(path, found, scores, comparisons, costs, recipe=RECIPES[study.experiment], synthetic=study.synthetic)
    for row in costs[costs["state"] == "finished"].to_dict("records"):
        found += [study.result(f"{row['model']}__{name}", float(row[name]), len(study.split.test)) for name in COSTS]
    for row in comparisons.itertuples():
        name = f"{row.model}_minus_{row.against}__{row.metric}"
        found.append(study.result(name, row.difference, row.n, (row.low, row.high)))
        found.append(study.result(f"{name}_p", row.p_holm, row.n))
    for row in backends.itertuples():
        name = f"backend_{row.backend}__" + ("" if row.network == "unet3d" else f"{row.network}_")
        if row.state != "finished":
            found.append(study.result(f"{name}seconds_per_step", row.state, 0))
            continue
        found.append(study.result(f"{name}seconds_per_step", row.seconds_per_step, int(row.steps)))
        found.append(study.result(f"{name}seconds_per_case", row.seconds_per_case, int(row.n)))
        found.append(study.result(f"{name}largest_difference", row.largest_difference, int(row.n)))
    for name, (value, n) in claims(costs, comparisons).items():
        found.append(study.result(name, value, n))
    write_json(folder / "summary.json", results.as_rows(found))


def _scores(study: Study, model: str) -> list[Result]:
    """A model's results and its grid's ceiling; of a model without any, one that says why."""
    folder = folder_of(study, model)
    if state(folder) != "finished":
        return [study.result(f"{model}__{SHOWN[0]}", state(folder), 0)]
    scored = {each.key: each for each in results.read_summary(folder / "summary.json")}
    keys = [f"{study.experiment}.{view}{model}__{name}" for view in ("", f"{CEILING}.") for name in SHOWN]
    return [scored[key] for key in keys if key in scored]


def claims(costs: pd.DataFrame, comparisons: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """The report's three claims as these models bear them out: name -> (words, number of cases, of costs epochs)."""
    pairs = comparisons.set_index(["model", "against", "metric"]).sort_index()
    found = _against_unet3d(pairs, costs), _better_on(pairs, costs), _ratios(costs)
    return dict(zip(CLAIMS, found, strict=True))


def _against_unet3d(pairs: pd.DataFrame, costs: pd.DataFrame) -> tuple[str, int]:
    if reason := _not_compared(costs, ("segresnet", "unet3d")):
        return reason, 0
    row = pairs.loc[("segresnet", "unet3d", "mean_dice")]
    if row["n"] == 0:
        return NO_CASE, 0
    size = f"{abs(row['difference']):.3f} {'higher' if row['difference'] > 0 else 'lower'} mean Dice"
    if pd.isna(row["p_holm"]):
        return f"{size}; {too_few(int(row['n']))}", int(row["n"])
    verdict = ("better" if row["difference"] > 0 else "worse") if row["p_holm"] < results.LEVEL else "not told apart"
    return f"{size} ({p_value(row['p_holm'], named=True)}): {verdict}", int(row["n"])


def _better_on(pairs: pd.DataFrame, costs: pd.DataFrame) -> tuple[str, int]:
    if reason := _not_compared(costs, ("segresnet", "unet3d")):
        return reason, 0
    rows = pairs.xs(("segresnet", "unet3d")).loc[list(CLAIMED)]
    rows = rows[rows["n"] > 0]  # under the policy "ignore" a metric may have no case
    if rows.empty:
        return NO_CASE, 0
    better = rows[(rows["difference"] > 0) == rows["higher_is_better"]]
    better = better[better["difference"] != 0]
    n = int(rows["n"].min())
    if better.empty:
        return "none of the five", n
    told = better[better["p_holm"] < results.LEVEL]
    sure = too_few(n) if rows["p_holm"].isna().all() else f"told apart: {_listed(told.index) or 'none'}"
    return f"{_listed(better.index)}; {sure}", n


def _ratios(costs: pd.DataFrame) -> tuple[str, int]:
    if reason := _not_compared(costs, ("unet25d", "unet3d")):
        return reason, 0
    rows = costs.set_index("model")
    names = ("seconds_per_epoch", "peak_memory_mib")
    time, memory = (rows.loc["unet25d", name] / rows.loc["unet3d", name] for name in names)
    speed, size = _word(time, "faster", "as fast", "slower"), _word(memory, "less", "as much", "more")
    words = f"{speed} ({time:.2f} times the seconds per epoch), with {size} memory ({memory:.2f} times the peak)"
    return words, int(rows.loc["unet25d", "epochs"])


def _word(ratio: float, below: str, equal: str, above: str) -> str:
    """What a ratio is called; within SAME of 1 it is no difference."""
    return equal if abs(ratio - 1) <= SAME else below if ratio < 1 else above


def _not_compared(costs: pd.DataFrame, models: Sequence[str]) -> str:
    """Why models are not compared: the states of those that have not finished."""
    states = costs.set_index("model")["state"]
    missing = [f"{MODELS[model]} {states[model]}" for model in models if states[model] != "finished"]
    return f"not compared: {'; '.join(missing)}" if missing else ""


def too_few(n: int) -> str:
    return f"no test with {plural(n, 'test case')}"


def _listed(metrics: Sequence[str]) -> str:
    *first, last = [label(metric) for metric in metrics] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def label(metric: str) -> str:
    """A metric's name in a sentence or a picture: ``Dice NCR``, ``HD95 TC``."""
    if metric == "mean_dice":
        return "mean Dice"
    kind, _, mask = metric.partition("_")
    return f"{kind.replace('dice', 'Dice').replace('hd', 'HD')} {mask}"

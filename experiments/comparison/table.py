"""The tables that a comparison of models ends with: scores, paired differences, costs and backends."""

from collections.abc import Mapping

import pandas as pd

from common.words import p_value
from experiments.base import results
from experiments.base.ending import unfinished
from experiments.base.results import Result
from experiments.comparison import EXPERIMENT, MODELS, RECIPES
from experiments.comparison.backends import EXPECTED_DIFFERENCE
from experiments.comparison.models import COMPARED, COSTS
from experiments.comparison.summary import CEILING, CLAIMS, SHOWN, too_few
from experiments.segmentation.study import Study

CEILINGS = ("mean_dice", "dice_WT")


def show(study: Study) -> None:
    """Print the scores, the paired differences, the costs, the backends and the claims of a finished comparison."""
    folder = study.run.folder
    summary = {each.key.partition(".")[2]: each for each in results.read_summary(folder / "summary.json")}
    costs, comparisons, backends = (
        pd.read_csv(folder / f"{name}.csv") for name in ("models", "comparisons", "backends")
    )
    tables = (_scores(summary, costs), _differences(comparisons), _costs(costs), _backends(backends))
    claims = []
    for name in CLAIMS:
        said = summary[name]
        reported = "" if said.reported is None else f"\n    reported: {said.reported}"
        claims.append(f"{name}{reported}\n    this run: {said.value}")
    states = [(MODELS[row.model], row.state) for row in costs.itertuples()]
    states += [(f"{MODELS[row.network]} on {row.backend}", row.state) for row in backends.itertuples()]
    study.end(
        RECIPES[study.experiment],
        *(f"\n{text}" for text in tables),
        "",
        *claims,
        missing=unfinished(states),
        command=EXPERIMENT,
    )


def _scores(summary: Mapping[str, Result], costs: pd.DataFrame) -> str:
    def cell(key: str) -> str:
        found = summary.get(key)
        if found is None or found.value is None:
            return "-"
        if isinstance(found.value, str):
            return found.value.partition(":")[0]
        interval = "" if found.low is None else f" ({results.short(found.low)} to {results.short(found.high)})"
        return results.short(found.value) + interval

    models = list(costs["model"])
    rows = [(metric, *(cell(f"{model}__{metric}") for model in models)) for metric in SHOWN]
    rows.append(("test cases", *(str(summary[f"{model}__mean_dice"].n) for model in models)))
    for metric in CEILINGS:
        rows.append((f"ceiling of {metric}", *(cell(f"{CEILING}.{model}__{metric}") for model in models)))
    lines = [
        results.aligned([("metric (95 % interval)", *(MODELS[model] for model in models)), *rows]),
        "ceiling: the truth itself after a U-Net's crop, resizing and the way back; scores are on the whole scan",
        "no model leaves out subjects with little tumour, so that all have the same cases",
    ]
    return "\n".join(lines)


def _differences(comparisons: pd.DataFrame) -> str:
    if comparisons.empty:
        return "differences: fewer than two models have finished"
    pairs = comparisons[["model", "against"]].drop_duplicates().itertuples(index=False, name=None)
    columns = {pair: comparisons.set_index(["model", "against"]).loc[[pair]].set_index("metric") for pair in pairs}

    def cell(row: pd.Series) -> str:
        if not row["n"]:
            return "-"
        interval = "" if pd.isna(row["low"]) else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        p = "" if pd.isna(row["p_holm"]) else f", p {p_value(row['p_holm'])}"
        return f"{row['difference']:+.3f}{interval}{p}"

    head = ("difference (95 % interval)", *(f"{MODELS[model]} - {MODELS[against]}" for model, against in columns))
    rows = [(metric, *(cell(column.loc[metric]) for column in columns.values())) for metric in COMPARED]
    if comparisons["p"].isna().all():
        return f"{results.aligned([head, *rows])}\n{too_few(int(comparisons['n'].max()))}"
    return (
        f"{results.aligned([head, *rows])}\n{results.p_note(comparisons)}.\n"
        "Each model was trained once: intervals and tests are over patients, not over trainings."
    )


def _costs(costs: pd.DataFrame) -> str:
    def cell(value: float | str) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.0f}" if isinstance(value, int | float) and value == round(value) else results.short(value)

    units = ("GFLOP/sample", "s/step", "s/sample", "s/epoch", "MiB", "s/case")
    head = ("model", "epochs", "steps", "parameters", *units, "training")
    names = ("epochs", "steps", *COSTS, "training")
    rows = [(MODELS[row["model"]], *(cell(row[name]) for name in names)) for row in costs.to_dict("records")]
    return (
        f"{results.aligned([head, *rows])}\n"
        "MiB: peak of the training process, its libraries included, or of the GPU. s/sample compares; an epoch of the "
        "SegResNet may have more samples than there are subjects."
    )


def _backends(backends: pd.DataFrame) -> str:
    head = ("network", "backend", "version", "s/step", "s/case", "MiB", "largest difference", "equal labels", "against")
    rows = []
    for row in backends.astype(object).where(backends.notna(), None).to_dict("records"):
        if row["state"] != "finished":
            rows.append((MODELS[row["network"]], row["backend"], row["state"].partition(":")[0], *["-"] * 6))
            continue
        step, case = (results.short(row[name]) for name in ("seconds_per_step", "seconds_per_case"))
        compared = ("-", "-", "-")
        if row["against"] is not None:
            compared = (f"{row['largest_difference']:.1e}", f"{row['equal_labels']:.4%}", row["against"])
        cells = (row["version"], step, case, f"{row['peak_memory_mib']:.0f}")
        rows.append((MODELS[row["network"]], row["backend"], *cells, *compared))
    lines = [
        results.aligned([head, *rows]),
        "the same random weights and prepared cases on every backend; a step is one on a batch in memory",
    ]
    for row in backends.itertuples():
        if row.state == "finished" and row.largest_difference >= EXPECTED_DIFFERENCE:
            name = f"{MODELS[row.network]} on {row.backend}"
            lines.append(f"{name}: probabilities differ by more than {EXPECTED_DIFFERENCE:g}")
    return "\n".join(lines)

"""The tables of a comparison of methods: on the terminal, and as CSV and LaTeX with methods as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from common.files import write_csv, write_text
from common.statistics import FEWEST_CASES
from common.summary import MISSED_HAUSDORFF_MM
from common.words import listed, p_value, plural
from experiments.base import results
from experiments.base.results import Result
from experiments.evaluation.ranking import RANKS, RESAMPLES
from experiments.evaluation.summary import OF_CAVITY, SHOWN
from experiments.page.tables import in_latex

COLUMNS = ("ET", "TC", "WT", "NCR", "ED", "RC")
OVER_PATIENTS = (
    "intervals and tests are over patients: how far another training of a method would be off, they do not know"
)
MEASURES = {
    "dice": "Dice",
    "hd95": "HD95 (mm)",
    "hd": "Hausdorff distance (mm)",
    "surface_dice": "surface Dice at 1 mm",
    "lesion_dice_brats2023": "lesion-wise Dice, BraTS 2023",
    "lesion_hd95_brats2023": "lesion-wise HD95 (mm), BraTS 2023",
    "lesion_dice_brats2024": "lesion-wise Dice, BraTS 2024",
    "lesion_hd95_brats2024": "lesion-wise HD95 (mm), BraTS 2024",
}
"""Each a table of its own."""


def read_table(path: Path) -> pd.DataFrame:
    """A table of a comparison, in which only an empty cell is a missing value: a method may be called NA or None."""
    names = dict.fromkeys(("method", "against", "case", "patient"), str)
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])


def write(folder: Path, scores: pd.DataFrame, methods: Sequence[str], *, about: str, notes: Sequence[str] = ()) -> None:
    """tables/<measure>.csv and .tex: methods as rows, regions as columns, means with 95 % intervals.

    scores: as in scores.csv. about: which cases, in a sentence, which stands in every table. notes: what is odd in the
    label maps, which ends the captions.
    """
    found = scores.set_index(["method", "metric"])
    regions = [region for region in COLUMNS if (methods[0], f"dice_{region}") in found.index]
    for measure, words in MEASURES.items():
        lines, cells = [], []
        for method in methods:
            rows = {region: found.loc[(method, f"{measure}_{region}")] for region in regions}
            line = {"method": method, "measure": measure, "cases": about}
            for region, row in rows.items():
                line |= {region: row["mean"], f"{region}_low": row["low"], f"{region}_high": row["high"]}
                line[f"{region}_n"] = row["n"]
            lines.append(line)
            cells.append({"method": method} | {region: _cell(row) for region, row in rows.items()})
        write_csv(folder / "tables" / f"{measure}.csv", pd.DataFrame(lines))
        caption = ". ".join((f"{words}, mean (95 % interval): {about}", *(f"Note: {note}" for note in notes)))
        write_text(folder / "tables" / f"{measure}.tex", latex(pd.DataFrame(cells), caption, measure))


def latex(cells: pd.DataFrame, caption: str, label: str) -> str:
    """A booktabs table of text cells; its first line says which package it needs."""
    style = cells.map(in_latex).rename(columns=in_latex).style.hide(axis="index")
    table = style.to_latex(
        environment="table",
        hrules=True,
        column_format="l" + "r" * (cells.shape[1] - 1),
        caption=in_latex(caption),
        label=f"tab:{label}",
        position_float="centering",
    )
    return f"% \\usepackage{{booktabs}}\n{table}"


@dataclass(frozen=True)
class Table:
    """Cells as text, and what they are."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def __str__(self) -> str:
        return f"{results.aligned([self.head, *self.rows])}\n{self.note}"


def of_comparison(folder: Path, found: Sequence[Result], methods: Sequence[str], *, about: str) -> list[Table]:
    """The scores, and of several methods the paired differences and the ranking.

    folder: with cases.csv, comparisons.csv and ranking.csv. found: the results of summary.json. about: ends every
    table's note.
    """
    summary = {each.key.partition(".")[2]: each for each in found}
    scores = scores_table(summary, methods)
    lost = absent(read_table(folder / "cases.csv"))
    tables = [replace(scores, note="\n".join((scores.note, *lost)))]
    if len(methods) > 1:
        comparisons = read_table(folder / "comparisons.csv")
        tables.append(differences_table(comparisons))
        tables.append(ranking_table(read_table(folder / "ranking.csv"), methods))
    return [replace(table, note="; ".join(filter(None, (table.note, about)))) for table in tables]


def write_latex(folder: Path, made: Sequence[Table], *, notes: Sequence[str] = ()) -> None:
    """tables/scores.tex, differences.tex and ranking.tex: what the terminal shows. notes: as of :func:`write`."""
    for table in made:
        cells = pd.DataFrame(table.rows, columns=pd.Index(table.head))
        caption = ". ".join((table.title, "; ".join(table.note.splitlines()), *(f"Note: {note}" for note in notes)))
        name = table.title.split()[-1].lower()
        write_text(folder / "tables" / f"{name}.tex", latex(cells, caption, name))


def absent(cases: pd.DataFrame) -> list[str]:
    """By method, the cases in which a label is missed altogether or found where the truth has none, which counts as the
    policy of empty masks says and may rule a mean. cases: as in cases.csv."""
    notes = []
    for method, rows in cases.groupby("method", sort=False):
        said = []
        for label in (label for label in COLUMNS if f"dice_{label}" in rows):
            predicted, true = (rows[f"volume_{side}_ml_{label}"] > 0 for side in ("predicted", "truth"))
            for word, those in (("missed", true & ~predicted), ("invented", predicted & ~true)):
                if those.any():
                    said.append(
                        f"{label} {word} in {plural(int(those.sum()), 'case')} ({listed(list(rows['case'][those]))})"
                    )
        if said:
            notes.append(f"{method}: {', '.join(said)}")
    return notes and [
        f"a label missed or invented altogether: Dice 0, and with --empty-masks brats HD95 {MISSED_HAUSDORFF_MM} mm:",
        *notes,
    ]


def scores_table(summary: Mapping[str, Result], methods: Sequence[str]) -> Table:
    """Metrics as rows, methods as columns: means with 95 % intervals."""

    def cell(found: Result) -> str:
        interval = "" if found.low is None else f" ({results.short(found.low)} to {results.short(found.high)})"
        return results.short(found.value) + interval

    shown = [metric for metric in (*SHOWN, *OF_CAVITY) if f"{methods[0]}__{metric}" in summary]
    rows = [(metric, *(cell(summary[f"{method}__{metric}"]) for method in methods)) for metric in shown]
    n = [summary[f"{method}__{SHOWN[0]}"].n for method in methods]
    rows.append(("cases", *map(str, n)))
    few = f"no interval of fewer than {FEWEST_CASES} cases, nor any conclusion\n" * (max(n) < FEWEST_CASES)
    return Table(
        "Scores", ("metric (95 % interval)", *methods), rows, f"{few}{results.DIRECTIONS}\n{results.LESION_NOTE}"
    )


def differences_table(comparisons: pd.DataFrame) -> Table:
    """Metrics as rows, pairs of methods as columns: differences with 95 % intervals and p after Holm.

    Where no p can be small, with so few cases for so many tests, the note says so in place of a p of 1 in every cell.
    """

    def cell(row: pd.Series) -> str:
        if not row["n"]:
            return "-"
        interval = "" if pd.isna(row["low"]) else f" ({signed(row['low'])} to {signed(row['high'])})"
        p = "" if pd.isna(row["p_holm"]) or not tells else f", p {p_value(row['p_holm'])}"
        return f"{signed(row['difference'])}{interval}{p}"

    tells = results.least_p(comparisons) < results.LEVEL
    pairs = comparisons.groupby(["method", "against"], sort=False)
    columns = {pair: rows.set_index("metric") for pair, rows in pairs}
    head = (
        f"difference (95 % interval){', p after Holm' * tells}",
        *(f"{method} - {against}" for method, against in columns),
    )
    metrics = comparisons["metric"].unique()
    rows = [(metric, *(cell(column.loc[metric]) for column in columns.values())) for metric in metrics]
    note = results.p_note(comparisons)
    if not tells and comparisons["p"].notna().any():
        note += ", so none is shown (comparisons.csv)"
    return Table("Paired differences", head, rows, f"{note}\n{OVER_PATIENTS}")


def signed(value: float) -> str:
    """A difference as a table's cell has numbers, with its sign."""
    said = results.short(float(value))
    return said if said.startswith("-") else f"+{said}"


def ranking_table(ranks: pd.DataFrame, methods: Sequence[str]) -> Table:
    """Criteria as rows, methods as columns: place, and how often the method is first."""
    found = ranks.set_index(["criterion", "method"])

    def cell(criterion: str, method: str) -> str:
        row = found.loc[(criterion, method)]
        value = f"{row['value']:.2f}" if criterion == RANKS else results.short(float(row["value"]))
        share = "" if few else f", first in {row['first']:.1%}"
        return f"{int(row['place'])} ({value}{share})"

    few = bool(ranks["first"].isna().any())
    head = (f"place (value{'' if few else ', share of resamples'})", *methods)
    rows = [(criterion, *(cell(criterion, method) for method in methods)) for criterion in ranks["criterion"].unique()]
    first = f"first: of the cases drawn anew {RESAMPLES} times, which knows of no other patients than these"
    if few:
        first = f"how often each would be first with other patients is not said of fewer than {FEWEST_CASES} cases"
    note = (
        "rank: of Dice and HD95 of ET, TC and WT within each case, averaged over them and the cases; "
        f"{first}; empty masks are valued as BraTS does"
    )
    return Table("Ranking", head, rows, note)


def _cell(row: pd.Series) -> str:
    if pd.isna(row["mean"]):
        return "-"
    interval = "" if pd.isna(row["low"]) else f" ({results.short(row['low'])} to {results.short(row['high'])})"
    return results.short(float(row["mean"])) + interval

"""The report's numbers beside a run's: reported.toml, summary.json and the table that a command ends with."""

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

from common.files import read_json, typed
from common.runs import RunError
from common.statistics import FEWEST_CASES
from common.words import p_value, plural

OF_VIEWS = ("mean_dice", "dice_NCR", "dice_ED", "dice_ET", "dice_TC", "dice_WT", "false_positive_voxels_WT")
LESIONS_IN_TABLE = tuple(
    f"lesion_{score}_brats2023_{region}" for score in ("dice", "sensitivity", "fp") for region in ("ET", "TC", "WT")
)
"""What a command's table shows of the lesion-wise scores."""
OF_LESIONS = tuple(
    f"lesion_{score}_{definition}_{region}"
    for definition in ("brats2023", "brats2024")
    for score in ("dice", "hd95", "sensitivity", "fp")
    for region in ("ET", "TC", "WT")
)
"""What a summary holds of them; scores.csv has all."""
LESION_NOTE = (
    "lesion_*_brats2023: by the BraTS organisers' definition of 2023, whatever empty masks are worth: each lesion "
    "above 50 mm³ against what of the prediction touches it; a lesion missed, or one invented, of any size, counts as "
    "Dice 0 and HD95 374 mm\n"
    "lesion_*_brats2024 (scores.csv): that of 2024, for scans after treatment: as 2023, but parts of a prediction that "
    "lie close are merged, lesions of a tissue that touch one of another tissue are one, and they count from 20 mm³ "
    "(ET 10)\n"
    "fp: false positives per case; every lesion: lesions.csv"
)
HEADLINES = {
    "dice_WT": "whole tumour: overlap with the expert's, 1 is all of it; higher is better",
    "dice_TC": "tumour core, NCR and ET together; higher is better",
    "dice_ET": "enhancing tumour; higher is better",
    "dice_NCR": "necrosis and what does not enhance; higher is better",
    "dice_ED": "oedema; higher is better",
    "mean_dice": "of NCR, ED and ET; higher is better",
    "mean_dice_with_background": "of NCR, ED, ET and the background, which is easy; higher is better",
    "hd95_WT": "mm between the outlines, 95 % are nearer; lower is better",
}
"""The rows that say most, what each is, and which way is better."""
PENALTY = {
    "brats": "a label that was missed, or found where there is none, counts as Dice 0 and as HD95 373 mm, so a few "
    "such patients can rule a mean (--empty-masks)",
    "ignore": "a label that was missed, or found where there is none, counts as Dice 0 and has no HD95; a patient who "
    "rightly has none does not count for it (--empty-masks)",
}
"""What the empty-mask policies do to a mean."""
DIRECTIONS = "Dice and sensitivity: higher is better; HD95, in mm, and false positives (fp): lower is better"
LEVEL = 0.05
"""Below it a p value is called a difference."""
TINY = 0.0005
"""What is nearer to 0 would be printed as 0.000."""
SYNTHETIC_NOTE = "synthetic: measured on the embedded phantoms; it says nothing about patients"


@dataclass(frozen=True)
class Reported:
    """A number (or a word) of the report, and where it stands there."""

    value: float | str
    place: str
    note: str = ""
    half_step: float = 0.0
    """Half of the last decimal that it is given with, by which it may have been rounded; 0 of counts and words."""


@dataclass(frozen=True)
class Result:
    """One line of summary.json. None: not defined (no interval below n = 3, no such number in the report)."""

    key: str
    reported: float | str | None
    value: float | str | None
    low: float | None
    high: float | None
    n: int
    synthetic: bool

    @classmethod
    def of(
        cls,
        experiment: str,
        name: str,
        value: float | str | None,
        n: int,
        interval: tuple[float, float] = (math.nan, math.nan),
        *,
        synthetic: bool,
    ) -> "Result":
        """A result beside the report's value, where the report has one under this name; nan is not defined."""
        known = reported().get(experiment, {})
        return cls(
            key=f"{experiment}.{name}",
            reported=known[name].value if name in known else None,
            value=finite(value) if isinstance(value, float) else value,
            low=finite(interval[0]),
            high=finite(interval[1]),
            n=n,
            synthetic=synthetic,
        )


@cache
def reported(kind: str = "results") -> Mapping[str, Mapping[str, Reported]]:
    """Experiment -> name -> what the report gives, from reported.toml. kind: ``results`` or ``settings``."""
    text = (files("experiments") / "reported.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text, parse_float=Decimal)  # which keeps decimals that are zero
    return {
        experiment: {name: _reported(**entry) for name, entry in entries.items()}
        for experiment, entries in table[kind].items()
    }


def _reported(value: Decimal | int | str, **entry: str) -> Reported:
    if not isinstance(value, Decimal):
        return Reported(value, **entry)
    return Reported(float(value), **entry, half_step=0.5 * 10.0 ** int(value.as_tuple().exponent))


def segmentation_results(experiment: str, scores: pd.DataFrame, *, synthetic: bool, prefix: str = "") -> list[Result]:
    """A cohort's scores (``common.summary.summarise``) as results; volumes describe the cohort and are left out.

    prefix: stands before every name, as in reported.toml (``slices80__mean_dice``). Of a further ``view`` of the
    predictions, Dice and false positives are results too, as ``<view>.<metric>``; of the lesion-wise scores OF_LESIONS.
    """
    found = []
    for row in scores.itertuples():
        view = getattr(row, "view", "")
        if row.metric.startswith("volume_") or (view and row.metric not in OF_VIEWS):
            continue
        if row.metric.startswith("lesion_") and row.metric not in OF_LESIONS:
            continue
        name = f"{view}.{prefix}{row.metric}" if view else f"{prefix}{row.metric}"
        interval = (row.low, row.high)
        found.append(Result.of(experiment, name, float(row.mean), int(row.n), interval, synthetic=synthetic))
    return found


def read_summary(path: Path) -> list[Result]:
    """The results of a finished run. Raises RunError when the file is damaged."""
    try:
        return [typed(Result, line) for line in read_json(path, list)]
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: expected a list of results, found: {error}; --fresh starts over") from error


def read_cases(folder: Path, name: str = "cases.csv") -> pd.DataFrame:
    """A table of a segmentation run, its rows of the label maps themselves, without those of further views of them."""
    frame = pd.read_csv(folder / name, dtype={"case": str, "patient": str, "view": str})
    return frame[frame["view"].isna()].drop(columns="view")


def patients(folder: Path | str, *, synthetic: bool) -> str:
    """What a table says of whose patients its numbers are."""
    return f"patients: {'phantoms' if synthetic else 'those'} in {folder}"


def as_rows(results: Iterable[Result]) -> list[dict]:
    return [asdict(result) for result in results]


def table(results: Iterable[Result]) -> str:
    """The results as text: result | reported | this run | 95 % interval | n."""
    rows = [("result", "reported", "this run", "95 % interval", "n")]
    for result in results:
        name = result.key.partition(".")[2] + (" (synthetic)" if result.synthetic else "")
        value = p_value(result.value) if _is_p(result) else short(result.value)
        rows.append((name, short(result.reported), value, interval(result), str(result.n)))
    return aligned(rows)


def interval(result: Result) -> str:
    """A result's interval in a table's cell, empty where there is none."""
    return "" if result.low is None else f"{short(result.low)} to {short(result.high)}"


def segmentation_table(
    results: Iterable[Result], *, headlines_under: str | None = None, parts: Sequence[str] = ("",)
) -> str:
    """:func:`table` of a segmentation's summary, with LESIONS_IN_TABLE of the lesion-wise scores, and what they are.

    headlines_under: an empty-mask policy, under which only the rows of HEADLINES are shown, with what each means; None
    shows all rows. parts: what stands before the names of the scored parts' results.
    """
    results = list(results)
    if headlines_under is not None:
        return _headlines(results, PENALTY[headlines_under], parts)
    shown, noted = [], False
    for result in results:
        _, lesion, name = result.key.partition("lesion_")
        if not lesion or lesion + name in LESIONS_IN_TABLE:
            shown.append(result)
            noted |= bool(lesion)
    return "\n".join([table(shown), *(["lesion-wise HD95: scores.csv", LESION_NOTE] if noted else [])])


def _headlines(results: Sequence[Result], penalty: str, parts: Sequence[str]) -> str:
    by_name = {result.key.partition(".")[2]: result for result in results}
    meanings = {part + name: HEADLINES[name] for part in parts for name in HEADLINES if part + name in by_name}
    lines = table(by_name[name] for name in meanings).splitlines()
    said = ["", "", *meanings.values()]
    rows = [f"{line}  {meaning}".rstrip() for line, meaning in zip(lines, said, strict=True)]
    notes = [f"{len(by_name) - len(meanings)} more in scores.csv; --all-rows shows them", penalty]
    if (n := max((by_name[name].n for name in meanings), default=FEWEST_CASES)) < FEWEST_CASES:
        notes.append(f"{plural(n, 'test case')}: too few for an interval, and for any conclusion")
    if "mean_dice" in by_name and by_name["mean_dice"].value == 0:
        notes.append("nothing of the tumour was found: what the mean with the background has is the background's alone")
    return "\n".join([*rows, *notes])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, the first of them the head; all columns but the first are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def short(value: float | int | str | None) -> str:
    """A number in a table's cell: three decimals, as the report has them, from 100 on two; not defined: a dash.

    What would be printed as 0.000 keeps its size.
    """
    if value is None:
        return "-"
    if isinstance(value, (str, int)):
        return str(value)
    if 0 < abs(value) < TINY:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.2f}"


def _is_p(result: Result) -> bool:
    return result.key.endswith("_p") and isinstance(result.value, float)


def least_p(tests: pd.DataFrame) -> float:
    """The smallest p after Holm that paired tests can come to, with so many cases and tests; nan where none was made.

    tests: a row of each, with p (nan: not made) and n cases.
    """
    made = tests[tests["p"].notna()]
    return math.nan if made.empty else min(1.0, len(made) * 2 / 2 ** int(made["n"].max()))


def p_note(tests: pd.DataFrame) -> str:
    """What the p values of a table's paired tests are. tests: as of :func:`least_p`."""
    made = tests[tests["p"].notna()]
    if made.empty:
        return "no test: too few cases"
    n, least = int(made["n"].max()), least_p(tests)
    verdict = "" if least < LEVEL else f": too few cases for so many tests to tell anything apart at {100 * LEVEL:g} %"
    return (
        f"p: Wilcoxon's signed-rank test on {n} cases, after Holm over the table's {plural(len(made), 'test')}; with "
        f"so many of both it cannot fall below {least:.2g}{verdict}"
    )


def finite(value: float) -> float | None:
    """A number for summary.json, in which what is not defined is null."""
    return float(value) if math.isfinite(value) else None

"""Rows of a table *result | reported | reproduced | 95 % interval | n | verdict*, and the rule behind the verdict."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.words import p_value
from experiments.base import results
from experiments.base.results import Result

WORD = "a word: to be read side by side"
NO_INTERVAL = "one number, no interval"
NO_NUMBER = "no number in this run"
SYNTHETIC = "synthetic: not a test of the report's value"
RELATIONS = {
    "inside": "lies inside our interval",
    "above": "lies above our interval",
    "below": "lies below our interval",
}
DASH = "–"


@dataclass(frozen=True)
class Verdict:
    """What a result says of the report's value. relation: a key of RELATIONS, None where there is none to speak of."""

    relation: str | None
    text: str


@dataclass(frozen=True)
class Row:
    """One result. place, note: where the report has it and how it is read; result: None where no run has made it."""

    key: str
    reported: float | str | None
    place: str
    note: str
    result: Result | None
    verdict: Verdict

    @property
    def name(self) -> str:
        return self.key.partition(".")[2]

    @property
    def said(self) -> str:
        return number(self.reported)

    @property
    def value(self) -> float | str | None:
        return None if self.result is None else self.result.value

    @property
    def ours(self) -> str:
        """The value as it is shown."""
        if self.name.endswith("_p") and isinstance(self.value, float):
            return p_value(self.value)
        return number(self.value)

    @property
    def interval(self) -> str:
        if self.result is None or self.result.low is None or self.result.high is None:
            return DASH
        return f"{number(self.result.low)} to {number(self.result.high)}"

    @property
    def n(self) -> str:
        return DASH if self.result is None else str(self.result.n)


def rows(experiment: str, found: Iterable[Result], command: str) -> tuple[list[Row], list[Row]]:
    """Rows of everything that the report gives for an experiment, in its order, and of what a run gives besides.

    A reported result that no run has made is a row that names the command to make it. Where the report gives the mean
    of Dice with the background alone, ours without it stands beside it.
    """
    by_key = {result.key: result for result in found}
    beside = []
    for name, entry in results.reported().get(experiment, {}).items():
        key = f"{experiment}.{name}"
        result = by_key.pop(key, None)
        if result is None:
            verdict = Verdict(None, f"not reproduced: {command}")
        else:
            verdict = judge(replace(result, reported=entry.value), half_step=entry.half_step)
        beside.append(Row(key, entry.value, entry.place, entry.note, result, verdict))
    flattering, sober = (f"{experiment}.{name}" for name in ("mean_dice_with_background", "mean_dice"))
    if sober in by_key and flattering in [row.key for row in beside]:
        beside.append(
            Row(sober, None, "", "", by_key.pop(sober), Verdict(None, "without the background, which is easy"))
        )
    return beside, [Row(result.key, None, "", "", result, Verdict(None, "")) for result in by_key.values()]


def judge(result: Result, *, half_step: float = 0.0) -> Verdict:
    """The verdict on a result with a reported value, by rule; synthetic patients are no test of the report.

    half_step: by which the reported value may have been rounded.
    """
    if result.n == 0:
        return Verdict(None, DASH if isinstance(result.value, str) else NO_NUMBER)  # the word in its cell says why
    relation = _relation(result, half_step)
    if result.synthetic:
        return Verdict(relation, SYNTHETIC if relation is None else f"{SYNTHETIC}, which {RELATIONS[relation]}")
    if relation is not None:
        as_rounded = ", as it is rounded" if relation != _relation(result, 0) else ""
        return Verdict(relation, f"the report's value {RELATIONS[relation]}{as_rounded}")
    if isinstance(result.reported, str):
        return Verdict(None, WORD)
    return Verdict(None, NO_INTERVAL if isinstance(result.value, int | float) else NO_NUMBER)


def _relation(result: Result, half_step: float) -> str | None:
    if result.low is None or result.high is None or not isinstance(result.reported, int | float):
        return None
    if result.low <= result.reported + half_step and result.reported - half_step <= result.high:
        return "inside"
    return "above" if result.reported > result.high else "below"


def command(experiment: str) -> str:
    return f"python -m experiments.{experiment}"


def number(value: float | int | str | None) -> str:
    """As in every table of the suite, but a dash is a dash."""
    return DASH if value is None else results.short(value)

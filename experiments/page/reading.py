"""How the report is read, from reading.toml: for the written report, and as a page of the documentation.

python -m experiments.page.reading > docs/reading-the-report.md
"""

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

HEADS = {
    "contradictions": {
        "says": "the report says",
        "why": "why it cannot all be so",
        "does": "what the suite does",
    },
    "open": {"what": "what", "takes": "what the suite takes", "field": "field"},
}
WIDTH = 120
INTRODUCTION = (
    "What the report *Machine Learning in Medical Image Processing* (TU Berlin) states, what it leaves open, what "
    "contradicts itself, and what this suite does about each. Every number of it, with its place, is in "
    "[`experiments/reported.toml`](../experiments/reported.toml); a choice that was left to us is a named field of a "
    "configuration, so that it can be made otherwise on the command line. This page is made from "
    "[`experiments/page/reading.toml`](../experiments/page/reading.toml), as is that part of the written report."
)


@dataclass(frozen=True)
class Reading:
    """What contradicts itself, what is left open (rows with the columns of HEADS), and what a reader must be told."""

    contradictions: Sequence[Mapping[str, str]]
    open: Sequence[Mapping[str, str]]
    told: Sequence[str]


def read() -> Reading:
    return Reading(**tomllib.loads((files("experiments.page") / "reading.toml").read_text(encoding="utf-8")))


def markdown(reading: Reading) -> str:
    """The documentation's page."""
    paragraphs = [
        "# Reading the report",
        textwrap.fill(INTRODUCTION, WIDTH, break_on_hyphens=False),
        "## Contradictions",
        _table(HEADS["contradictions"], reading.contradictions),
        "## Left open",
        _table(HEADS["open"], reading.open),
        "## What an honest reader must be told",
        "\n".join(textwrap.fill(told, WIDTH, initial_indent="- ", subsequent_indent="  ") for told in reading.told),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _table(head: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> str:
    lines = [list(head.values()), ["---"] * len(head), *([row[column] for column in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(markdown(read()), end="")

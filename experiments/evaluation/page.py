"""The page of a comparison of methods: its tables, its pictures, and viewers of the best, median and worst case."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.files import write_text
from common.subject import Subject
from experiments.drawing.scans import which
from experiments.evaluation.ranking import RANKS
from experiments.evaluation.tables import Table, read_table
from experiments.page import slices
from experiments.page.facts import Environment
from experiments.page.pictures import data_address
from experiments.page.template import render

FILE = "index.html"
CAPTIONS = {
    "cases": "FLAIR, T1ce, truth and every method's labels in the axial slice with most tumour",
    "label_size": "Size of each label in the truth against its Dice, class by class",
    "lesions": "Lesions by volume: Dice of each and the share found, by the BraTS organisers' definition of 2023; "
    "found: the prediction touches the lesion, dilated by 3 voxels",
}


class Shown(NamedTuple):
    """A case that is pictured. rank: best, median or worst. truth, predicted by method: classes (x, y, z)."""

    rank: str
    subject: Subject
    truth: np.ndarray
    predicted: Mapping[str, np.ndarray]


def write(
    folder: Path,
    tables: Sequence[Table],
    shown: Sequence[Shown],
    said: Sequence[str],
    start: Environment,
    *,
    doubts: Sequence[str],
    n: int,
) -> None:
    """Write the page, which opens without a network, into the folder of a comparison.

    shown: cases for the viewers, in which truth and the method with the best mean rank can be switched between.
    said: what the numbers were measured on, line by line, indented what belongs to the line before. start: of the
    command. doubts: what is odd in the label maps. n: cases that were scored.
    """
    ranks = read_table(folder / "ranking.csv")
    own = ranks[ranks["criterion"] == RANKS]
    best = str(own.loc[own["place"].idxmin(), "method"])
    page = render(
        "score.html",
        title=folder.name,
        made=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        style=(files("experiments.page") / "templates" / "page.css").read_text(encoding="utf-8"),
        tables=tables,
        said=_nested(said),
        doubts=doubts,
        start=start,
        pictures=[(_caption(path.stem), data_address(path)) for path in sorted((folder / "figures").glob("*.png"))],
        best=best,
        which=which([each.rank for each in shown], n, "compared"),
        viewers=[
            (each.rank, each.subject.id, slices.draw(each.subject, each.truth, each.predicted[best])) for each in shown
        ],
    )
    write_text(folder / FILE, page)


def _nested(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Lines, each with those that are indented after it."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith(" "):
            found[-1][1].append(line.strip())
        else:
            found.append((line, []))
    return found


def _caption(stem: str) -> str:
    """Of a picture by its file's name, which ends in a method's where it is of one."""
    kind = next(kind for kind in CAPTIONS if stem == kind or stem.startswith(f"{kind}_"))
    method = stem.removeprefix(kind).removeprefix("_")
    return f"{method}: {CAPTIONS[kind]}" if method else CAPTIONS[kind]

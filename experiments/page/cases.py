"""Test cases of a segmentation run, one by one: where their scores lie, and pictures of them for the page."""

from pathlib import Path

from common.words import plural
from experiments.base.results import read_cases
from experiments.base.runs import Found
from experiments.drawing.agreement import draw_dice, draw_volumes
from experiments.page.pictures import Picture, drawn

PARTS = {"table2_final": ("seed0/test",), "beyond": ("test/beyond", "out_of_fold/beyond")}
"""Folders of a run, the first of which that is there has the scores and label maps of the cases; the run's own else."""


def part(experiment: str, folder: Path) -> Path:
    """Where a run has cases.csv and predictions; of several places the first that is there."""
    places = [folder / name for name in PARTS.get(experiment, ("",))]
    return next((place for place in places if (place / "cases.csv").exists()), places[0])


def of_run(experiment: str, found: Found) -> tuple[list[Picture], str]:
    """Dice and volumes of every case, drawn; and what is wrong with cases.csv. None of a run without one, or of score,
    whose cases are several methods' and stand on a page of its own."""
    if experiment == "score":
        return [], ""
    if found.state != "finished" or not (folder := part(experiment, found.folder)).joinpath("cases.csv").exists():
        return [], ""
    try:
        cases = read_cases(folder)
        n = plural(len(cases), "test case")
        where = "" if folder == found.folder else f" ({folder.relative_to(found.folder)})"
        dice = (
            f"Dice of each of {n}{where}; the line is the median, a cross a Dice of 0: a label that was missed, "
            "invented, or found elsewhere only"
        )
        volumes = (
            f"Volume agreement (Bland and Altman 1986) of {n}{where}: predicted less true volume against the mean of "
            "both; solid the mean difference, dashed the 95 % limits of agreement, from three cases on"
        )
        return [Picture(dice, drawn(draw_dice(cases))), Picture(volumes, drawn(draw_volumes(cases)))], ""
    except (ValueError, KeyError, OSError) as error:
        return [], f"{folder / 'cases.csv'}: expected a row of scores per case, found: {error!r}"

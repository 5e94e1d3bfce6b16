"""Figures 1 to 18 of the report, from a cohort of scans and from finished runs, as SVG and PNG with captions.

    python -m experiments.figures                               embedded phantoms, and the runs in runs/
    python -m experiments.figures --data FOLDER --mgmt-data FOLDER
    python -m experiments.figures --only 4 8

Figures 1, 2, 10, 11, 14 and 15 show the cohorts, 12 is a diagram, the others show each experiment's run that the report
shows. A figure whose run is missing or damaged is listed with the reason and the command that makes it; the others are
drawn. figures.json in the output folder has a caption and the state of every figure. Cost: 20 seconds of a core of an
AMD EPYC once phantoms and runs are there.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from common.command_line import parse
from experiments.base.options import BothTasks, refusals, refuse_phantoms, wrapped


@dataclass(frozen=True, kw_only=True)
class Options(BothTasks):
    """What is drawn, from what, and where the files go."""

    only: tuple[int, ...] = ()
    """Numbers of the figures to draw; all without it. What the output folder says of the others is kept."""
    output: Path = Path("figures")
    """Folder of the figures."""


def main() -> None:
    options = parse(Options, prog="python -m experiments.figures", description=wrapped(__doc__))
    from common.dicom.mgmt_cohort import find_patients
    from experiments.figures.numbered import FIGURES, INDEX  # and with them the plotting library

    if unknown := sorted(set(options.only) - set(FIGURES)):
        sys.exit(
            f"error: expected figures from 1 to {max(FIGURES)} after --only, received {', '.join(map(str, unknown))}"
        )
    with refusals():
        if options.data is not None and (subjects := options.find(options.data).subjects):
            refuse_phantoms(options.data, next(iter(subjects[0].images.values())))
        if options.mgmt_data is not None:
            refuse_phantoms(options.mgmt_data, find_patients(options.mgmt_data).any_series)
    entries = draw(options)
    for entry in entries:
        if entry["number"] in (options.only or FIGURES):
            said = ", ".join(entry["files"]) if entry["state"] == "drawn" else f"missing: {entry['reason']}"
            print(f"Fig. {entry['number']:>2}  {entry['title']}: {said}")
            if entry["command"]:
                print(f"         {entry['command']}")
    print(f"captions: {options.output / INDEX}")
    if not any(entry["state"] == "drawn" for entry in entries if entry["number"] in (options.only or FIGURES)):
        sys.exit("error: none of these figures could be drawn")


def draw(options: Options) -> list[dict]:
    """Draw what is asked for and write figures.json, which has every figure once. Returns what it holds."""
    from experiments.figures import numbered
    from experiments.figures.sources import Sources

    sources = Sources(**{field.name: getattr(options, field.name) for field in fields(Sources)})
    return numbered.draw(sources, options.output, options.only)


if __name__ == "__main__":
    main()

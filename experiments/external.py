"""A finished segmentation study on another cohort: its networks on patients of another hospital.

    python -m experiments.external RUN --data FOLDER

RUN is the folder of a finished run of a SegResNet or a U-Net; FOLDER any cohort that --data may name. Ends with a table
of both cohorts' scores and their difference, which is not paired, as the patients are others; everything lies in a
folder below the run's, whose own files stay what they are. Subjects that the network was trained on, by their files,
their voxels or their patients' names, are refused by name, or left out with --leave-out-bad.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.command_line import parse
from experiments.base.options import refusals, wrapped
from experiments.segmentation.external import CohortOptions, test_on


@dataclass(frozen=True, kw_only=True)
class Arguments(CohortOptions):
    """A finished run, and another cohort."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run: runs/<experiment>/<run>."""


def main() -> None:
    arguments = parse(Arguments, prog="python -m experiments.external", description=wrapped(__doc__))
    with refusals():
        test_on(arguments.run, arguments)


if __name__ == "__main__":
    main()

"""What scanner-like changes cost a trained segmentation network: the same test cases, changed in one way at a time.

    python -m experiments.robustness RUN
    python -m experiments.robustness RUN --cases 5

RUN is the folder of a finished run of a SegResNet or a U-Net. Its test cases are scored as they are and after changes
of gain, bias field, noise, blur, slice thickness, gamma and brain mask, with a contrast missing and with two swapped;
the table and its picture say how many Dice points each change costs, paired by case. The same command goes on
where a killed call stopped, and shows a finished table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.command_line import parse
from experiments.base.options import refusals, wrapped
from experiments.segmentation.finished import read_run, require_finished
from experiments.segmentation.robustness import ChangeOptions, measure


@dataclass(frozen=True, kw_only=True)
class Arguments(ChangeOptions):
    """A finished run, and how its cases are changed."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run: runs/<experiment>/<run>."""


def main() -> None:
    arguments = parse(Arguments, prog="python -m experiments.robustness", description=wrapped(__doc__))
    with refusals():
        run = read_run(arguments.run)
        require_finished(run)
        measure(run, arguments)


if __name__ == "__main__":
    main()

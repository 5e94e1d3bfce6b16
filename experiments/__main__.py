"""List the experiments: what each reproduces, the report's values, and the state of its last run.

python -m experiments [--runs FOLDER]
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.base import results
from experiments.base.runs import available, purpose, state

MOST_VALUES = 4


@dataclass(frozen=True)
class Options:
    """List the experiments, the report's values and the state of the last run of each."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments", description=__doc__)
    for experiment in available():
        said = [f"{name} {entry.value}" for name, entry in results.reported().get(experiment, {}).items()]
        more = f", and {len(said) - MOST_VALUES} more" if len(said) > MOST_VALUES else ""
        print(f"{experiment}\n    {purpose(experiment)}")
        print(f"    reported: {', '.join(said[:MOST_VALUES]) or 'nothing, it goes beyond'}{more}")
        print(f"    {state(options.runs / experiment)}")
        print(f"    python -m experiments.{experiment} --help")
    print("all of them, then the figures and the written report (make report does all three)")
    print("    python -m experiments.run_all --help")
    print("    python -m experiments.figures --help")
    print("    python -m experiments.report --help")
    print("a finished segmentation run on another cohort, and on its own cases as other scanners would show them")
    print("    python -m experiments.external --help")
    print("    python -m experiments.robustness --help")
    print("the MGMT classifier on patients of other hospitals")
    print("    python -m experiments.mgmt_external --help")


if __name__ == "__main__":
    main()

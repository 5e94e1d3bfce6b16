"""List the experiments: what each reproduces, the report's values, and the state of its last run.

python -m experiments [--runs FOLDER]
"""

import ast
import csv
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import tyro

from experiments import results

MOST_VALUES = 4


@dataclass(frozen=True)
class Options:
    """List the experiments, the report's values and the state of the last run of each."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


def available() -> list[str]:
    """Experiments that can be run: those of reported.toml that have a module here, in the report's order."""
    return [name for name in results.reported() if (files("experiments") / f"{name}.py").is_file()]


def purpose(experiment: str) -> str:
    """First line of the module's docstring, read without importing it (its framework may not be installed)."""
    source = (files("experiments") / f"{experiment}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def state(folder: Path) -> str:
    """What the most recent run below a folder has come to."""
    runs = [run for run in folder.glob("*") if (run / "run.lock").exists()]
    if not runs:
        return "no run yet"
    last = max(runs, key=lambda run: (run / "run.lock").stat().st_mtime)
    if (last / "summary.json").exists():
        return f"finished: {last}"
    history, config = last / "history.csv", last / "config.json"
    if not history.exists() or not config.exists():
        return f"started: {last}"
    with history.open(encoding="utf-8", newline="") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file)]
    total = json.loads(config.read_text(encoding="utf-8"))["model"]["epochs"]
    return f"epoch {epochs[-1] if epochs else 0} of {total}: {last}"


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments", description=__doc__)
    for experiment in available():
        said = [f"{name} {entry.value}" for name, entry in results.reported()[experiment].items()]
        more = f", and {len(said) - MOST_VALUES} more" if len(said) > MOST_VALUES else ""
        print(f"{experiment}\n    {purpose(experiment)}")
        print(f"    reported: {', '.join(said[:MOST_VALUES])}{more}")
        print(f"    {state(options.runs / experiment)}")
        print(f"    python -m experiments.{experiment} --help")


if __name__ == "__main__":
    main()

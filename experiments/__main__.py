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
    # A run may be made of several trainings, each in a folder of its own: rows/<name>, seed0, models/<name>, <cell>.
    training = max(last.rglob("history.csv"), key=lambda history: history.stat().st_mtime, default=None)
    if training is None:
        return f"started: {last}"
    config = training.with_name("config.json")
    try:
        with training.open(encoding="utf-8", newline="") as file:
            epochs = [row["epoch"] for row in csv.DictReader(file)]
        model = json.loads(config.read_text(encoding="utf-8"))["model"] if config.exists() else {}
    except (ValueError, KeyError, TypeError) as error:
        return f"damaged: {training.parent}: expected a history and a configuration, found: {error!r}"
    total = f" of {model['epochs']}" if "epochs" in model else ""
    return f"epoch {epochs[-1] if epochs else 0}{total}: {training.parent}"


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments", description=__doc__)
    for experiment in available():
        said = [f"{name} {entry.value}" for name, entry in results.reported()[experiment].items()]
        more = f", and {len(said) - MOST_VALUES} more" if len(said) > MOST_VALUES else ""
        print(f"{experiment}\n    {purpose(experiment)}")
        print(f"    reported: {', '.join(said[:MOST_VALUES])}{more}")
        print(f"    {state(options.runs / experiment)}")
        print(f"    python -m experiments.{experiment} --help")
    print("all of them, then the figures and the written report (make report does all three)")
    print("    python -m experiments.run_all --help")
    print("    python -m experiments.figures --help")
    print("    python -m experiments.report --help")


if __name__ == "__main__":
    main()

"""List the commands and what they have come to: what each reproduces, the report's values, the run that stands for it.

python -m experiments [--runs FOLDER]      the experiments, and the tools around them
python -m experiments --all                every run: its patients, state, score, and settings that are not its preset's
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from common.command_line import parse
from experiments.base import results
from experiments.base.options import refusals, wrapped
from experiments.base.results import aligned, short
from experiments.base.runs import (
    at_work,
    available,
    changed,
    commands,
    patients_of,
    pins,
    purpose,
    shown,
    state,
    state_of,
)
from experiments.base.runs import read as read_json
from experiments.page.headlines import NAMED

MOST_VALUES = 4


@dataclass(frozen=True)
class Options:
    """List the experiments, the report's values and the state of the run that stands for each."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    all: bool = False
    """Every run in place of every experiment."""


def main() -> None:
    if sys.argv[1:] and sys.argv[1].replace("-", "_") in commands():
        name = sys.argv[1].replace("-", "_")
        sys.exit(f"error: a command is named after a dot: python -m experiments.{name}")
    options = parse(Options, prog="python -m experiments", description=wrapped(__doc__))
    with refusals():
        print(aligned(every_run(options.runs)) if options.all else "\n".join(listing(options.runs)))


def listing(runs: Path) -> list[str]:
    """The experiments in groups, with what they have come to, and every other command with its purpose."""
    experiments = available()
    groups = {
        "Segmentation": [name for name in experiments if not name.startswith("mgmt")],
        "MGMT": [name for name in experiments if name.startswith("mgmt")],
    }
    lines = []
    for group, names in groups.items():
        lines.append(f"{group}\n")
        for experiment in names:
            said = [f"{name} {entry.value}" for name, entry in results.reported().get(experiment, {}).items()]
            more = f", and {len(said) - MOST_VALUES} more" if len(said) > MOST_VALUES else ""
            run = shown(runs, experiment)
            lines += [
                f"{experiment}\n    {purpose(experiment)}",
                f"    reported: {', '.join(said[:MOST_VALUES]) or 'nothing, it goes beyond'}{more}",
                f"    {state(runs / experiment) if run is None else f'finished: {run}'}{at_work(runs / experiment)}",
            ]
        lines.append("")
    lines.append("Around them\n")
    lines += [f"{name}\n    {purpose(name)}" for name in commands() if name not in experiments]
    return [*lines, "", "python -m experiments.NAME --help tells more of one; make report runs them all"]


def every_run(runs: Path) -> list[tuple[str, ...]]:
    """A head and a line for each run: experiment, folder's name, patients, what became of it, what is not preset."""
    rows = [("experiment", "run", "patients", "state", "result", "not the preset's")]
    pinned = pins(runs)
    for lock in sorted(runs.glob("*/*/run.lock")):
        run = lock.parent
        summary, _ = read_json(run, "summary.json", list)
        values = {line["key"].rpartition(".")[2]: line["value"] for line in summary if isinstance(line, dict)}
        named = ("mean_dice", NAMED.get(run.parent.name, ("",))[0])  # else the page's headline
        found = next((f"{name} {short(values[name])}" for name in named if name in values), "-")
        chosen = " (pinned)" if pinned.get(run.parent.name) == run.name else ""
        others = ", ".join(changed(run)) or "-"
        rows.append((run.parent.name, run.name + chosen, patients_of(run), state_of(run), found, others))
    return rows


if __name__ == "__main__":
    main()

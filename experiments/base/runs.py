"""Experiments and what the runs folder holds of them: the last finished run, or why there is none."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.runs import RunError
from experiments.base import results
from experiments.base.progress import epochs
from experiments.base.results import Result

STATUS = Path("run_all") / "status.json"
ATTEMPT = ("experiment", "command", "state", "reason", "seconds")


OWN = ("beyond",)
"""Experiments that reproduce nothing, but stand beside the report's."""


def available() -> list[str]:
    """Experiments that can be run: those of reported.toml that have a module here, in the report's order, and ours."""
    return [*(name for name in results.reported() if (files("experiments") / f"{name}.py").is_file()), *OWN]


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
        try:
            results.read_summary(last / "summary.json")
        except (RunError, OSError) as error:
            return f"damaged: {error}"
        return f"finished: {last}"
    # A run may be made of several trainings, each in a folder of its own: rows/<name>, seed0, models/<name>, <cell>.
    training = max(last.rglob("history.csv"), key=lambda history: history.stat().st_mtime, default=None)
    if training is None:
        return f"started: {last}"
    said = epochs(training.parent)
    return f"{said}: {training.parent}" if not said.startswith("damaged") else f"damaged: {training.parent}{said[7:]}"


def latest(runs: Path, experiment: str) -> Path | None:
    """Folder of the experiment's run that finished last, below the folder of the run folders; None without any."""
    finished = (runs / experiment).glob("*/summary.json")
    last = max(finished, key=lambda summary: summary.stat().st_mtime, default=None)
    return None if last is None else last.parent


@dataclass(frozen=True)
class Found:
    """An experiment's last finished run. state: ``finished``, ``failed``, ``not finished`` or ``not run``.

    reason: of another state than finished. also: other runs of the experiment, and what became of a later attempt.
    """

    state: str
    reason: str = ""
    folder: Path | None = None
    results: list[Result] = field(default_factory=list)
    also: tuple[str, ...] = ()


def find(runs: Path, experiment: str, attempt: Mapping[str, object] | None) -> Found:
    """The experiment's last finished run. attempt: what status.json says of it, None where it says nothing."""
    folder = latest(runs, experiment)
    failure = str(attempt["reason"]) if attempt is not None and attempt["state"] == "failed" else ""
    if folder is None:
        if failure:
            return Found("failed", failure)
        return _unfinished(runs / experiment)
    also = []
    others = [path for path in (runs / experiment).glob("*/run.lock") if path.parent != folder]
    complete = sum((path.parent / "summary.json").exists() for path in others)
    if complete:
        also.append(f"{complete} more finished earlier in the same folder")
    if complete < len(others):
        also.append(f"{len(others) - complete} more in the same folder did not finish")
    if failure:
        also.append(f"a later attempt failed: {failure}")
    path = folder / "summary.json"
    try:
        return Found("finished", "", folder, results.read_summary(path), tuple(also))
    except (RunError, OSError) as error:
        return Found("failed", str(error), folder, [], tuple(also))


def _unfinished(folder: Path) -> Found:
    try:
        said = state(folder)
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Found("failed", f"{folder}: expected a run's history and configuration, found: {error!r}")
    return Found("not run") if said == "no run yet" else Found("not finished", said)


def further(runs: Path) -> list[str]:
    """Names of finished runs of which the report gives nothing, such as the nested protocol's."""
    known = results.reported()
    return sorted({path.parents[1].name for path in runs.glob("*/*/summary.json")} - set(known))


def read(folder: Path | None, name: str, expected: type) -> tuple[Any, str]:
    """A JSON file of a run's folder, an empty ``expected`` where it is missing or unreadable, and what is wrong."""
    path = None if folder is None else folder / name
    if path is None or not path.exists():
        return expected(), ""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, expected):
            raise ValueError(f"a {type(value).__name__}")
    except (ValueError, OSError) as error:
        return expected(), f"{path}: expected a {expected.__name__} in JSON, found: {error}"
    return value, ""


def attempts(runs: Path) -> tuple[dict[str, dict], str]:
    """What run_all has made of each experiment, by name, and what is wrong with its status.json."""
    lines, wrong = read(runs, str(STATUS), list)
    try:
        return {line["experiment"]: {name: line[name] for name in ATTEMPT} for line in lines}, wrong
    except (KeyError, TypeError) as error:
        return {}, f"{runs / STATUS}: expected {', '.join(ATTEMPT)} in every entry, found: {error!r}"

"""Experiments and what the runs folder holds of them: the last finished run, or why there is none."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.files import read_json, write_json
from common.runs import RunError, is_in_use
from experiments.base import results
from experiments.base.progress import epochs
from experiments.base.results import Result

STATUS = Path("run_all") / "status.json"
PINS = "shown.json"
"""In the folder of the run folders: experiment -> name of the run that stands for it."""
ATTEMPT = ("experiment", "command", "state", "reason", "seconds")


OTHER_PATIENTS = {
    "max_subjects": None,
    "max_patients": None,
    "subjects": None,
    "split_seed": 0,
    "synthetic": 0,
    "effect": 1.0,
    "confounder": 0.0,
    "phantom_seed": 2021,
    "cases": "all",
}
"""Options that choose other patients than a preset's result is meant for, and what they are when not given."""
ORDER = "patients before phantoms, paper before demo, the last before earlier ones"
OWN = ("beyond",)
"""Experiments that reproduce nothing, but stand beside the report's."""


def available() -> list[str]:
    """Experiments that can be run: those of reported.toml that have a module here, in the report's order, and ours."""
    return [*(name for name in results.reported() if (files("experiments") / f"{name}.py").is_file()), *OWN]


def commands() -> list[str]:
    """Every command, by looking: a module directly in experiments, or a room that can be run, by name."""
    found = list(files("experiments").iterdir())
    modules = [item.name.removesuffix(".py") for item in found if item.name.endswith(".py")]
    rooms = [item.name for item in found if item.is_dir() and (item / "__main__.py").is_file()]
    return sorted(name for name in (*modules, *rooms) if not name.startswith("__"))


def purpose(command: str) -> str:
    """First line of the module's docstring, read without importing it (its framework may not be installed)."""
    module = files("experiments") / f"{command}.py"
    source = module if module.is_file() else files("experiments") / command / "__main__.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))).splitlines()[0]


def state(folder: Path) -> str:
    """What the most recent run below a folder has come to."""
    runs = [run for run in folder.glob("*") if (run / "run.lock").exists()]
    if not runs:
        return "no run yet"
    return state_of(max(runs, key=lambda run: (run / "run.lock").stat().st_mtime))


def at_work(folder: Path) -> str:
    """How many runs below a folder a process is working on, as the end of a sentence; empty where none."""
    n = sum(is_in_use(lock.parent) for lock in folder.glob("*/run.lock"))
    return f"; running: {n} (python -m experiments.status)" if n else ""


def state_of(last: Path) -> str:
    """What a run has come to."""
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


def shown(runs: Path, experiment: str) -> Path | None:
    """Folder of the run that stands for an experiment, below the folder of the run folders; None without any.

    That is the one pinned (:func:`pin`); else, of those whose settings are their preset's own, or of all where none's
    are, the first in this ORDER. A run of an earlier version does not say, and counts as its preset's.
    Raises RunError when the pins are damaged, or what is pinned is no finished run any more.
    """
    finished = [summary.parent for summary in (runs / experiment).glob("*/summary.json")]
    if (name := pins(runs).get(experiment)) is not None:
        if runs / experiment / name not in finished:
            raise RunError(f"{runs / PINS}: expected a finished run in {runs / experiment}, found no {name}")
        return runs / experiment / name
    return max(finished, key=_place, default=None)


def _place(run: Path) -> tuple[bool, bool, bool, float]:
    synthetic = bool(read(run, "data.json", dict)[0].get("synthetic"))
    preset = options_of(run).get("preset")
    return not changed(run), not synthetic, preset != "demo", (run / "summary.json").stat().st_mtime


def changed(run: Path) -> tuple[str, ...]:
    """Settings of a run that are not its preset's, as ``epochs=6``; none where the run does not say."""
    options = options_of(run)
    others = (f"{name}={options[name]}" for name, usual in OTHER_PATIENTS.items() if options.get(name, usual) != usual)
    return *options.get("changed", ()), *others


def preset_of(run: Path) -> str:
    """The preset that a run was made with and what was changed of it; empty where it does not say."""
    preset = options_of(run).get("preset")
    others = ", ".join(changed(run))
    return f"preset {preset}{f' but {others}' * bool(others)}" if preset else ""


def patients_of(run: Path) -> str:
    """Of which patients a run is: ``phantoms``, or the name of the folder of scans; a dash where it does not say."""
    data, options = read(run, "data.json", dict)[0], options_of(run)
    if data.get("synthetic") or (not data and "data" in options and options["data"] is None):
        return "phantoms"
    folder = data.get("folder") or data.get("mgmt_folder") or options.get("data")
    return Path(folder).resolve().name if folder else "-"


def options_of(run: Path) -> dict[str, Any]:
    """What a run's command was told; nothing where the run does not say."""
    options = read(run, "config.json", dict)[0].get("options")
    return options if isinstance(options, dict) else {}


def pins(runs: Path) -> dict[str, str]:
    """Experiment -> name of the run that stands for it, where one is pinned. Raises RunError where they are damaged."""
    found, wrong = read(runs, PINS, dict)
    if wrong or not all(isinstance(name, str) for name in found.values()):
        raise RunError(wrong or f"{runs / PINS}: expected an experiment's run by name, found {found}")
    return found


def pin(runs: Path, chosen: Iterable[str]) -> None:
    """Write down which runs stand for their experiments from now on. chosen: ``EXPERIMENT=FOLDER``, or
    ``EXPERIMENT=`` to leave it to the rule again. Raises RunError unless each folder is a finished run of it."""
    found = pins(runs)
    for words in chosen:
        experiment, equals, folder = words.partition("=")
        if not equals:
            raise RunError(f"expected EXPERIMENT=FOLDER, received {words}")
        name = Path(folder).name
        if folder and not (runs / experiment / name / "summary.json").exists():
            there = sorted(summary.parent.name for summary in (runs / experiment).glob("*/summary.json"))
            raise RunError(
                f"{words}: expected a finished run in {runs / experiment}, found {', '.join(there) or 'none there'}"
            )
        found.pop(experiment, None)
        if folder:
            found[experiment] = name
        write_json(runs / PINS, found)


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
    """The run that stands for an experiment. attempt: what status.json says of it, None where it says nothing."""
    try:
        folder = shown(runs, experiment)
    except RunError as error:
        return Found("failed", str(error))
    failure = str(attempt["reason"]) if attempt is not None and attempt["state"] == "failed" else ""
    if folder is None:
        if failure:
            return Found("failed", failure)
        return _unfinished(runs / experiment)
    also = []
    others = [path for path in (runs / experiment).glob("*/run.lock") if path.parent != folder]
    complete = sum((path.parent / "summary.json").exists() for path in others)
    if complete:
        why = "this one is pinned" if experiment in pins(runs) else _why(folder, [path.parent for path in others])
        also.append(f"{complete} more finished in the same folder; {why}")
    if complete < len(others):
        also.append(f"{len(others) - complete} more in the same folder did not finish")
    if failure:
        also.append(f"a later attempt failed: {failure}")
    path = folder / "summary.json"
    try:
        return Found("finished", "", folder, results.read_summary(path), tuple(also))
    except (RunError, OSError) as error:
        return Found("failed", str(error), folder, [], tuple(also))


def _why(folder: Path, others: Iterable[Path]) -> str:
    """Why a run stands for its experiment, and none of the others, where none is pinned."""
    if changed(folder):
        return f"none has its preset's own settings; this one, with {', '.join(changed(folder))}, is first: {ORDER}"
    if any((run / "summary.json").exists() and not changed(run) for run in others):
        return f"of those with their preset's own settings this one is first: {ORDER}"
    return "this one has its preset's own settings"


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
        return read_json(path, expected), ""
    except (ValueError, OSError) as error:
        return expected(), str(error)


def attempts(runs: Path) -> tuple[dict[str, dict], str]:
    """What run_all has made of each experiment, by name, and what is wrong with its status.json."""
    lines, wrong = read(runs, str(STATUS), list)
    try:
        return {line["experiment"]: {name: line[name] for name in ATTEMPT} for line in lines}, wrong
    except (KeyError, TypeError) as error:
        return {}, f"{runs / STATUS}: expected {', '.join(ATTEMPT)} in every entry, found: {error!r}"

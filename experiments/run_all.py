"""Run every experiment's own command, one after the other or side by side, each in a process of its own.

    python -m experiments.run_all                             embedded phantoms, demo presets, two CPU cores
    python -m experiments.run_all --data FOLDER               segmentation on a BraTS, MSD or nnU-Net folder
    python -m experiments.run_all --mgmt-data FOLDER          MGMT on an RSNA-MICCAI folder; also together with --data

Phantoms and patients are never mixed: with data of one task only, the other task's experiments are not run, and are
listed with the reason. What an experiment prints goes to <runs>/run_all/<experiment>/log.txt while it runs; what became
of each to <runs>/run_all/status.json. One that fails does not stop the rest and ends the command with status 1. Stopped
with Ctrl-C or SIGTERM it stops the running experiment too; the same command goes on, for each experiment does. Cost:
demo presets with all phantoms 44 minutes on two cores of an AMD EPYC that had other work too; a finished experiment
takes seconds. The results to expect are those of the experiments.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from common.command_line import parse
from common.files import write_json
from common.runs import Run
from experiments.base.engines import run
from experiments.base.options import BothTasks, refusals, wrapped
from experiments.base.trainings import Placement, State, Training, python

SEGMENTATION = ("table1_baseline", "table1_variations", "table2_final", "unet25d", "unet3d", "compare_frameworks")
MGMT = ("mgmt_backbones", "mgmt_grid", "mgmt_slice_choice", "mgmt_ensemble", "mgmt_explain")
LOGS = "run_all"
STATUS = "status.json"
WAITING = "its turn has not come"
FIRST = ("cohort",)
AFTER = {
    "table2_final": ("cohort", "table1_variations"),
    "compare_frameworks": ("cohort", "table2_final"),
    "mgmt_explain": ("cohort", "mgmt_ensemble"),
}
"""Experiment -> those whose phantoms and trainings it takes over; the others need the phantoms alone."""


@dataclass(frozen=True, kw_only=True)
class Options(BothTasks, Placement):
    """What is passed on to the experiments."""

    mgmt_labels: Path | None = None
    """MGMT label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with data and demo without."""
    leave_out_bad: bool = False
    """Go on without subjects and patients that cannot be used; each experiment names and counts them."""
    prepared: Path = Path("prepared")
    """Folder of the prepared stores."""
    local_copy: Path | None = None
    """Folder on a disk of the training machine's own, to which prepared entries are copied once to be read there."""

    def __post_init__(self) -> None:
        BothTasks.__post_init__(self)
        Placement.__post_init__(self)
        if self.submit_only or self.dry_run:
            raise ValueError("expected --submit-only and --dry-run with a single experiment's command")


@dataclass(kw_only=True)
class Status:
    """A line of status.json. seconds: of the last start, of which a finished run takes few."""

    experiment: str
    command: str
    state: Literal["finished", "failed", "not run"] = "not run"
    reason: str = WAITING
    seconds: float = 0.0


def commands(options: Options) -> dict[str, list[str] | str]:
    """Experiment -> what Python is called with, or why it is not run; in the order in which they run."""
    common = ["--runs", options.runs, "--jobs", options.jobs]
    cohorts = ["--data", options.data, "--mgmt-data", options.mgmt_data, "--mgmt-labels", options.mgmt_labels]
    cohorts += ["--phantoms", options.phantoms, "--phantoms-mgmt", options.phantoms_mgmt]
    both = ["--preset", options.preset, "--prepared", options.prepared, "--local-copy", options.local_copy]
    both += [*common, *placed(options)]
    read = ["--layout", options.layout, "--convention", options.convention, "--cavity", options.cavity]
    cohorts += read
    segmentation = ["--data", options.data, *read, "--phantoms", options.phantoms, *both]
    mgmt = ["--data", options.mgmt_data, "--labels", options.mgmt_labels, "--phantoms", options.phantoms_mgmt, *both]
    flags = ["--leave-out-bad"] if options.leave_out_bad else []
    if options.on == "slurm" and options.slurm.options:
        flags += ["--slurm.options", *options.slurm.options]
    embedded = options.data is None and options.mgmt_data is None
    found: dict[str, list[str] | str] = {"cohort": [*module("cohort"), *given([*cohorts, *common])]}
    for experiments, words, option, data in (
        (SEGMENTATION, segmentation, "--data", options.data),
        (MGMT, mgmt, "--mgmt-data", options.mgmt_data),
    ):
        for experiment in experiments:
            possible = embedded or data is not None
            found[experiment] = [*module(experiment), *given(words), *flags] if possible else f"no {option} given"
    return found


def placed(options: Placement) -> list[object]:
    """Where an experiment's trainings run, of which its own command is told; it waits for them on this machine."""
    if options.on == "local":
        return []
    told: list[object] = ["--on", options.on, "--cores", options.cores, "--most", options.most]
    for field in fields(options.slurm) if options.on == "slurm" else ():
        if field.name != "options":
            told += [f"--slurm.{field.name.replace('_', '-')}", getattr(options.slurm, field.name)]
    return told


def module(experiment: str) -> list[str]:
    return ["-m", f"experiments.{experiment}"]


def given(pairs: Sequence[object]) -> list[str]:
    """Options with their values, without those that have none."""
    return [
        str(word)
        for option, value in zip(pairs[::2], pairs[1::2], strict=True)
        if value is not None
        for word in (option, value)
    ]


def trainings(wanted: Mapping[str, list[str] | str], folder: Path) -> list[Training]:
    """What is wanted, without what is not run, as trainings; the cohort's comes first, for it writes the phantoms."""
    runs = {name: words for name, words in wanted.items() if isinstance(words, list)}
    return [
        Training(
            name=name,
            argv=python(*words),
            folder=folder / name,
            behind=tuple(each for each in AFTER.get(name, FIRST) if each in runs and each != name),
            result=None,
        )
        for name, words in runs.items()
    ]


def run_all(wanted: Mapping[str, list[str] | str], folder: Path, *, at_once: int = 1) -> list[Status]:
    """Run what is wanted (what :func:`commands` returns), with logs and status.json in ``folder``."""
    statuses = {
        name: Status(
            experiment=name, command=shlex.join(["python", *(words if isinstance(words, list) else module(name))])
        )
        for name, words in wanted.items()
    }
    for name, words in wanted.items():
        if isinstance(words, str):
            statuses[name].reason = words

    def note(states: Mapping[str, State]) -> None:
        for name, state in states.items():
            status = statuses[name]
            if state.word in ("finished", "failed", "not run"):
                status.state, status.reason = state.word, state.reason
            status.seconds = round(60 * state.minutes, 1)
        write_json(folder / STATUS, [asdict(status) for status in statuses.values()])

    note({})
    run(trainings(wanted, folder), Placement(at_once=at_once), watch=note)
    return list(statuses.values())


def main() -> None:
    options = parse(Options, prog="python -m experiments.run_all", description=wrapped(__doc__))
    with refusals(), Run(options.runs / LOGS) as opened:
        statuses = run_all(commands(options), opened.folder, at_once=options.at_once)
    failed = [status for status in statuses if status.state == "failed"]
    for status in statuses:
        if status.state == "not run":
            print(f"{status.experiment} not run: {status.reason}")
    for status in failed:
        print(f"\n{status.experiment} failed, {status.reason}\n  {status.command}")
    if failed:
        sys.exit(f"{len(failed)} of {len(statuses)} experiments failed; their output is in {options.runs / LOGS}")


if __name__ == "__main__":
    main()

"""Run every experiment's own command, one after the other, each in a process of its own.

    python -m experiments.run_all                             embedded phantoms, demo presets, two CPU cores
    python -m experiments.run_all --data FOLDER               segmentation on a BraTS, MSD or nnU-Net folder
    python -m experiments.run_all --mgmt-data FOLDER          MGMT on an RSNA-MICCAI folder; also together with --data

Phantoms and patients are never mixed: with data of one task only, the other task's experiments are not run, and are
listed with the reason. What an experiment prints goes to <runs>/run_all/<experiment>.log while it runs; what became of
each to <runs>/run_all/status.json. One that fails does not stop the rest and ends the command with status 1. Stopped
with Ctrl-C or SIGTERM it stops the running experiment too; the same command goes on, for each experiment does. Cost:
demo presets with all phantoms 44 minutes on two cores of an AMD EPYC that had other work too; a finished experiment
takes seconds. The results to expect are those of the experiments.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from common.files import write_json
from common.runs import Run, RunError

SEGMENTATION = ("table1_baseline", "table1_variations", "table2_final", "unet25d", "unet3d", "compare_frameworks")
MGMT = ("mgmt_backbones", "mgmt_grid", "mgmt_slice_choice", "mgmt_ensemble", "mgmt_explain")
LOGS = "run_all"
STATUS = "status.json"
WAITING = "its turn has not come"
GRACE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is passed on to the experiments."""

    data: Path | None = None
    """Folder of scans. Without it and without --mgmt-data the embedded phantoms of both tasks are used."""
    mgmt_data: Path | None = None
    """Folder of the MGMT cohort (DICOM)."""
    mgmt_labels: Path | None = None
    """MGMT label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with data and demo without."""
    leave_out_bad: bool = False
    """Go on without subjects and patients that cannot be used; each experiment names and counts them."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    prepared: Path = Path("prepared")
    """Folder of the prepared stores."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded cohort."""
    phantoms_mgmt: Path = Path("phantoms_mgmt")
    """Folder of the embedded MGMT cohorts."""
    jobs: int = -1
    """Threads or processes that prepare and score; -1 takes every core."""


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
    both = ["--preset", options.preset, "--prepared", options.prepared, *common]
    segmentation = ["--data", options.data, "--phantoms", options.phantoms, *both]
    mgmt = ["--data", options.mgmt_data, "--labels", options.mgmt_labels, "--phantoms", options.phantoms_mgmt, *both]
    flags = ["--leave-out-bad"] if options.leave_out_bad else []
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


def run_all(wanted: Mapping[str, list[str] | str], folder: Path) -> list[Status]:
    """Run what is wanted (what :func:`commands` returns), with logs and status.json in ``folder``."""
    statuses = [
        Status(experiment=name, command=shlex.join(["python", *words]))
        if isinstance(words, list)
        else Status(experiment=name, command=shlex.join(["python", *module(name)]), reason=words)
        for name, words in wanted.items()
    ]
    write(folder, statuses)
    for number, status in enumerate(statuses, start=1):
        print(f"{number:2} of {len(statuses)}  {status.experiment:<20}", end="", flush=True)
        words = wanted[status.experiment]
        if isinstance(words, list):
            log = folder / f"{status.experiment}.log"
            print(f"{log} ... ", end="", flush=True)
            started = time.monotonic()
            try:
                code = call([sys.executable, *words], log)
                status.state, status.reason = ("failed", why(code, log)) if code else ("finished", "")
            except (KeyboardInterrupt, SystemExit):
                status.reason = "stopped while it ran; the same command goes on"
                raise
            finally:
                status.seconds = round(time.monotonic() - started, 1)
                write(folder, statuses)
        print(told(status), flush=True)
    return statuses


def call(command: Sequence[str], log: Path) -> int:
    """Exit status of a command whose output goes to a file. It ends, with all that it started, when this process must.

    Its process group is its own, so that nothing which it started is left behind.
    """
    # Bars drawn every ten seconds are enough for a file.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
        try:
            return process.wait()
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a command's process group: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def why(code: int, log: Path) -> str:
    """Why a command failed: its exit status, or the signal that ended it, and what it said last.

    That is its own line ``error: ...`` where there is one, after which advice may follow, else its last line.
    """
    status = f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    # Bars go back to the beginning of a line, which counts as a line of its own here.
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or lines
    return f"{status}: {said[-1].strip()}" if said else status


def told(status: Status) -> str:
    """What became of an experiment, for the command's line of it."""
    if status.state == "not run":
        return f"not run: {status.reason}"
    minutes, seconds = divmod(round(status.seconds), 60)
    reason = f": {status.reason}" if status.reason else ""
    return f"{status.state}, {minutes} min {seconds:02} s{reason}"


def write(folder: Path, statuses: Sequence[Status]) -> None:
    write_json(folder / STATUS, [asdict(status) for status in statuses])


@contextmanager
def signals_end_the_program() -> Iterator[None]:
    """SIGTERM and SIGHUP leave through the same door as Ctrl-C, so that the running experiment is ended too."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    # What is ignored stays so: under nohup, SIGHUP.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments.run_all", description=__doc__)
    try:
        with signals_end_the_program(), Run(options.runs / LOGS) as run:
            statuses = run_all(commands(options), run.folder)
    except RunError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    failed = [status for status in statuses if status.state == "failed"]
    for status in failed:
        print(f"\n{status.experiment} failed, {status.reason}\n  {status.command}")
    if failed:
        sys.exit(f"{len(failed)} of {len(statuses)} experiments failed; their output is in {options.runs / LOGS}")


if __name__ == "__main__":
    main()

"""Trainings as Slurm's jobs: one array per level of what needs what, by sbatch alone.

What a job does is in a script of a few lines, so a library that pickles functions has nothing to add.
"""

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from common.files import read_json, write_json
from common.runs import FAILURE, RunError, is_in_use
from experiments.base.progress import Lines
from experiments.base.scheduler import Watch, line
from experiments.base.shared import common_folder, token_file
from experiments.base.trainings import JOB, WHERE, Placement, State, Training, state

ROOT = Path(__file__).parents[2]
SAID = "job.txt"
"""File of a training's folder with what its job says beside the training's own log: that Python does not start, say."""
POLL_SECONDS = 5.0
PROBE_SECONDS = 20
LOST_POLLS = 3
"""A job that Slurm does not list any more is given so many looks for its last files to be seen here."""
LEFT = State("waiting", "for a job: nobody works on it any more")
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Job:
    """What Slurm says of an element of an array."""

    word: str
    node: str
    reason: str


def run(trainings: Sequence[Training], placement: Placement, watch: Watch) -> dict[str, State]:
    """Submit what is not finished, runs nowhere and waits in no queue, and wait for all.

    With dry_run the scripts are printed, with submit_only the jobs submitted, and the program ends.
    """
    if placement.dry_run:
        named: list[str] = []
        for array, text in arrays([each for each in trainings if not each.is_finished], placement):
            said = f"# array {len(named) + 1}"
            if named and any((*each.after, *each.behind) for each in array):
                said += f", behind {', '.join(named)} (--dependency=afterany)"
            named.append(f"array {len(named) + 1}")
            print(text.replace("\n", f"\n{said}\n", 1))
        print("--dry-run: nothing was submitted", file=sys.stderr)
        sys.exit(0)
    _require_commands()
    queue = jobs()
    missing = [each for each in trainings if not (each.is_finished or job_of(each) in queue or is_in_use(each.folder))]
    if missing:
        _probe(common_folder(trainings), placement)
        submit(missing, trainings, placement)
    if placement.submit_only:
        print(f"submitted {len(missing)} of {len(trainings)} trainings; the same command shows what becomes of them")
        sys.exit(0)
    known = {each.name for each in trainings if each in missing or job_of(each) in queue}
    return _Waiting(trainings, placement, watch, known).wait()


def check(placement: Placement) -> None:
    """Raises RunError where Slurm is not here, or would not take a job as it is placed; nothing is submitted."""
    _require_commands()
    job = Training(name="a job", argv=("true",), folder=Path.cwd(), memory_gib=0.001)  # trainings need their own
    _slurm(["sbatch", "--test-only"], script([job], 1, 1, placement.cores, 1, job.memory_gib, placement))


def _require_commands() -> None:
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise RunError(f"--on slurm: expected Slurm's {command} on this machine, found none on PATH")


def levels(trainings: Sequence[Training]) -> Iterator[list[Training]]:
    """The trainings in groups, each of which needs others of those before only."""
    left, names = list(trainings), {each.name for each in trainings}
    while left:
        waiting = {each.name for each in left} & names
        ready = [each for each in left if waiting.isdisjoint((*each.after, *each.behind))]
        yield ready
        left = [each for each in left if each not in ready]


def arrays(missing: Sequence[Training], placement: Placement) -> Iterator[tuple[list[Training], str]]:
    """Groups of trainings of one level and equal needs, with the script of each."""

    def needs(each: Training) -> tuple[int, int, int, int, float]:
        return (each.nodes, each.devices, each.cores or placement.cores, each.gpus, each.memory_gib)

    for level in levels(missing):
        for own, group in groupby(sorted(level, key=needs), key=needs):
            array = list(group)
            yield array, script(array, *own, placement)


def script(
    array: Sequence[Training],
    nodes: int,
    devices: int,
    cores: int,
    gpus: int,
    memory_gib: float,
    placement: Placement,
) -> str:
    """What sbatch is given for an array of trainings."""
    slurm = placement.slurm
    most = f"%{placement.most}" if placement.most else ""
    given = {
        "job-name": "glioma-suite",
        "array": f"0-{len(array) - 1}{most}",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time,
        "nodes": nodes if nodes > 1 else None,
        "ntasks-per-node": devices if nodes * devices > 1 else None,
        "cpus-per-task": cores,
        "gres": f"gpu:{slurm.gpus}" if slurm.gpus and gpus else None,
        "mem": slurm.mem or f"{round(devices * memory_gib * 1024)}M",
        "chdir": shlex.quote(os.getcwd()),
        "signal": f"B:USR1@{slurm.signal_seconds}",
        "output": "/dev/null",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in given.items() if value is not None)]
    lines += ["#SBATCH --requeue", *(f"#SBATCH --{option}" for option in slurm.options)]
    lines += ["folders=(", *(f"  {shlex.quote(str(each.folder.resolve()))}" for each in array), ")"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    lines += [f"export PYTHONPATH={shlex.quote(path)}"]
    python = f"{slurm.launcher or ''} {shlex.quote(sys.executable)}".strip()
    lines += ['folder="${folders[$SLURM_ARRAY_TASK_ID]}"', f'exec > "$folder/{SAID}" 2>&1']
    lines += [f'exec {python} -m experiments.base.job "$folder"', ""]
    return "\n".join(lines)


def submit(missing: Sequence[Training], trainings: Sequence[Training], placement: Placement) -> None:
    """Submit arrays, each behind those before, and note the jobs in the folders. Raises RunError; then none is left."""
    by_name, before = {each.name: each for each in trainings}, [job_of(each) for each in trainings]
    queue, submitted = jobs(), []
    submitted_before = sorted({str(id).partition("_")[0] for id in before if id in queue})
    try:
        for array, text in arrays(missing, placement):
            for each in array:
                each.folder.mkdir(parents=True, exist_ok=True)
                for left in (FAILURE, SAID):
                    (each.folder / left).unlink(missing_ok=True)
                needed = [by_name[name] for name in each.after]
                described = {
                    "argv": argv(each, placement),
                    "result": each.result,
                    "cores": each.cores or placement.cores,
                    "after": {need.name: str(need.folder.resolve() / (need.result or "")) for need in needed},
                }
                write_json(each.folder / JOB, described)
            behind = [*submitted_before, *submitted] if any((*each.after, *each.behind) for each in array) else []
            words = ["sbatch", "--parsable", *([f"--dependency=afterany:{':'.join(behind)}"] if behind else [])]
            said = _slurm(words, text)
            id = said.strip().partition(";")[0]
            submitted.append(id)
            for number, each in enumerate(array):
                write_json(each.folder / JOB, {**read_json(each.folder / JOB, dict), "job": f"{id}_{number}"})
    except BaseException:
        if submitted:
            subprocess.run(["scancel", *submitted], check=False)
        raise


def argv(training: Training, placement: Placement) -> tuple[str, ...]:
    """Command line within a job: srun starts the processes that share the training, on all nodes, and ends all when one
    fails, but none when another has done its part."""
    if training.devices * training.nodes == 1:
        return training.argv
    cores, launcher = training.cores or placement.cores, shlex.split(placement.slurm.launcher or "")
    return ("srun", "--kill-on-bad-exit=1", "--wait=0", f"--cpus-per-task={cores}", *launcher, *training.argv)


def job_of(training: Training) -> str | None:
    """The job that was submitted last for a training, as 12_3."""
    try:
        return read_json(training.folder / JOB, dict).get("job")
    except (OSError, ValueError):
        return None


def jobs() -> dict[str, Job]:
    """This user's jobs that have not ended, by id, elements of arrays as 12_3."""
    said = _slurm(["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format=%i|%T|%N|%r"])
    rows = [row.split("|", 3) for row in said.splitlines() if row.count("|") >= 3]
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "COMPLETING")
    return {id: Job(word, node, reason) for id, word, node, reason in rows if word not in ended}


def _slurm(words: Sequence[str], text: str | None = None) -> str:
    found = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RunError(f"Slurm: {_telling(found.stderr.splitlines()) or f'exit status {found.returncode}'}")
    return found.stdout


def _telling(said: Sequence[str]) -> str:
    """Of what a command of Slurm said, the line that says most: what was fatal, else the first."""
    rows = [row.strip() for row in said if row.strip()]
    row = next((row for row in rows if "fatal: " in row), rows[0] if rows else "")
    return re.sub(r"^((sbatch|squeue|srun|scancel|error|fatal|allocation failure): )+", "", row)


def _last_words(training: Training) -> str:
    """What a training's job said last, as the middle of a sentence; empty where that was nothing."""
    try:
        said = (training.folder / SAID).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    rows = [row.strip() for row in said if row.strip()]
    return f": {rows[-1]}" if rows else ""


def _probe(folder: Path, placement: Placement) -> None:
    """Raises RunError where a node of the partition does not see the folder; says so where none was free to look."""
    slurm, wanted = placement.slurm, ["srun", f"--immediate={PROBE_SECONDS}", "--ntasks=1", "--time=1", "--quiet"]
    for name in ("partition", "account", "qos"):
        if (value := getattr(slurm, name)) is not None:
            wanted.append(f"--{name}={value}")
    with token_file(folder) as token:
        python = "" if slurm.launcher else f"&& test -x {shlex.quote(sys.executable)} "
        tests = (
            f"test -e {shlex.quote(str(token))} && test -d {shlex.quote(os.getcwd())} {python}&& echo seen || hostname"
        )
        found = subprocess.run(
            [*wanted, *(f"--{option}" for option in slurm.options), "--chdir=/", "sh", "-c", tests],
            capture_output=True,
            text=True,
            check=False,
        )
    said = found.stderr.strip().splitlines()
    if found.returncode == 0 and found.stdout.strip() != "seen":
        node = found.stdout.strip()
        raise RunError(
            f"Slurm node {node}: expected to see {folder}, {Path.cwd()} and {sys.executable} as here (a shared folder)"
        )
    if found.returncode and any(word in row.lower() for row in said for word in ("invalid", "not found", "contact")):
        raise RunError(f"Slurm: {_telling(said)}")
    if found.returncode:
        print(f"no node was free within {PROBE_SECONDS} s to look whether it sees {folder}", file=sys.stderr)


class _Waiting:
    """Looks at queue and folders until every training has ended. The jobs go on whatever becomes of this."""

    def __init__(self, trainings: Sequence[Training], placement: Placement, watch: Watch, queued: set[str]) -> None:
        """queued: names of those that have jobs. What another command works on is submitted once that one leaves it."""
        self.trainings, self.placement, self.watch = {each.name: each for each in trainings}, placement, watch
        self.found = {each.name: State() for each in trainings}
        self.queued = queued
        self.lost: dict[str, int] = {}
        self.lines = Lines(lambda name: line(self.trainings, self.found, name))

    def wait(self) -> dict[str, State]:
        try:
            while self._look():
                time.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, SystemExit):
            print("the jobs go on: the same command shows them, scancel ends them", file=sys.stderr)
            raise
        finally:
            self.lines.close()
        return self.found

    def _look(self) -> bool:
        queue, before = jobs(), {name: str(each) for name, each in self.found.items()}
        for name, training in self.trainings.items():
            if not self.found[name].has_ended:
                self.found[name] = self._state(training, queue)
        if left := [self.trainings[name] for name, state in self.found.items() if state == LEFT]:
            submit(left, list(self.trainings.values()), self.placement)
            self.queued |= {each.name for each in left}
            self.lost |= {each.name: 0 for each in left}
            self.found |= {each.name: State() for each in left}
        if before != {name: str(each) for name, each in self.found.items()}:
            self.watch(self.found)
        self.lines.show({name: str(each) for name, each in self.found.items()})
        return any(not each.has_ended for each in self.found.values())

    def _state(self, training: Training, queue: Mapping[str, Job]) -> State:
        id = job_of(training)
        if training.is_finished:
            return State("finished")
        if id in queue:
            job = queue[id]
            self.queued.add(training.name)
            if job.word in WAITING:
                return State("waiting", f"job {id}, {job.reason}")
            return State("running", f"job {id} on {job.node}")
        if is_in_use(training.folder):
            return State("elsewhere", "another command is working on it")
        self.lost[training.name] = self.lost.get(training.name, 0) + 1
        if self.lost[training.name] < LOST_POLLS:
            return self.found[training.name]
        said = state(training.folder, training.result or WHERE)
        if said == "finished":
            return State("finished")  # of a command without a result, whose job has ended and left no failure
        if said.startswith("failed: "):
            return State("failed", said.removeprefix("failed: "))
        if training.name not in self.queued:
            return LEFT
        return State("not run", f"job {id} has ended without a result{_last_words(training)}; the same command goes on")

"""What a Slurm job does: the training that a folder describes, as a process; before the time limit it is put back.

python -m experiments.base.job FOLDER
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.files import read_json, write_text
from common.runs import FAILURE
from experiments.base.processes import Process, end, in_use, note_place, outcome
from experiments.base.trainings import JOB, Training

POLL_SECONDS = 0.1


def main(folder: Path) -> int:
    """Exit status of the training, 0 where it was put back into the queue."""
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(signal.SIGUSR1))
    described = read_json(folder / JOB, dict)
    lost = [name for name, result in described["after"].items() if not Path(result).exists()]
    if lost:
        write_text(folder / FAILURE, f"it needs {' and '.join(lost)}\n")
        return 1
    training = Training(name=folder.name, argv=tuple(described["argv"]), folder=folder, result=described["result"])
    if training.is_finished:
        return 0
    process = Process(training.argv, folder, threads=described["cores"])
    note_place(folder, "slurm", job=described.get("job") or os.environ.get("SLURM_JOB_ID"))
    try:
        while (code := process.process.poll()) is None and not asked:
            time.sleep(POLL_SECONDS)
    finally:
        end([process])
    if asked or in_use(code, folder):
        # What another command holds has its turn again, as what has reached the limit of time.
        return subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False).returncode
    outcome(training, code)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""One training in two processes, from the command line to the table: by torchrun here, and by srun on two nodes."""

import json
import subprocess
import sys

import pytest

from tests.clusters import slurm
from tests.experiments.conftest import TINY, environment

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
# In bfloat16 a sample beside another one is rounded otherwise than alone.
COMMAND = (*TINY, "--model.batch-size", "2", "--model.dropout", "0", "--model.precision", "float32")
WAYS = {
    "torchrun": ("--model.devices", "2"),
    "srun": ("--on", "slurm", "--slurm.mem", "900M", "--model.nodes", "2"),
}


def run(cohort, folder, *more, **surroundings):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.table1_baseline", "--data", cohort, *COMMAND, *more],
        cwd=folder, env=environment() | surroundings, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    found = list((folder / "runs" / "table1_baseline").glob("*"))
    return done, *found


@pytest.fixture(scope="module")
def alone(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done, run_folder = run(cohort, folder)
    assert done.returncode == 0, done.stderr
    return run_folder


@pytest.mark.parametrize("way", WAYS)
def test_the_command_ends_with_the_weights_of_one_process(way, alone, cohort, tmp_path):
    if way == "srun":
        with slurm(tmp_path / "slurm") as surroundings:
            # Its nodes are this machine, which does not know their names.
            done, folder = run(cohort, tmp_path, *WAYS[way], MASTER_ADDR="localhost", **surroundings)
    else:
        done, folder = run(cohort, tmp_path, *WAYS[way])
    log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
    assert done.returncode == 0, f"{done.stderr}\n{log}"
    assert folder.name == alone.name  # how it was done is no part of its name
    config = json.loads((folder / "config.json").read_text())["model"]
    assert config["devices"] * config["nodes"] == 2
    assert len(json.loads((folder / "environment.json").read_text())) == 2  # the command's, and its first process'
    states = [torch.load(each / "checkpoints" / "last.pt", weights_only=True) for each in (alone, folder)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=1e-5)
    assert "Traceback" not in log
    again, _ = run(cohort, tmp_path, "--model.devices", "1")
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]
    assert "training" not in again.stderr


def test_a_command_that_starts_its_trainings_is_not_to_be_started_several_times(cohort, tmp_path):
    variables = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done, *folders = run(cohort, tmp_path, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: expected one process, for this command starts its trainings itself, found 2 of"
    )
    assert not folders

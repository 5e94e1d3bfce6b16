"""Which process of a training this is, of how many, and what it does of it."""

from contextlib import contextmanager

import pytest

from common import processes
from common.processes import Group, Processes, Shares, as_torchrun, check, check_alone, group, started, together
from common.runs import RunError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_NTASKS": "9",
}
SIXTH = Processes(rank=5, size=6, local_rank=1, per_node=2, launcher="srun")


def test_variables_of_torchrun_and_of_srun_are_read():
    of_torchrun = Processes(rank=5, size=8, local_rank=1, per_node=4, launcher="torchrun")
    assert started(TORCHRUN) == of_torchrun
    assert started(SRUN) == SIXTH
    assert started(SRUN | TORCHRUN) == of_torchrun  # torchrun within a task of Slurm's


def test_one_process_is_one_whatever_started_it():
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    batch_script = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    assert started({}) == started(one) == started(batch_script) == Processes()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"WORLD_SIZE": "2"}, "RANK missing, WORLD_SIZE 2"),
        (TORCHRUN | {"RANK": "one"}, "RANK one"),
        (TORCHRUN | {"RANK": "8"}, "RANK 8, WORLD_SIZE 8"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE 3"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4,2"}, "SLURM_STEP_TASKS_PER_NODE 4,2"),
    ],
)
def test_variables_that_cannot_be_are_named(environment, found):
    with pytest.raises(RunError, match=found):
        started(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n[4-6]", "n4"),
        ("n7", "n7"),
        ("a1,n[4-6]", "a1"),
        ("gpu[004,007-9],n1", "gpu004"),
        ("r[2-3]n[07-12]", "r2n07"),
        ("x[5,8]-ib,y", "x5-ib"),
    ],
)
def test_the_first_of_a_steps_nodes_is_where_processes_meet(nodes, first):
    step = SRUN | {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "1"}
    assert as_torchrun(SIXTH, step)["MASTER_ADDR"] == first


def test_sruns_processes_find_each_other_as_torchruns_do():
    step = SRUN | {"SLURM_STEP_NODELIST": "n[4-6]", "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "1"}
    found = as_torchrun(SIXTH, step | {"MASTER_PORT": "7"})
    assert found == {
        "MASTER_ADDR": "n4", "MASTER_PORT": "7", "RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "2",
    }  # fmt: skip
    assert started(found) == Processes(rank=5, size=6, local_rank=1, per_node=2, launcher="torchrun")
    ports = {as_torchrun(SIXTH, step | {"SLURM_STEP_ID": str(n)})["MASTER_PORT"] for n in range(5)}
    assert len(ports) == 5


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_are_every_other_position_and_equally_many(size, monkeypatch):
    class Steps(list):
        sampler = None

    steps = Steps([[7, 3, 9, 1, 5], [4, 8], [6]])
    found = []
    for rank in range(size):
        monkeypatch.setattr(processes, "_group", Group(Processes(rank=rank, size=size, per_node=size)))
        shares = Shares(steps)
        assert (len(shares), shares.sizes) == (3, [5, 2, 1])
        found.append(list(shares))
    for step, parts in zip(steps, zip(*found, strict=True), strict=True):
        assert {len(part) for part in parts} == {-(-len(step) // size)}
        for rank, part in enumerate(parts):
            own = [position for n, position in enumerate(step) if n % size == rank]
            assert part[: len(own)] == own
            assert set(part[len(own) :]) <= {(own or step)[0]}


def test_work_in_shares_comes_back_in_order():
    said = []

    def gather(own):
        said.append(own)
        return [["a0", "a3", "a6"], own, ["a2", "a5"]]

    second = Group(Processes(rank=1, size=3, per_node=3), gather=gather)
    assert second.in_shares(range(8), lambda share: [f"a{n}" for n in share]) == [f"a{n}" for n in range(8)]
    assert said == [["a1", "a4", "a7"]]
    assert Group().in_shares(range(3), list) == [0, 1, 2]


def test_the_others_do_what_the_first_has_them_do(tmp_path, monkeypatch):
    told, did = [], []

    def train(what, run):
        did.append((what, run.writes, run.folder, group().own.rank))

    def join(own):
        @contextmanager
        def joined():
            yield Group(own, broadcast=lambda value: told.append(value) or value if own.rank == 0 else told.pop(0))

        return joined()

    class FirstRun:
        writes, folder = True, tmp_path

    for rank in (0, 1):
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        together(lambda: group().call(train, "this", run=FirstRun()), join)
        assert group().size == 1
    assert did == [("this", False, tmp_path, 1)]
    assert not list(tmp_path.iterdir())


def test_another_number_of_processes_is_refused(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    check(devices=4, nodes=2)
    for devices, nodes in ((8, 1), (2, 4), (1, 1), (4, 1)):
        with pytest.raises(
            RunError, match=rf"{devices * nodes} processes for {devices} devices .* found 8 of torchrun"
        ):
            check(devices=devices, nodes=nodes)
    with pytest.raises(RunError, match=r"expected one process, .* found 8 of torchrun; leave torchrun out"):
        check_alone()
    monkeypatch.setattr(processes, "started", Processes)
    with pytest.raises(RunError, match=r"expected 4 processes .* found 1; torchrun --nproc-per-node"):
        check(devices=4, nodes=1)

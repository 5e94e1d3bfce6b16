"""Trainings on a Ray cluster: each a task that runs its command; one whose node dies goes on elsewhere."""

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import read_json
from common.runs import RunError
from experiments.base.processes import GRACE_SECONDS, Process, end, note_place, outcome, versions
from experiments.base.shared import common_folder, token_file
from experiments.base.trainings import WHERE, Placement, State, Training

ROOT = Path(__file__).parents[2]
MOVES = "moves.txt"
"""File of a training's folder with a line for each time that its node was lost."""
MOST_MOVES = 20
CONNECT_SECONDS = 5.0
CHECK_SECONDS = 60
GREETING, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), b"\4"
"""What an HTTP/2 client, which gRPC is, says first, and the type of what a server answers with (RFC 9113, 3.4)."""


@dataclass
class _Task:
    training: Training
    reference: Any
    id: str
    began: float = field(default_factory=time.monotonic)
    moves: int = 0


class RayCluster:
    """Hands trainings to the cluster of RAY_ADDRESS, or to one that it starts on this machine and ends again."""

    def __init__(self, trainings: Sequence[Training], placement: Placement) -> None:
        """Raises RunError when there is no cluster, a node differs from this machine or does not see the folders, or
        no node can hold a training."""
        self.placement = placement
        self.tasks: dict[str, _Task] = {}
        self.ray = _connect()
        try:
            _check_nodes(self.ray, common_folder(trainings))
            for training in trainings:
                self._check_room(training)
        except BaseException:
            self.ray.shutdown()
            raise
        self.work = self.ray.remote(max_retries=0)(_work)  # once: the cluster keeps every function that it is given

    def has_room(self, training: Training) -> bool:
        return self.placement.most is None or len(self.tasks) < self.placement.most

    def start(self, training: Training) -> None:
        self.tasks[training.name] = self._submit(training)

    def states(self) -> Iterator[tuple[Training, State]]:
        for name, task in list(self.tasks.items()):
            ended, _ = self.ray.wait([task.reference], timeout=0)
            state = self._ended(task) if ended else _going(task)
            if state.word not in ("waiting", "running"):
                del self.tasks[name]
            state.minutes = (time.monotonic() - task.began) / 60
            yield task.training, state

    def end(self) -> None:
        """Cancel the tasks, which end their commands; what does not listen is killed with the connection."""
        references = [task.reference for task in self.tasks.values()]
        for reference in references:
            self.ray.cancel(reference, force=False)
        if references:
            self.ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS)
        self.ray.shutdown()

    def _needs(self, training: Training) -> dict[str, float]:
        gpus = training.gpus if self.ray.cluster_resources().get("GPU") else 0
        cores = training.cores or self.placement.cores
        n = training.devices
        return {"num_cpus": n * cores, "num_gpus": gpus, "memory": int(n * training.memory_gib * 2**30)}

    def _check_room(self, training: Training) -> None:
        needs = self._needs(training)
        wanted = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"]}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= value for name, value in wanted.items()) for node in nodes):
            most = {name: max(node.get(name, 0) for node in nodes) for name in wanted}
            raise RunError(
                f"Ray: expected a node with {_resources(wanted)} for {training.name}, found at most {_resources(most)}"
            )

    def _submit(self, training: Training) -> _Task:
        id = uuid.uuid4().hex
        cores = training.cores or self.placement.cores
        task = self.work.options(**self._needs(training))
        reference = task.remote(training.argv_here, str(training.folder), os.getcwd(), cores, id)
        return _Task(training, reference, id)

    def _ended(self, task: _Task) -> State:
        from ray.exceptions import RayError, RayTaskError

        try:
            return outcome(task.training, self.ray.get(task.reference))
        except RayTaskError as error:
            reason = f"Ray: {str(error).strip().splitlines()[-1]}"
            return State("failed", reason)
        except RayError as error:
            return self._move(task, f"{type(error).__name__}")

    def _move(self, task: _Task, why: str) -> State:
        moves, folder = task.moves + 1, task.training.folder
        if moves > MOST_MOVES:
            return State("failed", f"its node was lost {moves} times ({why})")
        lost = _place(task) or "unknown"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / MOVES).open("a", encoding="utf-8") as file:
            print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} node {lost} was lost ({why}); goes on elsewhere", file=file)
        again = self._submit(task.training)
        again.moves, again.began = moves, task.began
        self.tasks[task.training.name] = again
        return State("running", f"moved {moves} times, as {lost} was lost")


def _going(task: _Task) -> State:
    place = _place(task)
    moved = f", moved {task.moves} times" if task.moves else ""
    return State("running", f"on {place}{moved}") if place else State("waiting", f"for room on the cluster{moved}")


def _place(task: _Task) -> str:
    """Node on which a task has begun; empty before."""
    try:
        where = read_json(task.training.folder / WHERE, dict)
    except (OSError, ValueError):
        return ""
    return str(where["node"]) if where.get("task") == task.id else ""


def _resources(wanted: Mapping[str, float]) -> str:
    return f"{wanted['CPU']:g} cores, {wanted['GPU']:g} GPUs and {wanted['memory'] / 2**30:.1f} GiB"


def _connect() -> Any:
    """Ray, connected. Raises RunError where it is not installed or does not answer."""
    try:
        import ray
    except ImportError as error:
        raise RunError(f"--on ray: expected the package ray (pip install '.[ray]'), found: {error}") from error
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        _answers(address)
    handler = signal.getsignal(signal.SIGTERM)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": {"PYTHONPATH": path}},
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise RunError(f"RAY_ADDRESS={address}: expected a running Ray cluster, found: {said}") from error
    signal.signal(signal.SIGTERM, handler)  # Ray takes it for itself
    return ray


def _answers(address: str) -> None:
    """Raises RunError where nobody listens, or somebody else than Ray, which it would itself find out after minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS) as connection:
            connection.sendall(GREETING)
            if connection.recv(9)[3:4] != SETTINGS and os.environ.get("RAY_USE_TLS", "0") == "0":
                raise OSError("something else answers there")
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(
            f"RAY_ADDRESS={address}: expected HOST:PORT of a running Ray cluster, found: {error}; without it one is "
            "started on this machine"
        ) from error


def _check_nodes(ray: Any, folder: Path) -> None:
    """Every node must have this environment and see the folder of the trainings."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = versions()
    with token_file(folder) as token:
        nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        looks = {
            name: ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(id, False))(
                _look
            ).remote(str(token), os.getcwd())
            for id, name in nodes.items()
        }
        for name, reference in looks.items():
            try:
                seen, cwd, there = ray.get(reference, timeout=CHECK_SECONDS)
            except (ray.exceptions.RayError, TimeoutError) as error:
                said = str(error).strip().splitlines()[-1]
                raise RunError(f"Ray node {name}: expected this project and its Python there, found: {said}") from error
            if not seen or not cwd:
                missing = folder if not seen else Path.cwd()
                raise RunError(f"Ray node {name}: expected to see {missing} as here (a shared folder), found it is not")
            if differing := [
                f"{package} {there.get(package)} in place of {here.get(package)}"
                for package in sorted({*here, *there})
                if here.get(package) != there.get(package)
            ]:
                raise RunError(f"Ray node {name}: expected the versions of this machine, found {', '.join(differing)}")


def _look(token: str, cwd: str) -> tuple[bool, bool, Mapping[str, str]]:
    """On a node: whether it sees both, and its versions."""
    return Path(token).exists(), Path(cwd).is_dir(), versions()


def _work(argv: Sequence[str], folder: str, cwd: str, cores: int, id: str) -> int:
    """On a node: run a training's command to its end; returns its exit status."""
    import ray

    os.chdir(cwd)
    process = Process(argv, Path(folder), threads=cores)
    node = ray.get_runtime_context().get_node_id()[:8]
    note_place(Path(folder), "ray", task=id, ray_node=node)
    try:
        while process.process.poll() is None:
            time.sleep(0.05)
        return process.process.returncode
    finally:
        end([process])

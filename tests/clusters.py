"""Real clusters on this machine: three Ray nodes, and a Slurm of two."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SLURM = Path(__file__).with_name("slurm")
COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch")


def missing(what: str) -> None:
    """Skip, or fail where GLIOMA_REQUIRE_CLUSTERS says that it must be there."""
    (pytest.fail if os.environ.get("GLIOMA_REQUIRE_CLUSTERS") else pytest.skip)(what)


class RayNodes:
    """A head without cores, on which nothing runs, and nodes of one core each; the processes are a real cluster's."""

    def __init__(self, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        self.own = {"object_store_memory": 80_000_000, "memory": 8_000_000_000}
        head = {"num_cpus": 0, "include_dashboard": False, **self.own}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []
        for _ in range(nodes):
            self.add()

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1, **self.own))

    def processes(self, node: int) -> list[psutil.Process]:
        """A node's workers and what they have started."""
        (raylet,) = self.nodes[node].all_processes["raylet"]
        return psutil.Process(raylet.process.pid).children(recursive=True)

    def kill(self, node: int) -> None:
        """kill -9 of a node's own processes; its workers and their trainings must end by themselves."""
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)

    def kill_all(self, node: int) -> None:
        """kill -9 of everything that runs on a node, as when its power fails."""
        below = self.processes(node)
        self.kill(node)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_head(self) -> None:
        """kill -9 of the process that knows the cluster's state, without which nothing new is started."""
        (head,) = self.cluster.head_node.all_processes["gcs_server"]
        head.process.kill()

    def stop(self) -> None:
        self.cluster.shutdown()


@contextlib.contextmanager
def ray_nodes(nodes: int = 3) -> Iterator[RayNodes]:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        missing(f"no Ray here: {error}")
    cluster = RayNodes(nodes)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """What a command's environment needs to reach it."""
    if lacking := [name for name in COMMANDS if shutil.which(name) is None]:
        missing(f"no {lacking[0]} here; Debian: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        missing("Slurm's daemons need root")
    subprocess.run(["bash", SLURM, folder], check=True, capture_output=True, timeout=60)
    try:
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run(["bash", SLURM, folder, "stop"], check=False)

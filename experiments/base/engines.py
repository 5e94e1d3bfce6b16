"""A list of trainings is handed to what runs it: this machine, a Ray cluster or Slurm."""

from collections.abc import Sequence

from common.runs import RunError
from experiments.base.scheduler import Watch, work_off
from experiments.base.trainings import Placement, Slurm, State, Training


def run(
    trainings: Sequence[Training], placement: Placement | None = None, *, watch: Watch = lambda _: None
) -> dict[str, State]:
    """Run what is not finished where the placement says, by default here one by one; the state of each, by name.

    A training that fails keeps its reason in failure.txt beside its log.txt; those that need it are not run, the others
    are. One on which another command is working is waited for. What runs is ended when this call ends, however it does,
    but for Slurm's jobs, which go on. watch: called with all states whenever one has changed. Raises ValueError for an
    unknown name in ``after``, a circle or two trainings of one name, and RunError where the cluster is none that can be
    used, before anything is submitted.
    """
    placement = placement or Placement()
    _check(trainings)
    if placement.on == "slurm":
        from experiments.base import on_slurm

        return on_slurm.run(trainings, placement, watch)
    _refuse_several_nodes(trainings, placement)
    if placement.on == "ray":
        from experiments.base.on_ray import RayCluster

        return work_off(trainings, RayCluster(trainings, placement), watch)
    from experiments.base.local import Local

    return work_off(trainings, Local(placement.at_once), watch)


def check(placement: Placement) -> None:
    """Raises RunError where what the placement names is not here or takes no such jobs, or it says how jobs are to run
    and not that they are to: before anything is prepared.

    A dry run needs nothing.
    """
    if placement.on != "slurm" and placement.slurm != Slurm():
        raise RunError(
            f"--slurm.* is for --on slurm, and trainings would run --on {placement.on}: add it, or leave it out"
        )
    if placement.on == "local" and (placement.cores != 1 or placement.most is not None):
        raise RunError(
            "--cores and --most are for --on ray and --on slurm; on one machine --at-once shares out the cores"
        )
    if placement.on == "slurm" and not placement.dry_run:
        from experiments.base import on_slurm

        on_slurm.check(placement)


def _refuse_several_nodes(trainings: Sequence[Training], placement: Placement) -> None:
    for each in trainings:
        if each.nodes > 1 and not each.is_finished:
            command = " ".join(each.argv[1:])
            raise RunError(
                f"{each.name}: expected 1 node with --on {placement.on} (model.nodes), received {each.nodes}; --on "
                "slurm places a training on several. Without Slurm, type on each of them: torchrun "
                f"--nnodes {each.nodes} --nproc-per-node {each.devices} --rdzv-backend c10d --rdzv-endpoint HOST:29400 "
                f"{command}; then this command again shows the result"
            )


def _check(trainings: Sequence[Training]) -> None:
    names = [each.name for each in trainings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"expected a name for each training, found {twice[0]} more than once")
    known: set[str] = set()
    left = list(trainings)
    while ready := [each for each in left if known.issuperset((*each.after, *each.behind))]:
        known |= {each.name for each in ready}
        left = [each for each in left if each not in ready]
    if left:
        needed = ", ".join((*left[0].after, *left[0].behind))
        raise ValueError(f"expected {left[0].name} to need others of the list, and no circle; it needs {needed}")

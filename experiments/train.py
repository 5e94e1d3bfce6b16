"""One training of a table, a grid or a cross-validation: what its folder describes, trained and scored in this process.

    python -m experiments.train runs/table1_variations/RUN/rows/gwdl

The commands that make several trainings describe each in a folder of its own and run this command for all that are not
finished. Typed by hand it does the same: it goes on where that training stopped, and the table's own command then shows
it. Exit status 75: another process is working on it.
"""

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common import processes
from common.command_line import parse
from common.runs import RunError, RunInUseError
from experiments.base.options import refusals, wrapped
from experiments.base.trainings import IN_USE, given
from experiments.comparison import BACKENDS
from unet_tf.config import check_nodes

KINDS = {
    "segresnet": "experiments.segmentation.training:segresnet_of",
    "unet": "experiments.segmentation.training:unet_of",
    "fold": "experiments.segmentation.out_of_fold:train",
    "final": "experiments.segmentation.final_scores:train",
    "model": "experiments.comparison.models:train",
    "backend": "experiments.comparison.backends:measure",
    "mgmt": "experiments.mgmt.training:train",
    "prepare": "experiments.segmentation.shards:prepare",
    "prepare_mgmt": "experiments.mgmt.shards:prepare",
}
"""What a folder's config.json names as its kind -> the function that does it, which is given the folder."""


@dataclass(frozen=True)
class Options:
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the training."""


def main() -> None:
    options = parse(Options, prog="python -m experiments.train", description=wrapped(__doc__))
    with refusals():
        try:
            train(options.folder)
        except RunInUseError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(IN_USE)


def train(folder: Path) -> None:
    """Do what the folder describes. Raises RunError when it is not a training's."""
    written = given(folder)
    kind, backend = written.get("kind"), written.get("backend", "torch")
    for what, found, known in (("the folder of a training", kind, KINDS), ("a backend", backend, BACKENDS)):
        if not isinstance(found, str) or found not in known:
            raise RunError(f"{folder}: expected {what} ({', '.join(known)}), found {found!r}")
    os.environ["KERAS_BACKEND"] = backend
    if backend != "tensorflow":
        # TensorBoard and Keras import it wherever it is installed: seconds of each start, and memory that would count
        # as another framework's.
        sys.modules["tensorflow"] = None
    module, _, function = KINDS[kind].partition(":")

    def work() -> None:
        getattr(importlib.import_module(module), function)(folder)

    if is_shared(folder, kind, backend, written.get("model")):
        package = {"mgmt": "mgmt_classifier", "unet": "unet_tf"}.get(kind, "segresnet_monai")
        processes.together(work, importlib.import_module(f"{package}.distributed").join)
    else:
        work()


def is_shared(folder: Path, kind: str, backend: str, model: object) -> bool:
    """Whether several processes share the training. Raises RunError unless they are those that its model asks for."""
    if not isinstance(model, dict) or "nodes" not in model:
        if (found := processes.started()).size > 1:
            raise RunError(
                f"{folder}: expected one process, found {found.size} of {found.launcher}: its work is not shared"
            )
        return False
    devices, nodes = model.get("devices"), model["nodes"]
    if not (isinstance(devices, int) and isinstance(nodes, int)):
        raise RunError(f"{folder}: expected numbers of devices and nodes, found {devices!r} and {nodes!r}")
    per_node = 1 if kind == "unet" else devices
    processes.check(devices=per_node, nodes=nodes)
    if kind == "unet":
        check_nodes(nodes, backend)
    return per_node * nodes > 1


if __name__ == "__main__":
    main()

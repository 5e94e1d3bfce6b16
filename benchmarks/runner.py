"""Empty trainings through the runner: how many a second, and what the command's memory does.

python -m benchmarks.runner --on local --number 500
python -m benchmarks.runner --on ray --number 500
"""

import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import tyro

from experiments.base.engines import run
from experiments.base.trainings import Placement, Training, require


@dataclass(frozen=True, kw_only=True)
class Options:
    on: Literal["local", "ray"] = "local"
    """What runs them."""
    number: int = 500
    """Trainings, each a command that writes its folder's result."""
    at_once: int = 2
    """Side by side on this machine; a Ray cluster takes what it has room for."""


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.runner", description=__doc__)
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(number) for number in range(options.number)]
        wanted = [
            Training(
                name=folder.name,
                argv=("sh", "-c", f"echo {{}} > {shlex.quote(str(folder / 'summary.json'))}"),
                folder=folder,
                memory_gib=0.01,
            )
            for folder in folders
        ]
        began = time.monotonic()
        placement = Placement(on=options.on, at_once=options.at_once)
        require(run(wanted, placement, watch=lambda _: memory.append(psutil.Process().memory_info().rss / 2**20)))
        seconds = time.monotonic() - began
    print(f"{options.number} trainings on {options.on} in {seconds:.1f} s, {options.number / seconds:.1f} a second")
    print(f"memory of the command: {memory[0]:.0f} MiB first, {memory[-1]:.0f} last, {max(memory):.0f} at most")


if __name__ == "__main__":
    main()

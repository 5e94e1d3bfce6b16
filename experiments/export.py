"""A finished run for other programs: ONNX, a MONAI bundle, TorchScript, a data set for nnU-Net, or a tracker's entries.

    python -m experiments.export RUN --to onnx               model.onnx, which predict --run takes too
    python -m experiments.export RUN --to monai-bundle       a SegResNet as MONAI's bundle, for monai.bundle run
    python -m experiments.export RUN --to torchscript        model.ts, of PyTorch's networks
    python -m experiments.export RUN --to nnunet-dataset     the run's cohort as nnU-Net raw, with the run's split
    python -m experiments.export RUN --to mlflow             parameters, curves, scores and pictures; or wandb

RUN is the folder of a finished run; of a run that is still going only a tracker takes what there is, and the same
command later adds what has come. Several networks that predict as one are one file. Every export is used once and
compared with the run's own networks before it gets its name, and has a model card (README.md).
Needs the extra of its format: onnx, mlflow or wandb.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.command_line import parse
from experiments.base.options import Refused, refusals, wrapped
from experiments.exporting import cohort, files, trackers


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A run, and what is made of it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run: runs/<experiment>/<run>."""
    to: Literal["onnx", "monai-bundle", "torchscript", "nnunet-dataset", "mlflow", "wandb"]
    """What is made."""
    output: Path | None = None
    """Folder to make; by default exports/<run>-<format>. Of MLflow its store, by default what MLFLOW_TRACKING_URI
    names, else mlruns; of Weights & Biases where its folder wandb is to be, by default here."""
    data: Path | None = None
    """Of nnunet-dataset: where the run's cohort lies now, by default where it lay."""
    regions: bool = True
    """Of nnunet-dataset: train on the nested regions WT, TC and ET, in place of NCR, ED and ET."""


def main() -> None:
    arguments = parse(Arguments, prog="python -m experiments.export", description=wrapped(__doc__))
    with refusals():
        export(arguments)


def export(arguments: Arguments) -> None:
    run, to = arguments.run, arguments.to
    if to != "nnunet-dataset" and (arguments.data is not None or not arguments.regions):
        raise Refused(f"expected --data and --no-regions with --to nnunet-dataset only, received one with --to {to}")
    output = arguments.output or Path("exports") / f"{run.resolve().name}-{to}"
    if to in trackers.TRACKERS:
        trackers.TRACKERS[to](run, arguments.output)
    elif to == "nnunet-dataset":
        cohort.write(run, arguments.data, output, regions=arguments.regions)
    else:
        files.write(run, to, output)


if __name__ == "__main__":
    main()

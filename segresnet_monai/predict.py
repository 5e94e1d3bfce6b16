"""Segment one's own patients with a trained SegResNet.

``python -m segresnet_monai.predict --run RUN --flair F --t1 T --t1ce C --t2 T2 --output seg.nii.gz``
``python -m segresnet_monai.predict --run RUN --data FOLDER --output FOLDER``
``python -m segresnet_monai.predict --run RUN --dicom FOLDER --brain-mask hd-bet --output seg.dcm``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.arguments import PatientArguments
from common.preprocess.command import run_command

if TYPE_CHECKING:
    from common.patient import Trained


@dataclass(frozen=True, kw_only=True)
class Arguments(PatientArguments):
    """Segment one's own patients with a trained SegResNet: four scans in, one segmentation and its volumes in ml out.

    Scans must be as in BraTS: co-registered on one grid and skull-stripped (background exactly 0). The direction of the
    axes and the voxel size are read from the files; the answer lies on the scans' own grid. DICOM series (--dicom) are
    registered and skull-stripped here. Research software: not for diagnosis.
    """

    device: str | None = None
    """Torch device; by default the GPU where there is one."""


def network(arguments: Arguments) -> Trained:
    """The run's network or networks. Raises ValueError as :func:`segresnet_monai.inference.load_runs`."""
    from common.exported import SUFFIX
    from common.patient import Trained
    from segresnet_monai.inference import load_runs, predict_volume

    if arguments.run.suffix == SUFFIX:
        from segresnet_monai.export import load_onnx as load_runs
    networks, config, decision = load_runs(arguments.run, device=arguments.device)
    return Trained(config.recipe, lambda volume: predict_volume(networks, volume, config, decision))


def main() -> None:
    run_command(Arguments, network, prog="python -m segresnet_monai.predict", extra="segresnet", framework="PyTorch")


if __name__ == "__main__":
    main()

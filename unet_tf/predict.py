"""Segment one's own patients with a trained U-Net.

``python -m unet_tf.predict --run RUN --flair F --t1 T --t1ce C --t2 T2 --output seg.nii.gz``
``python -m unet_tf.predict --run RUN --data FOLDER --output FOLDER``
``python -m unet_tf.predict --run RUN --dicom FOLDER --brain-mask hd-bet --output seg.dcm``
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
    """Segment one's own patients with a trained U-Net: the scans that it was trained on in, one segmentation out.

    Scans must be as in BraTS: co-registered on one grid and skull-stripped (background exactly 0). The direction of the
    axes and the voxel size are read from the files, and where the network sees a crop the brain is brought to where
    BraTS has it on its grid of 240 x 240 x 155 voxels of 1 mm. Outside the crop everything is background. DICOM series
    (--dicom) are registered and skull-stripped here. Research software: not for diagnosis.
    """


def network(arguments: Arguments) -> Trained:
    """The run's network. Raises ValueError as :func:`unet_tf.inference.load_run`."""
    from common.exported import SUFFIX
    from common.patient import Trained
    from unet_tf.inference import load_run, predict_volume

    if arguments.run.suffix == SUFFIX:
        from unet_tf.export import load_onnx as load_run
    trained, config = load_run(arguments.run)
    return Trained(config.recipe, lambda volume: predict_volume(trained, volume, config))


def main() -> None:
    run_command(Arguments, network, prog="python -m unet_tf.predict", extra="unet", framework="Keras")


if __name__ == "__main__":
    main()

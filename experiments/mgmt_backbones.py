"""MGMT: 3D ResNet10 against 3D VGG16, the report's choice of a backbone.

    python -m experiments.mgmt_backbones                    embedded phantoms (DICOM), demo preset, two CPU cores
    python -m experiments.mgmt_backbones --data FOLDER      RSNA-MICCAI folder; the report's recipe, one GPU

Reproduces the accuracies 0.61 and 0.57 on 30 % of the patients, trained on the other 70 %. There is no validation part,
so the last epoch is kept and the threshold is 0.5. The report names neither contrast nor number of images: FLAIR, 15.
"""

from dataclasses import dataclass, replace

from experiments.base.options import command_line
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.pair import run_pair
from experiments.mgmt.study import SMALL
from mgmt_classifier.config import Config

EXPERIMENT = "mgmt_backbones"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The two models; they differ in the backbone and what it needs."""

    resnet10: Config
    """The model that the report chose."""
    vgg16: Config
    """The other one."""
    fractions: tuple[float, float, float] = (0.70, 0.0, 0.30)
    """Of the patients, to train, validate and test (R)."""


PAPER = Settings(resnet10=Config(keep="last"), vgg16=Config(keep="last", backbone="vgg16"))
DEMO = replace(
    PAPER,
    resnet10=replace(PAPER.resnet10, **SMALL),
    vgg16=replace(PAPER.vgg16, **SMALL | {"filters": 8, "first_stride": 1}),
)


def main() -> None:
    options, settings = command_line(EXPERIMENT, {"paper": PAPER, "demo": DEMO}, __doc__, options_type=MgmtOptions)
    run_pair(EXPERIMENT, options, settings, {"resnet10": settings.resnet10, "vgg16": settings.vgg16})


if __name__ == "__main__":
    main()

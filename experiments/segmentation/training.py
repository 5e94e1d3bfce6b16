"""One training of a segmentation network from its data to its results, in this process."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.loading import loading
from common.networks import read_model_config
from common.picture import draw_answer
from common.runs import Run
from common.subject import CONTRASTS
from experiments.base.progress import step
from experiments.base.trainings import given
from experiments.segmentation import scores, unet_claims
from experiments.segmentation.study import Study, restored

if TYPE_CHECKING:
    from segresnet_monai.config import Config as SegResNet
    from unet_tf.config import Config as UNet


def show_patient(study: Study) -> None:
    """Draw a training subject with its mask, as the cohort has them: figures/patient.png of the run.

    The first whose files are doubted, with what is said of them, or the first of all.
    """
    entry = min((study.store.entries[id] for id in study.split.train), key=lambda each: not each.doubts)
    subject = next(subject for subject in study.cohort.subjects if subject.id == entry.id)
    scans, _ = replace(subject, label=None).read(CONTRASTS)
    path = study.run.figures / "patient.png"
    draw_answer(path, scans, subject.load_labels(), title=f"{subject.id} and its mask", marks=entry.doubts)
    print(f"    {subject.id}, one of the patients: {path}", file=sys.stderr)


def segresnet(study: Study, config: "SegResNet") -> None:
    """Train a SegResNet in the study's open run and score the test part."""
    with step(3):
        with loading("PyTorch"):
            from segresnet_monai.inference import load, predict
            from segresnet_monai.train import fit
        weights = fit(study.train, study.validation, config, study.run, start=study.start)
    with step(4):
        scores.score(study, predict(load(config, weights), study.test, config))


def unet(study: Study, config: "UNet") -> None:
    """Train a U-Net in the study's open run, score the test part and what the report claims of its U-Nets."""
    with step(3):
        with loading("Keras"):
            from unet_tf.inference import load, predict
            from unet_tf.train import fit
        weights = fit(study.train, study.validation, config, study.run)
    with step(4):
        unet_claims.score(study, config, predict(load(config, weights), study.test, config))


def segresnet_of(folder: Path) -> None:
    """The SegResNet that a folder describes; where it says so, going on from another's training."""
    from segresnet_monai.config import Config

    with loading("PyTorch"):
        from segresnet_monai.train import continue_from

    config = read_model_config(folder, Config)
    with Run(folder) as run:
        study = restored(run, config)
        if "continues" in given(folder):
            continue_from(Path(given(folder, continues=str)["continues"]), config, run)
        segresnet(study, config)


def unet_of(folder: Path) -> None:
    """The U-Net that a folder describes."""
    from unet_tf.config import Config

    config = read_model_config(folder, Config)
    with Run(folder) as run:
        unet(restored(run, config), config)

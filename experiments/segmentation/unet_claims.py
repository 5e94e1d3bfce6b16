"""What the report says of its U-Nets beside their scores: when they were best, overfitting, false positives, spread."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from common import nifti
from common.classification import accuracy_interval
from common.volumes import bounding_box
from experiments.base.results import Result
from experiments.segmentation import scores as evaluation
from experiments.segmentation.study import Study

if TYPE_CHECKING:
    from unet_tf.config import Config

BEFORE = "before_postprocessing"


def score(study: Study, config: "Config", predictions: Iterable[tuple]) -> None:
    """Score the test part and write the results and the claims, which marks the run as finished.

    predictions: as ``unet_tf.inference.predict`` makes them.
    """
    scores = evaluation.write_scores(study, predictions, n_cases=len(study.split.test))
    evaluation.draw_curves(study)
    further = [*training(study, config), *spread(study, scores), *false_positives(study, scores)]
    evaluation.write_summary(study, scores, further)


def training(study: Study, config: "Config") -> list[Result]:
    """The epochs of the lowest validation loss and of the weights used; how the losses end; accuracy of voxels.

    n: epochs, for accuracies validation subjects. ``background_accuracy`` is what a network has that finds no tumour.
    Losses of training are means over an epoch's steps, with dropout, while the weights move. Of random crops no
    validation loss is taken: the epoch is that of the best mean Dice, and only the one whose weights are used. Of
    regions, which overlap, no accuracy is taken.
    """
    history = study.run.history.frame().set_index("epoch")
    if config.crop_voxels is not None:
        best, last = history["validation_mean_dice"].idxmax(), history.index[-1]
        return [study.result("weights_epoch", int(best if config.checkpoint == "best" else last), len(history))]
    loss, validation = history["loss"], history["validation_loss"]
    optimum, last, n = int(validation.idxmin()), int(validation.index[-1]), len(history)
    used = optimum if config.checkpoint == "best" else last
    rise, gap = validation[last] / validation[optimum], validation[last] / loss[last]
    found = [
        study.result("optimum_epoch", optimum, n),
        study.result("weights_epoch", used, n),
        study.result("overfitting", f"validation loss ends at {rise:.2f} x its lowest", n),
        study.result("last_to_lowest_validation_loss", rise, n),
        study.result("last_validation_to_training_loss", gap, n),
    ]
    if config.targets == "regions":
        return found
    labelled = [entry.geometry["labelled_fraction"] for entry in study.validation]
    return [
        *found,
        study.result("accuracy", history["validation_accuracy"][used], len(labelled)),
        study.result("train_accuracy", history["accuracy"][used], len(study.train)),
        study.result("background_accuracy", 1 - np.mean(labelled), len(labelled)),
    ]


def spread(study: Study, scores: pd.DataFrame) -> list[Result]:
    """The two readings of the report's standard deviation of Dice: of the three classes' means, and over cases."""
    of = scores[scores["view"] == ""].set_index("metric")
    classes = of.loc[["dice_NCR", "dice_ED", "dice_ET"], "mean"]
    return [
        study.result("mean_dice_sd", float(classes.std(ddof=1)), len(classes)),
        study.result("mean_dice_sd_over_cases", float(of.loc["mean_dice", "sd"]), int(of.loc["mean_dice", "n"])),
    ]


def parts_apart(predicted: np.ndarray, true: np.ndarray) -> int:
    """Connected parts of the prediction that touch nothing of the truth.

    predicted, true: masks (x, y, z). Parts are connected through faces, edges and corners.
    """
    box = bounding_box(predicted)
    parts, n = ndimage.label(predicted[box], structure=np.ones((3, 3, 3)))
    return n - np.count_nonzero(np.unique(parts[true[box]]))


def false_positives(study: Study, scores: pd.DataFrame) -> list[Result]:
    """Cases with predicted tumour apart from the true one, before and after post-processing.

    Almost every prediction has voxels beyond the truth's edge; what the report shows are parts of their own.
    """
    subjects = {subject.id: subject for subject in study.cohort.subjects}
    cases = {"": 0, BEFORE: 0}
    for case in study.split.test:
        true = subjects[case].load_labels() != 0
        for view in cases:
            labels = nifti.read(study.run.folder / "predictions" / view / f"{case}.nii.gz").data
            cases[view] += parts_apart(labels != 0, true) > 0
    n = len(study.split.test)
    sentence = f"apart from the tumour in {cases['']} of {n} cases, before post-processing in {cases[BEFORE]}"
    voxels = scores[scores["view"] == ""].set_index("metric").loc["false_positive_voxels_WT", "median"]
    return [
        study.result("false_positives", sentence, n),
        study.result("median_false_positive_voxels_WT", voxels, n),
        study.result("false_positive_cases", cases[""] / n, n, accuracy_interval(cases[""], n)),
        study.result(f"{BEFORE}.false_positive_cases", cases[BEFORE] / n, n, accuracy_interval(cases[BEFORE], n)),
    ]

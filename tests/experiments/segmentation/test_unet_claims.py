"""The claims about the U-Nets, from histories and masks whose answers are known by hand."""

from dataclasses import dataclass, field
from statistics import stdev
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from common import nifti
from common.runs import History
from experiments.segmentation.study import Study as Whole
from experiments.segmentation.unet_claims import false_positives, parts_apart, spread, training
from tests.cohorts import LPS_AFFINE

HISTORY = (  # epoch, loss, accuracy, validation_loss, validation_accuracy
    (1, 0.9, 0.80, 0.8, 0.81),
    (2, 0.5, 0.90, 0.4, 0.91),
    (3, 0.3, 0.95, 0.5, 0.93),
)


@dataclass
class Study:
    """What the claims need of a study."""

    run: SimpleNamespace
    experiment: str = "unet25d"
    synthetic: bool = False
    train: tuple = ("a", "b", "c", "d")
    validation: tuple = ()
    split: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(test=["near", "far"]))
    cohort: SimpleNamespace = field(default_factory=SimpleNamespace)
    result = Whole.result


@pytest.fixture
def study(tmp_path):
    history = History(tmp_path / "history.csv")
    columns = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy")
    for row in HISTORY:
        history.append(dict(zip(columns, row, strict=True)))
    entries = [SimpleNamespace(geometry={"labelled_fraction": share}) for share in (0.02, 0.04)]
    return Study(run=SimpleNamespace(folder=tmp_path, history=history), validation=tuple(entries))


def by_name(found):
    return {result.key.partition(".")[2]: result for result in found}


@pytest.mark.parametrize(("checkpoint", "used"), [("best", 2), ("last", 3)])
def test_training_is_read_off_the_history(study, checkpoint, used):
    found = by_name(training(study, SimpleNamespace(checkpoint=checkpoint, crop_voxels=None, targets="classes")))
    assert (found["optimum_epoch"].value, found["optimum_epoch"].reported, found["optimum_epoch"].n) == (2, 22, 3)
    assert (found["weights_epoch"].value, found["weights_epoch"].reported) == (used, 21)
    assert found["overfitting"].value == "validation loss ends at 1.25 x its lowest"  # 0.5 / 0.4
    assert found["overfitting"].reported == "no signs"
    assert found["last_to_lowest_validation_loss"].value == pytest.approx(1.25)
    assert found["last_validation_to_training_loss"].value == pytest.approx(0.5 / 0.3)
    assert (found["accuracy"].value, found["accuracy"].n) == (HISTORY[used - 1][4], 2)
    assert (found["train_accuracy"].value, found["train_accuracy"].n) == (HISTORY[used - 1][2], 4)
    assert found["background_accuracy"].value == pytest.approx(0.97)


def test_of_regions_the_losses_alone_are_read(study):
    study.run.history.path.write_text("epoch,loss,validation_loss\n1,0.9,0.6\n2,0.5,0.4\n")
    found = by_name(training(study, SimpleNamespace(checkpoint="last", crop_voxels=None, targets="regions")))
    assert found["last_validation_to_training_loss"].value == pytest.approx(0.4 / 0.5)
    assert not any("accuracy" in name for name in found)


@pytest.mark.parametrize(("checkpoint", "used"), [("best", 2), ("last", 4)])
def test_of_random_crops_the_epoch_is_that_of_the_best_scoring(tmp_path, checkpoint, used):
    history = History(tmp_path / "history.csv")
    for epoch, scored in enumerate((None, 0.7, None, 0.6), start=1):
        history.append({"epoch": epoch, "loss": 1 / epoch, "validation_mean_dice": scored})
    run = SimpleNamespace(folder=tmp_path, history=history)
    config = SimpleNamespace(checkpoint=checkpoint, crop_voxels=(16, 16, 16))
    found = by_name(training(Study(run=run), config))
    assert {name: (claim.value, claim.n) for name, claim in found.items()} == {"weights_epoch": (used, 4)}


def test_both_readings_of_the_standard_deviation(study):
    study.experiment = "unet3d"
    rows = [("dice_NCR", 0.782, 0.3, 6, ""), ("dice_ED", 0.789, 0.2, 6, ""), ("dice_ET", 0.856, 0.1, 6, "")]
    rows += [("mean_dice", 0.809, 0.15, 5, ""), ("dice_ET", 0.1, 0.5, 6, "inside_crop")]
    found = by_name(spread(study, pd.DataFrame(rows, columns=["metric", "mean", "sd", "n", "view"])))
    assert found["mean_dice_sd"].value == pytest.approx(stdev([0.782, 0.789, 0.856]))
    assert (round(found["mean_dice_sd"].value, 2), found["mean_dice_sd"].reported) == (0.04, 0.04)
    assert (found["mean_dice_sd_over_cases"].value, found["mean_dice_sd_over_cases"].n) == (0.15, 5)


def test_parts_apart_from_the_truth():
    true = np.zeros((12, 12, 12), bool)
    true[2:5, 2:5, 2:5] = True
    predicted = np.zeros_like(true)
    assert parts_apart(predicted, true) == 0
    predicted[4:7, 4:7, 4:7] = True  # overlaps in one corner
    assert parts_apart(predicted, true) == 0
    predicted[7, 7, 7] = True  # hangs on to it by a corner
    assert parts_apart(predicted, true) == 0
    predicted[9, 9, 9] = predicted[11, 0, 0] = True
    assert parts_apart(predicted, true) == 2
    assert parts_apart(predicted, np.zeros_like(true)) == 3
    assert parts_apart(true, true) == 0


def test_cases_with_false_positives_before_and_after_postprocessing(study, tmp_path):
    true = np.zeros((8, 8, 8), np.uint8)
    true[2:4, 2:4, 2:4] = 1
    apart = true.copy()
    apart[6, 6, 6] = 4
    like = nib.Nifti1Image(true, LPS_AFFINE).header
    for view, near, far in (("", true, apart), ("before_postprocessing", apart, apart)):
        for case, labels in (("near", near), ("far", far)):
            nifti.write(tmp_path / "predictions" / view / f"{case}.nii.gz", labels, like=like)
    subjects = [SimpleNamespace(id=case, load_labels=lambda: true) for case in study.split.test]
    study.cohort = SimpleNamespace(subjects=subjects)
    scores = pd.DataFrame({"metric": ["false_positive_voxels_WT"], "median": [7.5], "view": [""]})
    found = by_name(false_positives(study, scores))
    assert found["false_positives"].value == "apart from the tumour in 1 of 2 cases, before post-processing in 2"
    assert found["false_positives"].reported == "occasional"
    assert found["median_false_positive_voxels_WT"].value == 7.5
    assert found["false_positive_cases"].value == 0.5
    assert found["before_postprocessing.false_positive_cases"].value == 1.0
    exact = binomtest(1, 2).proportion_ci(0.95, method="exact")
    ends = (found["false_positive_cases"].low, found["false_positive_cases"].high)
    assert ends == pytest.approx((exact.low, exact.high))

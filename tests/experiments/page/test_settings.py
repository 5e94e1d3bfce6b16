"""The report's settings beside the run's own."""

from dataclasses import asdict, replace

import pytest

from common.augmentation import Augmentation
from common.files import plain
from experiments.base.results import reported
from experiments.page import settings
from experiments.table1_baseline import PAPER


def test_settings_stand_beside_the_runs_own_fields_of_the_same_name():
    model = {"flair": {"images": 31}, "t1w": {"images": 7}, "flair_weight": 0.75, "keep": "best"}
    own = {setting.name: setting.ours for setting in settings.settings("mgmt_ensemble", model, (70, 15, 15))}
    assert (own["FLAIR__images"], own["T1w__images"]) == ("31", "7")
    assert own["split"] == own["submission__split"] == "70 / 15 / 15 patients"
    assert own["threshold_rule"] is None
    assert list(own) == list(reported("settings")["mgmt_ensemble"])
    models = {"central": {"contrast": "FLAIR", "percentile": 99.9}, "tumour": {"contrast": "T1w", "percentile": 99.9}}
    own = {setting.name: setting.ours for setting in settings.settings("mgmt_slice_choice", models, ())}
    assert own == {"contrast": "central: FLAIR; tumour: T1w", "percentile": "99.9", "test_fraction": None}


def test_every_setting_that_is_not_the_presets_is_listed_and_no_other():
    model = plain(
        asdict(replace(PAPER, epochs=7, crop_voxels=(32, 32, 16), augmentation=Augmentation(noise_sd=(0, 1))))
    )
    found = settings.differences(PAPER, model | {"older": [1, 2]})
    assert {each.name: (each.preset, each.ours) for each in found} == {
        "epochs": ("300", "7"),
        "crop_voxels": ("128, 128, 128", "32, 32, 16"),
        "augmentation.noise_sd": ("0, 0.3", "0, 1"),
        "older": ("–", "1, 2"),
    }
    assert settings.differences(PAPER, plain(asdict(PAPER))) == []


def test_seeds_are_those_of_options_and_models():
    config = {"options": {"split_seed": 3, "seeds": 2, "jobs": 1}, "model": {"flair": {"seed": 4}, "seedling": 5}}
    assert settings.seeds(config) == {"split_seed": "3", "seeds": "2", "flair.seed": "4"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[([[24, 216], [13, 141]], "[24, 216], [13, 141]"), ([0.6, 0.2], "0.6, 0.2"), (True, "yes"), (False, "no")],
        *[(None, "none"), (1e-4, "0.0001"), (30, "30"), ("Adam", "Adam")],
    ],
)
def test_settings_are_readable(value, shown):
    assert settings.text(value) == shown

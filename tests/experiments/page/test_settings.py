"""The report's settings beside the run's own."""

import pytest

from experiments.base.results import reported
from experiments.page import settings


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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[([[24, 216], [13, 141]], "[24, 216], [13, 141]"), ([0.6, 0.2], "0.6, 0.2"), (True, "yes"), (False, "no")],
        *[(None, "none"), (1e-4, "0.0001"), (30, "30"), ("Adam", "Adam")],
    ],
)
def test_settings_are_readable(value, shown):
    assert settings.text(value) == shown

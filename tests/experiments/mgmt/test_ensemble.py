"""The settings of the final classifier: what cannot be put together is refused before anything is trained."""

import sys

import pytest

from experiments import mgmt_ensemble
from experiments.mgmt.ensemble import Settings


@pytest.mark.parametrize("weight", [0.0, 1.0, 7.0, -0.25, float("nan")])
def test_each_model_has_a_positive_weight(weight):
    with pytest.raises(
        ValueError, match=f"expected flair_weight to be between 0 and 1, both excluded, received {weight}"
    ):
        Settings(flair_weight=weight)


@pytest.mark.parametrize("folds", [-1, 0, 2])
def test_there_are_folds_to_train_validate_and_test(folds):
    with pytest.raises(ValueError, match=f"expected folds to be 3 or more, received {folds}"):
        Settings(folds=folds)


def test_the_least_folds_and_any_share_are_taken():
    assert Settings(folds=3, flair_weight=0.4).weights == {"FLAIR": 0.4, "T1w": 0.6}


def test_the_command_says_so_at_once(monkeypatch, capsys):
    monkeypatch.setattr(mgmt_ensemble, "report", None)  # nothing is trained
    monkeypatch.setattr(sys, "argv", ["mgmt_ensemble", "--model.flair-weight", "1.0"])
    with pytest.raises(SystemExit) as ended:
        mgmt_ensemble.main()
    assert ended.value.code != 0
    said = " ".join(capsys.readouterr().err.replace("\u2502", " ").split())
    assert "expected flair_weight to be between 0 and 1" in said

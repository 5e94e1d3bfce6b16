import pytest

from mgmt_classifier.ensemble import REPORTED_WEIGHTS, combine, weighted_mean

PROBABILITIES = {"FLAIR": {"00002": 0.8, "00000": 0.4}, "T1w": {"00000": 0.0, "00002": 0.2}}


def test_by_hand():
    found = combine(PROBABILITIES, {"T1w": 0.3, "FLAIR": 0.5}, REPORTED_WEIGHTS)
    assert found.probabilities == pytest.approx({"00002": 0.75 * 0.8 + 0.25 * 0.2, "00000": 0.75 * 0.4})
    assert list(found.probabilities) == ["00002", "00000"]
    assert found.threshold == pytest.approx(0.4)
    assert REPORTED_WEIGHTS == {"FLAIR": 0.75, "T1w": 0.25}


def test_patients_of_one_model_only_are_named():
    other = {"FLAIR": {"00002": 0.8, "00000": 0.4, "00009": 0.1}, "T1w": {"00000": 0.0, "00002": 0.2, "00007": 0.3}}
    with pytest.raises(ValueError, match="same patients from FLAIR and T1w, found in one only: 00007, 00009"):
        weighted_mean(other, REPORTED_WEIGHTS)
    many = {"FLAIR": {f"{n:05}": 0.5 for n in range(8)}, "T1w": {}}
    with pytest.raises(ValueError, match="00004 and 3 more"):
        weighted_mean(many, REPORTED_WEIGHTS)


@pytest.mark.parametrize("weights", [{"FLAIR": 0.75, "T1w": 0.2}, {"FLAIR": 1.25, "T1w": -0.25}, {}])
def test_weights_must_be_a_mean(weights):
    with pytest.raises(ValueError, match="positive weights that sum to 1"):
        weighted_mean(PROBABILITIES, weights)


def test_contrasts_must_agree():
    with pytest.raises(ValueError, match="models of FLAIR, T2w, received those of FLAIR, T1w"):
        weighted_mean(PROBABILITIES, {"FLAIR": 0.5, "T2w": 0.5})
    with pytest.raises(ValueError, match="thresholds of FLAIR, T1w, received those of FLAIR"):
        combine(PROBABILITIES, {"FLAIR": 0.5}, REPORTED_WEIGHTS)

"""One probability and one threshold from several contrasts' models (report: 0.75 FLAIR + 0.25 T1w, mean threshold)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

REPORTED_WEIGHTS = {"FLAIR": 0.75, "T1w": 0.25}


@dataclass(frozen=True)
class Combined:
    """What the models say together. probabilities: by patient id."""

    probabilities: dict[str, float]
    threshold: float


def combine(
    probabilities: Mapping[str, Mapping[str, float]], thresholds: Mapping[str, float], weights: Mapping[str, float]
) -> Combined:
    """Weighted mean of the models' probabilities, by contrast and patient id, and plain mean of their thresholds.

    Raises ValueError as :func:`weighted_mean` does, and when the thresholds are of other contrasts.
    """
    mean = weighted_mean(probabilities, weights)
    if thresholds.keys() != weights.keys():
        raise ValueError(f"expected thresholds of {', '.join(weights)}, received those of {', '.join(thresholds)}")
    return Combined(mean, sum(thresholds.values()) / len(thresholds))


def weighted_mean(probabilities: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted mean of the models' probabilities, by contrast and patient id: by patient id, in the first one's order.

    Raises ValueError when the contrasts or the patients differ, or the weights are not positive with a sum of 1.
    """
    if not weights or min(weights.values()) <= 0 or not math.isclose(sum(weights.values()), 1):
        raise ValueError(f"expected positive weights that sum to 1, received {dict(weights)}")
    if probabilities.keys() != weights.keys():
        raise ValueError(f"expected models of {', '.join(weights)}, received those of {', '.join(probabilities)}")
    (first, ids), *others = probabilities.items()
    for contrast, own in others:
        if apart := sorted(ids.keys() ^ own.keys()):
            names = ", ".join(apart[:5]) + (f" and {len(apart) - 5} more" if len(apart) > 5 else "")
            raise ValueError(f"expected the same patients from {first} and {contrast}, found in one only: {names}")
    return {id: sum(weights[contrast] * own[id] for contrast, own in probabilities.items()) for id in ids}

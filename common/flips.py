"""Flips of a scan whose predictions are averaged, along the axes along which training flips."""

from itertools import combinations
from typing import Protocol


class Flipping(Protocol):
    """What a network's configuration says of flips."""

    @property
    def average_flips(self) -> bool: ...
    @property
    def flip_probabilities(self) -> tuple[float, float, float]: ...


def averaged_flips(config: Flipping) -> list[tuple[int, ...]]:
    """Axes (0 to 2) of every flip whose prediction counts; the first, without any, is the scan as it is."""
    axes = [axis for axis, probability in enumerate(config.flip_probabilities) if config.average_flips and probability]
    return [flips for number in range(len(axes) + 1) for flips in combinations(axes, number)]

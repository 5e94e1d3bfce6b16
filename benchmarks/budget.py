"""Equal minutes for unequal trainings: how many steps each may make, from what its first steps took.

Minutes are those of the training process on the processor, its loading and augmenting of crops included, on one thread:
beside other work the time that passes says nothing. Standard library only, so that any environment can import it.
"""

from collections.abc import Callable, Sequence

PROBED, WARM_UP = 40, 10
"""Steps of the measurement, which is thrown away, and how many of its first ones do not count."""


def within(minutes: float, train: Callable[[int], Sequence[float]]) -> dict[str, float]:
    """Train from the start for so many steps as take the minutes; what it came to, as a summary.json.

    train: trains anew for about so many steps, its schedule as long as they are; returns ``time.process_time()`` at the
    start of every step and at the end of the last one.
    """
    seconds = _seconds_per_step(train(PROBED)[WARM_UP:])
    marks = train(max(2, round(60 * minutes / seconds)))
    return {
        "steps": len(marks) - 1,
        "minutes": (marks[-1] - marks[0]) / 60,
        "seconds_per_step": _seconds_per_step(marks),
        "seconds_per_step_probed": seconds,
    }


def _seconds_per_step(marks: Sequence[float]) -> float:
    return (marks[-1] - marks[0]) / (len(marks) - 1)

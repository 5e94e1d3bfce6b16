"""Numbers in sentences."""

from collections.abc import Collection, Mapping, Sequence


def listed(names: Sequence[str], most: int = 5) -> str:
    """``a, b and 3 more``; the last one is named rather than counted."""
    more = len(names) - most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:most])} and {more} more"


def plural(n: int, one: str, several: str = "") -> str:
    """``1 case``, ``2 cases``: a number and what is counted, by default with an s where they are several."""
    return f"{n} {one if n == 1 else several or f'{one}s'}"


def by_note(notes: Mapping[str, Collection[str]], who: str = "subject") -> list[str]:
    """Each note once, with how many it is of and the first five: ``what: 6 of 8 subjects (a, b, c, d, e and 1 more)``.

    notes: by the id of those who are meant, all of them.
    """
    owners: dict[str, list[str]] = {}
    for name, own in notes.items():
        for note in own:
            owners.setdefault(note, []).append(name)
    return [f"{note}: {len(names)} of {plural(len(notes), who)} ({listed(names)})" for note, names in owners.items()]


def p_value(p: float, *, named: bool = False) -> str:
    """A p value in a sentence or a cell, never 0: ``0.012`` and ``< 0.001``; named: ``p = 0.012`` and ``p < 0.001``."""
    said = "< 0.001" if p < 0.001 else f"{p:.3f}"
    if not named:
        return said
    return f"p {said}" if p < 0.001 else f"p = {said}"

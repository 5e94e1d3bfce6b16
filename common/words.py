"""Numbers in sentences."""

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 5) -> str:
    """``a, b and 3 more``."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def plural(n: int, one: str, several: str = "") -> str:
    """``1 case``, ``2 cases``: a number and what is counted, by default with an s where they are several."""
    return f"{n} {one if n == 1 else several or f'{one}s'}"

"""Numbers in sentences."""


def plural(n: int, one: str, several: str = "") -> str:
    """``1 case``, ``2 cases``: a number and what is counted, by default with an s where they are several."""
    return f"{n} {one if n == 1 else several or f'{one}s'}"

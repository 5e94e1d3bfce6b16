"""Series that hold the images of another one, of the same patient or under another patient's id."""

from collections.abc import Hashable, Iterable, Iterator, Mapping

Series = tuple[str, str]
"""A patient's id and a contrast."""


def copies(contents: Iterable[tuple[Series, Hashable]], labels: Mapping[str, int | None]) -> dict[Series, str]:
    """What is wrong, in words, with each series that holds the images of another.

    contents: what only equal images have in common, by series, patients in the order of their ids. labels: MGMT status
    by patient. Equal series are the first patient's, and there the first contrast's; where the patients' labels differ
    nobody knows whose they are, so that each is named.
    """
    found = {}
    for alike in _in_groups(contents):
        first: dict[str, str] = {}
        for patient, contrast in alike:
            if patient in first:
                found[patient, contrast] = f"is a copy of {first[patient]}, expected two different series"
            first.setdefault(patient, contrast)
        owner = next(iter(first))
        for patient, contrast in first.items():
            against = [other for other in first if {labels.get(patient), labels.get(other)} == {0, 1}]
            if against:
                what = f"has the {first[against[0]]} series of patient {against[0]}, whose label is another"
                found[patient, contrast] = what
            elif patient != owner:
                found[patient, contrast] = f"has the {first[owner]} series of patient {owner}, expected one of its own"
    return found


def namesakes(identifiers: Iterable[tuple[Series, str]]) -> dict[Series, list[Series]]:
    """The other series of the same identifier, for each series that has some."""
    groups = _in_groups((series, identifier) for series, identifier in identifiers if identifier)
    return {series: [other for other in alike if other != series] for alike in groups for series in alike}


def _in_groups(marked: Iterable[tuple[Series, Hashable]]) -> Iterator[list[Series]]:
    """Series of one mark, each once, where they are several."""
    groups: dict[Hashable, dict[Series, None]] = {}
    for series, mark in marked:
        groups.setdefault(mark, {})[series] = None
    return (list(alike) for alike in groups.values() if len(alike) > 1)

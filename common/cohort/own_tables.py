"""What a user's own table says of a cohort's subjects: in which part of a split each is, or whose scans they are."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common.cohort.found import CohortError
from common.cohort.table import NOT_SAID, read_columns
from common.splits import PARTS, HasPatient, Split
from common.walk import composed, shown
from common.words import listed

# What stands in a table for a patient who is not known: as a name it would make one patient of several.
_NOBODY = (*NOT_SAID, "not known", "none", "null", "?", "-", "--", ".")


def read_published(path: str | Path, subjects: Iterable[HasPatient]) -> Split:
    """A published split from a CSV with the columns ``id`` and ``part`` (train, validation or test).

    Subjects that the file does not name are left out of all parts. Raises CohortError when a column is missing, a part
    has another name or is empty, an id stands twice or is not in the cohort, or a patient is in two parts.
    """
    part_of = _by_id(path, "part")
    where = shown(path)
    patient_of = {subject.id: subject.patient for subject in subjects}
    if unknown := sorted(part_of.keys() - patient_of.keys()):
        # In quotes, in which what looks like a known id shows what else it holds.
        names = listed([*map(repr, unknown)])
        raise CohortError(f"{where}: {len(unknown)} ids are not in the cohort of {len(patient_of)}: {names}")
    if (parts := set(part_of.values())) != set(PARTS):
        found = listed(sorted(map(repr, parts))) or "none"
        raise CohortError(f"{where}: expected the parts {', '.join(PARTS)}, found {found}")
    members: dict[str, list[str]] = {}
    for id in sorted(part_of):
        members.setdefault(patient_of[id], []).append(id)
    if torn := [patient for patient, ids in sorted(members.items()) if len({part_of[id] for id in ids}) > 1]:
        names = listed([f"{patient} ({listed(members[patient])})" for patient in torn])
        raise CohortError(
            f"{where}: expected each patient, and scans of equal content, in one part, found in several: {names}"
        )
    cuts = {part: tuple(sorted(id for id in part_of if part_of[id] == part)) for part in PARTS}
    return Split(f"published_{Path(path).stem}", **cuts)


def read_patients(path: str | Path, ids: Iterable[str]) -> dict[str, str]:
    """The patient of each id from a CSV with the columns ``id`` and ``patient``, which may name other ids too.

    Raises CohortError when a column is missing, an id stands twice, one of the ids has no patient in it or a word that
    names nobody, or the names of two patients of these ids are writings of one.
    """
    patients, where = _by_id(path, "patient"), shown(path)
    ids = list(ids)
    if missing := [id for id in ids if not patients.get(id)]:
        raise CohortError(f"{where}: expected a patient for every subject, found none for {listed(missing)}")
    if unnamed := [f"{patients[id]!r} for {id}" for id in ids if patients[id].casefold() in _NOBODY]:
        raise CohortError(
            f"{where}: expected a patient for every subject, found {listed(unnamed)}: write another name for each, its "
            "own id where nobody else has scans of it"
        )
    writings: dict[str, dict[str, list[str]]] = {}
    for id in ids:
        writings.setdefault(_in_any_writing(patients[id]), {}).setdefault(patients[id], []).append(id)
    if several := [names for names in writings.values() if len(names) > 1]:
        said = [" and ".join(f"{name!r} ({listed(own)})" for name, own in names.items()) for names in several]
        raise CohortError(
            f"{where}: expected one writing of each patient's name, found names that differ by zeros or case only: "
            f"{listed(said)}"
        )
    return patients


def _in_any_writing(patient: str) -> str:
    """The same for all that a spreadsheet or a hurried hand makes of a patient's name: 7, 007 and 7.0, P7 and p07."""
    whole = re.sub(r"^(\d+)\.0+$", r"\1", patient.casefold())
    return re.sub(r"(?<![\d.])0+(?=\d)", "", whole)


def _by_id(path: str | Path, column: str) -> dict[str, str]:
    """What a CSV says of each id in a column. Raises CohortError as `read_columns`, or when an id stands twice."""
    rows = [(composed(id), composed(said)) for _, (id, said) in read_columns(path, ("id", column))]
    times = Counter(id for id, _ in rows)
    if twice := sorted(id for id in times if times[id] > 1):
        names = listed([*map(repr, twice)])
        raise CohortError(f"{shown(path)}: expected each id once, found more than one row for {names}")
    return dict(rows)

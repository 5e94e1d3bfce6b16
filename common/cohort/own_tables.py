"""What a user's own table says of a cohort's subjects: in which part of a split each is, or whose scans they are."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from common.cohort.found import CohortError
from common.cohort.table import read_columns
from common.splits import PARTS, HasPatient, Split
from common.walk import shown
from common.words import listed


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

    Raises CohortError when a column is missing, an id stands twice, or one of the ids has no patient in it.
    """
    patients = _by_id(path, "patient")
    if missing := [id for id in ids if not patients.get(id)]:
        raise CohortError(f"{shown(path)}: expected a patient for every subject, found none for {listed(missing)}")
    return patients


def _by_id(path: str | Path, column: str) -> dict[str, str]:
    """What a CSV says of each id in a column. Raises CohortError as `read_columns`, or when an id stands twice."""
    rows = [row for _, row in read_columns(path, ("id", column))]
    times = Counter(id for id, _ in rows)
    if twice := sorted(id for id in times if times[id] > 1):
        names = listed([*map(repr, twice)])
        raise CohortError(f"{shown(path)}: expected each id once, found more than one row for {names}")
    return dict(rows)

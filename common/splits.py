"""Which subject is trained on, which chooses the model, which is only scored: by the report's fractions or in folds.

A split is a pure function of the patients' ids and the seed: patients are ordered by a hash of (seed, patient) and cut.
So it does not depend on the order of files, on numpy's version or on which machine it is made.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

PARTS = ("train", "validation", "test")
MINIMUM_PATIENTS = 3


class HasPatient(Protocol):
    """Anything with a subject's id and the patient it belongs to."""

    id: str
    patient: str


@dataclass(frozen=True)
class Split:
    """Subject ids of the three parts, each sorted; the same patient is in one part only."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any subject's place, not with the split's name."""
        parts = json.dumps([self.train, self.validation, self.test])
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    def without(self, subjects: Container[str]) -> "Split":
        """The same split less some subjects. Raises ValueError when a part that had subjects has none left."""
        kept = {part: tuple(id for id in getattr(self, part) if id not in subjects) for part in PARTS}
        if empty := [part for part in PARTS if getattr(self, part) and not kept[part]]:
            raise ValueError(f"expected subjects in every part of {self.name}, found only excluded ones in {empty[0]}")
        return replace(self, train=kept["train"], validation=kept["validation"], test=kept["test"])

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hash": self.hash}


def split_by_fractions(
    subjects: Iterable[HasPatient], *, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2), seed: int
) -> Split:
    """Train, validation and test in the given fractions of the patients, at least one patient in each.

    Raises ValueError for fewer than three patients, or fractions that are not positive or do not sum to 1.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"expected three positive fractions that sum to 1, received {fractions}")
    patients = _shuffled_patients(subjects, seed)
    ids = list(patients)
    n = len(ids)
    n_test = max(1, round(fractions[2] * n))
    n_validation = max(1, round(fractions[1] * n))
    while n_test + n_validation > n - 1:
        # Rounding may leave no training patient in a tiny cohort: the larger of the two held-out parts gives one up.
        if n_test >= n_validation:
            n_test -= 1
        else:
            n_validation -= 1
    cuts = (ids[n_test + n_validation :], ids[n_test : n_test + n_validation], ids[:n_test])
    return _split(f"{_percent(fractions)}_seed{seed}", cuts, patients)


def split_stratified(labels: Mapping[str, int], *, fractions: tuple[float, float, float], seed: int) -> Split:
    """Train, validation and test in the given fractions of the patients of every class.

    labels: class of each patient's id. Per class each part is within one patient of its share, and holds at least one;
    so is each part as a whole, unless classes of a few patients are in the way. A fraction of 0 leaves its part empty.
    Raises ValueError when fractions are negative, give nothing to train on or do not sum to 1, or a class is missing or
    too small.
    """
    if fractions[0] <= 0 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"expected three fractions that sum to 1, none negative and the first positive, received {fractions}"
        )
    classes = _shuffled_classes(labels, seed)
    roundings = [_roundings(len(ids), fractions) for ids in classes.values()]
    for (label, ids), possible in zip(classes.items(), roundings, strict=True):
        if not possible:
            raise ValueError(
                f"expected enough patients of class {label} for one or more in each part at "
                f"{_percent(fractions)} %, received {len(ids)}: {_some(sorted(ids))}"
            )
    shares = np.outer([len(ids) for ids in classes.values()], fractions)

    def deviation(counts: tuple[tuple[int, ...], ...]) -> tuple[float, float]:
        """The largest of a part as a whole, then the sum of squares; rounded, so that ties are ties on any machine."""
        off = np.subtract(counts, shares)
        return round(np.abs(off.sum(axis=0)).max(), 9), round(np.square(off).sum(), 9)

    cuts: list[list[str]] = [[], [], []]
    counts = min(itertools.product(*roundings), key=deviation)
    for ids, (_, n_validation, n_test) in zip(classes.values(), counts, strict=True):
        cuts[0] += ids[n_test + n_validation :]
        cuts[1] += ids[n_test : n_test + n_validation]
        cuts[2] += ids[:n_test]
    return _split(f"{_percent(fractions)}_stratified_seed{seed}", cuts, {id: [id] for id in labels})


def k_folds(subjects: Iterable[HasPatient], *, k: int, seed: int) -> list[Split]:
    """k splits in which each patient is tested once; the next fold validates, the others train.

    Raises ValueError unless 3 <= k <= number of patients.
    """
    patients = _shuffled_patients(subjects, seed)
    ids = list(patients)
    if not MINIMUM_PATIENTS <= k <= len(ids):
        raise ValueError(f"expected between {MINIMUM_PATIENTS} folds and one per patient ({len(ids)}), received {k}")
    return _rotated(ids, k, f"seed{seed}", patients)


def k_folds_stratified(labels: Mapping[str, int], *, k: int, seed: int) -> list[Split]:
    """k splits as those of ``k_folds``, each fold with its share of every class, to within one patient.

    labels: class of each patient's id. The folds' sizes, too, differ by one patient at most.
    Raises ValueError when a class is missing or k is not between 3 and the number of patients of the smallest class.
    """
    classes = _shuffled_classes(labels, seed)
    fewest = min(classes, key=lambda label: len(classes[label]))
    if not MINIMUM_PATIENTS <= k <= len(classes[fewest]):
        raise ValueError(
            f"expected between {MINIMUM_PATIENTS} folds and one per patient of class {fewest} "
            f"({len(classes[fewest])}), received {k}"
        )
    # Class after class in one line: dealing it out goes on where the last class ended.
    line = [id for ids in classes.values() for id in ids]
    return _rotated(line, k, f"stratified_seed{seed}", {id: [id] for id in labels})


def _shuffled_patients(subjects: Iterable[HasPatient], seed: int) -> dict[str, list[str]]:
    """Subject ids per patient, patients in the order of their hash with the seed."""
    patients: dict[str, list[str]] = {}
    for subject in subjects:
        patients.setdefault(subject.patient, []).append(subject.id)
    if len(patients) < MINIMUM_PATIENTS:
        raise ValueError(
            f"expected at least {MINIMUM_PATIENTS} patients (one each to train, validate and test), "
            f"received {len(patients)}: {_some(sorted(patients)) or 'none'}"
        )
    return {patient: patients[patient] for patient in _by_hash(patients, seed)}


def _shuffled_classes(labels: Mapping[str, int], seed: int) -> dict[int, list[str]]:
    """Patients per class, classes in ascending order, patients in the order of their hash with the seed."""
    found = sorted(set(labels.values()))
    classes = {label: _by_hash([id for id in labels if labels[id] == label], seed) for label in found}
    if len(classes) < 2:
        raise ValueError(f"expected patients of two classes or more, received {_some(found) or 'none'}")
    return classes


def _by_hash(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())


def _roundings(n: int, fractions: Sequence[float]) -> list[tuple[int, ...]]:
    """All ways to round the parts' shares of n patients up or down to a sum of n, no part of the split left empty."""
    shares = [fraction * n for fraction in fractions]
    ways = itertools.product(*({math.floor(share), math.ceil(share)} for share in shares))
    return sorted(
        way
        for way in ways
        if sum(way) == n and all(count > 0 for count, fraction in zip(way, fractions, strict=True) if fraction > 0)
    )


def _rotated(ids: Sequence[str], k: int, name: str, patients: dict[str, list[str]]) -> list[Split]:
    """k splits of patients dealt into k folds: each fold tests once, the next one validates, the others train."""
    folds = [ids[start::k] for start in range(k)]
    splits = []
    for test in range(k):
        validation = (test + 1) % k
        train = [patient for i, fold in enumerate(folds) if i not in (test, validation) for patient in fold]
        splits.append(_split(f"fold{test + 1}of{k}_{name}", (train, folds[validation], folds[test]), patients))
    return splits


def _percent(fractions: Sequence[float]) -> str:
    return "-".join(f"{100 * fraction:g}" for fraction in fractions)


def _split(name: str, cuts: Sequence[Sequence[str]], patients: dict[str, list[str]]) -> Split:
    return Split(name, *(tuple(sorted(subject for patient in cut for subject in patients[patient])) for cut in cuts))


def _some(names: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")

import csv
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

from common.splits import (
    PARTS,
    Split,
    k_folds,
    k_folds_stratified,
    split_by_fractions,
    split_stratified,
)


@dataclass(frozen=True)
class Scan:
    id: str
    patient: str


def cohort(n, time_points=1):
    return [
        Scan(f"BraTS-{number:04d}-{point:03d}", f"BraTS-{number:04d}")
        for number in range(n)
        for point in range(time_points)
    ]


def sizes(split):
    return tuple(len(getattr(split, part)) for part in PARTS)


def check_covers(split, subjects):
    """Every subject in exactly one part, each part sorted, none empty, no patient in two."""
    assert sorted(split.train + split.validation + split.test) == sorted(s.id for s in subjects)
    patient_of = {s.id: s.patient for s in subjects}
    patients = [{patient_of[name] for name in getattr(split, part)} for part in PARTS]
    assert sum(map(len, patients)) == len(set().union(*patients))
    for part in PARTS:
        assert getattr(split, part)
        assert list(getattr(split, part)) == sorted(getattr(split, part))


@pytest.mark.parametrize(
    ("fractions", "n", "expected"),
    [
        ((0.6, 0.2, 0.2), 1000, (600, 200, 200)),
        ((0.68, 0.20, 0.12), 1000, (680, 200, 120)),
        ((0.7, 0.15, 0.15), 1000, (700, 150, 150)),
        ((0.7, 0.15, 0.15), 921, (645, 138, 138)),  # 138.15 each: the rest trains
        ((0.6, 0.2, 0.2), 1251, (751, 250, 250)),
        ((0.6, 0.2, 0.2), 5, (3, 1, 1)),
    ],
)
def test_sizes_of_the_report(fractions, n, expected):
    split = split_by_fractions(cohort(n), fractions=fractions, seed=0)
    assert sizes(split) == expected
    check_covers(split, cohort(n))


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.2), (0.68, 0.2, 0.12), (0.7, 0.15, 0.15), (0.02, 0.49, 0.49)])
@pytest.mark.parametrize("seed", [0, 1])
def test_small_cohorts_have_somebody_everywhere(fractions, seed):
    for n in range(3, 41):
        split = split_by_fractions(cohort(n), fractions=fractions, seed=seed)
        check_covers(split, cohort(n))
        train, *held_out = sizes(split)
        for size, fraction in zip(held_out, fractions[1:], strict=True):
            # the nearest whole number, unless that is none or leaves nobody to train
            assert abs(size - fraction * n) <= 0.5 + 1e-9 or (size == 1 and fraction * n < 0.5) or train == 1


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_patients(n):
    # four scans of two patients are still two patients
    named = "BraTS-0000" if n else "none"
    with pytest.raises(ValueError, match=rf"at least 3 patients \(.*\), received {n}: {named}"):
        split_by_fractions(cohort(n, time_points=2), seed=0)
    with pytest.raises(ValueError, match=rf"at least 3 patients \(.*\), received {n}: {named}"):
        k_folds(cohort(n, time_points=2), k=3, seed=0)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (0.8, 0.2, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none(fractions):
    with pytest.raises(ValueError, match="three positive fractions that sum to 1, received ") as raised:
        split_by_fractions(cohort(10), fractions=fractions, seed=0)
    assert str(fractions) in str(raised.value)


@pytest.mark.parametrize("seed", [0, 1])
def test_time_points_of_a_patient_stay_together(seed):
    subjects = cohort(20, time_points=3)
    split = split_by_fractions(subjects, seed=seed)
    check_covers(split, subjects)
    assert sizes(split) == (36, 12, 12)
    for fold in k_folds(subjects, k=4, seed=seed):
        check_covers(fold, subjects)
    # who has how many time points changes nothing about who goes where
    single = split_by_fractions([Scan(s.patient, s.patient) for s in cohort(20)], seed=seed)
    assert {name[:-4] for name in split.test} == set(single.test)


def test_order_of_the_files_is_irrelevant():
    subjects = cohort(50, time_points=2)
    shuffled = subjects[:]
    random.Random(0).shuffle(shuffled)
    assert shuffled != subjects
    assert split_by_fractions(iter(shuffled), seed=3) == split_by_fractions(subjects, seed=3)
    assert k_folds(iter(shuffled), k=5, seed=3) == k_folds(subjects, k=5, seed=3)


def test_seeds_give_other_splits_of_the_same_sizes():
    first, again, second = (split_by_fractions(cohort(100), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert sizes(first) == sizes(second)
    # two independent draws of 20 of 100 share about 4
    assert len(set(first.test) & set(second.test)) < 12
    assert first.hash != second.hash
    assert {split.hash for split in k_folds(cohort(9), k=3, seed=0)}.isdisjoint(
        split.hash for split in k_folds(cohort(9), k=3, seed=1)
    )


def test_a_split_is_not_the_order_of_the_names():
    split = split_by_fractions(cohort(100), seed=0)
    numbers = [int(name[6:10]) for name in split.test]
    assert min(numbers) < 25
    assert max(numbers) > 75


def test_hash_follows_membership_and_not_the_name():
    split = split_by_fractions(cohort(10), seed=0)
    assert replace(split, name="other").hash == split.hash
    moved = replace(split, train=split.train[1:], test=(*split.test, split.train[0]))
    swapped = replace(split, validation=split.test, test=split.validation)
    fewer = replace(split, train=split.train[1:])
    assert len({split.hash, moved.hash, swapped.hash, fewer.hash}) == 4
    assert split.as_dict() == {
        "name": split.name,
        "train": split.train,
        "validation": split.validation,
        "test": split.test,
        "hash": split.hash,
    }


def test_names_say_what_was_asked():
    assert split_by_fractions(cohort(9), fractions=(0.68, 0.2, 0.12), seed=4).name == "68-20-12_seed4"
    assert [split.name for split in k_folds(cohort(9), k=3, seed=4)] == [f"fold{i}of3_seed4" for i in (1, 2, 3)]


@pytest.mark.parametrize(("n", "k"), [(3, 3), (10, 3), (11, 5), (10, 10), (23, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_test_and_validate_everybody_once(n, k, seed):
    subjects = cohort(n, time_points=2)
    folds = k_folds(subjects, k=k, seed=seed)
    assert len(folds) == k
    for fold in folds:
        check_covers(fold, subjects)
        assert len(fold.test) in (2 * (n // k), 2 * -(-n // k))
    for part in ("test", "validation"):
        seen = Counter(name for fold in folds for name in getattr(fold, part))
        assert seen == Counter(s.id for s in subjects)


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 11])
def test_folds_that_cannot_be(k):
    with pytest.raises(ValueError, match=rf"between 3 folds and one per patient \(10\), received {k}"):
        k_folds(cohort(10, time_points=2), k=k, seed=0)


def test_excluded_subjects_leave_their_parts_and_no_part_may_be_emptied():
    split = Split("published", ("a", "b", "c"), ("d", "e"), ("f",))
    assert split.without({"b", "e", "x"}) == Split("published", ("a", "c"), ("d",), ("f",))
    with pytest.raises(ValueError, match=r"published.*test"):
        split.without({"f"})


def two_classes(zeros, ones):
    """Labels by patient, the classes mixed among the names."""
    labels = [0] * zeros + [1] * ones
    random.Random(zeros).shuffle(labels)
    return {f"{number:05d}": label for number, label in enumerate(labels)}


def of_class(split, labels, label):
    return tuple(sum(labels[name] == label for name in getattr(split, part)) for part in PARTS)


FRACTIONS = [(0.7, 0.15, 0.15), (0.6, 0.2, 0.2), (0.7, 0.3, 0.0), (0.7, 0.0, 0.3), (0.1, 0.3, 0.6), (1.0, 0.0, 0.0)]


@pytest.mark.parametrize("fractions", FRACTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_parts_have_their_share_of_each_class_and_of_all(fractions, seed):
    for zeros in (10, 11, 13, 20, 278):
        for ones in (10, 17, 29, 30, 307):
            labels = two_classes(zeros, ones)
            split = split_stratified(labels, fractions=fractions, seed=seed)
            assert sorted(split.train + split.validation + split.test) == sorted(labels)
            for part, fraction, *counts in zip(
                PARTS, fractions, of_class(split, labels, 0), of_class(split, labels, 1), strict=True
            ):
                assert list(getattr(split, part)) == sorted(getattr(split, part))
                for count, n in zip((*counts, sum(counts)), (zeros, ones, zeros + ones), strict=True):
                    assert abs(count - fraction * n) < 1 - 1e-6
                assert (min(counts) > 0) == (fraction > 0)


@pytest.mark.parametrize(
    ("zeros", "ones", "fractions", "expected"),
    [
        (20, 40, (0.7, 0.15, 0.15), ((14, 3, 3), (28, 6, 6))),
        # 0.1 x 30 is a little more than 3 to a computer
        (30, 60, (0.8, 0.1, 0.1), ((24, 3, 3), (48, 6, 6))),
        # 1.5 and 1.5: one class rounds up where the other rounds down, each part gets 3
        (5, 5, (0.4, 0.3, 0.3), ((2, 1, 2), (2, 2, 1))),
        # 3.5, 1.5 of either: 7 and 3 in all, not 8 and 2
        (5, 5, (0.7, 0.3, 0.0), ((3, 2, 0), (4, 1, 0))),
        # 2.8, 0.6, 0.6: somebody everywhere
        (4, 40, (0.7, 0.15, 0.15), ((2, 1, 1), (28, 6, 6))),
        # 278 = 194.6 + 41.7 + 41.7, 307 = 214.9 + 46.05 + 46.05
        (278, 307, (0.7, 0.15, 0.15), ((194, 42, 42), (215, 46, 46))),
    ],
)
def test_stratified_sizes_by_hand(zeros, ones, fractions, expected):
    labels = two_classes(zeros, ones)
    split = split_stratified(labels, fractions=fractions, seed=0)
    assert (of_class(split, labels, 0), of_class(split, labels, 1)) == expected


def test_a_class_of_the_stratified_split_is_cut_where_the_split_of_that_class_alone_is():
    labels = two_classes(20, 40)
    split = split_stratified(labels, fractions=(0.6, 0.2, 0.2), seed=5)
    for label in (0, 1):
        patients = [Scan(name, name) for name in labels if labels[name] == label]
        alone = split_by_fractions(patients, fractions=(0.6, 0.2, 0.2), seed=5)
        for part in PARTS:
            assert {name for name in getattr(split, part) if labels[name] == label} == set(getattr(alone, part))


def test_stratified_splits_follow_ids_labels_and_seed_only():
    labels = two_classes(40, 60)
    names = list(labels)
    random.Random(1).shuffle(names)
    mixed = {name: labels[name] for name in names}
    fractions = (0.7, 0.15, 0.15)
    first, again, other = (
        split_stratified(one, fractions=fractions, seed=seed) for one, seed in ((labels, 0), (mixed, 0), (labels, 1))
    )
    assert first == again
    assert first.hash != other.hash
    assert sizes(first) == sizes(other) == (70, 15, 15)
    assert len(set(first.test) & set(other.test)) < 8  # two independent draws of 15 of 100 share about 2
    assert first.name == "70-15-15_stratified_seed0"
    assert k_folds_stratified(labels, k=5, seed=0) == k_folds_stratified(mixed, k=5, seed=0)
    # 0 and 8 share a place in Python's sets, so a set of them has the order in which they came
    eights = {name: 8 * labels[name] for name in sorted(labels, key=labels.get, reverse=True)}
    assert k_folds_stratified(eights, k=3, seed=0) == k_folds_stratified(labels, k=3, seed=0)
    assert {fold.hash for fold in k_folds_stratified(labels, k=5, seed=0)}.isdisjoint(
        fold.hash for fold in k_folds_stratified(labels, k=5, seed=1)
    )
    assert k_folds_stratified(labels, k=5, seed=3)[1].name == "fold2of5_stratified_seed3"


def test_the_validation_part_may_be_left_out_and_excluded_subjects_still_leave():
    split = split_stratified(two_classes(10, 10), fractions=(0.7, 0.0, 0.3), seed=0)
    assert split.validation == ()
    fewer = split.without({split.test[0]})
    assert (fewer.train, fewer.validation, fewer.test) == (split.train, (), split.test[1:])
    with pytest.raises(ValueError, match="found only excluded ones in test"):
        split.without(set(split.test))


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (0.8, 0.3, -0.1), (0.0, 0.5, 0.5)])
def test_stratified_fractions_that_are_none(fractions):
    with pytest.raises(ValueError, match="sum to 1, none negative and the first positive, received ") as raised:
        split_stratified(two_classes(10, 10), fractions=fractions, seed=0)
    assert str(fractions) in str(raised.value)


def test_classes_that_are_missing_or_too_small():
    with pytest.raises(
        ValueError, match=r"of class 1 for one or more in each part at 70-15-15 %, received 3: \d{5}, \d{5}, \d{5}$"
    ):
        split_stratified(two_classes(9, 3), fractions=(0.7, 0.15, 0.15), seed=0)
    for labels, found in (({}, "none"), ({"a": 1, "b": 1, "c": 1}, "1")):
        for split in (
            lambda labels: split_stratified(labels, fractions=(0.7, 0.15, 0.15), seed=0),
            lambda labels: k_folds_stratified(labels, k=3, seed=0),
        ):
            with pytest.raises(ValueError, match=f"patients of two classes or more, received {found}$"):
                split(labels)
    for k in (-1, 2, 6):
        with pytest.raises(ValueError, match=rf"3 folds and one per patient of class 1 \(5\), received {k}"):
            k_folds_stratified(two_classes(9, 5), k=k, seed=0)


@pytest.mark.parametrize(("zeros", "ones", "k"), [(3, 3, 3), (8, 14, 5), (9, 5, 5), (31, 20, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_folds_test_and_validate_everybody_once(zeros, ones, k, seed):
    labels = two_classes(zeros, ones)
    folds = k_folds_stratified(labels, k=k, seed=seed)
    assert len(folds) == k
    for fold in folds:
        check_covers(fold, [Scan(name, name) for name in labels])
    for part in ("test", "validation"):
        assert Counter(name for fold in folds for name in getattr(fold, part)) == Counter(list(labels))
    for group in (lambda name: labels[name] == 0, lambda name: labels[name] == 1, lambda name: True):
        counts = [sum(map(group, fold.test)) for fold in folds]
        assert max(counts) - min(counts) <= 1
    assert [fold.validation for fold in folds] == [folds[(i + 1) % k].test for i in range(k)]


def test_real_labels(real_data):
    with open(real_data / "mgmt" / "train_labels.csv", newline="") as file:
        labels = {row["BraTS21ID"]: int(row["MGMT_value"]) for row in csv.DictReader(file)}
    assert (len(labels), sum(labels.values())) == (585, 307)
    split = split_stratified(labels, fractions=(0.7, 0.15, 0.15), seed=0)
    assert sizes(split) == (409, 88, 88)
    assert of_class(split, labels, 1) == (215, 46, 46)
    assert split.hash == "eef248d34b27"
    assert split_stratified(labels, fractions=(0.7, 0.3, 0.0), seed=0).hash == "51e055c152be"
    assert split_stratified(labels, fractions=(0.7, 0.15, 0.15), seed=1).hash == "791036b190bf"
    folds = k_folds_stratified(labels, k=5, seed=0)
    assert [fold.hash for fold in folds[:2]] == ["c7e26183d3c6", "2f83497a47f7"]
    for each in (split, *folds):
        check_covers(each, [Scan(name, name) for name in labels])

from dataclasses import dataclass

import numpy as np
import pytest

from common.cohort import find_subjects
from common.identity import (
    as_one_patient,
    content_digest,
    copied_contrasts,
    equal_content,
    masks_among,
    nearly_equal,
    sketch,
)
from common.nifti import Scan
from common.subject import examine


@dataclass(frozen=True)
class Subject:
    id: str
    named: str
    known_patient: str | None = None

    @property
    def patient(self):
        return self.known_patient or self.named


def scan(seed=0, shape=(12, 10, 8), dtype=np.int16):
    image = np.random.default_rng(seed).integers(1, 200, shape)
    image[:3] = 0
    return image.astype(dtype)


def stored(image):
    return Scan(image, np.eye(4), None)


def test_the_same_scan_has_one_digest_however_it_is_stored():
    image = scan()
    others = [
        image.astype(np.float64),
        np.asfortranarray(image.astype(">i4")),
        image[::-1].transpose(2, 0, 1),
        np.pad(image, ((0, 5), (2, 2), (1, 0))),
        image * np.float32(0.3),
        scan(dtype=np.uint8),
    ]
    assert {content_digest(stored(other)) for other in others} == {content_digest(stored(image))}


def test_other_scans_have_other_digests():
    image = scan()
    one_voxel = image.copy()
    one_voxel[5, 5, 5] = 1 if image[5, 5, 5] != 1 else 2
    rng = np.random.default_rng(7)
    smooth = [rng.normal(100, 9, image.shape).astype(np.float32) for _ in range(2)]  # every grey value occurs once
    plain = [np.full(image.shape, value, np.int16) for value in (5, 6)]
    different = [image, one_voxel, scan(1), *smooth, *plain, np.zeros_like(image)]
    assert len({content_digest(stored(one)) for one in different}) == len(different)


def test_groups_are_joined_through_others():
    digests = {"a": {"T1": "1", "T2": "2"}, "b": {"T1": "2"}, "c": {"T1": "3"}, "d": {"FLAIR": "4"}, "e": {"T2": "4"}}
    assert equal_content(digests) == [("a", "b"), ("d", "e")]
    assert equal_content({**digests, "f": {"T1": "1", "T2": "4"}}) == [("a", "b", "d", "e", "f")]
    assert equal_content({"a": {"T1": "1", "T2": "1"}, "b": {}}) == []


def test_equal_content_joins_whole_patients():
    subjects = [Subject("a1", "a"), Subject("a2", "a"), Subject("b1", "b"), Subject("b2", "b"), Subject("c1", "c")]
    joined = as_one_patient(subjects, [("a2", "b1"), ("not there", "c1")])
    assert [s.patient for s in joined] == ["a", "a", "a", "a", "c"]
    assert as_one_patient(subjects, []) == subjects
    assert {s.patient for s in as_one_patient(joined, [("b2", "c1")])} == {"a"}


@pytest.mark.parametrize(("scale", "offset", "dtype"), [(1, 0, np.int16), (0.4, 0, np.float32), (1, 30, np.int16)])
def test_copies_are_found_and_others_are_not(scale, offset, dtype):
    image = scan(3)
    copy = np.where(image != 0, image * scale + offset, 0).astype(dtype)
    noisy = (image + np.random.default_rng(1).normal(0, 12, image.shape)).astype(np.float32)  # r = 58 / hypot(58, 12)
    scans = {"T1": image, "T1ce": copy, "T2": noisy, "FLAIR": scan(4)}
    found = copied_contrasts({name: Scan(data, np.eye(4), None) for name, data in scans.items()})
    assert found == {"T1ce": "T1"}


def test_what_cannot_be_compared_is_no_copy():
    flat = np.full((6, 6, 6), 100, np.int16)
    flat[2, 2, 2] += 1
    broken = scan().astype(np.float32)
    broken[4] = np.nan
    huge = np.where(scan() > 100, np.float64(1e308), 1)
    for scans in (
        {"T1": flat, "T2": 2 * flat},
        {"T1": scan(), "T2": scan(shape=(2, 3, 4))},
        {"T1": huge, "T2": broken},
    ):
        assert copied_contrasts({name: Scan(data, np.eye(4), None) for name, data in scans.items()}) == {}
    assert copied_contrasts({"T1": Scan(scan(), np.eye(4), None)}) == {}
    four = {name: Scan(scan(), np.eye(4), None) for name in ("FLAIR", "T1", "T1ce", "T2")}
    assert copied_contrasts(four) == dict.fromkeys(("T1", "T1ce", "T2"), "FLAIR")


def test_a_mask_among_scans_is_told_and_a_drawing_is_not():
    def with_t1(data):
        images = {name: scan(seed, (20, 18, 16)) for seed, name in enumerate(("FLAIR", "T1", "T2"))} | {"T1": data}
        return {name: Scan(image, np.eye(4), None) for name, image in images.items()}

    mask = (np.indices((20, 18, 16)).sum(axis=0) % 5).astype(np.float32)
    assert masks_among(with_t1(mask)) == {"T1": 4}
    assert masks_among(with_t1(scan(9, (20, 18, 16)))) == masks_among(with_t1(mask * 0.3)) == {}
    assert masks_among(dict.fromkeys(("FLAIR", "T1"), Scan(mask, np.eye(4), None))) == {}


def test_a_scan_that_was_processed_is_nearly_the_same_and_another_is_not():
    rng = np.random.default_rng(5)
    one, other = (np.pad(rng.integers(50, 900, (30, 28, 26)), 3).astype(np.int16) for _ in range(2))
    flipped = Scan(np.round(one[::-1] / 900 * 255).astype(np.uint8), np.diag([1.0, -1, 1, 1]), None)
    lps = np.diag([-1.0, -1, 1, 1])
    drawn = {
        "a": {"T1": sketch(Scan(one, lps, None))},
        "b": {"T1": sketch(flipped), "T2": sketch(Scan(other, lps, None))},
        "c": {"T1": sketch(Scan(other, lps, None))},
        "d": {"T2": sketch(Scan(np.where(other, other + rng.normal(0, 5, other.shape), 0), lps, None))},
    }
    assert nearly_equal(drawn) == [("a", "b", "T1"), ("b", "d", "T2")]
    assert sketch(Scan(np.where(one, 7, 0), lps, None)) is None
    assert nearly_equal({}) == []


def test_real_patients_are_not_nearly_equal(real_data):
    found = find_subjects(real_data / "brats").subjects
    assert nearly_equal({subject.id: examine(subject).sketches for subject in found}) == []

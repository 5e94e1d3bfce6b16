"""Label maps on other grids than the truth's: found voxel by voxel in the world, or refused."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from common.nifti import Scan, ScanError
from experiments.evaluation.grids import onto

AFFINE = np.array([[-1.0, 0, 0, 3], [0, -1, 0, 40], [0, 0, 1.5, -7], [0, 0, 0, 1]])


def scan(data, affine, *, codes=(1, 1)):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine if codes[1] else None, codes[1])
    return Scan(data, np.array(affine, float), image.header)


def truth(seed=0, shape=(13, 11, 9)):
    labels = np.zeros(shape, np.uint8)
    labels[2:-2, 3:-2, 2:-3] = np.random.default_rng(seed).integers(0, 4, (9, 6, 4))
    return labels


def by_the_world(data, own, shape, affine):
    """Each voxel's middle in mm, and the value of the voxel there: the definition, one voxel at a time."""
    found = np.zeros(shape, data.dtype)
    for index in itertools.product(*map(range, shape)):
        at = np.linalg.inv(own) @ affine @ [*index, 1]
        there = tuple(int(np.floor(x + 0.5)) for x in at[:3])
        if all(0 <= x < n for x, n in zip(there, data.shape, strict=True)):
            found[index] = data[there]
    return found


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR", "ILA", "SAL"])
def test_a_turned_label_map_comes_back_voxel_for_voxel(axes):
    labels = truth()
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
    turned = nib.Nifti1Image(labels, AFFINE).as_reoriented(turn)
    found, words = onto(scan(np.asarray(turned.dataobj), turned.affine), labels, AFFINE)
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    assert ("turned" in words) == (axes != "LPS")


def test_a_cut_label_map_is_padded_with_background():
    labels = truth()
    shifted = AFFINE.copy()
    shifted[:3, 3] += AFFINE[:3, :3] @ [2, 3, 2]
    found, words = onto(scan(labels[2:, 3:, 2:6].copy(), shifted), labels, AFFINE)
    np.testing.assert_array_equal(found, labels)
    assert "whole voxels from 11 x 8 x 4 to 13 x 11 x 9" in words


@pytest.mark.parametrize("degrees", [0, 8])
def test_a_resampled_label_map_gives_each_voxel_the_nearest_value(degrees):
    labels = truth()
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    own = np.eye(4)
    own[:3, :3] = turn @ np.diag([-0.7, -0.83, 2.1])
    own[:3, 3] = np.array([4.13, 41.7, -6.2]) + (turn @ [0.9, 0.4, 0] if degrees else 0)
    data = np.random.default_rng(3).integers(0, 4, (23, 19, 9)).astype(np.uint8)
    found, words = onto(scan(data, own), labels, AFFINE)
    expected = by_the_world(data, own, labels.shape, AFFINE)
    np.testing.assert_array_equal(found, expected)
    assert expected.any()
    assert words.startswith("resampled")


def test_a_turned_field_reaches_to_the_edges_of_its_outer_voxels():
    """Four slices of 5 mm cover 20 mm, turned a little in the plane or not."""
    angle = np.radians(2)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.diag([-1.0, -1, 1, 1])
    labels = np.zeros((30, 30, 40), np.uint8)
    labels[10:20, 10:20, 12:32] = 1
    for rotation in (np.eye(3), turn):
        own = np.eye(4)
        own[:3, :3] = affine[:3, :3] @ rotation @ np.diag([1, 1, 5])
        own[2, 3] = 14
        found, _ = onto(scan(np.ones((30, 30, 4), np.uint8), own), labels, affine)
        assert np.flatnonzero(found[15, 15]).tolist() == list(range(12, 32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: scan(data, np.eye(4)), "elsewhere than the truth though it has the same shape"),
        (lambda data: scan(data[:-1], AFFINE, codes=(0, 0)), "does not say which way the axes run"),
        (lambda data: scan(data, AFFINE @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
                           codes=(1, 0)), "sheared"),
    ],
)  # fmt: skip
def test_what_does_not_say_where_it_lies_is_refused(change, said):
    labels = truth()
    with pytest.raises(ScanError, match=said):
        onto(change(labels), labels, AFFINE)


def test_a_header_without_codes_is_taken_where_nothing_is_to_be_moved():
    labels = truth()
    found, words = onto(scan(labels, AFFINE, codes=(0, 0)), labels, AFFINE)
    assert found is labels
    assert words == ""

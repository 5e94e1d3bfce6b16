"""common.picture: where in the file a pictured slice lies."""

import nibabel as nib
import numpy as np
import pytest

from common.picture import THROUGH, _in_file, _most_crossed, cut


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL"])
def test_a_slice_is_named_by_its_index_in_the_file(codes):
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(codes)), (5, 6, 7))
    shape = (5, 6, 7)
    voxel = (1, 4, 2)
    labels = np.zeros(shape, np.uint8)
    labels[voxel] = 1
    axes = set()
    for plane in THROUGH:
        ((found,), _) = cut((labels,), affine, plane)
        number, index = _in_file(affine, plane, _most_crossed(found), shape)
        assert index == voxel[number]
        axes.add(number)
    assert axes == {0, 1, 2}

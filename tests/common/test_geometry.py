"""Headers whose geometry is trusted, noted or refused, and units of length."""

import re

import nibabel as nib
import numpy as np
import pytest

from common import geometry, nifti

AFFINE = np.array([[-1.1, 0, 0, 40], [0, -0.9, 0, 31], [0, 0, 1.5, -20], [0, 0, 0, 1]])


def rotated(degrees, axis=2):
    turn = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return turn @ AFFINE


def written(path, change=lambda header: None, affine=AFFINE):
    image = nib.Nifti1Image(np.ones((6, 5, 4), np.int16), affine)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["vox_offset"] = 352
    change(image.header)
    with path.open("wb") as file:
        file.write(image.header.binaryblock + bytes(4) + image.dataobj.tobytes(order="F"))
    return nifti.read(path)


@pytest.mark.parametrize(("code", "factor"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1)])
def test_units_of_length_are_converted_and_kept_in_the_file(tmp_path, code, factor):
    scaled = AFFINE.copy()
    scaled[:3] *= factor
    scan = written(tmp_path / "a.nii", lambda header: header.set_xyzt_units(code, "sec"), scaled)
    assert scan.spacing_mm == pytest.approx((1.1, 0.9, 1.5), rel=1e-5)
    np.testing.assert_allclose(scan.affine, AFFINE, rtol=1e-5)
    assert geometry.problem(scan) is None
    assert geometry.notes(scan) == []
    nifti.write(tmp_path / "b.nii.gz", np.zeros((6, 5, 4), np.uint8), like=scan)
    again = nib.load(tmp_path / "b.nii.gz")
    assert again.header.get_xyzt_units()[0] == code
    np.testing.assert_allclose(again.affine, scaled, rtol=1e-6)
    np.testing.assert_allclose(nifti.read(tmp_path / "b.nii.gz").affine, AFFINE, rtol=1e-5)


@pytest.mark.parametrize("code", [0, 5])
def test_a_unit_that_is_not_said_is_noted(tmp_path, code):
    scan = written(tmp_path / "a.nii", lambda header: header.__setitem__("xyzt_units", code))
    assert scan.spacing_mm == pytest.approx((1.1, 0.9, 1.5))
    assert geometry.problem(scan) is None
    assert geometry.notes(scan) == ["its header gives no unit of length, taken for mm"]


def codes(sform, qform):
    def change(header):
        header["sform_code"], header["qform_code"] = sform, qform

    return change


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (codes(0, 0), r"does not say which way the axes run \(sform and qform codes are 0\)"),
        (lambda h: h.set_xyzt_units("meter"), r"voxels of 0.1 to 20 mm, found 1100 x 900 x 1500 mm"),
        (lambda h: h.set_xyzt_units("micron"), r"voxels of 0.1 to 20 mm, found 0.0011 x 0.0009 x 0.0015 mm"),
        (lambda h: h["pixdim"].__setitem__(2, 1.8), r"pixdim contradict .* 1.1 x 0.9 x 1.5 mm and of 1.1 x 1.8 x 1.5"),
        (lambda h: h["srow_x"].__setitem__(0, 1.1), r"sform and its qform contradict each other: axes RPS and LPS"),
        (lambda h: h.__setitem__("quatern_b", 5), r"qform is valid, but it is not"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_both_statements(tmp_path, change, wanted):
    found = geometry.problem(written(tmp_path / "a.nii", change))
    assert found is not None
    assert re.search(wanted, found), found


def test_one_form_alone_is_enough(tmp_path):
    for name, change in {"q": codes(0, 1), "s": codes(2, 0)}.items():
        scan = written(tmp_path / f"{name}.nii", change)
        assert geometry.problem(scan) is None
        np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)


def test_forms_that_differ_in_their_place_only_are_noted(tmp_path):
    scan = written(tmp_path / "a.nii", lambda header: header.__setitem__("qoffset_z", 15))
    assert geometry.problem(scan) is None
    assert geometry.notes(scan) == ["its sform and its qform differ by up to 35 mm, the sform is used"]


def test_oblique_axes_are_taken_for_the_nearest_up_to_a_limit(tmp_path):
    scan = written(tmp_path / "a.nii", affine=rotated(19))
    assert geometry.problem(scan) is None
    assert geometry.notes(scan) == ["its axes lie up to 19 degrees askew, taken for the body's nearest"]
    found = geometry.problem(written(tmp_path / "b.nii", affine=rotated(28, axis=0)))
    assert found == (
        "expected axes within 20 degrees of the body's, found 28; register it to the SRI24 template, as BraTS does"
    )


def test_sheared_axes_are_refused(tmp_path):
    def shear(header):
        header["srow_x"][1] = 0.9 * np.tan(np.radians(4))
        header["srow_y"][1] = -0.9

    found = geometry.problem(written(tmp_path / "a.nii", shear))
    assert "found them sheared by 4.0 degrees" in found


def test_voxels_of_a_type_and_of_another_size_are_refused(tmp_path):
    with pytest.raises(nifti.ScanError, match=r"a\.nii: its header contradicts itself: .*int16 and of 8 bits"):
        written(tmp_path / "a.nii", lambda header: header.__setitem__("bitpix", 8))


def test_voxels_lie_apart_as_far_as_the_farthest_of_all():
    one = np.array([[-0.9, 0.1, 0, 90], [0.1, -1, 0.2, 120], [0, 0.2, 1.5, -70], [0, 0, 0, 1]])
    other = one + np.array([[0.01, 0, 0, -0.02], [0, 0, 0.03, 0], [0, -0.02, 0, 0.05], [0, 0, 0, 0]])
    shape = (5, 7, 3)
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    farthest = np.linalg.norm(nib.affines.apply_affine(one, voxels) - nib.affines.apply_affine(other, voxels), axis=-1)
    assert geometry.apart_mm(shape, one, other) == pytest.approx(farthest.max())
    assert geometry.apart_mm(shape, one, one) == 0

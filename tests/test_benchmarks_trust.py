"""The tables of docs/trust.md: a fault of reading is told, in sample files and after a flipped bit."""

import itertools

import numpy as np
import pytest

from benchmarks import bitflips, trust

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what it finds odd


def test_nibabels_files_are_read_as_nibabel_and_pydicom_read_them():
    outcomes = list(trust.look_at("nibabel"))
    counts = {kind: [each.outcome for each in outcomes if each.kind == kind] for kind in ("DICOM", "NIfTI")}
    assert counts["DICOM"].count("equal") >= 6
    assert counts["NIfTI"].count("equal") >= 5
    assert {each.outcome for each in outcomes} == {"equal", "refused"}
    assert "| NIfTI of nibabel |" in trust.tables(outcomes)


def test_other_voxels_are_told(monkeypatch):
    path = next(path for path in trust.sample_files("pydicom") if path.name == "MR_small.dcm")
    assert trust.compare_dicom(path) == ("equal", "image by image")
    original = trust.grey_values
    monkeypatch.setattr(trust, "grey_values", lambda *given: original(*given) + np.float32(1))
    assert trust.compare_dicom(path) == ("different", "voxels")


def test_flipped_bits_are_silent_only_where_nothing_is_summed(tmp_path):
    kinds = itertools.chain(bitflips.scans(tmp_path), bitflips.slices(tmp_path))
    counts = {kind.name: bitflips.flip(kind, 12, seed=3) for kind in kinds}
    assert counts[".nii.gz"] == {"refused": 12}
    assert counts["prepared entry"] == {"mended": 12}
    assert counts[".nii"]["silent"] > 6
    assert sum(counts["DICOM"].values()) == 12

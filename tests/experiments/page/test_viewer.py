"""The slice viewer: which cases it shows, and every label in its place."""

import io
from base64 import b64decode

import nibabel as nib
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from common.cohort import find_subjects
from common.files import write_json, write_text
from common.picture import cut, window
from common.subject import Subject
from experiments.base import runs
from experiments.page import slices, viewer
from tests.experiments.page.report_runs import page_of, write_predictions


def test_the_best_the_median_and_the_worst_case_are_shown(tmp_path, cohort):
    write_predictions(tmp_path, cohort)
    found = viewer.viewers(tmp_path)
    assert [(view.rank, view.case) for view in found.cases] == [
        *[("best", "BraTS_005"), ("median", "BraTS_003"), ("worst", "BraTS_000")]
    ]
    assert found.cases[1].dice == dict.fromkeys(("NCR", "ED", "ET", "TC", "WT"), 0.53)
    assert tuple(found.cases[0].sprites.contrasts) == ("FLAIR", "T1", "T1ce", "T2")
    assert (found.n, found.experiment, found.synthetic) == (6, "table1_baseline", False)


def test_what_is_shown_is_said_of_many_few_and_one_case(tmp_path, cohort):
    folder = write_predictions(tmp_path, cohort)
    cases = pd.read_csv(folder / "cases.csv", dtype={"case": str})
    cases = cases[cases["view"].isna()]
    said = {}
    for n in (6, 2, 1):
        cases.head(n).to_csv(folder / "cases.csv", index=False)
        said[n] = viewer.viewers(tmp_path).which
    assert said == {
        6: "The best, median and worst of 6 test cases",
        2: "The best and worst of 2 test cases",
        1: "The one test case",
    }


def test_cases_are_ranked_by_the_mean_of_the_classes_that_they_have(tmp_path, cohort):
    folder = write_predictions(tmp_path, cohort)
    cases = pd.read_csv(folder / "cases.csv", dtype={"case": str})
    cases[["dice_NCR", "dice_ED", "dice_ET", "dice_WT"]] = [[0.1, 0.2, 0.3, 0.9]] * len(cases)
    cases.loc[cases["case"] == "BraTS_002", ["dice_NCR", "dice_ED", "dice_ET"]] = [np.nan, 0.5, 0.7]
    cases.loc[cases["case"] == "BraTS_004", ["dice_NCR", "dice_ED", "dice_ET"]] = np.nan  # nothing to rank by
    cases.loc[cases["case"] == "BraTS_001", "dice_ET"] = 0.0
    cases.to_csv(folder / "cases.csv", index=False)
    found = viewer.viewers(tmp_path)
    assert found.n == 5
    assert [(view.case, round(view.mean, 6)) for view in (found.cases[0], found.cases[2])] == [
        ("BraTS_002", 0.6),
        ("BraTS_001", 0.1),
    ]


def write_case(folder, affine, labels, grey):
    files = {}
    for name, data in {"FLAIR": grey, "label": labels}.items():
        files[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(data, affine), files[name])
    return Subject("case", {"FLAIR": files["FLAIR"]}, files["label"])


def decoded(address):
    """A data address's picture as (row, column), 0 to 255."""
    return np.asarray(PIL.Image.open(io.BytesIO(b64decode(address.partition(",")[2]))).convert("L"))


def untiled(picture, sprites):
    """The volume (slice, row, column) of a picture, slice by slice."""
    n, height, width = sprites.shape
    places = [divmod(number, sprites.columns) for number in range(n)]
    return np.stack([picture[r * height : (r + 1) * height, c * width : (c + 1) * width] for r, c in places])


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR"])
def test_every_label_voxel_is_in_the_viewer_once_and_in_its_place(tmp_path, axes):
    # In RAS order: 4 x 5 x 7 voxels of 1 x 2 x 3 mm, head everywhere, one NCR voxel at (3, 1, 2), two of ET.
    truth, predicted = np.zeros((4, 5, 7), np.uint8), np.zeros((4, 5, 7), np.uint8)
    truth[3, 1, 2], truth[0, :2, 4], predicted[0, 1, 4] = 1, 3, 2
    grey = np.full((4, 5, 7), 9, np.int16)
    grey[:, :, 6] = 3
    to_file = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    stored = [nib.apply_orientation(volume, to_file) for volume in (truth, predicted, grey)]
    affine = np.diag([1.0, 2.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(to_file, truth.shape)
    found = slices.draw(write_case(tmp_path, affine, stored[0], stored[2]), stored[0], stored[1])
    assert (found.shape, found.spacing_mm, found.columns) == ((7, 5, 4), (3.0, 2.0, 1.0), 3)
    # Slices from the feet, rows from the front, columns from the right.
    expected = np.zeros((7, 5, 4), int)
    for x, y, z in np.argwhere(truth | predicted):
        expected[z, 4 - y, 3 - x] = 16 * (4 * truth[x, y, z] + predicted[x, y, z])
    assert (untiled(decoded(found.labels), found) == expected).all()
    shown = untiled(decoded(found.contrasts["FLAIR"]), found).astype(int)
    assert np.abs(shown[:6] - 255).max() < 12  # lossy
    assert np.abs(shown[6] - 85).max() < 12
    assert found.at == (4, 3, 3)  # the largest area of one class; of its two voxels the first


def test_a_real_case_is_small_enough_for_a_page_with_three_and_looks_like_its_scans(real_data):
    subject = find_subjects(real_data / "brats").subjects[0]
    found = slices.draw(subject, subject.load_labels(), subject.load_labels())
    assert len(found.contrasts) == 4
    assert len(found.labels) + sum(map(len, found.contrasts.values())) < 1.5e6  # of 8 MB in all
    (flair,), scan = subject.load_images(("FLAIR",))
    head = cut((flair,), scan.affine)[0][0]
    at = [np.flatnonzero(head.any(axis=tuple({0, 1, 2} - {axis})))[0] for axis in range(3)]
    own = window(head)[tuple(slice(low, low + n) for low, n in zip(at, found.shape, strict=True))]
    shown = untiled(decoded(found.contrasts["FLAIR"]), found) / 255
    assert np.abs(shown - own)[own > 0].mean() < 0.03
    counts = np.bincount(decoded(found.labels).ravel() // 20, minlength=13)  # 16 x (4 + 1) x class
    assert [counts[4 * value] for value in (1, 2, 3)] == [(subject.load_labels() == value).sum() for value in (1, 2, 3)]


def test_it_opens_where_most_classes_are_and_of_these_slices_in_the_largest():
    labels = np.zeros((5, 6, 7), np.uint8)
    assert slices.start(labels) == (2, 3, 3)
    labels[0, 1:5, 1:5] = 2
    labels[3, 0, 0], labels[3, 0, 1] = 1, 3
    assert slices.start(labels) == (3, 0, 0)
    labels[4, 1:4, 3], labels[4, 2, 4] = 1, 2
    assert slices.start(labels) == (4, 2, 3)


def test_the_box_is_cut_to_head_and_labels(tmp_path):
    grey, truth = np.zeros((5, 6, 7), np.int16), np.zeros((5, 6, 7), np.uint8)
    grey[1:4, 2:5, 3:6] = 1
    truth[0, 2, 3] = 2  # outside the head
    found = slices.draw(write_case(tmp_path, np.eye(4), truth, grey), truth, np.zeros_like(truth))
    assert found.shape == (3, 3, 4)


def test_a_case_without_labels_can_be_shown(tmp_path):
    none, grey = np.zeros((4, 5, 6), np.uint8), np.full((4, 5, 6), 7, np.int16)
    assert not decoded(slices.draw(write_case(tmp_path, np.eye(4), none, grey), none, none).labels).any()


def test_why_there_is_no_viewer_is_said(tmp_path, cohort):
    assert "no finished run with label maps" in viewer.viewers(tmp_path).reason
    folder = write_predictions(tmp_path, cohort)
    data = runs.read(folder, "data.json", dict)[0]
    for change, reason in (
        ({"folder": str(tmp_path / "gone")}, "is gone"),
        ({"subjects": dict.fromkeys(data["subjects"], "another")}, "no longer those that the run has seen"),
        ({"folder": str(tmp_path)}, "expected one of BraTS"),
    ):
        write_json(folder / "data.json", data | change)
        assert reason in viewer.viewers(tmp_path).reason
        assert reason in page_of(tmp_path)
    write_json(folder / "data.json", data)
    cases = pd.read_csv(folder / "cases.csv", dtype={"case": str})
    cases.assign(dice_NCR=np.nan, dice_ED=np.nan, dice_ET=np.nan).to_csv(folder / "cases.csv", index=False)
    assert viewer.viewers(tmp_path).reason.endswith("expected a case with Dice of NCR, ED, ET in cases.csv, found none")
    cases.to_csv(folder / "cases.csv", index=False)
    write_json(folder / "data.json", {name: data[name] for name in data if name != "folder"})
    assert viewer.viewers(tmp_path).reason.endswith("expected 'folder' in its files, found no such entry")
    write_text(folder / "data.json", "{")
    assert "data.json: expected JSON" in viewer.viewers(tmp_path).reason

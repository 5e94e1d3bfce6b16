"""The slice viewer: which cases it shows, and every label in its place."""

import io
import re
from base64 import b64decode

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from common.files import write_json, write_text
from common.labels import CLASSES
from common.picture import CLASS_COLOURS
from common.subject import Subject
from experiments.base import runs
from experiments.page import slices, viewer
from tests.experiments.page.report_runs import page_of, write_predictions


@pytest.mark.parametrize(
    ("n", "positions"),
    [
        (0, {}),
        (1, {0: "best"}),
        (2, {0: "best", 1: "worst"}),
        (3, {0: "best", 1: "median", 2: "worst"}),
        (4, {0: "best", 1: "median", 3: "worst"}),
        (7, {0: "best", 3: "median", 6: "worst"}),
    ],
)
def test_best_median_and_worst_by_hand(n, positions):
    assert viewer.chosen(n) == positions


def test_the_best_the_median_and_the_worst_case_are_shown(tmp_path, cohort):
    write_predictions(tmp_path, cohort)
    found = viewer.viewers(tmp_path)
    assert [(view.rank, view.case) for view in found.cases] == [
        *[("best", "BraTS_005"), ("median", "BraTS_003"), ("worst", "BraTS_000")]
    ]
    assert found.cases[1].dice == dict.fromkeys(("WT", "TC", "NCR", "ED", "ET"), 0.53)
    assert (found.n, found.experiment, found.synthetic) == (6, "table1_baseline", False)


def write_case(folder, affine, labels, grey):
    files = {}
    for name, data in {"FLAIR": grey, "label": labels}.items():
        files[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(data, affine), files[name])
    return Subject("case", {"FLAIR": files["FLAIR"]}, files["label"])


def sprites(html):
    """The viewer's overlays by name, as colours (row, column, rgba) of 0 to 255."""
    found = dict(re.findall(r'"(truth|prediction)": ?"data:image/png;base64,([^"]+)"', html))
    return {name: (imread(io.BytesIO(b64decode(data))) * 255).round().astype(int) for name, data in found.items()}


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR"])
def test_every_label_voxel_is_in_the_viewer_once_in_its_colour_and_place(tmp_path, axes):
    # In RAS order: 4 x 5 x 6 voxels of 1 x 2 x 3 mm, head everywhere, one NCR voxel at (3, 1, 2), two of ET.
    truth, predicted = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    truth[3, 1, 2], truth[0, :2, 4], predicted[1, 1, 1] = 1, 3, 2
    to_file = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    stored = [nib.apply_orientation(volume, to_file) for volume in (truth, predicted, np.full((4, 5, 6), 9, np.int16))]
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) @ nib.orientations.inv_ornt_aff(to_file, truth.shape)
    subject = write_case(tmp_path, affine, stored[0], stored[2])
    html = slices.draw(subject, stored[0], stored[1])
    colours = {name: (np.array(to_rgb(colour)) * 255).round().astype(int) for name, colour in CLASS_COLOURS.items()}
    for name, volume in (("truth", truth), ("prediction", predicted)):
        # nilearn's sprite: sagittal slices side by side, row by row, ceil(sqrt(4)) = 2 rows of 2; in each the columns
        # run to the front and the rows down. Radiological: slice 0 is the rightmost, x = 3.
        expected = np.zeros((2 * 6, 2 * 5, 4), int)
        for x, y, z in np.argwhere(volume):
            row, column = divmod(3 - x, 2)
            expected[row * 6 + 5 - z, column * 5 + y] = [*colours[CLASSES[volume[x, y, z]]], 255]
        assert (sprites(html)[name] == expected).all()
    assert "http" not in html.replace("http://www.w3.org", "").partition("<script>")[0]
    assert "raw.githubusercontent" not in html
    # It opens at z = 4, whose tumour is the largest: two voxels at x = 0, y = 0 and 1.
    assert re.findall(r'data-axis="(\w)" min="0" max="(\d)" value="(\d)"', html) == [
        *[("X", "3", "3"), ("Y", "4", "0"), ("Z", "5", "4")]
    ]


def test_the_box_is_cut_to_head_and_labels_and_knows_its_spacing():
    grey, none = np.zeros((5, 6, 7), np.int16), np.zeros((5, 6, 7), np.uint8)
    grey[1:4, 2:5, 3:6] = 1
    truth = none.copy()
    truth[0, 2, 3] = 2  # outside the head
    affine = np.array([[0, 0, 3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])  # x to the front, y up, z right
    case = slices.boxed(grey, truth, none, affine)
    assert case.grey.shape == (3, 4, 3)
    assert case.spacing_mm == (3.0, 1.0, 2.0)
    assert slices.start(case) == (0, 0, 0)
    assert slices.start(slices.boxed(grey, none, none, affine)) == (1, 1, 0)


def test_a_case_without_labels_can_be_shown(tmp_path):
    none, grey = np.zeros((4, 5, 6), np.uint8), np.full((4, 5, 6), 7, np.int16)
    html = slices.draw(write_case(tmp_path, np.eye(4), none, grey), none, none)
    assert all((sprite[..., 3] == 0).all() for sprite in sprites(html).values())


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
    write_json(folder / "data.json", {name: data[name] for name in data if name != "folder"})
    assert viewer.viewers(tmp_path).reason.endswith("expected 'folder' in its files, found no such entry")
    write_text(folder / "data.json", "{")
    assert "data.json: expected a dict" in viewer.viewers(tmp_path).reason

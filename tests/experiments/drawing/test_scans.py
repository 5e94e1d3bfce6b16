"""Scans the right way round and true to scale, and the palette."""

import itertools
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage

from common.cohort import find_subjects
from experiments.drawing import scans, style
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, tilted
from tests.experiments.conftest import ROOT

SPACING_MM = (1.0, 2.0, 4.0)


MARK = (9, 3, 7)


SHAPE = (12, 14, 10)


def affine_of(axes, spacing_mm):
    """Of a grid whose axes point as the letters say."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([directions[axis] for axis in axes]).T * np.array(spacing_mm)
    return affine


def stored_as(volume_lps, spacing_lps, axes):
    """The same patient on a grid with other axes: volume and affine."""
    at = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    order = [at[axis][0] for axis in axes]
    flipped = tuple(slice(None, None, at[axis][1]) for axis in axes)
    return volume_lps.transpose(order)[flipped], affine_of(axes, [spacing_lps[axis] for axis in order])


EVERY_AXES = [
    "".join(axes) for pairs in itertools.permutations(("LR", "PA", "SI")) for axes in itertools.product(*pairs)
]


@pytest.mark.parametrize("axes", EVERY_AXES)
def test_scans_of_any_orientation_are_shown_left_on_the_right_and_front_or_head_above(axes):
    volume = np.zeros(SHAPE)
    volume[MARK] = 1
    stored, affine = stored_as(volume, SPACING_MM, axes)
    x, y, z = MARK
    expected = {
        "axial": ((z, y, x), (2.0, 1.0), ("R", "L", "A", "P")),
        "coronal": ((SHAPE[1] - 1 - y, SHAPE[2] - 1 - z, x), (4.0, 1.0), ("R", "L", "S", "I")),
        "sagittal": ((SHAPE[0] - 1 - x, SHAPE[2] - 1 - z, y), (4.0, 2.0), ("A", "P", "S", "I")),
    }
    for plane, (place, spacing, edges) in expected.items():
        (slices,), view = scans.cut((stored,), affine, plane)
        assert np.argwhere(slices).tolist() == [list(place)]
        assert view.spacing_mm == pytest.approx(spacing)
        assert view.edges == edges


def directions():
    """Directions along a row and a column for every plane, mirrored and transposed, and some tilted ones."""
    exact = [np.eye(3)[list(pair)] for pair in itertools.permutations(range(3), 2)]
    signed = [
        tuple((pair * np.array(s)[:, None]).ravel()) for pair in exact for s in itertools.product((1, -1), repeat=2)
    ]
    return [*signed, *(tilted(25, plane) for plane in (AXIAL, SAGITTAL, CORONAL))]


@pytest.mark.parametrize("orientation", directions())
def test_a_series_is_turned_by_its_own_directions(orientation):
    """Every pixel holds its place in the patient, so that what is shown says itself where it lies."""
    row_mm, column_mm, between_mm = 3.0, 0.5, 7.0
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    k, row, column = np.indices((4, 5, 6))
    normal = np.cross(along_row, along_column)
    places = (
        k[..., None] * between_mm * normal
        + row[..., None] * row_mm * along_column
        + column[..., None] * column_mm * along_row
    )
    towards = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axis in range(3):
        shown, view, _ = scans.turn(places[..., axis], orientation, (row_mm, column_mm))
        assert shown.shape[0] == 4
        for image, original in zip(shown, places[..., axis], strict=True):  # in the series' own order
            np.testing.assert_array_equal(np.sort(image.ravel()), np.sort(original.ravel()))
        steps = (np.diff(shown[0], axis=0).mean(), np.diff(shown[0], axis=1).mean())
        for letter, step, spacing in zip(view.runs_to, steps, view.spacing_mm, strict=True):
            along, sign = towards[letter]
            if along == axis:
                assert 0.9 * spacing < step * sign <= spacing + 1e-9
    assert view.runs_to in ("PL", "IL", "IP")


def test_pictures_are_true_to_scale_on_paper():
    """Marks 20 mm apart in both directions, on voxels of 1 x 4 mm, are as far apart in pixels of the file."""
    picture = np.zeros((12, 40))
    for row, column in ((2, 5), (7, 5), (2, 25)):
        picture[row, column] = 1
    figure = Figure(figsize=(4, 4), dpi=100, facecolor="black")
    scans.show(figure.subplots(), picture, scans.View((4.0, 1.0), "IL"), edges=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    marks, n = ndimage.label(np.asarray(canvas.buffer_rgba())[..., 0] > 128)
    assert n == 3
    (y, x), (y_right, x_right), (y_below, x_below) = sorted(ndimage.center_of_mass(marks > 0, marks, (1, 2, 3)))
    assert y_below - y == pytest.approx(x_right - x, abs=2)
    assert y_below - y > 40
    assert (x_below, y_right) == pytest.approx((x, y), abs=1)


def test_a_tumour_on_the_patients_left_lies_on_the_right_of_the_run_s_picture(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[9:11, 2:4, 6:8] = 2
    brain = np.full(SHAPE, 50, np.int16)
    folder = tmp_path / "cohort" / "BraTS_000"
    folder.mkdir(parents=True)
    for name, volume in {**dict.fromkeys(("flair", "t1", "t1ce", "t2"), brain), "seg": labels}.items():
        stored, affine = stored_as(volume, SPACING_MM, "SAR")
        nib.save(nib.Nifti1Image(stored, affine), folder / f"BraTS_000_{name}.nii.gz")
    (subject,) = find_subjects(tmp_path / "cohort").subjects
    truth = subject.load_labels()
    shown = scans.tumour_slice(subject, np.zeros_like(truth), truth)
    rows, columns = np.nonzero(shown.truth)
    assert (shown.position, sorted(set(rows)), sorted(set(columns))) == (6, [2, 3], [9, 10])
    assert shown.view.spacing_mm == pytest.approx((2.0, 1.0))
    assert not shown.predicted.any()


def test_an_overlay_is_the_class_s_colour_over_the_grey_and_leaves_the_rest():
    grey = np.array([[0.0, 0.5], [1.0, 0.25]])
    shown = scans.overlay(grey, np.array([[0, 1], [2, 3]]))
    for place, name, value in (((0, 1), "NCR", 0.5), ((1, 0), "ED", 1.0), ((1, 1), "ET", 0.25)):
        np.testing.assert_allclose(shown[place], 0.45 * value + 0.55 * np.array(to_rgb(style.CLASS_COLOURS[name])))
    assert shown[0, 0].tolist() == [0, 0, 0]


def test_one_palette_holds_everywhere():
    assert list(style.CLASS_COLOURS) == ["NCR", "ED", "ET"]
    told = [
        path.name
        for room in ("common", "experiments")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\"(NCR|ED|ET)\": *\"#", path.read_text())
    ]
    assert told == ["picture.py"]


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
    assert scans.chosen(n) == positions


def test_overlays_are_of_the_best_median_and_worst_mean_dice_of_the_classes_that_a_case_has(monkeypatch, tmp_path):
    dice = {  # NCR, ED, ET; the order of WT is another
        "a": (0.2, 0.4, 0.6),
        "b": (np.nan, 0.9, 0.8),
        "c": (0.0, 0.1, 0.2),
        "d": (0.5, 0.5, 0.6),
        "e": (np.nan, np.nan, np.nan),  # no label in truth or prediction: nothing to rank by
        "f": (0.1, 0.2, 0.3),
    }
    rows = [
        {"case": case, **dict(zip(("dice_NCR", "dice_ED", "dice_ET"), values, strict=True))}
        for case, values in dice.items()
    ]
    cases = pd.DataFrame(rows).assign(dice_WT=[0.1, 0.2, 0.9, 0.3, np.nan, 0.4])
    image, labels = np.arange(12.0).reshape(3, 4), np.zeros((3, 4), np.uint8)
    view = scans.View((1.0, 1.0), "PL")
    slices = {case: scans.Slice({"FLAIR": image, "T1ce": image}, labels, labels, 6, view) for case in dice}
    drawn = []
    monkeypatch.setattr(scans, "save_for_screen", lambda figure, path: drawn.append(figure))
    scans.draw_overlays(tmp_path / "overlays.png", slices, cases, synthetic=False)
    (figure,) = drawn
    assert [title for axis in figure.axes if (title := axis.get_title(loc="left"))] == [
        "best: b, slice 7",
        "median: a, slice 7",
        "worst: c, slice 7",
    ]
    notes = [note for axis in figure.axes if (note := axis.get_title(loc="right"))]
    assert notes[1] == "Dice WT 0.10, NCR 0.20, ED 0.40, ET 0.60"


def test_without_a_label_to_rank_by_nothing_is_drawn(tmp_path):
    cases = pd.DataFrame({"case": ["a"], "dice_NCR": [np.nan], "dice_ED": [np.nan], "dice_ET": [np.nan]})
    scans.draw_overlays(tmp_path / "overlays.png", {}, cases, synthetic=False)
    assert not list(tmp_path.iterdir())

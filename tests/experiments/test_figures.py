"""The report's figures: brains the right way round and true to scale, counts that are right, and nothing left out."""

import itertools
import json
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from scipy import ndimage

from common.cohort import find_subjects
from common.scoring import apply_empty_policy, score_case
from experiments.base import results
from experiments.drawing import curves as pictures
from experiments.figures import __main__ as command
from experiments.figures import classification, curves, display, distributions, scans, segmentation, series, style
from experiments.figures.sources import MissingError, Sources
from experiments.segmentation import label_size
from mgmt_classifier.config import Config
from tests.cohorts import write_cohort
from tests.common.dicom.dicom_files import AXIAL, CORONAL, SAGITTAL, tilted, write_series
from tests.experiments.conftest import ROOT, environment

SPACING_MM = (1.0, 2.0, 4.0)
# Voxels (x, y, z) of a grid whose axes run to the patient's left, back and head.
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


# --- which way round, and how large -----------------------------------------------------------------------------------


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
        (slices,), view = display.cut((stored,), affine, plane)
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
        shown, view, _ = display.turn(places[..., axis], orientation, (row_mm, column_mm))
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
    display.show(figure.subplots(), picture, display.View((4.0, 1.0), "IL"), edges=False)
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
    shown = pictures.tumour_slice(subject, np.zeros_like(truth), truth)
    rows, columns = np.nonzero(shown.truth)
    assert (shown.position, sorted(set(rows)), sorted(set(columns))) == (6, [2, 3], [9, 10])
    assert shown.view.spacing_mm == pytest.approx((2.0, 1.0))
    assert not shown.predicted.any()


def test_an_overlay_is_the_class_s_colour_over_the_grey_and_leaves_the_rest():
    grey = np.array([[0.0, 0.5], [1.0, 0.25]])
    shown = display.overlay(grey, np.array([[0, 1], [2, 3]]))
    for place, name, value in (((0, 1), "NCR", 0.5), ((1, 0), "ED", 1.0), ((1, 1), "ET", 0.25)):
        np.testing.assert_allclose(shown[place], 0.45 * value + 0.55 * np.array(to_rgb(style.CLASS_COLOURS[name])))
    assert shown[0, 0].tolist() == [0, 0, 0]


def test_one_palette_holds_everywhere():
    assert pictures.CLASS_COLOURS is style.CLASS_COLOURS
    assert list(style.CLASS_COLOURS) == ["NCR", "ED", "ET"]
    told = [
        path.name
        for path in (ROOT / "experiments").rglob("*.py")
        if re.search(r"\"(NCR|ED|ET)\": *\"#", path.read_text())
    ]
    assert told == ["style.py"]


# --- counts -----------------------------------------------------------------------------------------------------------


def tiny_cases():
    """Six cases, with NCR found, missed, invented and absent: rows as a run has them, and the label maps."""
    kinds = ("found", "found", "missed", "invented", "absent", "found")
    rows = []
    for case, kind in enumerate(kinds):
        truth = np.zeros((16, 16, 16), np.uint8)
        truth[2:8, 2:8, 2:8], truth[9:12, 9:12, 9:12] = 2, 3
        predicted = np.roll(truth, case % 3, axis=0)
        if kind in ("found", "missed"):
            truth[3:5, 3:5, 3:5] = 1
        if kind in ("found", "invented"):
            predicted[3:5, 3:6, 3:5] = 1
        rows.append({"case": f"case{case}", **score_case(predicted, truth, spacing_mm=(1, 1, 1)), "view": np.nan})
    return pd.DataFrame(rows), kinds


def bars(axis):
    return sum(patch.get_height() for patch in axis.patches if isinstance(patch, Rectangle) and patch.get_width() > 0)


@pytest.mark.parametrize("policy", ["brats", "ignore"])
def test_histograms_count_every_case(policy):
    cases, kinds = tiny_cases()
    figure = distributions.draw_histograms(cases, apply_empty_policy(cases, policy), text="", synthetic=False)
    ncr, ed, et, tc, wt = figure.axes
    n = len(kinds) - (policy == "ignore") * kinds.count("absent")
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("missed", "invented", "absent"))
    assert ncr.get_title() == f"NCR, n = {n}\n{counts}"
    assert bars(ncr) == n
    assert [bars(axis) for axis in (ed, et, tc, wt)] == [6, 6, 6, 6]
    assert ed.get_title() == "ED, n = 6\n0 missed, 0 invented, 0 absent"
    said = results.reported()["unet3d"]
    assert [line.get_xdata()[0] for line in ncr.lines][1] == said["dice_NCR"].value
    assert [text.get_text() for text in tc.get_legend().get_texts()][1].startswith("report ")


def test_a_region_without_a_distance_is_counted_in_a_bar_of_its_own():
    cases, _ = tiny_cases()
    cases.loc[1, ["hd_TC", "hd95_TC", "volume_predicted_ml_TC", "dice_TC", "surface_dice_TC"]] = [
        np.inf,
        np.inf,
        0,
        0,
        0,
    ]
    valued = apply_empty_policy(cases, "brats")
    tc = distributions.draw_histograms(cases, valued, text="", synthetic=False).axes[3]
    assert tc.get_title() == "TC, n = 6\n1 missed, 0 invented, 0 absent"
    hatched = [patch for patch in tc.patches if patch.get_hatch()]
    assert [patch.get_height() for patch in hatched] == [1]
    measured = cases.drop(index=1)["hd_TC"]
    assert hatched[0].get_x() > measured.max()
    assert tc.lines[0].get_xdata()[0] == pytest.approx(measured.mean())
    assert "of those with a distance" in tc.get_legend().get_texts()[0].get_text()


def test_label_sizes_show_every_label_of_the_truth_once(tmp_path):
    cases, _ = tiny_cases()
    for part in ("validation", "test"):
        (tmp_path / part).mkdir()
        cases.to_csv(tmp_path / part / "cases.csv", index=False)
    sizes = label_size.label_sizes({part: tmp_path / part for part in ("validation", "test")})
    figure = distributions.draw_label_sizes(sizes, text="", synthetic=True)
    for axis, name in zip(figure.axes, ("NCR", "ED", "ET"), strict=True):
        true = sizes[(sizes["class"] == name) & (sizes["volume_truth_ml"] > 0)]
        drawn = [tuple(point) for line in axis.lines for point in zip(*line.get_data(), strict=True)]
        assert sorted(drawn) == sorted(zip(true["volume_truth_ml"], true["dice"], strict=True))
    missed = next(line for line in figure.axes[0].lines if line.get_marker() == "x")
    assert missed.get_ydata().tolist() == [0, 0]
    assert figure.axes[0].get_title().splitlines()[0] == "NCR: 2 of 8 missed"
    assert figure.axes[0].get_title().splitlines()[2] == "not in the truth: 4 (2 invented)"
    assert figure.get_suptitle() == "Synthetic phantoms"


@pytest.mark.parametrize(("n", "middle"), [(1, 0), (2, 0), (3, 1), (6, 2), (7, 3)])
def test_the_median_case_is_the_middle_of_the_ranks(n, middle):
    dice = np.random.default_rng(n).permutation(n) / 10
    cases = pd.DataFrame({"case": [f"{value:.1f}" for value in dice], "dice_WT": dice})
    assert segmentation.median(cases)["case"] == f"{sorted(dice, reverse=True)[middle]:.1f}"
    cases.loc[cases["dice_WT"].idxmin(), "dice_WT"] = np.nan  # no tumour in truth and prediction
    assert np.isnan(segmentation.ranked(cases).iloc[0]["dice_WT"])


def test_slices_are_spaced_evenly_from_the_first_to_the_last():
    assert scans.spaced(155, 24)[:3] == [0, 7, 13]
    assert (scans.spaced(155, 24)[-1], len(scans.spaced(155, 24))) == (154, 24)
    assert scans.spaced(5, 24) == [0, 1, 2, 3, 4]


# --- the whole command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a cohort, an MGMT cohort and finished runs of every experiment that figures show."""
    folder = tmp_path_factory.mktemp("figures")
    cohort = write_cohort(folder / "cohort", 3)
    write_patients(folder / "mgmt")
    for name, views in (("unet25d", ("", "before_postprocessing")), ("unet3d", ("",))):
        write_segmentation(folder / "runs" / name / "demo-x", cohort, views)
    final = folder / "runs" / "table2_final" / "demo-x"
    for part in ("validation", "test"):
        write_segmentation(final, cohort, ("",), inside=f"seed0/{part}")
    label_size.label_sizes({part: final / "seed0" / part for part in ("validation", "test")}).to_csv(
        final / "label_size.csv", index=False
    )
    write_mgmt(folder / "runs")
    return folder


def write_patients(folder):
    """Two patients; the first lacks T2w. The second's FLAIR has its brightest pixels in image 30 of 34."""
    pixels = np.random.default_rng(0).integers(200, 400, (34, 24, 20)).astype(np.uint16)
    pixels[[0, 1, 33]] = 0
    pixels[29, 4:7, 12:16] = 4000
    pixels[28, 4, 12] = 4000
    for patient, contrasts in (("00001", ("FLAIR", "T1w", "T1wCE")), ("00002", ("FLAIR", "T1w", "T1wCE", "T2w"))):
        for contrast in contrasts:
            write_series(folder / "train" / patient / contrast, pixels[: 34 if patient == "00002" else 6])


def described(folder, *, experiment, data, model):
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": ["a"] * 5, "validation": ["b"] * 2, "test": ["c"]}
    config = {"experiment": experiment, "options": {"preset": "demo", "empty_masks": "brats"}, "model": model}
    for name, value in (("config", config), ("data", data), ("split", parts), ("summary", [])):
        (folder / f"{name}.json").write_text(json.dumps(value))


def write_segmentation(folder, cohort, views, *, inside=""):
    """Predictions that are the truth, moved by a voxel per case; the raw view has an island more."""
    subjects = find_subjects(cohort).subjects
    data = {"folder": str(cohort), "synthetic": False, "subjects": {each.id: each.fingerprint() for each in subjects}}
    described(folder, experiment=folder.parent.name, data=data, model={"checkpoint": "best"})
    epochs = np.arange(1, 31)
    history = {"epoch": epochs, "loss": 1 / epochs, "validation_loss": np.abs(epochs - 20.5) + 0.1 * (epochs == 20)}
    history |= dict.fromkeys(("accuracy", "validation_accuracy"), 0.97 + epochs / 1000)
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    rows = []
    for shift, subject in enumerate(subjects):
        truth = subject.load_labels()
        for view in views:
            predicted = np.roll(truth, shift, axis=0)
            if view:
                predicted[2:4, 2:4, shift + 2 : 5] = 2
            path = folder / inside / "predictions" / view / f"{subject.id}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = subject.convention.from_classes(predicted)
            nib.save(nib.Nifti1Image(values, nib.load(subject.label).affine), path)
            score = score_case(predicted, truth, spacing_mm=(1, 1, 1))
            rows.append({"case": subject.id, **score, "view": view or np.nan})
    pd.DataFrame(rows).to_csv(folder / inside / "cases.csv", index=False)


def write_mgmt(runs):
    data = {"folder": "mgmt", "synthetic": True}
    for experiment in ("mgmt_ensemble", "mgmt_grid", "mgmt_explain"):
        described(runs / experiment / "demo-x", experiment=experiment, data=data, model={})
    for contrast in ("FLAIR", "T1w"):
        folder = runs / "mgmt_ensemble" / "demo-x" / contrast
        folder.mkdir()
        epochs = np.arange(1, 6)
        values = dict.fromkeys(("loss", "accuracy", "validation_loss", "validation_accuracy"), epochs / 6)
        pd.DataFrame({"epoch": epochs, **values}).to_csv(folder / "history.csv", index=False)
    grid = runs / "mgmt_grid" / "demo-x"
    cells = pd.DataFrame(
        itertools.product(("FLAIR", "T2w", "T1wCE", "T1w"), (3, 7, 15), (4, 8)),
        columns=["contrast", "images", "batch_size"],
    )
    cells[["threshold", "loss", "auc"]] = np.random.default_rng(1).uniform(0.4, 0.9, (len(cells), 3))
    cells.to_csv(grid / "grid.csv", index=False)
    lines = [
        {"key": f"mgmt_grid.{c.contrast}_n{c.images}_b{c.batch_size}__auc", "low": 0.3, "high": 0.95, "value": c.auc}
        for c in cells.itertuples()
    ]
    for name, value in (("__auc", cells["auc"].max()), ("_under_chance__auc", 0.64), ("__permutation_p", 0.02)):
        lines.append({"key": f"mgmt_grid.best_of_all{name}", "value": value, "n": 50})
    (grid / "summary.json").write_text(json.dumps(lines))
    rng = np.random.default_rng(2)
    arrays = {}
    for contrast in ("FLAIR", "T1w"):
        own = {"id": np.array(["90001", "90002"]), "label": np.array([1, 0]), "position": np.array([3, 4])}
        own |= {"image": rng.integers(0, 900, (2, 8, 8)), "saliency": rng.uniform(0, 1, (2, 8, 8))}
        own |= {"orientation": np.array([SAGITTAL, AXIAL], float), "extent_mm": np.array([[160.0, 240], [200, 200]])}
        arrays |= {f"{contrast}_{name}": value for name, value in own.items()}
    np.savez(runs / "mgmt_explain" / "demo-x" / "saliency.npz", **arrays)


def options(work, output, **changes):
    given = {"runs": work / "runs", "data": work / "cohort", "mgmt_data": work / "mgmt", "jobs": 1}
    return command.Options(output=output, **given | changes)


def sources(work, **changes):
    given = {"runs": work / "runs", "data": work / "cohort", "mgmt_data": work / "mgmt", "jobs": 1}
    places = {"phantoms": work / "phantoms", "phantoms_mgmt": work / "phantoms_mgmt"}
    return Sources(**given | places | changes)


@pytest.fixture(scope="module")
def drawn(work):
    """All figures, drawn once: the output folder and what figures.json holds."""
    output = work / "figures"
    command.draw(options(work, output))
    return output, json.loads((output / "figures.json").read_text())


def test_every_figure_is_there_exactly_once_as_vector_and_png(drawn):
    output, entries = drawn
    assert [entry["number"] for entry in entries] == list(range(1, 19))
    assert {entry["state"] for entry in entries} == {"drawn"}
    assert {"number", "title", "caption", "state", "reason", "command", "synthetic", "files"} == set(entries[0])
    for entry in entries:
        assert entry["files"] == [f"figure_{entry['number']:02}.svg", f"figure_{entry['number']:02}.png"]
        vector, raster = (output / file for file in entry["files"])
        assert "<svg" in vector.read_text()
        assert "<text" not in vector.read_text()
        assert imread(raster).shape[1] == 2100
        assert len(entry["caption"]) > 80
        assert entry["synthetic"] == (entry["number"] in (13, 16, 17, 18))


@pytest.mark.parametrize("number", list(command.FIGURES))
def test_no_text_leaves_its_figure_and_synthetic_data_are_named_on_it(work, number):
    drawing = command.FIGURES[number][1](sources(work))
    figure = drawing.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = figure.get_tightbbox(canvas.get_renderer())  # in inches; of what is drawn, texts included
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.01, drawn
    assert drawn.x1 <= width + 0.01, drawn
    assert drawn.y0 >= -0.01, drawn
    assert drawn.y1 <= height + 0.01, drawn
    assert figure.get_suptitle().startswith("Synthetic phantoms") == drawing.synthetic


def test_only_draws_what_is_asked_for_and_keeps_what_is_known_of_the_others(work, tmp_path):
    first = {entry["number"]: entry for entry in command.draw(options(work, tmp_path, only=(12,)))}
    assert [number for number, entry in first.items() if entry["state"] == "drawn"] == [12]
    assert (first[4]["reason"], first[4]["command"]) == ("not drawn yet", "python -m experiments.figures --only 4")
    second = {entry["number"]: entry for entry in command.draw(options(work, tmp_path, only=(3, 16)))}
    assert [number for number, entry in second.items() if entry["state"] == "drawn"] == [3, 12, 16]
    assert second[12] == first[12]
    assert list(second) == list(range(1, 19))
    (tmp_path / "figure_12.png").unlink()
    third = {entry["number"]: entry for entry in command.draw(options(work, tmp_path, only=(3,)))}
    assert third[12]["state"] == "missing"


def test_equal_figures_are_equal_files(work, tmp_path):
    for name in ("one", "two"):
        command.draw(options(work, tmp_path / name, only=(16,)))
    first, second = (tmp_path / name / "figure_16.svg" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


NEEDS = {
    "unet25d": (3, 4), "unet3d": (5, 6, 7), "table2_final": (8, 9), "mgmt_grid": (13,),
    "mgmt_ensemble": (16, 17), "mgmt_explain": (18,),
}  # fmt: skip


def test_a_missing_run_is_named_with_the_command_that_makes_it(work, tmp_path):
    asked = tuple(itertools.chain(*NEEDS.values()))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figure_07.png").write_bytes(b"of a run that is gone")
    entries = command.draw(options(work, tmp_path / "out", runs=tmp_path / "none", only=asked))
    missing = {entry["number"]: entry for entry in entries if entry["number"] in asked}
    assert {entry["state"] for entry in missing.values()} == {"missing"}
    for experiment, numbers in NEEDS.items():
        data = work / ("mgmt" if experiment.startswith("mgmt") else "cohort")
        for number in numbers:
            assert missing[number]["reason"] == f"no finished run of {experiment} in {tmp_path / 'none'}"
            assert missing[number]["command"] == (
                f"python -m experiments.{experiment} --data {data} --runs {tmp_path / 'none'}"
            )
            assert missing[number]["files"] == []
    assert not list((tmp_path / "out").glob("figure_07.*"))


DAMAGES = [
    ("unet3d/demo-x/history.csv", None, 5, "expected the file .*history.csv, found none"),
    ("unet3d/demo-x/history.csv", b"epoch,loss\n1,2\n", 5, "expected the columns accuracy.*found none"),
    ("unet3d/demo-x/history.csv", b"", 5, "."),
    ("unet3d/demo-x/config.json", b"{", 5, "."),
    ("unet3d/demo-x/config.json", b"[]", 6, "."),
    ("unet3d/demo-x/data.json", b"{}", 6, "expected an entry 'synthetic', found none"),
    ("unet3d/demo-x/cases.csv", b"case,view,dice_WT,dice_NCR,dice_ED,dice_ET\nx,,a,b,c,d\n", 7, "Unable to parse"),
    ("unet3d/demo-x/predictions/BraTS_000.nii.gz", None, 7, "no predicted labels of BraTS_000"),
    ("unet3d/demo-x/predictions/BraTS_001.nii.gz", b"none", 7, "BraTS_001"),
    ("unet25d/demo-x/predictions/before_postprocessing", None, 4, "no predicted labels of BraTS_00"),
    ("table2_final/demo-x/label_size.csv", b"case,part\n", 8, "label_size.csv"),
    ("mgmt_grid/demo-x/summary.json", b"[]", 13, "expected an entry 'best_of_all__auc'"),
    ("mgmt_explain/demo-x/saliency.npz", None, 18, "expected the file .*saliency.npz, found none"),
    ("mgmt_explain/demo-x/saliency.npz", b"PK\x03\x04", 18, "."),
]


@pytest.mark.parametrize(("file", "content", "number", "reason"), DAMAGES)
def test_a_damaged_run_is_a_reason_and_not_a_traceback(work, tmp_path, file, content, number, reason):
    runs = tmp_path / "runs"
    shutil.copytree(work / "runs", runs)
    path = runs / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MissingError, match=reason) as caught:
        command.FIGURES[number][1](sources(work, runs=runs))
    assert caught.value.command.startswith(f"python -m experiments.{file.partition('/')[0]} --data ")
    assert caught.value.command.endswith(" --fresh")


def test_scans_that_have_changed_or_gone_are_not_shown_under_another_s_prediction(work, tmp_path):
    moved = shutil.copytree(work / "cohort", tmp_path / "cohort")
    runs = shutil.copytree(work / "runs", tmp_path / "runs")
    data = json.loads((runs / "unet3d" / "demo-x" / "data.json").read_text())
    (runs / "unet3d" / "demo-x" / "data.json").write_text(json.dumps(data | {"folder": str(tmp_path / "gone")}))
    show = command.FIGURES[7][1]
    with pytest.raises(MissingError, match="gone, which are not there; --data names them"):
        show(sources(work, runs=runs, data=None))
    assert "for the best, median and worst of 3 test cases" in show(sources(work, runs=runs, data=moved)).caption
    shutil.copy(moved / "BraTS_001" / "BraTS_001_flair.nii.gz", moved / "BraTS_000" / "BraTS_000_flair.nii.gz")
    with pytest.raises(MissingError, match="the scans of BraTS_000 have changed"):
        show(sources(work, runs=runs, data=moved))


def test_what_is_drawn_of_the_runs(work):
    opened = sources(work)
    assert "Weights of epoch 21 are used" in curves.unet25d_curves(opened).caption
    third = curves.unet25d_curves(opened).figure
    assert {"report: optimum about epoch 22", "weights used: epoch 21"} <= labels(third)
    assert not any(label.startswith("report") for label in labels(curves.unet3d_curves(opened).figure))  # epoch 100
    assert third.get_suptitle() == "2.5D U-Net: 5 training and 2 validation subjects"
    assert {"report: training, 0.53 to 0.67", "report: validation, about 0.53"} <= labels(
        curves.flair_curves(opened).figure
    )
    caption = segmentation.unet25d_postprocessed(opened).caption
    # The islands of 2 x 2 voxels lie in 3, 2 and 1 slices, all outside the brain.
    assert "changed their number by -24" in caption
    assert "most false positives removed: BraTS_000" in caption
    grid = classification.grid(opened)
    words = [text.get_text() for text in grid.figure.axes[0].texts]
    cells = pd.read_csv(work / "runs" / "mgmt_grid" / "demo-x" / "grid.csv")
    for value in (*cells["auc"], *cells["loss"], *cells["threshold"]):
        assert f"{value:.3f}" in words
    bold = {text.get_text() for text in grid.figure.axes[0].texts if text.get_fontweight() == "bold"}
    best = cells.loc[cells.groupby("contrast")["auc"].idxmax()]
    assert bold == {f"{value:.3f}" for value in best[["threshold", "loss", "auc"]].to_numpy().ravel()} | set(
        best["contrast"]
    )
    grey = [text.get_text() for text in grid.figure.axes[0].texts if text.get_color() == style.REPORT_COLOUR]
    said = [entry.value for name, entry in results.reported()["mgmt_grid"].items() if name.endswith("__auc")]
    assert sorted(grey) == sorted(["report's AUC"] * 4 + [f"{value:.3f}" for value in said])


def labels(figure):
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_what_is_drawn_of_the_series(work):
    opened = sources(work)
    _, found, skipped = series.first_readable(opened, series.CONTRASTS)
    assert (skipped, len(found["T2w"].images), found["T1wCE"].blank) == (1, 34, 3)
    assert "1 patients before it" in series.t1wce_images(opened).caption
    choice, compared = series.farthest_choice(opened, Config(slices="tumour", images=31))
    assert (choice.patient.id, compared) == ("00002", 1)  # the first patient has six images
    images = found["FLAIR"].images
    counts = [(image > choice.threshold).sum() for image in images]
    assert (choice.central, choice.tumour) == (17, int(np.argmax(counts)))
    assert choice.bright.tolist() == counts
    assert choice.tumour == 29
    with pytest.raises(MissingError, match="expected FLAIR series of at least 35 images in the first 20 patients"):
        series.farthest_choice(opened, Config(slices="tumour", images=35))


def test_all_images_of_a_series_lie_in_their_order():
    rng = np.random.default_rng(3)
    shown = series.Shown(rng.uniform(1, 9, (11, 6, 8)), display.View((1.0, 1.0), "PL"), "axial")
    figure = series.draw_all(shown, "", marks={"central": 5, "tumour": 9}, synthetic=False)
    axis = figure.axes[0]
    table = np.asarray(axis.images[0].get_array())
    across = table.shape[1] // 8
    for image, grey in enumerate(display.window(shown.images)):
        row, column = divmod(image, across)
        np.testing.assert_array_equal(table[6 * row : 6 * row + 6, 8 * column : 8 * column + 8], grey)
    numbers = [text.get_text() for text in axis.texts if text.get_text().isdigit()]
    assert numbers == [str(image + 1) for image in range(11)]
    framed = [(patch.get_x() / 8, patch.get_y() / 6) for patch in axis.patches]
    assert framed == [(image % across, image // across) for image in (5, 9)]


def test_saliency_lies_on_the_image_it_belongs_to(work):
    figure = classification.saliency(sources(work)).figure
    stored = np.load(work / "runs" / "mgmt_explain" / "demo-x" / "saliency.npz")
    image, overlaid = figure.axes[0], figure.axes[1]
    np.testing.assert_allclose(image.images[0].get_array(), display.window(stored["FLAIR_image"][0]))
    np.testing.assert_allclose(overlaid.images[1].get_array(), stored["FLAIR_saliency"][0])
    # 8 x 8 pixels over 160 x 240 mm: a row is 20 mm and a column 30 mm.
    assert image.get_aspect() == overlaid.get_aspect() == pytest.approx(20 / 30)
    assert [text.get_text() for text in image.texts] == ["A", "P"]


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_draws_and_says_what_is_missing_and_ends_well(work, run_module, tmp_path):
    done = run_module("experiments.figures", "--only", "12", "13", "--runs", tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert "Fig. 12  Training and validation process: figure_12.svg, figure_12.png" in done.stdout
    assert f"python -m experiments.mgmt_grid --runs {tmp_path / 'none'}" in done.stdout
    assert not (tmp_path / "phantoms").exists()
    for arguments, message in (
        (("--only", "19"), "expected figures from 1 to 18"),
        (("--data", "nowhere"), "nowhere: expected a folder of scans"),
    ):
        done = run_module("experiments.figures", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert message in done.stderr


def test_importing_the_figures_loads_no_framework():
    frameworks = {"torch", "tensorflow", "keras", "jax", "monai", "lightning"}
    program = f"import sys, experiments.figures.__main__; print(sorted(set(sys.modules) & {frameworks}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_embedded_cohort_is_marked_in_figure_and_caption(work, monkeypatch):
    monkeypatch.setattr("experiments.figures.sources.phantom_cohort", lambda folder, jobs: work / "cohort")
    drawing = scans.mri_and_mask(sources(work, data=None, mgmt_data=None))
    assert drawing.synthetic
    assert "A synthetic patient" in drawing.caption
    assert drawing.figure.get_suptitle() == "Synthetic phantoms. BraTS_000"


@pytest.mark.parametrize(("lacking", "cohort"), [("data", "cohort"), ("mgmt_data", "patients")])
def test_phantoms_are_not_shown_beside_the_other_tasks_patients(work, lacking, cohort):
    with pytest.raises(MissingError, match=f"no --{lacking.replace('_', '-')} given"):
        getattr(sources(work, **{lacking: None}), cohort)


def test_the_command_is_that_of_run_all_where_it_was_tried(work, tmp_path):
    """Without the preset it would train something else."""
    (tmp_path / "run_all").mkdir()
    words = "python -m experiments.unet3d --preset demo"
    tried = {"experiment": "unet3d", "command": words, "reason": "", "seconds": 1}
    untried = tried | {"experiment": "unet25d", "state": "not run"}
    (tmp_path / "run_all" / "status.json").write_text(json.dumps([tried | {"state": "failed"}, untried]))
    for experiment, wanted in (
        ("unet3d", words),
        ("unet25d", f"python -m experiments.unet25d --data {work / 'cohort'} --runs {tmp_path}"),
    ):
        with pytest.raises(MissingError) as caught:
            sources(work, runs=tmp_path).run(experiment)
        assert caught.value.command == wanted

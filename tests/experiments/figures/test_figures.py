"""The report's figures: brains the right way round and true to scale, counts that are right, and nothing left out."""

import itertools
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from common.cohort import find_subjects
from common.scoring import score_case
from experiments.base import results
from experiments.drawing import scans as drawn_scans
from experiments.drawing import style
from experiments.figures import __main__ as command
from experiments.figures import classification, curves, numbered, scans, segmentation, series
from experiments.figures.sources import MissingError, Sources
from experiments.segmentation import label_size
from mgmt_classifier.config import Config
from tests.cohorts import write_cohort
from tests.common.dicom.dicom_files import AXIAL, SAGITTAL, write_series
from tests.experiments.conftest import ROOT, environment

# Voxels (x, y, z) of a grid whose axes run to the patient's left, back and head.


# --- which way round, and how large -----------------------------------------------------------------------------------


# --- counts -----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("number", list(numbered.FIGURES))
def test_no_text_leaves_its_figure_and_synthetic_data_are_named_on_it(work, number):
    drawing = numbered.FIGURES[number][1](sources(work))
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
        numbered.FIGURES[number][1](sources(work, runs=runs))
    assert caught.value.command.startswith(f"python -m experiments.{file.partition('/')[0]} --data ")
    assert caught.value.command.endswith(" --fresh")


def test_scans_that_have_changed_or_gone_are_not_shown_under_another_s_prediction(work, tmp_path):
    moved = shutil.copytree(work / "cohort", tmp_path / "cohort")
    runs = shutil.copytree(work / "runs", tmp_path / "runs")
    data = json.loads((runs / "unet3d" / "demo-x" / "data.json").read_text())
    (runs / "unet3d" / "demo-x" / "data.json").write_text(json.dumps(data | {"folder": str(tmp_path / "gone")}))
    show = numbered.FIGURES[7][1]
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
    assert "1 patient before it has" in series.t1wce_images(opened).caption
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
    shown = series.Shown(rng.uniform(1, 9, (11, 6, 8)), drawn_scans.View((1.0, 1.0), "PL"), "axial")
    figure = series.draw_all(shown, "", marks={"central": 5, "tumour": 9}, synthetic=False)
    axis = figure.axes[0]
    table = np.asarray(axis.images[0].get_array())
    across = table.shape[1] // 8
    for image, grey in enumerate(drawn_scans.window(shown.images)):
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
    np.testing.assert_allclose(image.images[0].get_array(), drawn_scans.window(stored["FLAIR_image"][0]))
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
    modules = "sys, experiments.figures.__main__, experiments.figures.numbered"
    program = f"import {modules}; print(sorted(set(sys.modules) & {frameworks}))"
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

import io
import re
import sys
from base64 import b64decode
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from common.files import write_json, write_text
from common.labels import CLASSES
from common.subject import Subject
from experiments import report
from experiments.base.results import Result, reported
from experiments.drawing.curves import CLASS_COLOURS
from experiments.page import content, pictures, reading, rows, runs, settings, slices, tables, viewer
from tests.experiments.conftest import ROOT
from tests.experiments.report_runs import everything, write_picture, write_predictions, write_run

ALL = [(experiment, name) for experiment, entries in reported().items() for name in entries]


class Page(HTMLParser):
    """Tables of a page by caption (rows of cells' text), its text, and every address that it would load."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.rows, self.text, self.addresses = {}, [], [], []
        self.caption, self.in_cell = None, False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href", "data", "poster") if attributes.get(name)]
        if tag == "table":
            self.rows = []
        elif tag == "caption":
            self.caption = ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag == "caption":
            self.tables[self.caption.strip()], self.caption = self.rows, None
        elif tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        self.text.append(data)
        if self.caption is not None:
            self.caption += data
        elif self.in_cell:
            self.rows[-1][-1] += data

    def results(self, experiment):
        """Name -> cells of the table beside the report; the place and note are part of the first cell."""
        table = next((t for caption, t in self.tables.items() if caption.startswith(f"{experiment}: the report")), [])
        said = reported()[experiment].items()
        return {name: row for row in table[1:] for name, entry in said if row[0].startswith(name + entry.place)}


def page_of(runs_folder, figures=Path("no figures")):
    found = content.gather(runs_folder, figures)
    return report.page(found, viewer.viewers(runs_folder), made=datetime(2026, 3, 4, 5, 6, tzinfo=UTC))


def printed(value):
    """As the report prints it: at most three decimals."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def result(reported=None, value=0.5, low=None, high=None, *, synthetic=False, key="e.r", n=9):
    return Result(key, reported, value, low, high, n, synthetic)


# The verdict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "relation", "text"),
    [
        (result(0.5, 0.6, 0.5, 0.7), "inside", "the report's value lies inside our interval"),
        (result(0.7, 0.6, 0.5, 0.7), "inside", "the report's value lies inside our interval"),
        (result(0.71, 0.6, 0.5, 0.7), "above", "the report's value lies above our interval"),
        (result(0.49, 0.6, 0.5, 0.7), "below", "the report's value lies below our interval"),
        (result(1, 0.6, 0.5, 0.7), "above", "the report's value lies above our interval"),
        (result(0.5, 0.6), None, "one number, no interval"),
        (result(0.5, "failed: out of memory", n=0), None, "no number in this run"),
        (result(0.5, None), None, "no number in this run"),
        (result("better", 0.6, 0.5, 0.7), None, "a word: to be read side by side"),
        (result("better", "worse"), None, "a word: to be read side by side"),
        (result(0.5, 0.6, synthetic=True), None, "synthetic: not a test of the report's value"),
        (
            result(0.8, 0.6, 0.5, 0.7, synthetic=True),
            "above",
            "synthetic: not a test of the report's value, which lies above our interval",
        ),
    ],
)
def test_the_verdict_follows_the_rule(found, relation, text):
    assert rows.judge(found) == rows.Verdict(relation, text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[(None, "–"), (0.0, "0.000"), (9.999e-05, "1e-04"), (-0.0002, "-2e-04"), (0.0007, "0.001"), (0.6, "0.600")],
        *[(19.876, "19.876"), (150.25, "150.25"), (79, "79"), ("none", "none")],
    ],
)
def test_small_numbers_are_not_shown_as_zero(value, shown):
    assert rows.number(value) == shown


def test_the_reports_own_file_decides_what_is_reported():
    (row, *_), _ = rows.rows("table2_final", [result(0.1, 0.8, 0.7, 0.9, key="table2_final.mean_dice")], "command")
    assert row.reported == reported()["table2_final"]["mean_dice"].value
    assert row.verdict.relation == "inside"


# The page -------------------------------------------------------------------------------------------------------------


def test_without_any_run_every_result_of_the_report_is_there_with_its_command(tmp_path):
    html = page_of(tmp_path / "none")
    page = Page(html)
    assert len(ALL) > 100
    for experiment, name in ALL:
        row = page.results(experiment)[name]
        assert row[1] == printed(reported()[experiment][name].value)
        assert row[2:5] == ["–", "–", "–"]
        assert row[5] == f"not reproduced: python -m experiments.{experiment}"
    text = " ".join(page.text)
    assert "Nothing has been run yet" in text
    assert "Synthetic data" not in text


@pytest.mark.parametrize("synthetic", [True, False])
def test_with_every_run_every_result_stands_beside_the_reports(tmp_path, synthetic):
    for experiment in reported():
        write_run(tmp_path, experiment, everything(experiment, synthetic=synthetic))
    page = Page(page_of(tmp_path))
    for experiment, name in ALL:
        row = page.results(experiment)[name]
        value = reported()[experiment][name].value
        assert row[1] == printed(value)
        assert row[2] == ("a word" if isinstance(value, str) else rows.number(value + 0.01))
        assert row[4] == "5"
        assert ("synthetic" in row[5]) == synthetic
    assert ("Synthetic data." in page.text) == synthetic


def test_real_and_synthetic_runs_on_one_page_are_told_apart(tmp_path):
    write_run(tmp_path, "unet3d", everything("unet3d", synthetic=True))
    write_run(tmp_path, "table2_final", everything("table2_final", synthetic=False))
    page = Page(page_of(tmp_path))
    states = {row[0]: row[2:] for row in page.tables["Experiments and what became of them"][1:]}
    assert (states["unet3d"], states["table2_final"]) == (["finished", "synthetic"], ["finished", "real"])
    assert states["unet25d"] == ["not run", "–"]
    assert "Some of the data is synthetic." in page.text


def test_results_without_a_reported_value_and_runs_that_the_report_does_not_have_are_shown(tmp_path):
    write_run(tmp_path, "mgmt_ensemble_nested", [result(key="mgmt_ensemble_nested.shuffled_labels__auc", value=0.52)])
    page = Page(page_of(tmp_path))
    (row,) = page.tables["mgmt_ensemble_nested: further results"][1:]
    assert row == ["shuffled_labels__auc", "0.520", "–", "9"]
    assert any("experiments.mgmt_ensemble_nested --max-subjects 6" in text for text in page.text)


def test_data_split_and_who_was_left_out_are_said(tmp_path):
    data = {"folder": "scans", "layout": "MSD", "synthetic": False, "left_out": ["A: no mask", "B: empty"]}
    data |= {"excluded": {"minimum_mask_fraction": 0.01, "labelled_fraction": {"C": 0.002}}}
    config = {"options": {"preset": "paper", "empty_masks": "ignore"}, "model": {}}
    write_run(tmp_path, "unet3d", everything("unet3d", synthetic=False), data=data, config=config)
    said = " ".join(content.experiment(tmp_path, "unet3d", None).data)
    assert said == (
        "Data: real patients in scans (MSD); preset paper. Split: 3 training, 1 validation, 2 test patients. "
        "2 left out because they cannot be used: A: no mask; B: empty. "
        "1 excluded before the split with less than 1 % labelled: C. Empty masks are scored by the policy “ignore”."
    )


def test_what_comes_from_files_cannot_become_markup(tmp_path):
    evil = "<script>alert('&')</script>"
    write_run(
        tmp_path,
        "mgmt_ensemble",
        [result(key=f"mgmt_ensemble.{evil}"), result(key="mgmt_ensemble.FLAIR__auc", value=evil)],
        data={"folder": evil, "synthetic": False, "left_out": [evil]},
        environment=[{"command": [evil], "processor": evil}],
        config={"model": {"flair": {"images": evil}}},
    )
    write_text(tmp_path / "mgmt_ensemble" / "demo" / "verdicts.txt", f"p < 0.05 & {evil}\n")
    write_picture(tmp_path / "mgmt_ensemble" / "demo" / "figures" / "a<b&c.png")
    html = page_of(tmp_path)
    assert "<script" not in html
    # Further result, value, folder, left out, setting, verdict, processor.
    assert html.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") == 7
    assert "a&lt;b&amp;c" in html


def test_the_page_loads_nothing(tmp_path):
    write_picture(write_run(tmp_path, "unet3d", everything("unet3d")) / "figures" / "overlays.png")
    addresses = Page(page_of(tmp_path)).addresses
    assert any(address.startswith("data:image/png;base64,") for address in addresses)
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    assert len([a for a in addresses if a.startswith("#")]) > len(reported())


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['[{"key": "a', '[{"key": "e.a"}]', '{"a": 1}', "[1]", "null"])
def test_a_damaged_summary_is_a_failure_with_its_reason(tmp_path, text):
    write_text(write_run(tmp_path, "unet3d", []) / "summary.json", text)
    found = runs.find(tmp_path, "unet3d", None)
    assert found.state == "failed"
    assert "summary.json: expected a list of results" in found.reason
    row = Page(page_of(tmp_path)).results("unet3d")["mean_dice"]
    assert row[5].startswith("not reproduced: ")


@pytest.mark.parametrize("file", ["data", "split", "config", "environment"])
def test_another_damaged_file_is_named_and_the_results_stay(tmp_path, file):
    folder = write_run(tmp_path, "unet3d", everything("unet3d"))
    write_text(folder / f"{file}.json", "[{")
    page = Page(page_of(tmp_path))
    assert any(f"{file}.json: expected a" in text for text in page.text)
    assert page.results("unet3d")["mean_dice"][2] == "0.819"


def test_states_of_failed_stopped_and_repeated_runs(tmp_path):
    def attempt(state, reason=""):
        return {"experiment": "unet3d", "command": "", "state": state, "reason": reason, "seconds": 1.0}

    assert runs.find(tmp_path, "unet3d", None) == runs.Found("not run")
    write_text(tmp_path / "unet3d" / "stopped" / "run.lock", "")
    assert runs.find(tmp_path, "unet3d", None).state == "not finished"
    failed = runs.find(tmp_path, "unet3d", attempt("failed", "out of memory"))
    assert (failed.state, failed.reason) == ("failed", "out of memory")
    write_run(tmp_path, "unet3d", everything("unet3d"))
    found = runs.find(tmp_path, "unet3d", attempt("failed", "no space left"))
    assert found.state == "finished"
    assert found.also == ("1 more in the same folder did not finish", "a later attempt failed: no space left")
    assert runs.find(tmp_path, "unet3d", attempt("finished")).also == found.also[:1]


def test_what_run_all_says_is_shown_with_reason_and_seconds(tmp_path):
    status = {"experiment": "unet3d", "command": "python -m x <y>", "state": "failed", "reason": "no TensorFlow"}
    write_json(tmp_path / "run_all" / "status.json", [status | {"seconds": 12.4}])
    page = Page(page_of(tmp_path))
    (row,) = next(table for caption, table in page.tables.items() if "experiments.run_all" in caption)[1:]
    assert row == ["unet3d", "failed", "12", "no TensorFlow", "python -m x <y>"]
    write_json(tmp_path / "run_all" / "status.json", [{"state": "failed"}])
    attempts, wrong = runs.attempts(tmp_path)
    assert attempts == {}
    assert "status.json: expected experiment, command, state, reason, seconds" in wrong
    assert any(wrong in text for text in Page(page_of(tmp_path)).text)


def test_of_several_finished_runs_the_last_is_shown_and_the_others_are_counted(tmp_path):
    import os

    write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.1)], name="old")
    new = write_run(tmp_path, "unet3d", [result(key="unet3d.mean_dice", value=0.2)], name="new")
    os.utime(tmp_path / "unet3d" / "old" / "summary.json", (1, 1))
    found = runs.find(tmp_path, "unet3d", None)
    assert found.folder == new
    assert found.also == ("1 more finished earlier in the same folder",)


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_stand_beside_the_runs_own_fields_of_the_same_name():
    model = {"flair": {"images": 31}, "t1w": {"images": 7}, "flair_weight": 0.75, "keep": "best"}
    own = {setting.name: setting.ours for setting in settings.settings("mgmt_ensemble", model, (70, 15, 15))}
    assert (own["FLAIR__images"], own["T1w__images"]) == ("31", "7")
    assert own["split"] == own["submission__split"] == "70 / 15 / 15 patients"
    assert own["threshold_rule"] is None
    assert list(own) == list(reported("settings")["mgmt_ensemble"])
    models = {"central": {"contrast": "FLAIR", "percentile": 99.9}, "tumour": {"contrast": "T1w", "percentile": 99.9}}
    own = {setting.name: setting.ours for setting in settings.settings("mgmt_slice_choice", models, ())}
    assert own == {"contrast": "central: FLAIR; tumour: T1w", "percentile": "99.9", "test_fraction": None}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[([[24, 216], [13, 141]], "[24, 216], [13, 141]"), ([0.6, 0.2], "0.6, 0.2"), (True, "yes"), (False, "no")],
        *[(None, "none"), (1e-4, "0.0001"), (30, "30"), ("Adam", "Adam")],
    ],
)
def test_settings_are_readable(value, shown):
    assert settings.text(value) == shown


# Figures --------------------------------------------------------------------------------------------------------------


def figure(number, **changes):
    entry = {"number": number, "title": f"Title {number}", "caption": "A caption.", "state": "drawn", "reason": ""}
    return entry | {"command": "", "synthetic": True, "files": []} | changes


def test_figures_are_in_the_page_and_missing_ones_say_why(tmp_path):
    write_text(tmp_path / "1.svg", "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>")
    write_text(tmp_path / "3.svg", "<svg>" + "x" * pictures.MOST_SVG_BYTES)
    for number in (1, 3):
        write_picture(tmp_path / f"{number}.png")
    entries = [
        figure(1, files=["1.svg", "1.png"]),
        figure(2, state="missing", reason="no run <yet>", command="python -m experiments.unet3d"),
        figure(3, files=["3.svg", "3.png"]),
        figure(4, files=["gone.svg", "gone.png"]),
        figure(5, files=[]),
    ]
    write_json(tmp_path / "figures.json", entries)
    found, wrong = pictures.of_report(tmp_path)
    assert wrong == ""
    first, second, third, fourth, fifth = found
    assert first.picture.address.startswith("data:image/svg+xml;base64,")
    assert b64decode(first.picture.address.partition(",")[2]) == (tmp_path / "1.svg").read_bytes()
    assert third.picture.address.startswith("data:image/png;base64,")
    assert (second.picture, second.reason) == (None, "no run <yet>")
    assert "gone.svg" in fourth.reason
    assert "found no file" in fifth.reason
    html = page_of(tmp_path / "none", tmp_path)
    assert html.count('alt="Figure ') == 2
    assert "no run &lt;yet&gt;; <code>python -m experiments.unet3d</code> makes it" in html


@pytest.mark.parametrize("text", ["{", "{}", "[{}]", "[1]"])
def test_a_damaged_list_of_figures_is_named(tmp_path, text):
    write_text(tmp_path / "figures.json", text)
    found, wrong = pictures.of_report(tmp_path)
    assert found == []
    assert "figures.json: expected" in wrong
    assert any(wrong in part for part in Page(page_of(tmp_path / "none", tmp_path)).text)


# Slice viewer ---------------------------------------------------------------------------------------------------------


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


# Statistics, reading --------------------------------------------------------------------------------------------------


def test_the_error_of_a_guessed_auc_is_that_of_simulated_guesses():
    rng = np.random.default_rng(0)
    guesses = rng.random((20_000, 70))
    wins = (guesses[:, :35, None] > guesses[:, None, 35:]).mean(axis=(1, 2))
    assert content.chance_error(70) == pytest.approx(wins.std(), rel=0.03)
    assert f"{content.chance_error(70):.2f}" == "0.07"


def test_the_documentation_is_made_from_the_same_file_as_the_page(tmp_path):
    read = reading.read()
    assert (ROOT / "docs" / "reading-the-report.md").read_text(encoding="utf-8") == reading.markdown(read)
    page = Page(page_of(tmp_path))
    for caption, entries, columns in (
        ("Where the report contradicts itself", read.contradictions, ("says", "why", "does")),
        ("What the report does not say", read.open, ("what", "takes", "field")),
    ):
        table = next(table for name, table in page.tables.items() if name.startswith(caption))[1:]
        shown = [[" ".join(cell.split()) for cell in row] for row in table]
        wanted = [[(entry[column] or "–").replace("`", "") for column in columns] for entry in entries]
        assert shown == wanted
    assert len(read.contradictions) >= 14


@pytest.mark.parametrize(
    "words",
    [
        *["0.846 to 0.855", "Dice NCR, HD TC and HD WT", "two promising variations", "73 : 15 : 12", "[24:216]"],
        *["0.694", "average 0.73", "T1wCE", "validation and test", "12 GB", "0.543", "322"],
    ],
)
def test_each_contradiction_of_the_report_is_told(words):
    assert any(words in entry["says"] for entry in reading.read().contradictions)


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_runs(tmp_path):
    write_run(
        tmp_path,
        "table2_final",
        [
            result(key="table2_final.mean_dice", value=0.123456789, low=0.1, high=0.2, synthetic=True, n=7),
            result(key="table2_final.small_labels", value='50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'),
            result(key="table2_final.test.hd_TC", value=None, n=0),
        ],
    )
    return content.gather(tmp_path, tmp_path)


def test_csv_has_every_digit_and_every_result(tmp_path, two_runs):
    written = tables.write(two_runs, tmp_path / "out", "csv")
    assert [path.name for path in written] == [f"{name}.csv" for name in reported()]
    frame = pd.read_csv(tmp_path / "out" / "tables" / "table2_final.csv").set_index("result")
    assert list(frame.index) == [*reported()["table2_final"], "test.hd_TC"]
    mean = frame.loc["mean_dice"]
    assert (float(mean["reported"]), float(mean["value"]), mean["low"], mean["n"]) == (0.809, 0.123456789, 0.1, 7)
    assert str(mean["synthetic"]) == "True"
    assert mean["verdict"] == "synthetic: not a test of the report's value, which lies above our interval"
    assert frame.loc["small_labels", "value"] == '50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'
    assert frame.loc["dice_NCR", ["value", "low", "n"]].isna().all()
    assert frame.loc["dice_NCR", "verdict"] == "not reproduced: python -m experiments.table2_final --max-subjects 6"


def test_latex_escapes_what_it_would_read_otherwise(tmp_path, two_runs):
    tables.write(two_runs, tmp_path, "latex")
    text = (tmp_path / "tables" / "table2_final.tex").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(r"small\_")]
    cells = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))
    assert cells == [
        r"small\_\allowbreak{}labels",
        "sometimes missed entirely",
        r"50\% of \textquotedbl{}x\_\allowbreak{}y\textquotedbl{} \& \#1 \{a\textbar{}b\} \textbackslash{} "
        r"\textasciitilde{} \textasciicircum{} \$1 \textless{}2\textgreater{}",
        *["--", "9", "a word: to be read side by side"],
    ]
    assert r"95 \% interval" in text
    assert r"\begin{longtable}{p{0.20\linewidth}p{0.10\linewidth}p{0.14\linewidth}rrp{0.14\linewidth}}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") + 1 == 2
    assert text.count(r"\end{longtable}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "_" in line and "caption" not in line]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 5 for line in body)
    assert text.isascii()


def test_markdown_has_one_cell_for_each_column_whatever_is_in_it(tmp_path, two_runs):
    tables.write(two_runs, tmp_path, "md")
    lines = (tmp_path / "tables" / "table2_final.md").read_text(encoding="utf-8").splitlines()
    table = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines if line.startswith("|")]
    assert {len(cells) for cells in table} == {6}
    assert len(table) == 2 + len(reported()["table2_final"]) + 1
    (row,) = [cells for cells in table if cells[0].strip() == r"small\_labels"]
    assert re.sub(r"\\([\\`*_\[\]<>|])", r"\1", row[2].strip()) == '50% of "x_y" & #1 {a|b} \\ ~ ^ $1 <2>'


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "made"), [("html", "index.html"), ("csv", "tables/unet3d.csv"), ("latex", "tables/unet3d.tex")]
)
def test_the_command_writes_what_is_asked_for_without_any_run(tmp_path, monkeypatch, capsys, kind, made):
    arguments = ["--runs", tmp_path / "runs", "--figures", tmp_path / "figures", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--format", kind])
    report.main()
    assert (tmp_path / "out" / made).is_file()
    assert f"0 of {len(reported())} experiments finished" in capsys.readouterr().out

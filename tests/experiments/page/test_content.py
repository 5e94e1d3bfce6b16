"""The written report's page: every result of the report stands on it, with what became of it."""

import io
from base64 import b64decode
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from matplotlib.image import imsave

from common.files import plain, write_json, write_text
from experiments.base import runs
from experiments.base.results import reported
from experiments.page import cases, content, facts, pictures, reading, rows, tables
from experiments.page.headlines import NAMED, headline
from experiments.table1_baseline import PAPER
from tests.experiments.conftest import ROOT
from tests.experiments.page.report_runs import everything, page_of, result, write_picture, write_predictions, write_run

HEADLINES = "Each experiment's headline: reported and ours"
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


def printed(value):
    """As the report prints it: at most three decimals."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# The verdict ----------------------------------------------------------------------------------------------------------


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
    first = {row[0].split("mean Dice")[0]: row for row in page.tables[HEADLINES][1:]}
    assert first.keys() == {"unet3d", "table2_final"}
    assert ["synthetic" in first[name][0] for name in ("unet3d", "table2_final")] == [True, False]
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


def test_what_is_odd_in_scans_and_label_maps_is_said_with_the_data(tmp_path):
    data = {
        "folder": "scans",
        "layout": "MSD",
        "exchanged": {"A": ["T1 looks odd"], "B": ["T1 looks odd"]},
        "mismatch": {"B": ["its mask is another's"]},
        "subjects": dict.fromkeys("ABC", "digest"),
        "notes": ["no"],
    }
    write_run(tmp_path, "unet3d", everything("unet3d", synthetic=False), data=data)
    said = content.experiment(tmp_path, "unet3d", None).data
    assert "Note: T1 looks odd: 2 of 3 subjects (A, B)." in said
    assert "Note: its mask is another's: 1 of 3 subjects (B)." in said
    assert not any("Note: no." in each for each in said)
    folder = write_run(tmp_path, "cohort", everything("cohort", synthetic=False), data={"folder": "scans"})
    write_json(folder / "notes.json", ["seen by the audit"])
    assert "Note: seen by the audit." in content.experiment(tmp_path, "cohort", None).data
    of_methods = {"folder": "scans", "notes": ["a holds the truth"], "methods": {"a": {}}}
    write_run(tmp_path, "score", [result(key="score.a__mean_dice")], data=of_methods)
    assert "Note: a holds the truth." in content.experiment(tmp_path, "score", None).data


def test_who_is_in_no_part_of_the_users_split_is_not_nobody(tmp_path):
    data = {"folder": "scans", "layout": "MSD", "without_part": ["D"]}
    write_run(tmp_path, "unet3d", everything("unet3d", synthetic=False), data=data)
    said = " ".join(content.experiment(tmp_path, "unet3d", None).data)
    assert "1 in no part, having no row in the file of the split: D." in said
    assert "Nobody" not in said


def test_of_compared_methods_the_headline_is_their_difference():
    named = [
        result(key=f"score.{name}", value=0.5, low=0.4, high=0.6) for name in ("a__mean_dice", "b__minus_a__dice_WT")
    ]
    beside, further = rows.rows("score", named, "")
    assert headline("score", [*beside, *further]).measure == "mean Dice of a"
    beside, further = rows.rows("score", [*named, result(key="score.b__minus_a__mean_dice", value=0.1)], "")
    assert headline("score", [*beside, *further]).measure == "mean Dice, b minus a"
    another = [result(key=f"score.{pair}__mean_dice", value=0.1) for pair in ("b__minus_a", "c__minus_a")]
    assert headline("score", rows.rows("score", another, "")[1]).measure == "mean Dice, b minus a, the first of 2 pairs"


def test_pictures_of_methods_and_models_have_their_kinds_captions(tmp_path):
    for name in ("lesions_ours", "history_FLAIR", "mine_own"):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"")
    captions = [picture.caption for picture in pictures.of_run(tmp_path, tmp_path)]
    assert captions == [pictures.KNOWN["history_FLAIR"], f"ours: {pictures.KNOWN['lesions']}", "mine own"]


def test_what_stands_behind_a_table_and_who_was_tested_is_said(tmp_path):
    options = {"preset": "demo", "split_seed": 3, "changed": ["epochs=2"]}
    config = {"options": options, "model": plain(asdict(replace(PAPER, epochs=2, seed=1)))}
    epochs = result(key="table1_baseline.weights_epoch", value=40, n=45)  # of so many epochs, not patients
    write_run(tmp_path, "table1_baseline", [epochs, *everything("table1_baseline")], config=config)
    presets = {"table1_baseline": PAPER}
    found = {each.name: each for each in content.gather(tmp_path, tmp_path, presets).experiments}["table1_baseline"]
    assert found.basis == (
        "Preset demo, 5 synthetic patients; settings other than the preset's: epochs=2, split_seed=3; other than the "
        "report's preset's: 2"
    )
    html = page_of(tmp_path, presets=presets)
    page = Page(html)
    rows = page.tables["table1_baseline: every setting that is not the report's preset's"]
    assert rows[1:] == [["epochs", "300", "2"], ["seed", "0", "1"]]
    assert found.basis in " ".join(page.text)
    (headline,) = [row[0] for row in page.tables[HEADLINES] if row[0].startswith("table1_baseline")]
    assert "; preset demo but epochs=2, split_seed=3" in headline
    assert "2 test patients, and seeds" in html
    assert '<p class="small">e, f</p>' in html
    for kind in ("csv", "latex", "md"):
        (path,) = [
            path for path in tables.write(content.gather(tmp_path, tmp_path), tmp_path, kind) if "1_base" in path.name
        ]
        assert "Preset demo, 5 synthetic patients; settings other than the preset" in path.read_text()


def test_of_compared_methods_the_page_says_what_made_them_and_who_took_no_part(tmp_path):
    methods = {"ours": {"training": "a run of the suite"}, "theirs": {"training": "its training is not known"}}
    data = {"folder": "x", "synthetic": False, "left_out": [], "methods": methods, "seen": ["c", "d"]}
    split = {"train": [], "validation": [], "test": ["a", "b"]}
    write_run(tmp_path, "score", [result(key="score.ours__mean_dice")], data=data, split=split)
    found = {each.name: each for each in content.gather(tmp_path, tmp_path).experiments}["score"]
    said = " ".join(found.data)
    assert "ours: a run of the suite. theirs: its training is not known." in said
    assert "2 patients take no part, for a network compared here has seen them: c, d." in said
    assert "Cases compared: 2." in said
    assert "Nobody was left out" not in said


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
    assert any(f"{file}.json: expected JSON" in text for text in page.text)
    assert page.results("unet3d")["mean_dice"][2] == "0.819"


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


def test_the_headline_is_the_result_that_says_most_and_what_was_not_run_folds_into_one_line(tmp_path):
    write_run(tmp_path, "table2_final", everything("table2_final", synthetic=False))
    further = [result(key="another.epoch", value=3), result(key="another.dice", value=0.4, low=0.3, high=0.6)]
    write_run(tmp_path, "another", further)
    write_text(write_run(tmp_path, "cohort", []) / "summary.json", "[")
    page = Page(page_of(tmp_path))
    first, second, third = page.tables[HEADLINES][1:]
    assert [row[0].split()[0] for row in (first, second, third)] == [
        "cohortshare",
        "table2_finalmean",
        "anotherdice;",
    ]
    assert first[1:] == ["0.980", "–", "–", "–", "not reproduced: python -m experiments.cohort --max-subjects 6"]
    assert second[1:] == ["0.809", "0.819", "0.709 to 0.909", "5", "the report's value lies inside our interval"]
    assert third[1:] == ["–", "0.400", "0.300 to 0.600", "9", "not in the report: stands beside it"]
    text = " ".join(" ".join(page.text).split())
    names = [*(name for name in reported() if name not in ("table2_final", "cohort")), "beyond"]
    assert f"{len(names)} not run: {', '.join(names)}" in text


def test_every_headline_that_is_named_is_a_result_of_its_experiment():
    known = {name: set(entries) for name, entries in reported().items()} | {"beyond": {"mean_dice"}}
    assert len(NAMED) > 10
    assert all(name in known[experiment] for experiment, (name, _) in NAMED.items())


def test_a_fine_tuned_run_is_shown_as_one(tmp_path):
    config = {"options": {}, "model": {}, "start": {"run": "runs/unet3d/a", "digest": "0123", "new_outputs": False}}
    write_run(tmp_path, "unet3d", everything("unet3d"), config=config)
    page = Page(page_of(tmp_path))
    (row,) = page.tables[HEADLINES][1:]
    assert "fine-tuned" in row[0]
    assert "(finished; fine-tuned, not" in tables.markdown(content.experiment(tmp_path, "unet3d", None))
    assert any("started from the weights of runs/unet3d/a (weights 0123)" in text for text in page.text)


def test_learning_curves_and_lesions_are_seen_at_once_and_the_rest_is_folded(tmp_path):
    folder = write_run(tmp_path, "table2_final", everything("table2_final"))
    write_text(folder / "seed0" / "test" / "cases.csv", "")
    for name in ("figures/label_size", "seed0/figures/history", "seed0/test/figures/overlays"):
        write_picture(folder / f"{name}.png")
    found = content.experiment(tmp_path, "table2_final", None)
    assert [(picture.caption.split()[0], picture.first) for picture in found.pictures] == [
        *[("Label", True), ("Learning", True), ("Scans,", False)]
    ]
    html = page_of(tmp_path)
    assert "1 picture of this run" in html
    assert html.count("<img ") == 3


def test_cases_are_drawn_and_what_is_wrong_with_their_table_is_said(tmp_path, cohort):
    folder = write_predictions(tmp_path, cohort)
    assert len(content.experiment(tmp_path, "table1_baseline", None).cases) == 2
    write_text(folder / "cases.csv", "case,view,dice_WT\na,,0.5\n")
    found = content.experiment(tmp_path, "table1_baseline", None)
    assert (found.found.state, found.cases) == ("finished", [])
    assert any("cases.csv: expected a row of scores per case" in problem for problem in found.problems)


# Settings -------------------------------------------------------------------------------------------------------------


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


def test_a_large_png_is_shown_smaller(tmp_path):
    noise = np.random.default_rng(3).random((500, 2000))
    imsave(tmp_path / "a.png", noise)
    address = pictures.data_address(tmp_path / "a.png")
    shown = PIL.Image.open(io.BytesIO(b64decode(address.partition(",")[2])))
    assert (shown.format, shown.size) == ("WEBP", (pictures.WIDEST, 400))
    assert len(address) < (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize("text", ["{", "{}", "[{}]", "[1]"])
def test_a_damaged_list_of_figures_is_named(tmp_path, text):
    write_text(tmp_path / "figures.json", text)
    found, wrong = pictures.of_report(tmp_path)
    assert found == []
    assert "figures.json: expected" in wrong
    assert any(wrong in part for part in Page(page_of(tmp_path / "none", tmp_path)).text)


# Slice viewer ---------------------------------------------------------------------------------------------------------


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


# The command ----------------------------------------------------------------------------------------------------------


def test_scores_of_several_methods_are_not_taken_for_a_networks_cases(tmp_path):
    (tmp_path / "cases.csv").write_text("case,method,dice_WT\na,ours,0.5\na,theirs,0.4\n")
    found = runs.Found("finished", folder=tmp_path)
    assert cases.of_run("score", found) == ([], "")
    assert "view" in cases.of_run("table1_baseline", found)[1]


def test_commands_can_be_pasted():
    start = {"command": ["unet3d.py", "--data", "/data/Daten für Müller", "--preset", "demo"]}
    assert facts.command(start) == "python -m experiments.unet3d --data '/data/Daten für Müller' --preset demo"

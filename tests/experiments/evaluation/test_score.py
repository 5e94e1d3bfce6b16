"""Any method's label maps on one cohort: the numbers, what is told apart, what is refused, what a kill leaves."""

import itertools
import json
import shutil
from collections import Counter
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

from benchmarks.lesions import plain
from common.cohort import find_subjects
from common.files import read_json
from common.identity import contents
from common.labels import BRATS_2018, BRATS_2023, MSD
from common.patient import SEEN_NOTE
from common.runs import RunError
from common.summary import summarise
from experiments.base.options import Refused
from experiments.evaluation import evaluate as module
from experiments.evaluation import inputs, label_maps, pictures, scoring
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.inputs import ScoreOptions
from experiments.evaluation.ranking import RANKED, ranking
from experiments.evaluation.summary import swaps
from experiments.evaluation.tables import signed
from tests.cohorts import write_cohort, write_subject
from tests.columns import columns, documented
from tests.layouts import write_2023

N = 4
NNUNET = {"background": 0, "ED": 1, "NCR": 2, "ET": 3}


def eroded(truth):
    return truth * ndimage.binary_erosion(truth > 0).astype(np.uint8)


def noisy(truth, seed):
    """Shifted, with specks and without some of its ET."""
    rng = np.random.default_rng(seed)
    found = np.roll(truth, (1, 0, -1), (0, 1, 2))
    found[(found == 3) & (rng.random(truth.shape) < 0.3)] = 1
    found[2:5, 3:5, 4:7] = 2
    return found


def write(path, values, like):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, like.affine), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("score") / "cohort", N)


@pytest.fixture(scope="module")
def truths(data):
    return {subject.id: subject.load_labels() for subject in find_subjects(data).subjects}


@pytest.fixture(scope="module")
def sets(data, truths, tmp_path_factory):
    """The truth as BraTS 2018-2021, eroded as nnU-Net's output with its own order, noisy as BraTS 2023, turned."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, (case, truth) in enumerate(truths.items()):
        like = nib.load(data / case / f"{case}_seg.nii.gz")
        write(folder / "truth" / f"{case}_seg.nii.gz", BRATS_2018.from_classes(truth), like)
        write(folder / "nnunet" / f"{case}.nii.gz", MSD.from_classes(eroded(truth)), like)
        write(folder / "other" / case / f"{case}-seg.nii.gz", BRATS_2023.from_classes(noisy(truth, seed)), like)
        file = folder / "other" / case / f"{case}-seg.nii.gz"
        nib.save(nib.load(file).as_reoriented([[1, 1], [0, -1], [2, -1]]), file)
    (folder / "nnunet" / "dataset.json").write_text(json.dumps({"labels": NNUNET}))
    return folder


@pytest.fixture
def options(data, sets, tmp_path, monkeypatch):
    """Options with a runs folder of the test's own; pictures are drawn once, in `finished`."""
    monkeypatch.setattr(module, "_draw", lambda *_: [])
    monkeypatch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))

    def make(**changed):
        given = {
            "data": data,
            "predictions": tuple(f"{name}={sets / name}" for name in ("truth", "nnunet", "other")),
            "convention": ("other=brats2023",),
            "runs": tmp_path / "runs",
            "cores": 1,
        }
        return ScoreOptions(**given | changed)

    return make


@pytest.fixture(scope="module")
def finished(data, sets, tmp_path_factory):
    """Everything that there is, but pictures of one method alone, as they take most of the time."""
    real = pictures.draw_method
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_method", lambda *given, **named: given[1] == "other" and real(*given, **named))
        patch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))
        return evaluate(
            ScoreOptions(
                data=data,
                predictions=tuple(f"{name}={sets / name}" for name in ("truth", "nnunet", "other")),
                convention=("other=brats2023",),
                runs=tmp_path_factory.mktemp("finished") / "runs",
                empty_masks="ignore",
                cores=1,
            )
        )


def values(folder):
    return {line["key"]: line for line in json.loads((folder / "summary.json").read_text())}


# The numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # surface-distance's way to scipy.ndimage
def test_numbers_are_those_of_nnunet_and_of_the_organisers_by_their_definitions(finished, truths):
    found = values(finished)
    made = {
        "truth": truths,
        "nnunet": {case: eroded(truth) for case, truth in truths.items()},
        "other": {case: noisy(truth, seed) for seed, (case, truth) in enumerate(truths.items())},
    }
    regions = {"NCR": (1,), "ED": (2,), "ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
    for method, predictions in made.items():
        for name, members in regions.items():
            dice = []
            for case, truth in truths.items():
                predicted, true = np.isin(predictions[case], members), np.isin(truth, members)
                tp, fp, fn = (predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum()
                dice.append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan)  # nnU-Net's compute_metrics
            assert found[f"score.{method}__dice_{name}"]["value"] == pytest.approx(np.nanmean(dice), abs=1e-12)
        lesions = [plain(predictions[case], truth) for case, truth in truths.items()]
        for name in ("ET", "TC", "WT"):
            dice, hd95 = np.mean([case[name] for case in lesions], axis=0)
            assert found[f"score.{method}__lesion_dice_brats2023_{name}"]["value"] == pytest.approx(dice, abs=1e-9)
            assert found[f"score.{method}__lesion_hd95_brats2023_{name}"]["value"] == pytest.approx(hd95, abs=1e-6)
    assert found["score.truth__lesion_dice_brats2023_WT"]["value"] == 1
    assert 0 < found["score.other__lesion_dice_brats2023_WT"]["value"] < 0.9


def test_differences_are_of_pairs_and_adjusted_together(finished):
    rows = pd.read_csv(finished / "comparisons.csv")
    cases = pd.read_csv(finished / "cases.csv").set_index(["method", "case"])
    assert set(zip(rows["method"], rows["against"], strict=True)) == {
        ("nnunet", "truth"), ("other", "truth"), ("other", "nnunet"),
    }  # fmt: skip
    row = rows.set_index(["method", "against", "metric"]).loc[("other", "nnunet", "dice_TC")]
    difference = (cases.loc["other", "dice_TC"] - cases.loc["nnunet", "dice_TC"]).mean()
    assert row["difference"] == pytest.approx(difference)
    assert row["p_holm"] == min(1, row["p"] * rows["p"].notna().sum())


def test_columns_are_those_that_the_documentation_has(finished):
    for name in ("cases.csv", "scores.csv", "data.json"):
        assert columns(finished / name) <= documented(name)


def test_every_case_lesion_table_and_picture_is_there(finished, capsys):
    assert pd.read_csv(finished / "cases.csv").groupby("method").size().to_dict() == dict.fromkeys(
        ("truth", "nnunet", "other"), N
    )
    lesions = pd.read_csv(finished / "lesions.csv")
    invented = lesions[(lesions["state"] == "invented") & (lesions["definition"] == "brats2023")]
    assert Counter(zip(invented["method"], invented["region"], strict=True))["other", "WT"] == N
    assert {path.name for path in (finished / "figures").iterdir()} >= {
        "cases.png", "label_size_other.png", "lesions_other.png",
    }  # fmt: skip
    page = (finished / "index.html").read_text()
    assert page.count("<iframe") == 3
    assert page.count('<img src="data:image/png') == page.count("<img") == 3
    assert "all 4 cases" in page
    assert "labels of truth, whose mean rank is best" in page
    table = pd.read_csv(finished / "tables" / "dice.csv")
    assert list(table["method"]) == ["truth", "nnunet", "other"]
    assert table["WT"][0] == 1
    text = (finished / "tables" / "dice.tex").read_text()
    assert r"\toprule" in text
    assert r"method & ET & TC & WT & NCR & ED \\" in text
    assert "all 4 cases" in text


# What is told apart, and what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"convention": ()}, "ids like BraTS_000 do not say which collection.*: --convention other=brats2023$"),
        ({"convention": ("other=msd", "nnunet=brats2023")}, "dataset.json: says msd .* contradicts"),
        ({"convention": ("other=brats",)}, "expected --convention other= one of"),
        ({"convention": ("other=brats2023", "nobody=msd")}, "of a method that --predictions names, received nobody"),
        ({"convention": ("other=msd", "other=brats2023")}, "one --convention of a method, received other=msd, other="),
        ({"predictions": ()}, "expected label maps to score"),
        ({"predictions": ("a__b=x",)}, "NAME=... with a name of letters"),
        ({"predictions": ("a=nowhere",), "convention": ()}, "nowhere: expected a folder of a's label maps"),
        ({"data": None}, "expected --data FOLDER beside --predictions"),
    ],
)
def test_what_cannot_be_told_is_refused(options, changed, said):
    with pytest.raises(Refused, match=said):
        evaluate(options(**changed))


def test_plain_names_without_a_table_name_the_readings_of_their_values(options, sets, tmp_path):
    for file in (sets / "nnunet").glob("*.nii.gz"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / file.name).symlink_to(file)
    with pytest.raises(Refused, match=r"could be read as brats2023 .* or msd .*--convention bare=brats2023 "):
        evaluate(options(predictions=(f"bare={tmp_path / 'bare'}",), convention=()))
    folder = evaluate(options(predictions=(f"bare={tmp_path / 'bare'}",), convention=("bare=brats2023",)))
    (note,) = json.loads((folder / "data.json").read_text())["notes"]
    assert "its ED as NCR, its NCR as ED: check what its values mean" in note


@pytest.mark.parametrize(
    ("file", "labels", "expected"),
    [
        ("maps/dataset.json", NNUNET, "msd (1 ED, 2 NCR, 3 ET), by dataset.json"),
        ("maps/predictions.json", "brats2023", "brats2023 (1 NCR, 2 ED, 3 ET), by predictions.json"),
        ("dataset.json", {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}, None),
        ("maps/dataset.json", {"background": 0, "tumour": 1}, "'tumour' is not a known name"),
        ("maps/predictions.json", "others", "--convention a=brats2023 "),
        ("maps/dataset.json", ["background", "NCR"], r"expected labels as an object of names .* found \['background'"),
        ("labelsTs/dataset.json", {"WT": [1, 2, 3], "TC": [2, 3], "ET": 3}, "msd (1 ED, 2 NCR, 3 ET), by dataset.json"),
    ],
)
def test_a_table_beside_the_label_maps_says_what_they_hold(tmp_path, file, labels, expected):
    folder = tmp_path / ("labelsTs" if "labelsTs" in file else "maps")
    write(folder / "one.nii.gz", np.full((3, 3, 3), 3, np.uint8), nib.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4)))
    (tmp_path / file).write_text(json.dumps({"labels": labels}))
    if expected and expected.startswith(("msd", "brats")):
        assert label_maps.find("a", folder, {"one"}, None).ground == expected
    else:
        with pytest.raises(Refused, match=expected or "without labels in a dataset.json"):
            label_maps.find("a", folder, {"one"}, None)


def test_a_table_that_cannot_be_read_is_named_once(tmp_path):
    write(tmp_path / "one.nii.gz", np.ones((3, 3, 3), np.uint8), nib.Nifti1Image(np.zeros(1), np.eye(4)))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(Refused) as refused:
        label_maps.find("a", tmp_path, {"one"}, None)
    assert str(refused.value).count("dataset.json") == 1


def test_msd_label_maps_are_read_by_the_table_above_them(tmp_path):
    write(tmp_path / "labelsTs" / "one.nii", np.full((3, 3, 3), 3, np.uint8), nib.Nifti1Image(np.zeros(1), np.eye(4)))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": NNUNET}))
    assert label_maps.find("a", tmp_path / "labelsTs", {"one"}, None).conventions["one"].values == MSD.values  # noqa: PD011


def test_a_wrong_folder_is_said_with_what_is_in_it(options, data, tmp_path):
    case = find_subjects(data).subjects[0].id
    wanted = rf"expected a's label maps, named as the cohort's cases \({case}\.nii\.gz, .*\), found "
    (tmp_path / "notes.txt").touch()
    with pytest.raises(Refused, match=wanted + r"no file that ends in \.nii or \.nii\.gz$"):
        inputs.find(options(predictions=(f"a={tmp_path}",), convention=()))
    (tmp_path / "elsewhere.nii.gz").touch()
    with pytest.raises(Refused, match=wanted + r"1 with other names: elsewhere\.nii\.gz$"):
        inputs.find(options(predictions=(f"a={tmp_path}",), convention=()))


def test_a_network_of_phantoms_is_marked_below_every_table(options, sets, tmp_path, capsys):
    of_phantoms = tmp_path / "answers"
    shutil.copytree(sets / "nnunet", of_phantoms)
    (of_phantoms / "dataset.json").unlink()
    (of_phantoms / "predictions.json").write_text(json.dumps({"labels": "msd", "synthetic": True}))
    folder = evaluate(options(predictions=(f"demo={of_phantoms}", f"nnunet={sets / 'nnunet'}"), convention=()))
    mark = "trained on synthetic phantoms only, and no result for patients: demo"
    assert capsys.readouterr().out.count(mark) == 3  # scores, differences, ranking
    assert (folder / "index.html").read_text().count(mark) == 3
    assert mark in (folder / "tables" / "dice.csv").read_text()


@pytest.mark.parametrize("by", ["files", "scans", "patient"])
def test_whom_the_predicting_run_has_seen_is_left_out_of_every_method(options, sets, data, tmp_path, capsys, by):
    """One of the four under another name; another has a name of the training's, but other scans, and stays."""
    answers, run = tmp_path / "answers", tmp_path / "run"
    shutil.copytree(sets / "nnunet", answers)
    (answers / "dataset.json").unlink()
    (answers / "predictions.json").write_text(json.dumps({"labels": "msd", "synthetic": False, "run": str(run)}))
    subject = next(each for each in find_subjects(data).subjects if each.id == "BraTS_002")
    seen = "BraTS_002_1" if by == "patient" else "other"
    files = {seen: subject.fingerprint() if by == "files" else "of others", "BraTS_003": "of others"}
    scans = {seen: contents(subject.read()[0])} if by == "scans" else {}
    patients = {seen: "BraTS_002"} if by == "patient" else {}
    run.mkdir()
    (run / "data.json").write_text(json.dumps({"subjects": files, "contents": scans, "patients": patients}))
    (run / "split.json").write_text(json.dumps({"train": [seen], "validation": ["BraTS_003"], "test": []}))
    given = (f"own={answers}", f"truth={sets / 'truth'}")
    folder = evaluate(options(predictions=given, convention=()))
    assert set(pd.read_csv(folder / "cases.csv")["case"]) == {"BraTS_000", "BraTS_001", "BraTS_003"}
    printed = capsys.readouterr().out
    assert f"predicted by {run}, whose network was trained or validated on 1 of these patients" in printed
    assert "1 patient takes no part, for a network compared here has seen them: BraTS_002" in printed


def test_a_network_that_has_seen_everybody_is_refused_and_of_one_that_is_gone_it_is_not_known(
    options, sets, data, tmp_path
):
    answers, run = tmp_path / "answers", tmp_path / "run"
    shutil.copytree(sets / "nnunet", answers)
    (answers / "predictions.json").write_text(json.dumps({"run": str(run)}))
    assert "not known" in inputs.find(options(predictions=(f"own={answers}",), convention=())).methods[0].training
    prints = {subject.id: subject.fingerprint() for subject in find_subjects(data).subjects}
    run.mkdir()
    (run / "data.json").write_text(json.dumps({"subjects": prints}))
    (run / "split.json").write_text(json.dumps({"train": list(prints), "validation": [], "test": []}))
    with pytest.raises(Refused, match="expected cases that no method's network has seen, found none of 4"):
        inputs.find(options(predictions=(f"own={answers}",), convention=()))


def test_what_was_noted_when_a_method_was_predicted_is_said_with_its_scores(options, sets, tmp_path, capsys):
    answers = tmp_path / "answers"
    shutil.copytree(sets / "nnunet", answers)
    noted = {"BraTS_001": ["an odd scan", SEEN_NOTE], "BraTS_003": ["an odd scan"], "Stranger": ["another"]}
    cases = {case: {"notes": notes} for case, notes in noted.items()}
    (answers / "predictions.json").write_text(json.dumps({"run": str(tmp_path / "gone"), "cases": cases}))
    folder = evaluate(options(predictions=(f"own={answers}",), convention=()))
    said = "own, when it was predicted: an odd scan: 2 of 4 cases (BraTS_001, BraTS_003)"
    assert said in json.loads((folder / "data.json").read_text())["notes"]
    printed = capsys.readouterr().out
    assert said in printed
    assert SEEN_NOTE not in printed


def test_missing_cases_are_refused_by_name_or_leave_every_method(options, sets, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted((sets / "truth").iterdir())[:3]:
        (few / file.name).symlink_to(file)
    (few / "stranger_seg.nii.gz").symlink_to(file)
    given = (f"few={few}", f"truth={sets / 'truth'}")
    missing = (
        r"of each of 4 cases, missing:\n  few: BraTS_003; label maps of no case: stranger_seg.nii.gz\n.*--cases int"
    )
    with pytest.raises(Refused, match=missing):
        evaluate(options(predictions=given, convention=()))
    folder = evaluate(options(predictions=given, convention=(), cases="intersection"))
    assert set(pd.read_csv(folder / "cases.csv")["case"]) == {"BraTS_000", "BraTS_001", "BraTS_002"}
    said = "intersection: the 3 of 4 cases of which every method has a label map"
    printed = capsys.readouterr().out
    assert printed.count(said) == 3  # under each table
    assert "1 missing: BraTS_003" in printed
    assert "1 surplus, which take no part: stranger_seg.nii.gz" in printed
    assert "read with care: truth: equal to the truth in every voxel for 3 of 3 cases (BraTS_000, " in printed
    tables = list((folder / "tables").iterdir())
    assert len(tables) == 19
    assert all(said in table.read_text() for table in tables)


def test_what_is_wrong_with_several_methods_is_said_at_once(options, sets, tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "BraTS_000_seg.nii.gz").symlink_to(sets / "truth" / "BraTS_000_seg.nii.gz")
    given = (f"few={tmp_path / 'few'}", "gone=nowhere", f"other={sets / 'other'}")
    with pytest.raises(Refused, match=r"(?s)nowhere: .*gone's label maps.*--convention other=.*missing:\n  few: BraTS"):
        evaluate(options(predictions=given, convention=()))


def test_label_maps_named_as_a_mac_does_are_those_of_the_cases(data, tmp_path):
    composed, apart = "J\u00e4ger", "Ja\u0308ger"
    like = nib.load(next(data.rglob("*_seg.nii.gz")))
    empty = np.zeros(like.shape, np.uint8)
    for place, file in (
        ("plain", f"plain/{apart}.nii.gz"),
        ("seg", f"seg/{apart}_seg.nii.gz"),
        ("placed/{id}/J\u00e4.nii.gz", f"placed/{apart}/Ja\u0308.nii.gz"),
    ):
        write(tmp_path / file, empty, like)
        found = label_maps.find("a", tmp_path / place, {composed}, "brats2018")
        assert found.files == {composed: tmp_path / file}


def test_a_path_with_id_in_place_of_the_case_names_its_label_maps(sets, tmp_path):
    for case in ("BraTS_000", "BraTS_001", "stranger"):
        for name in ("seg.nii.gz", f"{case}.nii.gz", f"{case}-flair.nii.gz"):
            (tmp_path / "maps" / case).mkdir(parents=True, exist_ok=True)
            (tmp_path / "maps" / case / name).symlink_to(sets / "truth" / "BraTS_000_seg.nii.gz")
    cases = ("BraTS_000", "BraTS_001")
    found = label_maps.find("a", tmp_path / "maps" / "{id}" / "seg.nii.gz", cases, "brats2018")
    assert found.files == {case: tmp_path / "maps" / case / "seg.nii.gz" for case in cases}
    assert (found.surplus, found.scans) == (("stranger/seg.nii.gz",), 6)
    twice = label_maps.find("a", tmp_path / "maps" / "{id}" / "{id}.nii.gz", cases, "brats2018")
    assert twice.files == {case: tmp_path / "maps" / case / f"{case}.nii.gz" for case in cases}
    with pytest.raises(Refused, match=r"the cohort's cases \(.*/BraTS_000/pred.nii.gz\), found 9 other files"):
        label_maps.find("a", tmp_path / "maps" / "{id}" / "pred.nii.gz", cases, "brats2018")
    with pytest.raises(Refused, match=r"to end in \.nii or \.nii\.gz"):
        label_maps.find("a", tmp_path / "maps" / "{id}", cases, "brats2018")


def test_two_label_maps_of_one_case_are_refused(options, sets, tmp_path):
    for place in ("a", "b"):
        (tmp_path / "two" / place).mkdir(parents=True)
        (tmp_path / "two" / place / "BraTS_000_seg.nii.gz").symlink_to(sets / "truth" / "BraTS_000_seg.nii.gz")
    with pytest.raises(Refused, match=r"several of 1: a/BraTS_000_seg.nii.gz and b/BraTS_000_seg.nii.gz"):
        evaluate(options(predictions=(f"two={tmp_path / 'two'}",), convention=()))


def test_bad_label_maps_are_all_named_and_what_was_scored_stays(options, sets, truths, tmp_path, capsys, monkeypatch):
    bad = tmp_path / "bad"
    for case, truth in truths.items():
        like = nib.load(sets / "truth" / f"{case}_seg.nii.gz")
        broken = {"BraTS_001": truth * np.uint8(7), "BraTS_002": truth.astype(np.float32) * 0.3}
        write(bad / f"{case}_seg.nii.gz", broken.get(case, BRATS_2018.from_classes(truth)), like)
    asked = options(predictions=(f"bad={bad}",), convention=())
    with pytest.raises(Refused, match=r"2 cases cannot be used:\n.*BraTS_001: bad: mask values.*\n.*BraTS_002: bad: "):
        evaluate(asked)
    scored = []
    monkeypatch.setattr(scoring, "score_case", lambda work, real=scoring.score_case: scored.append(work) or real(work))
    folder = evaluate(options(predictions=(f"bad={bad}",), convention=(), leave_out_bad=True))
    assert [work.subject.id for work in scored] == ["BraTS_001", "BraTS_002"]
    assert set(pd.read_csv(folder / "cases.csv")["case"]) == {"BraTS_000", "BraTS_003"}
    printed = capsys.readouterr().out
    assert "2 of 4 cases; empty masks" in printed
    assert "left out because they cannot be used: 2:" in printed
    with pytest.raises(Refused, match="2 cases cannot be used"):
        evaluate(asked)


def test_headers_are_judged_before_anything_is_scored(options, truths, tmp_path, monkeypatch):
    for case, truth in truths.items():
        image = nib.Nifti1Image(BRATS_2018.from_classes(truth[:-1]), None)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        (tmp_path / "lost").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "lost" / f"{case}_seg.nii.gz")
    monkeypatch.setattr(scoring, "score", lambda *_, **__: pytest.fail("scored"))
    with pytest.raises(Refused, match=r"4 cases cannot be used:\n.*does not say which way the axes run"):
        evaluate(options(predictions=(f"lost={tmp_path / 'lost'}",), convention=()))


def test_names_that_read_like_missing_values_or_like_differences_are_names_as_others(data, sets, options, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))
    lesions = {}
    monkeypatch.setattr(pictures, "chosen", lambda *_: {})
    monkeypatch.setattr(pictures, "draw_cases", lambda *_, **__: None)
    monkeypatch.setattr(pictures, "draw_method", lambda _, name, sizes, own, **__: lesions.update({name: len(own)}))
    names = {"NA": "truth", "null": "nnunet", "null_minus_NA": "truth"}
    given = tuple(f"{name}={sets / folder}" for name, folder in names.items())
    folder = evaluate(options(predictions=given, convention=()))
    lines = json.loads((folder / "summary.json").read_text())
    assert len({line["key"] for line in lines}) == len(lines)
    found = values(folder)
    truth, eroded = (found[f"score.{name}__dice_WT"]["value"] for name in ("NA", "null"))
    assert found["score.null_minus_NA__dice_WT"]["value"] == truth == 1
    assert found["score.null__minus_NA__dice_WT"]["value"] == pytest.approx(eroded - truth)
    assert min(lesions[name] for name in names) > 0
    assert ">NA</th>" in (folder / "index.html").read_text()


# A kill, content and processes ----------------------------------------------------------------------------------------


def test_a_killed_call_goes_on_and_ends_with_the_same_scores(options, finished, monkeypatch):
    real, done = scoring.score_case, []

    def killed_after_two(work):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(work)
        return real(work)

    asked = options(empty_masks="ignore")
    monkeypatch.setattr(scoring, "score_case", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked)
    again = []
    monkeypatch.setattr(scoring, "score_case", lambda work: again.append(work) or real(work))
    folder = evaluate(asked)
    assert len(again) == N - 2
    for name in ("cases.csv", "lesions.csv", "comparisons.csv", "ranking.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    again.clear()
    assert evaluate(asked) == folder
    assert not again


def test_a_result_of_other_wanted_cases_is_not_shown_as_the_present_one(options, sets, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted((sets / "truth").iterdir())[:3]:
        (few / file.name).symlink_to(file)
    asked = options(predictions=(f"few={few}",), convention=(), cases="intersection", max_subjects=3)
    first = evaluate(asked)
    assert "the 3 of 3 cases" in capsys.readouterr().out
    second = evaluate(replace(asked, max_subjects=None))
    assert first != second
    printed = capsys.readouterr().out
    assert "the 3 of 4 cases" in printed
    assert "1 missing: BraTS_003" in printed


def test_a_worker_that_the_system_kills_ends_in_one_sentence(options, tmp_path, monkeypatch):
    class Broken(Future):
        def result(self, timeout=None):
            raise BrokenProcessPool

    def submitted(*_):
        future = Broken()
        future.set_result(None)
        return future

    found = inputs.find(options())
    monkeypatch.setattr(scoring.ProcessPoolExecutor, "submit", submitted)
    with pytest.raises(RunError, match=r"expected 2 processes .* one killed \(memory\?\): fewer --cores; the same"):
        scoring.score(scoring.label_maps(found.methods, found.subjects, tmp_path), cores=2, fresh=False)


def test_scores_by_other_definitions_are_not_taken_over(options, tmp_path, monkeypatch):
    found = inputs.find(options())

    def places():
        works = scoring.label_maps(found.methods, found.subjects, tmp_path)
        return {each.kept for work in works for each in work.label_maps}

    before = places()
    monkeypatch.setattr(scoring, "DEFINITIONS", scoring.DEFINITIONS + 1)
    assert not before & places()


def test_a_further_method_and_changed_content_cost_only_themselves(options, sets, truths, tmp_path, monkeypatch):
    first = evaluate(options(predictions=(f"truth={sets / 'truth'}",), convention=()))
    real, scored = scoring.score_case, []
    monkeypatch.setattr(
        scoring, "score_case", lambda work: scored.extend((e.method, e.case) for e in work.label_maps) or real(work)
    )
    copy = tmp_path / "copy"
    for case, truth in truths.items():
        values = eroded(truth) if case == "BraTS_002" else truth
        write(
            copy / f"{case}_seg.nii.gz",
            BRATS_2018.from_classes(values),
            nib.load(sets / "truth" / f"{case}_seg.nii.gz"),
        )
    second = evaluate(options(predictions=(f"truth={sets / 'truth'}", f"copy={copy}"), convention=()))
    assert first != second
    assert scored == [("copy", "BraTS_002")]


def test_damaged_scores_are_named(options, sets):
    given = options(predictions=(f"truth={sets / 'truth'}",), convention=())
    folder = evaluate(given)
    (folder / "summary.json").unlink()
    kept = next((folder.parent / module.STORE).rglob("*.json"))
    kept.write_text("{")
    with pytest.raises(RunError, match=f"{kept.name}: expected JSON.*--fresh scores it again"):
        evaluate(given)


@pytest.mark.slow
def test_several_processes_give_the_same(options, finished, tmp_path):
    found = inputs.find(options())
    works = scoring.label_maps(found.methods, found.subjects, tmp_path / "store")
    assert scoring.score(works, cores=2, fresh=False) == []
    cases, _, brought, _ = scoring.frames(works, tmp_path / "lesions.csv")
    cases.to_csv(tmp_path / "cases.csv", index=False)
    for name in ("cases.csv", "lesions.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert set(brought) == {"other"}


# The ranking ----------------------------------------------------------------------------------------------------------


def test_the_share_of_resamples_is_not_shown_of_fewer_than_three_cases(options, capsys):
    folder = evaluate(options(max_subjects=2))
    printed = capsys.readouterr().out
    assert "first in" not in printed
    assert "how often each would be first with other patients is not said of fewer than 3 cases" in printed
    found = values(folder)
    assert "score.truth__rank" in found
    assert "score.truth__first" not in found


def test_ranks_are_within_cases_and_stability_is_the_share_of_resamples():
    rng = np.random.default_rng(5)
    rows = []
    for case in range(7):
        for method in "abc":
            row = {"method": method, "case": str(case), "dice_background": 1.0}
            for name in ("NCR", "ED", "ET", "TC", "WT"):
                dice = rng.choice([0.5, 0.6, 0.7, 0.8])
                row |= {f"dice_{name}": dice, f"surface_dice_{name}": dice, f"false_positive_voxels_{name}": 0.0}
                row |= {f"hd_{name}": 9 * (1 - dice), f"hd95_{name}": float(rng.integers(1, 5))}
                row |= {f"volume_truth_ml_{name}": 1.0, f"volume_predicted_ml_{name}": 1.0}
            rows.append(row)
    cases = pd.DataFrame(rows)
    cases.loc[0, ["dice_ET", "hd95_ET", "volume_predicted_ml_ET"]] = 0.0, np.inf, 0.0  # missed: last of its case
    found = ranking(cases, ("dice_WT",), resamples=4000).set_index(["criterion", "method"])

    def rank(case, method, metric):
        own = cases[cases["case"] == case].set_index("method")[metric] * (-1 if metric.startswith("dice") else 1)
        return (own < own[method]).sum() + ((own == own[method]).sum() + 1) / 2

    expected = {m: np.array([[rank(str(c), m, metric) for metric in RANKED] for c in range(7)]) for m in "abc"}
    means = {method: ranks.mean() for method, ranks in expected.items()}
    assert found.loc["rank", "value"].to_dict() == pytest.approx(means)
    assert found.loc["rank", "place"].to_dict() == {m: i for i, m in enumerate(sorted(means, key=means.get), 1)}
    per_case = np.stack([ranks.mean(axis=1) for ranks in expected.values()])  # (method, case)
    drawn = np.random.default_rng(8).integers(0, 7, (4000, 7))
    first = np.bincount(per_case[:, drawn].mean(axis=2).argmin(axis=0), minlength=3) / 4000
    np.testing.assert_allclose(found.loc["rank", "first"].to_numpy(), first, atol=0.04)
    assert found["first"].groupby("criterion").sum().tolist() == pytest.approx([1, 1])


def test_several_scans_of_a_patient_count_as_one_in_intervals_tests_and_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_draw", lambda *_: [])
    monkeypatch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))
    data = tmp_path / "data"
    for seed in range(8):
        write_subject(data, f"UPENN-GBM-{seed // 2:05d}_{seed % 2}", seed)
    for seed, subject in enumerate(find_subjects(data).subjects):
        truth, like = subject.load_labels(), nib.load(subject.label)
        for name, labels in (("worse", eroded(truth)), ("better", noisy(truth, seed))):
            write(tmp_path / name / f"{subject.id}.nii.gz", subject.convention.from_classes(labels), like)
    predictions = tuple(f"{name}={tmp_path / name}" for name in ("worse", "better"))
    convention = ("worse=brats2018", "better=brats2018")
    options = ScoreOptions(data=data, predictions=predictions, convention=convention, runs=tmp_path / "runs", cores=1)
    folder = evaluate(options)
    cases = pd.read_csv(folder / "cases.csv")
    assert (cases["patient"] == cases["case"].str.rpartition("_")[0]).all()
    assert cases["patient"].nunique() == 4
    of = {name: cases[cases["method"] == name].set_index("case") for name in ("worse", "better")}
    row = pd.read_csv(folder / "comparisons.csv").set_index("metric").loc["dice_WT"]
    change = of["better"]["dice_WT"] - of["worse"]["dice_WT"]
    by_patient = change.groupby(of["worse"]["patient"]).mean()
    assert row["n"] == 8
    assert row["difference"] == pytest.approx(change.mean())
    assert row["p"] == pytest.approx(stats.wilcoxon(by_patient).pvalue)
    assert row["p"] >= 2 / 2**4
    assert "8 cases, of 4 patients" in read_json(folder / "data.json", dict)["about"]


def test_ranks_are_as_stable_as_the_patients_are_many():
    rng = np.random.default_rng(5)
    rows = []
    for case, method in itertools.product(range(6), "ab"):
        row = {"method": method, "case": f"{case}", "patient": f"P{case}", "dice_background": 1.0}
        for name in ("NCR", "ED", "ET", "TC", "WT"):
            dice = rng.random()
            row |= {f"dice_{name}": dice, f"surface_dice_{name}": dice, f"false_positive_voxels_{name}": 0.0}
            row |= {f"hd_{name}": 9 * dice, f"hd95_{name}": dice}
            row |= {f"volume_truth_ml_{name}": 1.0, f"volume_predicted_ml_{name}": 1.0}
        rows.append(row)
    once = pd.DataFrame(rows)
    thrice = pd.concat(once.assign(case=once["case"] + f"-{n}") for n in range(3))
    found = ranking(thrice, ("dice_WT",))
    pd.testing.assert_frame_equal(found, ranking(once.drop(columns="patient"), ("dice_WT",)))
    assert (found["first"] - ranking(thrice.drop(columns="patient"), ("dice_WT",))["first"]).abs().max() > 0.02


# The resection cavity -------------------------------------------------------------------------------------------------


def test_the_cavity_is_a_class_of_its_own_or_background_as_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_draw", lambda *_: [])
    monkeypatch.setattr(module.summary, "summarise", partial(summarise, n_resamples=100))
    data = write_2023(
        tmp_path / "cohort", "GLI", {f"{n:05d}-100": n for n in range(10, 13)}, resected={"00010-100", "00012-100"}
    )
    maps, three = tmp_path / "maps", tmp_path / "three"
    for subject in find_subjects(data).subjects:
        like, truth = nib.load(subject.label), subject.load_labels()
        write(maps / f"{subject.id}-seg.nii.gz", np.roll(truth, 1, 0), like)
        write(three / f"{subject.id}.nii.gz", truth * (truth < 4).astype(np.uint8), like)
    (three / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3}}))
    asked = ScoreOptions(data=data, predictions=(f"maps={maps}", f"three={three}"), runs=tmp_path / "runs", cores=1)
    truths = [subject.load_labels() == 4 for subject in find_subjects(data).subjects]
    assert any(truth.any() for truth in truths)
    expected = [2 * (np.roll(t, 1, 0) & t).sum() / (2 * t.sum()) if t.any() else 1 for t in truths]
    folder = evaluate(asked)
    assert values(folder)["score.maps__dice_RC"]["value"] == pytest.approx(np.mean(expected))
    assert values(folder)["score.three__dice_RC"]["value"] == np.mean([not truth.any() for truth in truths])
    assert "RC" in pd.read_csv(folder / "tables" / "dice.csv")
    folder = evaluate(replace(asked, cavity="background"))
    assert "score.maps__dice_RC" not in values(folder)
    assert values(folder)["score.three__mean_dice"]["value"] == 1


def test_an_enhancing_tumour_that_is_dropped_as_a_cavity_is_noted(data, sets, options):
    """4 is ET in masks of 2018 to 2021, RC in those of 2024, under which the ET of the first is dropped."""
    given = {"predictions": (f"truth={sets / 'truth'}", f"nnunet={sets / 'nnunet'}"), "cavity": "background"}
    right = evaluate(options(**given, convention=()))
    assert not any("its RC as ET" in note for note in json.loads((right / "data.json").read_text())["notes"])
    wrong = evaluate(options(**given, convention=("truth=brats2024",)))
    (note,) = json.loads((wrong / "data.json").read_text())["notes"]
    assert note.startswith("truth: its labels would agree better")
    assert "with its RC as ET: " in note
    assert "its RC as ET" in (wrong / "tables" / "dice.tex").read_text()


def test_what_was_compared_is_told_by_its_content(finished, sets, data):
    content = json.loads((finished / "data.json").read_text())["content"]
    assert sorted(content) == sorted(subject.id for subject in find_subjects(data).subjects)
    for case, digests in content.items():
        files = {"nnunet": sets / "nnunet" / f"{case}.nii.gz", "other": sets / "other" / case / f"{case}-seg.nii.gz"}
        for method, file in files.items():
            assert digests["label_maps"][method].endswith(file.read_bytes()[-8:].hex())  # gzip's checksum and length
        assert digests["truth"].endswith((data / case / f"{case}_seg.nii.gz").read_bytes()[-8:].hex())


def test_label_maps_that_are_not_their_methods_are_noted(data, sets, truths, options, tmp_path):
    """Half of the masks among the answers, the same answers twice, one answer for two, a neighbour's mask, one swap."""
    cases = sorted(truths)
    for number, case in enumerate(cases):
        like = nib.load(data / case / f"{case}_seg.nii.gz")
        answer = eroded(truths[case])
        swapped = np.array([0, 2, 1, 3], np.uint8)[answer]
        made = {
            "half": truths[case] if number < 2 else answer,
            "own": answer,
            "odd": swapped if number == 3 else answer,
            "one": eroded(truths[cases[0]]) if number < 2 else answer,
        }
        for name, labels in made.items():
            write(tmp_path / name / f"{case}_seg.nii.gz", BRATS_2018.from_classes(labels), like)
        write(tmp_path / "twice" / f"{case}_seg.nii.gz", BRATS_2023.from_classes(answer), like)  # in other values
        (tmp_path / "next").mkdir(exist_ok=True)
        shutil.copy(data / case / f"{case}_seg.nii.gz", tmp_path / "next" / f"{cases[number - 1]}_seg.nii.gz")
    given = tuple(f"{name}={tmp_path / name}" for name in ("half", "own", "twice", "odd", "one", "next"))
    folder = evaluate(options(predictions=given, convention=("twice=brats2023",)))
    notes = json.loads((folder / "data.json").read_text())["notes"]
    for said in (
        "half: equal to the truth in every voxel for 2 of 4 cases (BraTS_000, BraTS_001): are these the masks",
        "own and twice: equal label maps for 4 of 4 cases (BraTS_000, BraTS_001, BraTS_002, BraTS_003): is it one",
        "half and own: equal label maps for 2 of 4 cases (BraTS_002, BraTS_003)",
        "one: one and the same label map for several cases, 2 of 4 cases (BraTS_000, BraTS_001)",
        "next: its label maps are the masks of other cases for 4 of 4 cases",
        "odd: in 1 of 4 cases (BraTS_003) its labels would agree much better with the truth with its ED as NCR",
    ):
        assert sum(note.startswith(said) for note in notes) == 1, (said, notes)
    assert not any(note.startswith("own:") for note in notes)
    assert "Read with care" in (folder / "index.html").read_text()


def test_labels_that_are_missed_or_invented_are_named_below_the_scores(data, sets, truths, options, tmp_path, capsys):
    cases = sorted(truths)
    for case, truth in truths.items():
        found = np.where(truth == 3, 1, truth) if case == cases[2] else truth
        write(
            tmp_path / f"{case}_seg.nii.gz",
            BRATS_2018.from_classes(found),
            nib.load(sets / "truth" / f"{case}_seg.nii.gz"),
        )
    evaluate(options(predictions=(f"few={tmp_path}",), convention=()))
    assert f"few: ET missed in 1 case ({cases[2]})\n" in capsys.readouterr().out.replace(";", "\n")


def test_whole_tumours_in_one_value_are_named_as_such_and_not_as_exchanged_labels():
    # Rows are what was predicted, columns the truth: background, NCR, ED, ET, RC.
    truth = np.array([0, 100, 600, 300, 0])
    whole = np.diag([10_000, 0, 0, 0, 0])
    whole[1] = truth  # all in the value of NCR
    (note,) = swaps({"whole": dict.fromkeys("abc", whole)})
    assert note.startswith("whole: none of 3 masks holds ED or ET: check that the masks' values mean")
    exact = np.diag([10_000, *truth[1:]])
    assert swaps({"exact": dict.fromkeys("abc", exact)}) == []
    low_grade = np.diag([10_000, 100, 600, 0, 0])
    assert swaps({"no ET anywhere": dict.fromkeys("abc", low_grade)}) == []
    exchanged = exact[[0, 2, 1, 3, 4]]
    (note,) = swaps({"exchanged": dict.fromkeys("abc", exchanged)})
    assert "with its ED as NCR, its NCR as ED: check" in note


def test_values_of_another_convention_are_refused_before_anything_is_scored(options, sets, monkeypatch):
    monkeypatch.setattr(scoring, "score", None)
    with pytest.raises(Refused, match=r"nnunet's values as in .*BraTS_000_seg.nii.gz: .*could be read as brats2018"):
        label_maps.find("nnunet", sets / "truth", {f"BraTS_00{n}" for n in range(4)}, "brats2023")


def test_differences_have_one_sign_and_keep_their_size():
    shown = {0.25: "+0.250", -0.25: "-0.250", 2e-6: "+2e-06", -2e-6: "-2e-06", 0.0: "+0.000"}
    assert {value: signed(value) for value in shown} == shown
    assert signed(-0.0) == "-0.000"

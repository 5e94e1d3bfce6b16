"""What becomes of predictions: views, the crop's own scores, the exclusion rule, costs. No network is needed for it."""

import json
import shutil
import time
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from common.phantom import cohort as cohort_module
from common.recipe import Recipe
from common.splits import split_by_fractions
from experiments.base.results import OF_VIEWS
from experiments.segmentation import training
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from experiments.segmentation.phantoms import PHANTOM_SUBJECTS, phantom_cohort
from experiments.segmentation.scores import score
from tests.cohorts import write_cohort

CROP = ((10, 30), (12, 36), (8, 28))
INSIDE = tuple(slice(*ends) for ends in CROP)
FRACTIONS = (0.3, 0.2, 0.5)
VIEWS = ("thin", "inside_crop", "geometric_ceiling", "geometric_ceiling_inside_crop")


@dataclass(frozen=True, kw_only=True)
class Stub:
    """As much of a network's configuration as a study needs."""

    recipe: Recipe = field(default_factory=lambda: Recipe(contrasts=("FLAIR",), crop=CROP, extent=(40, 48, 36)))


@dataclass(frozen=True)
class Named:
    id: str
    patient: str


def options_for(data, tmp_path, **changes):
    folders = {"runs": tmp_path / "runs", "prepared": tmp_path / "prepared"}
    return Options(data=data, preset="demo", jobs=1, **folders, **changes)


def truth_of(cohort, case):
    """Classes of a case's mask, read by nibabel."""
    mask = np.asarray(nib.load(cohort / case / f"{case}_seg.nii.gz").dataobj)
    return np.where(mask == 4, 3, mask).astype(np.uint8)


def moved(truth):
    """A prediction: the truth one voxel further, and a block of ED in a corner outside the crop."""
    predicted = np.roll(truth, 1, axis=0)
    predicted[:2, :3, :4] = 2
    return predicted


def thinned(truth):
    """Another view of it: without NCR."""
    predicted = moved(truth)
    predicted[predicted == 1] = 0
    return predicted


def dice(predicted, truth):
    return 2 * np.count_nonzero(predicted & truth) / (np.count_nonzero(predicted) + np.count_nonzero(truth))


@pytest.fixture
def scored(cohort, tmp_path):
    """A study whose network says ``moved``, with the view ``thin`` beside it; the study and the scored cases' truth."""
    with study("stub", options_for(cohort, tmp_path), Stub(), fractions=FRACTIONS) as opened:
        opened.run.history.append({"epoch": 1, "loss": 0.5})
        truths = {entry.id: truth_of(cohort, entry.id) for entry in opened.test}
        score(
            opened,
            (
                (case, moved(truth), lambda truth=truth: {"thin": thinned(truth), "geometric_ceiling": truth})
                for case, truth in truths.items()
            ),
        )
        yield opened, truths


def test_label_maps_of_every_view_are_kept_in_the_cohorts_own_values(scored):
    opened, truths = scored
    for case, truth in truths.items():
        for view, labels in (("", moved(truth)), ("thin", thinned(truth)), ("geometric_ceiling", truth)):
            kept = np.asarray(nib.load(opened.run.folder / "predictions" / view / f"{case}.nii.gz").dataobj)
            np.testing.assert_array_equal(kept, np.where(labels == 3, 4, labels))


def test_every_view_of_a_prediction_is_scored_and_the_crop_by_itself(scored):
    opened, truths = scored
    assert len(truths) == 3
    cases = pd.read_csv(opened.run.folder / "cases.csv", keep_default_na=False).set_index(["view", "case"])
    assert set(cases.index) == {(view, case) for view in ("", *VIEWS) for case in truths}
    for case, truth in truths.items():
        crop_truth, crop_moved = truth[INSIDE], moved(truth)[INSIDE]
        assert (crop_truth > 0).sum() < (truth > 0).sum() or (crop_moved > 0).sum() < (moved(truth) > 0).sum()
        pairs = {
            "": (moved(truth), truth),
            "thin": (thinned(truth), truth),
            "inside_crop": (crop_moved, crop_truth),
            "geometric_ceiling": (truth, truth),
            "geometric_ceiling_inside_crop": (crop_truth, crop_truth),
        }
        for view, (predicted, true) in pairs.items():
            row = cases.loc[(view, case)]
            assert float(row["dice_WT"]) == pytest.approx(dice(predicted > 0, true > 0))
            assert float(row["dice_ED"]) == pytest.approx(dice(predicted == 2, true == 2))
            assert float(row["dice_background"]) == pytest.approx(dice(predicted == 0, true == 0))
            assert float(row["false_positive_voxels_WT"]) == np.count_nonzero((predicted > 0) & (true == 0))
            assert float(row["volume_truth_ml_WT"]) == pytest.approx(np.count_nonzero(true) / 1000)


def test_views_are_results_under_their_own_name(scored):
    opened, truths = scored
    summary = {line["key"]: line for line in json.loads((opened.run.folder / "summary.json").read_text())}
    for view in VIEWS:
        assert {key for key in summary if key.startswith(f"stub.{view}.")} == {f"stub.{view}.{m}" for m in OF_VIEWS}
    of_labels = {key.removeprefix("stub.") for key in summary if key.count(".") == 1}
    assert of_labels >= {"mean_dice_with_background", "hd95_WT", "surface_dice_TC", "false_positive_voxels_NCR"}
    expected = {
        "stub.dice_WT": np.mean([dice(moved(t) > 0, t > 0) for t in truths.values()]),
        "stub.thin.dice_WT": np.mean([dice(thinned(t) > 0, t > 0) for t in truths.values()]),
        "stub.inside_crop.dice_WT": np.mean([dice(moved(t)[INSIDE] > 0, t[INSIDE] > 0) for t in truths.values()]),
        "stub.thin.mean_dice": np.mean([dice(thinned(t) == v, t == v) for t in truths.values() for v in (1, 2, 3)]),
        "stub.inside_crop.false_positive_voxels_WT": np.mean(
            [np.count_nonzero((moved(t)[INSIDE] > 0) & (t[INSIDE] == 0)) for t in truths.values()]
        ),
    }
    for key, value in expected.items():
        assert summary[key]["value"] == pytest.approx(value), key
        assert (summary[key]["n"], summary[key]["synthetic"]) == (3, False)
        assert summary[key]["low"] <= value <= summary[key]["high"]
    scores = pd.read_csv(opened.run.folder / "scores.csv", keep_default_na=False).set_index(["view", "metric"])
    assert not scores.index.duplicated().any()
    assert float(scores.loc[("thin", "dice_NCR"), "mean"]) == 0
    assert int(scores.loc[("thin", "dice_NCR"), "n_missed"]) == 3
    assert float(scores.loc[("inside_crop", "hd95_WT"), "mean"]) >= 0


def test_whole_scans_have_no_view_of_a_crop(cohort, tmp_path):
    config = Stub(recipe=Recipe(contrasts=("FLAIR",)))
    with study("stub", options_for(cohort, tmp_path), config) as opened:
        opened.run.history.append({"epoch": 1, "loss": 0.5})
        score(opened, ((entry.id, truth_of(cohort, entry.id)) for entry in opened.test))
        cases = pd.read_csv(opened.run.folder / "cases.csv", keep_default_na=False)
        assert cases["view"].tolist() == [""]
        summary = json.loads((opened.run.folder / "summary.json").read_text())
        assert all(line["key"].count(".") == 1 for line in summary)
        assert next(line["value"] for line in summary if line["key"] == "stub.mean_dice") == 1


def test_seconds_per_case_are_the_predictions_alone(cohort, tmp_path, monkeypatch):
    from experiments.drawing import scans

    whole_slice = scans.tumour_slice
    monkeypatch.setattr(scans, "tumour_slice", lambda *given: time.sleep(0.6) or whole_slice(*given))

    def predictions(entries):
        for entry, seconds in zip(entries, (0.0, 0.1, 0.2), strict=True):
            time.sleep(seconds)
            yield entry.id, truth_of(cohort, entry.id), lambda: time.sleep(0.6) or {}

    with study("stub", options_for(cohort, tmp_path), Stub(), fractions=FRACTIONS) as opened:
        opened.run.history.append({"epoch": 1, "loss": 0.5})
        score(opened, predictions(opened.test))
        found = json.loads((opened.run.folder / "costs.json").read_text())
    assert 0.1 <= found["seconds_per_case"] < 0.6


@pytest.fixture
def uneven(tmp_path):
    """Six subjects; the tumour of 001 lies outside the crop but for 60 voxels, that of 004 is empty."""
    folder = write_cohort(tmp_path / "uneven", 6)
    small = np.zeros((40, 48, 36), np.uint8)
    small[10:13, 12:16, 8:13] = 1
    small[0:9, 0:9, 0:7] = 2
    for case, labels in (("BraTS_001", small), ("BraTS_004", np.zeros_like(small))):
        file = folder / case / f"{case}_seg.nii.gz"
        nib.save(nib.Nifti1Image(labels, nib.load(file).affine), file)
    return folder


def shares_of(folder):
    """Share of the crop's voxels with a label, by case."""
    return {path.name: np.count_nonzero(truth_of(folder, path.name)[INSIDE]) / 9600 for path in folder.iterdir()}


def test_subjects_with_too_little_tumour_are_named_with_their_share_and_counted(uneven, tmp_path, capsys):
    shares = shares_of(uneven)
    assert sorted(case for case, share in shares.items() if share < 0.015) == ["BraTS_001", "BraTS_004"]
    with study("stub", options_for(uneven, tmp_path), Stub(), minimum_mask_fraction=0.015) as opened:
        assert opened.excluded == ("BraTS_001", "BraTS_004")
        used = {entry.id for part in (opened.train, opened.validation, opened.test) for entry in part}
        assert used == set(shares) - set(opened.excluded)
        opened.run.history.append({"epoch": 1, "loss": 0.5})
        score(opened, ((entry.id, truth_of(uneven, entry.id)) for entry in opened.test))
        opened.show()
    assert "excluded with less than 1.5 % labelled: 2 (data.json)" in capsys.readouterr().out
    data = json.loads((opened.run.folder / "data.json").read_text())
    assert data["excluded"] == {
        "minimum_mask_fraction": 0.015,
        "labelled_fraction": {"BraTS_001": 60 / 9600, "BraTS_004": 0},
    }
    assert set(data["subjects"]) == used
    assert data["left_out"] == []


def test_without_the_rule_nobody_is_excluded_and_nothing_is_said_of_it(uneven, tmp_path, capsys):
    with study("stub", options_for(uneven, tmp_path), Stub()) as opened:
        opened.run.history.append({"epoch": 1, "loss": 0.5})
        score(opened, ((entry.id, truth_of(uneven, entry.id)) for entry in opened.test))
        opened.show()
    assert "excluded" not in capsys.readouterr().out
    data = json.loads((opened.run.folder / "data.json").read_text())
    assert (len(data["subjects"]), data["excluded"]["labelled_fraction"]) == (6, {})


def test_a_share_that_is_exactly_enough_stays(uneven, tmp_path):
    with study("stub", options_for(uneven, tmp_path), Stub(), minimum_mask_fraction=60 / 9600) as opened:
        assert opened.excluded == ("BraTS_004",)


def test_a_rule_that_leaves_nobody_is_said_before_anything_is_trained(uneven, tmp_path):
    largest = max(shares_of(uneven).values())
    with (
        pytest.raises(SystemExit) as stopped,
        study("stub", options_for(uneven, tmp_path), Stub(), minimum_mask_fraction=0.5),
    ):
        pytest.fail("nothing may be trained")
    assert stopped.value.code == (
        f"error: {uneven}: expected subjects with at least 50 % of the crop labelled, found none; the largest share is "
        f"{100 * largest:.2f}%"
    )
    assert not (tmp_path / "runs").exists()


def test_a_rule_that_leaves_too_few_is_named_beside_what_they_are_too_few_for(uneven, tmp_path):
    fourth = sorted(shares_of(uneven).values())[-2]
    with (
        pytest.raises(SystemExit) as stopped,
        study("stub", options_for(uneven, tmp_path), Stub(), minimum_mask_fraction=fourth),
    ):
        pytest.fail("nothing may be trained")
    assert "expected at least 3 patients" in stopped.value.code
    assert stopped.value.code.endswith(f"(4 subjects are excluded with less than {100 * fourth:g} % labelled)")


def test_who_has_no_row_in_the_users_own_split_is_named(cohort, tmp_path):
    table = tmp_path / "own.csv"
    rows = [f"BraTS_{number:03},{part}" for number, part in enumerate(["train", "train", "validation", "test"])]
    table.write_text("\n".join(["id,part", *rows]))
    with study("stub", options_for(cohort, tmp_path, subjects=table), Stub()) as opened:
        assert opened.without_part == ("BraTS_004", "BraTS_005")
        assert f"without a row in {table}: BraTS_004, BraTS_005" in list(opened.measured_on())
        kept = json.loads((opened.run.folder / "data.json").read_text())["without_part"]
    assert kept == ["BraTS_004", "BraTS_005"]
    with study("stub", options_for(cohort, tmp_path), Stub()) as opened:
        assert opened.without_part == ()


def test_embedded_phantoms_are_not_taken_for_patients(cohort, tmp_path, capsys):
    """Not even through a link: their results would not be marked as synthetic."""
    phantoms = tmp_path / "phantoms"
    shutil.copytree(cohort, phantoms)
    (phantoms / "cohort.json").write_text('{\n "generator": "phantom",\n "version": 2\n}\n')
    (tmp_path / "link").symlink_to(phantoms)
    with (
        pytest.raises(SystemExit, match="expected scans of patients, found the synthetic ones"),
        study("stub", options_for(tmp_path / "link", tmp_path), Stub()),
    ):
        pass
    with study("stub", options_for(cohort, tmp_path), Stub(), fractions=FRACTIONS) as opened:
        assert not opened.synthetic


def test_equal_scans_are_on_one_side_and_counted(cohort, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    for number, case in enumerate(sorted(path.name for path in cohort.iterdir())[:4]):  # 10 scans, 6 patients
        shutil.copytree(data / case, data / f"Z{number}")
        for file in (data / f"Z{number}").iterdir():
            image = nib.load(file)
            image.header["descrip"] = b"another release"
            image.to_filename(file.with_name(file.name.replace(case, f"Z{number}")))
            file.unlink()
    for seed in range(4):
        options = options_for(data, tmp_path, split_seed=seed)
        with study("stub", options, Stub(), fractions=(0.4, 0.3, 0.3)) as opened:
            assert opened.equal == tuple((f"BraTS_00{number}", f"Z{number}") for number in range(4))
            for pair in opened.equal:
                assert any(set(pair) <= set(getattr(opened.split, part)) for part in ("train", "validation", "test"))
            opened.end()
            assert "BraTS_003 = Z3" in capsys.readouterr().out
            written = json.loads((opened.run.folder / "data.json").read_text())
            assert written["equal_content"][0] == ["BraTS_000", "Z0"]
            assert written["masks"] == list(opened.cohort.notes)
    table = tmp_path / "split.csv"
    parts = {"BraTS_000": "train", "Z0": "test", "BraTS_001": "validation", "BraTS_004": "test"}
    table.write_text("id,part\n" + "".join(f"{case},{part}\n" for case, part in parts.items()))
    with pytest.raises(SystemExit, match=r"in one part, found in several: BraTS_000 \(BraTS_000, Z0\)"):
        study("stub", options_for(data, tmp_path, subjects=table), Stub()).__enter__()


def test_a_cohort_without_equal_scans_is_split_as_ever(cohort, tmp_path):
    with study("stub", options_for(cohort, tmp_path), Stub(), fractions=FRACTIONS) as opened:
        assert opened.equal == ()
        ids = [Named(path.name, path.name) for path in cohort.iterdir()]
        assert opened.split == split_by_fractions(ids, fractions=FRACTIONS, seed=0)


@pytest.mark.parametrize("wrong", [None, 2])
def test_the_patient_pictured_before_a_training_is_one_whose_files_are_doubted(tmp_path, monkeypatch, capsys, wrong):
    data = write_cohort(tmp_path / "scans", 5, shape=(80, 96, 72))
    parts = ["train", "train", "train", "validation", "test"]
    ids = [f"BraTS_{number:03d}" for number in range(5)]
    pd.DataFrame({"id": ids, "part": parts}).to_csv(tmp_path / "split.csv", index=False)
    if wrong is not None:
        file = data / ids[wrong] / f"{ids[wrong]}_seg.nii.gz"
        mask = nib.load(file)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(mask.dataobj), 30, axis=2), mask.affine), file)
    drawn = []
    monkeypatch.setattr(training, "draw_answer", lambda path, *_, title, marks: drawn.append((title, marks)))
    options = options_for(data, tmp_path, subjects=tmp_path / "split.csv")
    with study("stub", options, replace(Stub(), recipe=Recipe(contrasts=("FLAIR",)))) as opened:
        training.show_patient(opened)
    ((title, marks),) = drawn
    assert title == f"{ids[wrong or 0]} and its mask"
    assert [mark.partition(":")[0] for mark in marks] == (
        [] if wrong is None else ["labelled voxels lie outside the brain"]
    )
    assert ("note: labelled voxels lie outside the brain" in capsys.readouterr().err) == (wrong is not None)


def test_patients_of_a_table_stay_together(cohort, tmp_path):
    table = tmp_path / "patients.csv"
    names = sorted(path.name for path in cohort.iterdir())
    table.write_text("id,patient\n" + "".join(f"{name},P{number // 2}\n" for number, name in enumerate(names)))
    with study("stub", options_for(cohort, tmp_path, patients=table), Stub(), fractions=(0.4, 0.3, 0.3)) as opened:
        found = sorted((opened.split.train, opened.split.validation, opened.split.test))
        assert found == sorted([tuple(names[:2]), tuple(names[2:4]), tuple(names[4:])])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fold": 3}, "expected --folds beside --fold 3"),
        ({"subjects": "s.csv", "folds": 5}, "leave out --folds"),
        ({"subjects": "s.csv", "max_subjects": 4, "split_seed": 2}, "leave out --max-subjects and --split-seed"),
    ],
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_read(tmp_path, changes, why):
    with pytest.raises(SystemExit, match=why):
        study("stub", options_for(tmp_path / "no folder", tmp_path, **changes), Stub()).__enter__()


def test_too_few_patients_are_refused_before_anything_is_prepared(tmp_path, capsys):
    data = write_cohort(tmp_path / "cohort", 2)
    few = pytest.raises(SystemExit, match=r"at least 3 patients .*, received 2: ")
    with few, study("stub", options_for(data, tmp_path), Stub()):
        pass
    folds = pytest.raises(SystemExit, match=r"at least 3 patients .*, received 2: ")
    with folds, study("stub", options_for(data, tmp_path, folds=3, fold=1), Stub()):
        pass
    next(data.glob("*/*_t2.nii.gz")).unlink()
    incomplete = pytest.raises(SystemExit, match=r"received 1: [^\n]*\n  not counted: \S+: .*T2")
    with incomplete, study("stub", options_for(data, tmp_path), Stub()):
        pass
    assert not (tmp_path / "prepared").exists()
    assert "prepare" not in capsys.readouterr().err


def test_only_as_many_phantoms_are_made_as_are_used_and_the_rest_when_they_are(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(cohort_module, "_write_subject", lambda subject, folder, *, seed: made.append(subject))
    phantom_cohort(tmp_path / "phantoms", jobs=1, max_subjects=3)
    assert made == [0, 1, 2]
    phantom_cohort(tmp_path / "phantoms", jobs=1)
    assert made == list(range(PHANTOM_SUBJECTS))  # those that were there are not made again

"""A finished run on another cohort and on changed scans: what is there, what is refused, what is left alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from common.cohort import CohortError
from common.runs import RunError
from common.scanner import changes_of
from experiments.base.options import Refused
from experiments.segmentation import external, robustness
from experiments.segmentation.external import CohortOptions
from experiments.segmentation.external import test_on as score_on
from experiments.segmentation.finished import read_run
from experiments.segmentation.robustness import ChangeOptions, measure
from tests.cohorts import make_subject, write_cohort, write_subject
from tests.experiments.conftest import TINY, environment
from tests.layouts import write_2023, write_upenn

pytest.importorskip("torch")
N_OTHERS = 3


def command(folder, *arguments):
    command = [sys.executable, "-m", "experiments.table1_baseline", *map(str, arguments), *TINY]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def files_of(folder, *without):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.relative_to(folder).parts[0] not in without
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Patients of another hospital, in two sizes."""
    folder = tmp_path_factory.mktemp("others") / "hospital"
    for seed in range(N_OTHERS):
        write_subject(folder, f"Other_{seed}", 100 + seed, shape=(44 - 2 * seed, 40, 38))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cohort, others):
    """A run that was trained and tested on another cohort by one command, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = command(folder, "--data", cohort, "--test-data", others)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs" / "table1_baseline").iterdir()
    return run, done.stdout


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, without what was made of it afterwards."""
    return shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("external", "robustness"))


@pytest.fixture
def options(others, tmp_path):
    return CohortOptions(data=others, prepared=tmp_path / "prepared", jobs=1)


# Another cohort -------------------------------------------------------------------------------------------------------


def test_training_with_test_data_leaves_the_scores_of_both_cohorts(trained, others, capsys, options):
    run, printed = trained
    (folder,) = (run / "external").iterdir()
    assert folder.name.startswith("hospital-")
    assert f"this cohort's patients: those in {others}\n" in printed
    assert "\nown test patients: those in " in printed
    assert f"subjects: {N_OTHERS}; left out: 0" in printed
    kept = files_of(folder)
    assert set(kept) >= {
        "config.json", "data.json", "split.json", "environment.json", "cases.csv", "scores.csv", "lesions.csv",
        "differences.csv", "summary.json", "figures/overlays.png", "figures/lesions.png", "predictions/Other_0.nii.gz",
    }  # fmt: skip
    own, other = (pd.read_csv(each / "cases.csv") for each in (run, folder))
    assert sorted(other["case"]) == ["Other_0", "Other_1", "Other_2"]
    means = [np.nan_to_num(frame[["dice_NCR", "dice_ED", "dice_ET"]], nan=1.0).mean() for frame in (own, other)]
    lines = {line["key"]: line for line in json.loads(kept["summary.json"])}
    for name, value, n in (("own", means[0], 1), ("external", means[1], 3), ("difference", means[1] - means[0], 1)):
        line = lines[f"table1_baseline.{name}.mean_dice"]
        assert (line["value"], line["n"], line["reported"]) == (pytest.approx(value), n, None)
    assert not any(line["synthetic"] for line in lines.values())

    before = files_of(run)
    assert score_on(run, options) == folder
    again = capsys.readouterr().out
    # Its last four lines name the folders, which the two commands were given in different ways.
    assert again.splitlines()[:-4] == printed.splitlines()[-len(again.splitlines()) : -4]
    assert files_of(run) == before


def test_a_cohort_of_another_layout_is_taken_and_its_cavity_is_the_users_decision(run, options, tmp_path):
    data = write_2023(tmp_path / "data", "GLI", {f"{n:05d}-100": 200 + n for n in range(3)}, resected=("00001-100",))
    other = replace(options, data=data)
    for refused in (other, replace(other, leave_out_bad=True)):
        with pytest.raises(CohortError, match=r"3 of 3 that may hold the resection cavity \(RC\)"):
            external.check(read_run(run), refused)
    assert len(external.check(read_run(run), replace(other, cavity="background")).ids) == 3
    left = external.check(read_run(run), replace(other, cavity="leave-out"))
    assert left.ids == ("BraTS-GLI-00000-100", "BraTS-GLI-00002-100")
    upenn = write_upenn(tmp_path / "upenn", {"00001_11": "automated", "00001_21": "none"})
    assert external.check(read_run(run), replace(options, data=upenn)).ids == ("UPENN-GBM-00001_11",)


def test_a_killed_call_goes_on_and_ends_with_the_same_scores(trained, run, options):
    (whole,) = (trained[0] / "external").iterdir()
    folder = run / "external" / whole.name
    own = files_of(run)
    for name in ("predictions/Other_0.nii.gz", "predictions/Other_2.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, folder / name)
    assert score_on(run, options) == folder
    for name in ("cases.csv", "scores.csv", "differences.csv", "summary.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert files_of(run, "external") == own


def leaked(cohort, folder, case):
    """A training subject's scans under another id, turned, as .nii and twice as bright: the same patient's voxels."""
    (folder / "Nobody").mkdir(parents=True)
    for suffix in ("flair", "t1", "t1ce", "t2", "seg"):
        image = nib.load(cohort / case / f"{case}_{suffix}.nii.gz")
        data = np.asarray(image.dataobj).astype(np.float32) * (1 if suffix == "seg" else 2)
        turned = nib.Nifti1Image(data, image.affine).as_reoriented([[1, -1], [0, 1], [2, 1]])
        nib.save(turned, folder / "Nobody" / f"Nobody_{suffix}.nii")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_scans_that_the_network_was_trained_on_are_refused_or_left_out_by_name(
    run, others, options, cohort, tmp_path, part, capsys
):
    case = json.loads((run / "split.json").read_text())[part][0]
    data = shutil.copytree(others, tmp_path / "mixed")
    leaked(cohort, data, case)
    with pytest.raises(Refused, match=f"Nobody: has the scans of {case}, which the network was trained on"):
        score_on(run, CohortOptions(data=data, prepared=options.prepared, jobs=1))
    assert not (run / "external").exists()
    folder = score_on(run, CohortOptions(data=data, prepared=options.prepared, jobs=1, leave_out_bad=True))
    assert "left out: 1" in capsys.readouterr().out
    assert "Nobody" not in (folder / "cases.csv").read_text()
    assert "Nobody" in json.loads((folder / "data.json").read_text())["left_out"][0]

    # An older run does not say what its subjects' voxels are: they are read where they lie.
    record = json.loads((run / "data.json").read_text())
    del record["contents"]
    (run / "data.json").write_text(json.dumps(record))
    with pytest.raises(Refused, match=f"Nobody: has the scans of {case}"):
        score_on(run, CohortOptions(data=data, prepared=options.prepared, jobs=1))


def test_subjects_of_the_run_whose_weights_were_fine_tuned_are_seen_too(run, others, options):
    record = json.loads((run / "data.json").read_text())
    fingerprint = external.check(read_run(run), options).cohort.subjects[1].fingerprint()
    source = {"id": "There", "patient": "There", "fingerprint": fingerprint, "contents": {}}
    (run / "data.json").write_text(json.dumps(record | {"seen": [source]}))
    with pytest.raises(Refused, match="Other_1: has the scans of There"):
        score_on(run, options)


def test_a_rule_that_kept_subjects_out_of_the_run_holds_for_others_too(run, options, capsys):
    checked = external.check(read_run(run), options)
    shares = sorted(entry.geometry["labelled_fraction"] for entry in checked.store.entries.values())
    record = json.loads((run / "data.json").read_text())
    record["excluded"]["minimum_mask_fraction"] = float(np.mean(shares[:2]))
    (run / "data.json").write_text(json.dumps(record))
    folder = score_on(run, options)
    assert len(pd.read_csv(folder / "cases.csv")) == 2
    assert "labelled, as in the run's own cohort: 1" in capsys.readouterr().out


def test_the_runs_own_test_cases_are_no_leak_and_have_the_runs_own_scores(run, cohort, tmp_path):
    (case,) = json.loads((run / "split.json").read_text())["test"]
    shutil.copytree(cohort / case, tmp_path / "again" / case)
    folder = score_on(run, CohortOptions(data=tmp_path / "again", prepared=tmp_path / "prepared", jobs=1))
    assert (folder / "cases.csv").read_bytes() == (run / "cases.csv").read_bytes()


def test_another_time_point_of_a_training_patient_is_a_leak_and_an_equal_number_is_none(run, tmp_path, capsys):
    record, split = (json.loads((run / f"{name}.json").read_text()) for name in ("data", "split"))
    first, second = split["train"][:2]
    text = {name: (run / f"{name}.json").read_text() for name in ("data", "split")}
    for name, content in text.items():
        content = content.replace(f'"{first}"', '"BraTS-GLI-00007-000"').replace(f'"{second}"', '"case_2"')
        (run / f"{name}.json").write_text(content)
    assert set(record["subjects"]) >= {first, second}
    data = tmp_path / "data"
    write_subject(data, "case_2", 300)
    options = CohortOptions(data=data, prepared=tmp_path / "prepared", jobs=1)
    score_on(run, options)
    assert "1 subject has an id of the training's but other scans" in capsys.readouterr().err
    images, labels = make_subject(301)
    folder = tmp_path / "later" / "BraTS-GLI-00007-001"
    folder.mkdir(parents=True)
    labels[labels == 4] = 3
    names = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}
    for suffix, image in {**{names[key]: image for key, image in images.items()}, "seg": labels}.items():
        nib.save(nib.Nifti1Image(image, np.diag([-1, -1, 1, 1])), folder / f"{folder.name}-{suffix}.nii.gz")
    with pytest.raises(Refused, match="BraTS-GLI-00007-001: is the patient of BraTS-GLI-00007-000"):
        score_on(run, CohortOptions(data=tmp_path / "later", prepared=tmp_path / "prepared", jobs=1))


def test_bad_test_data_is_refused_before_anything_is_trained(cohort, tmp_path):
    bad = write_cohort(tmp_path / "bad", 2)
    (bad / "BraTS_001" / "BraTS_001_t1.nii.gz").unlink()
    refused = command(tmp_path, "--data", cohort, "--test-data", bad)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    for word in ("BraTS_001: missing T1", "BraTS_000: has the scans of BraTS_000", "--leave-out-bad"):
        assert word in refused.stderr
    assert not list((tmp_path / "runs").rglob("history.csv"))
    refused = command(tmp_path, "--data", cohort, "--test-data", bad, "--folds", "3")
    assert refused.returncode == 1
    assert "expected --fold beside --test-data" in refused.stderr


# Changed scans --------------------------------------------------------------------------------------------------------


def test_untouched_cases_have_the_runs_own_scores_and_a_finished_table_stays(run, capsys):
    own = files_of(run)
    folder = measure(read_run(run), ChangeOptions())
    printed = capsys.readouterr().out
    assert f"\npatients: those in {read_run(run).data['folder']}\n" in printed
    cases = pd.read_csv(folder / "cases.csv", dtype=str)
    untouched = cases[cases["change"] == "untouched"].drop(columns="change").reset_index(drop=True)
    scored = pd.read_csv(run / "cases.csv", dtype=str)[untouched.columns]
    pd.testing.assert_frame_equal(untouched, scored)
    assert set(cases["change"]) > {"missing_T1ce", "swapped_T1-T1ce", "slices_5", "noise_0.2", "eroded_5"}

    lines = {line["key"]: line for line in json.loads((folder / "summary.json").read_text())}
    dice = cases.set_index("change")[["dice_NCR", "dice_ED", "dice_ET"]].astype(float).fillna(1).mean(axis=1)
    for change in ("missing_FLAIR", "bias_0.8"):
        line = lines[f"table1_baseline.robustness.{change}.cost_mean_dice"]
        assert line["value"] == pytest.approx(100 * (dice["untouched"] - dice[change]))
    assert (folder / "figures" / "costs.png").stat().st_size > 10000

    before = files_of(folder)
    assert measure(read_run(run), ChangeOptions()) == folder
    assert capsys.readouterr().out == printed
    assert files_of(folder) == before
    assert files_of(run, "robustness") == own


@pytest.fixture
def few(monkeypatch):
    """Three changes for all."""
    monkeypatch.setattr(robustness, "changes_of", lambda contrasts: changes_of(contrasts)[3:-1:10])


def test_killed_between_two_changes_the_table_is_the_same(run, few, monkeypatch):
    record = json.loads((run / "split.json").read_text())
    record["test"] = sorted(record["test"] + record["validation"])
    (run / "split.json").write_text(json.dumps(record))
    whole = files_of(measure(read_run(run), ChangeOptions()))
    scored = robustness.score_changes
    asked = []

    def killed(networks, recipe, subject, changes, seed):
        for row in scored(networks, recipe, subject, changes, seed):
            asked.append((row["case"], row["change"]))
            if len(asked) == 6:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(robustness, "score_changes", killed)
    monkeypatch.setattr(robustness, "KEPT_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        measure(read_run(run), ChangeOptions(fresh=True))
    again = files_of(measure(read_run(run), ChangeOptions()))
    assert asked[6] == asked[5]  # in the middle of the second case
    assert len(asked) == 2 * 4 + 1
    for name in ("cases.csv", "costs.csv", "summary.json", "figures/costs.png"):
        assert again[name] == whole[name]


def test_a_missing_contrast_is_zero_and_nothing_else_changes(run, cohort):
    record = read_run(run)
    subject = next(iter(robustness._subjects(record, ChangeOptions())))
    scans, mask = subject.read(record.recipe.contrasts)
    truth = subject.convention.to_classes(mask.data)
    whole = robustness.volume_of("a", scans, scans, truth, record.recipe)
    without = {name: scan for name, scan in scans.items() if name != "T1"}
    lacking = robustness.volume_of("a", without, scans, truth, record.recipe)
    assert not lacking.voxels[1].any()
    for channel in (0, 2, 3, 4):
        np.testing.assert_array_equal(lacking.voxels[channel], whole.voxels[channel])


# What cannot be done --------------------------------------------------------------------------------------------------


def spoil(run, name, content):
    (run / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "summary.json").unlink(), "expected a finished run, found no summary.json"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "expected trained weights"),
        (lambda run: spoil(run, "config.json", "{"), "config.json"),
        (lambda run: spoil(run, "split.json", "[]"), "split.json"),
        (lambda run: spoil(run, "data.json", '{"folder": "x"}'), "data.json"),
        (lambda run: spoil(run, "config.json", '{"experiment": "a", "model": {}, "options": {}}'), "config.json"),
        (lambda run: spoil(run, "folds.json", "[]"), "name a fold's run"),
        (lambda run: shutil.rmtree(run), "config.json"),
    ],
)
@pytest.mark.parametrize("module", ["external", "robustness"])
def test_a_run_that_cannot_be_used_is_said_in_one_sentence(run, others, tmp_path, monkeypatch, damage, message, module):
    damage(run)
    data = ["--data", str(others), "--prepared", str(tmp_path / "prepared")] if module == "external" else []
    monkeypatch.setattr(sys, "argv", ["program", str(run), *data])
    main = __import__(f"experiments.{module}", fromlist=["main"]).main
    with pytest.raises(SystemExit) as ended:
        main()
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)


def test_damaged_scores_are_named(run, options):
    spoil(run, "cases.csv", "case,dice_ET\na,b\n")
    with pytest.raises(RunError, match=r"cases\.csv: expected scores, a row per case"):
        score_on(run, options)


def test_test_cases_that_have_changed_or_gone_are_named(run, few, cohort, tmp_path):
    record = json.loads((run / "data.json").read_text())
    (case,) = json.loads((run / "split.json").read_text())["test"]
    (run / "data.json").write_text(json.dumps(record | {"folder": str(tmp_path / "gone")}))
    with pytest.raises(RunError, match="gone: expected the scans that the run has scored, found no folder; --data"):
        measure(read_run(run), ChangeOptions())
    write_subject(tmp_path / "changed", case, 77)
    with pytest.raises(RunError, match=f"which differ: \\['{case}'\\]"):
        measure(read_run(run), ChangeOptions(data=tmp_path / "changed"))
    folder = measure(read_run(run), ChangeOptions(data=cohort, cases=1, seed=3))
    assert folder.name.startswith("1cases_seed3-")


def test_a_cohort_without_masks_is_refused(run, tmp_path, options):
    write_subject(tmp_path / "bare", "Bare", 5)
    (tmp_path / "bare" / "Bare" / "Bare_seg.nii.gz").unlink()
    with pytest.raises(CohortError, match="expected a mask for every subject, 1 have none, the first Bare"):
        external.check(read_run(run), CohortOptions(data=tmp_path / "bare", prepared=options.prepared))

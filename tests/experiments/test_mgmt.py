"""The MGMT experiments on a tiny competition folder in which methylation is a bright spot."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import log_loss, roc_auc_score

pytest.importorskip("monai", reason="needs the extra mgmt")

from experiments import (
    mgmt_backbones,
    mgmt_ensemble,
    mgmt_explain,
    mgmt_grid,
    mgmt_slice_choice,
)
from experiments.base.engines import run as processes
from experiments.base.trainings import State
from experiments.mgmt import study
from tests.columns import columns, documented
from tests.experiments.conftest import N_PATIENTS, here

SMALL = ("--image-size", "32", "32", "--filters", "4", "--epochs", "2", "--images", "5", "--batch-size", "4")


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def options(prefixes, settings=SMALL):
    """``--model.<prefix>.<setting> value`` for each model."""
    words = []
    for prefix in prefixes:
        words += [f"--model.{prefix}.{word[2:]}" if word.startswith("--") else word for word in settings]
    return words


def run(module, data, work, *arguments, trainings=None):
    """Run an experiment's main in this process; returns its folder of runs.

    trainings: what runs them, by default this process too.
    """
    from experiments.mgmt.training import train

    command = [module.__name__, "--data", data, "--preset", "demo", "--jobs", "1", "--runs", work / "runs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in (*command, "--prepared", work / "prepared", *arguments)])
        patch.setattr(study, "run", trainings or here(train))
        module.main()
    return work / "runs"


def untrained(trainings, placement):
    return {each.name: State("failed", "not tried") for each in trainings}


def only(folder):
    (found,) = folder.iterdir()
    return found


def summary(folder):
    return {row["key"].partition(".")[2]: row for row in json.loads((folder / "summary.json").read_text())}


ENSEMBLE = options(["flair", "t1w"])


@pytest.fixture(scope="session")
def ensemble(competition, work):
    run(mgmt_ensemble, competition, work, *ENSEMBLE, "--at-once", "2", trainings=processes)
    return only(work / "runs" / "mgmt_ensemble")


def test_ensemble_is_scored_on_patients_that_nothing_was_chosen_on(ensemble):
    table = pd.read_csv(ensemble / "predictions.csv", dtype={"id": str})
    split = json.loads((ensemble / "split.json").read_text())
    assert sorted(table["id"]) == split["test"]
    assert not set(split["test"]) & (set(split["train"]) | set(split["validation"]))
    assert (table["label"] == table["id"].astype(int) % 2).all()
    np.testing.assert_allclose(table["ensemble"], 0.75 * table["FLAIR"] + 0.25 * table["T1w"])
    thresholds = []
    for contrast in ("FLAIR", "T1w"):
        chosen = json.loads((ensemble / contrast / "threshold.json").read_text())
        assert sorted(row["id"] for row in chosen["validation"]) == split["validation"]
        thresholds.append(chosen["threshold"])
    found = summary(ensemble)
    assert found["ensemble__threshold"]["value"] == pytest.approx(np.mean(thresholds))
    for name in ("FLAIR", "T1w", "ensemble"):
        assert found[f"{name}__auc"]["value"] == pytest.approx(roc_auc_score(table["label"], table[name]))
        assert found[f"{name}__auc"]["n"] == len(table)
    correct = int(((table["ensemble"] >= np.mean(thresholds)) == table["label"]).sum())
    exact = binomtest(correct, len(table)).proportion_ci(0.95, method="exact")
    assert (found["ensemble__accuracy"]["low"], found["ensemble__accuracy"]["high"]) == pytest.approx(tuple(exact))
    assert found["ensemble__auc"]["reported"] == 0.665
    assert not any(row["synthetic"] for row in found.values())


def test_columns_are_those_that_the_documentation_has(ensemble):
    assert columns(ensemble / "data.json") <= documented("data.json")
    assert columns(ensemble / "FLAIR" / "data.json") <= documented("data.json")
    assert columns(ensemble / "FLAIR" / "history.csv") <= documented("history.csv")


def test_every_result_of_the_report_is_there(ensemble):
    from experiments.base.results import reported

    assert reported()["mgmt_ensemble"].keys() <= summary(ensemble).keys()


def test_pictures_and_verdict(ensemble):
    assert {path.name for path in (ensemble / "figures").iterdir()} == {
        "roc.png",
        "history_FLAIR.png",
        "history_T1w.png",
    }
    assert "permutation p =" in (ensemble / "verdicts.txt").read_text()


def test_a_finished_model_is_not_trained_again(ensemble, competition, work, capsys):
    models = sorted(ensemble.glob("*/predictions.csv")) + sorted(ensemble.glob("*/checkpoints/*"))
    before = [(path, path.stat().st_mtime_ns) for path in models]
    (ensemble / "summary.json").unlink()
    run(mgmt_ensemble, competition, work, *ENSEMBLE)
    assert before == [(path, path.stat().st_mtime_ns) for path in models]
    assert len(list((work / "runs" / "mgmt_ensemble").iterdir())) == 1
    assert "ensemble__auc" in capsys.readouterr().out


def test_explanation_uses_the_ensembles_models(ensemble, competition, work):
    run(mgmt_explain, competition, work, *ENSEMBLE, "--shown", "2")
    folder = only(work / "runs" / "mgmt_explain")
    with np.load(folder / "saliency.npz", allow_pickle=False) as stored:
        assert stored["FLAIR_id"].tolist() == stored["T1w_id"].tolist()
        for contrast in ("FLAIR", "T1w"):
            assert stored[f"{contrast}_image"].shape == stored[f"{contrast}_saliency"].shape == (2, 32, 32)
            assert stored[f"{contrast}_saliency"].max() <= 1
            # 36 rows and 40 columns of 0.5 x 0.75 mm
            assert stored[f"{contrast}_extent_mm"].tolist() == [[18, 30]] * 2
    table = pd.read_csv(folder / "saliency.csv", dtype={"id": str})
    validation = json.loads((ensemble / "split.json").read_text())["validation"]
    assert [sorted(own["id"]) for _, own in table.groupby("contrast")] == [validation, validation]
    assert (folder / "figures" / "saliency.png").exists()
    found = summary(folder)
    assert "on the brain" in found["FLAIR__attention"]["value"] or "nothing" in found["FLAIR__attention"]["value"]
    assert found["T1w__attention"]["reported"] == "on the brain, not on the tumour"
    kept = [(path, path.stat().st_mtime_ns) for path in sorted(ensemble.glob("*/predictions.csv"))]
    run(mgmt_explain, competition, work, *ENSEMBLE, "--shown", "2", "--fresh")
    assert kept == [(path, path.stat().st_mtime_ns) for path in sorted(ensemble.glob("*/predictions.csv"))]
    assert summary(folder) == found


def test_submission_predicts_the_patients_without_a_label(competition, work):
    run(mgmt_ensemble, competition, work / "submission", *ENSEMBLE, "--protocol", "submission")
    folder = only(work / "submission" / "runs" / "mgmt_ensemble")
    table = pd.read_csv(folder / "submission.csv", dtype={"BraTS21ID": str})
    assert list(table["BraTS21ID"]) == ["00024", "00025"]
    assert table["MGMT_value"].between(0, 1).all()
    split = json.loads((folder / "split.json").read_text())
    assert split["test"] == []
    assert len(split["validation"]) == 7  # 30 % of 24
    assert "flatter" in (folder / "verdicts.txt").read_text()


def test_nested_tests_every_patient_once_and_knows_its_control(competition, work):
    run(mgmt_ensemble, competition, work, *ENSEMBLE, "--protocol", "nested", "--model.folds", "3")
    folder = only(work / "runs" / "mgmt_ensemble_nested")
    table = pd.read_csv(folder / "predictions.csv", dtype={"id": str})
    shuffled = pd.read_csv(folder / "predictions_shuffled.csv", dtype={"id": str})
    everybody = [f"{number:05}" for number in range(N_PATIENTS)]
    assert sorted(table["id"]) == sorted(shuffled["id"]) == everybody
    assert (table["label"] == table["id"].astype(int) % 2).all()
    dealt = shuffled.set_index("id")["label"]
    assert dealt.sum() == table["label"].sum()
    assert (dealt.loc[table["id"]].to_numpy() != table["label"].to_numpy()).any()
    for fold, own in table.groupby("fold"):
        split = json.loads((folder / f"fold{fold}" / "FLAIR" / "split.json").read_text())
        assert sorted(own["id"]) == split["test"]
        assert len(set(own["flair_weight"])) == 1
    ranks = table.groupby("fold")["ensemble"].rank(pct=True)
    assert summary(folder)["ensemble__auc"]["value"] == pytest.approx(
        np.mean([a > b for a in ranks[table["label"] == 1] for b in ranks[table["label"] == 0]]), abs=0.06
    )
    verdicts = (folder / "verdicts.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in verdicts] == [
        "Ensemble",
        "Simple features alone",
        "Control with shuffled labels",
    ]


def test_grid_is_resumed_cell_by_cell(competition, work, capsys):
    cells = ("--model.contrasts", "FLAIR", "T2w", "--model.images", "3", "5", "--model.batch-sizes", "4")
    small = options(["cell"], SMALL[:7])
    run(mgmt_grid, competition, work, *cells, *small)
    folder = only(work / "runs" / "mgmt_grid")
    names = {"FLAIR_n3_b4", "FLAIR_n5_b4", "T2w_n3_b4", "T2w_n5_b4"}
    assert {path.parent.name for path in folder.glob("*/predictions.csv")} == names
    found, tests = summary(folder), {}
    for name in names:
        table = pd.read_csv(folder / name / "predictions.csv", dtype={"id": str})
        test = tests[name] = table[table["part"] == "test"]
        assert found[f"{name}__auc"]["value"] == pytest.approx(roc_auc_score(test["label"], test["probability"]))
        assert found[f"{name}__loss"]["value"] == pytest.approx(log_loss(test["label"], test["probability"]))
    assert len({tuple(test["id"]) for test in tests.values()}) == 1
    assert found["best_of_all__auc"]["value"] == max(found[f"{name}__auc"]["value"] for name in names)
    assert found["best_contrasts"]["value"] == "FLAIR and T2w"
    assert found["FLAIR_n3_b4__auc"]["reported"] == 0.645
    printed = capsys.readouterr().out
    assert printed.count("*") == 6  # threshold, loss and AUC of each contrast's best cell
    kept = folder / "T2w_n5_b4" / "checkpoints" / "best.pt"
    (folder / "summary.json").unlink()
    (folder / "FLAIR_n3_b4" / "predictions.csv").unlink()
    before = kept.stat().st_mtime_ns
    run(mgmt_grid, competition, work, *cells, *small)
    assert summary(folder) == found
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("module", "models"),
    [(mgmt_backbones, ("resnet10", "vgg16")), (mgmt_slice_choice, ("tumour", "central"))],
    ids=["backbones", "slice_choice"],
)
def test_two_models_on_the_same_patients(module, models, competition, work):
    run(module, competition, work, *options(models))
    folder = only(work / "runs" / module.EXPERIMENT)
    found = summary(folder)
    tests = [pd.read_csv(folder / model / "predictions.csv", dtype={"id": str}) for model in models]
    assert list(tests[0]["id"]) == list(tests[1]["id"])
    assert set(tests[0]["part"]) == {"test"}
    for model, test in zip(models, tests, strict=True):
        assert found[f"{model}__accuracy"]["value"] == np.mean((test["probability"] >= 0.5) == test["label"])
    first, second = (roc_auc_score(test["label"], test["probability"]) for test in tests)
    assert found[f"{models[0]}_minus_{models[1]}__auc"]["value"] == pytest.approx(first - second)
    from experiments.base.results import reported

    assert reported()[module.EXPERIMENT].keys() <= found.keys()


def test_a_bad_series_is_named_before_training_and_left_out_on_demand(competition, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(competition, data)
    shutil.rmtree(data / "train" / "00003" / "T1w")
    for path in sorted((data / "train" / "00004" / "FLAIR").iterdir())[2:]:
        path.unlink()
    with pytest.raises(SystemExit) as refused:
        run(mgmt_ensemble, data, tmp_path, *ENSEMBLE)
    assert "2 of 24 patients cannot be used" in str(refused.value)
    assert "00003" in str(refused.value)
    assert "00004" in str(refused.value)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit, match="2 of 2 trainings have not finished"):
        run(mgmt_ensemble, data, tmp_path, *ENSEMBLE, "--leave-out-bad", trainings=untrained)
    folder = only(tmp_path / "runs" / "mgmt_ensemble")
    written = json.loads((folder / "data.json").read_text())
    assert len(written["labels"]) == 22
    assert len(written["left_out"]) == 2
    assert "left out 2 patients" in capsys.readouterr().err


def test_doubtful_cases_can_be_left_out(competition, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(competition, data)
    (data / "train" / "00003").rename(data / "train" / "00109")
    table = (data / "train_labels.csv").read_text()
    (data / "train_labels.csv").write_text(table.replace("00003,1", "00109,1"))
    with pytest.raises(SystemExit, match="2 of 2 trainings have not finished"):
        run(mgmt_ensemble, data, tmp_path, *ENSEMBLE, "--leave-out-doubtful", trainings=untrained)
    written = json.loads((only(tmp_path / "runs" / "mgmt_ensemble") / "data.json").read_text())
    assert written["left_out_doubtful"] == ["00109"]
    assert "00109" not in written["labels"]


def test_too_few_patients_of_a_class_are_one_clear_error(competition, tmp_path):
    with pytest.raises(SystemExit, match="error: "):
        run(mgmt_ensemble, competition, tmp_path, *ENSEMBLE, "--max-patients", "3")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("split_seed", [0, 1, 2])
def test_phantoms_without_an_effect_are_told_from_chance_by_no_split(split_seed, tmp_path_factory):
    """Three trained demos without any signal; each would be a false alarm in 5 % of cohorts."""
    work = tmp_path_factory.getbasetemp() / "no_effect"
    command = ["mgmt_ensemble", "--effect", "0", "--split-seed", str(split_seed), "--runs", str(work / "runs")]
    command += ["--prepared", str(work / "prepared"), "--phantoms", str(work / "phantoms")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        mgmt_ensemble.main()
    (folder,) = (work / "runs" / "mgmt_ensemble").glob(f"*_seed{split_seed}-*")
    found = summary(folder)["ensemble__auc"]
    assert found["synthetic"]
    assert found["low"] < 0.5 < found["high"]
    assert "cannot be told from chance" in (folder / "verdicts.txt").read_text()

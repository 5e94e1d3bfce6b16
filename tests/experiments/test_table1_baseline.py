"""The command from a folder of scans to a finished run's folder, as its user meets it."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.cohorts import write_subject
from tests.columns import columns, documented
from tests.experiments.conftest import TINY

pytest.importorskip("torch")
MODULE = "experiments.table1_baseline"


@pytest.fixture
def finished(run_module, cohort, tmp_path):
    done = run_module(MODULE, "--data", cohort, *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "table1_baseline").iterdir()
    return done, folder


def test_one_command_leaves_a_table_and_a_whole_run_folder(finished, run_module, cohort, tmp_path):
    done, folder = finished
    assert done.stdout.splitlines()[0].split() == ["result", "reported", "this", "run", "95", "%", "interval", "n"]
    assert "subjects: 4 / 1 / 1 (train / validation / test); left out: 0" in done.stdout
    assert "synthetic" not in done.stdout
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert kept >= {
        "config.json", "environment.json", "data.json", "split.json", "history.csv", "cases.csv", "scores.csv",
        "summary.json", "checkpoints/best.pt", "checkpoints/last.pt", "checkpoints/last.ckpt", "figures/overlays.png",
        "figures/history.png",
    }  # fmt: skip

    for name in ("cases.csv", "scores.csv", "history.csv", "data.json"):
        assert columns(folder / name) <= documented(name)
    of_others = {
        "method",
        "change",
        "fold",
        "patient",
        *(name for name in documented("cases.csv") if name.endswith("_RC")),
    }
    assert documented("cases.csv") - columns(folder / "cases.csv") == of_others

    summary = {line["key"]: line for line in json.loads((folder / "summary.json").read_text())}
    cases, split = pd.read_csv(folder / "cases.csv"), json.loads((folder / "split.json").read_text())
    assert cases["case"].tolist() == split["test"]
    line = summary["table1_baseline.mean_dice_with_background"]
    assert set(line) == {"key", "reported", "value", "low", "high", "n", "synthetic"}
    assert (line["reported"], line["low"], line["n"], line["synthetic"]) == (0.846, None, 1, False)
    dice = np.nan_to_num(cases[["dice_background", "dice_NCR", "dice_ED", "dice_ET"]].to_numpy(float), nan=1.0)
    assert line["value"] == pytest.approx(dice.mean())

    config = json.loads((folder / "config.json").read_text())
    assert (config["options"]["preset"], config["model"]["epochs"]) == ("demo", 2)
    assert len(json.loads((folder / "data.json").read_text())["subjects"]) == 6
    (case,) = split["test"]
    predicted, scan = (
        nib.load(file) for file in (folder / "predictions" / f"{case}.nii.gz", cohort / case / f"{case}_seg.nii.gz")
    )
    np.testing.assert_array_equal(predicted.affine, scan.affine)
    assert set(np.unique(predicted.dataobj)) <= {0, 1, 2, 4}

    again = run_module(MODULE, "--data", cohort, *TINY)
    (line,) = [
        line for line in again.stdout.splitlines(keepends=True) if line.startswith("shown again, from a run begun")
    ]
    assert again.stdout.replace(line, "") == done.stdout
    assert "training" not in again.stderr
    assert len(json.loads((folder / "environment.json").read_text())) == 1
    other = run_module(MODULE, "--data", cohort, *TINY, "--model.seed", 1)
    assert other.returncode == 0
    assert len(list((tmp_path / "runs" / "table1_baseline").iterdir())) == 2

    listing = run_module("experiments")
    assert "table1_baseline" in listing.stdout
    assert "0.846" in listing.stdout
    assert (
        f"finished: runs/table1_baseline/{next(iter(sorted(p.name for p in folder.parent.iterdir())))[:4]}"
        in listing.stdout
    )


def test_bad_subjects_stop_the_command_before_training_unless_they_are_left_out(run_module, tmp_path):
    data = tmp_path / "data"
    for seed in range(5):
        write_subject(data, f"BraTS_{seed:03d}", seed)
    (data / "BraTS_001" / "BraTS_001_t2.nii.gz").unlink()
    damaged = data / "BraTS_003" / "BraTS_003_t1.nii.gz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    refused = run_module(MODULE, "--data", data, *TINY)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    for word in ("2 subjects cannot be used", "BraTS_001", "T2", "BraTS_003_t1.nii.gz", "--leave-out-bad"):
        assert word in refused.stderr
    assert not (tmp_path / "runs").exists()

    done = run_module(MODULE, "--data", data, "--leave-out-bad", *TINY)
    assert done.returncode == 0, done.stderr
    assert "subjects: 1 / 1 / 1 (train / validation / test); left out: 2" in done.stdout
    (folder,) = (tmp_path / "runs" / "table1_baseline").iterdir()
    assert len(json.loads((folder / "data.json").read_text())["left_out"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "expected a folder of scans"),
        (("--max-subjects", "2"), "at least 3 patients"),
        (("--folds", "2"), "expected --folds of 3 or more, received 2"),
        (("--folds", "3", "--fold", "4"), "--fold between 1 and 3"),
        (("--subjects", "missing.csv"), "missing.csv"),
        (("--convention", "brats1999"), "unknown label convention"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run_module, cohort, arguments, message):
    data = () if "--data" in arguments else ("--data", cohort)
    refused = run_module(MODULE, *data, *arguments, *TINY)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert message in refused.stderr.splitlines()[-1]


def test_a_bad_model_setting_is_said_without_a_traceback(run_module, cohort):
    refused = run_module(MODULE, "--data", cohort, "--model.learning-rate", "-1")
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "expected learning_rate to be a positive number, received -1.0" in refused.stderr + refused.stdout


@pytest.mark.slow
def test_the_demo_learns_to_segment_phantoms_it_has_not_seen(run_module, tmp_path):
    done = run_module(MODULE)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "table1_baseline").iterdir()
    summary = {line["key"]: line for line in json.loads((folder / "summary.json").read_text())}
    assert summary["table1_baseline.dice_WT"]["value"] >= 0.80
    assert summary["table1_baseline.mean_dice"]["value"] >= 0.55
    assert summary["table1_baseline.mean_dice"]["n"] >= 6
    assert all(line["synthetic"] for line in summary.values())

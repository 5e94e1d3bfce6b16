"""Equal minutes: the rule on a clock of known steps, each side's training on tiny phantoms, and the command (slow)."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("monai")

from benchmarks import budget, segmenters, segmenters_train
from benchmarks.budget import PROBED, within
from benchmarks.segmenters import Options
from benchmarks.segmenters_train import Job
from common.scoring import score_case
from experiments.base.options import Refused
from tests.cohorts import write_cohort

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), 4)


def test_the_length_follows_from_the_steps_after_the_warm_up_and_the_measurement_is_thrown_away():
    lengths = []

    def train(steps: int) -> list[float]:
        lengths.append(steps)
        return list(np.cumsum([100.0, *(3.0 if step < 10 else 0.5 for step in range(steps))]))

    found = within(2, train)
    assert lengths == [PROBED, 240]  # 120 s of 0.5 s
    assert found["steps"] == 240
    assert found["minutes"] == pytest.approx((10 * 3.0 + 230 * 0.5) / 60)
    assert found["seconds_per_step_probed"] == pytest.approx(0.5)


@pytest.mark.parametrize(("python", "said"), [(None, "received none"), (Path(sys.executable), "found it without")])
def test_nnunet_without_its_environment_is_refused_before_anything_is_trained(data, tmp_path, python, said):
    options = Options(data=data, methods=("monai", "nnunet"), nnunet_python=python, runs=tmp_path / "runs")
    with pytest.raises(Refused, match=said):
        segmenters.compare(options)
    assert not (tmp_path / "runs").exists()


def test_every_method_is_compared_with_the_first_on_the_same_cases():
    rng = np.random.default_rng(0)
    truth, rows = rng.integers(0, 4, (5, 6, 7), dtype=np.uint8), []
    for number, method in itertools.product(range(6), "abc"):
        noise = rng.random(truth.shape) < {"a": 0.1, "b": 0.3, "c": 0.5}[method]
        labels = np.where(noise, rng.integers(0, 4, truth.shape), truth).astype(np.uint8)
        rows.append({"case": f"P{number}", "method": method} | score_case(labels, truth, spacing_mm=(1, 1, 1)))
    cases = pd.DataFrame(rows)
    found = segmenters.against_first(cases.sample(frac=1, random_state=0), ("b", "c", "a")).set_index("method")
    assert set(found["against"]) == {"b"}
    et = found[found["metric"] == "dice_ET"]["difference"]
    means = cases.groupby("method")["dice_ET"].mean()
    assert et["a"] == pytest.approx(means["a"] - means["b"])
    assert et["c"] == pytest.approx(means["c"] - means["b"])
    p = found["p"].to_numpy()  # all twelve tests' smallest, 2/64: six cases, each in favour of the same side
    assert np.allclose(p, 2 / 2**6)
    assert np.allclose(found["p_holm"], 12 * 2 / 2**6)


@pytest.mark.parametrize("method", ["beyond", "monai"])
def test_a_training_labels_the_patients_that_it_has_not_seen(data, tmp_path, monkeypatch, method):
    monkeypatch.setattr(budget, "PROBED", 4)
    monkeypatch.setattr(budget, "WARM_UP", 1)
    for table in (segmenters_train.OURS, segmenters_train.EXAMPLE):
        monkeypatch.setitem(table, method, replace(table.get(method, segmenters_train.OURS["beyond"]),
                                                   crop_voxels=(32, 32, 32), precision="float32"))  # fmt: skip
    job = Job(method=method, data=data, folds=4, fold=2, minutes=0.01, study=tmp_path)
    segmenters_train.main(job)
    (case,) = segmenters.splits_of(data, 4)[1].test
    (file,) = job.label_maps.iterdir()
    assert file.name == f"{case}.nii.gz"
    scan = nib.load(data / case / f"{case}_flair.nii.gz")
    made = nib.load(file)
    assert made.shape == scan.shape
    np.testing.assert_array_equal(made.affine, scan.affine)
    assert set(np.unique(made.dataobj)) <= {0, 1, 2, 3}
    spent = json.loads((job.folder / "summary.json").read_text())
    assert spent["minutes"] * 60 == pytest.approx(spent["steps"] * spent["seconds_per_step"])
    if method == "beyond":
        history = pd.read_csv(job.folder / "run" / "history.csv")
        assert history["steps"].sum() == spent["steps"]
        assert list(history["validation_mean_dice"].notna()) == [False] * (len(history) - 1) + [True]


@pytest.mark.slow
def test_the_command_ends_with_both_tables_and_trains_nothing_twice(data, tmp_path):
    command = [sys.executable, "-m", "benchmarks.segmenters", "--data", data, "--minutes", "0.05", "--folds", "4"]
    command += ["--methods", "table1_small", "monai_2mm", "--runs", tmp_path]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "monai_2mm - table1_small" in first
    assert "4 cases, folds 1, 2, 3, 4" in first
    assert first.splitlines()[-8:] == second.splitlines()[-8:]
    summaries = list(tmp_path.glob("segmenters/*/0.05min/trainings/*/summary.json"))
    assert len(summaries) == 8

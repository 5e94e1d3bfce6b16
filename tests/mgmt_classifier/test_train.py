"""Training: exact resume after kills, what a run's folder holds, and that it learns."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.metrics import accuracy_score, log_loss, roc_auc_score  # noqa: E402

from common.runs import Run, RunError  # noqa: E402
from mgmt_classifier.config import Config  # noqa: E402
from mgmt_classifier.inference import load, logits, predict, probability  # noqa: E402
from mgmt_classifier.train import LAST, Training, fit, scores  # noqa: E402
from tests.flips import loaded_after_flips  # noqa: E402

SPLIT = 9  # 9 patients to train (steps of 4 and 5), 5 to validate
PROGRAM = """
import json, sys
from pathlib import Path
from common.runs import Run
from common.loading import loading
from mgmt_classifier.config import Config
with loading("PyTorch"):
    from mgmt_classifier.data import Entry
    from mgmt_classifier.train import fit
told = json.loads(sys.argv[1])
tuples = lambda fields: {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
patients = [(Entry(id, Path(path), tuples(geometry)), label) for id, path, geometry, label in told["patients"]]
print("ready", flush=True)
with Run(told["folder"]) as run:
    fit(Config(**tuples(told["config"])), patients[:9], patients[9:], run)
print("done", flush=True)
"""


def start(labelled, config, folder):
    patients = [(entry.id, str(entry.path), entry.geometry, label) for entry, label in labelled]
    told = {"patients": patients, "config": asdict(config), "folder": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def weights(folder, name):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def without_seconds(folder):
    lines = (folder / "history.csv").read_text().splitlines()
    column = lines[0].split(",").index("seconds")
    return [",".join(np.delete(line.split(","), column)) for line in lines]


def killed_runs_end_with_the_same_bits(labelled, config, tmp_path, *, kills, seed):
    process = start(labelled, config, tmp_path / "whole")
    process.stdout.readline()
    began = time.monotonic()
    assert process.communicate()[0] == "done\n"
    duration = time.monotonic() - began
    moments = random.Random(seed)
    for _ in range(kills):
        process = start(labelled, config, tmp_path / "killed")
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(timeout=moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(labelled, config, tmp_path / "killed")
    assert process.communicate()[0].endswith("done\n")
    for name in ("last.pt", "best.pt"):
        whole, killed = weights(tmp_path / "whole", name), weights(tmp_path / "killed", name)
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[key], killed[key]) for key in whole), name
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "killed")
    thresholds = [(tmp_path / name / "threshold.json").read_text() for name in ("whole", "killed")]
    assert thresholds[0] == thresholds[1]
    assert not list((tmp_path / "killed").rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_a_killed_run_ends_with_the_same_bits(labelled, tiny, tmp_path, precision):
    config = replace(tiny, flip_probability=0.5, workers=1, precision=precision)
    killed_runs_end_with_the_same_bits(labelled, config, tmp_path, kills=1, seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_float16_on_a_cpu_is_refused_before_anything_is_trained(labelled, tiny, tmp_path):
    with Run(tmp_path) as run, pytest.raises(RunError, match="expected a GPU for precision float16, found none"):
        fit(replace(tiny, precision="float16"), labelled[:SPLIT], labelled[SPLIT:], run)
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
def test_ten_kills_end_with_the_same_bits(labelled, tiny, tmp_path, backbone):
    config = replace(tiny, flip_probability=0.5, backbone=backbone)
    killed_runs_end_with_the_same_bits(labelled, config, tmp_path, kills=10, seed=1)


class StopError(Exception):
    pass


@pytest.mark.parametrize("backbone", ["resnet10", "vgg16"])
def test_a_run_stopped_in_the_second_epoch_ends_with_the_same_bits(labelled, tiny, tmp_path, monkeypatch, backbone):
    """Stopped at a known place: batch normalisation's averages and dropout are part of what must come back."""
    config = replace(tiny, backbone=backbone, epochs=3, learning_rate=1e-3)
    with Run(tmp_path / "whole") as run:
        fit(config, labelled[:SPLIT], labelled[SPLIT:], run)
    step = Training.training_step

    def stop(module, batch, number):
        if module.current_epoch == 1 and number == 1:
            raise StopError
        return step(module, batch, number)

    with monkeypatch.context() as patch, Run(tmp_path / "stopped") as run:
        patch.setattr(Training, "training_step", stop)
        with pytest.raises(StopError):
            fit(config, labelled[:SPLIT], labelled[SPLIT:], run)
    assert len(run.history.rows()) == 1
    with Run(tmp_path / "stopped") as run:
        fit(config, labelled[:SPLIT], labelled[SPLIT:], run)
    for name in ("last.pt", "best.pt"):
        whole, stopped = weights(tmp_path / "whole", name), weights(tmp_path / "stopped", name)
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    if backbone == "resnet10":
        assert whole["0.bn1.num_batches_tracked"] in (2, 4, 6)
    assert without_seconds(tmp_path / "whole") == without_seconds(tmp_path / "stopped")


def test_training_depends_on_the_seed_and_nothing_else(labelled, tiny, tmp_path):
    states = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        with Run(tmp_path / str(number)) as run:
            fit(replace(tiny, epochs=1, seed=seed), labelled[:SPLIT], labelled[SPLIT:], run)
        states.append(weights(tmp_path / str(number), "last.pt"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.fixture(scope="module")
def trained(labelled, tiny, tmp_path_factory):
    """A run long enough to learn the tiny cohort."""
    config = replace(tiny, epochs=12)
    with Run(tmp_path_factory.mktemp("trained")) as run:
        fit(config, labelled[:SPLIT], labelled[SPLIT:], run)
    (run.folder / "config.json").write_text(json.dumps({"model": asdict(config)}))
    return run, config


def test_it_learns_unseen_patients(trained, labelled):
    run, _ = trained
    found = dict(predict(run.folder, [entry for entry, _ in labelled[SPLIT:]]))
    assert list(found) == [entry.id for entry, _ in labelled[SPLIT:]]
    assert all((found[entry.id] > 0.5) == label for entry, label in labelled[SPLIT:])


def test_best_weights_are_those_of_the_epoch_with_best_accuracy_then_lowest_loss(trained, labelled):
    run, config = trained
    history = run.history.frame()
    chosen = history.sort_values(["validation_accuracy", "validation_loss", "epoch"], ascending=[False, True, True])
    best = chosen.iloc[0]
    assert (history["validation_accuracy"] == best["validation_accuracy"]).sum() > 1  # so the loss decided
    assert best["epoch"] != history["epoch"].max() or best["validation_loss"] < history["validation_loss"].iloc[0]
    network = load(config, run.checkpoints / "best.pt")
    found = logits(network, [entry for entry, _ in labelled[SPLIT:]], config)
    labels = np.array([label for _, label in labelled[SPLIT:]])
    assert log_loss(labels, probability(found)) == pytest.approx(best["validation_loss"], rel=1e-6)
    assert accuracy_score(labels, probability(found) >= 0.5) == best["validation_accuracy"]


def test_history_has_both_curves_of_every_epoch(trained):
    run, config = trained
    history = run.history.frame()
    assert history["epoch"].tolist() == list(range(1, config.epochs + 1))
    assert (history["steps"] == 2).all()
    for part in ("", "validation_"):
        for name in ("loss", "accuracy", "auc"):
            assert history[f"{part}{name}"].notna().all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    costs = json.loads((run.folder / "costs.json").read_text())
    assert costs["parameters"] == sum(p.numel() for p in Training(config).network.parameters())
    assert any((run.folder / "tensorboard").iterdir())


def test_the_threshold_is_searched_with_the_kept_weights(trained, labelled):
    run, _ = trained
    written = json.loads((run.folder / "threshold.json").read_text())
    found = dict(predict(run.folder, [entry for entry, _ in labelled[SPLIT:]]))
    for row, (entry, label) in zip(written["validation"], labelled[SPLIT:], strict=True):
        assert (row["id"], row["label"]) == (entry.id, label)
        assert row["probability"] == pytest.approx(found[entry.id], rel=1e-6)
    tried = [k / 49 for k in range(50)]
    assert min(abs(written["threshold"] - value) for value in tried) < 1e-12
    labels = np.array([label for _, label in labelled[SPLIT:]])
    values = np.array([found[entry.id] for entry, _ in labelled[SPLIT:]])
    accuracies = [accuracy_score(labels, values >= threshold) for threshold in tried]
    assert accuracy_score(labels, values >= written["threshold"]) == max(accuracies)


def test_a_finished_run_is_not_trained_again(trained, labelled):
    run, config = trained
    kept = [*run.checkpoints.iterdir(), run.folder / "costs.json"]  # whose memory is that of the training
    before = {path: path.stat().st_mtime_ns for path in kept}
    with Run(run.folder) as again:
        fit(config, labelled[:SPLIT], labelled[SPLIT:], again)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_without_validation_the_last_epoch_is_kept_and_the_threshold_is_a_half(labelled, tiny, tmp_path):
    with Run(tmp_path) as run:
        with pytest.raises(ValueError, match="expected validation patients"):
            fit(tiny, labelled, [], run)
        fit(replace(tiny, keep="last", epochs=1), labelled, [], run)
    assert json.loads((tmp_path / "threshold.json").read_text()) == {"threshold": 0.5, "validation": []}
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "last.pt"]
    assert "validation_loss" not in run.history.frame()


def test_parts_of_one_class_are_refused(labelled, tiny, tmp_path):
    ones = [each for each in labelled if each[1] == 1]
    with Run(tmp_path) as run:
        with pytest.raises(ValueError, match=r"expected training patients with label 0 .* labels 1 of 7 patients"):
            fit(tiny, ones, labelled, run)
        with pytest.raises(ValueError, match="expected validation patients with label 0"):
            fit(tiny, labelled, ones, run)
        with pytest.raises(ValueError, match="received labels none of 0 patients"):
            fit(tiny, [], labelled, run)


def test_a_damaged_checkpoint_is_named(labelled, tiny, tmp_path):
    with Run(tmp_path) as run:
        run.checkpoints.mkdir()
        (run.checkpoints / LAST).write_bytes(b"PK\x03\x04 half a file")
        with pytest.raises(RunError, match=r"last\.ckpt: expected an intact checkpoint.*--fresh"):
            fit(tiny, labelled[:SPLIT], labelled[SPLIT:], run)


def test_a_training_that_diverges_says_so(labelled, tiny, tmp_path):
    with Run(tmp_path) as run, pytest.raises(RunError, match=r"expected finite losses, found loss (nan|inf) in ep"):
        fit(replace(tiny, backbone="vgg16", learning_rate=1e30), labelled[:SPLIT], labelled[SPLIT:], run)


def test_one_wrong_bit_is_refused_or_harmless(trained):
    run, config = trained
    path = run.checkpoints / "best.pt"
    intact = load(config, path).state_dict()
    loaded = loaded_after_flips(path, lambda path: load(config, path).state_dict(), RunError, flips=40)
    assert len(loaded) < 8
    for state in loaded:
        assert all(torch.equal(state[name], intact[name]) for name in intact)


def test_weights_and_outputs_that_are_not_finite_are_refused(trained, labelled, tmp_path):
    run, config = trained
    network = load(config, run.checkpoints / "best.pt")
    next(network.parameters()).data[0] = float("inf")
    with pytest.raises(RunError, match=f"expected finite outputs .* for {labelled[0][0].id}, {labelled[1][0].id}$"):
        logits(network, [entry for entry, _ in labelled[:2]], config)
    torch.save(network.state_dict(), tmp_path / "best.pt")
    with pytest.raises(RunError, match=r"best\.pt: expected intact weights .* NaN or infinity among them"):
        load(config, tmp_path / "best.pt")


def test_under_slurm_lightning_neither_writes_nor_takes_up_a_checkpoint_of_its_own(
    labelled, tiny, tmp_path, monkeypatch
):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    config = replace(tiny, epochs=1)
    handlers, step = [], Training.training_step

    def look(module, batch, number):
        handlers.append(signal.getsignal(signal.SIGUSR1))
        return step(module, batch, number)

    monkeypatch.setattr(Training, "training_step", look)
    with Run(tmp_path / "run") as run:
        fit(config, labelled[:SPLIT], labelled[SPLIT:], run)
    assert len(run.history.rows()) == 1
    assert set(handlers) == {signal.SIG_DFL}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "run"]


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, labels = rng.normal(0, 3, 30).round(1), rng.integers(0, 2, 30)
        labels[:2] = 0, 1
        found = scores(torch.tensor(values), torch.tensor(labels))
        chances = 1 / (1 + np.exp(-values))
        assert found["loss"] == pytest.approx(log_loss(labels, chances))
        assert found["accuracy"] == accuracy_score(labels, chances >= 0.5)
        assert found["auc"] == pytest.approx(roc_auc_score(labels, values))


def test_a_sure_network_makes_no_ties():
    assert probability(torch.tensor([20.0, 21.0])).tolist() == pytest.approx([1 - 2.06e-9, 1 - 7.6e-10], abs=1e-11)
    assert len(set(probability(torch.tensor([20.0, 21.0])).tolist())) == 2


def test_settings_are_checked():
    with pytest.raises(ValueError, match="expected keep to be one of best, last, received 'worst'"):
        Config(keep="worst")

"""Training: exact resume after kills, what a run's folder holds, early stopping, precision, several devices.

Every backend must pass: ``KERAS_BACKEND=jax python -m pytest tests/unet_tf/test_train.py``.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from common import epochs, precision  # noqa: E402
from common.cohort import find_subjects  # noqa: E402
from common.epochs import Epochs  # noqa: E402
from common.picture import PROGRESS_LINE  # noqa: E402
from common.prepared import prepare  # noqa: E402
from common.runs import Run, RunError  # noqa: E402
from tests.cohorts import write_cohort  # noqa: E402
from tests.flips import loaded_after_flips  # noqa: E402
from unet_tf import devices, train  # noqa: E402
from unet_tf.config import Config  # noqa: E402
from unet_tf.data import Batches, network_input, network_labels  # noqa: E402
from unet_tf.inference import load, probabilities  # noqa: E402
from unet_tf.losses import LOSSES  # noqa: E402
from unet_tf.train import LAST, Record, compiled, fit  # noqa: E402

TENSORFLOW = keras.backend.backend() == "tensorflow"
SMALL = {
    "crop": ((0, 40), (0, 48), (0, 36)),
    "extent": (40, 48, 36),
    "shape": (16, 16, 16),
    "filters": 2,
    "levels": 1,
    "dropout": 0.3,
    "learning_rate": 1e-2,
    "epochs": 6,
    "patience": None,
}
SETTINGS = {3: SMALL, 2: {**SMALL, "spatial_dims": 2, "context": 1, "shape": (16, 16, 6), "loss": "cross_entropy"}}
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from common.prepared import Entry
from common.runs import Run
from unet_tf.config import Config
from unet_tf.train import fit
told = json.loads(sys.argv[1])
def tuples(value):
    return tuple(map(tuples, value)) if isinstance(value, list) else value
entries = [Entry(id, Path(path), {k: tuples(v) for k, v in geometry.items()}) for id, path, geometry in told["entries"]]
config = Config(**{k: tuples(v) for k, v in told["config"].items()})
replace, seen = os.replace, []
def dying(source, target):
    seen.append(Path(target).name)
    if told["die"] and seen.count(told["die"][0]) == told["die"][1]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
print("ready", flush=True)
with Run(told["folder"]) as run:
    fit(entries[:3], entries[3:], config, run)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six subjects prepared for each network: three to train, so that the last batch holds one, three to validate."""
    folder = write_cohort(tmp_path_factory.mktemp("cohort"), 6)
    store = tmp_path_factory.mktemp("store")
    subjects = find_subjects(folder).subjects
    return {
        dims: list(prepare(subjects, Config(**settings).recipe, store).entries.values())
        for dims, settings in SETTINGS.items()
    }


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """An uninterrupted run of each network: run, configuration, entries, path of the chosen weights."""
    runs = {}
    for dims, settings in SETTINGS.items():
        config = Config(**settings)
        with Run(tmp_path_factory.mktemp(f"whole{dims}")) as run:
            runs[dims] = run, config, cohort[dims], fit(cohort[dims][:3], cohort[dims][3:], config, run)
    return runs


def start(entries, settings, folder, die=None):
    told = {"entries": [(e.id, str(e.path), e.geometry) for e in entries], "config": settings, "folder": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps({**told, "die": die})],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def numbers(path):
    """Every array of a weights file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def equal(path, other):
    one, two = numbers(path), numbers(other)
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def history(run):
    """Rows of history.csv without their seconds."""
    return [{name: row[name] for name in row if name != "seconds"} for row in run.history.rows()]


def assert_same_results(run, other):
    for name in ("best.weights.h5", "last.weights.h5"):
        assert equal(run.checkpoints / name, other.checkpoints / name), name
    assert history(run) == history(other)
    assert {path.name for path in run.checkpoints.iterdir()} == {"best.weights.h5", "last.weights.h5", LAST}


class Interrupted(BaseException):
    """What a test raises where a kill would strike."""


def interrupt(monkeypatch, name, occurrence):
    """Stop training when the file is about to get its final name for the given time."""
    rename, seen = os.replace, []

    def dying(source, target):
        seen.append(Path(target).name)
        if seen.count(name) == occurrence:
            raise Interrupted
        rename(source, target)

    monkeypatch.setattr(os, "replace", dying)


@pytest.mark.parametrize(("dims", "die"), [pytest.param(3, (LAST, 3), marks=pytest.mark.slow), (2, ("history.csv", 2))])
def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path, dims, die):
    run, config, entries, _ = whole[dims]
    process = start(entries, SETTINGS[dims], tmp_path, die)
    assert process.communicate()[0] == "ready\n"
    assert process.returncode == -signal.SIGKILL
    with Run(tmp_path) as killed:
        assert killed.checkpoints.joinpath(LAST).exists()
        assert len(killed.history.rows()) == (3 if die[0] == LAST else 1)
        fit(entries[:3], entries[3:], config, killed)
        assert_same_results(run, killed)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [3, 2])
def test_five_random_kills_end_with_the_same_bits(whole, tmp_path, dims):
    run, _, entries, _ = whole[dims]
    process = start(entries, SETTINGS[dims], tmp_path / "timed")
    process.stdout.readline()
    began = time.monotonic()
    assert process.communicate()[0] == "done\n"
    duration = time.monotonic() - began
    moments = random.Random(dims)
    for _ in range(5):
        process = start(entries, SETTINGS[dims], tmp_path / "killed")
        process.stdout.readline()
        try:
            process.wait(timeout=moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(entries, SETTINGS[dims], tmp_path / "killed")
    assert process.communicate()[0].endswith("done\n")
    with Run(tmp_path / "killed") as killed:
        assert_same_results(run, killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best.weights.h5", "last.weights.h5", "history.csv", LAST])
def test_an_interruption_between_two_files_changes_nothing(whole, tmp_path, monkeypatch, name):
    run, config, entries, _ = whole[3]
    with Run(tmp_path) as interrupted:
        for occurrence in (1, 2):
            with monkeypatch.context() as patch:
                interrupt(patch, name, occurrence)
                with pytest.raises(Interrupted):
                    fit(entries[:3], entries[3:], config, interrupted)
        fit(entries[:3], entries[3:], config, interrupted)
        assert_same_results(run, interrupted)


def test_a_kill_while_weights_are_written_leaves_nothing_behind(whole, tmp_path, monkeypatch):
    _, config, _, chosen = whole[3]
    network = load(config, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            train.save_weights(tmp_path / "best.weights.h5", network)
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished.weights.h5"]
    train.save_weights(tmp_path / "last.weights.h5", network)
    assert [path.name for path in tmp_path.iterdir()] == ["last.weights.h5"]
    assert equal(tmp_path / "last.weights.h5", chosen)


def test_another_seed_gives_other_weights_and_only_progress_is_shown(whole, tmp_path, capfd):
    run, config, entries, _ = whole[3]
    with Run(tmp_path) as other:
        fit(entries[:3], entries[3:], replace(config, seed=1), other)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert {line.partition(":")[0] for line in shown.err.split("\r") if line.strip()} == {"training"}
    one, two = (numbers(each.checkpoints / "last.weights.h5") for each in (run, other))
    assert one.keys() == two.keys()
    assert not any(np.array_equal(one[name], two[name]) for name in one)


def test_steps_are_those_of_a_loop_by_hand(cohort, tmp_path):
    """The loader threads neither mix two epochs nor begin in the middle of one, in a resumed run either."""
    config = Config(**{**SMALL, "dropout": 0.0, "batch_size": 1, "workers": 2, "epochs": 2})
    by_hand = compiled(config)
    for epoch in range(2):
        for index in np.random.default_rng([config.seed, epoch]).permutation(3):
            volume = cohort[3][index].open()
            by_hand.train_on_batch(network_input(volume, config), network_labels(volume, config))
    with Run(tmp_path) as run:
        for epochs in (1, 2):
            fit(cohort[3][:3], cohort[3][3:], replace(config, epochs=epochs), run)
        trained = load(config, run.checkpoints / "last.weights.h5")
    for value, expected in zip(trained.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dims", [3, 2])
def test_validation_is_the_mean_over_subjects(whole, dims):
    run, config, entries, _ = whole[dims]
    network = load(config, run.checkpoints / "last.weights.h5")
    scores, losses, right = [], [], []
    for entry in entries[3:]:
        volume = entry.open()
        guess = probabilities(network, volume, config)  # (class, x, y, z)
        truth = np.zeros(volume.grid_shape, dtype=int)
        truth[volume.box] = volume.labels()
        chosen = guess.argmax(0)
        right.append(np.mean(chosen == truth))
        for value in (1, 2, 3):
            total = np.sum(chosen == value) + np.sum(truth == value)
            scores.append(2 * np.sum((chosen == value) & (truth == value)) / total if total else 1.0)
        p = np.moveaxis(guess, 0, -1)
        losses.append(float(LOSSES[config.loss](truth[None], p[None])))
    row = {name: float(value) for name, value in history(run)[-1].items()}
    assert row["validation_mean_dice"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert row["validation_accuracy"] == pytest.approx(np.mean(right), abs=1e-5)
    assert row["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_validation_subject_is_drawn_as_the_last_weights_see_it(whole, dims):
    run, config, entries, _ = whole[dims]
    volume = entries[3].open()
    network = load(config, run.checkpoints / "last.weights.h5")
    found = probabilities(network, volume, config)[1:].sum(axis=0) > config.probability_threshold
    on_grid = np.zeros(volume.grid_shape, np.uint8)
    on_grid[volume.box] = volume.labels()
    # Axially, the truth above and the prediction below, each of the class's colour where there is one.
    position = int(np.count_nonzero(on_grid, axis=(0, 1)).argmax())
    drawn = matplotlib.image.imread(run.figures / "validation.png")[..., :3]
    side, row = drawn.shape[1] // 3, drawn.shape[1] // 3 + PROGRESS_LINE
    parts = [drawn[top + PROGRESS_LINE : top + row, :side] for top in (0, row)]  # below the line that names each
    coloured = [np.ptp(part, axis=2).max(axis=1) > 0.02 for part in parts]
    for labels, rows in zip((on_grid, found), coloured, strict=True):
        shown = labels[volume.box][:, :, position - volume.box_start[2]]
        assert np.count_nonzero(rows) == 2 * np.count_nonzero(shown.any(axis=0))  # each voxel is two pixels high


@pytest.mark.parametrize("dims", [2, 3])
def test_best_weights_are_those_of_the_lowest_validation_loss(whole, dims):
    run, config, entries, chosen = whole[dims]
    assert chosen == run.checkpoints / "best.weights.h5"
    network = compiled(config)
    network.set_weights(load(config, chosen).get_weights())
    batches = Batches(entries[3:], replace(config, batch_size=1, workers=1), shuffle=False)
    loss = network.evaluate(batches, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(run.history.frame()["validation_loss"].min(), rel=1e-5)


def test_history_has_a_row_for_every_epoch_and_counts_the_training_seconds_only(cohort, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    read = Batches.__getitem__

    def timed(batches, step):
        clock.now += 1.0 if batches.shuffle else 1000.0
        return read(batches, step)

    monkeypatch.setattr(Batches, "__getitem__", timed)
    monkeypatch.setattr(epochs, "time", SimpleNamespace(monotonic=lambda: clock.now))
    config = Config(**{**SMALL, "epochs": 2})
    with Run(tmp_path) as run:
        fit(cohort[3][:3], cohort[3][3:], config, run)
        frame = run.history.frame()
    metrics = [prefix + name for prefix in ("", "validation_") for name in ("accuracy", "loss", "mean_dice")]
    assert sorted(frame.columns) == sorted(["epoch", "learning_rate", *metrics, "steps", "seconds"])
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["learning_rate"].tolist() == [config.learning_rate] * 2
    assert frame["steps"].tolist() == [2, 2]
    assert frame["seconds"].tolist() == [2.0, 2.0]
    assert frame.notna().all(axis=None)


def test_costs_and_tensorboard_are_written(whole):
    run, config, _, _ = whole[3]
    costs = json.loads((run.folder / "costs.json").read_text())
    frame = run.history.frame()
    assert costs["parameters"] == sum(value.size for value in numbers(run.checkpoints / "last.weights.h5").values())
    seconds = frame["seconds"].median()
    assert (costs["seconds_per_epoch"], costs["seconds_per_step"]) == pytest.approx((seconds, seconds / 2))
    voxels, filters = 16**3, config.filters
    kernels = 27 * (4 * filters + filters**2)  # first encoder block
    kernels += 27 * (filters * 2 * filters + (2 * filters) ** 2) / 8  # bottom block, at half the resolution
    kernels += 2 * filters * filters  # transposed convolution: each output voxel has one of the eight kernel positions
    kernels += 27 * (2 * filters * filters + filters**2) + filters * 4  # decoder block and output
    assert costs["gflop_per_sample"] == pytest.approx(2 * voxels * kernels / 1e9, abs=1e-3)
    assert costs["peak_memory_mib"] > 100
    assert {path.parent.name for path in run.folder.glob("tensorboard/*/events.*")} == {"train", "validation"}


def test_25d_costs_are_those_of_all_slices(whole):
    three, two = (json.loads((whole[dims][0].folder / "costs.json").read_text()) for dims in (3, 2))
    filters, channels, pixels = 2, 12, 16 * 16 * 6
    kernels = 9 * (channels * filters + filters**2) + 9 * (2 * filters * filters + (2 * filters) ** 2) / 4
    kernels += 2 * filters * filters + 9 * (2 * filters * filters + filters**2) + filters * 4
    assert two["gflop_per_sample"] == pytest.approx(2 * pixels * kernels / 1e9, abs=1e-3)
    assert two["parameters"] < three["parameters"]


def stopping_epoch(losses, patience, minimum_delta):
    """Keras' rule: so many epochs in a row that are not lower than the best by more than the delta; None: never."""
    best, waited = losses[0], 0
    for epoch, loss in enumerate(losses[1:], start=2):
        if loss + minimum_delta < best:
            best, waited = loss, 0
        elif (waited := waited + 1) == patience:
            return epoch
    return None


def test_a_run_interrupted_in_its_patience_stops_at_the_same_epoch(whole, tmp_path, monkeypatch):
    run, config, entries, _ = whole[3]
    losses = run.history.frame()["validation_loss"].tolist()
    steps = np.abs(np.subtract.outer(losses, losses)).ravel() * 1.001
    delta, stop = next(
        (delta, stop) for delta in np.sort(steps) if (stop := stopping_epoch(losses, 2, delta)) in (4, 5)
    )
    patient = replace(config, patience=2, minimum_delta=float(delta))
    with Run(tmp_path) as stopped:
        with monkeypatch.context() as patch:
            interrupt(patch, "last.weights.h5", stop)
            with pytest.raises(Interrupted):
                fit(entries[:3], entries[3:], patient, stopped)
        chosen = fit(entries[:3], entries[3:], patient, stopped)
        assert history(stopped) == history(run)[:stop]
        files = [path for path in stopped.folder.rglob("*") if path.is_file()]
        before = {path: path.stat().st_mtime_ns for path in files}
        assert fit(entries[:3], entries[3:], patient, stopped) == chosen
        assert {path: path.stat().st_mtime_ns for path in files} == before


def restored(config, path, network):
    """First epoch to train, and the state that the network takes up from the checkpoint of a run."""
    with Run(path.parents[1]) as run:
        counted = Epochs(run, config.epochs, checkpoint=LAST, weights=".weights.h5")
        with counted.resuming() as last:
            first = Record(counted, config, None, []).restore(last, network)
    return first, [keras.ops.convert_to_numpy(value) for value in train._state(network)]


def test_a_flipped_bit_is_refused_or_harmless(whole, tmp_path):
    run, config, _, _ = whole[3]
    intact = (run.checkpoints / LAST).read_bytes()
    network = compiled(config)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / LAST
    first, state = restored(config, run.checkpoints / LAST, network)
    assert first == config.epochs
    rng = np.random.default_rng(0)
    refused = 0
    # The end of the file is the zip's table of contents.
    for position in (*rng.integers(0, len(intact), 100), *range(len(intact) - 150, len(intact))):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            taken_up, values = restored(config, path, network)
        except RunError:
            refused += 1
        else:
            assert taken_up == first
            assert all(np.array_equal(value, expected) for value, expected in zip(values, state, strict=True))
    assert refused > 100


def test_one_wrong_bit_in_the_weights_is_refused_and_files_without_a_digest_are_read(whole, tmp_path):
    _, config, _, chosen = whole[3]
    assert loaded_after_flips(chosen, lambda path: load(config, path), RunError, flips=40) == []
    network = load(config, chosen)
    unsealed = tmp_path / "best.weights.h5"  # as earlier versions wrote it
    keras.Model(network.inputs, network.outputs).save_weights(unsealed)
    for one, two in zip(load(config, unsealed).get_weights(), network.get_weights(), strict=True):
        assert np.array_equal(one, two)


def test_weights_and_outputs_that_are_not_finite_are_refused(whole, tmp_path):
    _, config, entries, chosen = whole[3]
    network = load(config, chosen)
    network.trainable_variables[-1].assign(np.full(network.trainable_variables[-1].shape, np.nan))
    with pytest.raises(RunError, match=f"{entries[3].id}: expected finite outputs"):
        probabilities(network, entries[3].open(), config)
    keras.Model(network.inputs, network.outputs).save_weights(tmp_path / "best.weights.h5")
    with pytest.raises(RunError, match=r"best\.weights\.h5: expected intact weights .* NaN or infinity among them"):
        load(config, tmp_path / "best.weights.h5")


def test_a_training_that_diverges_says_so(cohort, tmp_path, monkeypatch):
    monkeypatch.setitem(
        LOSSES, SMALL.get("loss", "dice_focal"), lambda labels, probabilities: keras.ops.sum(probabilities) * np.nan
    )
    with Run(tmp_path) as run, pytest.raises(RunError, match="expected finite losses, found loss nan"):
        fit(cohort[3][:3], cohort[3][3:], Config(**SMALL), run)
    assert not (tmp_path / "checkpoints" / LAST).exists()


def test_damaged_or_foreign_checkpoints_are_named(whole, tmp_path):
    run, config, entries, _ = whole[3]
    path = tmp_path / "checkpoints" / LAST
    path.parent.mkdir()
    message = r"last\.npz: expected an intact checkpoint of this training, found: .*--fresh starts over"
    intact = (run.checkpoints / LAST).read_bytes()
    for content in (b"", intact[: len(intact) // 2], intact[:-1]):
        path.write_bytes(content)
        with Run(tmp_path) as damaged, pytest.raises(RunError, match=message):
            fit(entries[:3], entries[3:], config, damaged)
    for other in ({"filters": 3}, {"levels": 2}, {"dropout": 0.0}):
        path.write_bytes(intact)
        with Run(tmp_path) as foreign, pytest.raises(RunError, match=message):
            fit(entries[:3], entries[3:], replace(config, **other), foreign)
    assert not (tmp_path / "history.csv").exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(whole, tmp_path):
    run, config, _, _ = whole[3]
    with np.load(run.checkpoints / LAST) as saved:
        content = dict(saved)
    content["0"] = np.array([Trap(tmp_path / "executed")], dtype=object)
    (tmp_path / "checkpoints").mkdir()
    np.savez(tmp_path / "checkpoints" / LAST, **content)
    with pytest.raises(RunError, match="allow_pickle"):
        restored(config, tmp_path / "checkpoints" / LAST, compiled(config))
    assert not (tmp_path / "executed").exists()


def test_bfloat16_learns_from_a_single_subject_and_predicts_float32(cohort, tmp_path):
    config = Config(**{**SMALL, "precision": "mixed_bfloat16", "epochs": 2})
    with Run(tmp_path) as run:
        chosen = fit(cohort[3][:1], cohort[3][3:4], config, run)
        losses = run.history.frame()["loss"]
    assert losses[1] < losses[0]
    network = load(config, chosen)
    assert {layer.compute_dtype for layer in network.layers if hasattr(layer, "kernel_size")} == {"bfloat16"}
    assert all(value.dtype == np.float32 for value in numbers(chosen).values())
    assert probabilities(network, cohort[3][4].open(), config).dtype == np.float32


def test_the_loss_scale_is_part_of_the_saved_state(tmp_path):
    config = Config(**{**SMALL, "precision": "mixed_float16"})
    network = compiled(config)
    optimiser = network.optimizer
    assert isinstance(optimiser, keras.optimizers.LossScaleOptimizer)
    for value, variable in enumerate(optimiser.variables, start=7):
        variable.assign(keras.ops.full(variable.shape, value))
    scale = float(optimiser.dynamic_scale)
    (tmp_path / "checkpoints").mkdir()
    state = {str(index): keras.ops.convert_to_numpy(value) for index, value in enumerate(train._state(network))}
    progress = json.dumps({"epoch": 1, "best_loss": 1.0, "stopped": False, "backend": keras.backend.backend()})
    np.savez(tmp_path / "checkpoints" / LAST, progress=progress, **state)
    other = compiled(config)
    assert float(other.optimizer.dynamic_scale) != scale
    assert restored(config, tmp_path / "checkpoints" / LAST, other)[0] == 1
    assert float(other.optimizer.dynamic_scale) == scale
    slots = {"iteration", "learning_rate"} | {
        f"{v.path.replace('/', '_')}_{each}" for v in other.trainable_variables for each in ("momentum", "velocity")
    }
    assert {v.name for v in other.optimizer.variables} == {"dynamic_scale", "step_counter"} | slots
    for one, two in zip(optimiser.variables, other.optimizer.variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two))


@pytest.mark.skipif(not TENSORFLOW, reason="the other backends' CPU kernels know float16")
def test_float16_without_a_gpu_is_refused_before_training(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "gpus", list)
    with Run(tmp_path) as run, pytest.raises(RunError, match=r"expected a GPU for mixed_float16.*mixed_bfloat16"):
        fit(cohort[3][:3], cohort[3][3:], Config(**{**SMALL, "precision": "mixed_float16"}), run)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_auto_is_what_the_device_multiplies(monkeypatch):
    config = Config(**{**SMALL, "precision": "auto"})
    fast = "float32" if TENSORFLOW else "mixed_bfloat16"  # TensorFlow sums the gradients of biases in bfloat16
    for multiplies, expected in ((True, fast), (False, "float32")):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        assert devices.policy(config) == expected
        assert devices.policy(replace(config, precision="mixed_bfloat16")) == "mixed_bfloat16"
    monkeypatch.setattr(devices, "gpus", lambda: ["one"])
    assert devices.policy(config) == "mixed_float16"


@pytest.mark.skipif(not TENSORFLOW, reason="the other backends' gradients are right")
def test_bfloat16_is_refused_where_its_gradients_are_wrong(cohort, tmp_path):
    """A level of two voxels along x: 16 is halved thrice, 48 never gets there."""
    config = Config(**{**SMALL, "precision": "mixed_bfloat16", "shape": (16, 48, 48), "levels": 3})
    for right in (replace(config, shape=(48, 16, 16)), replace(config, levels=2)):
        with devices.shared(right):
            pass
    with Run(tmp_path) as run, pytest.raises(RunError, match="expected no level of two voxels along x"):
        fit(cohort[3][:3], cohort[3][3:], config, run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 2}, "expected 2 GPUs, found 1"),
        ({"nodes": 2}, "expected 2 processes for 1 devices on each of 2 nodes, found 1"),
    ],
)
def test_too_many_devices_are_refused_before_training(cohort, tmp_path, monkeypatch, settings, message):
    if keras.backend.backend() == "torch" and "devices" in settings:
        message = "expected the TensorFlow or JAX backend for 2 devices, found torch"
    monkeypatch.setattr(devices, "gpus", lambda: ["one"])
    with Run(tmp_path) as run, pytest.raises(RunError, match=message):
        fit(cohort[3][:3], cohort[3][3:], Config(**{**SMALL, "batch_size": 2, **settings}), run)
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


TWO_DEVICES = """
import tensorflow
cpu = tensorflow.config.list_physical_devices("CPU")[0]
tensorflow.config.set_logical_device_configuration(cpu, [tensorflow.config.LogicalDeviceConfiguration()] * 2)
from unet_tf import devices, train
devices.gpus = lambda: [device.name for device in tensorflow.config.list_logical_devices("CPU")]
train.gpu_peak_mib = lambda: None
"""


@pytest.mark.slow
@pytest.mark.skipif(not TENSORFLOW, reason="MirroredStrategy")
@pytest.mark.parametrize("dims", [3, 2])
def test_two_devices_train_as_one(cohort, tmp_path, dims):
    """Two logical CPUs stand for two GPUs. Nearly as one: the last batch, with one subject, is filled up to two."""
    settings = {**SETTINGS[dims], "dropout": 0.0, "loss": "cross_entropy", "epochs": 2, "learning_rate": 1e-3}
    entries = cohort[dims]
    with Run(tmp_path / "one") as one:
        fit(entries[:3], entries[3:], Config(**settings), one)
    told = {"entries": [(e.id, str(e.path), e.geometry) for e in entries], "config": {**settings, "devices": 2}}
    told |= {"folder": str(tmp_path / "two"), "die": None}
    subprocess.run(
        [sys.executable, "-c", TWO_DEVICES + PROGRAM, json.dumps(told)], check=True, cwd=Path(__file__).parents[2]
    )
    with (tmp_path / "two" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["steps"] for row in rows] == ["2", "2"]
    for row, expected in zip(rows, history(one), strict=True):
        for name in ("validation_loss", "validation_mean_dice", "validation_accuracy"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=0.02, abs=1e-4), name

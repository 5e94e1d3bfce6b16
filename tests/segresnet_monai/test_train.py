"""Training: exact resume after kills, what a run's folder holds, and that it learns."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from common.augmentation import Augmentation  # noqa: E402
from common.epochs import Epochs  # noqa: E402
from common.runs import Run, RunError  # noqa: E402
from segresnet_monai.config import Config  # noqa: E402
from segresnet_monai.inference import load, predict  # noqa: E402
from segresnet_monai.train import LAST, Training, continue_from, fit, learning_rate, validate  # noqa: E402
from tests.flips import loaded_after_flips  # noqa: E402

SMALL = {
    "crop_voxels": (24, 24, 24),
    "initial_filters": 8,
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1,),
    "loss": "dice_bce",
    "learning_rate": 2e-3,
    "epochs": 5,
    "crops_per_epoch": 4,
    "validate_every": 2,
    "window_overlap": 0.0,
    "workers": 0,
}
WINNERS = {
    **SMALL,
    "network": "segresnet_ds",
    "dropout": 0.0,
    "encoder_blocks": (1, 1, 1),
    "decoder_blocks": (1, 1),
    "supervised_levels": 2,
    "targets": "regions",
    "loss": "batch_dice_bce",
    "weight_decay": 1e-3,
    "warmup_epochs": 2,
    "gradient_norm": 1.0,
    "weight_average": 0.9,
    "batch_size": 2,
    "average_flips": True,
    "window_weights": "gaussian",
    "crop_from": "brain",
    "label_crop_probability": 0.5,
    "augmentation": {"zoom_probability": 0.3, "gamma_probability": 0.5, "noise_probability": 0.5},
    "precision": "bfloat16",
}
PROGRAM = """
import json, sys
from common.prepared import Entry
from common.runs import Run
from pathlib import Path
from common.augmentation import Augmentation
from common.loading import loading
from segresnet_monai.config import Config
with loading("PyTorch"):
    from segresnet_monai.train import fit
told = json.loads(sys.argv[1])
tuples = lambda fields: {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
entries = [Entry(id, Path(path), tuples(geometry)) for id, path, geometry in told["entries"]]
settings = tuples(told["config"])
config = Config(**settings | {"augmentation": Augmentation(**settings.get("augmentation", {}))})
print("ready", flush=True)
with Run(told["folder"]) as run:
    fit(entries[:3], entries[3:], config, run)
print("done", flush=True)
"""


def start(entries, config, folder):
    told = {"entries": [(e.id, str(e.path), e.geometry) for e in entries], "config": config, "folder": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def weights(folder, name):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def killed_runs_end_with_the_same_bits(entries, tmp_path, *, kills, seed, settings=SMALL):
    process = start(entries, settings, tmp_path / "whole")
    process.stdout.readline()
    began = time.monotonic()
    assert process.communicate()[0] == "done\n"
    duration = time.monotonic() - began
    moments, interrupted = random.Random(seed), 0
    while interrupted < kills:
        process = start(entries, settings, tmp_path / "killed")
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(timeout=moments.uniform(0, duration))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        interrupted += 1
    process = start(entries, settings, tmp_path / "killed")
    assert process.communicate()[0].endswith("done\n")
    for name in ("last.pt", "best.pt"):
        whole, killed = weights(tmp_path / "whole", name), weights(tmp_path / "killed", name)
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[key], killed[key]) for key in whole), name
    histories = [(tmp_path / folder / "history.csv").read_text().splitlines() for folder in ("whole", "killed")]
    column = histories[0][0].split(",").index("seconds")
    drop_seconds = [[",".join(np.delete(line.split(","), column)) for line in history] for history in histories]
    assert drop_seconds[0] == drop_seconds[1]
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_a_killed_run_ends_with_the_same_bits(tiny_entries, tmp_path):
    killed_runs_end_with_the_same_bits(tiny_entries, tmp_path, kills=1, seed=0)


@pytest.mark.slow
def test_a_killed_run_of_the_winners_recipe_ends_with_the_same_bits(tiny_entries, tmp_path):
    killed_runs_end_with_the_same_bits(tiny_entries, tmp_path, kills=2, seed=3, settings=WINNERS)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SMALL, WINNERS])
def test_ten_kills_end_with_the_same_bits(tiny_entries, tmp_path, settings):
    killed_runs_end_with_the_same_bits(tiny_entries, tmp_path, kills=10, seed=1, settings=settings)


def test_training_depends_on_the_seed_and_nothing_else(tiny_entries, tmp_path):
    states = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        config = Config(**{**SMALL, "epochs": 2, "seed": seed})
        with Run(tmp_path / str(number)) as run:
            fit(tiny_entries[:3], tiny_entries[3:], config, run)
        states.append(weights(tmp_path / str(number), "last.pt"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_the_average_of_the_weights_is_what_is_kept(tiny_entries, tmp_path, monkeypatch):
    config, seen = Config(**{**WINNERS, "epochs": 3, "augmentation": Augmentation(), "precision": None}), []
    step = Training.on_train_batch_end

    def noted(module, *arguments):
        seen.append({name: value.clone() for name, value in module.network.state_dict().items()})
        step(module, *arguments)

    monkeypatch.setattr(Training, "on_train_batch_end", noted)
    with Run(tmp_path) as run:
        fit(tiny_entries[:3], tiny_entries[3:], config, run)
    assert len(seen) == 6
    expected = seen[0]
    for n, state in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = {name: decay * expected[name] + (1 - decay) * state[name] for name in state}
    kept = weights(tmp_path, "last.pt")
    assert kept.keys() == expected.keys()
    assert all(torch.allclose(kept[name], expected[name], atol=1e-6) for name in kept)
    assert any(not torch.allclose(kept[name], seen[-1][name], atol=1e-4) for name in kept)


def test_the_rate_warms_up_before_the_cosine():
    config = Config(learning_rate=0.8, epochs=10, warmup_epochs=3)
    rates = [learning_rate(config, epoch) for epoch in range(10)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[3:] == pytest.approx([learning_rate(Config(learning_rate=0.8, epochs=7), epoch) for epoch in range(7)])


def test_gradients_are_shortened_to_the_norm(tiny_entries, tmp_path):
    """Adam rescales gradients, but not their ratio from step to step: a bound that binds changes what is learned."""
    kept = {}
    for norm in (None, 1e6, 1e-3):
        config = Config(**{**SMALL, "epochs": 1, "gradient_norm": norm})
        with Run(tmp_path / str(norm)) as run:
            fit(tiny_entries[:3], tiny_entries[3:], config, run)
        kept[norm] = torch.cat([value.flatten() for value in weights(tmp_path / str(norm), "last.pt").values()])
    assert torch.allclose(kept[None], kept[1e6], atol=1e-6)
    assert not torch.allclose(kept[None], kept[1e-3], atol=1e-4)


@pytest.fixture(scope="module")
def trained(tiny_entries, tmp_path_factory):
    """A run long enough to learn the tiny cohort."""
    config = Config(
        **{**SMALL, "crop_voxels": (24, 32, 24), "epochs": 12, "crops_per_epoch": 15, "learning_rate": 5e-3}
    )
    with Run(tmp_path_factory.mktemp("trained")) as run:
        yield run, config, fit(tiny_entries[:3], tiny_entries[3:4], config, run)


def test_it_learns_an_unseen_subject(trained, tiny_entries):
    _, config, chosen = trained
    ((case, labels),) = predict(load(config, chosen), tiny_entries[4:], config)
    volume = tiny_entries[4].open()
    box = tuple(slice(b, b + n) for b, n in zip(volume.box_start, volume.box_shape, strict=True))
    truth = volume.labels() > 0
    overlap = 2 * np.count_nonzero((labels[box] > 0) & truth) / (np.count_nonzero(labels) + np.count_nonzero(truth))
    assert case == tiny_entries[4].id
    assert overlap > 0.8


def test_the_cosine_schedule_runs_over_the_whole_training(trained):
    run, config, _ = trained
    rates = run.history.frame()["learning_rate"].to_numpy()
    epochs = np.arange(config.epochs)
    np.testing.assert_allclose(
        rates, config.learning_rate * (1 + np.cos(np.pi * epochs / config.epochs)) / 2, rtol=1e-6
    )


def test_validation_is_scored_when_said_and_best_weights_have_the_best_score(trained, tiny_entries):
    run, config, chosen = trained
    history = run.history.frame()
    scored = history.dropna(subset="validation_mean_dice")
    assert scored["epoch"].tolist() == [2, 4, 6, 8, 10, 12]
    assert chosen == run.checkpoints / "best.pt"
    best = validate(load(config, chosen), tiny_entries[3:4], config)
    assert best == pytest.approx(scored["validation_mean_dice"].max(), abs=1e-9)


def test_a_finished_run_is_not_trained_again(trained, tiny_entries):
    run, config, chosen = trained
    kept = [*run.checkpoints.iterdir(), run.folder / "costs.json"]  # whose memory is that of the training
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert fit(tiny_entries[:3], tiny_entries[3:4], config, run) == chosen
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_damaged_checkpoint_is_named(tiny_entries, tmp_path):
    with Run(tmp_path) as run:
        run.checkpoints.mkdir()
        (run.checkpoints / LAST).write_bytes(b"PK\x03\x04 half a file")
        with pytest.raises(RunError, match=r"last\.ckpt: expected an intact checkpoint.*--fresh"):
            fit(tiny_entries[:3], tiny_entries[3:], Config(**SMALL), run)


def test_one_wrong_bit_is_refused_or_harmless(trained):
    """In the weights, and in the checkpoint that a training goes on from. Padding in an archive holds nothing."""
    run, config, chosen = trained

    def restored(path):
        with Epochs(run, config.epochs, checkpoint=LAST, weights=".pt").resuming() as last:
            found = torch.load(last, weights_only=True)
        return {
            **found["state_dict"],
            **{f"{k}{n}": v for k, s in found["optimizer_states"][0]["state"].items() for n, v in s.items()},
        }

    for path, read in ((chosen, lambda path: load(config, path).state_dict()), (run.checkpoints / LAST, restored)):
        intact = read(path)
        loaded = loaded_after_flips(path, read, RunError, flips=40)
        assert len(loaded) < 8
        for state in loaded:
            assert all(torch.equal(state[name], intact[name]) for name in intact)


def test_weights_and_outputs_that_are_not_finite_are_refused(trained, tiny_entries, tmp_path):
    _, config, chosen = trained
    network = load(config, chosen)
    next(network.parameters()).data[0] = float("nan")
    with pytest.raises(RunError, match=f"{tiny_entries[4].id}: expected finite outputs"):
        list(predict(network, tiny_entries[4:], config))
    torch.save(network.state_dict(), tmp_path / "best.pt")
    with pytest.raises(RunError, match=r"best\.pt: expected intact weights .* NaN or infinity among them"):
        load(config, tmp_path / "best.pt")


def test_a_training_that_diverges_says_so_and_keeps_its_last_good_epoch(tiny_entries, tmp_path, monkeypatch):
    from segresnet_monai import train

    config = Config(**{**SMALL, "epochs": 3, "validate_every": 1})
    monkeypatch.setattr(train, "learning_rate", lambda config, epoch: math.nan if epoch == 1 else 1e-3)
    with Run(tmp_path) as run, pytest.raises(RunError, match=r"finite losses, found loss nan in epoch 2"):
        fit(tiny_entries[:3], tiny_entries[3:4], config, run)
    assert [row["epoch"] for row in run.history.rows()] == ["1"]
    load(config, run.checkpoints / "best.pt")


def test_under_slurm_lightning_neither_writes_nor_takes_up_a_checkpoint_of_its_own(tiny_entries, tmp_path, monkeypatch):
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    config = Config(**{**SMALL, "epochs": 1})
    handlers, step = [], Training.training_step

    def look(module, batch, number):
        handlers.append(signal.getsignal(signal.SIGUSR1))
        return step(module, batch, number)

    monkeypatch.setattr(Training, "training_step", look)
    with Run(tmp_path / "run") as run:
        fit(tiny_entries[:3], tiny_entries[3:4], config, run)
    assert len(run.history.rows()) == 1
    assert set(handlers) == {signal.SIG_DFL}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hpc_ckpt_1.ckpt", "run"]


def scheduled(epochs, longest):
    """Rates of torch's own scheduler, epoch by epoch."""
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=longest)
    rates = []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


def test_learning_rates_are_those_of_torchs_scheduler():
    def rates(**settings):
        config = Config(learning_rate=1e-3, epochs=80, validate_every=1, **settings)
        return [learning_rate(config, epoch) for epoch in range(80)]

    first = scheduled(30, 30)
    for policy, expected in {
        "cosine_restart": first + scheduled(50, 50),
        "cosine_longer": first + scheduled(80, 80)[30:],
        "cosine_onwards": scheduled(80, 30),
        "constant_last": first + first[-1:] * 50,
    }.items():
        found = rates(continued_from=30, continued_rate=policy)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12, err_msg=policy)
    np.testing.assert_allclose(rates(), scheduled(80, 80), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("policy", ["cosine_restart", "cosine_onwards"])
def test_a_continued_run_ends_with_the_bits_of_one_long_run(tiny_entries, tmp_path, policy):
    parent = Config(**{**SMALL, "epochs": 4, "crops_per_epoch": 3})
    longer = Config(**{**SMALL, "epochs": 6, "crops_per_epoch": 3, "continued_from": 4, "continued_rate": policy})
    entries = tiny_entries[:3], tiny_entries[3:4]
    with Run(tmp_path / "parent") as run:
        fit(*entries, parent, run)
    with Run(tmp_path / "continued") as run:
        continue_from(tmp_path / "parent", longer, run)
        fit(*entries, longer, run)
        continued = run.history.frame().drop(columns="seconds")
    with Run(tmp_path / "whole") as run:
        fit(*entries, longer, run)
        whole = run.history.frame().drop(columns="seconds")
    assert whole["learning_rate"][4] == pytest.approx(SMALL["learning_rate"] if policy == "cosine_restart" else 0)
    for name in ("last.pt", "best.pt"):
        states = [weights(tmp_path / folder, name) for folder in ("continued", "whole")]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name
    assert continued.equals(whole)
    # A second start goes on from its own checkpoint, not from the parent's again.
    before = (tmp_path / "continued" / "checkpoints" / LAST).read_bytes()
    with Run(tmp_path / "continued") as run:
        continue_from(tmp_path / "parent", longer, run)
    assert (tmp_path / "continued" / "checkpoints" / LAST).read_bytes() == before


def test_a_parent_that_has_not_trained_enough_is_not_continued(trained, tmp_path):
    parent, _, _ = trained
    config = Config(**{**SMALL, "epochs": 20, "continued_from": 14})
    with Run(tmp_path) as run, pytest.raises(RunError, match="expected 14 trained epochs to continue, found 12"):
        continue_from(parent.folder, config, run)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "gwdl", "initial_probability": 0.01},
        {"loss": "hausdorff"},
        {"loss": "dice_hausdorff"},
        {"vae": True, "recompute_activations": True, "slices": (6, 32), "extent": (40, 48, 36)},
    ],
)
def test_every_variation_trains_and_resumes_with_the_same_bits(tiny_entries, tmp_path, changes):
    """The autoencoder's noise and the slices are functions of the seed, as crops and dropout are."""
    config = Config(**{**SMALL, "epochs": 2, **changes})
    states = []
    for folder in ("whole", "stopped"):
        with Run(tmp_path / folder) as run:
            if folder == "stopped":
                stop_after_first_epoch(tiny_entries, config, run)
            fit(tiny_entries[:3], tiny_entries[3:4], config, run)
            losses = run.history.frame()["loss"]
            assert np.isfinite(losses).all()
        states.append(weights(tmp_path / folder, "last.pt"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def stop_after_first_epoch(entries, config, run):
    from segresnet_monai import train

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        # The first thing that happens in the second epoch.
        patch.setattr(
            train, "learning_rate", lambda config, epoch: stop() if epoch == 1 else learning_rate(config, epoch)
        )
        with pytest.raises(Stopped):
            fit(entries[:3], entries[3:4], config, run)
    assert len(run.history.rows()) == 1


def test_the_autoencoders_loss_has_its_weight(tiny_entries, tmp_path):
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        config = Config(**{**SMALL, "epochs": 1, "crops_per_epoch": 1, "vae": True, "vae_weight": weight})
        with Run(tmp_path / str(weight)) as run:
            fit(tiny_entries[:3], tiny_entries[3:4], config, run)
            losses[weight] = run.history.frame()["loss"][0]
    assert losses[1.0] - losses[0.5] == pytest.approx(losses[0.5] - losses[0.0], rel=1e-4)
    assert losses[0.5] - losses[0.0] > 0.1

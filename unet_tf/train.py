"""Training with Keras' ``fit``: order and dropout are functions of (seed, epoch), so a killed run resumes exactly."""

import contextlib
import importlib.util
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from common import costs
from common.epochs import Epochs
from common.files import atomic_path, seal
from common.metrics import dice
from common.picture import PROGRESS, draw_progress
from common.prepared import Entry
from common.processes import group
from common.recipe import Volume
from common.runs import Run, RunError
from unet_tf.config import Config
from unet_tf.data import Batches
from unet_tf.devices import gpu_peak_mib, policy, shared
from unet_tf.inference import build, decode, probabilities
from unet_tf.losses import LOSSES, accuracy, mean_dice
from unet_tf.model import convolutions

LAST = "last.npz"


def fit(train: Sequence[Entry], validation: Sequence[Entry], config: Config, run: Run) -> Path:
    """Train, or go on from the run's last finished epoch, and return the path of the chosen weights.

    The final weights depend on the entries and the configuration only: on the same CPU a run that was killed and
    started again ends with the same bits as one that was not. Raises RunError when the last checkpoint is damaged or of
    another backend, a loss is not finite, a file cannot be written, or when the backend or this host cannot train as
    the configuration asks. Several processes (:func:`common.processes.together`) end with the weights of one but for
    the last digits.
    """
    group().call(fit, train, validation, config, run=run)
    batches = Batches(train, config, shuffle=True)
    epochs = Epochs(run, config.epochs, checkpoint=LAST, weights=".weights.h5")
    callbacks: list[keras.callbacks.Callback]
    if config.crop_voxels is not None:
        record, checked = Record(epochs, config, batches, validation), None
        callbacks = [record]
    else:
        stopper = keras.callbacks.EarlyStopping(
            monitor="val_loss", mode="min", patience=config.patience or config.epochs, min_delta=config.minimum_delta
        )
        record = Record(epochs, config, batches, validation, stopper)
        callbacks = [stopper, record]
        # One subject at a time (the same one on every device), so that Keras' mean over batches is that over subjects.
        devices = config.devices * config.nodes
        one_by_one = replace(config, batch_size=devices)
        repeated = [entry for entry in validation for _ in range(devices)]
        checked = Batches(repeated, one_by_one, shuffle=False)
    # Keras' TensorBoard callback writes with TensorFlow on every backend.
    if run.writes and importlib.util.find_spec("tensorflow"):
        # Before the record: an epoch that a kill repeats is written twice, none is missing.
        callbacks.insert(-1, keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    with shared(config):
        network = compiled(config)
        with epochs.resuming() as last:
            last = group().agreed(last)
            first = 0 if last is None else record.restore(last, network)
            if first < config.epochs:
                network.fit(
                    batches,
                    validation_data=checked,
                    initial_epoch=first,
                    epochs=config.epochs,
                    shuffle=False,
                    verbose=0,
                    callbacks=callbacks,
                )
    weights = run.checkpoints / f"{config.checkpoint}.weights.h5"
    if not run.writes:
        return weights
    one_slice = convolutions(build(config), (*config.grid_voxels[: config.spatial_dims], config.channels))
    costs.record_training(
        run,
        parameters=network.count_params(),
        convolutions=one_slice * (config.grid_voxels[2] if config.spatial_dims == 2 else 1),
        gpu_peak_mib=gpu_peak_mib(),
        first_epoch=epochs.first,
        precision=policy(config).removeprefix("mixed_"),
    )
    return weights


def compiled(config: Config) -> keras.Model:
    """The network with its initial weights, ready to be trained."""
    network = build(config)
    optimiser = _optimiser(config)
    if policy(config) == "mixed_float16":  # Keras does it only where the whole model, not each layer, has this policy
        optimiser = keras.optimizers.LossScaleOptimizer(optimiser)
    network.compile(
        optimizer=optimiser,
        # (1,), for Keras divides a vector's mean among the devices, but not a scalar
        loss=lambda labels, probabilities: keras.ops.reshape(LOSSES[config.loss](labels, probabilities), (1,)),
        metrics=[accuracy, mean_dice] if config.targets == "classes" else [],
        jit_compile=config.jit_compile or keras.backend.backend() == "jax",
    )
    optimiser.build(network.trainable_variables)
    # Loss and metrics are built here, on one voxel. Else fit builds them from a batch of its loader (JAX, torch), whose
    # threads have then read ahead: the first epoch would begin in the middle of the order of epoch 0.
    voxel = (1,) * (config.spatial_dims + 1)
    labels = keras.ops.zeros(voxel, "uint8")
    outputs = keras.ops.full((*voxel, network.output_shape[-1]), 1 / network.output_shape[-1])
    network.compute_loss(y=labels, y_pred=outputs)
    network.compute_metrics(None, labels, outputs)
    return network


class AveragingAdam(keras.optimizers.Adam):
    """Adam with Keras' exponential average of the weights, which here starts as timm and TensorFlow start theirs.

    After n steps no more than 9 / (n + 10) of the first weights are left.
    """

    @property
    def ema_momentum(self) -> keras.KerasTensor:
        steps = keras.ops.cast(self.iterations, "float32")
        return keras.ops.minimum(self._decay, (1 + steps) / (10 + steps))

    @ema_momentum.setter
    def ema_momentum(self, decay: float) -> None:
        self._decay = decay


def _optimiser(config: Config) -> keras.optimizers.Optimizer:
    settings = {"weight_decay": config.weight_decay or None, "global_clipnorm": config.gradient_norm}
    if config.weight_average is None:
        return keras.optimizers.Adam(config.learning_rate, **settings)
    return AveragingAdam(config.learning_rate, use_ema=True, ema_momentum=config.weight_average, **settings)


def learning_rate(config: Config, epoch: int) -> float:
    """Adam's learning rate in an epoch, counted from 0; warm-up, where there is any, comes before the cosine."""
    if config.schedule == "constant":
        return config.learning_rate
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 1) / (config.warmup_epochs + 1)
    done = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


@contextlib.contextmanager
def averaged(network: keras.Model, config: Config) -> Iterator[None]:
    """The average of a network's weights, where its optimiser keeps one, in place of the last ones."""
    if config.weight_average is None:  # Of several processes one asks, and putting weights back would take all.
        yield
        return
    weights = network.get_weights()
    network.optimizer.finalize_variable_values(network.trainable_variables)
    # As copies: on JAX the network would share the average's own arrays, which a prediction gives up.
    network.set_weights([value.copy() for value in network.get_weights()])
    try:
        yield
    finally:
        network.set_weights(weights)


def validate(network: keras.Model, entries: Sequence[Entry], config: Config, picture: Path | None = None) -> float:
    """Mean Dice over NCR, ED and ET and over subjects, on the network's grid; a class rightly not found counts 1.

    picture: where the first subject's prediction is drawn, beside its truth.
    """
    scores = []
    for entry in entries:
        volume = entry.open()
        predicted, truth = predict_box(network, volume, config), volume.labels()
        scores += [np.nan_to_num(dice(predicted == value, truth == value), nan=1.0) for value in (1, 2, 3)]
        if picture is not None and entry is entries[0]:
            draw_progress(picture, volume, predicted)
    return float(np.mean(scores))


def predict_box(network: keras.Model, volume: Volume, config: Config) -> np.ndarray:
    """Classes uint8 (x, y, z) of the brain's box on the network's grid, not cleaned."""
    found = probabilities(network, volume, config)
    if config.crop_voxels is None:
        found = found[:, *volume.box]
    return decode(found, config, config.probability_threshold, voxel_ml=volume.voxel_ml)


class Record(keras.callbacks.Callback):
    """Before each epoch: order and dropout. After it: tells the epochs what Keras found, and what last.npz holds.

    With random crops it scores the validation subjects itself; without, Keras has done so, and the stopper watches. The
    first of them is drawn.
    """

    def __init__(
        self,
        epochs: Epochs,
        config: Config,
        batches: Batches,
        validation: Sequence[Entry],
        stopper: keras.callbacks.EarlyStopping | None = None,
    ) -> None:
        super().__init__()
        self.epochs, self.config, self.batches, self.stopper = epochs, config, batches, stopper
        self.validation = validation
        self.progress = {"epoch": 0, "best_loss": None, "stopped": False, "backend": keras.backend.backend()}

    def restore(self, path: Path, network: keras.Model) -> int:
        """Take up last.npz; returns the first epoch to train, counted from 0 (all of them when training is over).

        Raises ValueError when the file belongs to another network or backend, and whatever its reading raises.
        """
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            progress = json.loads(str(saved["progress"]))
            if (backend := progress["backend"]) != keras.backend.backend():
                raise ValueError(f"a training on the {backend} backend, this is {keras.backend.backend()}")
            values = [saved[str(index)] for index in range(len(saved.files) - 1)]
        if [value.shape for value in values] != [tuple(variable.shape) for variable in _state(network)]:
            raise ValueError("the weights of another network")
        for variable, value in zip(_state(network), values, strict=True):
            variable.assign(value)
        self.progress = progress
        self.epochs.best = None if progress["best_loss"] is None else (-progress["best_loss"],)
        return self.config.epochs if progress["stopped"] else progress["epoch"]

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.stopper and self.progress["epoch"]:  # the stopper has just forgotten what it knew
            self.stopper.best, self.stopper.wait = self.progress["stopper_best"], self.progress["stopper_wait"]
        self.epochs.begin(done=self.progress["epoch"], steps=len(self.batches))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.batches.epoch = epoch
        self.model.optimizer.learning_rate = learning_rate(self.config, epoch)
        for index, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                seeds = np.random.SeedSequence([self.config.seed, epoch, index]).generate_state(2)
                layer.seed_generator.state.assign(seeds)
        self.epochs.start()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.epochs.step()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = {"learning_rate": learning_rate(self.config, epoch)}
        row |= {name.replace("val_", "validation_"): float(value) for name, value in logs.items()}
        picture = self.epochs.run.figures / PROGRESS
        if self.stopper:
            score = (-row["validation_loss"],)
        elif (epoch + 1) % self.config.validate_every == 0 or epoch + 1 == self.config.epochs:
            self.epochs.check_finite(loss=row["loss"])
            with averaged(self.model, self.config):
                row["validation_mean_dice"] = validate(self.model, self.validation, self.config, picture)
            score = (row["validation_mean_dice"],)
        else:
            score = None
        row = self.epochs.finish(
            row, score=score, save_weights=self._save_weights, save_checkpoint=self._save, save_last=True
        )
        # On several devices a batch is dealt out, and one subject is none that can be.
        if self.stopper and self.config.devices * self.config.nodes == 1:
            volume = self.validation[0].open()
            draw_progress(picture, volume, predict_box(self.model, volume, self.config))
        shown = "validation_loss" if self.stopper else "validation_mean_dice"
        self.epochs.show(loss=row["loss"], **{shown: row.get(shown)})

    def _save_weights(self, path: Path) -> None:
        with averaged(self.model, self.config):
            save_weights(path, self.model)

    def _save(self, path: Path) -> None:
        self.progress |= {
            "epoch": self.epochs.epoch,
            "best_loss": -self.epochs.best[0] if self.epochs.best else None,
            "stopped": bool(self.model.stop_training),
        }
        if self.stopper:
            self.progress |= {"stopper_best": float(self.stopper.best), "stopper_wait": self.stopper.wait}
        if not self.epochs.run.writes:
            return
        state = {str(index): keras.ops.convert_to_numpy(v) for index, v in enumerate(_state(self.model))}
        with path.open("wb") as file:
            np.savez(file, progress=json.dumps(self.progress), **state)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.epochs.end()


def save_weights(path: Path, network: keras.Model) -> None:
    """Weights without the optimiser, which Keras writes along with a compiled network: three times the bytes.

    Raises RunError when one is not finite, which a loss need not show: some kernels of relu make NaN 0.
    """
    if not all(np.isfinite(value).all() for value in network.get_weights()):
        raise RunError(f"{path}: expected finite weights, found NaN or infinity; lower the learning rate")
    # Keras insists on the suffix. Always the same name: what a kill leaves here, the repeated epoch overwrites.
    unfinished = path.with_name(".unfinished.weights.h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.Model(network.inputs, network.outputs).save_weights(unfinished)
    seal(unfinished)
    with atomic_path(path) as temporary:
        unfinished.rename(temporary)


def _state(network: keras.Model) -> list[keras.Variable]:
    """Weights and what the optimiser keeps, in a fixed order."""
    return [*network.variables, *network.optimizer.variables]

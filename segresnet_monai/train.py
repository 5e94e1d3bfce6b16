"""Training with Lightning: cosine schedule, mixed precision on a GPU, best and last weights, exact resume."""

import logging
import math
import pickle
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tqdm import tqdm

from common import costs
from common.files import atomic_path
from common.metrics import dice
from common.prepared import Entry
from common.runs import History, Run, RunError
from segresnet_monai.config import Config
from segresnet_monai.data import to_channels, training_loader
from segresnet_monai.losses import DiceHausdorff, build_loss
from segresnet_monai.model import convolutions
from segresnet_monai.predict import build, decode_labels, default_device, probabilities

# Weights, optimiser, loss scale and best score; Lightning keeps no random state and none is needed.
LAST = "last.ckpt"
IRRELEVANT_WARNINGS = (
    r".*LeafSpec.* is deprecated",  # Lightning's own use of PyTorch
    r".*does not have many workers",  # crops come from memory maps
    r".*smaller than the logging interval",  # nothing is logged by step
    r".*exists and is not empty",  # a resumed run
)


def fit(train: Sequence[Entry], validation: Sequence[Entry], config: Config, run: Run) -> Path:
    """Train, or go on from the run's last finished epoch, and return the path of the chosen weights.

    The final weights depend on the entries and the configuration only: on the same CPU a run that was killed and
    started again ends with the same bits as one that was not. Raises RunError when the last checkpoint is damaged.
    """
    device = default_device()
    last = run.checkpoints / LAST
    last.parent.mkdir(parents=True, exist_ok=True)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device announcements, once per start
    record = Record(run, validation, config)
    trainer = L.Trainer(
        accelerator=device.type,
        devices=1,
        precision="16-mixed" if config.mixed_precision and device.type == "cuda" else "32-true",
        benchmark=device.type == "cuda",  # every crop has the same size, so cuDNN's search pays
        max_epochs=config.epochs,
        callbacks=[record],
        logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = training_loader(train, config, pin_memory=device.type == "cuda")
    try:
        with warnings.catch_warnings():
            for message in IRRELEVANT_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(Training(config), loader, ckpt_path=last if last.exists() else None, weights_only=True)
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        if record.started:
            raise
        raise RunError(f"{last}: expected an intact checkpoint, found: {error}; --fresh starts over") from error
    if record.started or not (run.folder / "costs.json").exists():  # the memory is that of a training
        network = build(config)
        costs.record_training(
            run,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            convolutions=convolutions(network, (len(config.contrasts), *config.crop_voxels)),
            gpu_peak_mib=torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
            first_epoch=record.first_epoch,
        )
    return run.checkpoints / f"{config.checkpoint}.pt"


def continue_from(parent: Path, config: Config, run: Run) -> None:
    """Start a run, if it has no checkpoint yet, where the finished run at ``parent`` ended.

    Weights, optimiser, best score and history are the parent's: with a configuration that differs from the parent's in
    ``epochs``, ``continued_from`` and its rate only, ``fit`` then ends as if it had trained all epochs itself.
    Raises RunError when the parent has not trained ``config.continued_from`` epochs.
    """
    last = run.checkpoints / LAST
    if last.exists():
        return
    trained = [int(row["epoch"]) for row in History(parent / "history.csv").rows()]
    if max(trained, default=0) != config.continued_from:
        raise RunError(
            f"{parent}: expected {config.continued_from} trained epochs to continue, found {max(trained, default=0)}"
        )
    for name in ("history.csv", "checkpoints/best.pt", f"checkpoints/{LAST}"):
        with atomic_path(run.folder / name) as temporary:
            shutil.copyfile(parent / name, temporary)


def learning_rate(config: Config, epoch: int) -> float:
    """Adam's learning rate in an epoch, counted from 0: a cosine from its start to 0, as CosineAnnealingLR has it.

    Where the training continues another, ``config.continued_rate`` says what follows that one's cosine.
    """
    first = config.continued_from or config.epochs
    if epoch < first or config.continued_rate == "cosine_onwards":
        done = epoch / first
    elif config.continued_rate == "cosine_restart":
        done = (epoch - first) / (config.epochs - first)
    elif config.continued_rate == "cosine_longer":
        done = epoch / config.epochs
    else:
        done = (first - 1) / first
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def validate(network: torch.nn.Module, entries: Sequence[Entry], config: Config) -> float:
    """Mean Dice over NCR, ED and ET and over subjects, on the network's grid; a class rightly not found counts 1."""
    network.eval()
    scores = []
    for entry in entries:
        volume = entry.open()
        predicted = decode_labels(probabilities(network, volume, config).cpu().numpy(), config.label_threshold)
        truth = volume.labels()
        scores += [np.nan_to_num(dice(predicted == value, truth == value), nan=1.0) for value in (1, 2, 3)]
    network.train()
    return float(np.mean(scores))


def save_weights(path: Path, network: torch.nn.Module) -> None:
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)


class Training(L.LightningModule):
    """One training step as the report describes it; dropout is a function of (seed, epoch, step)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = build(config)
        self.loss = build_loss(config.loss)

    def training_step(self, batch: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, self.current_epoch, step]).generate_state(1)[0])
        )
        image, channels = batch["image"].contiguous(memory_format=torch.channels_last_3d), to_channels(batch["labels"])
        if not self.config.vae:
            return self.loss(self.network(image), channels)
        logits, vae_loss = self.network(image)
        return self.loss(logits, channels) + self.config.vae_weight * vae_loss

    def on_train_epoch_start(self) -> None:
        # A function of the epoch, not a scheduler's state: a continued run has another schedule than its checkpoint.
        for group in self.optimizers().param_groups:
            group["lr"] = learning_rate(self.config, self.current_epoch)
        if isinstance(self.loss, DiceHausdorff):
            self.loss.start_epoch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)


class Record(Callback):
    """After each epoch: score the validation subjects, write best.pt, history.csv and last.ckpt, show progress.

    last.ckpt is written last of all. A kill between two of these files therefore repeats the epoch, which gives the
    same weights, and writes the same files again.
    """

    def __init__(self, run: Run, validation: Sequence[Entry], config: Config) -> None:
        self.run, self.validation, self.config = run, validation, config
        self.started, self.first_epoch = False, 1
        self.best = -1.0
        self.losses: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        self.started, self.first_epoch = True, trainer.current_epoch + 1
        steps = trainer.num_training_batches
        total, done = self.config.epochs * steps, trainer.current_epoch * steps
        self.bar = tqdm(total=total, initial=done, desc="training", unit="step", dynamic_ncols=True)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        self.losses.clear()
        self.epoch_began = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, *_: object) -> None:
        self.losses.append(outputs["loss"].detach())
        self.bar.update()

    def on_train_epoch_end(self, trainer: L.Trainer, module: Training) -> None:
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, "learning_rate": learning_rate(self.config, trainer.current_epoch)}
        row |= {"loss": float(torch.stack(self.losses).mean())}
        row |= {"steps": trainer.num_training_batches, "seconds": round(time.monotonic() - self.epoch_began, 3)}
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            row["validation_mean_dice"] = validate(module.network, self.validation, self.config)
            if row["validation_mean_dice"] > self.best:
                self.best = row["validation_mean_dice"]
                save_weights(self.run.checkpoints / "best.pt", module.network)
        if epoch == self.config.epochs:
            save_weights(self.run.checkpoints / "last.pt", module.network)
        self.run.history.append(row)
        trainer.logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)
        with atomic_path(self.run.checkpoints / LAST) as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)
        self.bar.set_postfix(epoch=epoch, loss=f"{row['loss']:.3f}", best_dice=f"{max(self.best, 0):.3f}")

    def on_train_end(self, *_: object) -> None:
        self.bar.close()

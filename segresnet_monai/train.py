"""Training with Lightning: cosine schedule, mixed precision on a GPU, best and last weights, exact resume."""

import logging
import math
import pickle
import shutil
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim.swa_utils import AveragedModel

from common import costs
from common.epochs import Epochs
from common.files import atomic_path, check_archive
from common.metrics import dice
from common.picture import PROGRESS, draw_progress
from common.precision import LIGHTNING, resolve
from common.prepared import Entry
from common.processes import group
from common.runs import History, Run, RunError
from segresnet_monai.config import Config
from segresnet_monai.data import to_channels, training_loader
from segresnet_monai.distributed import draw_together, step_size, trainer_settings, whole
from segresnet_monai.inference import build, decode, default_device, probabilities, read_weights
from segresnet_monai.losses import DiceHausdorff, build_loss, deeply_supervised
from segresnet_monai.model import convolutions
from segresnet_monai.start import HEAD, Start

# Weights, optimiser, loss scale and best score; Lightning keeps no random state and none is needed.
LAST = "last.ckpt"
IRRELEVANT_WARNINGS = (
    r".*LeafSpec.* is deprecated",  # Lightning's own use of PyTorch
    r".*does not have many workers",  # crops come from memory maps
    r".*smaller than the logging interval",  # nothing is logged by step
    r".*exists and is not empty",  # a resumed run
    r".*srun.* command is available",  # where Slurm is installed
    r".*Grad strides do not match",  # of kernels of one voxel among several processes, a few numbers each
)


def fit(
    train: Sequence[Entry], validation: Sequence[Entry], config: Config, run: Run, *, start: Start | None = None
) -> Path:
    """Train, or go on from the run's last finished epoch, and return the path of the chosen weights.

    start: another run's weights to begin with, in place of random ones; read once, for the first epoch.
    The final weights depend on the entries and the configuration only: on the same CPU a run that was killed and
    started again ends with the same bits as one that was not. Several processes (:func:`common.processes.together`) end
    with those weights but for the last digits. Raises RunError when the last checkpoint is damaged, a loss or an output
    is not finite, a file cannot be written, the device lacks the precision, or processes are missing.
    """
    group().call(partial(fit, start=start), train, validation, config, run=run)
    device = default_device()
    try:
        precision = resolve(config.precision, mixed_precision=config.mixed_precision, gpu=device.type == "cuda")
    except ValueError as error:
        raise RunError(str(error)) from None
    precision = group().agreed(precision)  # auto depends on a node's processors
    epochs = Epochs(run, config.epochs, checkpoint=LAST, weights=".pt")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # device announcements, once per start
    trainer = L.Trainer(
        accelerator=device.type,
        **trainer_settings(config, Record(epochs, validation, config)),
        default_root_dir=run.folder,
        precision=LIGHTNING[precision],
        benchmark=device.type == "cuda",  # every crop has the same size, so cuDNN's search pays
        gradient_clip_val=config.gradient_norm,
        max_epochs=config.epochs,
        logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = training_loader(train, config, pin_memory=device.type == "cuda")
    with warnings.catch_warnings(), epochs.resuming() as last:
        for message in IRRELEVANT_WARNINGS:
            warnings.filterwarnings("ignore", message)
        last = group().agreed(last)
        trainer.fit(Training(config, start if last is None else None), loader, ckpt_path=last, weights_only=True)
    weights = run.checkpoints / f"{config.checkpoint}.pt"
    if not run.writes:
        return weights
    network = build(config)
    costs.record_training(
        run,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        convolutions=convolutions(network, (len(config.contrasts), *config.crop_voxels)),
        gpu_peak_mib=torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
        first_epoch=epochs.first,
        precision=precision,
    )
    return weights


def continue_from(parent: Path, config: Config, run: Run) -> None:
    """Start a run, if it has no checkpoint yet, where the finished run at ``parent`` ended.

    Weights, optimiser, best score and history are the parent's: with a configuration that differs from the parent's in
    ``epochs``, ``continued_from`` and its rate only, ``fit`` then ends as if it had trained all epochs itself.
    Raises RunError when the parent has not trained ``config.continued_from`` epochs, or its files are damaged.
    """
    last = run.checkpoints / LAST
    if last.exists():
        return
    trained = [int(row["epoch"]) for row in History(parent / "history.csv").rows()]
    if max(trained, default=0) != config.continued_from:
        raise RunError(
            f"{parent}: expected {config.continued_from} trained epochs to continue, found {max(trained, default=0)}"
        )
    for path in (parent / "checkpoints" / "best.pt", parent / "checkpoints" / LAST):
        try:
            check_archive(path)
        except (ValueError, OSError) as error:
            raise RunError(f"{path}: expected an intact file to continue from, found: {error}") from error
    for name in ("history.csv", "checkpoints/best.pt", f"checkpoints/{LAST}"):
        with atomic_path(run.folder / name) as temporary:
            shutil.copyfile(parent / name, temporary)


def start_from(start: Start, network: torch.nn.Module) -> None:
    """Give a network the weights of another run; outputs that mean something else, or are new, stay as they are.

    Raises RunError when the file is damaged, is not the one that was found first, or fits another network.
    """
    path = start.weights()
    with torch.no_grad():
        try:
            found = read_weights(path)
            for name, parameter in network.named_parameters():
                if HEAD.search(name) and (start.new_outputs or name not in found):
                    continue
                if found[name].shape != parameter.shape or not found[name].isfinite().all():
                    raise ValueError(f"{name} of shape {tuple(found[name].shape)}, or with NaN or infinity in it")
                parameter.copy_(found[name])
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise RunError(f"{path}: expected intact weights of this network to start from, found: {error}") from error


def learning_rate(config: Config, epoch: int) -> float:
    """Adam's learning rate in an epoch, counted from 0: a cosine from its start to 0, as CosineAnnealingLR has it.

    Warm-up, where there is any, comes before the cosine.
    Where the training continues another, ``config.continued_rate`` says what follows that one's cosine.
    """
    if epoch < config.warmup_epochs:
        return config.learning_rate * (epoch + 1) / (config.warmup_epochs + 1)
    epoch, total = epoch - config.warmup_epochs, config.epochs - config.warmup_epochs
    first = config.continued_from or total
    if epoch < first or config.continued_rate == "cosine_onwards":
        done = epoch / first
    elif config.continued_rate == "cosine_restart":
        done = (epoch - first) / (total - first)
    elif config.continued_rate == "cosine_longer":
        done = epoch / total
    else:
        done = (first - 1) / first
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def validate(network: torch.nn.Module, entries: Sequence[Entry], config: Config, picture: Path | None = None) -> float:
    """Mean Dice over NCR, ED and ET and over subjects, on the network's grid; a class rightly not found counts 1.

    picture: where the first subject's prediction is drawn, beside its truth.
    """
    network.eval()

    def of(share: Sequence[Entry]) -> list[list[float]]:
        return [_scores(network, entry, config, picture if entry is entries[0] else None) for entry in share]

    scores = group().in_shares(entries, of)
    network.train()
    return float(np.mean(scores))


def _scores(network: torch.nn.Module, entry: Entry, config: Config, picture: Path | None) -> list[float]:
    volume = entry.open()
    probability = probabilities(network, volume, config).cpu().numpy()
    predicted = decode(probability, config, voxel_ml=volume.voxel_ml)
    truth = volume.labels()
    if picture is not None:
        draw_progress(picture, volume, predicted)
    return [float(np.nan_to_num(dice(predicted == value, truth == value), nan=1.0)) for value in (1, 2, 3)]


def save_weights(path: Path, network: torch.nn.Module) -> None:
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)


class Training(L.LightningModule):
    """One training step as the report describes it; dropout is a function of (seed, epoch, step, crop)."""

    def __init__(self, config: Config, start: Start | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = build(config)
        if start is not None:
            start_from(start, self.network)
        loss = build_loss(config.loss)
        self.loss = deeply_supervised(loss) if config.supervised_levels > 1 else loss
        self.average = (
            None if config.weight_average is None else AveragedModel(self.network, multi_avg_fn=self._average)
        )
        if config.devices * config.nodes > 1:
            draw_together(self.network, lambda: self.n)
            if self.average is not None:
                self.average.requires_grad_(False)  # DDP waits for the gradient of whatever may have one

    @property
    def trained(self) -> torch.nn.Module:
        """What has been learned so far: the network, or the average of its weights."""
        return self.network if self.average is None else self.average.module

    def training_step(self, batch: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, self.current_epoch, step]).generate_state(1)[0])
        )
        self.n = step_size(self.trainer, step)
        image, channels = (
            batch["image"].contiguous(memory_format=torch.channels_last_3d),
            to_channels(whole(batch["labels"], self.n), self.config.targets),
        )
        if self.config.supervised_levels > 1:
            return self.loss([whole(level, self.n) for level in self.network(image)], channels)
        if not self.config.vae:
            return self.loss(whole(self.network(image), self.n), channels)
        logits, vae_loss = self.network(image)
        return self.loss(logits, channels) + self.config.vae_weight * vae_loss

    def on_train_batch_end(self, *_: object) -> None:
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _average(self, averages: list[torch.Tensor], weights: list[torch.Tensor], steps: torch.Tensor) -> None:
        # As timm and TensorFlow start it: after n steps no more than 9 / (n + 10) of the first weights are left.
        decay = min(self.config.weight_average, (1 + float(steps)) / (10 + float(steps)))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def on_train_epoch_start(self) -> None:
        # A function of the epoch, not a scheduler's state: a continued run has another schedule than its checkpoint.
        for parameters in self.optimizers().param_groups:
            parameters["lr"] = learning_rate(self.config, self.current_epoch)
        if isinstance(self.loss, DiceHausdorff):
            self.loss.start_epoch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        settings = {"lr": self.config.learning_rate}
        # The fused optimiser unscales float16 gradients by itself, too late to clip them.
        settings |= {"fused": True} if self.config.gradient_norm is None else {"foreach": True}
        if self.config.weight_decay:
            return torch.optim.AdamW(self.network.parameters(), weight_decay=self.config.weight_decay, **settings)
        return torch.optim.Adam(self.network.parameters(), **settings)


class Record(Callback):
    """Tells the epochs what Lightning does, and scores the validation subjects after those that ask for it."""

    def __init__(self, epochs: Epochs, validation: Sequence[Entry], config: Config) -> None:
        self.epochs, self.validation, self.config = epochs, validation, config
        self.losses: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, float]:
        return {"best": self.epochs.best[0] if self.epochs.best else -1.0}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.epochs.best = (state_dict["best"],)

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        self.epochs.begin(done=trainer.current_epoch, steps=trainer.num_training_batches)

    def on_train_epoch_start(self, *_: object) -> None:
        self.losses.clear()
        self.epochs.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, *_: object) -> None:
        self.losses.append(outputs["loss"].detach())
        self.epochs.step()

    def on_train_epoch_end(self, trainer: L.Trainer, module: Training) -> None:
        epoch, score = self.epochs.epoch, None
        row = {"learning_rate": learning_rate(self.config, epoch - 1), "loss": float(torch.stack(self.losses).mean())}
        self.epochs.trained()
        self.epochs.check_finite(loss=row["loss"])
        if epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            row["validation_mean_dice"] = validate(
                module.trained, self.validation, self.config, self.epochs.run.figures / PROGRESS
            )
            score = (row["validation_mean_dice"],)
        row = self.epochs.finish(
            row,
            score=score,
            save_weights=lambda path: save_weights(path, module.trained),
            save_checkpoint=lambda path: trainer.save_checkpoint(path, weights_only=False),
            save_last=epoch == self.config.epochs,
        )
        trainer.logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)
        best = self.epochs.best[0] if self.epochs.best else -1
        self.epochs.show(loss=row["loss"], best_validation_dice=best if best >= 0 else None)

    def on_train_end(self, *_: object) -> None:
        self.epochs.end()

"""Training with Lightning: Adam on binary cross entropy, best or last weights, a threshold, exact resume."""

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from common import costs
from common.classification import best_threshold, predicted_positive, roc_auc
from common.epochs import Epochs
from common.files import atomic_path, write_json
from common.precision import LIGHTNING, resolve
from common.processes import Shares, group
from common.runs import Run, RunError
from common.signals import end_with_parent
from mgmt_classifier.config import Config
from mgmt_classifier.data import Batches, Entry, Order, Slices
from mgmt_classifier.distributed import compute_together, step_size, trainer_settings, whole
from mgmt_classifier.inference import build, default_device, load, logits, probability, to_device
from mgmt_classifier.model import convolutions

Labelled = tuple[Entry, int]

# Weights, optimiser, loss scale and best scores; Lightning keeps no random state and none is needed.
LAST = "last.ckpt"
NO_VALIDATION_THRESHOLD = 0.5  # nothing to choose a better one on
IRRELEVANT_WARNINGS = (
    r".*LeafSpec.* is deprecated",  # Lightning's own use of PyTorch
    r".*does not have many workers",  # slices come from memory maps
    r".*smaller than the logging interval",  # nothing is logged by step
    r".*exists and is not empty",  # a resumed run
    r".*srun.* command is available",  # where Slurm is installed
    r".*Grad strides do not match",  # of kernels of one voxel among several processes, a few numbers each
)


def fit(config: Config, train: Sequence[Labelled], validation: Sequence[Labelled], run: Run) -> None:
    """Train, or go on from the run's last finished epoch; then search the threshold with the kept weights.

    train, validation: prepared patients with labels 0 or 1. Writes history.csv, checkpoints/best.pt (the epoch with the
    highest validation accuracy at 0.5; of equal ones the lowest validation loss, then the earliest), last.pt,
    costs.json, and threshold.json: the threshold and the validation patients' probabilities.
    The weights depend on the patients and the configuration only: on the same CPU a run that was killed and started
    again ends with the same bits as one that was not. Several processes (:func:`common.processes.together`) end with
    those weights but for the last digits. Raises ValueError when a part lacks a class, or validation is empty while the
    best epoch is to be kept; RunError when the last checkpoint is damaged, a loss or an output is not finite, a file
    cannot be written, the device lacks the precision, or processes are missing.
    """
    _check(config, train, validation)
    group().call(fit, config, train, validation, run=run)
    device = default_device()
    try:
        precision = resolve(config.precision, mixed_precision=config.mixed_precision, gpu=device.type == "cuda")
    except ValueError as error:
        raise RunError(str(error)) from None
    precision = group().agreed(precision)  # auto depends on a node's processors
    epochs = Epochs(run, config.epochs, checkpoint=LAST, weights=".pt", description=f"training {config.contrast}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # device announcements, once per start
    trainer = L.Trainer(
        accelerator=device.type,
        **trainer_settings(config, Record(epochs, validation, config)),
        default_root_dir=run.folder,
        precision=LIGHTNING[precision],
        benchmark=device.type == "cuda",  # nearly every batch has the same size, so cuDNN's search pays
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
        trainer.fit(Training(config), loader, ckpt_path=group().agreed(last), weights_only=True)
    if not run.writes:
        return
    write_threshold(config, validation, run)
    network = build(config)
    costs.record_training(
        run,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        convolutions=convolutions(network, (1, config.images, *config.image_size)),
        gpu_peak_mib=torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
        first_epoch=epochs.first,
        precision=precision,
    )


def training_loader(train: Sequence[Labelled], config: Config, *, pin_memory: bool = False) -> DataLoader:
    """Batches of training patients, of each this process' share. Loader processes live as long as the training and read
    ahead of it."""
    samples = Slices(train, intensity=config.intensity, flip_probability=config.flip_probability, seed=config.seed)
    return DataLoader(
        samples,
        batch_sampler=Shares(Batches(Order(len(train), seed=config.seed), batch_size=config.batch_size)),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        worker_init_fn=end_with_parent,
        pin_memory=pin_memory,
    )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Binary cross entropy of logits (n,) and labels (n,), computed in float64."""
    return float(binary_cross_entropy_with_logits(logits.double(), labels.double()))


def scores(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Cross entropy, accuracy at a probability of 0.5, and ROC AUC of logits (n,) and labels (n,)."""
    probabilities, truth = probability(logits), labels.numpy()
    return {
        "loss": cross_entropy(logits, labels),
        "accuracy": float(np.mean(predicted_positive(probabilities, 0.5) == truth)),
        "auc": roc_auc(probabilities, truth.astype(int)),
    }


def write_threshold(config: Config, validation: Sequence[Labelled], run: Run) -> None:
    """Search the threshold with the kept weights and write it with the probabilities that it was chosen on."""
    entries, labels = [entry for entry, _ in validation], [label for _, label in validation]
    rows, threshold = [], NO_VALIDATION_THRESHOLD
    if validation:
        network = load(config, run.checkpoints / f"{config.keep}.pt")
        probabilities = probability(logits(network, entries, config))
        threshold = best_threshold(probabilities, np.array(labels), steps=config.threshold_steps)
        rows = [
            {"id": entry.id, "label": label, "probability": value}
            for entry, label, value in zip(entries, labels, probabilities.tolist(), strict=True)
        ]
    write_json(run.folder / "threshold.json", {"threshold": threshold, "validation": rows})


def save_weights(path: Path, network: torch.nn.Module) -> None:
    with atomic_path(path) as temporary:
        torch.save(network.state_dict(), temporary)


class Training(L.LightningModule):
    """One training step as the report describes it; VGG16's dropout is a function of (seed, epoch, step, patient)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.network = build(config)
        if config.devices * config.nodes > 1:
            compute_together(self.network, lambda: self.n)

    def training_step(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, self.current_epoch, step]).generate_state(1)[0])
        )
        self.n = step_size(self.trainer, step)
        found = whole(self.network(to_device(batch["image"], self.device)).float(), self.n)
        labels = whole(batch["label"], self.n)
        return {"loss": binary_cross_entropy_with_logits(found, labels), "logits": found.detach(), "labels": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)


class Record(Callback):
    """Tells the epochs what Lightning does, and scores the validation patients after each.

    The training columns are those of the steps' own outputs, so over weights that change within the epoch.
    """

    def __init__(self, epochs: Epochs, validation: Sequence[Labelled], config: Config) -> None:
        self.epochs, self.config = epochs, config
        self.entries = [entry for entry, _ in validation]
        self.labels = torch.tensor([label for _, label in validation], dtype=torch.float32)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def state_dict(self) -> dict[str, float]:
        accuracy, negative_loss = self.epochs.best or (-1.0, -math.inf)
        return {"accuracy": accuracy, "loss": -negative_loss}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.epochs.best = (state_dict["accuracy"], -state_dict["loss"])

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        self.epochs.begin(done=trainer.current_epoch, steps=trainer.num_training_batches)

    def on_train_epoch_start(self, *_: object) -> None:
        self.seen.clear()
        self.epochs.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: dict, *_: object) -> None:
        self.seen.append((outputs["logits"], outputs["labels"]))
        self.epochs.step()

    def on_train_epoch_end(self, trainer: L.Trainer, module: Training) -> None:
        epoch, score = self.epochs.epoch, None
        found, labels = (torch.cat(parts).cpu() for parts in zip(*self.seen, strict=True))
        self.epochs.trained()
        self.epochs.check_finite(loss=cross_entropy(found, labels))
        row = scores(found, labels)
        if self.entries:
            module.network.eval()
            validation = scores(self._logits(module.network), self.labels)
            module.network.train()
            row |= {f"validation_{name}": value for name, value in validation.items()}
            score = (row["validation_accuracy"], -row["validation_loss"])
        row = self.epochs.finish(
            row,
            score=score,
            save_weights=lambda path: save_weights(path, module.network),
            save_checkpoint=lambda path: trainer.save_checkpoint(path, weights_only=False),
            save_last=epoch == self.config.epochs,
        )
        trainer.logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch)
        self.epochs.show(**{name: row[name] for name in ("loss", "validation_loss", "validation_auc") if name in row})

    def _logits(self, network: torch.nn.Module) -> torch.Tensor:
        found = group().in_shares(self.entries, lambda share: logits(network, share, self.config).tolist())
        return torch.tensor(found)

    def on_train_end(self, *_: object) -> None:
        self.epochs.end()


def _check(config: Config, train: Sequence[Labelled], validation: Sequence[Labelled]) -> None:
    if config.keep == "best" and not validation:
        raise ValueError("expected validation patients to choose the best epoch by (or keep = last), received none")
    for name, part in (("training", train), ("validation", validation)):
        labels = {label for _, label in part}
        if labels != {0, 1} and (name == "training" or part):
            raise ValueError(
                f"expected {name} patients with label 0 and with label 1, received labels "
                f"{', '.join(map(str, sorted(labels))) or 'none'} of {len(part)} patients"
            )

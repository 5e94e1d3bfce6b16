"""A whole subject's labels: ``python -m benchmarks.inference [--data FOLDER] [--json PATH] [--repeats N] [--run RUN]``.

Ours is ``segresnet_monai.inference.predict_volume`` on a prepared subject: windows over the brain's bounding box,
channels-last memory. The peer is MONAI's SegResNet with the same weights under MONAI's ``sliding_window_inference``
over the full grid, with the same window and overlap; its z-scored image lies ready in memory, outside the clock.
Probabilities become labels by the same rule. On a GPU both use float16 autocast.

By default, on a GPU the paper's network; on the CPU its geometry at half the scale (2 mm, windows of 64 x 64 x 64, as
many of them as at 1 mm with 128) with half its filters. That flatters ours: PyTorch's CPU convolutions are slow for
small samples, which ours avoids and which the paper's windows meet less often; those are measured, in minutes, by
``--filters 16 --window 128 --spacing-mm 1``. Untrained weights take as long as trained ones, but their labels mean
nothing. ``--run`` takes a trained network with its own voxel size and window; then Dice of the whole tumour against the
truth stands beside both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import tyro
from monai.inferers import sliding_window_inference

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report
from benchmarks.segresnet_step import monai_network
from common import volumes
from common.labels import REGIONS
from common.metrics import dice
from common.prepared import Entry, prepare
from common.recipe import Volume, decode
from common.subject import Subject
from segresnet_monai.config import Config
from segresnet_monai.inference import build, decode_labels, load_run, predict_volume


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time the prediction of whole subjects against MONAI's sliding windows over the full grid."""

    repeats: int = 3
    """Rounds; each times both sides once."""
    max_subjects: int = 1
    """Subjects taken from the folder."""
    run: Path | None = None
    """Folder of a finished training run, whose configuration and weights are taken; untrained weights without it."""
    filters: int | None = None
    """Filters of the first level of the untrained network; 8 on the CPU, 16 on a GPU when left out."""
    window: int | None = None
    """Side of a cubic window in voxels; that of the run, else 64 on the CPU, 128 on a GPU when left out."""
    spacing_mm: float | None = None
    """Voxel size the untrained network works on; 2 on the CPU, the scan's own on a GPU when left out."""


# What the CPU predicts in seconds: Config() at half the scale.
CPU = Config(initial_filters=8, spacing_mm=2.0, crop_voxels=(64, 64, 64))


def configuration(options: Options, device: torch.device) -> tuple[torch.nn.Module, Config]:
    """Our network on a device and its configuration, with the options' changes."""
    if options.run is not None:
        network, config = load_run(options.run, device=device)
    else:
        config = CPU if device.type == "cpu" else Config()
        config = replace(config, initial_filters=options.filters or config.initial_filters)
        config = replace(config, spacing_mm=options.spacing_mm or config.spacing_mm)
        network = build(config).eval().to(device)
    if options.window is not None:
        config = replace(config, crop_voxels=(options.window,) * 3)
    return network, config


def full_grid(volume: Volume) -> torch.Tensor:
    """The subject's z-scores, float32 (1, contrast, x, y, z), on the whole grid."""
    voxels = volume.window((0, 0, 0), volume.grid_shape)[: len(volume.steps)]
    return torch.from_numpy(decode(voxels, volume.steps))[None]


def predict_full_grid(network: torch.nn.Module, image: torch.Tensor, volume: Volume, config: Config) -> np.ndarray:
    """Classes 0 to 3, uint8 (x, y, z) on the scan's own grid, by MONAI's sliding windows over the full grid."""
    device = next(network.parameters()).device
    autocast = torch.autocast(device.type, torch.float16, enabled=config.mixed_precision and device.type == "cuda")
    with torch.inference_mode(), autocast:
        logits = sliding_window_inference(
            image.to(device), config.crop_voxels, sw_batch_size=1, predictor=network, overlap=config.window_overlap
        )
        probability = logits[0].float().sigmoid()
        if volume.grid_shape == volume.placement.shape:
            highest, labels = probability.max(dim=0)
            found = torch.where(highest > config.probability_threshold, labels + 1, 0).byte().cpu().numpy()
            return volume.placement.to_source(found)
    resized = volumes.resize(probability.cpu().numpy(), volume.placement.shape)
    return volume.placement.to_source(decode_labels(resized, config.probability_threshold))


def count_windows(network: torch.nn.Module, work: Callable[[], np.ndarray]) -> tuple[int, int, np.ndarray]:
    """Windows that the network sees during a prediction, how many of them hold any brain, and the prediction."""
    holding: list[bool] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: holding.append(bool(inputs[0].any())))
    try:
        labels = work()
    finally:
        hook.remove()
    return len(holding), sum(holding), labels


def window_flops(config: Config) -> int:
    """FLOP of the convolutions of one window; counted without computing them."""
    network = monai_network(config).eval().to("meta")
    image = torch.empty(1, len(config.contrasts), *config.crop_voxels, device="meta")
    with torch.no_grad():
        return basis.flops(lambda: network(image))


def time_subject(
    subject: Subject, entry: Entry, network: torch.nn.Module, config: Config, repeats: int, *, trained: bool
) -> list[Row]:
    """One subject's prediction, ours against the full grid, on the network's device."""
    device = next(network.parameters()).device
    peer = monai_network(config).eval().to(device)
    peer.load_state_dict(network.state_dict())
    volume = entry.open()
    image = full_grid(volume)

    def own() -> np.ndarray:
        return predict_volume(network, entry.open(), config)

    def theirs() -> np.ndarray:
        return predict_full_grid(peer, image, volume, config)

    name = f"prediction, {entry.id}, {device.type}"
    windows, floor_windows, labels = count_windows(network, own)
    all_windows, all_holding, full_labels = count_windows(peer, theirs)
    print(f"{name}: {windows} windows, {floor_windows} with brain; full grid: {all_windows}, {all_holding} with brain")
    agreement = dice(labels > 0, full_labels > 0)
    print(f"{name}: Dice of both whole tumours {agreement:.4f}; equal voxels {np.mean(labels == full_labels):.4%}")
    if not trained:
        print(f"{name}: untrained weights, so the labels mean nothing")
    elif subject.label is not None:
        truth = np.isin(subject.load_labels(), REGIONS["WT"])
        print(f"{name}: Dice WT {dice(labels > 0, truth):.4f}, full grid {dice(full_labels > 0, truth):.4f}")
    if device.type == "cuda":
        for side, work in (("ours", own), ("full grid", theirs)):
            print(f"{name}: peak memory of {side} {basis.peak_memory_gib(work, device):.2f} GiB")
    count = floor_windows * window_flops(config)
    precision = torch.float16 if device.type == "cuda" and config.mixed_precision else torch.float32
    return compare(
        name,
        basis.synchronised(own, device),
        {"MONAI, full grid": basis.synchronised(theirs, device)},
        repeats=repeats,
        floor_s=count / basis.product_rate(device, precision),
        floor=f"{count / 1e9:.0f} GFLOP of the windows with brain at the machine's rate of products",
        warmup=0 if device.type == "cpu" else 1,
    )


def main(options: Options) -> None:
    subjects = basis.find(options.data, options.max_subjects)
    rows: list[Row] = []
    for device in basis.devices():
        network, config = configuration(options, device)
        with TemporaryDirectory() as folder:
            entries = prepare(subjects, config.recipe, folder).entries
            for subject in subjects:
                entry, trained = entries[subject.id], options.run is not None
                rows += time_subject(subject, entry, network, config, options.repeats, trained=trained)
    report(rows, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.inference", description=__doc__))

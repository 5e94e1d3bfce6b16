"""What the tests train, by one process or by two: ``python -m tests.shared_trainings told.json``."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

sys.modules["tensorflow"] = None  # as experiments.train has it: TensorBoard would import it for seconds

from common.epochs import Epochs
from common.prepared import Entry
from common.processes import group, started, together
from common.runs import Run, RunError
from mgmt_classifier.data import Entry as Patient
from segresnet_monai.config import Config
from segresnet_monai.distributed import join

SMALL = {
    "crop_voxels": (24, 24, 24),
    "initial_filters": 8,
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1,),
    "loss": "dice_bce",
    "crops_per_epoch": 9,
    "batch_size": 2,
    "epochs": 2,
    "validate_every": 1,
    "workers": 0,
}
# The last step of each epoch has one crop, and so a process without one.
SEGRESNETS = {
    "plain": {
        "epochs": 4,
        "dropout": 0.0,
        "gradient_norm": 0.5,
        "weight_decay": 0.01,
        "weight_average": 0.9,
        "learning_rate": 1e-3,
    },
    "pocket": {
        "network": "pocket",
        "encoder_blocks": (1, 1, 1),
        "decoder_blocks": (1, 1),
        "supervised_levels": 2,
        "loss": "batch_dice_bce",
        "dropout": 0.0,
        "crops_per_epoch": 3,
    },
    "hausdorff": {"loss": "dice_hausdorff", "dropout": 0.5, "crops_per_epoch": 5},
}
MGMTS = {"resnet10": {"epochs": 3, "first_stride": 2}, "vgg16": {"epochs": 1}}
TWO = {"devices": 2}


def segresnet(name, folder, entries, **settings):
    from segresnet_monai.train import fit

    with Run(folder) as run:
        fit(entries[:3], entries[3:], Config(**(SMALL | SEGRESNETS[name] | settings)), run)


def mgmt(name, folder, **settings):
    """Nine random patients with batches of 4: the last step has 5."""
    from mgmt_classifier.config import Config
    from mgmt_classifier.train import fit

    folder.mkdir(parents=True, exist_ok=True)
    patients = []
    for n in range(13):
        images = np.random.default_rng(n).integers(1, 30000, (3, 32, 32)).astype(np.int16)
        np.save(folder / f"{n}.npy", images)
        geometry = {"mean": float(images.mean()), "sd": float(images.std()), "maximum": float(images.max())}
        patients.append((Patient(f"p{n}", folder / f"{n}.npy", geometry), n % 2))
    small = {"images": 3, "image_size": (32, 32), "filters": 8, "workers": 0, "batch_size": 4, "backbone": name}
    with Run(folder) as run:
        fit(Config(**(small | MGMTS[name] | settings)), patients[:9], patients[9:], run)


def keep_half(folder):
    """Have a training leave a copy of its folder as it is after two epochs, in which it can go on."""
    finish = Epochs.finish

    def finished(epochs, *arguments, **further):
        row = finish(epochs, *arguments, **further)
        if epochs.epoch == 2 and epochs.run.writes and epochs.total == 4:
            shutil.copytree(epochs.run.folder, folder, ignore=lambda *_: ["run.lock"])
        return row

    Epochs.finish = finished
    return finish


def note_crops(folder):
    """Have every process write down which crops it reads."""
    from segresnet_monai.data import Crops

    read = Crops.__getitem__

    def noted(crops, position):
        with (folder / f"crops{group().own.rank}.txt").open("a") as file:
            print(*position, file=file)
        return read(crops, position)

    Crops.__getitem__ = noted


def fail_in_second_process():
    from segresnet_monai import train

    scores = train._scores

    def failing(network, entry, config):
        if group().own.rank == 1:
            raise RunError(f"{entry.id}: something is wrong")
        return scores(network, entry, config)

    train._scores = failing


def main():
    told = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(told["folder"])
    torch.set_num_threads(1)

    def entry(id, path, geometry):
        geometry = {name: tuple(value) if isinstance(value, list) else value for name, value in geometry.items()}
        return Entry(id, Path(path), geometry)

    entries = [entry(*each) for each in told["entries"]]
    if told["what"] == "fail":
        fail_in_second_process()
    if told["what"] == "all" and started().rank == 0:
        keep_half(folder / "plain_half")

    def work():
        if told["what"] != "all":
            segresnet("plain", folder / told["what"], entries, **TWO)
            return
        segresnet("plain", folder / "plain", entries, **TWO)
        segresnet("plain", folder / "plain_resumed", entries, **TWO)
        for name in ("pocket", "hausdorff"):
            segresnet(name, folder / name, entries, **TWO)
        for name in MGMTS:
            mgmt(name, folder / name, **TWO)

    note_crops(folder)
    together(work, join)


if __name__ == "__main__":
    main()

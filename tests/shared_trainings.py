"""What the tests train, by one process or by two: ``python -m tests.shared_trainings WHAT FOLDER ENTRIES``."""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from common.epochs import Epochs
from common.processes import group, started, together
from common.runs import Run, RunError
from experiments.base.options import refusals

SEGRESNET = {
    "crop_voxels": (24, 24, 24),
    "initial_filters": 8,
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1,),
    "loss": "dice_bce",
    "batch_size": 2,
    "epochs": 2,
    "validate_every": 1,
    "workers": 0,
}
# With an odd number of crops the last step of each epoch has one, and a process without any.
SEGRESNETS = {
    "plain": {
        "epochs": 4,
        "crops_per_epoch": 9,
        "dropout": 0.0,
        "gradient_norm": 0.5,
        "weight_decay": 0.01,
        "weight_average": 0.9,
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
MGMT = {"images": 3, "image_size": (32, 32), "filters": 8, "workers": 0, "batch_size": 4}
# Nine patients in steps of four: the last has five, which two processes cannot share evenly.
MGMTS = {"resnet10": {"epochs": 3, "first_stride": 2}, "vgg16": {"epochs": 1}}


def segresnet(name, folder, entries, **settings):
    from segresnet_monai.config import Config
    from segresnet_monai.train import fit

    with Run(folder) as run:
        fit(entries[:3], entries[3:], Config(**(SEGRESNET | SEGRESNETS[name] | settings)), run)


def mgmt(name, folder, **settings):
    """Thirteen random patients, nine to train with."""
    from mgmt_classifier.config import Config
    from mgmt_classifier.data import Entry
    from mgmt_classifier.train import fit

    folder.mkdir(parents=True, exist_ok=True)
    patients = []
    for n in range(13):
        images = np.random.default_rng(n).integers(1, 30000, (3, 32, 32)).astype(np.int16)
        np.save(folder / f"{n}.npy", images)
        geometry = {"mean": float(images.mean()), "sd": float(images.std()), "maximum": float(images.max())}
        patients.append((Entry(f"p{n}", folder / f"{n}.npy", geometry), n % 2))
    with Run(folder) as run:
        fit(Config(**(MGMT | {"backbone": name} | MGMTS[name] | settings)), patients[:9], patients[9:], run)


def keep_half(folder):
    """Have trainings of four epochs leave a copy of their folder as it is after two, in which they can go on."""
    finish = Epochs.finish

    def finished(epochs, *arguments, **further):
        row = finish(epochs, *arguments, **further)
        if (epochs.epoch, epochs.total) == (2, 4) and epochs.run.writes and not folder.exists():
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

    def failing(network, entry, config, picture):
        if group().own.rank == 1:
            raise RunError(f"{entry.id}: something is wrong")
        return scores(network, entry, config, picture)

    train._scores = failing


def main(what, folder, entries):
    sys.modules["tensorflow"] = None  # as in experiments.train: TensorBoard would import it, for seconds
    torch.set_num_threads(1)
    two = {"devices": 2}

    def work():
        if what == "mgmt":
            for name in MGMTS:
                mgmt(name, folder / name, **two)
        elif what == "segresnet":
            for name in SEGRESNETS:
                segresnet(name, folder / name, entries, **two)
            segresnet("plain", folder / "resumed", entries, **two)
        else:
            segresnet("plain", folder / what, entries, **two)

    if what == "fails":
        fail_in_second_process()
    if what == "segresnet" and started().rank == 0:
        keep_half(folder / "half")
    if what != "mgmt":
        from segresnet_monai.distributed import join

        note_crops(folder)
    else:
        from mgmt_classifier.distributed import join
    with refusals():
        together(work, join)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), pickle.loads(Path(sys.argv[3]).read_bytes()))

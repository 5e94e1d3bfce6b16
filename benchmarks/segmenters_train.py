"""One training of ``benchmarks.segmenters``: a method, its minutes, and the label maps of a fold's patients."""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from monai.data import DataLoader, Dataset
from monai.losses import DiceLoss
from monai.networks.nets import SegResNet
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd, RandShiftIntensityd, RandSpatialCropd, SpatialPadd
from monai.utils import set_determinism

from benchmarks.budget import within
from benchmarks.segmenters import Method, splits_of
from common import nifti
from common.cohort import Cohort
from common.costs import peak_memory_mib
from common.files import read_json, write_json
from common.precision import resolve
from common.prepared import Entry, prepare
from common.recipe import Volume
from common.runs import Run
from common.splits import Split
from common.subject import Subject
from experiments import beyond, table1_baseline
from experiments.base.options import refusals
from experiments.base.reading import Reading
from experiments.exporting import cohort
from segresnet_monai.config import Config
from segresnet_monai.data import to_channels
from segresnet_monai.inference import load, predict
from segresnet_monai.train import fit

Prediction = Iterator[tuple[str, np.ndarray]]

OURS = {
    "beyond": beyond.DEMO.network,
    "table1_small": replace(table1_baseline.SMALL, checkpoint="last"),
    "table1_demo": replace(table1_baseline.DEMO, checkpoint="last"),
}
# Of MONAI's example what the store, the windows and the decoding of regions must know.
_MONAI = Config(targets="regions", crop_voxels=(64, 64, 64), precision="auto")
EXAMPLE = {"monai": _MONAI, "monai_2mm": replace(_MONAI, spacing_mm=2.0)}
NNUNET = {"nnunet": (), "nnunet_2mm": ("-overwrite_target_spacing", "2", "2", "2")}
"""What its planner is told."""
NNUNET_MEMORY_GB = 1
DATASET = "Dataset001_Cohort"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training is told; the fields of the same names are those of ``benchmarks.segmenters``."""

    method: Method
    data: Path
    folds: int
    fold: int
    minutes: float
    study: Path
    """Folder of the prepared data, and of what each number of minutes gives."""
    nnunet_python: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.method}{self.fold}"

    @property
    def folder(self) -> Path:
        return self.study / f"{self.minutes:g}min" / "trainings" / self.name

    @property
    def label_maps(self) -> Path:
        return self.study / f"{self.minutes:g}min" / "label_maps" / self.method / f"fold{self.fold}"


def main(job: Job) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    found = Reading().find(job.data)
    subjects = {subject.id: subject for subject in found.subjects}
    split = splits_of(job.data, job.folds)[job.fold - 1]
    job.label_maps.mkdir(parents=True, exist_ok=True)
    if job.method in NNUNET:
        spent = _nnunet(job, found)
    else:
        train = _ours if job.method in OURS else _example
        spent, predictions = train(job, subjects, split)
        spent["peak_memory_mib"] = peak_memory_mib()
        began = time.process_time()
        for case, labels in predictions:
            made = cohort.CONVENTION.from_classes(labels)
            nifti.write(job.label_maps / f"{case}.nii.gz", made, like=nifti.read_header(subjects[case].label))
        spent["prediction_minutes"] = (time.process_time() - began) / 60
    write_json(job.folder / "summary.json", spent)


def _entries(job: Job, config: Config, subjects: dict[str, Subject]) -> dict[str, Entry]:
    return prepare(subjects.values(), config.recipe, job.study / "prepared", n_jobs=1).entries


def _ours(job: Job, subjects: dict[str, Subject], split: Split) -> tuple[dict, Prediction]:
    """A recipe of this suite through its own training, in epochs that are as many as its steps make of its own."""
    config = replace(OURS[job.method], workers=0)
    entries = _entries(job, config, subjects)
    marks: list[float] = []
    weights = Path()

    class Clocked(Entry):
        """Every crop opens its subject once, and so does the validation that follows the last one."""

        def open(self) -> Volume:
            marks.append(time.process_time())
            return super().open()

    clocked = {id: Clocked(**{each.name: getattr(entry, each.name) for each in fields(entry)})
               for id, entry in entries.items()}  # fmt: skip

    def train(steps: int) -> list[float]:
        nonlocal weights
        marks.clear()
        epochs = max(2, round(steps / config.crops_per_epoch))
        made = replace(config, crops_per_epoch=max(1, steps // epochs), epochs=epochs, validate_every=epochs)
        with Run(job.folder / "run", fresh=True) as run:
            weights = fit([clocked[id] for id in split.train], [clocked[split.test[0]]], made, run)
        return marks[: made.epochs * made.crops_per_epoch + 1]

    spent = within(job.minutes, train)
    return spent, predict([load(config, weights)], [entries[id] for id in split.test], config)


def _example(job: Job, subjects: dict[str, Subject], split: Split) -> tuple[dict, Prediction]:
    """The recipe of MONAI's example (github.com/Project-MONAI/tutorials, brats_segmentation_3d) in MONAI's classes.

    What it does to a scan before its random changes (z-scores of voxels that are not 0) is what the store keeps.
    """
    config = EXAMPLE[job.method]
    entries = _entries(job, config, subjects)
    pad = SpatialPadd(("image", "label"), config.crop_voxels)
    data = []
    for volume in (entries[id].open() for id in split.train):
        channels = to_channels(torch.from_numpy(volume.labels())[None], "regions")[0]
        data.append(pad({"image": torch.from_numpy(volume.image()), "label": channels}))
    keys = ("image", "label")
    random = Compose(
        [
            RandSpatialCropd(keys, roi_size=config.crop_voxels, random_size=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandScaleIntensityd("image", factors=0.1, prob=1.0),
            RandShiftIntensityd("image", offsets=0.1, prob=1.0),
        ]
    )
    bfloat16 = resolve(config.precision, mixed_precision=True, gpu=False) == "bfloat16"
    network = None

    def train(steps: int) -> list[float]:
        nonlocal network
        set_determinism(0)
        loader = DataLoader(Dataset(data, random), batch_size=1, shuffle=True)
        network = SegResNet(
            blocks_down=(1, 2, 2, 4),
            blocks_up=(1, 1, 1),
            init_filters=16,
            in_channels=4,
            out_channels=3,
            dropout_prob=0.2,
        )
        criterion = DiceLoss(smooth_nr=0, smooth_dr=1e-5, squared_pred=True, sigmoid=True)
        optimiser = torch.optim.Adam(network.parameters(), 1e-4, weight_decay=1e-5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        marks = [time.process_time()]
        for batch in itertools.islice(batches, steps):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(batch["image"].as_tensor())
            criterion(logits.float(), batch["label"].as_tensor().float()).backward()
            optimiser.step()
            schedule.step()
            marks.append(time.process_time())
        return marks

    spent = within(job.minutes, train)
    return spent, predict([network.eval()], [entries[id] for id in split.test], config)


def _nnunet(job: Job, found: Cohort) -> dict:
    """nnU-Net in its own environment: prepared once per plans, trained, and its label maps moved to the others'."""
    place = (job.study / "nnunet").resolve()
    environment = os.environ | {
        "nnUNet_raw": str(place / "raw"),
        "nnUNet_preprocessed": str(place / "preprocessed"),
        "nnUNet_results": str((job.folder / "results").resolve()),
        "nnUNet_def_n_proc": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }

    def call(*words: object, loaders: int) -> None:
        own = {"nnUNet_n_proc_DA": str(loaders)}  # 0: crops are made, and counted, in the training process
        subprocess.run([job.nnunet_python, *map(str, words)], env=environment | own, check=True)

    record = place / f"{job.method}.json"
    if not record.exists():
        _write_raw(place / "raw" / DATASET, found)
        began = os.times()
        words = ("-d", 1, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "-gpu_memory_target", NNUNET_MEMORY_GB)
        words += ("-overwrite_plans_name", job.method, *NNUNET[job.method])
        call("-m", "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", *words, loaders=1)
        folds = [{"train": each.train, "val": each.test} for each in splits_of(job.data, job.folds)]
        write_json(place / "preprocessed" / DATASET / "splits_final.json", folds)
        ended = os.times()
        seconds = ended.children_user + ended.children_system - began.children_user - began.children_system
        write_json(record, {"preprocessing_minutes": seconds / 60})
    told = {"dataset": DATASET, "plans": job.method, "fold": job.fold - 1, "minutes": job.minutes, "mirroring": True}
    write_json(job.folder / "nnunet.json", told)
    call("-m", "benchmarks.segmenters_nnunet", job.folder / "nnunet.json", loaders=0)
    spent = read_json(job.folder / "result.json", dict)
    for file in Path(spent.pop("label_maps")).glob("*.nii.gz"):
        shutil.move(file, job.label_maps / file.name)
    return spent | read_json(record, dict)


def _write_raw(folder: Path, found: Cohort) -> None:
    if (folder / "dataset.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cohort.write_cases(found.subjects, folder, "Tr")
    about = {"layout": found.layout}
    write_json(folder / "dataset.json", cohort.description(about, len(found.subjects), regions=True))


if __name__ == "__main__":
    with refusals():
        main(tyro.cli(Job, description=__doc__))

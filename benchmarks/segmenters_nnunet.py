"""nnU-Net's side of ``benchmarks.segmenters``, run by the interpreter of an environment that has nnunetv2.

Its own trainer, plans, crops, augmentation, loss, optimiser and polynomial schedule, which is as long as the minutes
allow and steps at every iteration; no validation while it trains; its own sliding windows at the end.
Called as ``python -m benchmarks.segmenters_nnunet JOB.json`` with nnU-Net's variables in the environment.
"""

import json
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from benchmarks.budget import within


def main(job: Path) -> None:
    """job: JSON with dataset, plans, fold (from 0), minutes and mirroring; result.json appears beside it."""
    given = json.loads(job.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    trainer = None

    def train(steps: int) -> list[float]:
        nonlocal trainer
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        trainer = get_trainer_from_args(
            given["dataset"], "3d_fullres", given["fold"], plans_identifier=given["plans"], device=torch.device("cpu")
        )
        trainer.on_train_start()
        schedule = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, steps)
        trainer.network.train()
        marks = [time.process_time()]
        for step in range(steps):
            schedule.step(step)
            trainer.train_step(next(trainer.dataloader_train))
            marks.append(time.process_time())
        return marks

    found = within(given["minutes"], train)
    found["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if not given["mirroring"]:
        trainer.inference_allowed_mirroring_axes = None
    began = time.process_time()
    trainer.perform_actual_validation()
    found |= {
        "prediction_minutes": (time.process_time() - began) / 60,
        "label_maps": f"{trainer.output_folder}/validation",
    }
    plan = trainer.configuration_manager
    found |= {"patch": list(plan.patch_size), "batch_size": plan.batch_size, "spacing_mm": list(plan.spacing)}
    job.with_name("result.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A finished run as what it is to others: networks that predict, the subjects that they have seen, scores."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from common.files import typed
from common.loading import loading
from common.networks import package_of
from common.prepared import Entry
from common.recipe import Recipe, Volume
from common.runs import RunError
from common.summary import EmptyPolicy, apply_empty_policy
from experiments.base.reading import Reading, kept
from experiments.base.trainings import given
from experiments.segmentation.fine_tuning import SEEN_IN
from experiments.segmentation.study import DEFAULT_BACKEND
from segresnet_monai.config import Config as SegResNet
from unet_tf.config import Config as UNet

FOLDS = "folds.json"
"""Of cases pooled over folds: the folders of the folds' runs."""
VIEWS = {"segresnet": (), "unet": ("before_postprocessing", "geometric_ceiling")}
OWN_CASES = (".", "test/beyond", "test", "out_of_fold/beyond")
"""Where a run keeps the scores of the subjects that it has not seen, first found first taken."""


@dataclass(frozen=True)
class Finished:
    """A run's folder and what it says of itself.

    experiment: by which it was made. kind: of network. backend: Keras', of a U-Net. policy: what its scores
    took empty masks for. data: data.json. split: subjects' ids by part. reading: how its scans were read.
    recipe: what is made of a scan for its networks.
    """

    folder: Path
    experiment: str
    kind: str
    backend: str
    policy: EmptyPolicy
    data: dict
    split: dict[str, list[str]]
    reading: Reading
    recipe: Recipe

    @property
    def seen(self) -> list[str]:
        """Ids of the subjects that have made or chosen the weights."""
        return [subject for part in SEEN_IN for subject in self.split[part]]

    @property
    def minimum_mask_fraction(self) -> float:
        """Share of labelled voxels below which a subject took no part."""
        return self.data.get("excluded", {}).get("minimum_mask_fraction", 0.0)

    @property
    def synthetic(self) -> bool:
        """Whether its subjects are the embedded phantoms."""
        return bool(self.data.get("synthetic"))

    @property
    def scored(self) -> Path:
        """Folder with the scores and label maps of the subjects that its networks have not seen. Raises RunError
        without any."""
        for place in OWN_CASES:
            if (self.folder / place / "cases.csv").exists():
                return self.folder / place
        raise RunError(f"{self.folder}: expected the scores of a test part (cases.csv), found none")

    def cases(self) -> pd.DataFrame:
        """Scores of the subjects that its networks have not seen, one row each. Raises RunError without any."""
        return read_scores(self.scored / "cases.csv")


@dataclass(frozen=True)
class Networks:
    """What predicts. volume: one prepared subject's classes, uint8 (x, y, z) on the scan's own grid. entries: as
    ``experiments.segmentation.scores`` takes them. views: further label maps that come with those of entries."""

    volume: Callable[[Volume], np.ndarray]
    entries: Callable[[Iterable[Entry]], Iterator[tuple]]
    views: tuple[str, ...]


def read_run(folder: Path) -> Finished:
    """What a run's folder says of itself, trained or not. Raises RunError when it is not a segmentation network's."""
    settings = given(folder, experiment=str, model=dict, options=dict)
    if (folder / FOLDS).exists():
        raise RunError(f"{folder}: expected the run of a network, found the cases of several folds: name a fold's run")
    model, policy = settings["model"], settings["options"].get("empty_masks")
    if isinstance(model.get("network"), dict):  # several networks as one, and what else the study trained
        model = model["network"]
    kind = {"unet_tf": "unet", "segresnet_monai": "segresnet"}.get(package_of(folder, settings))
    if kind is None or policy not in get_args(EmptyPolicy):
        raise RunError(f"{folder / 'config.json'}: expected the settings of a SegResNet or a U-Net, found others")
    parts = dict.fromkeys((*SEEN_IN, "test"), list)
    split = given(folder, "split", **parts)
    return Finished(
        folder=folder,
        experiment=settings["experiment"],
        kind=kind,
        backend=settings.get("backend", DEFAULT_BACKEND),
        policy=policy,
        data=given(folder, "data", folder=str, subjects=dict),
        split={part: split[part] for part in parts},
        reading=kept(settings["options"]),
        recipe=_config(folder, UNet if kind == "unet" else SegResNet, model).recipe,
    )


def _config(folder: Path, kind: type, model: dict) -> SegResNet | UNet:
    try:
        return typed(kind, model)
    except (ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{folder / 'config.json'}: expected settings of {kind.__module__}, found: {error}") from None


def read_scores(path: Path) -> pd.DataFrame:
    """Scores of cases (``common.scoring.score_cases``), without those of further views.

    Raises RunError when the file is damaged.
    """
    try:
        frame = pd.read_csv(path, dtype={"case": str, "patient": str, "view": str, "change": str})
        frame = frame[frame["view"].isna()].drop(columns="view") if "view" in frame else frame
        apply_empty_policy(frame, "brats")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: expected scores, a row per case, found: {error!r}; --fresh starts over") from None
    return frame


def require_finished(run: Finished) -> None:
    """Raises RunError when the run's training or scoring has not ended."""
    if not (run.folder / "summary.json").exists():
        raise RunError(f"{run.folder}: expected a finished run, found no summary.json: has the training ended?")


def load(run: Finished) -> Networks:
    """The run's trained networks; a U-Net's on the backend that it was trained on, if Keras is not loaded yet.

    Raises RunError when there are none, or one is damaged.
    """
    if run.kind == "unet":
        os.environ["KERAS_BACKEND"] = run.backend
        with loading("Keras"):
            from unet_tf.inference import load_run as load_them
            from unet_tf.inference import predict, predict_volume
    else:
        with loading("PyTorch"):
            from segresnet_monai.inference import load_runs as load_them
            from segresnet_monai.inference import predict, predict_volume
    try:
        networks, *settings = load_them(run.folder)
    except ValueError as error:
        raise RunError(str(error)) from None
    return Networks(
        lambda volume: predict_volume(networks, volume, *settings),
        lambda entries: predict(networks, entries, *settings),
        VIEWS[run.kind],
    )

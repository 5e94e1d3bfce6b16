"""Augmented training crops: ``python -m benchmarks.augmentation [--data FOLDER] [--json PATH] [--repeats N]``.

A crop of four contrasts and the label, centred on a label every second time, with the changes of
``common.augmentation.OTHER_SCANNERS`` each at its probability, at 64 and at 128 voxels, in one thread. Ours reads it
from the prepared store. MONAI makes the same changes with its own transforms; files, z-scores and places of the classes
are in its cache on disk or in RAM (copied before each crop as it comes, and told not to). It changes all contrasts
together where ours changes each for itself, which is as much work on average. A round is many crops, for most of them
have few changes.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report
from benchmarks.loading import Sample, files_of, items, monai_deterministic, ours, torch_threads
from common.augmentation import OTHER_SCANNERS
from common.prepared import Entry, prepare
from common.subject import Subject
from segresnet_monai.config import Config

INDICES = "labels_cls_indices"
CONFIG = Config(augmentation=OTHER_SCANNERS, label_crop_probability=0.5, intensity_shift_sd=0.0)


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time augmented training crops against MONAI's same transforms."""

    max_subjects: int = 4
    """Subjects taken from the folder."""
    crops: int = 24
    """Crops in a round."""
    sides: tuple[int, ...] = (64, 128)
    """Voxels along each axis of a crop."""


def monai_random(config: Config) -> list[Callable]:
    """MONAI's transforms from a whole subject, whose voxels of each class are known, to a crop."""
    from monai import transforms as t

    a, both, size = config.augmentation, ["image", "labels"], config.crop_voxels
    near_labels = t.RandCropByLabelClassesd(
        both, "labels", size, ratios=[0, 1, 1, 1], num_classes=4, indices_key=INDICES, allow_smaller=True, warn=False
    )
    anywhere = t.RandSpatialCropd(both, size, random_size=False)
    choices = np.random.default_rng(config.seed)

    def crop(sample: Sample) -> Sample:
        return near_labels(sample)[0] if choices.random() < config.label_crop_probability else anywhere(sample)

    angle, modes = np.deg2rad(a.rotation_degrees), ("bilinear", "nearest")
    brightness, contrast = ((low - 1, high - 1) for low, high in (a.brightness, a.contrast))
    return [
        crop,
        t.SpatialPadd(both, size),
        t.RandZoomd(both, a.zoom_probability, *a.zoom, mode=("trilinear", "nearest"), padding_mode="constant"),
        t.RandAffined(both, prob=a.rotation_probability, rotate_range=[angle] * 3, mode=modes, padding_mode="zeros"),
        *(t.RandFlipd(both, prob=p, spatial_axis=axis) for axis, p in enumerate(config.flip_probabilities)),
        t.RandScaleIntensityd("image", brightness, prob=a.brightness_probability),
        t.RandScaleIntensityFixedMeand("image", factors=contrast, prob=a.contrast_probability, preserve_range=True),
        t.RandAdjustContrastd("image", a.gamma_probability, a.gamma, retain_stats=True),
        t.RandBiasFieldd("image", prob=a.bias_field_probability),
        t.RandGaussianSmoothd("image", *[a.blur_voxels] * 3, prob=a.blur_probability),
        t.RandSimulateLowResolutiond("image", a.low_resolution_probability, zoom_range=a.low_resolution),
        t.RandGaussianNoised("image", a.noise_probability, std=a.noise_sd[1]),
    ]


def monai(subjects: Sequence[Subject], config: Config, cache: Path) -> dict[str, Callable[[], Sample]]:
    """Functions that return the next subject's crop by MONAI, by name; cache: a folder for the one on disk."""
    from monai import transforms as t
    from monai.data import CacheDataset, PersistentDataset

    # The stored values of any convention, as four classes: only how many there are matters for the time.
    fixed = [*monai_deterministic(config), t.Lambdad("labels", lambda labels: labels.clamp(max=3))]
    fixed.append(t.ClassesToIndicesd("labels", num_classes=4, max_samples_per_class=256))
    transform, files = t.Compose([*fixed, *monai_random(config)]), files_of(subjects, config)
    cached = CacheDataset(files, transform, progress=False)
    uncopied = copy.copy(cached)
    uncopied.copy_cache = False
    return {
        "MONAI PersistentDataset": items(PersistentDataset(files, transform, cache_dir=cache)),
        "MONAI CacheDataset": items(cached),
        "MONAI CacheDataset, no copy": items(uncopied),
    }


def time_crops(
    subjects: Sequence[Subject], entries: Sequence[Entry], config: Config, n_crops: int, repeats: int
) -> list[Row]:
    """A round of crops, ours against MONAI."""

    def many(work: Callable[[], Sample]) -> Callable[[], None]:
        def round_of() -> None:
            for _ in range(n_crops):
                work()

        return round_of

    moved = (
        n_crops * int(np.prod(config.crop_voxels)) * (2 * (len(config.contrasts) + 1) + 4 * len(config.contrasts) + 1)
    )
    with tempfile.TemporaryDirectory() as cache:
        return compare(
            f"{n_crops} augmented crops of {config.crop_voxels[0]} voxels",
            many(ours(entries, config)),
            {name: many(work) for name, work in monai(subjects, config, Path(cache)).items()},
            repeats=repeats,
            floor_s=moved / basis.copy_rate(),
            floor=f"{moved / 2**20:.0f} MiB of crops read and written at the rate of copying memory",
        )


def main(options: Options) -> None:
    subjects, rows = basis.find(options.data, options.max_subjects), []
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        entries = list(prepare(subjects, CONFIG.recipe, folder).entries.values())
        for side in options.sides:
            rows += time_crops(
                subjects, entries, replace(CONFIG, crop_voxels=(side,) * 3), options.crops, options.repeats
            )
    report(rows, options.json)


if __name__ == "__main__":
    # MONAI warns of a DICOM decoder that nothing here uses.
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
    main(tyro.cli(Options, prog="python -m benchmarks.augmentation", description=__doc__))

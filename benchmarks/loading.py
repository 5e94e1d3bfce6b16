"""Training crops and prepared subjects: ``python -m benchmarks.loading [--data FOLDER] [--json PATH] [--repeats N]``.

*Training sample*: a random 128 x 128 x 128 crop of four contrasts and the label, z-scored over the scan's non-zero
voxels, flipped at random along each axis, shifted in intensity; in one process, from files in the page cache. Ours are
the items of ``segresnet_monai.data.Crops``; the peers are set up as somebody who knows them would:

- MONAI: Nibabel reader, the four files loaded as one image, crop before flips and shift; the tensors carry no
  metadata from loading on, which spares every transform its bookkeeping. Masks keep their stored values.
- MONAI PersistentDataset: everything up to the crop is kept on disk.
- MONAI CacheDataset: everything up to the crop is kept in RAM; once as it comes, copying the whole volume before each
  crop, and once told not to (``copy_cache=False``), which is safe here: no transform writes into what it is given.
- TorchIO: loading and z-scores of whole contrasts without copies between transforms, then a crop, then flips and shift.

*Preparing a subject*: reading, checking, normalising and writing the store's entry, against nibabel decoding the same
files and doing nothing else, first one subject alone, then a cohort with as many at a time as the machine has cores.
"""

import copy
import gc
import itertools
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import joblib
import nibabel as nib
import numpy as np
import psutil
import torch
import tyro
from torch.utils.data import Dataset

from benchmarks import basis
from benchmarks.compare import Arguments, Row, compare, report
from common.crops import crop_start
from common.prepared import Entry, prepare
from common.subject import Subject
from segresnet_monai.config import Config
from segresnet_monai.data import Crops

Sample = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """Time training samples and the preparation of subjects against what a user would use instead."""

    max_subjects: int = 4
    """Subjects taken from the folder."""
    threads: int = 1
    """Torch threads. A loader process has one; numpy, which ours uses, has one anyway."""


def ours(entries: Sequence[Entry], config: Config) -> Callable[[], Sample]:
    """A function that returns the next subject's training sample from the prepared store."""
    crops, positions = Crops(entries, config), ((r, i) for r in itertools.count() for i in range(len(entries)))
    return lambda: crops[next(positions)]


def files_of(subjects: Sequence[Subject], config: Config) -> list[dict[str, object]]:
    """MONAI's list of samples. Raises ValueError unless every contrast has a file of its own and there is a mask."""
    if any(subject.channels is not None or subject.label is None for subject in subjects):
        raise ValueError("expected one file per contrast and a mask for each subject")
    return [{"image": [str(s.images[c]) for c in config.contrasts], "labels": str(s.label)} for s in subjects]


def monai_deterministic(config: Config) -> list[Callable]:
    """MONAI's transforms up to the crop: files to z-scores (contrast, x, y, z) and stored labels uint8 (1, x, y, z)."""
    from monai import transforms as t

    both = ["image", "labels"]
    return [
        t.LoadImaged("image", reader="NibabelReader", image_only=True),
        t.LoadImaged("labels", reader="NibabelReader", image_only=True, dtype=np.uint8),
        t.EnsureChannelFirstd(both),
        t.EnsureTyped(both, track_meta=False),
        t.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]


def monai_random(config: Config) -> list[Callable]:
    """MONAI's random transforms: crop, flip along each axis, intensity shift."""
    from monai import transforms as t

    both, shift = ["image", "labels"], config.intensity_shift_sd
    flips = [t.RandFlipd(both, prob=p, spatial_axis=axis) for axis, p in enumerate(config.flip_probabilities)]
    crop = t.RandSpatialCropd(both, roi_size=config.crop_voxels, random_size=False)
    return [crop, *flips, t.RandShiftIntensityd("image", offsets=shift, prob=1.0)]


def monai(subjects: Sequence[Subject], config: Config, cache: Path) -> dict[str, Dataset]:
    """MONAI's datasets over the same transforms, by name; cache: a folder for the one on disk."""
    from monai.data import CacheDataset, PersistentDataset
    from monai.data import Dataset as PlainDataset
    from monai.transforms import Compose

    files = files_of(subjects, config)
    transform = Compose(monai_deterministic(config) + monai_random(config))
    cached = CacheDataset(files, transform, progress=False)
    uncopied = copy.copy(cached)
    uncopied.copy_cache = False
    return {
        "MONAI": PlainDataset(files, transform),
        "MONAI PersistentDataset": PersistentDataset(files, transform, cache_dir=cache),
        "MONAI CacheDataset": cached,
        "MONAI CacheDataset, no copy": uncopied,
    }


class TorchIO(Dataset):
    """Training samples by TorchIO."""

    def __init__(self, subjects: Sequence[Subject], config: Config) -> None:
        import torchio as tio

        self.config = config
        self.subjects = tio.SubjectsDataset(
            [
                tio.Subject(
                    {c: tio.ScalarImage(s.images[c]) for c in config.contrasts} | {"labels": tio.LabelMap(s.label)}
                )
                for s in subjects
            ],
            transform=tio.ZNormalization(masking_method=lambda image: image != 0, copy=False),
        )
        self.sampler = tio.UniformSampler(config.crop_voxels)
        self.flip = tio.RandomFlip(axes=(0, 1, 2), flip_probability=config.flip_probabilities[0], copy=False)

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Sample:
        crop = self.flip(next(self.sampler(self.subjects[index], 1)))
        image = torch.cat([crop[c].data for c in self.config.contrasts])
        image += torch.empty(()).uniform_(-self.config.intensity_shift_sd, self.config.intensity_shift_sd)
        return {"image": image, "labels": crop["labels"].data}


def items(dataset: Dataset) -> Callable[[], Sample]:
    """A function that returns the next subject's training sample."""
    indices = itertools.cycle(range(len(dataset)))
    return lambda: dataset[next(indices)]


def largest_difference_in_steps(entry: Entry, subject: Subject, config: Config) -> float:
    """Largest difference between our crop and MONAI's without augmentation, in steps of the store's 16-bit integers.

    Half a step is what rounding to the store's integers leaves. The labels must be equal; a ValueError says where not.
    """
    from monai.transforms import Compose

    fixed = replace(config, flip_probabilities=(0, 0, 0), intensity_shift_sd=0)
    own = Crops([entry], fixed)[0, 0]
    volume = entry.open()
    start = crop_start(volume, fixed.crop_voxels, np.random.default_rng([fixed.seed, 0, zlib.crc32(entry.id.encode())]))
    theirs = Compose(monai_deterministic(config))(files_of([subject], config)[0])
    window = tuple(slice(s, s + side) for s, side in zip(start, config.crop_voxels, strict=True))
    labels = subject.convention.to_classes(theirs["labels"].numpy()[0][window])
    if not np.array_equal(own["labels"].numpy(), labels):
        raise ValueError(f"{entry.id}: expected the labels of both crops to be equal")
    apart = (own["image"] - theirs["image"][:, *window]).abs().amax(dim=(1, 2, 3))
    return float((apart / torch.tensor(volume.steps)).max())


def time_samples(subjects: Sequence[Subject], entries: Sequence[Entry], config: Config, repeats: int) -> list[Row]:
    """One training sample, ours against every peer."""
    voxels = int(np.prod(config.crop_voxels))
    moved = voxels * (2 * (len(config.contrasts) + 1) + 4 * len(config.contrasts) + 1)
    with tempfile.TemporaryDirectory() as cache:
        peers = {name: items(dataset) for name, dataset in monai(subjects, config, Path(cache)).items()}
        peers["TorchIO"] = items(TorchIO(subjects, config))
        # A first pass over the subjects fills the cache on disk; the caches in RAM are full.
        for _ in subjects:
            peers["MONAI PersistentDataset"]()
        return compare(
            "training sample",
            ours(entries, config),
            peers,
            repeats=repeats,
            floor_s=moved / basis.copy_rate(),
            floor=f"{moved / 2**20:.0f} MiB of crop read and written at the rate of copying memory",
        )


def own_memory_mib() -> float:
    """Memory that only this process holds (USS)."""
    gc.collect()
    return psutil.Process().memory_full_info().uss / 2**20


def memory_per_subject(subjects: Sequence[Subject], entries: Sequence[Entry], config: Config) -> dict[str, float]:
    """MiB by which this process grows with each further subject read, ours and MONAI's cache in RAM."""
    from monai.data import CacheDataset
    from monai.transforms import Compose

    crops = Crops(entries, config)
    crops[0, 0]
    before = own_memory_mib()
    for index in range(len(entries)):
        crops[0, index]
    grown = {"ours": (own_memory_mib() - before) / len(entries)}
    files, transform = files_of(subjects, config), Compose(monai_deterministic(config))
    before = own_memory_mib()
    cached = CacheDataset(files, transform, progress=False)
    grown["MONAI CacheDataset"] = (own_memory_mib() - before) / len(cached)
    return grown


def decode_with_nibabel(subject: Subject) -> None:
    """Every voxel of a subject's files, and nothing else."""
    for file in (*dict.fromkeys(subject.images.values()), subject.label):
        np.asarray(nib.load(file).dataobj)


def moved_bytes(subject: Subject, entry: Entry) -> int:
    """Bytes of a subject's decoded files, plus those of its entry, read and written."""
    files = dict.fromkeys((*subject.images.values(), subject.label))
    headers = [nib.load(file).header for file in files]
    decoded = sum(header.get_data_dtype().itemsize * int(np.prod(header.get_data_shape())) for header in headers)
    return decoded + 2 * entry.path.stat().st_size


def time_preparing(subjects: Sequence[Subject], config: Config, repeats: int) -> list[Row]:
    """Preparing one subject alone, and a cohort with a subject per core, ours against nibabel's decoding."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as root:
        folders = (Path(root, str(number)) for number in itertools.count())
        entries = prepare(subjects, config.recipe, next(folders)).entries
        moved = [moved_bytes(subject, entries[subject.id]) for subject in subjects]
        rate = basis.copy_rate()

        def add(name: str, batches: Sequence[Sequence[Subject]], peer: Callable[[Sequence[Subject]], object]) -> None:
            own, theirs = itertools.cycle(batches), itertools.cycle(batches)
            share = sum(moved) / len(batches)
            rows.extend(
                compare(
                    name,
                    lambda: prepare(next(own), config.recipe, next(folders)),
                    {"nibabel decoding": lambda: peer(next(theirs))},
                    repeats=repeats,
                    floor_s=share / rate,
                    floor=f"{share / 2**20:.0f} MiB decoded, transformed and stored, at the rate of copying memory",
                )
            )

        def all_cores(batch: Sequence[Subject]) -> None:
            joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(decode_with_nibabel)(s) for s in batch)

        add("preparing a subject", [[subject] for subject in subjects], lambda batch: decode_with_nibabel(batch[0]))
        add(f"preparing {len(subjects)} subjects", [subjects], all_cores)
    return rows


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(options: Options) -> None:
    if find_spec("torchio") is None:
        raise SystemExit("benchmarks.loading compares with TorchIO, which is missing: pip install -e '.[benchmarks]'")
    config = Config()
    subjects = basis.find(options.data, options.max_subjects)
    with tempfile.TemporaryDirectory() as folder, torch_threads(options.threads):
        entries = list(prepare(subjects, config.recipe, folder).entries.values())
        apart = largest_difference_in_steps(entries[0], subjects[0], config)
        print(f"largest difference from MONAI without augmentation: {apart:.2f} steps of the store; labels equal")
        rows = time_samples(subjects, entries, config, options.repeats)
        grown = memory_per_subject(subjects, entries, config)
    rows += time_preparing(subjects, config, options.repeats)
    report(rows, options.json)
    print("memory per further subject: " + ", ".join(f"{name} {mib:.1f} MiB" for name, mib in grown.items()))


if __name__ == "__main__":
    # MONAI warns of a DICOM decoder that nothing here uses.
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
    main(tyro.cli(Options, prog="python -m benchmarks.loading", description=__doc__))

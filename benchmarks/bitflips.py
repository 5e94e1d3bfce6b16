"""One flipped bit in a file, and what reading makes of it: ``python -m benchmarks.bitflips [--flips 200] [--seed 0]``.

*Refused*: an error that names the file; *mended*: a damaged prepared entry is made again; *noted*: other values with a
note; *same*: the values are those of the intact file (the bit lies in padding, or in a field that reading does not
need); *silent*: other values without a word. DICOM and plain ``.nii`` carry no checksum: there, silent ones are to be
expected, and that is what the table is to show.
"""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import tyro

from benchmarks.fuzz_dicom import RECIPES, write_patient
from common import nifti
from common.runs import RunError
from common.store import UnusableError
from mgmt_classifier.data import make, prepare

STATES = ("refused", "mended", "noted", "same", "silent")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flip single bits and read."""

    flips: int = 200
    """Of each kind of file."""
    seed: int = 0
    """Of the places."""
    weights: bool = True
    """The networks' weights too, which loads PyTorch and TensorFlow."""


@dataclass(frozen=True)
class Kind:
    """A kind of file. files: those that a bit is flipped in; read: "refused", "mended", "noted", or the values."""

    name: str
    files: list[Path]
    read: Callable[[], str | list[np.ndarray]]


def scans(folder: Path) -> Iterator[Kind]:
    """A NIfTI scan, compressed and not."""
    data = np.random.default_rng(0).integers(0, 900, (30, 28, 20)).astype(np.int16)
    data[:8] = 0
    for suffix in (".nii.gz", ".nii"):
        path = folder / f"scan{suffix}"
        nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1, 2, 1])), path)

        def read(path: Path = path) -> str | list[np.ndarray]:
            try:
                scan = nifti.read(path)
            except (nifti.ScanError, OSError):
                return "refused"
            return [scan.data, scan.affine]

        yield Kind(suffix, [path], read)


def slices(folder: Path) -> Iterator[Kind]:
    """A DICOM series as it is prepared, and the prepared entry."""
    patient = write_patient(folder / "00001")
    recipe = RECIPES[1]

    def read() -> str | list[np.ndarray]:
        try:
            images, geometry = make(patient, recipe)
        except UnusableError:
            return "refused"
        return "noted" if geometry["notes"] else [images]

    yield Kind("DICOM", sorted(patient.folders["FLAIR"].iterdir()), read)
    (entry,) = prepare([patient], recipe, folder / "store", n_jobs=1).entries.values()

    def again() -> str | list[np.ndarray]:
        with redirect_stderr(StringIO()):  # a line of progress per flip
            store = prepare([patient], recipe, folder / "store", n_jobs=1)
        (found,) = store.entries.values()
        values = [np.array(found.open()), np.array(repr(found.geometry))]
        return "mended" if store.remade and same(values, intact) else values

    intact = [np.array(entry.open()), np.array(repr(entry.geometry))]
    yield Kind("prepared entry", [entry.path, entry.path.with_suffix(".json")], again)


def weights(folder: Path) -> Iterator[Kind]:
    """Trained weights of the three packages, with small networks."""
    import segresnet_monai.inference
    import segresnet_monai.train
    from mgmt_classifier import config as mgmt_config
    from mgmt_classifier import inference as mgmt_predict
    from mgmt_classifier import train as mgmt_train
    from segresnet_monai import config as segresnet_config

    packages = {
        "SegResNet .pt": (segresnet_config.Config(initial_filters=8), segresnet_monai.inference, segresnet_monai.train),
        "MGMT .pt": (mgmt_config.Config(filters=4), mgmt_predict, mgmt_train),
    }
    for name, (config, predict, train) in packages.items():
        path = folder / f"{name.split()[0]}.pt"
        train.save_weights(path, predict.build(config))

        def read(path: Path = path, config=config, predict=predict) -> str | list[np.ndarray]:
            try:
                network = predict.load(config, path, "cpu")
            except (ValueError, OSError, RunError):
                return "refused"
            return [tensor.numpy() for tensor in network.state_dict().values()]

        yield Kind(name, [path], read)
    from unet_tf import config as unet_config
    from unet_tf import inference as unet_predict
    from unet_tf import train as unet_train

    settings = unet_config.Config(filters=4)
    path = folder / "unet.weights.h5"
    unet_train.save_weights(path, unet_predict.build(settings))

    def read_unet() -> str | list[np.ndarray]:
        try:
            return unet_predict.load(settings, path).get_weights()
        except (ValueError, OSError, RunError):
            return "refused"

    yield Kind("U-Net .weights.h5", [path], read_unet)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether two lists of arrays are equal, bit by bit but for the sign of zero."""
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def flip(kind: Kind, flips: int, seed: int) -> Counter[str]:
    """How often reading ended how. Any other exception of a reader goes through: it is a fault."""
    rng, counts = np.random.default_rng(seed), Counter()
    whole = {path: path.read_bytes() for path in kind.files}
    expected = kind.read()
    for _ in range(flips):
        path = kind.files[rng.integers(len(kind.files))]
        damaged = bytearray(whole[path])
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        found = kind.read()
        counts[found if isinstance(found, str) else "same" if same(found, expected) else "silent"] += 1
        for each, content in whole.items():
            each.write_bytes(content)
    return counts


def main(options: Options) -> None:
    print("| one bit in | " + " | ".join(STATES) + " |\n|---|" + "---|" * len(STATES))
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's and Keras', of what they find odd
        for kinds in (scans, slices, *([weights] if options.weights else [])):
            for kind in kinds(Path(temporary)):
                counts = flip(kind, options.flips, options.seed)
                print(f"| {kind.name} | " + " | ".join(str(counts[state]) for state in STATES) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.bitflips", description=__doc__))

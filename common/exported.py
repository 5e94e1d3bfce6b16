"""A trained network that has left its framework: an ONNX file with everything that a prediction needs to know.

The file's metadata hold, under ``glioma_suite`` and as JSON, the settings of the model, its grid and how its outputs
are decided, and at its end the digest of all bytes before.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.files import plain, typed
from common.networks import Config
from common.runs import RunError

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIX = ".onnx"
KEY = "glioma_suite"
NEEDS = "pip install 'glioma-suite[onnx]'"
LARGEST_DIFFERENCE = 1e-4
"""Of a probability, between an exported network and the framework's."""
LARGEST_ROUNDING = 5e-3
"""The same between an exported network and the run's own where that rounds: PyTorch's group normalisation over
channels-last memory, which training wants, is off by 3e-4 from double precision where others are by 1e-6."""
# A last entry of the file's metadata, as protocol buffers write it: readers that know nothing of it see a digest.
_SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
_DIGEST = 64


def sealed(model: ModelProto, about: Mapping[str, object]) -> bytes:
    """The file of an ONNX model with its metadata and its digest."""
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=json.dumps(plain(about), allow_nan=False))
    content = model.SerializeToString(deterministic=True)
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


class Exported:
    """An opened file. about: what it says of itself."""

    def __init__(self, path: str | Path, *, kind: str | None = None, **entries: type | tuple[type, ...]) -> None:
        """kind: of network that is expected; None takes any. entries: that it must say of itself, and their types.

        Raises RunError when the file is damaged or another's, or ONNX Runtime is not installed.
        """
        self.path = Path(path)
        try:
            import onnxruntime
        except ImportError:
            raise RunError(f"{path}: expected ONNX Runtime to run it, found none: {NEEDS}") from None
        content, digest = _parted(self.path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads(os.environ.get("OMP_NUM_THREADS", ""))
        try:
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("other bytes than were written")
            self._session = onnxruntime.InferenceSession(
                content, options, providers=onnxruntime.get_available_providers()
            )
            self.about: dict[str, Any] = dict(json.loads(self._session.get_modelmeta().custom_metadata_map[KEY]))
        except Exception as error:  # ONNX Runtime has exceptions of its own for each way to be wrong
            raise RunError(f"{path}: expected an intact model that this suite exported, found: {error}") from None
        if kind not in (None, self.about.get("kind")):
            raise RunError(f"{path}: expected an exported {kind}, found one of kind {self.about.get('kind')}")
        for name, wanted in entries.items():
            if not isinstance(self.about.get(name), wanted):
                raise RunError(f"{path}: expected its {name} in its metadata, found {self.about.get(name)!r:.100}")

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The model's outputs by name, for its inputs by name."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def model(self, settings: Mapping[str, object], config: type[Config]) -> Config:
        """The configuration that the file holds of a model. Raises RunError when it has other settings."""
        try:
            return typed(config, settings)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise RunError(f"{self.path}: expected settings of {config.__module__}, found: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """An exported file beside the networks that it was made of, on one input.

    difference: largest of a probability, from the framework's plain networks. difference_from_run: from the run's own,
    as it predicts. seconds, seconds_of_run: of one call.
    """

    difference: float
    difference_from_run: float
    seconds: float
    seconds_of_run: float


def agreement(
    path: Path,
    *,
    run: Callable[[], np.ndarray],
    file: Callable[[], np.ndarray],
    plain: Callable[[], np.ndarray] | None = None,
) -> Agreement:
    """Compare the probabilities that a file gives with those of its networks. plain: where it is not the run's own.

    Raises RunError when they differ by more than LARGEST_DIFFERENCE anywhere, or LARGEST_ROUNDING from the run's.
    """
    found, seconds = [], []
    for predict in (run, file):
        predict()  # the first call prepares
        start = time.perf_counter()
        found.append(predict())
        seconds.append(time.perf_counter() - start)
    from_run = float(np.abs(found[0] - found[1]).max())
    difference = from_run if plain is None else float(np.abs(plain() - found[1]).max())
    if not (difference <= LARGEST_DIFFERENCE and from_run <= LARGEST_ROUNDING):
        raise RunError(
            f"{path.name}: expected probabilities within {LARGEST_DIFFERENCE:g} of the networks', found "
            f"{difference:g}, and {from_run:g} from the run's own"
        )
    return Agreement(difference=difference, difference_from_run=from_run, seconds=seconds[1], seconds_of_run=seconds[0])


def _threads(limit: str) -> int:
    """How many threads OpenMP's limit allows, at the first of its levels; 0 (all cores) where it says none."""
    first = limit.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _parted(path: Path) -> tuple[bytes, bytes]:
    content, seal, digest = path.read_bytes().rpartition(_SEAL)
    if not seal or len(digest) != _DIGEST:
        raise RunError(f"{path}: expected a model that this suite exported, found no digest at its end")
    return content, digest

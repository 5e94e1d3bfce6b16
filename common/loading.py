"""Loading a deep-learning framework: said, as it takes seconds, and without another one that it would load too."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

MODULES = {"PyTorch": "torch", "Keras": "keras"}
NOT_NEEDED = ("tensorflow", "mlflow")
"""What PyTorch's writer of TensorBoard files and MONAI load where it is installed, for seconds, and need nothing of."""
FRAMEWORKS = {"segresnet_monai": "PyTorch", "mgmt_classifier": "PyTorch", "unet_tf": "Keras"}
"""By the package that trains with it."""
EXTRAS = {"torch": "segresnet", "lightning": "segresnet", "monai": "segresnet", "keras": "unet", "tensorflow": "unet"}
"""By module, the suite's extra that brings it."""
NOTE = "; lines of TensorFlow's own on oneDNN, or on CUDA that it does not find, are no errors"
"""They come before anything can be set that silences them."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_BLOCK, LARGEST_REST = 64 * 2**20, 512 * 2**20
"""Bytes of a block that is kept, and of what is unused at the end of the heap. The bound on blocks is what keeps
memory small where they are of many sizes (docs/LOG.md)."""


@contextmanager
def loading(framework: Literal["PyTorch", "Keras"]) -> Iterator[None]:
    """For a block that imports a framework: says so on standard error, unless it is loaded already.

    With PyTorch come TensorFlow, with lines of its own, and MLflow wherever they are installed (:data:`NOT_NEEDED`); in
    the block none is found. What this process frees, it keeps (:func:`keep_freed_memory`).
    """
    keep_freed_memory()
    if MODULES[framework] not in sys.modules:
        note = NOTE if framework == "Keras" and find_spec("tensorflow") else ""
        print(f"    loading {framework}{note}", file=sys.stderr, flush=True)
    hidden = [name for name in NOT_NEEDED if name not in sys.modules] if framework == "PyTorch" else []
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        if "tensorflow" in hidden:
            sys.modules.pop("tensorboard.compat", None)  # remembers that there is none, which a Keras run would miss


def require_framework(*configs: object) -> None:
    """Raises ModuleNotFoundError where a framework that networks of these configurations need is not installed."""
    for package in dict.fromkeys(type(config).__module__.partition(".")[0] for config in configs):
        module = MODULES.get(FRAMEWORKS.get(package, ""))
        if module is not None and module not in sys.modules and find_spec(module) is None:
            raise ModuleNotFoundError(name=module)


def not_installed(error: ModuleNotFoundError) -> str | None:
    """What is said of a framework that is not installed; None of a module that no extra brings."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    return f"{name} is not installed; it comes with: pip install 'glioma-suite[{EXTRAS[name]}]'"


def keep_freed_memory() -> bool:
    """Whether this process now keeps memory that it frees, for what it allocates next; False without glibc.

    A training frees and allocates the same hundreds of MB in every step. glibc gives large blocks back to the system,
    which has to clear each of their pages again at its first use. What lies between blocks in use is held too: most
    trainings here need 1 to 3 % more memory for it, ResNet10 a fifth.
    """
    try:
        tune = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tune(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(tune(M_TRIM_THRESHOLD, LARGEST_REST))

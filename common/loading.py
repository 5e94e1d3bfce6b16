"""Loading a deep-learning framework: said, as it takes seconds, and without another one that it would load too."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

MODULES = {"PyTorch": "torch", "Keras": "keras"}


@contextmanager
def loading(framework: Literal["PyTorch", "Keras"]) -> Iterator[None]:
    """For a block that imports a framework: says so on standard error, unless it is loaded already.

    What writes PyTorch's TensorBoard files loads TensorFlow wherever it is installed, for seconds and with lines of its
    own, and needs nothing of it; in the block it finds none.
    """
    if MODULES[framework] not in sys.modules:
        print(f"    loading {framework}", file=sys.stderr, flush=True)
    hidden = framework == "PyTorch" and "tensorflow" not in sys.modules
    if hidden:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        if hidden:
            del sys.modules["tensorflow"]
            sys.modules.pop("tensorboard.compat", None)  # remembers that there is none, which a Keras run would miss

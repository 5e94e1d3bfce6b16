"""What an interpreter lacks is found out before anything is trained."""

import sys

from experiments.comparison.interpreters import lacks


def test_what_an_interpreter_lacks_is_named(tmp_path):
    assert lacks(sys.executable, ("numpy",)) is None
    assert lacks(sys.executable, ("numpy", "no_such_package", "nor_this")) == (
        f"not installed: no_such_package, nor_this (for {sys.executable})"
    )
    nowhere = tmp_path / "bin" / "python"
    assert lacks(nowhere, ("numpy",)).startswith(f"{nowhere}: expected a Python interpreter, found: ")

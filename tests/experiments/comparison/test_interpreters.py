"""What an interpreter lacks is found out before anything is trained."""

import sys


def test_what_an_interpreter_lacks_is_named(start, tmp_path):
    assert start("works", packages=("numpy", "no_such_package", "nor_this")) == (
        f"not installed: no_such_package, nor_this (for {sys.executable})\n"
    )
    nowhere = tmp_path / "bin" / "python"
    assert start("works", python=nowhere).startswith(f"{nowhere}: expected a Python interpreter, found: ")
    assert not (tmp_path / "result").exists()

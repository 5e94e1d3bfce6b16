"""Packages that only some commands need."""

import importlib
from types import ModuleType


class MissingToolError(ValueError):
    """A package that is not installed; the message says how to install it."""


def load_module(name: str, *, extra: str) -> ModuleType:
    """A module of one of the suite's extras. Raises MissingToolError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingToolError(
            f"DICOM in and out needs {name}: pip install 'glioma-suite[{extra}]' ({error})"
        ) from error

"""Which files of a folder claim to be which subject's contrast or mask, by the layouts that are known."""

from common.layouts.find import find_files
from common.layouts.found import CohortError, Found

__all__ = ["CohortError", "Found", "find_files"]

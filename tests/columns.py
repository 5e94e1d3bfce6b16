"""The columns that docs/reading-results.md documents, to hold a real file against."""

import json
import re
from pathlib import Path

import pandas as pd

PAGE = Path(__file__).parents[1] / "docs" / "reading-results.md"
STANDS_FOR = {"MASK": ("NCR", "ED", "ET", "TC", "WT", "RC"), "YEAR": ("brats2023", "brats2024")}


def documented(name: str) -> set[str]:
    """Columns of a table, or entries of a JSON file, as the page has them in the table below the file's name."""
    text = PAGE.read_text(encoding="utf-8").partition("## Columns")[2]
    (table,) = re.findall(rf"^`{re.escape(name)}`,.*:\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    names = {name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    for word, values in STANDS_FOR.items():
        names = {name.replace(word, value) for name in names for value in values}
    return names


def columns(path: Path) -> set[str]:
    """Those of a real file."""
    if path.suffix == ".json":
        return set(json.loads(path.read_text(encoding="utf-8")))
    return set(pd.read_csv(path, nrows=1))

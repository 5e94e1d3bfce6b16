"""Tables of patients as their makers publish them: CSV, read whole and checked, every cell as text."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.cohort.found import CohortError
from common.walk import irregular, shown

Row = tuple[int, list[str]]
"""Number of a row's (last) line in the file, and its cells."""
NOT_SAID = ("", "unknown", "not available", "na", "n/a", "nan")
"""Cells that say that something is not known, in small letters."""

# Spreadsheets and web pages leave no-break and zero-width spaces, which nobody sees, around what is pasted.
_AROUND = re.compile(r"^[\s\u200b-\u200f\u2060\ufeff]+|[\s\u200b-\u200f\u2060\ufeff]+$")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def read_rows(table: str | Path, columns: str) -> tuple[list[str], list[Row]]:
    """Header and rows of a CSV, empty rows and what is blank around a cell left out.

    columns: what its columns should be, for the error. Raises CohortError when it cannot be read, is empty, has other
    signs than commas between its cells, or a row has another length than its header.
    """
    table = Path(table)
    where, wanted = shown(table), f"expected a CSV with the columns {columns}"
    try:
        if not os.path.lexists(table):
            raise CohortError(f"{where}: {wanted}, found no such file")
        if (kind := irregular(table)) is not None:
            raise CohortError(f"{where}: {wanted}, but it is {kind}")
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            read = [(lines.line_num, [_AROUND.sub("", cell) for cell in row]) for row in lines]
    except (OSError, UnicodeError, csv.Error) as error:
        raise CohortError(f"{where}: {wanted}, but {error}") from error
    rows = [(line, row) for line, row in read if any(row)]
    if not rows:
        raise CohortError(f"{where}: {wanted}, but it is empty")
    header = rows.pop(0)[1]
    if len(header) == 1 and (found := [name for sign, name in _OTHER_SEPARATORS.items() if sign in header[0]]):
        raise CohortError(f"{where}: {wanted}, separated by commas, found {' and '.join(found)}: {shown(header[0])}")
    for line, row in rows:
        if len(row) != len(header):
            raise CohortError(
                f"{where}, line {line}: expected {len(header)} values as in its first line, found {len(row)}"
            )
    return header, rows


def read_columns(table: str | Path, columns: Sequence[str]) -> list[Row]:
    """Rows of a CSV, of which the cells of these columns, in their order; it may have others.

    Raises CohortError as :func:`read_rows`, or unless each of the columns is there once.
    """
    wanted = " and ".join(columns) if len(columns) < 3 else ", ".join(columns)
    header, rows = read_rows(table, wanted)
    if any(header.count(column) != 1 for column in columns):
        raise CohortError(
            f"{shown(table)}: expected the columns {wanted}, each once, found {', '.join(map(shown, header))}"
        )
    places = [header.index(column) for column in columns]
    return [(line, [row[place] for place in places]) for line, row in rows]

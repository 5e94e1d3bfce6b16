"""Tables of patients as their makers publish them: CSV, read whole and checked, every cell as text."""

import csv
from pathlib import Path

from common.cohort.found import CohortError
from common.walk import irregular, shown

Row = tuple[int, list[str]]
"""Number of a row's (last) line in the file, and its cells."""


def read_rows(table: str | Path, columns: str) -> tuple[list[str], list[Row]]:
    """Header and rows of a CSV, empty rows left out.

    columns: what its columns should be, for the error. Raises CohortError when it cannot be read, is empty, or a row
    has another length than its header.
    """
    table = Path(table)
    where, wanted = shown(table), f"expected a CSV with the columns {columns}"
    try:
        if (kind := irregular(table)) is not None:
            raise CohortError(f"{where}: {wanted}, but it is {kind}")
        with table.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            rows = [(lines.line_num, row) for row in lines if any(row)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise CohortError(f"{where}: {wanted}, but {error}") from error
    if not rows:
        raise CohortError(f"{where}: {wanted}, but it is empty")
    header = rows.pop(0)[1]
    for line, row in rows:
        if len(row) != len(header):
            raise CohortError(
                f"{where}, line {line}: expected {len(header)} values as in its first line, found {len(row)}"
            )
    return header, rows

"""The label table of the MGMT cohort, and patient ids as its organisers write them."""

from pathlib import Path

from common.cohort import CohortError
from common.cohort.table import read_columns
from common.walk import composed, shown

ID, LABEL = "BraTS21ID", "MGMT_value"
_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


def read_labels(table: str | Path) -> dict[str, int]:
    """MGMT label (1 methylated, 0 not) by patient id, in the table's order; ids are padded with zeros to five digits.

    Other columns than BraTS21ID and MGMT_value may be there. Raises CohortError naming the line of a label that is
    missing or neither 0 nor 1 (a submission's probability, say), of an id that is missing, comes again, or is a number
    in another way than plain digits (12.0 and 1e2 are what spreadsheets make of ids), or of a row of another length.
    """
    table = Path(table)
    where = shown(table)
    labels: dict[str, int] = {}
    for line, (name, value) in read_columns(table, (ID, LABEL)):
        if _is_odd(name):
            raise CohortError(f"{where}, line {line}: expected an id such as 00012 in plain digits, found {name!a}")
        name = padded(name)
        if value not in _VALUES:
            raise CohortError(
                f"{where}, line {line}: expected {LABEL} 0 or 1 for patient {name}, found {value or 'none'}"
            )
        if not name or name in labels:
            raise CohortError(f"{where}, line {line}: expected each patient once, found {name or 'no id'} again")
        labels[name] = _VALUES[value]
    if not labels:
        raise CohortError(f"{where}: expected a row per patient, found none")
    return labels


def padded(patient: str) -> str:
    """The id as the competition writes it: five digits. Spreadsheets drop the leading zeros."""
    return f"{int(patient):05d}" if _is_plain_number(patient) else composed(patient)


def _is_plain_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _is_odd(name: str) -> bool:
    """A number that is not written in plain digits, or characters that nobody sees."""
    if not name.isprintable():
        return True
    try:
        float(name)
    except ValueError:
        return False
    return not _is_plain_number(name)

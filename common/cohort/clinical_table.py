"""Clinical tables of public glioma collections: MGMT status, sex, age, IDH and scanner of each scan.

UCSF-PDGM (``UCSF-PDGM-metadata*.csv``; its ids have three digits where its folders have four) and UPENN-GBM
(``UPENN-GBM_clinical_info*.csv``, scanners in ``UPENN-GBM_acquisition.csv`` beside it) are told by their columns, which
are written as the collections write them on The Cancer Imaging Archive. Any other cohort has a table of its own with
the columns id and mgmt, and those of sex, age, idh, scanner and brats21_id that are known. Ids of BraTS itself hold the
number that brats21_id would name.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.cohort.clinical import subject_id
from common.cohort.found import CohortError
from common.cohort.table import NOT_SAID, Row, read_columns, read_rows
from common.walk import shown

UCSF, UPENN, OWN = "UCSF-PDGM", "UPENN-GBM", "own"
NAMES = ("UCSF-PDGM-metadata*.csv", "UPENN-GBM_clinical_info*.csv", "patients.csv")
"""Under which a table is looked for in a cohort's folder, or beside it."""
ACQUISITION = "UPENN-GBM_acquisition.csv"
MAPPING = ("PatientID on TCIA Radiology Portal", "BraTS2021 ID")
"""Columns of BraTS2021_MappingToTCIA: which patient of another collection is which of BraTS 2021."""
METHYLATED = {"positive": 1, "methylated": 1, "1": 1, "negative": 0, "unmethylated": 0, "0": 0}
_UNDECIDED = ("indeterminate", *NOT_SAID)
_COLUMNS = {
    UCSF: {
        "id": "ID",
        "mgmt": "MGMT status",
        "sex": "Sex",
        "age": "Age at MRI",
        "idh": "IDH",
        "brats21_id": "BraTS21 ID",
    },
    UPENN: {"id": "ID", "mgmt": "MGMT", "sex": "Gender", "age": "Age_at_scan_years", "idh": "IDH1"},
    OWN: {name: name for name in ("id", "mgmt", "sex", "age", "idh", "scanner", "brats21_id")},
}
_LATER = re.compile(r"UCSF-PDGM-\d+_FU\d+d|UPENN-GBM-\d+_(?!11$)\d+")
_BRATS21_ID = re.compile(r"(?:BraTS2021_)?(\d{1,5})")
# BraTS 2023 has kept the numbers of 2021 (D); time points from 100 on are other scans, after treatment, of BraTS 2024.
_OF_BRATS = re.compile(r"(?:BraTS2021_|BraTS-GLI-)(\d{5})(?:-0\d\d)?", re.IGNORECASE)

Idh = Literal["wildtype", "mutant"]


@dataclass(frozen=True, kw_only=True)
class Clinical:
    """What a table says of one scan. None: it does not say.

    mgmt: 1 methylated, 0 not, None where mgmt_said, the table's word, decides neither. brats21_id: the patient's number
    in BraTS 2021, five digits, which the RSNA-MICCAI competition shares: from the table, else from an id such as
    BraTS2021_00097 or BraTS-GLI-00097-000.
    """

    id: str
    mgmt: int | None
    mgmt_said: str
    sex: Literal["F", "M"] | None = None
    age: float | None = None
    idh: Idh | None = None
    scanner: str | None = None
    brats21_id: str | None = None


@dataclass(frozen=True)
class Table:
    """A clinical table. collection: UCSF, UPENN or OWN. scans: by id, as `common.cohort` writes it.

    says_brats21: whether it can say which patients are in BraTS 2021: it has a column for them, or all ids are BraTS's.
    """

    path: Path
    collection: str
    scans: Mapping[str, Clinical]
    says_brats21: bool


def is_later(subject: str) -> bool:
    """Whether a subject's id says that it was scanned after the first operation, or at a follow-up."""
    return _LATER.fullmatch(subject) is not None


def find_table(folder: str | Path) -> Path:
    """The clinical table in a cohort's folder, else in one of the two above. Raises CohortError without one, or with
    several in one place."""
    folder = Path(folder).resolve()
    for place in (folder, *folder.parents[:2]):
        found = sorted(file for name in NAMES for file in place.glob(name))
        if len(found) > 1:
            listed = ", ".join(shown(file.name) for file in found)
            raise CohortError(f"{shown(place)}: expected one clinical table, found {listed}; name the one to be read")
        if found:
            return found[0]
    raise CohortError(
        f"{shown(folder)}: expected its clinical table ({', '.join(NAMES)}) in it or in the two folders above, found "
        "none; name it"
    )


def read_clinical(table: str | Path) -> Table:
    """Read a clinical table, told by its columns.

    Raises CohortError naming the line of an id that is missing or comes again, or of a value that is none of the words
    that the collection uses: what a label means is never guessed.
    """
    table = Path(table)
    words = "ID and MGMT status (UCSF-PDGM), ID and MGMT (UPENN-GBM), or id and mgmt"
    header, rows = read_rows(table, words)
    kinds = [kind for kind, columns in _COLUMNS.items() if {columns["id"], columns["mgmt"]} <= set(header)]
    known = [column for kind in kinds for column in _COLUMNS[kind].values() if header.count(column) > 1]
    if len(kinds) != 1 or known:
        raise CohortError(f"{shown(table)}: expected the columns {words}, each once, found {', '.join(header)}")
    columns = {name: header.index(column) for name, column in _COLUMNS[kinds[0]].items() if column in header}
    scans: dict[str, Clinical] = {}
    for line, row in rows:
        where = f"{shown(table)}, line {line}"
        found = _clinical({name: row[place] for name, place in columns.items()}, where)
        if not found.id or found.id in scans:
            raise CohortError(f"{where}: expected each scan once, found {found.id or 'no id'} again")
        scans[found.id] = found
    if not scans:
        raise CohortError(f"{shown(table)}: expected a row per scan, found none")
    if kinds[0] == UPENN and (table.parent / ACQUISITION).is_file():
        scanners = _scanners(table.parent / ACQUISITION)
        scans = {id: replace(scan, scanner=scanners.get(id) or None) for id, scan in scans.items()}
    tells = "brats21_id" in columns or all(scan.brats21_id for scan in scans.values())
    return Table(table, kinds[0], scans, tells)


def read_mapping(table: str | Path) -> dict[str, set[str]]:
    """Numbers in BraTS 2021 of patients of other collections, from the organisers' BraTS2021_MappingToTCIA as CSV.

    Raises CohortError as :func:`read_clinical`.
    """
    table = Path(table)
    found: dict[str, set[str]] = {}
    for line, (patient, number) in read_columns(table, MAPPING):
        if patient and (known := _brats21(number, f"{shown(table)}, line {line}")):
            found.setdefault(subject_id(patient), set()).add(known)
    return found


def _clinical(cells: Mapping[str, str], where: str) -> Clinical:
    said = cells["mgmt"]
    if said.lower() not in (*METHYLATED, *_UNDECIDED):
        raise CohortError(
            f"{where}: expected {', '.join(METHYLATED)} or that it is not known "
            f"({', '.join(filter(None, _UNDECIDED))}) as MGMT status, found {said!a}"
        )
    id = subject_id(cells["id"])
    own = _OF_BRATS.fullmatch(id)
    return Clinical(
        id=id,
        mgmt=METHYLATED.get(said.lower()),
        mgmt_said=said or "nothing",
        sex=_sex(cells.get("sex", ""), where),
        age=_age(cells.get("age", ""), where),
        idh=_idh(cells.get("idh", ""), where),
        scanner=cells.get("scanner") or None,
        brats21_id=_brats21(cells.get("brats21_id", ""), where) or (own and own[1]),
    )


def _sex(said: str, where: str) -> Literal["F", "M"] | None:
    if said.lower() in NOT_SAID:
        return None
    if said.lower() in ("f", "female"):
        return "F"
    if said.lower() in ("m", "male"):
        return "M"
    raise CohortError(f"{where}: expected F or M as sex, found {said!a}")


def _age(said: str, where: str) -> float | None:
    if said.lower() in NOT_SAID:
        return None
    try:
        age = float(said)
        if not (math.isfinite(age) and 0 <= age < 130):
            raise ValueError(said)
    except ValueError:
        raise CohortError(f"{where}: expected an age in years, found {said!a}") from None
    return age


def _idh(said: str, where: str) -> Idh | None:
    """wildtype; mutant for ``mutated (NOS)``, ``Mutated`` and every named mutation; None for NOS/NEC (not tested)."""
    plain = said.lower().replace("-", "").replace(" ", "")
    if plain in (*(word.replace(" ", "") for word in _UNDECIDED), "nos/nec"):
        return None
    if plain in ("wildtype", "wt"):
        return "wildtype"
    if plain.startswith(("mutant", "mutated", "idh1", "idh2")):
        return "mutant"
    raise CohortError(f"{where}: expected wildtype, a mutation or that it is not known as IDH status, found {said!a}")


def _brats21(said: str, where: str) -> str | None:
    if said.lower() in NOT_SAID:
        return None
    if match := _BRATS21_ID.fullmatch(said):
        return f"{int(match[1]):05d}"
    raise CohortError(f"{where}: expected an id of BraTS 2021 such as BraTS2021_00097, found {said!a}")


def _scanners(table: Path) -> dict[str, str]:
    """Manufacturer, model and field strength by scan, as far as the table has them."""
    parts = ("Manufacturer", "Model", "Magnetic Field Strength")
    header, rows = read_rows(table, f"ID, {', '.join(parts)}")
    if "ID" not in header or parts[0] not in header:
        raise CohortError(f"{shown(table)}: expected the columns ID and {parts[0]}, found {', '.join(header)}")

    def words(row: Row) -> str:
        found = {part: row[1][header.index(part)] for part in parts if part in header}
        tesla = found.pop(parts[2], "")
        return " ".join(filter(None, (*found.values(), f"{tesla} T" if tesla else "")))

    return {subject_id(row[1][header.index("ID")]): words(row) for row in rows}

"""Ids of scans as the collections' tables write them: UCSF-PDGM's has fewer digits than its folders."""

from __future__ import annotations

import re

from common.walk import composed

_UCSF = re.compile(r"(UCSF-PDGM)-(\d+)(_FU\d+d)?(?:_nifti)?", re.IGNORECASE)
_UPENN = re.compile(r"(UPENN-GBM)-(\d+)(_\d+)", re.IGNORECASE)
_DIGITS = {"UCSF-PDGM": 4, "UPENN-GBM": 5}


def subject_id(written: str) -> str:
    """The id that `common.cohort` gives to the scans of a row of a collection's table.

    UCSF-PDGM-004 is UCSF-PDGM-0004, and UCSF-PDGM-0431_FU001d, which the table writes as the folder does, itself; a row
    of UPENN-GBM is a scan, UPENN-GBM-00001_11. What is no id of these collections is returned without spaces around it.
    """
    written = composed(written.strip())
    if (found := _UCSF.fullmatch(written) or _UPENN.fullmatch(written)) is None:
        return written
    collection = found[1].upper()
    return f"{collection}-{int(found[2]):0{_DIGITS[collection]}}{found[3] or ''}"

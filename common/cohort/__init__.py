"""A folder of scans, whatever its layout: the subjects in it, and everything that is wrong with them."""

from common.cohort.audit import Audit, audit
from common.cohort.found import CohortError
from common.cohort.subjects import Cohort, find_subjects

__all__ = ["Audit", "Cohort", "CohortError", "audit", "find_subjects"]

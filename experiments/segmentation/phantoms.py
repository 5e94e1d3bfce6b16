"""The embedded cohort of the segmentation experiments."""

from pathlib import Path

PHANTOM_SUBJECTS = 40
PHANTOM_SEED = 2021


def phantom_cohort(folder: Path, *, jobs: int) -> Path:
    """The embedded cohort, made where it is missing; says so, because every result on it is synthetic."""
    from common.phantom.cohort import write_cohort

    print(f"no --data given: using the embedded cohort of {PHANTOM_SUBJECTS} synthetic patients in {folder}, made once")
    return write_cohort(folder, n_subjects=PHANTOM_SUBJECTS, seed=PHANTOM_SEED, n_jobs=jobs)

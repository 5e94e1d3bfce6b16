"""The embedded cohort of the segmentation experiments."""

from pathlib import Path

PHANTOM_SUBJECTS = 40
PHANTOM_SEED = 2021


def phantom_cohort(folder: Path, *, jobs: int, max_subjects: int | None = None) -> Path:
    """The embedded cohort, made where it is missing; says so, because every result on it is synthetic.

    max_subjects: of its patients no more than the first so many are made; those of another call may be there too.
    """
    from common.phantom.cohort import write_cohort

    n = min(PHANTOM_SUBJECTS, max_subjects or PHANTOM_SUBJECTS)
    first = "" if n == PHANTOM_SUBJECTS else f"the first {n} of "
    print(
        f"no --data given: using {first}the embedded cohort of {PHANTOM_SUBJECTS} synthetic patients in {folder}, "
        "made once"
    )
    return write_cohort(folder, n_subjects=n, seed=PHANTOM_SEED, n_jobs=jobs)

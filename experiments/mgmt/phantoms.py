"""The embedded MGMT cohorts: the competition's folder, and a second site for the test outside."""

from pathlib import Path

from experiments.base.options import Refused
from experiments.mgmt.options import MgmtOptions

PATIENTS = 200
SITE_PATIENTS = 120


def phantom_patients(options: MgmtOptions) -> Path:
    """The embedded MGMT cohort, made where it is missing; says so, because every result on it is synthetic."""
    from common.phantom.dicom import write_cohort

    folder = options.phantoms / f"seed{options.phantom_seed}_{options.planted}"
    print(
        f"no --data given: using the embedded cohort of {PATIENTS} synthetic patients in {folder}, "
        f"planted: {options.planted}"
    )
    try:
        return write_cohort(
            folder,
            n_patients=PATIENTS,
            seed=options.phantom_seed,
            effect=options.effect,
            confounder=options.confounder,
            n_jobs=options.jobs,
        )
    except ValueError as error:
        raise Refused(f"{error} Delete the folder, or name another with --phantoms.") from error


def phantom_site(options: MgmtOptions) -> Path:
    """The embedded second site, made where it is missing: other patients, the same planted effect, no confounder."""
    from common.phantom.site import write_site

    seed = options.phantom_seed + 1
    folder = options.phantoms / f"site_seed{seed}_effect{options.effect:g}"
    print(f"no --sites given: using the embedded second site of {SITE_PATIENTS} synthetic patients in {folder}")
    try:
        return write_site(folder, n_patients=SITE_PATIENTS, seed=seed, effect=options.effect, n_jobs=options.jobs)
    except ValueError as error:
        raise Refused(f"{error} Delete the folder, or name another with --phantoms.") from error

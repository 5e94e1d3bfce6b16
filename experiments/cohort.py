"""What the report says about its data, checked on the cohort given.

    python -m experiments.cohort                    the embedded phantoms
    python -m experiments.cohort --data FOLDER      BraTS, MSD or nnU-Net folder with masks

Every file of every subject is read and checked, and everything wrong is listed. Then, over the good subjects: the share
of background, the balance of the labels, how many subjects the report's 1 % rule leaves out, in how many slices the
brain lies, and how much of the tumour slices 60:135 hold. Reading takes about 0.1 s per subject and core.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from common.cohort import Cohort, CohortError, audit, find_subjects
from common.files import write_csv, write_json
from common.labels import CLASSES
from common.nifti import to_axes
from common.runs import Run, RunError, configuration_hash
from common.statistics import bootstrap_interval
from common.subject import Subject
from experiments import results
from experiments.study import phantom_cohort

EXPERIMENT = "cohort"
# The 1 % rule is applied to the part of the volume that the 3D U-Net sees (see the protocol of the 3D U-Net).
UNET3D_CROP = (slice(56, 184), slice(56, 184), slice(13, 141))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which cohort is checked, and where the result is kept."""

    data: Path | None = None
    """Folder of scans; without it the embedded phantoms are used."""
    convention: str | None = None
    """Name of the masks' label convention, where the folder cannot tell it for certain."""
    max_subjects: int | None = None
    """Check at most so many subjects, the first by id."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded cohort."""
    jobs: int = -1
    """Threads that read; -1 takes every core."""


def measure(subject: Subject) -> dict[str, object]:
    """One subject's row: voxels per class, labelled fraction of the crop, slices that hold brain and tumour."""
    images, scan = subject.load_images(("FLAIR",))
    # Slices are counted along the body's axis, whatever the scan's.
    labels = to_axes(subject.load_labels(), scan.affine)
    brain = to_axes(images[0], scan.affine) != 0
    first, last = results.reported("settings")["unet25d"]["slices"].value
    tumour = labels > 0
    n_tumour = np.count_nonzero(tumour)
    inside = np.count_nonzero(tumour[:, :, first:last])
    return {
        "subject": subject.id,
        **{f"voxels_{name}": int(n) for name, n in zip(CLASSES, np.bincount(labels.ravel(), minlength=4), strict=True)},
        "crop_fraction": np.count_nonzero(tumour[UNET3D_CROP]) / labels[UNET3D_CROP].size,
        "slices_with_brain": np.count_nonzero(brain.any(axis=(0, 1))),
        "slices_with_tumour": np.count_nonzero(tumour.any(axis=(0, 1))),
        "tumour_in_slices": inside / n_tumour if n_tumour else np.nan,
    }


def claims(rows: pd.DataFrame, *, synthetic: bool) -> list[results.Result]:
    """The report's claims about its data beside the same quantity in this cohort."""
    voxels = rows[[f"voxels_{name}" for name in CLASSES]].set_axis(CLASSES, axis=1)
    labelled = voxels[list(CLASSES[1:])]
    shares = labelled.div(labelled.sum(axis=1), axis=0).dropna()
    minimum = results.reported("settings")["unet3d"]["minimum_mask_fraction"].value
    excluded = (rows["crop_fraction"] < minimum).astype(float)
    said = results.reported()[EXPERIMENT]

    def line(name: str, values: Sequence[float], reported: float | str | None = None) -> results.Result:
        values = np.asarray(pd.Series(values).dropna(), dtype=float)
        interval = bootstrap_interval(values, seed=0)
        return results.Result(
            key=f"{EXPERIMENT}.{name}",
            reported=said[name].value if name in said else reported,
            value=results.finite(values.mean()) if len(values) else None,
            low=results.finite(interval.low),
            high=results.finite(interval.high),
            n=len(values),
            synthetic=synthetic,
        )

    def count(name: str, value: float) -> results.Result:
        return results.Result(f"{EXPERIMENT}.{name}", said[name].value, value, None, None, len(rows), synthetic)

    return [
        count("subjects", len(rows)),
        line("background_fraction", voxels["background"] / voxels.sum(axis=1)),
        count("label_shares", results.finite(shares.mean().max() / shares.mean().min())),
        *(line(f"share_{name}", shares[name]) for name in labelled),
        count("subjects_excluded", int(excluded.sum())),
        count("subjects_kept", int(len(rows) - excluded.sum())),
        line("excluded_fraction", excluded, said["subjects_excluded"].value / said["subjects"].value),
        line("slices_with_brain", rows["slices_with_brain"]),
        line("slices_with_tumour", rows["slices_with_tumour"]),
        line("tumour_in_unet25d_slices", rows["tumour_in_slices"]),
        line("whole_tumour_in_unet25d_slices", (rows["tumour_in_slices"].dropna() == 1).astype(float)),
    ]


def main() -> None:
    options = tyro.cli(Options, prog="python -m experiments.cohort", description=__doc__)
    try:
        check(options)
    except (CohortError, RunError) as error:
        sys.exit(f"error: {error}")


def check(options: Options) -> None:
    """Audit, measure, write the run's folder and print the table. Raises CohortError when no subject is good."""
    synthetic = options.data is None
    folder = phantom_cohort(options.phantoms, jobs=options.jobs) if synthetic else options.data
    cohort: Cohort = find_subjects(folder, convention=options.convention, max_subjects=options.max_subjects)
    problems = audit(cohort, n_jobs=options.jobs)
    bad = {problem.subject for problem in problems}
    good = [subject for subject in cohort.subjects if subject.id not in bad and subject.label is not None]
    for problem in problems:
        print(f"  {problem}")
    print(f"{folder}: {cohort.layout}, {len(good)} good subjects, {len(bad)} with problems")
    if not good:
        raise CohortError(f"{folder}: expected at least one good subject with a mask, found none")
    jobs = joblib.Parallel(n_jobs=options.jobs, prefer="threads", return_as="generator")(
        joblib.delayed(measure)(subject) for subject in good
    )
    rows = pd.DataFrame(list(tqdm(jobs, total=len(good), desc="measuring", unit="subject", leave=False)))
    summary = claims(rows, synthetic=synthetic)
    source = "phantoms" if synthetic else folder.resolve().name
    name = configuration_hash([subject.fingerprint() for subject in good])
    with Run(options.runs / EXPERIMENT / f"{source}-{name}") as run:
        write_json(run.folder / "problems.json", [str(problem) for problem in problems])
        write_csv(run.folder / "subjects.csv", rows)
        write_json(run.folder / "summary.json", results.as_rows(summary))
        print(results.table(summary))
        print("label_shares: the largest label's mean share of the tumour over the smallest's")
        if synthetic:
            print(results.SYNTHETIC_NOTE)
        print(f"run folder: {run.folder}")


if __name__ == "__main__":
    main()

"""What the report says about its data, of both tasks, checked on the cohorts given.

    python -m experiments.cohort                          the embedded phantoms of both tasks
    python -m experiments.cohort --data FOLDER            BraTS, MSD or nnU-Net folder with masks
    python -m experiments.cohort --mgmt-data FOLDER       RSNA-MICCAI folder (DICOM); also together with --data

Every file of every subject is read and checked, and everything wrong is listed, with how the masks are read and which
subjects hold the same scan. Then, over the good subjects: the share of background, the balance of the labels, how many
subjects the report's 1 % rule leaves out, in how many slices the brain lies, and how much of the tumour slices 60:135
hold; over the MGMT series: classes, images, planes and black images. Of a task without a cohort nothing is checked, and
the table says so. Cost: embedded cohorts 20 s on two cores of an AMD EPYC once they are written, of which 0.1 s per
subject and 0.2 ms per DICOM image are one core's. Expect on them a background of 0.99, 0.90 of the tumour in slices 60
to 134, four planes, and 15 % black images, all at the ends. The same command on the same files shows the finished
table.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from common import geometry
from common.cohort import Cohort, CohortError, audit, find_subjects
from common.dicom.mgmt_cohort import MgmtCohort, find_patients
from common.dicom.mgmt_cohort import audit as audit_series
from common.files import file_stem, write_csv, write_json
from common.grid import BRATS_EXTENT, Grid, bring
from common.labels import CLASSES
from common.nifti import ScanError
from common.runs import Run, RunError, configuration_hash, environment
from common.statistics import bootstrap_interval
from common.subject import Subject
from experiments.base import results
from experiments.base.options import Refused, refuse_phantoms
from experiments.mgmt import cohort as cohort_mgmt
from experiments.mgmt.study import MgmtOptions, phantom_patients
from experiments.segmentation.study import phantom_cohort

EXPERIMENT = "cohort"
# The 1 % rule is applied to the part of the volume that the 3D U-Net sees (see the protocol of the 3D U-Net).
UNET3D_CROP = (slice(56, 184), slice(56, 184), slice(13, 141))
COUNTED = ("crop_fraction", "slices_with_brain", "slices_with_tumour", "tumour_in_slices")  # on BraTS's grid
PROBLEMS, NOTES, SERIES, SUBJECTS = "problems.json", "notes.json", "mgmt_series.csv", "subjects.csv"
LEGEND = """subjects_with_the_scan_of_another: subjects that hold the images of one before them
label_shares: the largest label's mean share of the tumour over the smallest's
mgmt_classes: share of the labelled patients that are methylated
mgmt_black_fraction: share of a patient's images that show a single grey value, mean over patients"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which cohorts are checked, and where the result is kept."""

    data: Path | None = None
    """Folder of scans. Without it and without --mgmt-data the embedded phantoms of both tasks are used."""
    mgmt_data: Path | None = None
    """Folder of the MGMT cohort (DICOM)."""
    mgmt_labels: Path | None = None
    """MGMT label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    convention: str | None = None
    """Name of the masks' label convention, where the folder cannot tell it for certain."""
    max_subjects: int | None = None
    """Check at most so many subjects, the first by id."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded cohort."""
    phantoms_mgmt: Path = Path("phantoms_mgmt")
    """Folder of the embedded MGMT cohorts."""
    jobs: int = -1
    """Threads, for DICOM processes, that read; -1 takes every core."""
    fresh: bool = False
    """Read everything again, in place of showing the finished result."""


def measure(subject: Subject) -> dict[str, object]:
    """One subject's row: voxels per class, labelled fraction of the crop, slices that hold brain and tumour.

    Crop and slices are counted on BraTS's grid, to which the scan is brought; ``grid`` tells how, and where that cannot
    be done, why the row holds no such counts.
    """
    images, scan = subject.load_images(("FLAIR",))
    labels = subject.load_labels()
    voxels = {
        f"voxels_{name}": int(n) for name, n in zip(CLASSES, np.bincount(labels.ravel(), minlength=4), strict=True)
    }
    notes = geometry.notes(scan)
    try:
        brought = bring({"FLAIR": replace(scan, data=images[0])}, labels, Grid(extent=BRATS_EXTENT))
    except ScanError as error:
        return {"subject": subject.id, **voxels, **dict.fromkeys(COUNTED, np.nan), "grid": f"not checked: {error}"}
    labels, brain = brought.labels, brought.scans["FLAIR"].data != 0
    first, last = results.reported("settings")["unet25d"]["slices"].value
    tumour = labels > 0
    crop = tumour[UNET3D_CROP]
    n_tumour = np.count_nonzero(tumour)
    inside = np.count_nonzero(tumour[:, :, first:last])
    return {
        "subject": subject.id,
        **voxels,
        "crop_fraction": np.count_nonzero(crop) / crop.size if crop.size else np.nan,
        "slices_with_brain": np.count_nonzero(brain.any(axis=(0, 1))),
        "slices_with_tumour": np.count_nonzero(tumour.any(axis=(0, 1))),
        "tumour_in_slices": inside / n_tumour if n_tumour else np.nan,
        "grid": "; ".join(filter(None, [*notes, str(brought.placement)])),
    }


def claims(rows: pd.DataFrame, n_bad: int, n_copies: int, *, synthetic: bool) -> list[results.Result]:
    """The report's claims about its segmentation data beside the same quantity in this cohort.

    rows: of the good subjects, n_copies of which hold the scan of another; n_bad: how many others there are.
    """
    voxels = rows[[f"voxels_{name}" for name in CLASSES]].set_axis(CLASSES, axis=1)
    labelled = voxels[list(CLASSES[1:])]
    shares = labelled.div(labelled.sum(axis=1), axis=0).dropna()
    minimum = results.reported("settings")["unet3d"]["minimum_mask_fraction"].value
    excluded = (rows["crop_fraction"].dropna() < minimum).astype(float)
    not_counted = None if len(excluded) else "not checked: no scan could be brought to BraTS's grid"
    said = results.reported()[EXPERIMENT]

    def line(name: str, values: Sequence[float], reported: float | str | None = None) -> results.Result:
        values = np.asarray(pd.Series(values).dropna(), dtype=float)
        interval = bootstrap_interval(values, seed=0)
        return results.Result(
            key=f"{EXPERIMENT}.{name}",
            reported=said[name].value if name in said else reported,
            value=results.finite(values.mean()) if len(values) else not_counted,
            low=results.finite(interval.low),
            high=results.finite(interval.high),
            n=len(values),
            synthetic=synthetic,
        )

    def count(name: str, value: float | str, n: int = len(rows)) -> results.Result:
        reported = said[name].value if name in said else None
        return results.Result(f"{EXPERIMENT}.{name}", reported, value, None, None, n, synthetic)

    return [
        count("subjects", len(rows)),
        count("subjects_with_problems", n_bad, len(rows) + n_bad),
        count("subjects_with_the_scan_of_another", n_copies),
        line("background_fraction", voxels["background"] / voxels.sum(axis=1)),
        count("label_shares", results.finite(shares.mean().max() / shares.mean().min())),
        *(line(f"share_{name}", shares[name]) for name in labelled),
        count("subjects_excluded", not_counted or int(excluded.sum()), len(excluded)),
        count("subjects_kept", not_counted or int(len(excluded) - excluded.sum()), len(excluded)),
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
    except (CohortError, RunError, Refused) as error:
        sys.exit(f"error: {error}")


def refuse_contradictions(options: Options) -> None:
    """Raises Refused when an option belongs to a task of which no cohort is given, though the other's is."""
    if options.mgmt_data is None and options.mgmt_labels is not None:
        raise Refused(f"expected --mgmt-data beside --mgmt-labels {options.mgmt_labels}, received none")
    if options.data is None and options.mgmt_data is not None and (options.convention or options.max_subjects):
        raise Refused("expected --data beside --convention or --max-subjects, which say nothing of --mgmt-data")


def check(options: Options) -> None:
    """Audit, measure, write the run's folder and print the table. Raises CohortError when no subject is good."""
    refuse_contradictions(options)
    folder, mgmt_folder = options.data, options.mgmt_data
    synthetic = folder is None and mgmt_folder is None
    if synthetic:
        folder = phantom_cohort(options.phantoms, jobs=options.jobs)
        mgmt_folder = phantom_patients(MgmtOptions(phantoms=options.phantoms_mgmt, jobs=options.jobs))
    subjects = patients = None
    if folder is not None:
        subjects = find_subjects(folder, convention=options.convention, max_subjects=options.max_subjects)
    if mgmt_folder is not None:
        patients = find_patients(mgmt_folder, options.mgmt_labels)
    if options.data is not None and subjects.subjects:
        refuse_phantoms(options.data, next(iter(subjects.subjects[0].images.values())))
    if options.mgmt_data is not None:
        refuse_phantoms(options.mgmt_data, patients.any_series)
    with Run(options.runs / EXPERIMENT / _name(subjects, patients, synthetic), fresh=options.fresh) as run:
        if not run.is_finished:
            data = {"folder": folder, "mgmt_folder": mgmt_folder, "synthetic": synthetic}
            write_json(run.folder / "config.json", {"experiment": EXPERIMENT, "options": options})
            write_json(run.folder / "data.json", data)
            write_json(run.folder / "environment.json", [environment()])
            found = [
                *segmentation(subjects, run.folder, options, synthetic=synthetic),
                *mgmt(patients, run.folder, options, synthetic=synthetic),
            ]
            write_json(run.folder / "summary.json", results.as_rows(found))
        show(run.folder)


def segmentation(cohort: Cohort | None, folder: Path, options: Options, *, synthetic: bool) -> list[results.Result]:
    """The claims about the segmentation data; writes problems.json and subjects.csv."""
    if cohort is None:
        names = [name for name in results.reported()[EXPERIMENT] if not name.startswith(cohort_mgmt.PREFIX)]
        return not_checked(names, "--data")
    found = audit(cohort, n_jobs=options.jobs)
    problems = found.problems
    write_json(folder / PROBLEMS, [str(problem) for problem in problems])
    equal = [
        f"{' = '.join(ids)}: equal scans under several ids, kept on one side of every split" for ids in found.equal
    ]
    write_json(folder / NOTES, [*cohort.notes, *found.notes, *equal])
    bad = {problem.subject for problem in problems}
    good = [subject for subject in cohort.subjects if subject.id not in bad and subject.label is not None]
    if not good:
        listing = "".join(f"\n  {problem}" for problem in problems)
        raise CohortError(f"{cohort.folder}: expected at least one good subject with a mask, found none{listing}")
    jobs = joblib.Parallel(n_jobs=options.jobs, prefer="threads", return_as="generator")(
        joblib.delayed(measure)(subject) for subject in good
    )
    rows = pd.DataFrame(list(tqdm(jobs, total=len(good), desc="measuring", unit="subject", leave=False)))
    write_csv(folder / SUBJECTS, rows)
    copies = sum(len(ids) - 1 for ids in found.equal)
    return claims(rows, len(bad), copies, synthetic=synthetic)


def mgmt(cohort: MgmtCohort | None, folder: Path, options: Options, *, synthetic: bool) -> list[results.Result]:
    """The claims about the MGMT data; writes mgmt_series.csv."""
    if cohort is None:
        names = [name for name in results.reported()[EXPERIMENT] if name.startswith(cohort_mgmt.PREFIX)]
        return not_checked(names, "--mgmt-data")
    series = audit_series(cohort, n_jobs=options.jobs)
    write_csv(folder / SERIES, series)
    return cohort_mgmt.claims(cohort, series, synthetic=synthetic)


def not_checked(names: Iterable[str], option: str) -> list[results.Result]:
    """The report's claims under these names, of a task of which no cohort was given."""
    said = results.reported()[EXPERIMENT]
    value = f"not checked: no {option} given"
    return [results.Result(f"{EXPERIMENT}.{name}", said[name].value, value, None, None, 0, False) for name in names]


def show(folder: Path) -> None:
    """Print what is wrong with the files, the table, and how to read it."""
    problems = json.loads((folder / PROBLEMS).read_text(encoding="utf-8")) if (folder / PROBLEMS).exists() else []
    if (folder / SERIES).exists():
        series = pd.read_csv(folder / SERIES, dtype={"patient": str}, keep_default_na=False)
        bad = series[series["problem"] != ""]
        problems += [f"{row.patient} {row.contrast}: {row.problem}" for row in bad.itertuples()]
    for problem in problems:
        print(f"  {problem}")
    if (folder / NOTES).exists():
        print(*json.loads((folder / NOTES).read_text(encoding="utf-8")), sep="\n")
    if (folder / SUBJECTS).exists() and "grid" in (rows := pd.read_csv(folder / SUBJECTS, keep_default_na=False)):
        for note, n in rows.loc[rows["grid"] != "", "grid"].value_counts().items():
            print(f"  {n} of {len(rows)} subjects: {note}")
    summary = results.read_summary(folder / "summary.json")
    print(results.table(summary))
    print(LEGEND)
    if any(result.synthetic for result in summary):
        print(results.SYNTHETIC_NOTE)
    print(f"run folder: {folder}")


def _name(cohort: Cohort | None, patients: MgmtCohort | None, synthetic: bool) -> str:
    """The run's name: of the folders, and of all that is in them."""
    given = [one.folder.resolve().name for one in (cohort, patients) if one is not None]
    content: list[object] = []
    if cohort is not None:
        content += [subject.fingerprint() for subject in cohort.subjects] + [str(one) for one in cohort.incomplete]
    if patients is not None:
        content += cohort_mgmt.fingerprint(patients)
    return f"{'phantoms' if synthetic else file_stem('-'.join(given))}-{configuration_hash(content)}"


if __name__ == "__main__":
    main()

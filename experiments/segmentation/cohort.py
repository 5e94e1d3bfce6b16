"""What the report says about its segmentation data: background, balance of labels, the 1 % rule, slices.

The half of ``experiments.cohort`` that reads scans and masks.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from common import geometry
from common.classification import accuracy_interval
from common.cohort import Cohort, CohortError
from common.grid import BRATS_EXTENT, Grid, bring
from common.labels import CLASSES, RC
from common.nifti import ScanError
from common.progress import counted
from common.statistics import bootstrap_interval
from common.subject import Problem, Subject, lines
from common.words import listed, plural
from experiments.base import results
from experiments.base.results import Result
from experiments.drawing.scans import draw_subjects

EXPERIMENT = "cohort"
# The 1 % rule is applied to the part of the volume that the 3D U-Net sees (see the protocol of the 3D U-Net).
UNET3D_CROP = (slice(56, 184), slice(56, 184), slice(13, 141))
CAVITY = f"voxels_{RC}"
DRAWN = 8
"""So many subjects are pictured."""
COUNTED = ("crop_fraction", "slices_with_brain", "slices_with_tumour", "tumour_in_slices")  # on BraTS's grid
LEGEND = (
    "background_fraction: share of all voxels of the scan, the air around the head among them",
    "slices_with_brain: of the 155 axial ones, those with any brain at all; the report counts 80 in most scans and "
    "does not say what it counts as one",
    "subjects_with_the_scan_of_another: subjects that hold the images of one before them",
    "subjects_with_exchanged_contrasts: whose scans do not look like their contrasts: figures/subjects.png",
    "subjects_excluded: by the report's 1 % rule, fewer voxels of tumour in the 3D U-Net's crop; other networks "
    "take them",
    "subjects_kept: the others",
    "tumour_in_unet25d_slices: share of the tumour in the slices that the 2.5D U-Net sees",
    "whole_tumour_in_unet25d_slices: subjects with all of it there",
    "label_shares: the largest label's mean share of the tumour over the smallest's",
)
"""What the audit's rows are."""


def measure_all(cohort: Cohort, problems: Iterable[Problem], *, n_jobs: int) -> pd.DataFrame:
    """One row per subject with a mask and without a problem. Raises CohortError, with the problems, without any."""
    bad = {problem.subject for problem in problems}
    good = [subject for subject in cohort.subjects if subject.id not in bad and subject.label is not None]
    if not good:
        listing = "".join(f"\n  {line}" for line in lines(problems))
        raise CohortError(f"{cohort.folder}: expected at least one good subject with a mask, found none{listing}")
    jobs = joblib.Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        joblib.delayed(measure)(subject) for subject in good
    )
    return pd.DataFrame(list(counted(jobs, "measuring", total=len(good), unit="subject")))


def measure(subject: Subject) -> dict[str, object]:
    """One subject's row: voxels per class, where masks have it of RC too, labelled fraction of the crop, slices that
    hold brain and tumour.

    Crop and slices are counted on BraTS's grid, to which the scan is brought; ``grid`` tells how, and where that cannot
    be done, why the row holds no such counts.
    """
    images, scan = subject.load_images(("FLAIR",))
    labels = subject.load_labels()
    names = subject.convention.classes if subject.convention.has_cavity else CLASSES
    counts = np.bincount(labels.ravel(), minlength=len(names))
    voxels = {f"voxels_{name}": int(n) for name, n in zip(names, counts, strict=True)}
    labels[labels == len(CLASSES)] = 0  # the resection cavity is no tumour
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


def draw(path: Path, subjects: Iterable[Subject], exchanged: Collection[str], *, synthetic: bool) -> None:
    """Pictures of at most DRAWN subjects, which have masks and no problem: first those in doubt, then evenly many of
    the others.

    exchanged: ids of those whose contrasts do not look like their names.
    """
    subjects = list(subjects)
    doubted = [subject for subject in subjects if subject.id in exchanged][: DRAWN // 2]
    others = [subject for subject in subjects if subject.id not in exchanged]
    places = np.linspace(0, len(others) - 1, min(len(others), DRAWN - len(doubted))).round().astype(int)
    named = {f"{subject.id}: contrasts exchanged?": subject for subject in doubted}
    named |= {others[place].id: others[place] for place in places}
    text = f"{len(named)} of {plural(len(subjects), 'subject')}, each contrast under the name that its file has"
    draw_subjects(path, named, text=text, synthetic=synthetic)


def cavity_note(rows: pd.DataFrame) -> list[str]:
    """How many of the masks that may hold the resection cavity do, and how large it is."""
    if CAVITY not in rows:
        return []
    own = rows[CAVITY].dropna()
    there = own[own > 0]
    size = f", of {int(there.min())} to {int(there.max())} voxels" if len(there) else ""
    return [f"{len(there)} of {len(own)} masks that may hold the resection cavity (RC) do{size}"]


def excluded_note(rows: pd.DataFrame) -> list[str]:
    """Who has less of the U-Net's crop labelled than the report kept."""
    minimum = results.reported("settings")["unet3d"]["minimum_mask_fraction"].value
    own = rows.loc[rows["crop_fraction"] < minimum, "subject"]
    few = f"with less than {100 * minimum:g} % labelled (crop_fraction in subjects.csv)"
    return [f"subjects_excluded by the 3D U-Net's rule, {few}: {listed(list(own))}"] if len(own) else []


def claims(rows: pd.DataFrame, n_bad: int, n_copies: int, n_exchanged: int, *, synthetic: bool) -> list[Result]:
    """The report's claims about its segmentation data beside the same quantity in this cohort.

    rows: of the good subjects, n_copies of which hold the scan of another, and of n_exchanged of which the contrasts do
    not look like their names; n_bad: how many others there are.
    """
    voxels = rows[[f"voxels_{name}" for name in CLASSES]].set_axis(CLASSES, axis=1)
    labelled = voxels[list(CLASSES[1:])]
    shares = labelled.div(labelled.sum(axis=1), axis=0).dropna()
    minimum = results.reported("settings")["unet3d"]["minimum_mask_fraction"].value
    excluded = (rows["crop_fraction"].dropna() < minimum).astype(float)
    not_counted = None if len(excluded) else "not checked: no scan could be brought to BraTS's grid"

    def count(name: str, value: float | str, n: int = len(rows)) -> Result:
        return Result.of(EXPERIMENT, name, value, n, synthetic=synthetic)

    def mean(name: str, values: pd.Series) -> Result:
        known = values.dropna().to_numpy(float)
        value = known.mean() if len(known) else not_counted or np.nan
        return Result.of(EXPERIMENT, name, value, len(known), bootstrap_interval(known, seed=0), synthetic=synthetic)

    def share(name: str, values: pd.Series) -> Result:
        known = values.dropna().astype(bool)
        if known.empty:
            return mean(name, values)
        interval = accuracy_interval(int(known.sum()), len(known))
        return Result.of(EXPERIMENT, name, float(known.mean()), len(known), interval, synthetic=synthetic)

    return [
        count("subjects", len(rows)),
        count("subjects_with_problems", n_bad, len(rows) + n_bad),
        count("subjects_with_the_scan_of_another", n_copies),
        count("subjects_with_exchanged_contrasts", n_exchanged),
        mean("background_fraction", voxels["background"] / voxels.sum(axis=1)),
        count("label_shares", shares.mean().max() / shares.mean().min() if shares.mean().min() > 0 else np.nan),
        *(mean(f"share_{name}", shares[name]) for name in labelled),
        count("subjects_excluded", not_counted or int(excluded.sum()), len(excluded)),
        count("subjects_kept", not_counted or int(len(excluded) - excluded.sum()), len(excluded)),
        share("excluded_fraction", excluded),
        mean("slices_with_brain", rows["slices_with_brain"]),
        mean("slices_with_tumour", rows["slices_with_tumour"]),
        mean("tumour_in_unet25d_slices", rows["tumour_in_slices"]),
        share("whole_tumour_in_unet25d_slices", rows["tumour_in_slices"].dropna() == 1),
    ]

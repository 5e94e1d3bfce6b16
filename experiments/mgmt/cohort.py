"""What the report says about its MGMT data: patients, classes, images per series, planes, black images.

The half of ``experiments.cohort`` that reads DICOM: the audit of ``common.dicom.mgmt_cohort`` beside the report's
words.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, get_args

import pandas as pd

from common.classification import accuracy_interval
from common.dicom.mgmt_cohort import MgmtCohort, Patient
from common.dicom.series import Plane
from common.statistics import bootstrap_interval
from experiments.base.results import Result, finite

if TYPE_CHECKING:
    from common.store import Store
    from mgmt_classifier.data import SliceRecipe

EXPERIMENT = "cohort"
PREFIX = "mgmt_"


def fingerprint(cohort: MgmtCohort) -> list[object]:
    """What changes when a label or a file of the cohort does. A folder that cannot be read counts as what it says."""

    def of_series(patient: Patient, contrast: str) -> str:
        try:
            return patient.fingerprint(contrast)
        except OSError as error:
            return str(error)

    return [
        (patient.id, patient.label, {contrast: of_series(patient, contrast) for contrast in patient.folders})
        for patient in cohort.patients
    ]


def notes_on_series(patients: Iterable[str], stores: "Mapping[SliceRecipe, Store]") -> list[str]:
    """What is to be known of these patients' series, in words, as their prepared slices keep it."""
    entries = ((id, recipe.contrast, store.entries[id]) for id in patients for recipe, store in stores.items())
    found = (f"{id} {contrast}: {note}" for id, contrast, entry in entries for note in entry.geometry["notes"])
    return list(dict.fromkeys(found))


def claims(cohort: MgmtCohort, table: pd.DataFrame, *, synthetic: bool) -> list[Result]:
    """The report's claims about its MGMT data beside the same quantity in this cohort.

    table: the cohort's audit. Images are counted in every series that has some, planes and black images in those that
    can be used; how many cannot is a result too.
    """

    def line(name: str, value: float | str | None, n: int, *ends: tuple[float, float]) -> Result:
        return Result.of(EXPERIMENT, f"{PREFIX}{name}", value, n, *ends, synthetic=synthetic)

    def share(name: str, of_these: int, n: int) -> Result:
        if n == 0:
            return line(name, None, 0)
        return line(name, of_these / n, n, accuracy_interval(of_these, n))

    labels = [patient.label for patient in cohort.patients if patient.label is not None]
    found = table[table["images"] > 0]
    usable = table[table["problem"] == ""]
    black = usable.groupby("patient")[["blank", "images"]].sum()
    fractions = (black["blank"] / black["images"]).to_numpy(float)
    mean = finite(fractions.mean()) if len(fractions) else None
    planes = usable.groupby("patient")["plane"].agg(lambda own: len(set(own)))
    return [
        line("patients", len(cohort.patients), len(cohort.patients)),
        share("classes", sum(labels), len(labels)) if labels else line("classes", "not checked: no labels given", 0),
        line("images_per_series", _images(found), len(found)),
        line("planes", _planes(usable), len(usable)),
        share("patients_with_several_planes", int((planes > 1).sum()), len(planes)),
        line("black_images", _black(usable), len(usable)),
        line("black_fraction", mean, len(fractions), bootstrap_interval(fractions, seed=0)),
        line("unusable_series", len(table) - len(usable), len(table)),
    ]


def _images(series: pd.DataFrame) -> str:
    """How the number of images varies between series, and between the contrasts of a patient."""
    if series.empty:
        return "no images"
    images = series["images"]
    within = series.groupby("patient")["images"].agg(lambda own: own.max() - own.min())
    spread = f"within a patient by {within.median():g} (median)"
    return f"{images.min()} to {images.max()} (median {images.median():g}), {spread}"


def _planes(series: pd.DataFrame) -> str:
    """How many series lie in which plane."""
    return ", ".join(f"{plane} {(series['plane'] == plane).sum()}" for plane in get_args(Plane))


def _black(series: pd.DataFrame) -> str:
    """What share of the images is black, and how many of those lie at the ends of their series."""
    black, images = series["blank"].sum(), series["images"].sum()
    if not black:
        return f"none of {images}"
    ends = series["blank_first"].sum() + series["blank_last"].sum()
    return f"{black / images:.1%} of {images}, {ends / black:.1%} of these at the beginning or end"

"""From a study's predictions to its results: scores per case, their summary, pictures and costs."""

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from common import costs, nifti
from common.files import write_csv, write_json
from common.progress import Progress
from common.scoring import score_cases
from common.summary import summarise, with_patients
from experiments.base import results
from experiments.drawing import curves, scans
from experiments.segmentation.lesion_detection import write_lesions
from experiments.segmentation.study import Study

VIEW_MARK = "/"  # between case and view while both are scored; no subject's id holds it


def score(study: Study, predictions: Iterable[tuple]) -> None:
    """Score predictions of the test part and write the results, pictures and costs of a finished run.

    predictions: as in :func:`write_scores`. Adds the learning curves' picture and, last of all, summary.json, which
    marks the run as finished.
    """
    scores = write_scores(study, predictions, n_cases=len(study.split.test))
    draw_curves(study)
    write_summary(study, scores)


def write_scores(study: Study, predictions: Iterable[tuple], *, n_cases: int) -> pd.DataFrame:
    """Score predictions against the masks as the cohort stores them; returns the frame of scores.csv.

    predictions: (case id, labels on the scan's grid), and where a network has more to compare, a third item that
    makes {view: labels}. A network that sees a part of the scan is also scored there: view ``inside_crop``.
    Writes cases.csv, scores.csv (a column ``view`` in both, empty for the labels themselves), lesions.csv of the labels
    themselves, the label maps, in the cohort's own label values, as predictions/<case>.nii.gz and
    predictions/<view>/<case>.nii.gz, the seconds per case into costs.json, and figures/overlays.png and lesions.png.
    """
    run = study.run
    slices: dict[str, scans.Slice] = {}
    seconds: list[float] = []
    unscored: dict[str, int] = {}
    with Progress("scoring", n_cases, unit="case") as progress:

        def count(marked: str) -> None:
            case = marked.partition(VIEW_MARK)[0]
            unscored[case] -= 1
            if not unscored[case]:
                progress.update()

        scored, lesions = score_cases(
            _cases(study, predictions, slices, seconds, unscored),
            n_jobs=study.options.jobs,
            lesions_of=lambda case: VIEW_MARK not in case,
            on_scored=count,
        )
    for frame in (scored, lesions):
        parts = frame["case"].astype(str).str.partition(VIEW_MARK)
        frame["case"], frame["view"] = parts[0], parts[2]
    scored = with_patients(scored, {each.id: each.patient for each in (*study.cohort.subjects, *study.subjects)})
    scores = pd.concat(
        summarise(rows.drop(columns="view"), policy=study.options.empty_masks).assign(view=view)
        for view, rows in scored.groupby("view", sort=True)
    )
    write_csv(run.folder / "cases.csv", scored)
    write_csv(run.folder / "scores.csv", scores)
    write_lesions(run.folder, lesions, synthetic=study.synthetic)
    costs.record(run, seconds_per_case=float(np.median(seconds)))
    labels = scored[scored["view"] == ""]
    scans.draw_overlays(run.figures / "overlays.png", slices, labels, synthetic=study.synthetic)
    return scores


def draw_curves(study: Study) -> None:
    """Picture of the run's learning curves: figures/history.png."""
    curves.draw_history(study.run.figures / "history.png", study.run.history.frame(), synthetic=study.synthetic)


def write_summary(study: Study, scores: pd.DataFrame, further: Sequence[results.Result] = ()) -> None:
    """summary.json of the run, from :func:`write_scores`' frame and further results; it marks the run as finished."""
    summary = results.segmentation_results(study.experiment, scores, synthetic=study.synthetic, prefix=study.prefix)
    write_json(study.run.folder / "summary.json", results.as_rows([*summary, *further]))


def _cases(
    study: Study,
    predictions: Iterable[tuple],
    slices: dict[str, scans.Slice],
    seconds: list[float],
    unscored: dict[str, int],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float]]]:
    """Each prediction with its truth, and each view of it; fills the pictures' slices, the seconds per case and how
    many label maps of each case are to be scored."""
    subjects = {subject.id: subject for subject in study.cohort.subjects}
    started = time.monotonic()
    for case, predicted, *views in predictions:
        seconds.append(time.monotonic() - started)
        subject, volume = subjects[case], study.store.entries[case].open()
        truth = subject.load_labels()
        slices[case] = scans.tumour_slice(subject, predicted, truth)
        compared = {"": predicted} | (views[0]() if views else {})
        cropped = [view for view in ("", "geometric_ceiling") if view in compared] if volume.is_cropped else []
        unscored[case] = len(compared) + len(cropped)
        like = nifti.read_header(subject.label)
        for view, labels in compared.items():
            file = study.run.folder / "predictions" / view / f"{case}.nii.gz"
            nifti.write(file, subject.convention.from_classes(labels), like=like)
            mark = f"{VIEW_MARK}{view}" if view else ""
            yield f"{case}{mark}", labels, truth, volume.source_spacing_mm
        for view in cropped:
            name = f"{view}_inside_crop".removeprefix("_")
            inside = (np.ascontiguousarray(labels[volume.crop]) for labels in (compared[view], truth))
            yield f"{case}{VIEW_MARK}{name}", *inside, volume.source_spacing_mm
        started = time.monotonic()

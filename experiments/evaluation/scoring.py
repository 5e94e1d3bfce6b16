"""Scores of every case and method, each kept as it comes under the content of its two files; several processes."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from common import nifti
from common.files import read_json, write_text
from common.labels import CLASSES, CLASSES_WITH_CAVITY, LabelConvention
from common.lesions import Lesion
from common.metrics import crop_to_foreground
from common.nifti import ScanError
from common.progress import Progress
from common.runs import RunError
from common.scoring import score_cases
from common.signals import end_with_parent
from common.subject import Problem, Subject
from common.summary import METRICS
from experiments.evaluation import grids
from experiments.evaluation.label_maps import Method

DEFINITIONS = 2
"""Of what is kept: another number where a metric is computed otherwise under its name, or more is kept, so that kept
scores are not taken for it."""
AHEAD = 2
"""Cases per process that wait for it, so that memory does not grow with the cohort."""


@dataclass(frozen=True)
class LabelMap:
    """One method's label map of one case. content: its fingerprint. kept: file of its scores."""

    method: str
    case: str
    file: Path
    content: str
    convention: LabelConvention
    kept: Path


@dataclass(frozen=True)
class Work:
    """A case's truth and the label maps that are still to be scored against it.

    content: the truth's fingerprint. cavity: whether RC is scored.
    """

    subject: Subject
    content: str
    label_maps: tuple[LabelMap, ...]
    cavity: bool = False


def label_maps(methods: Sequence[Method], subjects: Sequence[Subject], store: Path) -> list[Work]:
    """Every case of every method, with the place of its scores below the store.

    The place is a function of both files' content and of how their values are read: whatever was scored before a kill,
    or in another comparison, is there.
    """
    works = []
    cavity = any(subject.convention.has_cavity for subject in subjects)
    for subject in subjects:
        content = nifti.content_fingerprint(subject.label)
        truth = [content, str(subject.convention), DEFINITIONS, METRICS, cavity]
        found = []
        for method in methods:
            file, convention = method.files[subject.id], method.conventions[subject.id]
            own = nifti.content_fingerprint(file)
            key = hashlib.sha256(json.dumps([truth, own, str(convention)]).encode()).hexdigest()[:32]
            found.append(LabelMap(method.name, subject.id, file, own, convention, store / key[:2] / f"{key}.json"))
        works.append(Work(subject, content, tuple(found), cavity))
    return works


def digests(works: Sequence[Work]) -> dict[str, dict[str, object]]:
    """By case, the fingerprints of what was compared: of the truth's content, and of each method's label map's."""
    return {
        work.subject.id: {
            "truth": work.content,
            "label_maps": {each.method: each.content for each in work.label_maps},
        }
        for work in works
    }


def score(works: Sequence[Work], *, cores: int, fresh: bool) -> list[Problem]:
    """Score what is not kept yet, in so many processes (-1: one per core); returns what could not be scored.

    fresh: score all of it again.
    """
    total = sum(len(work.label_maps) for work in works)
    left = [
        replace(work, label_maps=tuple(each for each in work.label_maps if fresh or not each.kept.exists()))
        for work in works
    ]
    left = [work for work in left if work.label_maps]
    open_ = sum(len(work.label_maps) for work in left)
    processes = min(os.cpu_count() or 1 if cores < 0 else cores, len(left))
    problems = []
    with Progress("scoring", total, unit="label map", done=total - open_) as progress:
        for work, found in _done(left, processes):
            problems += found
            progress.update(len(work.label_maps))
    return problems


def _done(works: Sequence[Work], processes: int) -> Iterator[tuple[Work, list[Problem]]]:
    if processes <= 1:
        yield from ((work, score_case(work)) for work in works)
        return
    waiting, at_work = iter(works), {}
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
        try:
            while True:
                for work in waiting:
                    at_work[pool.submit(score_case, work)] = work
                    if len(at_work) >= AHEAD * processes:
                        break
                if not at_work:
                    return
                ended: set[Future] = wait(at_work, return_when=FIRST_COMPLETED).done
                for future in ended:
                    yield at_work.pop(future), future.result()
        except BrokenProcessPool:
            raise RunError(
                f"scoring: expected {processes} processes to end by themselves, found one killed (memory?): fewer "
                "--cores; the same command goes on"
            ) from None
        except BaseException:  # a signal too; the cases at work are not waited for, they are scored again
            for worker in active_children():
                worker.kill()
            raise


def score_case(work: Work) -> list[Problem]:
    """Score a case's label maps and keep each one's scores; returns what could not be scored."""
    try:
        truth = work.subject.load_labels()
        affine = nifti.affine_mm(nifti.read_header(work.subject.label))
    except (ScanError, OSError) as error:
        return [Problem(work.subject.id, None, f"its truth cannot be used: {error}")]
    problems = []
    for each in work.label_maps:
        try:
            predicted, brought = read(each.file, each.convention, truth, affine)
            whole = predicted  # with the resection cavity, which may be another class under a wrong convention
            if each.convention.rc_is_background:
                whole, _ = read(each.file, replace(each.convention, rc_is_background=False), truth, affine)
            if not work.cavity and (predicted >= len(CLASSES)).any():
                raise ScanError(
                    "holds a resection cavity (RC), which the truths do not: where its 4 is ET, it is of brats2018 "
                    "(--convention); --cavity background drops RC"
                )
        except (ScanError, OSError) as error:
            problems.append(Problem(each.case, each.file, f"{each.method}: {error}"))
            continue
        spacing_mm = tuple(map(float, nib.affines.voxel_sizes(affine)))
        scores = score_cases([(each.case, predicted, truth, spacing_mm)], cavity=work.cavity)
        kept = {
            "scores": scores.cases.drop(columns="case").iloc[0].to_dict(),
            "lesions": scores.lesions.drop(columns="case").to_numpy(object).tolist(),
            "brought": brought,
            "pairs": pairs(whole, truth),
            "classes": {"truth": _digest(truth), "label_map": _digest(whole)},
        }
        write_text(each.kept, json.dumps(kept), flush=False)  # with NaN and infinities, which a strict JSON lacks
    return problems


def read(file: Path, convention: LabelConvention, truth: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, str]:
    """A label map's classes (x, y, z) on the truth's grid, and how it was brought there, in words.

    Raises ScanError when the file cannot be trusted, holds other values or does not say where it lies.
    """
    scan = nifti.read(file)
    if scan.data.ndim == 4 and scan.data.shape[3] > 1:
        raise ScanError(f"expected one label map (x, y, z), found shape {scan.data.shape}")
    scan = replace(scan, data=scan.data.reshape(scan.data.shape[:3], order="F"))
    try:
        classes = convention.to_classes(scan.data)
    except ValueError as error:
        raise ScanError(str(error)) from error
    return grids.onto(replace(scan, data=classes), truth, affine)


def _digest(classes: np.ndarray) -> str:
    """Of which voxels are of which class, however a file writes them; empty where all are background."""
    if not classes.any():
        return ""
    return hashlib.sha256(repr(classes.shape).encode() + np.ascontiguousarray(classes, np.uint8).tobytes()).hexdigest()


def pairs(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """Voxels per pair of classes (predicted, true), row by row, in the box around all that is not background."""
    n = len(CLASSES_WITH_CAVITY)
    predicted, truth = crop_to_foreground(predicted, truth)
    return np.bincount((predicted * np.uint8(n) + truth).ravel(order="K"), minlength=n * n).tolist()


def kept(works: Sequence[Work]) -> Iterator[tuple[LabelMap, dict]]:
    """What was kept of every case and method, one at a time. Raises RunError when a file is damaged."""
    for work in works:
        for each in work.label_maps:
            try:
                yield each, read_json(each.kept, dict)
            except ValueError as error:
                raise RunError(f"{error}; --fresh scores it again") from error


def frames(
    works: Sequence[Work], lesions_file: Path
) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]], dict[str, dict], dict[str, dict]]:
    """Scores of all (method, case and the metrics, a row each); pairs of classes by method and case; by method and how,
    in words, the cases that were brought to the truth's grid so; by case, digests of the classes as :func:`digests` has
    those of the files. Every lesion is written to the file on the way."""
    rows, together, brought, classes = [], {}, {}, {}
    columns = ["method", "case", "definition", "region", *Lesion._fields]
    with lesions_file.open("w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        for each, found in kept(works):
            rows.append({"method": each.method, "case": each.case, **found["scores"]})
            matrix = np.array(found["pairs"]).reshape(len(CLASSES_WITH_CAVITY), len(CLASSES_WITH_CAVITY))
            together.setdefault(each.method, {})[each.case] = matrix
            own = classes.setdefault(each.case, {"truth": found["classes"]["truth"], "label_maps": {}})
            own["label_maps"][each.method] = found["classes"]["label_map"]
            if found["brought"]:
                counts = brought.setdefault(each.method, {})
                counts[found["brought"]] = counts.get(found["brought"], 0) + 1
            lesions = pd.DataFrame([(each.method, each.case, *row) for row in found["lesions"]], columns=columns)
            lesions.to_csv(file, index=False, header=False)
    return pd.DataFrame(rows), together, brought, classes

"""Methods on a cohort -> a folder with scores, comparisons, ranking, tables and pictures, and what is shown of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import nifti
from common.answers import RECORD
from common.files import atomic_path, file_stem, read_json, write_csv, write_json
from common.labels import CLASSES
from common.patient import SEEN_NOTE
from common.runs import Run, configuration_hash
from common.splits import Split
from common.subject import Problem
from common.summary import BY_PATIENT, with_patients
from common.words import by_note, listed, plural
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import Refused, leave_out
from experiments.base.progress import step
from experiments.evaluation import misplaced, page, scoring, summary, tables
from experiments.evaluation.inputs import FILES, Found, ScoreOptions, find
from experiments.evaluation.label_maps import Method
from experiments.evaluation.page import Shown
from experiments.evaluation.scoring import Work
from experiments.page import facts

EXPERIMENT = summary.EXPERIMENT
STEPS = (1, 4, 5)
"""Of experiments.base.progress.STEPS: nothing is trained."""
STORE = "scored"
"""Folder, beside the results', of every label map's scores."""


def evaluate(options: ScoreOptions) -> Path:
    """Find, check, score, compare and show; returns the folder of the results. A killed call goes on.

    Raises Refused, CohortError, ScanError or RunError for what the user can mend, before anything is scored where
    names and headers tell.
    """
    with step(1, among=STEPS):
        found = find(options)
    works = scoring.label_maps(found.methods, found.subjects, options.runs / EXPERIMENT / STORE)
    keys = [[each.method, each.case, each.kept.stem] for work in works for each in work.label_maps]
    # What is shown beside the scores counts too: else a finished result would say what was wanted or missing before.
    digest = configuration_hash(keys, describe(found), options.empty_masks, options.cases, options.leave_out_bad)
    source = file_stem(found.cohort.folder.resolve().name)
    folder = options.runs / EXPERIMENT / f"{source}-{len(found.methods)}methods-{digest}"
    with Run(folder, fresh=options.fresh) as opened:
        if not opened.is_finished:
            split = Split(EXPERIMENT, (), (), found.cases).as_dict()
            opened.describe(config=_settings(options), data=describe(found), split=split)
            with step(4, among=STEPS):
                problems = scoring.score(works, cores=options.cores, fresh=options.fresh)
                bad = leave_out(problems, FILES, allowed=options.leave_out_bad, who="case")
                _write(opened, options, found, [work for work in works if work.subject.id not in bad], problems)
        show(folder)
    return folder


def _settings(options: ScoreOptions) -> dict[str, object]:
    return {"experiment": EXPERIMENT, "options": asdict(options)}


def describe(found: Found) -> dict[str, object]:
    """data.json: the cohort, every method's label maps and training, what is missing, surplus and left out."""
    return {
        "folder": found.cohort.folder.resolve(),
        "layout": found.cohort.layout,
        "synthetic": found.synthetic,
        "masks": found.cohort.notes,
        "left_out": [str(problem) for problem in found.problems],
        "wanted": len(found.wanted),
        "seen": found.seen,
        "methods": {
            each.name: {
                "folder": each.source.resolve(),
                "values": each.ground,
                "training": each.training,
                "missing": found.missing[each.name],
                "surplus": each.surplus,
                "scans": each.scans,
            }
            for each in found.methods
        },
    }


def _write(
    opened: Run, options: ScoreOptions, found: Found, works: Sequence[Work], problems: Sequence[Problem]
) -> None:
    """Everything of a finished comparison; summary.json, last, marks it as that."""
    if not works:
        raise Refused(f"{found.cohort.folder}: expected cases that can be scored, found none")
    folder, methods = opened.folder, [each.name for each in found.methods]
    with atomic_path(folder / "lesions.csv") as lesions:
        cases, together, brought, classes = scoring.frames(works, lesions)
    cases = with_patients(cases, {subject.id: subject.patient for subject in found.cohort.subjects})
    write_csv(folder / "cases.csv", cases)
    used = tuple(work.subject.id for work in works)
    content = scoring.digests(works)
    odd = (*summary.copies(classes), *summary.truths(together), *summary.swaps(together))
    odd = (*odd, *_nearly_equal(works, cases), *_misplaced(works, cases))
    notes = [*odd, *_of_predictions(found.methods, used)]
    data = describe(found) | {"notes": notes, "brought": brought, "content": content}
    data["left_out"] += [str(problem) for problem in problems]
    data["about"] = _about(options, found, used)
    write_json(folder / "data.json", data)
    write_json(folder / "split.json", Split(EXPERIMENT, (), (), used).as_dict())
    rows = summary.write(folder, methods, cases, options.empty_masks, synthetic=found.synthetic)
    tables.write(folder, tables.read_table(folder / "scores.csv"), methods, about=data["about"], notes=notes)
    shown = _draw(folder, found, works, cases)
    made = tables.of_comparison(folder, rows, methods, about=data["about"])
    tables.write_latex(folder, made, notes=notes)
    start = facts.environment(EXPERIMENT, read_json(folder / "environment.json", list)[-1])
    told = list(said(read_json(folder / "data.json", dict)))
    page.write(folder, made, shown, told, start, doubts=notes, n=len(used))
    write_json(folder / "summary.json", results.as_rows(rows))


def _nearly_equal(works: Sequence[Work], cases: pd.DataFrame) -> Iterator[str]:
    by_case = {work.subject.id: work for work in works}
    for (one, other), alike in misplaced.alike(cases).items():
        found = [case for case in alike if misplaced.nearly_equal(*map(volumes(by_case[case])[1].get, (one, other)))]
        if found:
            yield f"{one} and {other}: nearly equal label maps for {listed(found)}: is one made from the other?"


def _misplaced(works: Sequence[Work], cases: pd.DataFrame) -> Iterator[str]:
    by_case = {work.subject.id: work for work in works}
    for method, ids in misplaced.suspects(cases).items():
        predicted, truths, affines = {}, {}, {}
        for case in ids:
            work = by_case[case]
            own = tuple(each for each in work.label_maps if each.method == method)
            truth, maps = volumes(replace(work, label_maps=own))
            predicted[case], truths[case] = maps[method] > 0, truth > 0
            affines[case] = nifti.affine_mm(nifti.read_header(work.subject.label))
        yield from misplaced.notes(method, predicted, truths, affines)


def _of_predictions(methods: Sequence[Method], used: Sequence[str]) -> Iterator[str]:
    """What was noted of the scored patients' scans when a method's label maps were predicted by the suite."""
    for method in methods:
        record = method.source / RECORD
        if record.is_file():
            cases = read_json(record, dict).get("cases", {})
            noted = {case: cases.get(case, {}).get("notes", ()) for case in used}
            notes = {case: [note for note in own if note != SEEN_NOTE] for case, own in noted.items()}
            yield from (f"{method.name}, when it was predicted: {note}" for note in by_note(notes, "case"))


def _about(options: ScoreOptions, found: Found, used: Sequence[str]) -> str:
    """Which cases the numbers are of, in a sentence."""
    n = len(found.wanted)
    everyone = len(found.cohort.subjects)
    said = f"all {plural(n, 'case')}" if len(used) == n else f"{len(used)} of {plural(n, 'case')}"
    if len(used) == n < everyone and found.seen:
        said = f"{n} of {plural(everyone, 'case')}, those that no compared network has seen"
    if options.cases == "intersection":
        said = f"intersection: the {len(found.cases)} of {plural(n, 'case')} of which every method has a label map"
        said += f", {len(used)} of them scored" * (len(used) < len(found.cases))
    whose = {subject.id: subject.patient for subject in found.cohort.subjects}
    if (patients := len({whose[case] for case in used})) < len(used):
        said += f", of {plural(patients, 'patient')}: {BY_PATIENT}"
    said = f"{'synthetic phantoms; ' * found.synthetic}{said}; empty masks: {options.empty_masks}"
    if marked := [each.name for each in found.methods if each.of_phantoms]:
        said += f"; trained on synthetic phantoms only, and no result for patients: {', '.join(marked)}"
    return said


def _draw(folder: Path, found: Found, works: Sequence[Work], cases: pd.DataFrame) -> list[Shown]:
    """Write the pictures and label_size.csv; returns the best, the median and the worst case."""
    from experiments.evaluation import pictures  # and with it the plotting library
    from experiments.segmentation.label_size import sizes_of

    by_case = {work.subject.id: work for work in works}
    shown = []
    for rank, case in pictures.chosen(cases).items():
        truth, predicted = volumes(by_case[case])
        shown.append(Shown(rank, by_case[case].subject, truth, predicted))
    pictures.draw_cases(folder / "figures" / "cases.png", shown, cases, synthetic=found.synthetic)
    lesions = tables.read_table(folder / "lesions.csv")
    sizes = {}
    for method in (each.name for each in found.methods):
        sizes[method] = sizes_of(cases[cases["method"] == method], "compared")
        own = lesions[lesions["method"] == method]
        pictures.draw_method(folder / "figures", method, sizes[method], own, synthetic=found.synthetic)
    write_csv(folder / "label_size.csv", pd.concat(frame.assign(method=name) for name, frame in sizes.items()))
    return shown


def volumes(work: Work) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A case's truth and every method's classes (x, y, z) on its grid, the resection cavity as background."""
    truth = work.subject.load_labels()
    affine = nifti.affine_mm(nifti.read_header(work.subject.label))
    maps = {each.method: scoring.read(each.file, each.convention, truth, affine)[0] for each in work.label_maps}
    return _without_cavity(truth), {method: _without_cavity(labels) for method, labels in maps.items()}


def _without_cavity(labels: np.ndarray) -> np.ndarray:
    return np.where(labels < len(CLASSES), labels, 0).astype(np.uint8)


def show(folder: Path) -> None:
    """Print the tables, and what they were measured on."""
    data = read_json(folder / "data.json", dict)
    methods = data["methods"]
    found = results.read_summary(folder / "summary.json")
    made = tables.of_comparison(folder, found, list(methods), about=data["about"])
    missing = [f"label maps of {name}: {len(each['missing'])}" for name, each in methods.items() if each["missing"]]
    if bad := data["left_out"]:
        missing.append(f"{plural(len(bad), 'problem')} of files, listed above")
    doubts = [f"read with care: {note}" for note in data["notes"]]
    notes = [*said(data), f"page: {folder / page.FILE}"]
    end(EXPERIMENT, folder, *doubts, *(f"{table}\n" for table in made), missing=missing, notes=notes, steps=STEPS)


def said(data: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers were measured on, line by line. data: data.json of a finished comparison."""
    if data["synthetic"]:
        yield results.SYNTHETIC_NOTE
    for name, each in data["methods"].items():
        yield f"{name}: {each['folder']}, read as {each['values']}"
        yield f"  {each['training']}"
        for what, cases in (("missing", each["missing"]), ("surplus, which take no part", each["surplus"])):
            if cases:
                yield f"  {len(cases)} {what}: {listed(cases)}"
        if each["scans"]:
            yield f"  further files, which take no part: {each['scans']}"
        for words, n in data["brought"].get(name, {}).items():
            yield f"  {words}: {n} of its label maps"
    yield from data["masks"]
    if seen := data["seen"]:
        yield f"{facts.taking_no_part(len(seen))}: {listed(seen)}"
    yield f"left out because they cannot be used: {len(data['left_out'])}{':' if data['left_out'] else ''}"
    yield from (f"  {problem}" for problem in data["left_out"])

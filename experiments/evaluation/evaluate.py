"""A cohort, methods and what is asked of them -> a folder with scores, comparisons, ranking, tables and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro

from common import nifti
from common.cohort import Cohort, find_subjects
from common.files import atomic_path, file_stem, read_json, write_csv, write_json
from common.nifti import Scan, ScanError
from common.phantom.folder import embedded_cohort
from common.runs import Run, configuration_hash
from common.scoring import EmptyPolicy
from common.splits import Split
from common.subject import Problem, Subject
from experiments.base import results
from experiments.base.options import Refused, at_least, leave_out
from experiments.evaluation import finished_runs, grids, label_maps, scoring, summary, tables
from experiments.evaluation.label_maps import Method
from experiments.evaluation.scoring import Work

EXPERIMENT = summary.EXPERIMENT
STORE = "scored"
"""Folder, beside the results', of every label map's scores."""
NAMED = 5
"""Cases that are named where more are counted."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Which cohort, whose label maps, and how they are compared."""

    data: Path | None = None
    """Folder of the cohort, masks included; with --runs-of by default the one that the runs were made on."""
    predictions: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A method's label maps, NAME=FOLDER: a file per case, named by its id, alone or with _seg or -seg; any number."""
    runs_of: tuple[str, ...] = ()
    """Folders of finished runs, or NAME=FOLDER: their label maps of the cases that their networks have not seen."""
    convention: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What a method's values mean, where neither a dataset.json nor names tell: NAME=brats2018, brats2023 or msd;
    without NAME=, what the cohort's masks mean."""
    cases: Literal["all", "intersection"] = "all"
    """All cases of the cohort (of runs: that one of them has tested), or those that every method has; said in every
    table."""
    leave_out_bad: bool = False
    """Go on without cases of which a file cannot be used; they are named and counted."""
    max_subjects: int | None = None
    """Use at most so many subjects, the first by id."""
    empty_masks: EmptyPolicy = "brats"
    """What an empty mask is worth: Dice 1 or 0 and 0 or 373.13 mm (the grid's diagonal), or ignored and counted."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    cores: int = -1
    """Processes that score; -1 takes every core."""
    fresh: bool = False
    """Score everything again, in place of going on after the last finished case or showing the finished result."""

    def __post_init__(self) -> None:
        at_least(1, max_subjects=self.max_subjects, cores=None if self.cores == -1 else self.cores)


@dataclass(frozen=True)
class Found:
    """A cohort and the methods' label maps of it. cases: that are compared. wanted: cases before an intersection.

    missing: by method, those of wanted that it lacks. problems: of cases that are left out. synthetic: phantoms.
    """

    cohort: Cohort
    methods: tuple[Method, ...]
    wanted: tuple[str, ...]
    cases: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    synthetic: bool

    @property
    def subjects(self) -> list[Subject]:
        """Those of the cases."""
        used = set(self.cases)
        return [subject for subject in self.cohort.subjects if subject.id in used]


def evaluate(options: ScoreOptions) -> Path:
    """Find, check, score, compare and show; returns the folder of the results. A killed call goes on.

    Raises Refused, CohortError, ScanError or RunError for what the user can mend, before anything is scored where
    names and headers tell.
    """
    found = find(options)
    works = scoring.label_maps(found.methods, found.subjects, options.runs / EXPERIMENT / STORE)
    keys = [[each.method, each.case, each.kept.stem] for work in works for each in work.label_maps]
    digest = configuration_hash(keys, options.empty_masks, options.cases)
    source = file_stem(found.cohort.folder.resolve().name)
    folder = options.runs / EXPERIMENT / f"{source}-{len(found.methods)}methods-{digest}"
    with Run(folder, fresh=options.fresh) as opened:
        if not opened.is_finished:
            split = Split(EXPERIMENT, (), (), found.cases).as_dict()
            opened.describe(config=_settings(options), data=describe(found), split=split)
            problems = scoring.score(works, cores=options.cores, fresh=options.fresh)
            bad = leave_out(problems, folder, allowed=options.leave_out_bad, who="cases")
            _write(opened, options, found, [work for work in works if work.subject.id not in bad], problems)
        show(folder)
    return folder


def find(options: ScoreOptions) -> Found:
    """The cohort, the methods and the cases that are compared, all files' headers read.

    Raises Refused when a method lacks cases and all are wanted, or a file cannot be used and none may be left out.
    """
    conventions = dict(label_maps.named(given, option="--convention") for given in options.convention if "=" in given)
    plain = [given for given in options.convention if "=" not in given]
    if len(plain) > 1:
        raise Refused(f"expected one --convention for the cohort's masks, received {' and '.join(plain)}")
    folders = [label_maps.named(given, option="--predictions") for given in options.predictions]
    runs = finished_runs.read([_run(given) for given in options.runs_of])
    names = [each.name for each in runs] + [name for name, _ in folders]
    if not names:
        raise Refused("expected label maps to score: --predictions NAME=FOLDER, or --runs-of FOLDER")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Refused(f"expected another name for each method, received {', '.join(twice)} several times: NAME=FOLDER")
    if unknown := set(conventions) - {name for name, _ in folders}:
        raise Refused(f"expected --convention of a method that --predictions names, received {', '.join(unknown)}")
    if options.data is None and not runs:
        raise Refused("expected --data FOLDER beside --predictions, received none")
    folder = options.data or runs[0].data
    convention = plain[0] if plain else runs[0].convention if options.data is None else None
    if not folder.is_dir():
        raise Refused(f"{folder}: expected the folder of the cohort, found none; --data names it")
    cohort = find_subjects(folder, convention=convention, max_subjects=options.max_subjects)
    subjects = {subject.id: subject for subject in cohort.subjects}
    if unlabelled := [subject.id for subject in cohort.subjects if subject.label is None]:
        raise Refused(f"{cohort.folder}: expected a mask for every subject, {len(unlabelled)} have none")
    left_out = leave_out(cohort.incomplete, cohort.folder, allowed=options.leave_out_bad, who="subjects")
    methods = [run.method(subjects) for run in runs]
    methods += [label_maps.find(name, Path(path), subjects, conventions.get(name)) for name, path in folders]
    tested = {case for run in runs for case in run.files}
    wanted = tuple(case for case in subjects if case in tested or not runs)
    missing = {each.name: tuple(case for case in wanted if case not in each.files) for each in methods}
    if any(missing.values()) and options.cases == "all":
        lines = [f"  {name}: {_listed(cases)}" for name, cases in missing.items() if cases]
        raise Refused(
            f"{cohort.folder}: expected a label map of each of {len(wanted)} cases, missing:\n"
            + "\n".join(lines)
            + "\nadd them, or compare the cases that every method has with --cases intersection"
        )
    cases = tuple(case for case in wanted if all(case in each.files for each in methods))
    if not cases:
        raise Refused(f"{cohort.folder}: expected cases of which every method has a label map, found none")
    problems = [problem for case in cases for problem in _headers(subjects[case], methods)]
    bad = {*left_out, *leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="cases")}
    cases = tuple(case for case in cases if case not in bad)
    if not cases:
        raise Refused(f"{cohort.folder}: expected cases that can be scored, found none")
    synthetic = embedded_cohort(next(iter(cohort.subjects[0].images.values()))) is not None
    return Found(cohort, tuple(methods), wanted, cases, missing, (*cohort.incomplete, *problems), synthetic)


def _run(given: str) -> tuple[str, Path]:
    """Name and folder of --runs-of: the name given, else the experiment's and the run's own folder's."""
    name, _, path = given.partition("=")
    if path and not Path(given).exists():
        name, path = label_maps.named(given, option="--runs-of")
        return name, Path(path)
    folder = Path(given)
    return file_stem("-".join(label_maps.plain(part) for part in folder.resolve().parts[-2:])), folder


def _headers(subject: Subject, methods: Sequence[Method]) -> Iterator[Problem]:
    """What the headers of a case's truth and label maps say against them; voxels are met when they are scored."""
    try:
        truth = nifti.read_header(subject.label)
    except (ScanError, OSError) as error:
        yield Problem(subject.id, subject.label, f"its truth cannot be used: {error}")
        return
    for method in methods:
        file = method.files[subject.id]
        try:
            header = nifti.read_header(file)
            shape = header.get_data_shape()
            empty = Scan(np.broadcast_to(np.uint8(0), shape[:3]), nifti.affine_mm(header), header)
            what = grids.problem(empty, truth.get_data_shape()[:3], nifti.affine_mm(truth))
            if len(shape) == 4 and shape[3] > 1:
                what = f"expected one label map (x, y, z), found shape {shape}"
        except (ScanError, OSError) as error:
            what = str(error)
        if what:
            yield Problem(subject.id, file, f"{method.name}: {what}")


def _settings(options: ScoreOptions) -> dict[str, object]:
    return {"experiment": EXPERIMENT, "options": asdict(options)}


def describe(found: Found) -> dict[str, object]:
    """data.json: the cohort, every method's label maps, what is missing, surplus and left out."""
    return {
        "folder": found.cohort.folder.resolve(),
        "layout": found.cohort.layout,
        "synthetic": found.synthetic,
        "masks": found.cohort.notes,
        "left_out": [str(problem) for problem in found.problems],
        "wanted": len(found.wanted),
        "methods": {
            each.name: {
                "folder": each.source.resolve(),
                "values": each.ground,
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
        cases, together, brought = scoring.frames(works, lesions)
    write_csv(folder / "cases.csv", cases)
    used = tuple(work.subject.id for work in works)
    data = describe(found) | {"notes": summary.swaps(together), "brought": brought}
    data["left_out"] += [str(problem) for problem in problems]
    data["about"] = _about(options, found, used)
    write_json(folder / "data.json", data)
    write_json(folder / "split.json", Split(EXPERIMENT, (), (), used).as_dict())
    rows = summary.write(folder, methods, cases, options.empty_masks, synthetic=found.synthetic)
    tables.write(folder, pd.read_csv(folder / "scores.csv", dtype={"method": str}), methods, about=data["about"])
    _draw(folder, found, works, cases)
    write_json(folder / "summary.json", results.as_rows(rows))


def _about(options: ScoreOptions, found: Found, used: Sequence[str]) -> str:
    """Which cases the numbers are of, in a sentence."""
    n = len(found.wanted)
    said = f"all {n} cases" if len(used) == n else f"{len(used)} of {n} cases"
    if options.cases == "intersection":
        said = f"intersection: the {len(found.cases)} of {n} cases of which every method has a label map"
        said += f", {len(used)} of them scored" * (len(used) < len(found.cases))
    return f"{'synthetic phantoms; ' * found.synthetic}{said}; empty masks: {options.empty_masks}"


def _draw(folder: Path, found: Found, works: Sequence[Work], cases: pd.DataFrame) -> None:
    from experiments.evaluation import pictures  # and with it the plotting library
    from experiments.segmentation.label_size import sizes_of

    by_case = {work.subject.id: work for work in works}
    shown = []
    for rank, case in pictures.chosen(cases).items():
        truth, predicted = volumes(by_case[case])
        shown.append((rank, by_case[case].subject, truth, predicted))
    pictures.draw_cases(folder / "figures" / "cases.png", shown, cases, synthetic=found.synthetic)
    lesions = pd.read_csv(folder / "lesions.csv", dtype={"method": str, "case": str})
    sizes = {}
    for method in (each.name for each in found.methods):
        sizes[method] = sizes_of(cases[cases["method"] == method], "test")
        own = lesions[lesions["method"] == method]
        pictures.draw_method(folder / "figures", method, sizes[method], own, synthetic=found.synthetic)
    write_csv(folder / "label_size.csv", pd.concat(frame.assign(method=name) for name, frame in sizes.items()))


def volumes(work: Work) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A case's truth and every method's classes (x, y, z) on its grid."""
    truth = work.subject.load_labels()
    affine = nifti.affine_mm(nifti.read_header(work.subject.label))
    return truth, {each.method: scoring.read(each.file, each.convention, truth, affine)[0] for each in work.label_maps}


def show(folder: Path) -> None:
    """Print the tables, and what they were measured on."""
    data = read_json(folder / "data.json", dict)
    methods = data["methods"]
    tables.show(folder, list(methods), about=data["about"])
    if data["synthetic"]:
        print(results.SYNTHETIC_NOTE)
    print(f"lesions: {results.LESION_NOTE}")
    for name, each in methods.items():
        print(f"{name}: {each['folder']}, read as {each['values']}")
        for what, cases in (("missing", each["missing"]), ("surplus, which take no part", each["surplus"])):
            if cases:
                print(f"  {len(cases)} {what}: {_listed(cases)}")
        if each["scans"]:
            print(f"  {each['scans']} scans take no part")
        for words, n in data["brought"].get(name, {}).items():
            print(f"  {n} cases {words}")
    for note in (*data["notes"], *data["masks"]):
        print(note)
    print(f"left out: {len(data['left_out'])}{':' if data['left_out'] else ''}")
    for problem in data["left_out"]:
        print(f"  {problem}")
    print("whether a method has seen these patients in its training is not known here")
    print(f"folder: {folder}")


def _listed(cases: Sequence[str]) -> str:
    return f"{', '.join(cases[:NAMED])}{f' and {len(cases) - NAMED} more' * (len(cases) > NAMED)}"

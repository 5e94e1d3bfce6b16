"""What a comparison of methods is given: a cohort, the label maps of its cases, and what is wrong with them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from common import nifti
from common.cohort import Cohort
from common.files import file_stem
from common.labels import Cavity
from common.nifti import Scan, ScanError
from common.phantom.folder import embedded_cohort
from common.subject import Problem, Subject
from common.summary import EmptyPolicy
from common.words import listed
from experiments.base.options import Refused, at_least, gathered, leave_out
from experiments.base.reading import Reading, refuse_unlabelled
from experiments.evaluation import finished_runs, grids, label_maps
from experiments.evaluation.label_maps import Method

FILES = "truths and label maps"
"""Where a problem of a case lies, which the cohort's folder alone need not be."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Which cohort, whose label maps, and how they are compared."""

    data: Path | None = None
    """Folder of the cohort, masks included; with --runs-of by default the one that the runs were made on."""
    predictions: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A method's label maps, NAME=FOLDER: a file per case, named by its id, alone or with _seg or -seg; or a path with
    {id} in place of the case, NAME=FOLDER/{id}/seg.nii.gz. Any number."""
    runs_of: tuple[str, ...] = ()
    """Folders of finished runs, or NAME=FOLDER: their label maps of the cases that their networks have not seen."""
    convention: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What a method's values mean, where neither a dataset.json nor names tell: NAME=brats2018, brats2023, brats2024 or
    msd; without NAME=, what the cohort's masks mean."""
    layout: Path | None = None
    """Mapping file (TOML, six lines: see common.cohort.mapping) of a cohort in none of the known layouts."""
    cavity: Cavity | None = None
    """Resection cavity (RC) in the cohort's masks: background, there and in label maps, or such subjects are left out;
    by default RC is scored as a class of its own."""
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

    missing: by method, those of wanted that it lacks. seen: others of the cohort, whom a compared run's networks have
    seen. problems: of cases that are left out. synthetic: phantoms.
    """

    cohort: Cohort
    methods: tuple[Method, ...]
    wanted: tuple[str, ...]
    cases: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    seen: tuple[str, ...]
    problems: tuple[Problem, ...]
    synthetic: bool

    @property
    def subjects(self) -> list[Subject]:
        """Those of the cases."""
        used = set(self.cases)
        return [subject for subject in self.cohort.subjects if subject.id in used]


def find(options: ScoreOptions) -> Found:
    """The cohort, the methods and the cases that are compared, all files' headers read.

    Raises Refused when a method lacks cases and all are wanted, or a file cannot be used and none may be left out; of
    all methods at once.
    """
    plain = [given for given in options.convention if "=" not in given]
    if len(plain) > 1:
        raise Refused(f"expected one --convention for the cohort's masks, received {' and '.join(plain)}")
    given = [_run(each) for each in options.runs_of]
    names = [name for name, _ in given] + [each.partition("=")[0] for each in options.predictions]
    if not names:
        raise Refused("expected label maps to score: --predictions NAME=FOLDER, or --runs-of FOLDER")
    require_different(names)
    runs = finished_runs.read(given)
    if options.data is None and not runs:
        raise Refused("expected --data FOLDER beside --predictions, received none")
    folder = options.data or runs[0].data
    reading = Reading(layout=options.layout, convention=plain[0] if plain else None, cavity=options.cavity)
    if options.data is None and reading == Reading():
        reading = runs[0].reading
    if not folder.is_dir():
        raise Refused(f"{folder}: expected the folder of the cohort, found none; --data names it")
    cohort = reading.find(folder, max_subjects=options.max_subjects)
    subjects = {subject.id: subject for subject in cohort.subjects}
    refuse_unlabelled(cohort)
    left_out = leave_out(cohort.incomplete, cohort.folder, allowed=options.leave_out_bad, who="subject")
    tested = {case for run in runs for case in run.files}
    wanted = tuple(case for case in subjects if case in tested or not runs)
    own = [partial(run.method, subjects) for run in runs]
    methods, missing = methods_of(options, subjects, wanted, own, option="--convention")
    cases = tuple(case for case in wanted if all(case in each.files for each in methods))
    if not cases:
        raise Refused(f"{cohort.folder}: expected cases of which every method has a label map, found none")
    problems = [problem for case in cases for problem in _headers(subjects[case], methods)]
    bad = {*left_out, *leave_out(problems, FILES, allowed=options.leave_out_bad, who="case")}
    cases = tuple(case for case in cases if case not in bad)
    if not cases:
        raise Refused(f"{cohort.folder}: expected cases that can be scored, found none")
    methods = [
        finished_runs.with_seen(each, [subjects[case] for case in cases], n_jobs=options.cores) for each in methods
    ]
    known = {case for each in methods for case in each.seen}
    if known.issuperset(cases):
        raise Refused(f"{cohort.folder}: expected cases that no method's network has seen, found none of {len(cases)}")
    cases = tuple(case for case in cases if case not in known)
    synthetic = embedded_cohort(next(iter(cohort.subjects[0].images.values()))) is not None
    shown_to = known.union(*(run.seen for run in runs))
    seen = tuple(case for case in subjects if case in shown_to.difference(cases))
    return Found(cohort, tuple(methods), wanted, cases, missing, seen, (*cohort.incomplete, *problems), synthetic)


def methods_of(
    options: ScoreOptions,
    known: Collection[str],
    wanted: Sequence[str],
    own: Sequence[Callable[[], Method]] = (),
    *,
    option: str,
) -> tuple[list[Method], dict[str, tuple[str, ...]]]:
    """The methods, and by each one's name the wanted cases of which it has no label map.

    own: make further methods, before those of --predictions. option: by which the user names a method's convention.
    Raises Refused, of all methods at once, where label maps of the known cases cannot be told for certain or some are
    missing and all are wanted.
    """
    folders = [label_maps.named(given, option="--predictions") for given in options.predictions]
    given = [label_maps.named(each, option=option) for each in options.convention if "=" in each]
    conventions = dict(given)
    if len(conventions) < len(given):
        raise Refused(f"expected one {option} of a method, received {', '.join(map('='.join, given))}")
    if unknown := set(conventions) - {name for name, _ in folders}:
        raise Refused(f"expected {option} of a method that --predictions names, received {', '.join(unknown)}")
    theirs = [
        partial(label_maps.find, name, Path(path), known, conventions.get(name), option=option)
        for name, path in folders
    ]
    methods, refused = gathered([*own, *theirs])
    if options.cavity == "background":
        methods = [each.without_cavity() for each in methods]
    missing = {each.name: tuple(case for case in wanted if case not in each.files) for each in methods}
    strangers = {each.name: f"; label maps of no case: {listed(each.surplus)}" for each in methods if each.surplus}
    lines = [f"  {name}: {listed(them)}{strangers.get(name, '')}" for name, them in missing.items() if them]
    if options.cases == "all" and lines:
        refused.append(
            f"expected a label map of each of {len(wanted)} cases, missing:\n"
            + "\n".join(lines)
            + "\nadd them, or compare the cases that every method has with --cases intersection"
        )
    if refused:
        raise Refused("\n".join(refused))
    return methods, missing


def require_methods(options: ScoreOptions, subjects: Sequence[Subject], *, taken: Collection[str]) -> None:
    """Raises Refused unless every method of --predictions has a name of its own, and a label map of each subject whose
    values can be told and whose header can be used. taken: names of other methods."""
    require_different([*taken, *(each.partition("=")[0] for each in options.predictions)])
    cases = [subject.id for subject in subjects]
    methods, _ = methods_of(options, cases, cases, option="--convention-of")
    problems = [problem for subject in subjects for problem in _headers(subject, methods)]
    leave_out(problems, FILES, allowed=options.leave_out_bad, who="case")


def require_different(names: Sequence[str]) -> None:
    """Raises Refused where a name is another method's too."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Refused(f"expected another name for each method, received {', '.join(twice)} several times: NAME=FOLDER")


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

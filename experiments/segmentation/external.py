"""A finished study on another cohort: its own networks, other patients, beside the scores of its own test part."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from common import nifti, prepared
from common.cohort import Cohort
from common.files import file_stem, write_csv
from common.identity import equal_content
from common.phantom.folder import embedded_cohort
from common.prepared import Store
from common.runs import Run, configuration_hash
from common.splits import Split
from common.statistics import bootstrap_interval, unpaired_difference
from common.subject import Problem, Subject
from common.summary import apply_empty_policy, patients_of
from common.words import by_note, plural
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import Refused, at_least, leave_out
from experiments.base.progress import say_store, step
from experiments.base.reading import Reading, refuse_cavity, refuse_unlabelled
from experiments.base.results import Result
from experiments.segmentation.fine_tuning import Seen, seen_by
from experiments.segmentation.finished import Finished, Networks, load, read_run, require_finished
from experiments.segmentation.options import NetworkOptions, Options
from experiments.segmentation.study import Study

FOLDER = "external"
STEPS = (1, 2, 4, 5)
"""Of experiments.base.progress.STEPS: nothing is trained."""
SHOWN = (
    *("mean_dice", "mean_dice_with_background"),
    *(f"{score}_{name}" for score in ("dice", "hd95") for name in ("NCR", "ED", "ET", "TC", "WT")),
)
"""What is put beside the scores of the run's own test part."""


@dataclass(frozen=True, kw_only=True)
class CohortOptions(Reading):
    """How another cohort is read."""

    data: Path
    """Folder of scans of other patients: any layout that an experiment's --data may have."""
    leave_out_bad: bool = False
    """Go on without subjects that cannot be used, or that the networks were trained on; they are named and counted."""
    max_subjects: int | None = None
    """Use at most so many subjects, the first by id."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    jobs: int = -1
    """Threads that prepare and score; -1 takes every core."""
    fresh: bool = False
    """Start over, in place of showing the finished result."""

    def __post_init__(self) -> None:
        at_least(1, max_subjects=self.max_subjects, jobs=None if self.jobs == -1 else self.jobs)

    @classmethod
    def of(cls, options: NetworkOptions) -> "CohortOptions | None":
        """The cohort that an experiment's --test-data names; None where it names none."""
        if options.test_data is None:
            return None
        shared = {name: getattr(options, name) for name in ("leave_out_bad", "cavity", "prepared", "jobs", "fresh")}
        return cls(data=options.test_data, **shared)


@dataclass(frozen=True)
class Checked:
    """A cohort that can be scored. problems: of those left out. ids: of those scored. synthetic: embedded phantoms.

    excluded: with a smaller share of labelled voxels than the run's own subjects have, as its rule says.
    """

    cohort: Cohort
    store: Store
    ids: tuple[str, ...]
    problems: tuple[Problem, ...]
    excluded: tuple[str, ...]
    synthetic: bool


def check(run: Finished, options: CohortOptions) -> Checked:
    """Find and prepare the cohort for the run's networks, trained or not yet.

    Raises Refused when there are bad subjects, or such that the networks are trained on, unless they may be left out.
    """
    with step(1, among=STEPS):
        cohort = options.find(options.data, max_subjects=options.max_subjects)
    refuse_unlabelled(cohort)
    refuse_cavity(cohort)
    with step(2, among=STEPS):
        say_store(options.prepared, prepared.expected_bytes(cohort.subjects, run.recipe))
        store = prepared.prepare(cohort.subjects, run.recipe, options.prepared, n_jobs=options.jobs)
    good = [subject for subject in cohort.subjects if subject.id in store.entries]
    problems = (*cohort.incomplete, *store.problems, *_seen(run, good, store, options))
    left_out = leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="subject")
    shares = {s.id: store.entries[s.id].geometry["labelled_fraction"] for s in good if s.id not in left_out}
    ids = tuple(id for id, share in shares.items() if share >= run.minimum_mask_fraction)
    if not ids:
        raise Refused(f"{cohort.folder}: expected subjects that can be scored, found none")
    for group in equal_content({subject: store.entries[subject].contents for subject in ids}):
        print(f"note: equal scans under several ids, each of them scored: {' = '.join(group)}", file=sys.stderr)
    for doubt in by_note({subject: store.entries[subject].doubts for subject in ids}):
        print(f"note: {doubt}", file=sys.stderr)
    synthetic = embedded_cohort(next(iter(cohort.subjects[0].images.values()))) is not None
    return Checked(cohort, store, ids, problems, tuple(sorted(set(shares) - set(ids))), synthetic)


def _seen(run: Finished, subjects: list[Subject], store: Store, options: CohortOptions) -> list[Problem]:
    """Those whose files, scans or patients have made or chosen the networks' weights, or the weights before those."""
    voxels = _contents(run, options)
    seen = [each | {"contents": each["contents"] or voxels.get(each["id"], {})} for each in seen_by(run.folder)]
    randomised = run.data.get("randomised", {}).get("subjects", {})
    seen += [{"id": id, "patient": None, "fingerprint": each, "contents": {}} for id, each in randomised.items()]
    known = Seen(seen)
    found, same_name = [], []
    for subject in subjects:
        if why := known.why(subject, store.entries[subject.id].contents.values):
            found.append(Problem(subject.id, None, why))
        elif known.names(subject):
            same_name.append(subject.id)
    if same_name:
        print(
            f"note: {plural(len(same_name), 'subject has an id', 'subjects have ids')} of the training's but other "
            "scans, and all are scored: "
            f"{', '.join(same_name[:5])}{', ...' * (len(same_name) > 5)}",
            file=sys.stderr,
        )
    return found


def _contents(run: Finished, options: CohortOptions) -> dict[str, dict[str, str]]:
    """Of an older run, which does not say so itself: content digests, by id and contrast, of those that its networks
    have seen, from the scans where they lie."""
    if "contents" in run.data:
        return {}
    folder = Path(run.data["folder"])
    if not folder.is_dir():
        print(
            f"note: {folder} with the scans that the network was trained on is not there: other subjects' files and "
            "ids are compared with theirs, their voxels are not",
            file=sys.stderr,
        )
        return {}
    seen = set(run.seen)
    subjects = [subject for subject in run.reading.find(folder).subjects if subject.id in seen]
    store = prepared.prepare(subjects, run.recipe, options.prepared, n_jobs=options.jobs)
    return {id: entry.contents for id, entry in store.entries.items()}


def score(run: Finished, checked: Checked, options: CohortOptions) -> Path:
    """Score a finished run on a cohort, in a folder of its own below the run's; shown when it is finished already."""
    prints = {s.id: s.fingerprint() for s in checked.cohort.subjects if s.id in checked.ids}
    digest = configuration_hash(sorted(prints.items()), run.policy)
    folder = run.folder / FOLDER / f"{file_stem(options.data.resolve().name)}-{digest}"
    with Run(folder, fresh=options.fresh) as opened:
        if not opened.is_finished:
            study = _study(run, checked, options, opened)
            data = {
                "folder": checked.cohort.folder.resolve(),
                "layout": checked.cohort.layout,
                "synthetic": checked.synthetic,
                "fingerprint": hashlib.sha256(repr(sorted(prints.items())).encode()).hexdigest()[:16],
                "subjects": prints,
                "left_out": [str(problem) for problem in checked.problems],
                "exchanged": {id: what for id in checked.ids if (what := checked.store.entries[id].exchanged)},
                "mismatch": {id: what for id in checked.ids if (what := checked.store.entries[id].mismatch)},
                "masks": checked.cohort.notes,
                "left_out_for_their_cavity": checked.cohort.cavities,
                "excluded": checked.excluded,
            }
            settings = {"experiment": run.experiment, "run": run.folder.resolve(), "options": asdict(options)}
            opened.describe(config=settings, data=data, split=study.split.as_dict())
            with step(4, among=STEPS):
                _score(run, study, opened)
        show(run, checked, folder)
    return folder


def _study(run: Finished, checked: Checked, options: CohortOptions, opened: Run) -> Study:
    return Study(
        experiment=run.experiment,
        options=Options(
            data=None if checked.synthetic else options.data,
            empty_masks=run.policy,
            prepared=options.prepared,
            jobs=options.jobs,
        ),
        cohort=checked.cohort,
        store=checked.store,
        split=Split(FOLDER, (), (), checked.ids),
        run=opened,
        prefix=f"{FOLDER}.",
    )


def _score(run: Finished, study: Study, opened: Run) -> None:
    from experiments.segmentation import scores  # and with it the plotting library

    frame = scores.write_scores(study, _predictions(study, load(run)), n_cases=len(study.test))
    differences = compare(run, results.read_cases(opened.folder))
    write_csv(opened.folder / "differences.csv", differences)
    synthetic = study.synthetic or run.synthetic
    further = [
        Result.of(run.experiment, f"{kind}.{row.metric}", float(value), int(n), (low, high), synthetic=marked)
        for row in differences.itertuples()
        for kind, value, n, low, high, marked in (
            ("own", row.own, row.own_n, row.own_low, row.own_high, run.synthetic),
            ("difference", row.difference, min(row.own_n, row.n), row.low, row.high, synthetic),
        )
    ]
    scores.write_summary(study, frame, further)


def _predictions(study: Study, networks: Networks) -> Iterator[tuple]:
    """What the networks predict, case by case; what a killed call has predicted already is read."""
    subjects = {subject.id: subject for subject in study.cohort.subjects}
    for entry in study.test:
        folder, subject = study.run.folder / "predictions", subjects[entry.id]
        files = {view: folder / view / f"{entry.id}.nii.gz" for view in ("", *networks.views)}
        if not all(file.exists() for file in files.values()):
            yield from networks.entries([entry])
            continue
        labels = {view: subject.convention.to_classes(nifti.read(file).data) for view, file in files.items()}
        own = labels.pop("")
        yield (entry.id, own, partial(dict, labels)) if labels else (entry.id, own)


def compare(run: Finished, cases: pd.DataFrame) -> pd.DataFrame:
    """Scores of other patients minus those of the run's own test part; one row per metric of SHOWN.

    Columns: metric; own, own_low, own_high and own_n (mean, 95 % interval and cases of the run's test part); external
    and n; difference (external - own), low, high (95 % bootstrap interval, each group resampled by itself).
    """
    own, other = (apply_empty_policy(frame, run.policy) for frame in (run.cases(), cases))
    rows = []
    for metric in SHOWN:
        known = [frame[frame[metric].notna()] for frame in (own, other)]
        first, second = (frame[metric].to_numpy(float) for frame in known)
        whose = patients_of(known[0]), patients_of(known[1])
        means = [values.mean() if values.size else np.nan for values in (first, second)]
        ends = bootstrap_interval(first, seed=0, patients=whose[0])
        rows.append(
            (
                *(metric, means[0], *ends, first.size, means[1], second.size),
                *(means[1] - means[0], *unpaired_difference(first, second, seed=0, patients=whose)),
            )
        )
    columns = ["metric", "own", "own_low", "own_high", "own_n", "external", "n", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def show(run: Finished, checked: Checked, folder: Path) -> None:
    """Print the table *own test part | this cohort | difference*, and what it was measured on."""
    found = {each.key.partition(".")[2]: each for each in results.read_summary(folder / "summary.json")}
    rows = [("result", "own test", "95 % interval", "n", "this cohort", "95 % interval", "n", "difference", "interval")]
    for metric in SHOWN:
        own, other, difference = (found[f"{kind}.{metric}"] for kind in ("own", FOLDER, "difference"))
        cells = [
            cell for each in (own, other) for cell in (results.short(each.value), results.interval(each), str(each.n))
        ]
        rows.append((metric, *cells, results.short(difference.value), results.interval(difference)))
    notes = [
        f"this cohort's {results.patients(checked.cohort.folder, synthetic=checked.synthetic)}",
        f"own test {results.patients(run.data['folder'], synthetic=run.synthetic)}",
        f"subjects: {len(checked.ids)}; left out: {len({problem.subject for problem in checked.problems})}",
    ]
    if checked.synthetic:
        notes.insert(0, results.SYNTHETIC_NOTE)
    elif run.synthetic:
        notes.insert(0, "this network has seen synthetic phantoms only")
    if run.minimum_mask_fraction:
        minimum = f"{100 * run.minimum_mask_fraction:g} %"
        notes.append(f"excluded with less than {minimum} labelled, as in the run's own cohort: {len(checked.excluded)}")
    notes += checked.cohort.notes
    notes.append(f"empty masks: {run.policy}; counts of empty, missed and invented labels: scores.csv")
    end(
        FOLDER,
        folder,
        results.aligned(rows),
        *(f"{name}: {results.HEADLINES[name]}" for name in SHOWN if name in results.HEADLINES),
        "difference: of other patients, so not paired; each group of cases resampled by itself",
        notes=notes,
        below=True,
        steps=STEPS,
    )


def test_on(folder: Path, options: CohortOptions) -> Path:
    """Check another cohort and score a finished run on it; returns the folder of its results."""
    run = read_run(folder)
    require_finished(run)
    run.cases()
    return score(run, check(run, options), options)

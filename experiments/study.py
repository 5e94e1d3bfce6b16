"""What the segmentation experiments share: command line, cohort, prepared store, split, run folder, scores, table."""

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common import prepared, splits
from common.cohort import Cohort, CohortError, find_subjects
from common.nifti import ScanError
from common.phantom.folder import embedded_cohort
from common.prepared import Entry, Store, StoreError
from common.recipe import Recipe
from common.runs import Run, RunError, configuration_hash
from common.scoring import EmptyPolicy
from common.subject import Subject
from experiments import results

PHANTOM_SUBJECTS = 40
PHANTOM_SEED = 2021


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every segmentation experiment is told on its command line."""

    data: Path | None = None
    """Folder of scans: BraTS 2018-2023, MSD Task01 or nnU-Net raw. Without it the embedded phantoms are used."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with --data and demo without."""
    leave_out_bad: bool = False
    """Go on without subjects that cannot be used; they are named in the run's folder and counted in the table."""
    max_subjects: int | None = None
    """Use at most so many subjects, the first by id."""
    convention: str | None = None
    """Name of the masks' label convention, where the folder cannot tell it for certain."""
    split_seed: int = 0
    """Seed of the split into training, validation and test."""
    subjects: Path | None = None
    """Published split: a CSV with the columns id and part (train, validation, test)."""
    folds: int | None = None
    """Cross-validation: number of folds; --fold says which one is tested."""
    fold: int = 1
    """The tested fold, from 1 to --folds."""
    empty_masks: EmptyPolicy = "brats"
    """What an empty mask is worth: BraTS's values (1 or 0, and 373.13 mm), or ignored and counted."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded cohort."""
    jobs: int = -1
    """Threads that prepare and score; -1 takes every core."""
    fresh: bool = False
    """Start over, in place of going on from the last finished epoch or showing the finished result."""


class Refused(Exception):
    """The experiment cannot run as asked; the message is for the user and says what to do."""


def refuse_phantoms(data: Path, patient: Path) -> None:
    """Raises Refused when what --data names is an embedded cohort, whose results would not be marked as synthetic.

    patient: a file or folder of one of its patients.
    """
    if (folder := embedded_cohort(patient)) is not None:
        raise Refused(f"{data}: expected scans of patients, found the synthetic ones of {folder}; leave the option out")


def command_line(
    experiment: str, presets: Mapping[str, Any], description: str, *, options_type: type = Options
) -> tuple[Any, Any]:
    """Options and model configuration; ``--model.*`` changes single fields of the chosen preset.

    Without --preset: paper where --data is given, else demo.
    """

    @dataclass(frozen=True)
    class Choice:
        data: Path | None = None
        preset: Literal["paper", "demo"] | None = None

    choice, _ = tyro.cli(Choice, return_unknown_args=True, add_help=False)
    preset = choice.preset or ("paper" if choice.data else "demo")
    config = presets[preset]

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        options: Annotated[options_type, tyro.conf.arg(name="")]
        model: type(config)

    arguments = tyro.cli(
        Arguments,
        prog=f"python -m experiments.{experiment}",
        description=description,
        default=Arguments(options=options_type(preset=preset), model=config),
    )
    return arguments.options, arguments.model


@dataclass
class Study:
    """One experiment on one cohort: entries of the three parts, the open run, and what becomes of predictions."""

    experiment: str
    options: Options
    cohort: Cohort
    store: Store
    split: splits.Split
    run: Run
    left_out: tuple[str, ...]
    minimum_mask_fraction: float
    excluded: tuple[str, ...]
    prefix: str = ""
    """What stands before a result's name: of several models in one table, the model's and two underscores."""

    @property
    def synthetic(self) -> bool:
        return self.options.data is None

    @property
    def train(self) -> list[Entry]:
        return [self.store.entries[subject] for subject in self.split.train]

    @property
    def validation(self) -> list[Entry]:
        return [self.store.entries[subject] for subject in self.split.validation]

    @property
    def test(self) -> list[Entry]:
        return [self.store.entries[subject] for subject in self.split.test]

    def result(
        self, name: str, value: float | str | None, n: int, interval: tuple[float, float] = (math.nan, math.nan)
    ) -> results.Result:
        """A line of the summary, beside the report's value where it has one under this name."""
        return results.Result.of(self.experiment, name, value, n, interval, synthetic=self.synthetic)

    def score(self, predictions: Iterable[tuple]) -> None:
        """Score what :mod:`experiments.evaluation` takes, and write the results, which marks the run as finished."""
        from experiments import evaluation  # and with it the plotting library, which --help need not load

        evaluation.score(self, predictions)

    def show(self) -> None:
        """Print the table *reported | this run | 95 % interval | n* and where everything lies."""
        print(results.table(results.read_summary(self.run.folder / "summary.json")))
        self.show_data()

    def show_data(self) -> None:
        """Print what the numbers above were measured on."""
        if self.synthetic:
            print(results.SYNTHETIC_NOTE)
        parts = " / ".join(str(len(getattr(self.split, part))) for part in splits.PARTS)
        print(f"subjects: {parts} (train / validation / test); left out: {len(self.left_out)}")
        if self.minimum_mask_fraction:
            minimum = f"{100 * self.minimum_mask_fraction:g} %"
            print(f"excluded with less than {minimum} labelled: {len(self.excluded)} (data.json)")
        print(f"empty masks: {self.options.empty_masks}; counts of empty, missed and invented labels: scores.csv")
        print(f"run folder: {self.run.folder}")


@contextmanager
def study(
    experiment: str,
    options: Options,
    config: Any,
    *,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    minimum_mask_fraction: float = 0.0,
    further_recipes: Sequence[Recipe] = (),
) -> Iterator[Study]:
    """Find, check and prepare the cohort, split it, and open the run's folder, in which everything is recorded.

    fractions: of the patients, to train, validate and test. minimum_mask_fraction: subjects with a smaller share of
    labelled voxels in the recipe's crop are excluded before the split; their ids go into data.json. further_recipes: of
    other networks in the same table; a subject that one of them cannot prepare is a bad one for all.
    What the user can mend (bad subjects, too few of them, a full disk, a run in use) ends the program with a message
    and exit status 1.
    """
    try:
        with _open(experiment, options, config, fractions, minimum_mask_fraction, further_recipes) as opened:
            yield opened
    except (Refused, CohortError, ScanError, StoreError, RunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


@contextmanager
def _open(
    experiment: str,
    options: Options,
    config: Any,
    fractions: tuple[float, float, float],
    minimum_mask_fraction: float,
    further_recipes: Sequence[Recipe],
) -> Iterator[Study]:
    folder = phantom_cohort(options.phantoms, jobs=options.jobs) if options.data is None else options.data
    cohort = find_subjects(folder, convention=options.convention, max_subjects=options.max_subjects)
    if options.data is not None and cohort.subjects:
        refuse_phantoms(options.data, next(iter(cohort.subjects[0].images.values())))
    if unlabelled := [subject.id for subject in cohort.subjects if subject.label is None]:
        raise Refused(f"{cohort.folder}: expected a mask for every subject, {len(unlabelled)} have none")
    stores = [
        prepared.prepare(cohort.subjects, recipe, options.prepared, n_jobs=options.jobs)
        for recipe in (config.recipe, *further_recipes)
    ]
    store = stores[0]
    problems = tuple(dict.fromkeys((*cohort.incomplete, *(problem for each in stores for problem in each.problems))))
    left_out = tuple(sorted({problem.subject for problem in problems}))
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        if not options.leave_out_bad:
            raise Refused(
                f"{cohort.folder}: {len(left_out)} subjects cannot be used:\n{listing}\n"
                "mend them, or go on without them with --leave-out-bad"
            )
        print(f"left out {len(left_out)} subjects:\n{listing}", file=sys.stderr)
    good = [subject for subject in cohort.subjects if all(subject.id in each.entries for each in stores)]
    shares = {subject.id: store.entries[subject.id].geometry["labelled_fraction"] for subject in good}
    excluded = {subject: share for subject, share in shares.items() if share < minimum_mask_fraction}
    minimum = f"{100 * minimum_mask_fraction:g} %"
    if excluded and len(excluded) == len(good):
        raise Refused(
            f"{cohort.folder}: expected subjects with at least {minimum} of the crop labelled, found none; the largest "
            f"share is {max(excluded.values()):.2%}"
        )
    try:
        split = _split(good, set(excluded), options, fractions)
    except (ValueError, OSError) as error:
        also = f" ({len(excluded)} subjects are excluded with less than {minimum} labelled)" if excluded else ""
        raise Refused(f"{error}{also}") from error
    fingerprints = {subject.id: subject.fingerprint() for subject in good if subject.id not in excluded}
    data = {
        "folder": cohort.folder,
        "layout": cohort.layout,
        "synthetic": options.data is None,
        "fingerprint": hashlib.sha256(repr(sorted(fingerprints.items())).encode()).hexdigest()[:16],
        "subjects": fingerprints,
        "left_out": [str(problem) for problem in problems],
        "excluded": {"minimum_mask_fraction": minimum_mask_fraction, "labelled_fraction": excluded},
    }
    name = configuration_hash(config, split.hash, data["fingerprint"], options.empty_masks)
    source = "phantoms" if options.data is None else cohort.folder.resolve().name
    folder = options.runs / experiment / f"{options.preset}-{source}-{split.name}-{name}"
    with Run(folder, fresh=options.fresh) as run:
        if not run.is_finished:
            settings = {"experiment": experiment, "options": asdict(options), "model": asdict(config)}
            run.describe(config=settings, data=data, split=split.as_dict())
        yield Study(
            experiment, options, cohort, store, split, run, left_out, minimum_mask_fraction, tuple(sorted(excluded))
        )


def phantom_cohort(folder: Path, *, jobs: int) -> Path:
    """The embedded cohort, made where it is missing; says so, because every result on it is synthetic."""
    from common.phantom.cohort import write_cohort

    print(f"no --data given: using the embedded cohort of {PHANTOM_SUBJECTS} synthetic patients in {folder}")
    return write_cohort(folder, n_subjects=PHANTOM_SUBJECTS, seed=PHANTOM_SEED, n_jobs=jobs)


def _split(
    subjects: list[Subject], excluded: set[str], options: Options, fractions: tuple[float, float, float]
) -> splits.Split:
    if options.subjects is not None:
        # A published split knows nothing of the exclusion rule: its excluded subjects leave their parts.
        return splits.read_published(options.subjects, subjects).without(excluded)
    subjects = [subject for subject in subjects if subject.id not in excluded]
    if options.folds is not None:
        if not 1 <= options.fold <= options.folds:
            raise ValueError(f"expected --fold between 1 and {options.folds}, received {options.fold}")
        return splits.k_folds(subjects, k=options.folds, seed=options.split_seed)[options.fold - 1]
    return splits.split_by_fractions(subjects, fractions=fractions, seed=options.split_seed)

"""What the segmentation experiments share: cohort, prepared store, split, run folder, trainings, table."""

import hashlib
import math
import sys
from collections import ChainMap, Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import prepared, splits
from common.cohort import Cohort
from common.files import file_stem
from common.identity import as_one_patient, equal_content
from common.prepared import Entry, Store
from common.processes import check_alone
from common.recipe import Recipe
from common.runs import Run, RunError, configuration_hash, describe, folder_of_run, is_in_use, same_settings
from common.statistics import FEWEST_CASES
from common.subject import Subject, lines
from common.words import by_note, listed
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import Refused, absolute, options_in, refusals
from experiments.base.trainings import Training, given, shared_by
from experiments.segmentation import added, fine_tuning
from experiments.segmentation.options import Options, SegResNetOptions
from experiments.segmentation.patients import FRACTIONS, find_patients, split_of
from segresnet_monai.config import Config as SegResNet
from segresnet_monai.start import Start, find_start

DEFAULT_BACKEND = "tensorflow"
"""Of Keras; runs that name none were made on it."""


@dataclass
class Study:
    """One experiment on one cohort: entries of the three parts, the run, and the trainings that it is made of."""

    experiment: str
    options: Options
    cohort: Cohort
    store: Store
    split: splits.Split
    run: Run
    left_out: tuple[str, ...] = ()
    minimum_mask_fraction: float = 0.0
    excluded: tuple[str, ...] = ()
    prefix: str = ""
    """What stands before a result's name: of several models in one table, the model's and two underscores."""
    backend: str | None = None
    """Keras' backend, of a U-Net."""
    subjects: tuple[Subject, ...] = ()
    """Those of the split, and of a scan under several ids those ids as one patient's."""
    equal: tuple[tuple[str, ...], ...] = ()
    """Groups of subjects that hold the same scan under several ids; each is on one side of the split."""
    randomised: tuple[Entry, ...] = ()
    """Synthetic patients to train on beside the training part."""
    start: Start | None = None
    """Another run's weights to start from."""

    @property
    def synthetic(self) -> bool:
        return self.options.data is None

    @property
    def source(self) -> str:
        """Whose patients a table's numbers are."""
        return results.patients(self.cohort.folder, synthetic=self.synthetic)

    @property
    def train(self) -> list[Entry]:
        return [*(self.store.entries[subject] for subject in self.split.train), *self.randomised]

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

    def training(
        self,
        kind: str,
        name: str,
        config: Any,
        folder: Path,
        *,
        after: tuple[str, ...] = (),
        interpreter: str | Path = sys.executable,
        result: str = "summary.json",
        **further: object,
    ) -> Training:
        """A training on this study's split, described in its folder: ``python -m experiments.train FOLDER`` does it.

        kind: as in :mod:`experiments.train`. further: entries of its config.json beside the model.
        """
        training = Training(
            name=name,
            argv=(str(interpreter), "-m", "experiments.train", str(folder)),
            folder=folder,
            after=after,
            result=result,
            **shared_by(config),
        )
        if not training.is_finished and not is_in_use(folder):
            # Scans and store are where they are, whatever folder the training's own command is typed in.
            options = asdict(self.options) | {"prepared": self.options.prepared.resolve()}
            options["runs"] = self.options.runs.resolve()
            options["local_copy"] = absolute(self.options.local_copy)
            settings = {"experiment": self.experiment, "kind": kind, "name": name, "options": options}
            settings |= {} if self.backend is None else {"backend": self.backend}
            settings |= {} if self.start is None else {"start": asdict(self.start)}
            settings["grid"] = asdict(config.recipe.grid)
            data = given(self.run.folder, "data") | {"folder": self.cohort.folder.resolve()}
            describe(
                folder, config=settings | further | {"model": asdict(config)}, data=data, split=self.split.as_dict()
            )
        return training

    def show(self) -> None:
        """Print the table *reported | this run | 95 % interval | n* and where everything lies."""
        found = results.read_summary(self.run.folder / "summary.json")
        self.end(results.segmentation_table(found, headlines_under=self.options.headlines_under))

    def end(self, *texts: str, missing: Iterable[str] = (), command: str | None = None) -> None:
        """:func:`experiments.base.ending.end` of this study. command: where it is not called as the experiment is."""
        named, notes = command or self.experiment, self.measured_on()
        end(named, self.run.folder, *texts, missing=missing, notes=notes, synthetic=self.synthetic)

    def trained_with(self) -> list[str]:
        """What a table says of a training that has more than its patients."""
        notes = [] if self.start is None else [fine_tuning.described(self.start)]
        if self.randomised:
            n = len(self.randomised)
            notes.append(f"trained on {n} randomised synthetic patients too (data.json); none of them is tested")
        return notes

    @property
    def without_part(self) -> tuple[str, ...]:
        """Ids of the subjects that the user's own split does not name."""
        named = {id for part in splits.PARTS for id in getattr(self.split, part)}
        return tuple(subject.id for subject in self.subjects if subject.id not in named)

    def measured_on(self) -> Iterator[str]:
        """What a table's numbers were measured on, line by line."""
        if self.synthetic:
            yield results.SYNTHETIC_NOTE
        yield self.source
        yield f"subjects: {' / '.join(_counts(self.split))} (train / validation / test); left out: {len(self.left_out)}"
        if self.without_part:
            yield f"without a row in {self.options.subjects}: {listed(self.without_part)}"
        yield from (*self.trained_with(), *self.cohort.notes)
        if self.equal:
            groups = "; ".join(" = ".join(group) for group in self.equal)
            yield f"equal scans under several ids, each group on one side of the split: {groups}"
        if self.minimum_mask_fraction:
            minimum = f"{100 * self.minimum_mask_fraction:g} %"
            yield f"excluded with less than {minimum} labelled: {len(self.excluded)} (data.json)"
        yield f"empty masks: {self.options.empty_masks}; counts of empty, missed and invented labels: scores.csv"


@contextmanager
def study(
    experiment: str,
    options: Options,
    config: Any,
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    minimum_mask_fraction: float = 0.0,
    further_recipes: Sequence[Recipe] = (),
    several: bool = False,
    out_of_fold: bool = False,
    backend: str | None = None,
    network: SegResNet | None = None,
) -> Iterator[Study]:
    """Find, check and prepare the cohort, split it, and open the run's folder, in which everything is recorded.

    fractions: of the patients, to train, validate and test. minimum_mask_fraction: subjects with a smaller share of
    labelled voxels in the recipe's crop are excluded before the split; their ids go into data.json. further_recipes: of
    other networks in the same table; a subject that one of them cannot prepare is a bad one for all. several: the run
    is made of trainings with folders and locks of their own, so that two commands may work on it. out_of_fold: what
    opens it makes the folds of ``--folds`` itself, so all patients are in the split's ``train``. backend: Keras', of a
    U-Net; it decides numbers, so runs on different ones are different runs. network: what --from is for, where config
    holds more than that.
    What the user can mend (bad subjects, too few of them, a full disk, a run in use) ends the program with a message
    and exit status 1.
    """
    with refusals():
        check_alone()
        opened = _open(
            experiment,
            options,
            config,
            fractions,
            minimum_mask_fraction,
            further_recipes,
            out_of_fold,
            backend,
            network or config,
            # Where only trainings in processes of their own read crops, they copy what they need where they run.
            local_copy=None if several else absolute(options.local_copy),
        )
        with opened.run:
            if several:
                opened.run.close()
            yield opened


def _open(
    experiment: str,
    options: Options,
    config: Any,
    fractions: tuple[float, float, float],
    minimum_mask_fraction: float,
    further_recipes: Sequence[Recipe],
    out_of_fold: bool,
    backend: str | None,
    network: SegResNet,
    *,
    local_copy: Path | None,
) -> Study:
    if options.layout is not None:  # the run is read again, from whatever folder
        options = replace(options, layout=options.layout.resolve())
    start, seen = None, []
    if isinstance(options, SegResNetOptions) and options.start_from is not None:
        start, seen = find_start(options.start_from, network), fine_tuning.seen_by(options.start_from)
        print(fine_tuning.described(start), file=sys.stderr)
    recipes = (config.recipe, *further_recipes)
    cohort, stores, problems = find_patients(
        options, recipes, fractions=fractions, out_of_fold=out_of_fold, local_copy=local_copy
    )
    store, left_out = stores[0], tuple(sorted({problem.subject for problem in problems}))
    good = [subject for subject in cohort.subjects if all(subject.id in each.entries for each in stores)]
    placements = {subject.id: store.entries[subject.id].placement for subject in good}
    brought = {subject: str(placement) for subject, placement in placements.items() if placement.is_moved}
    for done, n in Counter(brought.values()).items():
        print(f"note: {n} of {len(good)} subjects were {done}", file=sys.stderr)
    doubted = {subject.id: store.entries[subject.id].exchanged for subject in good}
    for doubt in by_note(doubted):
        print(f"note: {doubt}", file=sys.stderr)
    equal = equal_content({s.id: ChainMap(*(each.entries[s.id].contents for each in stores)) for s in good})
    good = as_one_patient(good, equal)
    shares = {subject.id: store.entries[subject.id].geometry["labelled_fraction"] for subject in good}
    excluded = {subject: share for subject, share in shares.items() if share < minimum_mask_fraction}
    minimum = f"{100 * minimum_mask_fraction:g} %"
    if excluded and len(excluded) == len(good):
        raise Refused(
            f"{cohort.folder}: expected subjects with at least {minimum} of the crop labelled, found none; the largest "
            f"share is {max(excluded.values()):.2%}"
        )
    try:
        split = split_of(good, set(excluded), options, fractions, out_of_fold=out_of_fold)
    except (ValueError, OSError) as error:
        also = f" ({len(excluded)} subjects are excluded with less than {minimum} labelled)" if excluded else ""
        raise Refused(f"{error}{also}") from error
    if split.test:
        print(f"    {' / '.join(_counts(split))} (train / validation / test)", file=sys.stderr)
        if few := [name for name in splits.PARTS if len(getattr(split, name)) < FEWEST_CASES]:
            print(f"note: too few for any conclusion in the parts {', '.join(few)}", file=sys.stderr)
    fingerprints = {subject.id: subject.fingerprint() for subject in good if subject.id not in excluded}
    contents = {s.id: dict(ChainMap(*(each.entries[s.id].contents for each in stores))) for s in good}
    if start is not None:
        scored = {*split.test, *(split.train if out_of_fold else ()), *(split.validation if out_of_fold else ())}
        tested = [subject for subject in good if subject.id in scored]
        fine_tuning.refuse_seen(options.start_from, seen, tested, fingerprints, contents)
    others = added.add(
        options.phantoms,
        options.synthetic,
        without=options.synthetic_without,
        minimum_mask_fraction=minimum_mask_fraction,
        recipe=config.recipe,
        prepared_in=options.prepared,
        n_jobs=options.jobs,
        local_copy=local_copy,
    )
    used = fingerprints | others.fingerprints
    data = {
        "folder": cohort.folder,
        "layout": cohort.layout,
        "synthetic": options.data is None,
        "fingerprint": hashlib.sha256(repr(sorted(used.items())).encode()).hexdigest()[:16],
        "subjects": fingerprints,
        "patients": {subject.id: subject.patient for subject in good if subject.known_patient is not None},
        "contents": contents,
        "randomised": {"folder": others.folder, "subjects": others.fingerprints},
        "seen": seen,
        "left_out": [str(problem) for problem in problems],
        "without_part": sorted(fingerprints.keys() - {*split.train, *split.validation, *split.test}),
        "brought_to_grid": brought,
        "exchanged": {id: what for id, what in doubted.items() if what},
        "masks": cohort.notes,
        "left_out_for_their_cavity": cohort.cavities,
        "equal_content": equal,
        "excluded": {"minimum_mask_fraction": minimum_mask_fraction, "labelled_fraction": excluded},
    }

    def is_same(written: dict[str, Any]) -> bool:
        return (
            same_settings(written["config"]["model"], config)
            and ("grid" in written["config"] or not data["brought_to_grid"])  # older runs took scans as they lay
            and written["config"].get("backend", DEFAULT_BACKEND) == (backend or DEFAULT_BACKEND)
            and written["config"]["options"]["empty_masks"] == options.empty_masks
            and written["data"]["fingerprint"] == data["fingerprint"]
            and written["config"].get("start", {}).get("digest") == (start and start.digest)
            and written["split"]["hash"] == split.hash
        )

    source = "phantoms" if options.data is None else cohort.folder.resolve().name
    named = [config, split.hash, data["fingerprint"], options.empty_masks]
    if backend not in (None, DEFAULT_BACKEND):
        named.append(backend)
    if data["brought_to_grid"]:
        named.append("brought to the working grid")  # older runs, which took scans as they lay, have another name
    source = file_stem(source)
    if others.entries:
        source += f"-synthetic{len(others.entries)}"
    if start is not None:
        named.append(start.digest)
        source += f"-from_{start.digest[:8]}"
    prefix = f"{options.preset}-{source}-{file_stem(split.name)}"
    folder = folder_of_run(options.runs / experiment, prefix, configuration_hash(*named), is_same)
    run = Run(folder, fresh=options.fresh)
    if not run.is_finished:
        settings = {"experiment": experiment, "options": asdict(options), "model": asdict(config)}
        settings |= {} if backend is None else {"backend": backend}
        settings |= {} if start is None else {"start": asdict(start)}
        settings["grid"] = asdict(config.recipe.grid)
        run.describe(config=settings, data=data, split=split.as_dict())
    return Study(
        experiment=experiment,
        options=options,
        cohort=cohort,
        store=store,
        split=split,
        run=run,
        left_out=left_out,
        minimum_mask_fraction=minimum_mask_fraction,
        excluded=tuple(sorted(excluded)),
        backend=backend,
        subjects=tuple(subject for subject in good if subject.id not in excluded),
        equal=tuple(equal),
        randomised=others.entries,
        start=start,
    )


def restored(run: Run, config: Any) -> Study:
    """The study of a training as its folder describes it (:meth:`Study.training`), in a process of its own.

    Raises RunError when a subject has changed or cannot be prepared any more since the list of trainings was made.
    """
    settings = given(run.folder, experiment=str)
    data = given(run.folder, "data", folder=str, subjects=dict)
    written = given(run.folder, "split", name=str, **dict.fromkeys(splits.PARTS, list))
    options = options_in(run.folder, Options)
    cohort = options.find(Path(data["folder"]), max_subjects=options.max_subjects)
    split = splits.Split(written["name"], *(tuple(written[part]) for part in splits.PARTS))
    used = {*split.train, *split.validation, *split.test}
    subjects = [subject for subject in cohort.subjects if subject.id in used]
    place = {"n_jobs": options.jobs, "local_copy": options.local_copy}
    store = prepared.prepare(subjects, config.recipe, options.prepared, **place)
    changed = [subject.id for subject in subjects if subject.fingerprint() != data["subjects"].get(subject.id)]
    if lost := sorted({*changed, *(used - set(store.entries))}):
        found = [problem for problem in (*cohort.incomplete, *store.problems) if problem.subject in lost]
        why = "".join(f"\n  {line}" for line in lines(found)) or f" others: {listed(lost)}"
        raise RunError(f"{cohort.folder}: expected the subjects that {run.folder} was made for, found{why}")
    randomised = added.restore(data.get("randomised", {}), recipe=config.recipe, prepared_in=options.prepared, **place)
    run.note_start()
    return Study(
        experiment=settings["experiment"],
        options=options,
        cohort=cohort,
        store=store,
        split=split,
        run=run,
        prefix=settings.get("prefix", ""),
        backend=settings.get("backend"),
        randomised=randomised,
        start=fine_tuning.start_in(settings),
    )


def _counts(split: splits.Split) -> list[str]:
    return [str(len(getattr(split, part))) for part in splits.PARTS]

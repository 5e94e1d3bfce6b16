"""A segmentation study is opened: patients found and prepared, split, and the run's folder, which records all of it."""

import hashlib
import sys
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from common import splits
from common.cohort import Cohort
from common.files import file_stem
from common.identity import as_one_patient, equal_content
from common.loading import require_framework
from common.prepared import Entry, Store
from common.processes import check_alone
from common.recipe import Recipe
from common.runs import Run, configuration_hash, folder_of_run, same_settings
from common.statistics import FEWEST_CASES
from common.subject import Problem, Subject
from common.summary import BY_PATIENT
from common.words import by_note, plural
from experiments.base.options import Refused, absolute, refusals
from experiments.segmentation import added, fine_tuning
from experiments.segmentation.options import Options, SegResNetOptions
from experiments.segmentation.patients import FRACTIONS, find_patients, split_of
from experiments.segmentation.study import DEFAULT_BACKEND, Study, counts
from segresnet_monai.config import Config as SegResNet
from segresnet_monai.start import find_start


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
        if options.layout is not None:  # the run is read again, from whatever folder
            options = replace(options, layout=options.layout.resolve())
        # Trainings in processes of their own may have another environment, and what is finished is shown without one.
        if not several and not any((options.runs / experiment).glob("*/summary.json")):
            require_framework(config)
        start, seen = None, []
        if isinstance(options, SegResNetOptions) and options.start_from is not None:
            start, seen = find_start(options.start_from, network or config), fine_tuning.seen_by(options.start_from)
            print(fine_tuning.described(start), file=sys.stderr)
        # Where only trainings in processes of their own read crops, they copy what they need where they run.
        local_copy = None if several else absolute(options.local_copy)
        usable = _find_usable(
            options,
            (config.recipe, *further_recipes),
            minimum_mask_fraction,
            fractions=fractions,
            out_of_fold=out_of_fold,
            local_copy=local_copy,
        )
        split = _split(usable, options, fractions, out_of_fold=out_of_fold)
        if start is not None:
            tested = split.test if not out_of_fold else [id for part in splits.PARTS for id in getattr(split, part)]
            scored = [subject for subject in usable.subjects if subject.id in tested]
            fine_tuning.refuse_seen(options.start_from, seen, scored, usable.fingerprints, usable.contents)
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
        further = {} if backend is None else {"backend": backend}
        further |= {} if start is None else {"start": asdict(start)}
        data = _described(usable, options, split, others, seen)
        run = _open_run(experiment, options, config, split, data, further=further)
        opened = Study(
            experiment=experiment,
            options=options,
            cohort=usable.cohort,
            store=usable.stores[0],
            split=split,
            run=run,
            left_out=tuple(sorted({problem.subject for problem in usable.problems})),
            minimum_mask_fraction=minimum_mask_fraction,
            excluded=tuple(sorted(usable.excluded)),
            backend=backend,
            subjects=usable.subjects,
            equal=tuple(usable.equal),
            randomised=others.entries,
            start=start,
        )
        with run:
            if several:
                run.close()
            yield opened


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """A cohort's subjects that every recipe's store holds."""

    cohort: Cohort
    stores: Sequence[Store]
    problems: tuple[Problem, ...]
    prepared: Sequence[Subject]
    """All of them; of a scan under several ids those ids as one patient's."""
    equal: Sequence[tuple[str, ...]]
    """Ids that hold the same scan."""
    minimum_mask_fraction: float

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self.stores[0].entries

    @cached_property
    def excluded(self) -> dict[str, float]:
        """Labelled shares of those with less than the minimum, by id."""
        shares = {subject.id: self.entries[subject.id].geometry["labelled_fraction"] for subject in self.prepared}
        return {id: share for id, share in shares.items() if share < self.minimum_mask_fraction}

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Those that a split may hold."""
        return tuple(subject for subject in self.prepared if subject.id not in self.excluded)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        return {subject.id: subject.fingerprint() for subject in self.subjects}

    @property
    def contents(self) -> dict[str, dict[str, str]]:
        return {subject.id: _contents(self.stores, subject) for subject in self.prepared}

    @property
    def brought_to_grid(self) -> dict[str, str]:
        placements = {subject.id: self.entries[subject.id].placement for subject in self.prepared}
        return {id: str(placement) for id, placement in placements.items() if placement.is_moved}

    def said(self, of_entry: Callable[[Entry], tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """What is to be said of each subject's files, by id."""
        return {subject.id: of_entry(self.entries[subject.id]) for subject in self.prepared}


def _contents(stores: Sequence[Store], subject: Subject) -> dict[str, str]:
    """Content digests of a subject's scans, of all contrasts that any recipe reads."""
    return dict(ChainMap(*(store.entries[subject.id].contents for store in stores)))


def _find_usable(options: Options, recipes: Sequence[Recipe], minimum_mask_fraction: float, **how: Any) -> _Usable:
    """Find and prepare the patients, and say what was noticed of them. how: as :func:`find_patients` takes it."""
    cohort, stores, problems = find_patients(options, recipes, **how)
    good = [subject for subject in cohort.subjects if all(subject.id in each.entries for each in stores)]
    equal = equal_content({subject.id: _contents(stores, subject) for subject in good})
    usable = _Usable(
        cohort=cohort,
        stores=stores,
        problems=problems,
        prepared=as_one_patient(good, equal),
        equal=equal,
        minimum_mask_fraction=minimum_mask_fraction,
    )
    for done, n in Counter(usable.brought_to_grid.values()).items():
        print(f"note: {n} of {len(good)} subjects were {done}", file=sys.stderr)
    if (patients := len({subject.patient for subject in usable.prepared})) < len(good):
        print(f"note: {len(good)} subjects of {patients} patients: {BY_PATIENT}", file=sys.stderr)
    for doubt in by_note(usable.said(lambda entry: entry.doubts)):
        print(f"note: {doubt}", file=sys.stderr)
    if usable.excluded and not usable.subjects:
        raise Refused(
            f"{cohort.folder}: expected subjects with at least {_percent(minimum_mask_fraction)} of the crop labelled, "
            f"found none; the largest share is {max(usable.excluded.values()):.2%}"
        )
    return usable


def _split(
    usable: _Usable, options: Options, fractions: tuple[float, float, float], *, out_of_fold: bool
) -> splits.Split:
    """Raises Refused where the subjects cannot be split as the options ask."""
    try:
        split = split_of(list(usable.prepared), set(usable.excluded), options, fractions, out_of_fold=out_of_fold)
    except (ValueError, OSError) as error:
        minimum = _percent(usable.minimum_mask_fraction)
        n = len(usable.excluded)
        also = f" ({n} subjects are excluded with less than {minimum} labelled)" if n else ""
        raise Refused(f"{error}{also}") from error
    if split.test:
        print(f"    {' / '.join(counts(split))} (train / validation / test)", file=sys.stderr)
        n = len(usable.subjects) - sum(len(getattr(split, part)) for part in splits.PARTS)
        if n and options.subjects is not None:
            print(f"note: {plural(n, 'subject has', 'subjects have')} no row in {options.subjects}", file=sys.stderr)
        if few := [name for name in splits.PARTS if len(getattr(split, name)) < FEWEST_CASES]:
            print(f"note: too few for any conclusion in the parts {', '.join(few)}", file=sys.stderr)
    return split


def _described(
    usable: _Usable, options: Options, split: splits.Split, others: added.Added, seen: Sequence[Mapping]
) -> dict[str, Any]:
    """What a run's data.json says. seen: whom the weights have seen that it starts from."""
    used = usable.fingerprints | others.fingerprints
    excluded = {"minimum_mask_fraction": usable.minimum_mask_fraction, "labelled_fraction": usable.excluded}
    return {
        "folder": usable.cohort.folder,
        "layout": usable.cohort.layout,
        "synthetic": options.data is None,
        "fingerprint": hashlib.sha256(repr(sorted(used.items())).encode()).hexdigest()[:16],
        "subjects": usable.fingerprints,
        "patients": {each.id: each.patient for each in usable.prepared if each.known_patient is not None},
        "contents": usable.contents,
        "randomised": {"folder": others.folder, "subjects": others.fingerprints},
        "seen": seen,
        "left_out": [str(problem) for problem in usable.problems],
        "without_part": sorted(usable.fingerprints.keys() - {*split.train, *split.validation, *split.test}),
        "brought_to_grid": usable.brought_to_grid,
        "exchanged": {id: what for id, what in usable.said(lambda entry: entry.exchanged).items() if what},
        "mismatch": {id: what for id, what in usable.said(lambda entry: entry.mismatch).items() if what},
        "masks": usable.cohort.notes,
        "left_out_for_their_cavity": usable.cohort.cavities,
        "equal_content": usable.equal,
        "excluded": excluded,
    }


def _open_run(
    experiment: str,
    options: Options,
    config: Any,
    split: splits.Split,
    data: Mapping[str, Any],
    *,
    further: Mapping[str, Any],
) -> Run:
    """The folder of this run, which is described there unless it is finished. further: backend and start, if any."""
    backend, digest = further.get("backend", DEFAULT_BACKEND), further.get("start", {}).get("digest")

    def is_same(written: dict[str, Any]) -> bool:
        return (
            same_settings(written["config"]["model"], config)
            and ("grid" in written["config"] or not data["brought_to_grid"])  # older runs took scans as they lay
            and written["config"].get("backend", DEFAULT_BACKEND) == backend
            and written["config"]["options"]["empty_masks"] == options.empty_masks
            and written["data"]["fingerprint"] == data["fingerprint"]
            and written["config"].get("start", {}).get("digest") == digest
            and written["split"]["hash"] == split.hash
        )

    named = [config, split.hash, data["fingerprint"], options.empty_masks]
    if backend != DEFAULT_BACKEND:
        named.append(backend)
    if data["brought_to_grid"]:
        named.append("brought to the working grid")  # older runs, which took scans as they lay, have another name
    source = file_stem("phantoms" if options.data is None else data["folder"].resolve().name)
    if n := len(data["randomised"]["subjects"]):
        source += f"-synthetic{n}"
    if digest is not None:
        named.append(digest)
        source += f"-from_{digest[:8]}"
    prefix = f"{options.preset}-{source}-{file_stem(split.name)}"
    folder = folder_of_run(options.runs / experiment, prefix, configuration_hash(*named), is_same)
    run = Run(folder, fresh=options.fresh)
    if not run.is_finished:
        settings = {"experiment": experiment, "options": asdict(options), "model": asdict(config), **further}
        run.describe(config=settings | {"grid": asdict(config.recipe.grid)}, data=data, split=split.as_dict())
    return run


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"

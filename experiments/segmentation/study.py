"""What the segmentation experiments share: cohort, prepared store, split, run folder, trainings, table."""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import prepared, splits
from common.cohort import Cohort
from common.prepared import Entry, Store
from common.runs import Run, RunError, describe, is_in_use
from common.subject import Subject, lines
from common.words import listed
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import absolute, options_in
from experiments.base.trainings import Training, given, shared_by
from experiments.segmentation import added, fine_tuning
from experiments.segmentation.options import Options
from segresnet_monai.start import Start

DEFAULT_BACKEND = "tensorflow"
"""Of Keras; runs that name none were made on it."""


@dataclass
class Study:
    """One experiment on one cohort: entries of the three parts, the run, and the trainings that it is made of.

    :mod:`experiments.segmentation.opening` makes one, :func:`restored` reads one again.
    """

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
        yield f"subjects: {' / '.join(counts(self.split))} (train / validation / test); left out: {len(self.left_out)}"
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


def counts(split: splits.Split) -> list[str]:
    """How many subjects each part has."""
    return [str(len(getattr(split, part))) for part in splits.PARTS]

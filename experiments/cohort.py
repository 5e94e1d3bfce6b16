"""What the report says about its data, of both tasks, checked on the cohorts given.

    python -m experiments.cohort                          the embedded phantoms of both tasks
    python -m experiments.cohort --data FOLDER            BraTS, MSD, nnU-Net, UCSF-PDGM or UPENN-GBM, with masks
    python -m experiments.cohort --data FOLDER --layout mapping.toml      a folder as the mapping file describes it
    python -m experiments.cohort --mgmt-data FOLDER       RSNA-MICCAI folder (DICOM); also together with --data
    python -m experiments.cohort --data FOLDER --prepare --on slurm    the prepared stores, filled by many machines

Every file of every subject is read and checked, and everything wrong is listed, with how the masks are read and which
subjects hold the same scan. Then, over the good subjects: the share of background, the balance of the labels, how many
subjects the report's 1 % rule leaves out, in how many slices the brain lies, and how much of the tumour slices 60:135
hold; over the MGMT series: classes, images, planes and black images. Of a task without a cohort nothing is checked, and
the table says so. Cost: embedded cohorts 20 s on two cores of an AMD EPYC once they are written, of which 0.1 s per
subject and 0.2 ms per DICOM image are one core's. Expect on them a background of 0.99, 0.90 of the tumour in slices 60
to 134, four planes, and 15 % black images, all at the ends. The same command on the same files shows the finished
table.

With --prepare nothing is checked but what preparing reads: the subjects are brought into the prepared stores of all
experiments of the report, or of those named, in shards that run one after the other, side by side (--at-once) or on a
cluster (--on), and are counted. Subjects that cannot be used are listed. The same command does what is missing.
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from common.cohort import Cohort, audit
from common.command_line import parse
from common.dicom.mgmt_cohort import MgmtCohort, find_patients
from common.dicom.mgmt_cohort import audit as audit_series
from common.files import file_stem, write_csv, write_json
from common.prepared import expected_bytes
from common.runs import Run, configuration_hash, environment
from experiments.base import results
from experiments.base.ending import end
from experiments.base.engines import run as run_trainings
from experiments.base.options import BothTasks, Refused, at_least, refusals, refuse_phantoms, wrapped
from experiments.base.progress import say_store, step
from experiments.base.reading import refuse_cavity
from experiments.base.runs import patients_of
from experiments.base.shards import counts
from experiments.base.trainings import Placement, require
from experiments.mgmt import cohort as cohort_mgmt
from experiments.mgmt import shards as mgmt_shards
from experiments.mgmt.meanings import meanings
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.phantoms import phantom_patients
from experiments.segmentation import cohort as cohort_segmentation
from experiments.segmentation import shards as segmentation_shards
from experiments.segmentation.phantoms import phantom_cohort

EXPERIMENT = "cohort"
STEPS = (1, 5)
"""Of experiments.base.progress.STEPS: nothing is trained or predicted."""
PREPARED_FOR = {
    "--data": ("table1_baseline", "table1_variations", "table2_final", "unet25d", "unet3d", "compare_frameworks"),
    "--mgmt-data": ("mgmt_backbones", "mgmt_grid", "mgmt_slice_choice", "mgmt_ensemble"),
}
"""Experiments by the option that names their data; mgmt_explain explains mgmt_ensemble's models."""
PROBLEMS, NOTES, SERIES, SUBJECTS = "problems.json", "notes.json", "mgmt_series.csv", "subjects.csv"


@dataclass(frozen=True, kw_only=True)
class Options(BothTasks, Placement):
    """Which cohorts are checked or prepared, and where the result is kept."""

    mgmt_labels: Path | None = None
    """MGMT label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    max_subjects: int | None = None
    """Check at most so many subjects of --data, the first by id; MGMT series are all checked."""
    fresh: bool = False
    """Read everything again, in place of showing the finished result."""
    prepare: bool = False
    """Fill the prepared stores, in place of checking the report's claims."""
    experiments: tuple[str, ...] = ()
    """With --prepare: for these experiments; by default for all of the report whose data is given."""
    preset: Literal["paper", "demo"] | None = None
    """With --prepare: whose recipes; by default paper with data and demo without."""
    prepared: Path = Path("prepared")
    """With --prepare: folder of the prepared stores."""
    shards: int = 8
    """With --prepare: parts in which each task's subjects are prepared, each by a process of its own."""

    def __post_init__(self) -> None:
        BothTasks.__post_init__(self)
        Placement.__post_init__(self)
        at_least(1, shards=self.shards)


def main() -> None:
    options = parse(Options, prog="python -m experiments.cohort", description=wrapped(__doc__))
    with refusals():
        (prepare if options.prepare else check)(options)


def refuse_contradictions(options: Options) -> None:
    """Raises Refused when an option belongs to a task of which no cohort is given, though the other's is, or to
    --prepare."""
    if options.mgmt_data is None and options.mgmt_labels is not None:
        raise Refused(f"expected --mgmt-data beside --mgmt-labels {options.mgmt_labels}, received none")
    of_data = ("layout", "convention", "cavity", "max_subjects")
    given = ["--" + name.replace("_", "-") for name in of_data if getattr(options, name)]
    if options.data is None and options.mgmt_data is not None and given:
        raise Refused(f"expected --data beside {' and '.join(given)}, which say nothing of --mgmt-data")
    placed = any(getattr(options, field.name) != getattr(Placement(), field.name) for field in fields(Placement))
    own = ("experiments", "preset", "shards", "prepared")
    asked = ["--" + name for name in own if getattr(options, name) != getattr(Options(), name)]
    if not options.prepare and (placed or asked):
        raise Refused(
            f"{' and '.join(asked) or '--on and --at-once'} works with --prepare only; an audit prepares nothing and "
            "runs here"
        )
    if options.prepare and options.fresh:
        raise Refused("expected --fresh without --prepare: a damaged entry is noticed and made again")


def check(options: Options) -> None:
    """Audit, measure, write the run's folder and print the table. Raises CohortError when no subject is good."""
    with step(1, among=STEPS):
        subjects, patients, synthetic = cohorts(options)
        place = options.runs / EXPERIMENT / _name(subjects, patients, synthetic)
        with Run(place, fresh=options.fresh) as run:
            if not run.is_finished:
                folder, mgmt_folder = (None if one is None else one.folder for one in (subjects, patients))
                data = {"folder": folder, "mgmt_folder": mgmt_folder, "synthetic": synthetic}
                write_json(run.folder / "config.json", {"experiment": EXPERIMENT, "options": options})
                write_json(run.folder / "data.json", data)
                write_json(run.folder / "environment.json", [environment()])
                found = [
                    *segmentation(subjects, run.folder, options, synthetic=synthetic),
                    *mgmt(patients, run.folder, options, synthetic=synthetic),
                ]
                write_json(run.folder / "summary.json", results.as_rows(found))
    show(place)


def cohorts(options: Options) -> tuple[Cohort | None, MgmtCohort | None, bool]:
    """What the options name, the embedded phantoms where they name nothing, and whether it is these."""
    refuse_contradictions(options)
    folder, mgmt_folder = options.data, options.mgmt_data
    synthetic = folder is None and mgmt_folder is None
    if synthetic:
        folder = phantom_cohort(options.phantoms, jobs=options.jobs, max_subjects=options.max_subjects)
        mgmt_folder = phantom_patients(MgmtOptions(phantoms=options.phantoms_mgmt, jobs=options.jobs))
    subjects = patients = None
    if folder is not None:
        subjects = options.find(folder, max_subjects=options.max_subjects)
    if mgmt_folder is not None:
        patients = find_patients(mgmt_folder, options.mgmt_labels)
    if options.data is not None and subjects.subjects:
        refuse_phantoms(options.data, next(iter(subjects.subjects[0].images.values())))
    if options.mgmt_data is not None:
        refuse_phantoms(options.mgmt_data, patients.any_series)
    return subjects, patients, synthetic


def prepare(options: Options) -> None:
    """Bring the subjects into the prepared stores, in shards, and print what has become of them.

    Raises Refused for an experiment that has no recipe for these cohorts, RunError when a shard fails.
    """
    given = {"--data": options.data, "--mgmt-data": options.mgmt_data}
    of_phantoms = not any(given.values())
    known = [name for option, names in PREPARED_FOR.items() if of_phantoms or given[option] for name in names]
    if unknown := [name for name in options.experiments if name not in known]:
        raise Refused(f"expected --experiments out of {', '.join(known)}, received {', '.join(unknown)}")
    with step(1):
        subjects, patients, synthetic = cohorts(options)
    if subjects is not None:
        refuse_cavity(subjects)
    preset = options.preset or ("demo" if synthetic else "paper")
    wanted = [name for name in known if name in (options.experiments or known)]
    of = {
        option: by_recipe([name for name in names if name in wanted], preset) for option, names in PREPARED_FOR.items()
    }
    digest = configuration_hash(list(map(list, of.values())), options.prepared.resolve())
    folder = options.runs / "prepare" / f"{_name(subjects, patients, synthetic)}-{digest}"
    number, place = options.shards, {"store": options.prepared, "jobs": options.jobs}
    parts = {}
    if scans := of["--data"]:
        parts["--data"] = segmentation_shards.shards_of(
            subjects, scans, number, folder / "data", reading=options, **place
        )
    if series := of["--mgmt-data"]:
        parts["--mgmt-data"] = mgmt_shards.shards_of(
            patients, series, number, folder / "mgmt", labels=options.mgmt_labels, **place
        )
    shards = [shard for part in parts.values() for shard in part]
    before = sum(shard.is_finished for shard in shards)
    with step(2):
        n_bytes = sum(expected_bytes(subjects.subjects, recipe) for recipe in of["--data"])
        n_bytes += sum(len(patients.patients) * recipe.bytes_per_patient for recipe in of["--mgmt-data"])
        say_store(options.prepared, n_bytes)
        require(run_trainings(shards, options))
    if subjects is not None:
        print(*(f"  {problem}\n" for problem in subjects.incomplete), sep="", end="")
    for option, part in parts.items():
        for (recipe, names), count in zip(of[option].items(), counts(part), strict=True):
            print(*(f"  {problem}\n" for problem in count.problems), sep="", end="")
            print(f"{', '.join(names)} ({configuration_hash(recipe)}): {count}")
    print(f"{len(shards)} shards, {before} of them finished before: {folder}\nprepared stores: {options.prepared}")


def by_recipe(experiments: Iterable[str], preset: str) -> dict[object, list[str]]:
    """Every recipe of the experiments, and which of them use it."""
    found: dict[object, list[str]] = {}
    for experiment in experiments:
        for recipe in dict.fromkeys(recipes(experiment, preset)):
            found.setdefault(recipe, []).append(experiment)
    return found


def recipes(experiment: str, preset: str) -> Iterator[object]:
    """What an experiment's preset keeps of a subject; of several networks each's."""
    settings = getattr(importlib.import_module(f"experiments.{experiment}"), preset.upper())
    if hasattr(settings, "recipe"):
        return iter((settings.recipe, *getattr(settings, "further_recipes", ())))
    configs = settings.cells.values() if hasattr(settings, "cells") else vars(settings).values()
    return (config.recipe for config in configs if hasattr(config, "recipe"))


def segmentation(cohort: Cohort | None, folder: Path, options: Options, *, synthetic: bool) -> list[results.Result]:
    """The claims about the segmentation data; writes problems.json and subjects.csv."""
    if cohort is None:
        names = [name for name in results.reported()[EXPERIMENT] if not name.startswith(cohort_mgmt.PREFIX)]
        return not_checked(names, "--data")
    found = audit(cohort, n_jobs=options.jobs)
    write_json(folder / PROBLEMS, [str(problem) for problem in found.problems])
    equal = [
        f"{' = '.join(ids)}: equal scans under several ids, kept on one side of every split" for ids in found.equal
    ]
    rows = cohort_segmentation.measure_all(cohort, found.problems, n_jobs=options.jobs)
    few = cohort_segmentation.excluded_note(rows)
    write_json(folder / NOTES, [*cohort.notes, *cohort_segmentation.cavity_note(rows), *found.notes, *equal, *few])
    write_csv(folder / SUBJECTS, rows)
    ids = set(rows["subject"])
    measured = [subject for subject in cohort.subjects if subject.id in ids]
    cohort_segmentation.draw(folder / "figures" / "subjects.png", measured, found.exchanged, synthetic=synthetic)
    n_bad, n_copies = len({problem.subject for problem in found.problems}), sum(len(ids) - 1 for ids in found.equal)
    return cohort_segmentation.claims(rows, n_bad, n_copies, len(found.exchanged), synthetic=synthetic)


def mgmt(cohort: MgmtCohort | None, folder: Path, options: Options, *, synthetic: bool) -> list[results.Result]:
    """The claims about the MGMT data; writes mgmt_series.csv."""
    if cohort is None:
        names = [name for name in results.reported()[EXPERIMENT] if name.startswith(cohort_mgmt.PREFIX)]
        return not_checked(names, "--mgmt-data")
    series = audit_series(cohort, n_jobs=options.jobs)
    write_csv(folder / SERIES, series)
    return cohort_mgmt.claims(cohort, series, synthetic=synthetic)


def not_checked(names: Iterable[str], option: str) -> list[results.Result]:
    """The report's claims under these names, of a task of which no cohort was given."""
    said = results.reported()[EXPERIMENT]
    value = f"not checked: no {option} given"
    return [results.Result(f"{EXPERIMENT}.{name}", said[name].value, value, None, None, 0, False) for name in names]


def show(folder: Path) -> None:
    """Print what is wrong with the files, the table, and how to read it."""
    problems = json.loads((folder / PROBLEMS).read_text(encoding="utf-8")) if (folder / PROBLEMS).exists() else []
    if (folder / SERIES).exists():
        series = pd.read_csv(folder / SERIES, dtype={"patient": str}, keep_default_na=False)
        bad = series[series["problem"] != ""]
        problems += [f"{row.patient} {row.contrast}: {row.problem}" for row in bad.itertuples()]
    for problem in problems:
        print(f"  {problem}")
    if (folder / NOTES).exists():
        print(*json.loads((folder / NOTES).read_text(encoding="utf-8")), sep="\n")
    summary = results.read_summary(folder / "summary.json")
    synthetic = any(result.synthetic for result in summary)
    # Phantoms that lie aside are meant to: they are no fault in the files.
    if (
        not synthetic
        and (folder / SUBJECTS).exists()
        and "grid" in (rows := pd.read_csv(folder / SUBJECTS, keep_default_na=False))
    ):
        for note, n in rows.loc[rows["grid"] != "", "grid"].value_counts().items():
            print(f"  {n} of {len(rows)} subjects: {note}")
    end(
        EXPERIMENT,
        folder,
        results.table(summary),
        *cohort_segmentation.LEGEND,
        *meanings(summary),
        notes=[*([results.SYNTHETIC_NOTE] if synthetic else []), f"patients: {patients_of(folder)}"],
        synthetic=synthetic,
        missing=[f"{len(problems)} problem{'s' * (len(problems) > 1)} of files, listed above"] if problems else [],
        steps=STEPS,
    )


def _name(cohort: Cohort | None, patients: MgmtCohort | None, synthetic: bool) -> str:
    """The run's name: of the folders, and of all that is in them."""
    given = [one.folder.resolve().name for one in (cohort, patients) if one is not None]
    content: list[object] = []
    if cohort is not None:
        content += [subject.fingerprint() for subject in cohort.subjects] + [str(one) for one in cohort.incomplete]
    if patients is not None:
        content += cohort_mgmt.fingerprint(patients)
    return f"{'phantoms' if synthetic else file_stem('-'.join(given))}-{configuration_hash(content)}"


if __name__ == "__main__":
    main()

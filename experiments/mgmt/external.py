"""A finished MGMT classifier on patients of other hospitals, beside what it reached on its own test part."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.baselines import baseline_probabilities
from common.dicom.mgmt_cohort import Patient
from common.files import file_stem, write_csv
from common.loading import loading
from common.runs import Run, RunError, configuration_hash
from common.splits import Split
from common.transport import Sample, judge
from experiments.base.engines import run as run_trainings
from experiments.base.options import Refused
from experiments.base.progress import begin, step
from experiments.base.trainings import require
from experiments.mgmt.external_results import EXPERIMENT, Tested, report, samples, show
from experiments.mgmt.finished import Finished, read_run
from experiments.mgmt.nested import shuffle
from experiments.mgmt.phantoms import phantom_site
from experiments.mgmt.simple import simple_features
from experiments.mgmt.sites import Prepared, Site, SiteOptions, counts, facts, prepare_site, read_site, read_sites, warn
from experiments.mgmt.study import PREDICTIONS, model_training
from mgmt_classifier.ensemble import weighted_mean

if TYPE_CHECKING:
    from mgmt_classifier.scans import Cut

FOLDER = "external"


def test_on(folder: Path, options: SiteOptions, *, shuffled: bool) -> Path:
    """Test a finished run on the sites; returns the folder of the results, below the run's.

    shuffled: train its models once more, on labels dealt to other patients, as a control.
    """
    run = read_run(folder)
    if run.synthetic:  # the second site holds the same signal
        planted = {name: run.options[name] for name in ("effect", "phantom_seed") if name in run.options}
        options = replace(options, **planted)
    with step(1):
        sites = sites_of(options, run.labels, synthetic=run.synthetic)
        warn(sites)
    digest = configuration_hash(facts(sites), options.split_seed, shuffled)
    place = run.folder / FOLDER / f"{file_stem('+'.join(site.name for site in sites))}-{digest}"
    with Run(place, fresh=options.fresh) as opened:
        if not opened.is_finished:
            _test(run, sites, opened, options, shuffled=shuffled)
    show(place, below=True)
    return place


def sites_of(options: SiteOptions, labels: Collection[str], *, synthetic: bool) -> list[Site]:
    """The sites that the options name, nobody of the training cohort in them; of phantoms, the embedded one.

    labels: ids of the training cohort. Raises Refused and CohortError.
    """
    known = set() if synthetic else set(labels)
    if options.sites:
        return read_sites(options, known)
    if not synthetic:
        raise Refused("expected other hospitals' cohorts with --sites NAME=FOLDER, received none")
    return [read_site("phantoms", phantom_site(options), None, options, known=known, overlap={})]


def _test(run: Finished, sites: Sequence[Site], opened: Run, options: SiteOptions, *, shuffled: bool) -> None:
    patients = run.patients()
    configs = run.settings.models
    cuts = cuts_of(run, patients, options)
    usable, prepared = [], {}
    with step(2):
        for site in sites:
            kept, prepared[site.name] = prepare_site(site, configs, cuts, options)
            usable.append(kept)
    _describe(run, usable, cuts, opened, options, shuffled=shuffled)
    control = shuffled_models(run, opened, options) if shuffled else None
    begin(4)
    simple = _simple(run, patients, options, prepared)
    tables = [predictions(run, site, prepared[site.name], control, simple[site.name]) for site in usable]
    table = pd.concat(tables, ignore_index=True)
    write_csv(opened.folder / PREDICTIONS, table)
    own = run.test()
    inside = Sample(own["ensemble"].to_numpy(), own["label"].to_numpy())
    judgement = judge(inside, samples(table, "ensemble"), seed=options.split_seed)
    tested = Tested(
        table=table,
        thresholds={site.name: run.threshold for site in usable},
        synthetic={site.name: site.synthetic or run.synthetic for site in usable},
        counts=counts(usable),
        notes=[note for site in usable for note in site.notes if note.startswith(f"{site.name}: ")],
        trained_on_phantoms=run.synthetic,
    )
    report(tested, inside, judgement, opened, seed=options.split_seed)


def cuts_of(run: Finished, patients: Mapping[str, Patient], options: SiteOptions) -> "dict[str, Cut]":
    """By contrast, how the series of the training part lie."""
    from mgmt_classifier.scans import cut_of

    trained = [patients[id] for id in run.split.train]
    try:
        return {contrast: cut_of(trained, contrast, n_jobs=options.jobs) for contrast in run.settings.models}
    except ValueError as error:
        raise RunError(f"{run.place}: {error}") from error


def _describe(
    run: Finished,
    sites: Sequence[Site],
    cuts: "Mapping[str, Cut]",
    opened: Run,
    options: SiteOptions,
    *,
    shuffled: bool,
) -> None:
    described = {
        site.name: {
            "folder": site.folder.resolve(),
            "table": site.table.path.resolve(),
            "collection": site.table.collection,
            "synthetic": site.synthetic,
            "labels": site.labels,
            "left_out": site.left_out,
            "incomplete": [str(problem) for problem in site.problems],
            "notes": site.notes,
        }
        for site in sites
    }
    names = tuple(f"{site.name}:{id}" for site in sites for id in site.labels)
    opened.describe(
        config={
            "experiment": EXPERIMENT,
            "run": run.folder.resolve(),
            "options": asdict(options),
            "shuffled": shuffled,
        },
        data={
            "synthetic": run.synthetic or any(site.synthetic for site in sites),
            "cuts": {contrast: asdict(cut) for contrast, cut in cuts.items()},
            "sites": described,
        },
        split=Split(FOLDER, (), (), names).as_dict(),
    )


def shuffled_models(run: Finished, opened: Run, options: SiteOptions) -> Path:
    """The run's models trained on labels dealt to other patients; returns the folder that holds them by contrast."""
    dealt = shuffle(run.labels, seed=options.split_seed)
    folder = opened.folder / "shuffled"
    trainings = [
        model_training(
            f"shuffled/{contrast}",
            folder / contrast,
            experiment=EXPERIMENT,
            options=replace(options, labels=run.label_table),
            config=config,
            split=run.split,
            data={"synthetic": run.synthetic, "folder": run.place, "labels": dealt},
        )
        for contrast, config in run.settings.models.items()
    ]
    with step(3):
        require(run_trainings(trainings, options))
    return folder


def _simple(
    run: Finished, patients: Mapping[str, Patient], options: SiteOptions, prepared: Mapping[str, Prepared]
) -> dict[str, np.ndarray]:
    """By site, what a logistic regression on simple features says of its patients, fitted to the run's."""
    from mgmt_classifier import data

    own = {
        contrast: data.prepare(patients.values(), config.recipe, options.prepared, n_jobs=options.jobs).entries
        for contrast, config in run.settings.models.items()
    }
    known = sorted(set.intersection(*(set(entries) for entries in own.values())))
    features = simple_features(own, known)
    labels = np.array([run.labels[id] for id in known])
    return {
        name: baseline_probabilities(features, labels, simple_features(entries, sorted(next(iter(entries.values())))))
        for name, entries in prepared.items()
    }


def ensemble(folder: Path, entries: Prepared, weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Probabilities by contrast and patient, and of the ``ensemble``. folder: of the models, by contrast."""
    with loading("PyTorch"):
        from mgmt_classifier.inference import predict

    parts = {
        contrast: dict(predict(folder / contrast, list(of_patient.values())))
        for contrast, of_patient in entries.items()
    }
    return parts | {"ensemble": weighted_mean(parts, weights)}


def predictions(run: Finished, site: Site, entries: Prepared, control: Path | None, simple: np.ndarray) -> pd.DataFrame:
    """A row per patient: site, id, label, probabilities by contrast, ensemble, baseline and shuffled, and what the
    clinical table says."""
    weights = run.settings.weights
    found = ensemble(run.folder, entries, weights)
    if control is not None:
        found["shuffled"] = ensemble(control, entries, weights)["ensemble"]
    ids = sorted(site.clinical)
    table = pd.DataFrame({"site": site.name, "id": ids, "label": [site.labels[id] for id in ids]})
    for name, of_patient in found.items():
        table[name] = table["id"].map(of_patient)
    table["baseline"] = simple
    for fact in ("sex", "age", "idh", "scanner"):
        table[fact] = [getattr(site.clinical[id], fact) for id in ids]
    return table

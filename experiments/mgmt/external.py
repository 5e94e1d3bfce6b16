"""A finished MGMT classifier on patients of other hospitals, beside what it reached on its own test part."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.baselines import baseline_probabilities
from common.calibration import calibration, calibration_curve
from common.classification import accuracy_interval, auc_difference, auc_interval, predicted_positive, roc_auc
from common.dicom.mgmt_cohort import Patient, find_patients
from common.files import file_stem, typed, write_csv, write_json, write_text
from common.runs import Run, RunError, configuration_hash
from common.splits import Split
from common.transport import Judgement, Sample, judge
from experiments.base import results
from experiments.base.engines import run as run_trainings
from experiments.base.options import Refused
from experiments.base.results import Result
from experiments.base.trainings import given, require
from experiments.mgmt import external_pictures
from experiments.mgmt.ensemble import Settings
from experiments.mgmt.nested import shuffle
from experiments.mgmt.simple import simple_features
from experiments.mgmt.sites import Site, SiteOptions, counts, phantom_site, prepare_site, read_site, read_sites, warn
from experiments.mgmt.study import model_training
from mgmt_classifier.ensemble import weighted_mean

if TYPE_CHECKING:
    from mgmt_classifier.scans import Cut

EXPERIMENT = "mgmt_external"
FOLDER = "external"
PREDICTIONS = "predictions.csv"
OLD = 60  # years, the border between the two groups of the table
FEWEST = 5
"""Patients of each class that a subgroup must have for its AUC to be shown."""
Prepared = "Mapping[str, Mapping[str, Entry]]"


@dataclass(frozen=True)
class Finished:
    """A finished run of ``experiments.mgmt_ensemble``. labels: MGMT status of every patient of its split, by id."""

    folder: Path
    settings: Settings
    split: Split
    labels: dict[str, int]
    data: dict
    threshold: float
    label_table: Path | None

    @property
    def synthetic(self) -> bool:
        return bool(self.data.get("synthetic"))

    @property
    def seen(self) -> list[str]:
        """Patients that have made or chosen the weights."""
        return [*self.split.train, *self.split.validation]

    def test(self) -> pd.DataFrame:
        """The probabilities of its own test part: columns id, label, one per contrast, ensemble."""
        try:
            table = pd.read_csv(self.folder / PREDICTIONS, dtype={"id": str})
            return table[["id", "label", *self.settings.models, "ensemble"]]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.folder}: expected the predictions of a test part, found: {error}") from error

    def patients(self) -> dict[str, Patient]:
        """Those who have made or chosen the weights, where their series lie. Raises RunError where they are no more."""
        try:
            found = {patient.id: patient for patient in find_patients(self.data["folder"], self.label_table).patients}
        except ValueError as error:
            raise RunError(
                f"{error}: {self.folder} was trained on them, and scans of other hospitals are cut as theirs are; put "
                "them back, or link the folder there"
            ) from error
        if lost := sorted(set(self.seen) - set(found)):
            raise RunError(
                f"{self.data['folder']}: expected the patients of {self.folder}, lost: {', '.join(lost[:5])}"
            )
        return {id: found[id] for id in self.seen}


def read_run(folder: Path) -> Finished:
    """What a finished run says of itself. Raises RunError when it is not an ensemble's, or has not finished."""
    written = given(folder, experiment=str, model=dict, options=dict)
    if not all((folder / name).exists() for name in ("ensemble.json", PREDICTIONS, "summary.json")):
        raise RunError(
            f"{folder}: expected a finished run of experiments.mgmt_ensemble (ensemble.json, {PREDICTIONS}, "
            "summary.json), found none"
        )
    try:
        settings = typed(Settings, written["model"])
        split = typed(Split, {k: v for k, v in given(folder, "split", name=str).items() if k != "hash"})
    except (ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{folder}: expected the settings and the split of an ensemble, found: {error}") from None
    data = given(folder, "data", folder=str, labels=dict)
    threshold = given(folder, "ensemble", threshold=float, weights=dict)["threshold"]
    table = written["options"].get("labels")
    return Finished(folder, settings, split, data["labels"], data, threshold, None if table is None else Path(table))


def test_on(folder: Path, options: SiteOptions, *, shuffled: bool) -> Path:
    """Test a finished run on the sites; returns the folder of the results, below the run's.

    shuffled: train its models once more, on labels dealt to other patients, as a control.
    """
    run = read_run(folder)
    sites = sites_of(options, run.labels, synthetic=run.synthetic)
    warn(sites)
    prints = {site.name: {s.id: s.fingerprint() for s in site.subjects} for site in sites}
    labels = {site.name: site.labels for site in sites}
    digest = configuration_hash(sorted(prints.items()), sorted(labels.items()), shuffled)
    place = run.folder / FOLDER / f"{file_stem('+'.join(site.name for site in sites))}-{digest}"
    with Run(place, fresh=options.fresh) as opened:
        if not opened.is_finished:
            _test(run, sites, opened, options, shuffled=shuffled)
    show(place)
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
    for site in sites:
        kept, prepared[site.name] = prepare_site(site, configs, cuts, options)
        usable.append(kept)
    _describe(run, usable, cuts, opened, options, shuffled=shuffled)
    control = shuffled_models(run, opened, options) if shuffled else None
    simple = _simple(run, patients, options, prepared)
    tables = [
        predictions(run, site, prepared[site.name], control, simple[site.name])
        for site in usable
    ]  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    write_csv(opened.folder / PREDICTIONS, table)
    own = run.test()
    judgement = judge(
        Sample(own["ensemble"].to_numpy(), own["label"].to_numpy()), samples(table, "ensemble"), seed=options.split_seed
    )
    report(run, usable, table, own, judgement, opened, options)


def cuts_of(run: Finished, patients: Mapping[str, Patient], options: SiteOptions) -> "dict[str, Cut]":
    """By contrast, how the series of the training part lie."""
    from mgmt_classifier.scans import cut_of

    trained = [patients[id] for id in run.split.train]
    try:
        return {contrast: cut_of(trained, contrast, n_jobs=options.jobs) for contrast in run.settings.models}
    except ValueError as error:
        raise RunError(f"{run.data['folder']}: {error}") from error


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
    text = hashlib.sha256(repr(sorted(names)).encode()).hexdigest()[:16]
    opened.describe(
        config={
            "experiment": EXPERIMENT,
            "run": run.folder.resolve(),
            "options": asdict(options),
            "shuffled": shuffled,
        },
        data={
            "synthetic": run.synthetic or any(site.synthetic for site in sites),
            "fingerprint": text,
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
            options=options,
            config=config,
            split=run.split,
            data={"synthetic": run.synthetic, "folder": run.data["folder"], "labels": dealt},
        )
        for contrast, config in run.settings.models.items()
    ]
    require(run_trainings(trainings, options))
    return folder


def _simple(
    run: Finished, patients: Mapping[str, Patient], options: SiteOptions, prepared: "Mapping[str, Prepared]"
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
    from mgmt_classifier.predict import predict

    parts = {
        contrast: dict(predict(folder / contrast, list(of_patient.values())))
        for contrast, of_patient in entries.items()
    }
    used = {contrast: weight for contrast, weight in weights.items() if weight > 0}
    return parts | {"ensemble": weighted_mean({contrast: parts[contrast] for contrast in used}, used)}


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


def samples(table: pd.DataFrame, column: str) -> dict[str, Sample]:
    """A column's values and the labels, by site."""
    return {
        str(site): Sample(own[column].to_numpy(), own["label"].to_numpy())
        for site, own in table.groupby("site", sort=False)
    }


def report(
    run: Finished,
    sites: Sequence[Site],
    table: pd.DataFrame,
    own: pd.DataFrame,
    judgement: Judgement,
    opened: Run,
    options: SiteOptions,
) -> None:
    """Write every table, picture and sentence, and last of all summary.json."""
    synthetic = {site.name: site.synthetic or run.synthetic for site in sites}
    inside = judgement.inside
    found = [
        Result.of(EXPERIMENT, "inside__auc", inside.auc, inside.n, inside.interval, synthetic=run.synthetic)
    ]  # fmt: skip
    curves = []
    for name, mine in table.groupby("site", sort=False):
        found += site_results(str(name), mine, run.threshold, judgement, synthetic=synthetic[str(name)])
        curve = calibration_curve(mine["ensemble"].to_numpy(), mine["label"].to_numpy())
        curves.append(curve.assign(site=name))
    write_csv(opened.folder / "calibration.csv", pd.concat(curves, ignore_index=True))
    write_csv(opened.folder / "subgroups.csv", subgroups(table))
    write_csv(opened.folder / "counts.csv", pd.DataFrame(counts(sites), columns=["site", "scans", "n"]))
    marked = any(synthetic.values())
    inner = Sample(own["ensemble"].to_numpy(), own["label"].to_numpy())
    external_pictures.draw(opened.figures, {"inside": inner} | samples(table, "ensemble"), curves, synthetic=marked)
    notes = [note for site in sites for note in site.notes if note.startswith(f"{site.name}: ")]
    sentences = [*judgement.sentences, *controls(table, seed=options.split_seed), *notes]
    write_text(opened.folder / "verdicts.txt", "".join(f"{sentence}\n" for sentence in sentences))
    write_json(opened.folder / "summary.json", results.as_rows(found))


def site_results(
    name: str, table: pd.DataFrame, threshold: float, judgement: Judgement, *, synthetic: bool
) -> list[Result]:
    """What a site's patients come to, as lines of summary.json."""

    def line(what: str, value: float, interval: tuple[float, float] = (np.nan, np.nan)) -> Result:
        return Result.of(EXPERIMENT, f"{name}__{what}", float(value), len(table), interval, synthetic=synthetic)

    labels, values = table["label"].to_numpy(), table["ensemble"].to_numpy()
    outside, (change, interval) = judgement.outside[name], judgement.change[name]
    correct = int((predicted_positive(values, threshold) == labels).sum())
    fitted = calibration(values, labels)
    simple = table["baseline"].to_numpy()
    beyond = auc_difference(values, simple, labels)
    found = [
        line("auc", outside.auc, outside.interval),
        line("p", outside.p),
        line("minus_inside__auc", change, interval),
        line("accuracy", correct / len(table), accuracy_interval(correct, len(table))),
        line("brier", fitted.brier),
        line("brier_of_the_share", fitted.chance),
        line("calibration_intercept", fitted.intercept, fitted.intercept_interval),
        line("calibration_slope", fitted.slope, fitted.slope_interval),
        line("baseline__auc", roc_auc(simple, labels), auc_interval(simple, labels)),
        line("minus_baseline__auc", beyond.value, (beyond.low, beyond.high)),
    ]
    parts = [column for column in ("FLAIR", "T1w", "T1wCE", "T2w", "shuffled") if column in table]
    for part in parts:
        known = table[part].to_numpy()
        what = "shuffled_labels__auc" if part == "shuffled" else f"{part}__auc"
        found.append(line(what, roc_auc(known, labels), auc_interval(known, labels)))
    return found


def controls(table: pd.DataFrame, *, seed: int) -> list[str]:
    """What simple features and models of shuffled labels come to, in words."""
    found = []
    for column, what in (("baseline", "Simple features alone"), ("shuffled", "Control with shuffled labels")):
        if column in table:
            judged = judge(None, samples(table, column), seed=seed)
            found += [f"{what}, {site}: {each}: {each.word}." for site, each in judged.outside.items()]
    return found


def subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of the ensemble within groups of sex, age, IDH and scanner: columns site, of, group, n, methylated, auc, low,
    high. nan where a class has fewer than FEWEST patients. What the tables do not say is a group too."""
    old = pd.cut(
        table["age"].astype(float), [-np.inf, OLD, np.inf], right=False, labels=[f"below {OLD}", f"{OLD} or more"]
    )
    facts = table[["sex", "idh", "scanner"]].assign(age=old.astype(object))
    facts = facts.where(facts.notna(), "not known")
    rows = []
    for site in table["site"].unique():
        for of in ("sex", "age", "idh", "scanner"):
            known = facts.loc[table["site"] == site, of]
            for group in sorted(known.unique()):
                mine = table.loc[known.index[known == group]]
                labels, values = mine["label"].to_numpy(), mine["ensemble"].to_numpy()
                ones = int(labels.sum())
                auc, interval = np.nan, (np.nan, np.nan)
                if min(ones, len(mine) - ones) >= FEWEST:
                    auc, interval = roc_auc(values, labels), auc_interval(values, labels)
                rows.append((site, of, group, len(mine), ones, auc, *interval))
    return pd.DataFrame(rows, columns=["site", "of", "group", "n", "methylated", "auc", "low", "high"])


def show(folder: Path) -> None:
    """Print what became of the scans, the table, the subgroups and the verdict."""
    found = results.read_summary(folder / "summary.json")
    tested = pd.read_csv(folder / "counts.csv")
    print(results.aligned([("site", "scans", "n"), *((r.site, r.scans, str(r.n)) for r in tested.itertuples())]))
    print()
    print(results.table(found))
    rows = [("subgroup", "AUC", "95 % interval", "n", "methylated")]
    for each in pd.read_csv(folder / "subgroups.csv").itertuples():
        auc, low, high = (results.finite(number) for number in (each.auc, each.low, each.high))
        interval = "" if low is None else f"{results.short(low)} to {results.short(high)}"
        rows.append(
            (f"{each.site}: {each.of} {each.group}", results.short(auc), interval, str(each.n), str(each.methylated))
        )
    print()
    print(results.aligned(rows))
    print(f"subgroups: as they are, not adjusted for their number; no AUC below {FEWEST} patients of each class")
    print((folder / "verdicts.txt").read_text(encoding="utf-8"), end="")
    if any(each.synthetic for each in found):
        print(results.SYNTHETIC_NOTE)
    print(f"folder: {folder}")

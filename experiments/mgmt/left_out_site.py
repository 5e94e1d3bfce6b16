"""Leave one site out: models trained on all hospitals but one, tested on that one, for each in turn.

The competition's cohort (``--data``, DICOM) and every one of ``--sites`` (NIfTI) are sites. Nothing of the hospital
that is tested has trained or chosen anything: epochs and thresholds are chosen on a fifth of the others, with the same
share of each site and class. The plane and extent of the slices that are cut from NIfTI volumes are the competition's,
also where it is tested: those of its series' headers, whatever their labels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common import splits
from common.baselines import baseline_probabilities
from common.dicom.mgmt_cohort import MgmtCohort
from common.files import write_csv
from common.runs import Run, RunError, configuration_hash
from common.splits import Split
from common.transport import judge
from experiments.base.engines import run as run_trainings
from experiments.base.options import Refused, leave_out
from experiments.base.progress import begin, step
from experiments.base.trainings import require
from experiments.mgmt.ensemble import Settings
from experiments.mgmt.external_results import EXPERIMENT, Tested, report, samples, show
from experiments.mgmt.nested import shuffle
from experiments.mgmt.patients import find_cohort, labelled, prepare_patients
from experiments.mgmt.phantoms import phantom_site
from experiments.mgmt.pooled import DEFAULT_CUT, pooled_id, site_in_data
from experiments.mgmt.simple import simple_features
from experiments.mgmt.sites import Prepared, Site, SiteOptions, counts, facts, prepare_site, read_site, read_sites, warn
from experiments.mgmt.study import PREDICTIONS, fitted, model_training
from mgmt_classifier.ensemble import weighted_mean

if TYPE_CHECKING:
    from mgmt_classifier.scans import Cut

COMPETITION = "competition"
"""Name of the site of --data."""
FRACTIONS = (0.8, 0.2, 0.0)
"""Of the other sites' patients, to train and to validate."""
FEWEST_SITES = 2


@dataclass(frozen=True)
class Pool:
    """Patients of all sites by an id that is one in all of them. entries: prepared images, by contrast and id; labels,
    site: by id; sites: those of NIfTI; cohort: of DICOM, where there is one; left_out: ids of its others, by reason;
    cuts: by contrast."""

    entries: Prepared
    labels: dict[str, int]
    site: dict[str, str]
    sites: tuple[Site, ...]
    cohort: MgmtCohort | None
    left_out: Mapping[str, Sequence[str]]
    cuts: "Mapping[str, Cut]"
    synthetic: dict[str, bool]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.site.values()))

    def of(self, name: str) -> list[str]:
        """Ids of a site's patients, sorted."""
        return sorted(id for id, site in self.site.items() if site == name)

    def split(self, name: str, *, seed: int) -> Split:
        """Everybody of the site tested; of the others four fifths train. Raises Refused where a class is too small."""
        others = [id for id in self.labels if self.site[id] != name]
        # a class is a site's share of one status
        classes = {id: 2 * self.names.index(self.site[id]) + self.labels[id] for id in others}
        try:
            drawn = splits.split_stratified(classes, fractions=FRACTIONS, seed=seed)
        except ValueError as error:
            raise Refused(f"without {name}: {error}") from error
        return Split(f"without_{name}_seed{seed}", drawn.train, drawn.validation, tuple(self.of(name)))


def run(options: SiteOptions, settings: Settings, *, shuffled: bool) -> Path:
    """Train and test every site in turn, and show what came of it; returns the run's folder."""
    with step(1):
        pool = gather(options, settings)
    parts = {name: pool.split(name, seed=options.split_seed) for name in pool.names}
    hashes = sorted(split.hash for split in parts.values())
    digest = configuration_hash(
        settings, sorted(pool.labels.items()), hashes, _prints(pool), options.split_seed, shuffled
    )
    folder = options.runs / EXPERIMENT / f"{options.preset}-left_out_site-{'+'.join(pool.names)}-{digest}"
    with Run(folder, fresh=options.fresh) as opened:
        if not opened.is_finished:
            config = {"experiment": EXPERIMENT, "protocol": "leave-one-site-out", "options": asdict(options)}
            described = _data(pool, pool.labels)
            opened.describe(
                config=config | {"model": asdict(settings)},
                data=described,
                split={name: split.as_dict() for name, split in parts.items()},
            )
            opened.close()  # the trainings have locks of their own
            _test(pool, parts, opened, options, settings, shuffled=shuffled)
    show(folder, below=False)
    return folder


def gather(options: SiteOptions, settings: Settings) -> Pool:
    """All sites' patients, prepared. Raises Refused when there are fewer than two, or somebody cannot be used."""
    from mgmt_classifier import scans

    cohort, entries, labels, site, synthetic = None, {c: {} for c in settings.models}, {}, {}, {}
    left_out = {}
    cuts = dict.fromkeys(settings.models, DEFAULT_CUT)
    embedded = options.data is None and not options.sites
    if options.data is not None or embedded:
        cohort = find_cohort(options)
        patients, doubtful = labelled(cohort, options)
        recipes = {contrast: config.recipe for contrast, config in settings.models.items()}
        stores, problems = prepare_patients(patients, recipes.values(), options)
        entries = {contrast: dict(stores[recipe].entries) for contrast, recipe in recipes.items()}
        out = leave_out(problems, cohort.folder, allowed=options.leave_out_bad, who="patient")
        left_out = {reason: ids for reason, ids in (("doubtful", doubtful), ("cannot be used", out)) if ids}
        kept = [patient for patient in patients if patient.id not in out]
        labels = {patient.id: patient.label for patient in kept}
        site, synthetic = dict.fromkeys(labels, COMPETITION), {COMPETITION: embedded}
        try:
            cuts = {contrast: scans.cut_of(kept, contrast, n_jobs=options.jobs) for contrast in settings.models}
        except ValueError as error:
            raise Refused(f"{cohort.folder}: {error}") from error
    known = set() if embedded else set(labels)
    sites = read_sites(options, known)
    if embedded:
        sites = [read_site("phantoms", phantom_site(options), None, options, known=known, overlap={})]
    names = [*synthetic, *(each.name for each in sites)]
    if len(set(names)) < max(FEWEST_SITES, len(names)):
        raise Refused(f"expected two sites or more, each with a name of its own, found {', '.join(names) or 'none'}")
    warn(sites)
    usable = []
    for each in sites:
        own, prepared = prepare_site(each, settings.models, cuts, options)
        usable.append(own)
        synthetic[own.name] = own.synthetic
        labels |= {pooled_id(own.name, id): label for id, label in own.labels.items()}
        site |= {pooled_id(own.name, id): own.name for id in own.labels}
        for contrast, of_patient in prepared.items():
            entries[contrast] |= {pooled_id(own.name, id): entry for id, entry in of_patient.items()}
    return Pool(entries, labels, site, tuple(usable), cohort, left_out, cuts, synthetic)


def _prints(pool: Pool) -> list:
    """What changes with any scan, and with what is known of anybody."""
    prints: list = [facts(pool.sites), pool.left_out]
    if pool.cohort is not None:
        used = [patient for patient in pool.cohort.patients if patient.id in pool.labels]
        prints += [patient.fingerprint(contrast) for patient in used for contrast in pool.entries]
    return prints


def _data(pool: Pool, labels: Mapping[str, int]) -> dict[str, object]:
    """A training's data.json: where everybody lies. Labels of both kinds of patients are by the pool's ids."""
    return {
        "synthetic": any(pool.synthetic.values()),
        "folder": None if pool.cohort is None else pool.cohort.folder.resolve(),
        "labels": dict(labels),
        "sites": {site.name: site_in_data(site.folder, pool.cuts) for site in pool.sites},
        "left_out": {COMPETITION: pool.left_out} | {site.name: site.left_out for site in pool.sites},
    }


def _test(
    pool: Pool, parts: Mapping[str, Split], opened: Run, options: SiteOptions, settings: Settings, *, shuffled: bool
) -> None:
    dealt = {"": pool.labels} | ({"shuffled_": shuffle(pool.labels, seed=options.split_seed)} if shuffled else {})
    trainings = [
        model_training(
            f"{prefix}without_{name}/{contrast}",
            opened.folder / f"{prefix}without_{name}" / contrast,
            experiment=EXPERIMENT,
            options=options,
            config=config,
            split=split,
            data=_data(pool, labels),
        )
        for prefix, labels in dealt.items()
        for name, split in parts.items()
        for contrast, config in settings.models.items()
    ]
    with step(3):
        require(run_trainings(trainings, options))
    begin(4)
    tables, thresholds = [], {}
    for name, split in parts.items():
        own, thresholds[name] = together(opened.folder / f"without_{name}", settings)
        table = own.assign(site=name, label=[pool.labels[id] for id in own["id"]])
        if shuffled:
            table["shuffled"] = together(opened.folder / f"shuffled_without_{name}", settings)[0]["ensemble"]
        table["baseline"] = _simple(pool, split)
        tables.append(_with_facts(table, pool))
    table = pd.concat(tables, ignore_index=True)
    write_csv(opened.folder / PREDICTIONS, table)
    judgement = judge(None, samples(table, "ensemble"), seed=options.split_seed)
    tested = Tested(
        table=table,
        thresholds=thresholds,
        synthetic=pool.synthetic,
        counts=_counts(pool),
        notes=[note for site in pool.sites for note in site.notes if note.startswith(f"{site.name}: ")],
    )
    report(tested, None, judgement, opened, seed=options.split_seed)


def together(folder: Path, settings: Settings) -> tuple[pd.DataFrame, float]:
    """Probabilities of the site that the models below a folder have not seen: columns id, one per contrast, ensemble;
    and their mean threshold."""
    models = {contrast: fitted(folder / contrast) for contrast in settings.models}
    table = next(iter(models.values())).test[["id"]].copy()
    parts = {}
    for contrast, model in models.items():
        parts[contrast] = dict(zip(model.test["id"], model.test["probability"], strict=True))
        table[contrast] = table["id"].map(parts[contrast])
    try:
        mean = weighted_mean(parts, settings.weights)
    except ValueError as error:
        raise RunError(f"{folder}: {error}; --fresh starts over") from error
    return table.assign(ensemble=table["id"].map(mean)), float(np.mean([model.threshold for model in models.values()]))


def _simple(pool: Pool, split: Split) -> np.ndarray:
    known = [*split.train, *split.validation]
    labels = np.array([pool.labels[id] for id in known])
    return baseline_probabilities(
        simple_features(pool.entries, known), labels, simple_features(pool.entries, sorted(split.test))
    )


def _with_facts(table: pd.DataFrame, pool: Pool) -> pd.DataFrame:
    """The table with what the sites' clinical tables say."""
    said = {pooled_id(site.name, id): facts for site in pool.sites for id, facts in site.clinical.items()}
    for fact in ("sex", "age", "idh", "scanner"):
        table[fact] = [getattr(said.get(id), fact, None) for id in table["id"]]
    return table


def _counts(pool: Pool) -> Sequence[tuple[str, str, int]]:
    rows = []
    if pool.cohort is not None:
        found = Counter(pool.labels[id] for id in pool.of(COMPETITION))
        rows = [(COMPETITION, "tested, methylated", found[1]), (COMPETITION, "tested, unmethylated", found[0])]
        rows += [(COMPETITION, f"left out: {reason}", len(ids)) for reason, ids in pool.left_out.items()]
    return [*rows, *counts(pool.sites)]

"""Cohorts of other hospitals: NIfTI scans with a clinical table, and which of their patients can be tested.

UCSF-PDGM and UPENN-GBM have given patients to the RSNA-MICCAI competition: of 501 scans of UCSF-PDGM, 298 are in BraTS
2021 under another number. Whoever is in the training cohort is found by the tables and left out.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.cohort import find_subjects
from common.cohort.clinical_table import UPENN, Clinical, Table, find_table, is_later, read_clinical, read_mapping
from common.phantom.folder import embedded_cohort
from common.subject import Problem, Subject
from experiments.base.options import Refused, leave_out
from experiments.mgmt.options import MgmtOptions

if TYPE_CHECKING:
    from mgmt_classifier.config import Config
    from mgmt_classifier.data import Entry
    from mgmt_classifier.scans import Cut

Prepared = Mapping[str, Mapping[str, "Entry"]]
"""Prepared images by contrast and patient's id."""
LATER, FURTHER, NO_ROW = (
    "scanned after the first operation or at a follow-up",
    "further scan of a patient",
    "not in table",
)
SEEN = "patient of the training cohort"


@dataclass(frozen=True, kw_only=True)
class SiteOptions(MgmtOptions):
    """Which other cohorts there are, and who of them is tested."""

    sites: tuple[str, ...] = ()
    """NAME=FOLDER of other hospitals' scans (NIfTI: UCSF-PDGM, UPENN-GBM, BraTS ...); phantoms have their own."""
    tables: tuple[str, ...] = ()
    """NAME=CSV of a site's clinical table, where it does not lie in or above the site's folder."""
    overlap: Path | None = None
    """BraTS2021_MappingToTCIA as CSV: which patients of a site are in the training cohort, if its table is silent."""
    idh_wildtype: bool = False
    """Test patients with IDH-wildtype gliomas only: IDH-mutant ones are mostly methylated, and look different."""


@dataclass(frozen=True)
class Site:
    """A hospital's cohort. clinical: of those to be tested, by subject's id; left_out: ids of the others, by reason.

    notes: what its user should know. synthetic: embedded phantoms.
    """

    name: str
    folder: Path
    subjects: tuple[Subject, ...]
    table: Table
    clinical: Mapping[str, Clinical]
    left_out: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    problems: tuple[Problem, ...] = field(default=())

    @property
    def labels(self) -> dict[str, int]:
        """MGMT status of those to be tested: 1 methylated, 0 not."""
        return {id: said.mgmt for id, said in self.clinical.items() if said.mgmt is not None}

    def without(self, problems: Sequence[Problem]) -> "Site":
        """The same site less the subjects with problems. Raises Refused where a class has none left."""
        bad = {problem.subject for problem in problems}
        kept = {id: said for id, said in self.clinical.items() if id not in bad}
        lost = tuple(id for id in self.clinical if id in bad)
        found = Site(
            **vars(self)
            | {
                "subjects": tuple(subject for subject in self.subjects if subject.id not in bad),
                "clinical": kept,
                "left_out": {**self.left_out, **({"cannot be used": lost} if lost else {})},
            }
        )
        counts = Counter(found.labels.values())
        if min(counts[0], counts[1]) < 2:
            reasons = "; ".join(f"{len(ids)} {reason}" for reason, ids in found.left_out.items()) or "nobody"
            raise Refused(
                f"{self.folder}: expected two methylated and two unmethylated patients or more, found {counts[1]} and "
                f"{counts[0]}; left out: {reasons}"
            )
        return found


def named(words: Sequence[str], option: str) -> dict[str, Path]:
    """NAME=PATH words as a mapping. Raises Refused for a word of another form, or a name that comes twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (equals and path and name.replace("-", "").replace("_", "").isalnum()) or name in found:
            raise Refused(
                f"--{option}: expected NAME=PATH, each name once, in letters, digits, - and _; found {word!r}"
            )
        found[name] = Path(path)
    return found


def places(options: SiteOptions) -> dict[str, tuple[Path, Path | None]]:
    """Folder and table of each site, as the options name them. Raises Refused."""
    folders, tables = named(options.sites, "sites"), named(options.tables, "tables")
    if unknown := sorted(set(tables) - set(folders)):
        raise Refused(f"--tables: expected names of --sites ({', '.join(folders) or 'none'}), found {unknown[0]}")
    return {name: (folder, tables.get(name)) for name, folder in folders.items()}


def read_sites(options: SiteOptions, known: AbstractSet[str]) -> list[Site]:
    """The sites that the options name.

    known: numbers in the competition of the training cohort's patients. Raises Refused, also where two sites share
    a patient, and CohortError.
    """
    overlap = {} if options.overlap is None else read_mapping(options.overlap)
    sites = [
        read_site(name, folder, table, options, known=known, overlap=overlap)
        for name, (folder, table) in places(options).items()
    ]
    owners: dict[object, str] = {}
    for site in sites:
        for subject in site.subjects:
            said = site.clinical[subject.id]
            shared = {
                f"the scans of {subject.id}": subject.fingerprint(),
                f"the row {said.id} of {site.table.path}": (site.table.path.resolve(), said.id),
            }
            shared |= {
                f"{subject.id}, number {number} of BraTS 2021,": number for number in _numbers(subject, said, overlap)
            }
            for what, mark in shared.items():
                if (other := owners.setdefault(mark, site.name)) != site.name:
                    raise Refused(f"{site.name}: expected patients of no other site, found {what} in {other} too")
    return sites


def read_site(
    name: str,
    folder: Path,
    table: Path | None,
    options: SiteOptions,
    *,
    known: AbstractSet[str],
    overlap: Mapping[str, AbstractSet[str]],
) -> Site:
    """One site: its subjects with a known MGMT status, one scan of each patient, nobody of the training cohort.

    overlap: numbers in the competition, by patient. Raises Refused where a class is missing, CohortError where the
    folder or its table cannot be read.
    """
    cohort = find_subjects(folder, masks=False)
    read = read_clinical(table or find_table(folder))
    clinical: dict[str, Clinical] = {}
    left_out: dict[str, list[str]] = {}
    patients: set[str] = set()
    for subject in cohort.subjects:
        said = read.scans.get(subject.id) or read.scans.get(subject.patient)
        reason = _reason(subject, said, patients, options, known, overlap)
        if reason is None and said is not None:
            clinical[subject.id] = said
            patients.add(subject.patient)
        else:
            left_out.setdefault(reason or NO_ROW, []).append(subject.id)
    if left_out.get(NO_ROW) and not clinical and len(left_out) == 1:
        raise Refused(
            f"{read.path}: expected a row for each scan of {folder}, such as {cohort.subjects[0].id}, found "
            f"{next(iter(read.scans))} and others only"
        )
    notes = list(cohort.notes)
    if not (read.says_brats21 or overlap) and known:
        hint = " (UPENN-GBM has given patients to it)" if read.collection == UPENN else ""
        notes.append(f"{name}: nothing says which of its patients are in the training cohort{hint}; --overlap would")
    if SEEN in left_out:
        notes.append(
            f"{name}: {len(left_out[SEEN])} of its patients are in the training cohort and are left out: the networks "
            "know this hospital's scanners"
        )
    if mutants := sum(said.idh == "mutant" for said in clinical.values()):
        notes.append(
            f"{name}: {mutants} of {len(clinical)} gliomas are IDH-mutant, most of which are methylated and look "
            "different: an AUC over all may come from IDH; --idh-wildtype leaves them out"
        )
    subjects = tuple(subject for subject in cohort.subjects if subject.id in clinical)
    first = next(iter(cohort.subjects[0].images.values()))
    site = Site(
        name,
        folder,
        subjects,
        read,
        clinical,
        {reason: tuple(ids) for reason, ids in left_out.items()},
        tuple(notes),
        embedded_cohort(first) is not None,
        cohort.incomplete,
    )
    return site.without(())


def _reason(
    subject: Subject,
    said: Clinical | None,
    patients: AbstractSet[str],
    options: SiteOptions,
    known: AbstractSet[str],
    overlap: Mapping[str, AbstractSet[str]],
) -> str | None:
    """Why a subject is not tested; None where it is."""
    if is_later(subject.id):
        return LATER
    if said is None:
        return NO_ROW
    if said.mgmt is None:
        return f"MGMT status: {said.mgmt_said}"
    if options.idh_wildtype and said.idh != "wildtype":
        return f"IDH: {said.idh or 'not known'}"
    if known & _numbers(subject, said, overlap):
        return SEEN
    return FURTHER if subject.patient in patients else None


def _numbers(subject: Subject, said: Clinical, overlap: Mapping[str, AbstractSet[str]]) -> set[str]:
    """A patient's numbers in BraTS 2021, as far as table and mapping say."""
    own = {said.brats21_id} if said.brats21_id else set()
    return own | overlap.get(subject.patient, set()) | overlap.get(subject.id, set())


def prepare_site(
    site: Site, configs: "Mapping[str, Config]", cuts: "Mapping[str, Cut]", options: SiteOptions
) -> tuple[Site, Prepared]:
    """The site without those who cannot be prepared, and the prepared images of the others, by contrast and id.

    Raises Refused where somebody cannot be used and nobody may be left out.
    """
    from mgmt_classifier import scans

    stores = {
        contrast: scans.prepare(
            site.subjects,
            scans.ScanRecipe(slices=config.recipe, cut=cuts[contrast]),
            options.prepared,
            n_jobs=options.jobs,
        )
        for contrast, config in configs.items()
    }
    problems = list(dict.fromkeys([*site.problems, *(p for store in stores.values() for p in store.problems)]))
    leave_out(problems, site.folder, allowed=options.leave_out_bad, who="subject", of=f"of {len(site.subjects)} ")
    kept = site.without(problems)
    ids = sorted(kept.clinical)
    return kept, {contrast: {id: store.entries[id] for id in ids} for contrast, store in stores.items()}


def facts(sites: Sequence[Site]) -> dict[str, object]:
    """What a result on these sites depends on, by site: the scans, and what the tables say of everybody."""
    return {site.name: ({s.id: s.fingerprint() for s in site.subjects}, site.clinical, site.left_out) for site in sites}


def counts(sites: Sequence[Site]) -> list[tuple[str, str, int]]:
    """Site, what has become of its scans, and how many."""
    rows = []
    for site in sites:
        labels = Counter(site.labels.values())
        rows += [(site.name, "tested, methylated", labels[1]), (site.name, "tested, unmethylated", labels[0])]
        rows += [(site.name, f"left out: {reason}", len(ids)) for reason, ids in sorted(site.left_out.items())]
        if site.problems:
            incomplete = len({problem.subject for problem in site.problems})
            rows.append((site.name, "left out: files missing or ambiguous", incomplete))
    return rows


def warn(sites: Sequence[Site]) -> None:
    """Say the sites' notes."""
    for site in sites:
        for note in site.notes:
            print(f"note: {note}", file=sys.stderr)

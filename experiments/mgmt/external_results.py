"""What a test on patients of other hospitals comes to: results, subgroups, controls, pictures, and the words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.calibration import calibration, calibration_curve
from common.classification import accuracy_interval, auc_difference, auc_interval, predicted_positive, roc_auc
from common.files import write_csv, write_json, write_text
from common.runs import Run
from common.transport import Judgement, Sample, judge
from experiments.base import results
from experiments.base.ending import end
from experiments.base.results import Result
from experiments.mgmt.meanings import meanings

EXPERIMENT = "mgmt_external"
OLD = 60  # years, the border between the two groups of the table
FEWEST = 5
"""Patients of each class that a subgroup must have for its AUC to be shown."""
PARTS = ("FLAIR", "T1w", "T1wCE", "T2w", "shuffled")


def samples(table: pd.DataFrame, column: str) -> dict[str, Sample]:
    """A column's values and the labels, by site."""
    return {
        str(site): Sample(own[column].to_numpy(), own["label"].to_numpy())
        for site, own in table.groupby("site", sort=False)
    }


@dataclass(frozen=True)
class Tested:
    """Patients of other hospitals and what was predicted of them.

    table: a row each: site, id, label, probabilities by contrast, ensemble, baseline, perhaps shuffled, and sex, age,
    idh, scanner. thresholds: above which a probability means methylated, by site. counts: site, what has become of its
    scans, how many. notes: what the reader should know of the sites. trained_on_phantoms: the run, and so its own test.
    """

    table: pd.DataFrame
    thresholds: Mapping[str, float]
    synthetic: Mapping[str, bool]
    counts: Sequence[tuple[str, str, int]]
    notes: Sequence[str]
    trained_on_phantoms: bool = False


def report(tested: Tested, inside: Sample | None, judgement: Judgement, opened: Run, *, seed: int) -> None:
    """Write every table, picture and sentence, and last of all summary.json. inside: the internal test part."""
    from experiments.mgmt import external_pictures  # and with it the plotting library

    found, curves, table = [], [], tested.table
    marked = any(tested.synthetic.values())
    if judgement.inside is not None:
        own = judgement.inside
        found.append(
            Result.of(EXPERIMENT, "inside__auc", own.auc, own.n, own.interval, synthetic=tested.trained_on_phantoms)
        )
    for name, mine in table.groupby("site", sort=False):
        site = str(name)
        found += site_results(site, mine, tested.thresholds[site], judgement, synthetic=tested.synthetic[site])
        curve = calibration_curve(mine["ensemble"].to_numpy(), mine["label"].to_numpy())
        curves.append(curve.assign(site=site))
    write_csv(opened.folder / "calibration.csv", pd.concat(curves, ignore_index=True))
    write_csv(opened.folder / "subgroups.csv", subgroups(table))
    write_csv(opened.folder / "counts.csv", pd.DataFrame(tested.counts, columns=["site", "scans", "n"]))
    drawn = {} if inside is None else {"inside": inside}
    external_pictures.draw(opened.figures, drawn | samples(table, "ensemble"), curves, synthetic=marked)
    sentences = [*judgement.sentences, *controls(table, seed=seed), *tested.notes]
    write_text(opened.folder / "verdicts.txt", "".join(f"{sentence}\n" for sentence in sentences))
    write_json(opened.folder / "summary.json", results.as_rows(found))


def site_results(
    name: str, table: pd.DataFrame, threshold: float, judgement: Judgement, *, synthetic: bool
) -> list[Result]:
    """What a site's patients come to, as lines of summary.json."""

    def line(what: str, value: float, interval: tuple[float, float] = (np.nan, np.nan)) -> Result:
        return Result.of(EXPERIMENT, f"{name}__{what}", float(value), len(table), interval, synthetic=synthetic)

    labels, values = table["label"].to_numpy(), table["ensemble"].to_numpy()
    outside = judgement.outside[name]
    correct = int((predicted_positive(values, threshold) == labels).sum())
    fitted = calibration(values, labels)
    simple = table["baseline"].to_numpy()
    beyond = auc_difference(values, simple, labels)
    found = [
        line("auc", outside.auc, outside.interval),
        line("p", outside.p),
        line("accuracy", correct / len(table), accuracy_interval(correct, len(table))),
        line("brier", fitted.brier),
        line("brier_of_the_share", fitted.chance),
        line("calibration_intercept", fitted.intercept, fitted.intercept_interval),
        line("calibration_slope", fitted.slope, fitted.slope_interval),
        line("baseline__auc", roc_auc(simple, labels), auc_interval(simple, labels)),
        line("minus_baseline__auc", beyond.value, (beyond.low, beyond.high)),
    ]
    if name in judgement.change:
        found.insert(2, line("minus_inside__auc", *judgement.change[name]))
    for part in (column for column in PARTS if column in table):
        known = table[part].to_numpy()
        what = "shuffled_labels__auc" if part == "shuffled" else f"{part}__auc"
        found.append(line(what, roc_auc(known, labels), auc_interval(known, labels)))
    return found


def controls(table: pd.DataFrame, *, seed: int) -> list[str]:
    """What simple features and models of shuffled labels come to, in words."""
    judged = judge(None, samples(table, "baseline"), seed=seed)
    found = [f"Simple features alone, {site}: {each}: {each.word}." for site, each in judged.outside.items()]
    if "shuffled" in table:
        for site, sample in samples(table, "shuffled").items():
            low, high = auc_interval(sample.values, sample.labels)
            auc = roc_auc(sample.values, sample.labels)
            found.append(
                f"Control with shuffled labels, {site}: AUC {auc:.3f} (95 % interval {low:.3f} to {high:.3f})."
            )
        found.append(
            "Shuffled labels are one dealing: such a model ranks by whatever it hits upon, in either direction; where "
            "there is a strong signal its AUC lies far from 0.5 more often than the interval says."
        )
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


def show(folder: Path, *, below: bool) -> None:
    """Print what became of the scans, the table, the subgroups and the verdict. below: as of :func:`end`."""
    found = results.read_summary(folder / "summary.json")
    tested = pd.read_csv(folder / "counts.csv")
    rows = [("subgroup", "AUC", "95 % interval", "n", "methylated")]
    for each in pd.read_csv(folder / "subgroups.csv").itertuples():
        auc, low, high = (results.finite(number) for number in (each.auc, each.low, each.high))
        interval = "" if low is None else f"{results.short(low)} to {results.short(high)}"
        rows.append(
            (f"{each.site}: {each.of} {each.group}", results.short(auc), interval, str(each.n), str(each.methylated))
        )
    end(
        EXPERIMENT,
        folder,
        results.aligned([("site", "scans", "n"), *((r.site, r.scans, str(r.n)) for r in tested.itertuples())]),
        f"\n{results.table(found)}",
        *meanings(found),
        f"\n{results.aligned(rows)}",
        f"subgroups: as they are, not adjusted for their number; no AUC below {FEWEST} patients of each class",
        (folder / "verdicts.txt").read_text(encoding="utf-8").rstrip("\n"),
        notes=[results.SYNTHETIC_NOTE] if any(each.synthetic for each in found) else [],
        below=below,
    )

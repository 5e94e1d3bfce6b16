"""What a classifier's success inside one cohort is worth outside it: the verdict on an external test, in words.

An internal test shares everything with its training that a hospital has of its own: scanners, protocols, who is scanned
on which. A model may live on that and know nothing of the tumour; only patients of other hospitals tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.classification import auc_change, auc_interval, roc_auc, two_sided_p
from common.statistics import Interval, holm
from common.words import p_value

Word = Literal["better than chance", "cannot be told from chance", "worse than chance"]
CHANCE: Word = "cannot be told from chance"


@dataclass(frozen=True)
class Sample:
    """Values of patients, (n,), the higher the more likely of class 1, and their labels, (n,) of 0 and 1."""

    values: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """An AUC, its 95 % interval, its two-sided permutation p, adjusted (Holm) for the number of sites, and its word."""

    auc: float
    interval: Interval
    p: float
    word: Word
    n: int

    def __str__(self) -> str:
        low, high = self.interval
        p = p_value(self.p, named=True)
        return f"AUC {self.auc:.3f} (95 % interval {low:.3f} to {high:.3f}, {self.n} patients, {p})"


@dataclass(frozen=True)
class Judgement:
    """inside: of the test part of the training cohort; outside: of each site; change: outside less inside, by site.

    word: of the study as a whole. sentences: the verdict.
    """

    inside: Estimate | None
    outside: Mapping[str, Estimate]
    change: Mapping[str, tuple[float, Interval]]
    word: Word
    sentences: tuple[str, ...]


def judge(
    inside: Sample | None,
    outside: Mapping[str, Sample],
    *,
    seed: int,
    level: float = 0.05,
    n_permutations: int = 10_000,
) -> Judgement:
    """Compare what a model reaches inside and outside, and say which to believe.

    inside: None where nothing was tested in the training cohort (leave-one-site-out). outside: by site. A site's AUC is
    better (or worse) than chance where its two-sided permutation p, adjusted for the number of sites, is at most
    ``level``, and so is the study as a whole where one site's is: without any signal 1 - level of all studies cannot be
    told from chance. Raises ValueError when a sample lacks a class or its values are not finite.
    """
    if not outside:
        raise ValueError("expected at least one site, received none")
    raw = [two_sided_p(s.values, s.labels, seed=seed, n_permutations=n_permutations) for s in outside.values()]
    adjusted = holm(np.array(raw))
    sites = {
        name: _estimate(sample, float(p), level) for (name, sample), p in zip(outside.items(), adjusted, strict=True)
    }
    own, change = None, {}
    if inside is not None:
        p = two_sided_p(inside.values, inside.labels, seed=seed, n_permutations=n_permutations)
        own = _estimate(inside, p, level)
        first = (inside.values, inside.labels)
        change = {name: auc_change(first, (s.values, s.labels)) for name, s in outside.items()}
    sentences = [] if own is None else [f"Inside, on patients of the training cohort: {own}: {own.word}."]
    for name, found in sites.items():
        sentences.append(f"Outside, {name}: {found}: {found.word}.")
        if own is not None:
            sentences.append(_compared(name, own, found, *change[name]))
    words = {found.word for found in sites.values()}
    word: Word = CHANCE
    if "better than chance" in words:
        word = "better than chance"
    elif "worse than chance" in words:
        word = "worse than chance"
    if len(sites) > 1:
        many = f"p is adjusted for {len(sites)} sites (Holm)"
        where = "" if word == CHANCE else " in at least one of them"
        sentences.append(f"All sites together: {word}{where}; {many}.")
    return Judgement(own, sites, change, word, tuple(sentences))


def _estimate(sample: Sample, p: float, level: float) -> Estimate:
    auc = roc_auc(sample.values, sample.labels)
    word: Word = CHANCE
    if p <= level:
        word = "better than chance" if auc > 0.5 else "worse than chance"
    return Estimate(auc, auc_interval(sample.values, sample.labels), p, word, len(sample.labels))


def _compared(name: str, inside: Estimate, outside: Estimate, change: float, interval: Interval) -> str:
    low, high = interval
    difference = f"{name} less inside: {change:+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
    if outside.word == "worse than chance":
        return f"{difference}. The order is reversed there: are the site's labels coded the other way round?"
    if outside.word == "better than chance":
        if high < 0:
            return f"{difference}. The signal holds, but weaker than inside: believe the external estimate."
        return f"{difference}. The signal holds outside: report the external estimate."
    if inside.word != "better than chance":
        return f"{difference}. Neither inside nor outside is there a signal that could be told from chance."
    if high < 0:
        return (
            f"{difference}. Believe the external estimate, not the internal one: what the model found inside is lost "
            f"outside, where its AUC is {outside.interval.high:.3f} at most, as when it has learned something of that "
            "cohort (scanners, protocols, who is scanned where) and not the tumour's status."
        )
    return (
        f"{difference}. Undecided: outside it cannot be told from chance, but not from the internal estimate either. "
        "The internal one is not borne out; more patients outside would tell."
    )

"""The verdict on an external test over simulated studies: its false alarms, the trap of a confounder, and its words."""

import numpy as np
import pytest
from scipy import stats

from common.transport import CHANCE, Sample, judge


def sample(rng, auc, n):
    """Binormal values of n patients of each class, with a true AUC."""
    labels = np.repeat([0, 1], n)
    return Sample(rng.normal(size=2 * n) + np.sqrt(2) * stats.norm.ppf(auc) * labels, labels)


def studies(n, inside, outside, *, seed, n_permutations=500):
    rng = np.random.default_rng(seed)
    return [
        judge(
            sample(rng, inside, 30),
            {f"site {place}": sample(rng, auc, 45) for place, auc in enumerate(outside)},
            seed=number,
            n_permutations=n_permutations,
        )
        for number in range(n)
    ]


def share(judged, words):
    return np.mean([words in " ".join(each.sentences) for each in judged])


def test_without_an_effect_nineteen_of_twenty_studies_cannot_be_told_from_chance():
    """The reduced number: 3 standard errors of 120 studies are 6 %."""
    judged = studies(120, 0.5, [0.5], seed=11)
    assert np.mean([each.word == CHANCE for each in judged]) > 0.89
    assert share(judged, "Believe the external") < 0.06


@pytest.mark.slow
def test_without_an_effect_95_percent_of_400_studies():
    judged = studies(400, 0.5, [0.5], seed=1, n_permutations=2000)
    assert 0.93 <= np.mean([each.word == CHANCE for each in judged]) <= 0.97
    assert share(judged, "Believe the external estimate, not") < 0.03


@pytest.mark.slow
def test_two_sites_raise_no_more_false_alarms_than_one():
    judged = studies(400, 0.5, [0.5, 0.5], seed=2, n_permutations=2000)
    assert np.mean([each.word == CHANCE for each in judged]) >= 0.93


def test_a_confounder_is_found_out():
    judged = studies(40, 0.9, [0.5], seed=5)
    assert share(judged, "Believe the external estimate, not the internal one") > 0.85
    assert share(judged, "The signal holds") < 0.15


def test_a_signal_that_holds_is_said_to_hold():
    judged = studies(40, 0.85, [0.85], seed=6)
    assert share(judged, "The signal holds outside: report the external estimate") > 0.9
    weaker = studies(10, 0.99, [0.72], seed=7)
    assert share(weaker, "holds, but weaker than inside: believe the external") > 0.7


def test_the_words_of_every_other_case():
    rng = np.random.default_rng(2)
    values = np.arange(40.0)
    good = Sample(values, (values >= 20).astype(int))
    few = Sample(np.array([0.0, 1, 2, 3, 4, 5]), np.array([0, 1, 0, 1, 0, 1]))
    reversed_ = Sample(-values, good.labels)
    undecided = judge(sample(rng, 0.75, 40), {"few": few}, seed=0)
    assert "Undecided" in undecided.sentences[-1]
    assert undecided.word == CHANCE
    assert "coded the other way round" in judge(good, {"odd": reversed_}, seed=0).sentences[-1]
    nothing = judge(few, {"a": few, "b": sample(rng, 0.5, 20)}, seed=0)
    assert "Neither inside nor outside" in nothing.sentences[2]
    assert "adjusted for 2 sites (Holm)" in nothing.sentences[-1]
    alone = judge(None, {"a": good}, seed=0)
    assert (alone.inside, alone.change, alone.word) == (None, {}, "better than chance")
    with pytest.raises(ValueError, match="at least one site"):
        judge(good, {}, seed=0)


def test_p_is_adjusted_for_the_number_of_sites():
    rng = np.random.default_rng(4)
    one = sample(rng, 0.66, 40)
    alone = judge(None, {"a": one}, seed=1).outside["a"].p
    among = judge(None, {"a": one, **{str(k): sample(rng, 0.5, 40) for k in range(3)}}, seed=1).outside["a"].p
    assert among == pytest.approx(4 * alone)

"""The statistics of seeds, on data whose answer is known."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from modprop_jax.experiments import paired_differences
from modprop_jax.experiments._statistics import (
    centre,
    holm,
    interval,
    p_value,
    power,
    seeds_needed,
    time_to_criterion,
)


def t_test(differences) -> Any:
    """p of each row."""
    found: Any = stats.ttest_1samp(differences, 0, axis=-1)
    return found.pvalue


def of_pairs(pairs, *names) -> Any:
    return np.array([[getattr(pair, name) for name in names] for pair in pairs], float)


def alike(rng, rules, seeds, tables):
    """Rules that differ by chance alone, on seeds that differ a lot: (tables, rules, seeds)."""
    of_seed = rng.normal(size=(tables, 1, seeds), scale=5)
    return of_seed + rng.normal(size=(tables, rules, seeds))


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_cover_a_known_difference_as_often_as_documented(seeds):
    """And more often than plain percentiles do, which are what they are expanded from."""
    rng, known, runs = np.random.default_rng(1), 0.7, 1000
    values = known + rng.normal(size=(runs, seeds))
    low, high = interval(values)
    plain = stats.bootstrap(
        (values,), np.mean, axis=-1, method="percentile", rng=rng, batch=100, n_resamples=999
    ).confidence_interval
    covered = np.mean((low <= known) & (known <= high))
    plainly = np.mean((plain.low <= known) & (known <= plain.high))
    documented = {5: 0.914, 10: 0.939}[seeds]
    assert abs(covered - documented) < 3.5 * np.sqrt(documented * (1 - documented) / runs)
    assert covered > plainly + 0.02
    within = (values.min(-1) <= known) & (known <= values.max(-1))
    assert covered <= within.mean()


@pytest.mark.parametrize("draw", ["normal", "heavy", "fails"])
def test_few_false_alarms_where_rules_are_alike(draw):
    """In at most 5 % of tables of six pairs; uncorrected it would be three times as many."""
    rng, seeds, tables = np.random.default_rng(2), 6, 1000
    scores = {
        "normal": lambda: alike(rng, 4, seeds, tables),
        "heavy": lambda: rng.standard_t(2, size=(tables, 4, seeds)),
        # one run in five fails
        "fails": lambda: (
            (rng.random((tables, 4, seeds)) < 0.2) + 0.01 * alike(rng, 4, seeds, tables)
        ),
    }[draw]()
    pairs = np.triu_indices(4, 1)
    p = t_test(scores[:, pairs[0]] - scores[:, pairs[1]])
    alarms = np.mean([min(holm(row)) <= 0.05 for row in p])
    assert alarms <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / tables)
    if draw == "normal":
        assert np.mean(p.min(-1) <= 0.05) > 0.13


def test_a_table_is_of_the_test_that_was_checked():
    """What `paired_differences` says of one table is what the arrays above say of it."""
    scores = alike(np.random.default_rng(3), 3, 7, 1)[0]
    found = paired_differences(dict(zip("abc", scores)))
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    by_pair = np.stack([scores[0] - scores[1], scores[0] - scores[2], scores[1] - scores[2]])
    p: Any = stats.ttest_rel(scores[[0, 0, 1]], scores[[1, 2, 2]], axis=-1)
    expected = np.stack([p.pvalue, holm(p.pvalue), by_pair.mean(-1), *interval(by_pair)], -1)
    np.testing.assert_allclose(of_pairs(found, "p", "holm", "mean", "low", "high"), expected)


def test_pairing_finds_what_seeds_would_hide():
    """A difference of one, where seeds differ by five: found seed by seed, and not otherwise."""
    a, b = alike(np.random.default_rng(4), 2, 10, 1)[0]
    b = a + 0.3 * (b - a) + 1
    (pair,) = paired_differences({"a": a, "b": b})
    assert pair.supported and pair.mean < 0 and pair.needed == pair.seeds == 10
    (low, high) = pair.low, pair.high
    assert low is not None and high is not None and low < pair.mean < high < 0
    apart: Any = stats.ttest_ind(a, b)
    assert apart.pvalue > 0.3


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.04, 0.01, 0.02]), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])


def test_seeds_that_are_said_to_be_needed_find_the_difference():
    """With a chance of 80 %, by drawing; and one in twenty finds one where there is none."""
    differences = np.array([0.4, -0.6, 1.1, 0.9, 0.2])
    effect = differences.mean() / differences.std(ddof=1)
    needed = seeds_needed(differences, 0.01)
    assert needed is not None and power(effect, needed, 0.01) >= 0.8 > power(
        effect, needed - 1, 0.01
    )
    draws = np.random.default_rng(5).normal(size=(4000, needed))
    found = t_test(draws + effect) <= 0.01
    assert abs(found.mean() - power(effect, needed, 0.01)) < 0.025
    np.testing.assert_allclose(power(1e-9, 12, 0.05), 0.05, rtol=1e-4)


def test_more_pairs_need_more_seeds():
    rng = np.random.default_rng(6)
    scores = {name: rng.normal(size=6) + 1.0 * place for place, name in enumerate("abcd")}
    alone = paired_differences({name: scores[name] for name in "ab"})[0]
    among = paired_differences(scores)[0]
    assert not alone.supported and alone.p == among.p
    assert alone.needed is not None and among.needed is not None
    assert 6 < alone.needed < among.needed


def test_of_one_seed_nothing_can_be_said():
    (pair,) = paired_differences({"a": [0.9], "b": [0.5]})
    assert not pair.supported and pair.mean == 0.4
    assert (pair.p, pair.holm, pair.low, pair.high, pair.needed) == (None,) * 5
    assert centre([0.9]).low is None


def test_seeds_that_all_say_the_same_are_no_certainty():
    """Scores are of few trials, so that differences may have no scatter at all."""
    assert p_value(np.full(2, 0.125)) == 0.5 and p_value(np.full(7, -0.25)) == 2**-6
    assert p_value(np.zeros(5)) == 1


def test_centres_by_hand():
    found = centre([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.mean, found.median, found.iqm, found.count) == (22, 3, 3, 5)
    assert found.low is not None and 1 <= found.low < 3


def test_time_to_criterion_counts_seeds_that_never_met_it():
    """By hand: 4/5, 3/5 and 2/5 of the seeds are left after 10, 20 and 30 iterations."""
    found = time_to_criterion([10, 30, None, 20, None], 50)
    assert (found.median, found.mean, found.count, found.seeds) == (30, 32, 3, 5)
    never = time_to_criterion([None, 40, None], 50)
    assert never.median is None and never.until == 50 and never.count == 1
    every = time_to_criterion([10, 20, 30], 50)
    assert every.median == 20 == np.median([10, 20, 30])
    assert every.low is not None and every.low <= 20


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": [1.0, 2.0], "b": [1.0]}, "same seeds"),
        ({"a": [1.0, np.nan], "b": [1.0, 2.0]}, "of a are not finite"),
        ({"a": 1.0, "b": 2.0}, "a vector for each rule"),
    ],
)
def test_what_can_not_be_paired(scores, message):
    with pytest.raises(ValueError, match=message):
        paired_differences(scores)

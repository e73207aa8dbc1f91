"""Rules on one recorded stream: rates chosen by earlier steps, errors by seed, baselines beside."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import modprop_jax as mpj
from modprop_jax.experiments import compare_recording, paired_differences
from modprop_jax.tasks import nmse, recorded


ROWS = np.sin(0.7 * np.arange(61))[:, None] + 0.1 * np.cos(np.arange(61))[:, None]
RATES = (1e-3, 1e-2, 1e-1)
RULES = {"one step": mpj.EProp(), "all": mpj.RTRL(), "fixed": mpj.ReadoutOnly()}
CHOOSE, REPORT = (10, 25), (30, 50)


def network(in_size, out_size, *, key):
    keys = jr.split(key)
    cell = mpj.RateCell(in_size, 4, alpha=0.5, key=keys[0])
    return eqx.nn.Sequential([mpj.RNN(cell), mpj.Readout(4, out_size, key=keys[1])])


def mean_square(outputs, ys):
    return jnp.mean((outputs - ys) ** 2)


def compared(rows=ROWS, rules: Any = RULES, **given: Any):
    settings: dict[str, Any] = dict(report=REPORT, choose=CHOOSE, seeds=3, tune_seeds=2)
    stream = recorded(rows, fit=10, horizon=2)
    return compare_recording(
        network, stream, rules, **settings | {"learning_rates": RATES, "quiet": True} | given
    )


found = functools.cache(compared)


def by_hand(rule, seed, rate, last):
    """Outputs of one network."""
    stream = recorded(ROWS, fit=10, horizon=2)
    weights, carry = jr.split(jr.key(seed))
    return mpj.learn_stream(
        network(1, 1, key=weights),
        stream.xs[:last],
        stream.ys[:last],
        loss=mean_square,
        optimizer=optax.adam,
        learning_rate=rate,
        rule=rule,
        delay=1,
        key=carry,
    )[1]


@pytest.mark.parametrize("name", RULES)
def test_rates_are_chosen_by_other_seeds_on_earlier_steps(name):
    ys = recorded(ROWS, fit=10, horizon=2).ys
    row = next(row for row in found().rows if row.rule == name)

    def error(seed, rate, steps):
        return float(nmse(by_hand(RULES[name], seed, rate, steps[1]), ys[: steps[1]], steps=steps))

    means = [np.mean([error(seed, rate, CHOOSE) for seed in (3, 4)]) for rate in RATES]
    np.testing.assert_allclose(list(row.trials.values()), means, rtol=1e-5)
    assert row.learning_rate == RATES[np.argmin(means)]
    each = [error(seed, row.learning_rate, REPORT) for seed in range(3)]
    np.testing.assert_allclose(row.errors, each, rtol=1e-5)
    assert row.centre is not None
    np.testing.assert_allclose(row.centre.mean, np.mean(each), rtol=1e-5)


def test_rules_differ_and_their_differences_are_those_of_seeds():
    rows, pairs = found().rows, found().pairs
    assert len({row.errors for row in rows}) == len(RULES)
    assert pairs == paired_differences({row.rule: row.errors for row in rows})


@pytest.mark.parametrize(("first", "same"), [(27, "trials"), (53, "errors")])
def test_nothing_behind_the_steps_that_count_is_seen(first, same):
    changed = ROWS.copy()
    changed[first:] = 5.0
    for before, after in zip(found().rows, compared(changed).rows, strict=True):
        assert getattr(before, same) == getattr(after, same)


def test_a_rate_at_which_a_network_diverges_is_not_chosen():
    row = compared(rules=[mpj.EProp()], optimizer=optax.sgd, learning_rates=(1e-2, 1e8)).rows[0]
    assert row.rule == "EProp"
    assert row.learning_rate == 1e-2 and row.trials[1e8] == np.inf
    assert row.at_an_end and not row.diverged


def test_divergence_is_said():
    rules = {"wild": mpj.EProp(), "still": mpj.ReadoutOnly()}
    result = compared(rules=rules, optimizer=optax.sgd, learning_rates=(1e8, 1e9))
    assert [row.diverged for row in result.rows] == [3, 3]
    assert result.rows[0].learning_rate == 1e8 and result.rows[0].centre is None
    assert result.pairs == [] and "diverges (3 of 3)" in str(result)


def test_baselines_stand_beside(capsys):
    stream = recorded(ROWS, fit=10, horizon=2)
    last = mpj.baselines.persistence(stream.xs, stream.ys, delay=stream.delay)
    result = compared(rules=[mpj.EProp()], baselines={"last": last}, quiet=False)
    row = result.rows[-1]
    assert (row.rule, row.learning_rate, row.trials) == ("last", None, {})
    np.testing.assert_allclose(row.errors, [nmse(last, stream.ys, steps=REPORT)], rtol=1e-6)
    assert result.pairs == [], "one rule has no pair"
    assert f"| last | {row.errors[0]:.4g} | – |" in str(result)
    assert "EProp: " in capsys.readouterr().out


def test_labels_take_a_loss_and_an_error_of_their_own():
    labels = (ROWS[:, 0] > 0).astype(int)
    stream = recorded(ROWS, fit=10, labels=labels)

    def loss(outputs, ys):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, ys).mean()

    def wrong(outputs, ys):
        return jnp.mean(outputs.argmax(-1).astype(ys.dtype) != ys)

    settings: dict[str, Any] = dict(
        report=REPORT, seeds=2, tune_seeds=1, learning_rates=[1e-2], quiet=True
    )
    row = compare_recording(network, stream, RULES, loss=loss, error=wrong, **settings).rows[0]
    assert all(0 <= error <= 0.5 for error in row.errors)
    with pytest.raises(ValueError, match="labels that are integers: give a loss"):
        compare_recording(network, stream, RULES, **settings)


def test_targets_of_one_axis_are_not_broadcast():
    stream = recorded(ROWS, fit=10, labels=ROWS[:, 0].copy())
    with pytest.raises(ValueError, match="must have the shape of targets"):
        compare_recording(network, stream, RULES, report=REPORT, segment=2, quiet=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(report=(30, 90)), "T = 59"),
        (dict(choose=(10, 30)), "chosen by steps before 29"),
        (dict(report=(0, 20), choose=None), "no step before it"),
        (dict(rules={}), "rules is empty"),
        (dict(rules=[mpj.ModProp(0.1), mpj.ModProp(0.2)]), "of one type need names"),
        (dict(rules={"a": "eprop"}), "must be a credit rule"),
        (dict(learning_rates=(0.1, 0.1)), "different and greater than 0"),
        (dict(seeds=0), "seeds"),
        (dict(baselines={"last": jnp.zeros((3, 1))}), "59 steps"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, words):
    rules: dict[str, Any] = {"rules": {"only": mpj.ReadoutOnly()}}
    with pytest.raises(ValueError, match=words):
        compared(**rules | given)

"""Echo state networks: the states in a NumPy loop, their property, and the readouts on them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from modprop_jax import baselines
from modprop_jax.baselines._echo_state import _Network


KEY = jr.key(0)
OPTIONS: dict[str, Any] = dict(size=12, radius=0.7, leak=0.4, input_scale=0.5, key=KEY)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_states_against_numpy():
    xs = draws(9, 3, 2)
    network = _Network.checked(jnp.float64, 0.7, 0.4, 0.5, KEY).cell(2, 12, jnp.float64)
    W, U, b = map(np.asarray, (network.weight_rec, network.weight_in, network.bias))
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(W)).max(), 0.7, rtol=1e-10)
    for weights in (U, b):
        assert 0.25 < np.abs(weights).max() < 0.5
    state, expected = np.zeros((3, 12)), []
    for x in xs:
        state = 0.6 * state + 0.4 * np.tanh(state @ W.T + x @ U.T + b)
        expected.append(state)
    assert_close(baselines.reservoir(xs, **OPTIONS), np.stack(expected), 1e-12)
    alone = baselines.reservoir(xs[:, 0], **OPTIONS)
    assert_close(alone, np.stack(expected)[:, 0], 1e-12)


@pytest.mark.parametrize("radius, forgets", [(0.5, True), (4.0, False)])
def test_the_start_is_forgotten_where_the_radius_is_small(radius, forgets):
    xs = draws(200, 2)
    other = np.concatenate([draws(5, 2, seed=1), xs[5:]])
    states = functools.partial(baselines.reservoir, size=40, radius=radius, leak=1.0, key=KEY)
    apart = np.abs(states(xs) - states(other)).max(1)
    assert apart[4] > 0.1
    assert apart[-1] < 1e-10 if forgets else apart[-1] > 0.1


@pytest.mark.parametrize("delay", [0, 2])
def test_the_readout_is_least_squares_on_states(delay):
    xs, ys = draws(30, 2), draws(30, 1, seed=1)
    states = baselines.reservoir(xs, **OPTIONS)
    options: dict[str, Any] = dict(ridge=0.01, delay=delay)
    found = baselines.echo_state(xs, ys, forgetting=0.95, **options, **OPTIONS)
    expected = baselines.recursive_least_squares(states, ys, order=1, forgetting=0.95, **options)
    assert_close(found, expected, 1e-10)
    found = baselines.echo_state(xs, ys, fit=20, **options, **OPTIONS)
    expected = baselines.ar_least_squares(states, ys, order=1, fit=20, **options)
    assert_close(found[20 + delay :], expected[20 + delay :], 1e-10)
    assert np.isnan(found[: 20 + delay]).all()


def test_seeds_and_values_under_vmap():
    xs, ys = draws(20, 2), draws(20, 1, seed=1)
    keys, values = jr.split(KEY, 2), jnp.asarray([0.3, 0.8])

    def forecast(key, value):
        options: dict[str, Any] = dict(
            radius=value, leak=value, input_scale=value, forgetting=value, ridge=value
        )
        return baselines.echo_state(xs, ys, size=6, key=key, **options)

    together = jax.vmap(forecast)(keys, values)
    for index, value in enumerate((0.3, 0.8)):
        assert_close(together[index], forecast(keys[index], value), 1e-10)
    assert np.abs(together[0] - forecast(keys[1], 0.3)).max() > 0.01


def test_what_no_linear_forecast_knows():
    """A product of two inputs of the past."""
    xs = draws(700, 1)
    ys = np.roll(xs, 1, axis=0) * np.roll(xs, 2, axis=0)

    def nmse(found):
        return np.mean((found - ys)[500:] ** 2) / np.var(ys[500:])

    options: dict[str, Any] = dict(size=40, radius=0.5, leak=1.0, key=KEY)
    assert nmse(baselines.echo_state(xs, ys, fit=500, **options)) < 0.2
    assert nmse(baselines.echo_state(xs, ys, **options)) < 0.2
    assert nmse(baselines.recursive_least_squares(xs, ys, order=3)) > 0.9


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(fit=15, forgetting=0.9), "forgetting is of the recursion, .* but is 0.9"),
        (dict(fit=20), "fit must be at least .* and at most 19"),
        (dict(size=0), "size must be a whole number of at least 1"),
        (dict(leak=0), "leak must be in .0, 1., but is 0"),
        (dict(radius=-1), "radius must be 0 or more, and finite, but is -1"),
        (dict(key=0), "key must be a PRNG key"),
    ],
)
def test_errors(given, message):
    arguments: dict[str, Any] = dict(inputs=draws(20, 2), targets=draws(20, 1), key=KEY) | given
    with pytest.raises(ValueError, match=message):
        baselines.echo_state(**arguments)
    with pytest.raises(ValueError, match=r"inputs must be an array \(T, \*batch, features\)"):
        baselines.reservoir(draws(20), key=KEY)

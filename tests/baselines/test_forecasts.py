"""Linear forecasts against their problems, which NumPy solves anew at every step."""

import functools
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, jit

import modprop_jax as mpj
from modprop_jax import baselines


T, M, OUT = 40, 2, 3
KEY = jr.key(0)

# by name, what is called with inputs, targets and a delay; those of FITTED on steps 0 ... FIT - 1
FIT = 20
FITTED: dict[str, Callable] = {
    "ar": functools.partial(baselines.ar_least_squares, order=3, fit=FIT),
    "echo state, once": functools.partial(baselines.echo_state, size=5, fit=FIT, key=KEY),
}
LEARNING: dict[str, Callable] = {
    "recursive": functools.partial(baselines.recursive_least_squares, order=3),
    "lms": functools.partial(baselines.lms, order=3, rate=0.01),
    "echo state": functools.partial(baselines.echo_state, size=5, key=KEY),
}
ALL = {"persistence": baselines.persistence} | FITTED | LEARNING


def draws(steps: int = T, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, M)), rng.normal(size=(steps, OUT))


def regressors(xs: np.ndarray, order: int) -> np.ndarray:
    """(x_t, ..., x_(t-order+1), 1) where all of these are there; NaN, which must not be read."""
    rows = np.full((len(xs), order * xs.shape[1] + 1), np.nan)
    for t in range(order - 1, len(xs)):
        rows[t] = np.concatenate([*(xs[t - lag] for lag in range(order)), [1.0]])
    return rows


def ridge_solution(rows, ys, ridge, share=None):
    share = np.ones(len(rows)) if share is None else share
    correlation = (rows.T * share) @ rows + ridge * np.eye(rows.shape[1])
    return np.linalg.solve(correlation, (rows.T * share) @ ys)


def test_persistence():
    xs, ys = draws()
    expected = np.concatenate([np.zeros((4, OUT)), ys[:-4]])
    np.testing.assert_array_equal(baselines.persistence(xs, ys, delay=3), expected)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("forgetting", [1.0, 0.9])
@pytest.mark.parametrize("delay", [0, 3])
def test_recursion_is_the_batch_solution_at_every_step(order, forgetting, delay):
    xs, ys = draws()
    found = baselines.recursive_least_squares(
        xs, ys, order=order, forgetting=forgetting, ridge=0.1, delay=delay
    )
    rows, expected = regressors(xs, order), np.zeros((T, OUT))
    for t in range(order + delay, T):
        pairs = slice(order - 1, t - delay)
        age = (t - 1 - delay) - np.arange(T)[pairs]
        share = forgetting**age
        ridge = 0.1 * forgetting ** len(age)
        expected[t] = rows[t] @ ridge_solution(rows[pairs], ys[pairs], ridge, share)
    assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("order, delay", [(1, 0), (3, 3)])
def test_autoregression_is_the_ridge_solution_of_the_first_steps(order, delay):
    xs, ys = draws()
    found = baselines.ar_least_squares(xs, ys, order=order, fit=FIT, ridge=0.1, delay=delay)
    rows, first = regressors(xs, order), FIT + delay
    weights = ridge_solution(rows[order - 1 : FIT], ys[order - 1 : FIT], 0.1)
    assert_close(found[first:], rows[first:] @ weights, 1e-10)
    assert np.isnan(found[:first]).all()


@pytest.mark.parametrize("clip", [None, 2.5])
def test_lms_against_numpy(clip):
    xs, ys = draws()
    found = baselines.lms(xs, ys, order=2, rate=0.1, clip=clip, delay=2)
    rows, weights = regressors(xs, 2), np.zeros((2 * M + 1, OUT))
    expected, norms = np.zeros((T, OUT)), []
    for t in range(1, T):
        if t - 3 >= 1:
            gradient = np.outer(rows[t - 3], ys[t - 3] - rows[t - 3] @ weights)
            norms.append(np.linalg.norm(gradient))
            weights = weights + 0.1 * gradient * min(1, (clip or np.inf) / norms[-1])
        expected[t] = rows[t] @ weights
    assert_close(found, expected, 1e-12)
    assert min(norms) < 2.5 < max(norms)


def test_recursion_is_force():
    """ForceReadout under SGD of rate 1 solves the same problem."""
    xs, ys = draws()
    readout = mpj.ForceReadout(M, OUT, alpha=0.3, key=KEY)
    readout = eqx.tree_at(lambda r: r.weight, readout, jnp.zeros((OUT, M)))

    @jit
    def run(readout, xs, ys):
        def loss(readout, P, x, y):
            P, outputs = readout(x[None], P)
            return 0.5 * jnp.sum((outputs[0] - y) ** 2), (P, outputs[0])

        def step(carry, seen):
            (_, (P, output)), grads = eqx.filter_value_and_grad(loss, has_aux=True)(*carry, *seen)
            return (eqx.apply_updates(carry[0], jax.tree.map(jnp.negative, grads)), P), output

        return jax.lax.scan(step, (readout, readout.init()), (xs, ys))[1]

    found = baselines.recursive_least_squares(xs, ys, order=1, ridge=0.3)
    assert_close(found, run(readout, jnp.asarray(xs), jnp.asarray(ys)), 1e-10)


def autoregressive(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_t = 1.6 x_(t-1) - .9 x_(t-2) + noise: inputs, the next values, and what can be known."""
    rng, x = np.random.default_rng(0), np.zeros(steps + 1)
    noise = 0.1 * rng.normal(size=steps + 1)
    for t in range(2, steps + 1):
        x[t] = 1.6 * x[t - 1] - 0.9 * x[t - 2] + noise[t]
    return x[:-1, None], x[1:, None], (x - noise)[1:, None]


def test_an_autoregressive_process_is_recovered_to_the_noise():
    xs, ys, best = autoregressive(3000)
    excess = {
        name: np.mean((forecast(xs, ys) - best)[2000:] ** 2) / 0.1**2
        for name, forecast in {
            "once": functools.partial(baselines.ar_least_squares, order=2, fit=2000),
            "recursive": functools.partial(baselines.recursive_least_squares, order=2),
            "lms": functools.partial(baselines.lms, order=2, rate=0.1),
            "of order 1": functools.partial(baselines.recursive_least_squares, order=1),
            "persistence": baselines.persistence,
        }.items()
    }
    # three weights of 2,000 pairs leave 3 / 2000 of the noise in the mean
    assert excess["once"] < 0.01 and excess["recursive"] < 0.01
    assert excess["lms"] < 0.1
    assert min(excess["of order 1"], excess["persistence"]) > 1


@pytest.mark.parametrize("delay", [0, 4])
@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_is_known_before_its_time(name, delay):
    """A target changes predictions from 1 + `delay` steps on, an input from its own step on."""
    (xs, ys), at = draws(), 25
    forecast = functools.partial(ALL[name], delay=delay)
    before = np.asarray(forecast(xs, ys))
    changed = ys.copy()
    changed[at] += 1
    after = np.asarray(forecast(xs, changed))
    np.testing.assert_array_equal(after[: at + 1 + delay], before[: at + 1 + delay])
    if name in FITTED:
        np.testing.assert_array_equal(after, before)  # it was fitted before
        changed[FIT - 1] += 1
        after = np.asarray(forecast(xs, changed))
        assert np.isnan(after[: FIT + delay]).all()
        assert (after != before)[FIT + delay :].all()
    else:
        assert (after != before)[at + 1 + delay].all()
    changed = xs.copy()
    changed[at] += 1
    after = np.asarray(forecast(changed, ys))
    np.testing.assert_array_equal(after[:at], before[:at])
    if name != "persistence":
        assert (after != before)[at].all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_dtypes(name):
    """Computed in the wider of the two, float32 at least; NumPy's arrays as JAX's."""
    xs, ys = draws()
    wide = ALL[name](xs, ys)
    assert wide.dtype == jnp.float64 and wide.shape == (T, OUT)
    narrow = ALL[name](xs.astype(np.float32), jnp.asarray(ys, jnp.float32))
    assert narrow.dtype == jnp.float32
    if "echo" not in name:  # another dtype draws another network
        np.testing.assert_allclose(narrow, wide, atol=2e-4)
    assert ALL[name](jnp.asarray(xs, jnp.bfloat16), ys.astype(np.float32)).dtype == jnp.float32
    assert ALL[name](xs.astype(np.float32), ys).dtype == jnp.float64


def test_values_may_be_traced():
    xs, ys = draws()
    values = jnp.asarray([0.5, 0.9])

    def both(value):
        return (
            baselines.recursive_least_squares(xs, ys, order=2, forgetting=value, ridge=value),
            baselines.ar_least_squares(xs, ys, order=2, fit=FIT, ridge=value)[FIT:],
            baselines.lms(xs, ys, order=2, rate=0.1 * value, clip=value),
        )

    found = jax.vmap(both)(values)
    for index, value in enumerate((0.5, 0.9)):
        assert_close(jax.tree.map(lambda a: a[index], found), both(value), 1e-12)


def textbook(rows: np.ndarray, ys: np.ndarray, forgetting: float) -> np.ndarray:
    """The recursion with P itself, in the dtype of the data."""
    weights = np.zeros((rows.shape[1], ys.shape[1]), rows.dtype)
    P, out = np.eye(rows.shape[1], dtype=rows.dtype) * 1000, []
    for z, y in zip(rows, ys):
        out.append(z @ weights)
        k = P @ z / (rows.dtype.type(forgetting) + z @ P @ z)
        weights = weights + np.outer(k, y - z @ weights)
        P = (P - np.outer(k, z @ P)) / rows.dtype.type(forgetting)
    return np.stack(out)


def test_float32_holds_where_the_textbook_fails():
    """Smooth inputs, whose lags are nearly the same."""
    t, rng = np.arange(2005), np.random.default_rng(0)
    x = np.sin(t / 20) + np.sin(t / 33) + 1e-4 * rng.normal(size=len(t))
    xs, ys = x[:-5, None], x[5:, None]
    narrow = xs.astype(np.float32), ys.astype(np.float32)
    forecast = functools.partial(baselines.recursive_least_squares, order=8, forgetting=0.98)
    exact, rows = np.asarray(forecast(xs, ys))[7:], regressors(xs, 8)[7:]

    def off(found):
        return np.sqrt(np.mean((np.asarray(found) - exact)[1000:] ** 2))

    assert off(textbook(rows, ys[7:], 0.98)) < 1e-9
    error = off(ys[7:])
    assert off(forecast(*narrow)[7:]) < 0.01 * error
    assert off(textbook(rows.astype(np.float32), narrow[1][7:], 0.98)) > 10 * error


def test_what_overflows_is_nan():
    """Inputs that pause for longer than the square of S has range, then come again."""
    xs, ys = draws(160)
    xs[10:150] = 0
    forecast = functools.partial(baselines.recursive_least_squares, order=1, forgetting=0.5)
    assert np.isfinite(forecast(xs, ys)).all()
    narrow = np.asarray(forecast(xs.astype(np.float32), ys.astype(np.float32)))
    assert np.isfinite(narrow[:151]).all() and np.isnan(narrow[151:]).all()


def with_gap(at: int = 7):
    xs, _ = draws()
    xs[at, 1] = np.nan
    return xs


XS, YS = draws()


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(inputs=with_gap()), "inputs must be finite, but 1 of 40 steps hold NaN .* step 7"),
        (dict(targets=with_gap(9)), "targets must be finite, .* step 9: fill the gaps, or cut"),
        (dict(inputs=XS[0]), r"inputs must be an array \(T, features\), but has the shape \(2,\)"),
        (dict(inputs=XS[:, None]), r"inputs .* has the shape \(40, 1, 2\)"),
        (dict(inputs=XS.astype(int)), "inputs must be an array of floats"),
        (dict(targets=YS[:-1]), "same steps, but inputs has 40 and targets 39: cut the longer"),
        (dict(inputs=XS[:0], targets=YS[:0]), r"inputs .* has the shape \(0, 2\)"),
        (dict(delay=-1), "delay must be a whole number of at least 0, but is -1"),
        (dict(delay=39), "delay must be below 39, .* in the 40 steps"),
        (dict(order=0), "order must be a whole number of at least 1, but is 0"),
        (dict(order=40), "order must be at most 39, .* but is 40"),
        (dict(order=36, delay=4), "order must be at most 35, .* with delay=4"),
        (dict(ridge=0), "ridge must be a number that is positive|ridge must be positive"),
    ],
)
def test_errors(given, message):
    arguments: dict[str, Any] = dict(inputs=XS, targets=YS, order=2) | given
    with pytest.raises(ValueError, match=message):
        baselines.recursive_least_squares(**arguments)


def test_errors_of_a_fit_and_of_values():
    with pytest.raises(ValueError, match=re.escape("at least the order, 3, and at most 38, so")):
        baselines.ar_least_squares(XS, YS, order=3, fit=39, delay=1)
    with pytest.raises(ValueError, match="fit must be at least the order, 3, .* but is 2"):
        baselines.ar_least_squares(XS, YS, order=3, fit=2)
    with pytest.raises(ValueError, match="forgetting must be in .0, 1., but is 1.5"):
        baselines.recursive_least_squares(XS, YS, order=2, forgetting=1.5)
    with pytest.raises(ValueError, match="rate must be positive and finite, but is -1"):
        baselines.lms(XS, YS, order=2, rate=-1)

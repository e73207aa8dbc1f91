"""Constraints on weights: rewiring after each step (`dale` is in test_experiments.py)."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from modprop_jax import optim


SIGNS = (1, 1, -1, 1, -1, -1, 1, 1, -1, 1)
SIZE = (40, len(SIGNS))


def weights(seed=0):
    return jnp.abs(jr.normal(jr.key(seed), SIZE)) * jnp.asarray(SIGNS, float)[None]


def stepped(rewire, w, u, state=None) -> Any:
    state = rewire.init(w) if state is None else state
    updates, state = jax.jit(rewire.update)(u, state, w)
    return optax.apply_updates(w, updates), state


def test_floor_then_shrink():
    w, u = weights(), 0.8 * jr.normal(jr.key(1), SIZE)
    rewire = optim.rewire(SIGNS, shrink=0.05, connectivity=0.0)
    after, _ = stepped(rewire, w, u)
    magnitude = np.maximum(np.array(SIGNS) * np.array(w + u), 0)
    magnitude = np.maximum(magnitude - 0.05, 0)
    np.testing.assert_allclose(after, np.array(SIGNS) * magnitude, atol=1e-15)
    assert 20 < (magnitude == 0).sum() < 200


def test_shrinkage_follows_a_schedule():
    rewire = optim.rewire(
        SIGNS, shrink=lambda i: 0.01 * (jnp.asarray(i, float) + 1), connectivity=0.0
    )
    w, state, still = 1.0 + jnp.abs(weights()), None, jnp.zeros(SIZE)
    w = w * jnp.asarray(SIGNS, float)[None]
    for i in range(3):
        after, state = stepped(rewire, w, still, state)
        np.testing.assert_allclose(np.abs(w) - np.abs(after), 0.01 * (i + 1), rtol=1e-12)
        w = after


@pytest.mark.parametrize("silent", [0, 3, 4, 5, 60])
@pytest.mark.slow
def test_what_is_at_zero_beyond_the_allowed_share_is_revived(silent):
    """At 0.99 of 400 entries, 4 may stay at zero."""
    flat = np.array(weights()).ravel()
    places = np.random.default_rng(0).permutation(flat.size)[:silent]
    flat[places] = 0.0
    w = jnp.asarray(flat.reshape(SIZE))
    after, state = stepped(optim.rewire(SIGNS), w, jnp.zeros(SIZE))
    revived = (np.array(w) == 0) & (np.array(after) != 0)
    assert revived.sum() == max(silent - 4, 0)
    expected = np.broadcast_to(1e-12 * np.array(SIGNS), SIZE)
    np.testing.assert_allclose(np.array(after)[revived], expected[revived], rtol=1e-15)
    np.testing.assert_array_equal(np.array(after)[~revived], np.array(w)[~revived])
    # other places at the next step, the same ones in the same step
    if silent == 60:
        again, _ = stepped(optim.rewire(SIGNS), w, jnp.zeros(SIZE))
        np.testing.assert_array_equal(again, after)
        later, _ = stepped(optim.rewire(SIGNS), w, jnp.zeros(SIZE), state)
        other, _ = stepped(optim.rewire(SIGNS, seed=1), w, jnp.zeros(SIZE))
        assert (later != after).any() and (other != after).any()


@pytest.mark.slow
def test_over_many_steps_signs_and_the_share_of_synapses_hold():
    rewire = optax.chain(optax.sgd(0.05), optim.rewire(SIGNS, shrink=5e-3))

    def step(carry, key):
        w, state = carry
        updates, state = rewire.update(jr.normal(key, SIZE), state, w)
        w = w + updates
        return (w, state), ((w == 0).sum(), (w * jnp.asarray(SIGNS, float)[None]).min())

    def run(w):
        return jax.lax.scan(step, (w, rewire.init(w)), jr.split(jr.key(2), 200))[1]

    both = jnp.stack([weights(3), weights(4)])
    for zeros, lowest in (jax.jit(run)(weights()), jax.vmap(run)(both)):
        zeros, lowest = np.array(zeros), np.array(lowest)
        assert (lowest >= 0).all()
        # in a step, about 2 % reach zero anew; without revival most would be there
        assert (zeros < 0.08 * 400).all() and (zeros > 0).any()


def test_two_weights_are_drawn_for_on_their_own():
    w = {"a": jnp.zeros(SIZE), "b": jnp.zeros(SIZE)}
    after, _ = stepped(optim.rewire(SIGNS, connectivity=0.5), w, w)
    assert (after["a"] != 0).sum() == (after["b"] != 0).sum() == 200
    assert (after["a"] != after["b"]).any()
    assert after["a"].dtype == w["a"].dtype


def test_float32_stays_float32():
    w = weights().astype(jnp.float32)
    after, _ = stepped(optim.rewire(SIGNS, shrink=1e-3), w, jnp.zeros(SIZE, jnp.float32))
    assert after.dtype == jnp.float32


# --- FPTT ---


def test_fptt_is_the_published_program():
    """Its two parts around the optimizer's step, in their order."""
    alpha, beta, rho, rate = 0.3, 0.4, 0.2, 0.1
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=3), rng.normal(size=(5, 3))
    optimizer = optax.chain(optim.fptt(alpha, beta, rho), optax.sgd(rate))
    found: Any = jnp.asarray(w)
    state = optimizer.init(found)
    mean, multiplier = w.copy(), np.zeros(3)
    for g in gradients:
        # a gradient that depends on the weights
        updates, state = optimizer.update(jnp.asarray(g) + 0.1 * found, state, found)
        found = optax.apply_updates(found, updates)
        g = g + 0.1 * w + (rho - 1) * multiplier + alpha * (w - mean)
        w = w - rate * g
        multiplier = multiplier - alpha * (w - mean)
        mean = (1 - beta) * mean + beta * w - beta / alpha * multiplier
        np.testing.assert_allclose(found, w, rtol=0, atol=1e-14)
    assert np.abs(multiplier).max() > 1e-3
    with pytest.raises(ValueError, match="fptt needs the weights"):
        optimizer.update(found, state)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: optim.rewire((1, 0)), r"signs must hold \+1 or -1 for each .* but is \(1, 0\)"),
        (lambda: optim.rewire(SIGNS, connectivity=1.5), r"connectivity must be in \[0, 1\].* 1\.5"),
        (lambda: optim.rewire(SIGNS, revive=0.0), r"revive must be positive .* is 0\.0"),
        (
            lambda: optim.rewire(SIGNS).update(
                jnp.zeros((3, 3)), optim.rewire(SIGNS).init({}), jnp.zeros((3, 3))
            ),
            "10 presynaptic signs, but a weight has shape",
        ),
        (lambda: optim.rewire(SIGNS).update({}, optim.rewire(SIGNS).init({})), "needs the weights"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Sequences that end, pause or are padded inside a segment: as if each had been run apart."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flagged import DONE, flagged, MASK, ORDER, padded, stream
from helpers import assert_close, at_home, cell, data, distance, jit, marked, meeting, net, TYPES

import modprop_jax as mpj


CASES = [
    ("bptt", "leaky_taus"),
    ("bptt", "filtered_function"),
    ("rtrl", "refractory"),
    ("eprop", "leaky"),
    ("eprop", "filtered_adaptive"),
    ("mdgl_types", "filtered_adaptive"),
    ("mdgl_online", "filtered_adaptive"),
    ("modprop", "adaptive"),
    ("modprop_types", "leaky"),
    ("modprop_auto_types", "leaky"),
    ("modprop_taps", "leaky"),
    ("quasi_static", "leaky"),
]
# the others, each at home; what it costs them to be met here, their own tests bear faster
SEEN = {rule for rule, _ in CASES}
CASES = [marked(*pair) for pair in CASES]
CASES += [marked(*pair, slow=True) for pair in at_home("flags") if pair[0] not in SEEN]
STREAMED = [case for case in CASES if case.values[0] in meeting("flags streamed")]


@functools.cache
def apart(rule, cell_name):
    """The gradient of four sequences on their own, side by side."""
    xs, ys = data()
    pieces = [(np.asarray(ORDER[b] == i), b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]
    xs, ys = (jnp.stack([a[where, b] for where, b in pieces], 1) for a in (xs, ys))
    return flagged(net(rule, cell_name), xs, ys, None, jnp.ones((4, 4), bool))


@pytest.mark.parametrize("rule, cell_name", CASES)
def test_offline_as_apart(rule, cell_name):
    found = flagged(net(rule, cell_name), *padded(), DONE, MASK)
    assert_close(found, apart(rule, cell_name))


# one of each kind of trace in segments of several steps too
LONGER = [
    ("eprop", "filtered_adaptive", 3),
    ("modprop_types", "leaky", 3),
    ("rtrl", "refractory", 3),
]
CUT = [pytest.param(*case.values, 1, marks=case.marks) for case in STREAMED]
CUT += [pytest.param(*case, marks=pytest.mark.slow) for case in LONGER]


@pytest.mark.parametrize("rule, cell_name, segment", CUT)
def test_streamed_as_apart(rule, cell_name, segment):
    model, (xs, ys) = net(rule, cell_name), padded()
    carry = model.rnn.init(xs.shape[1:-1])
    (loss, carry), gradients = stream(segment)(model, carry, (xs, DONE, MASK), ys)
    assert_close((loss, gradients), apart(rule, cell_name))
    # both examples end before the last step: nothing of the past is left
    fresh = model.rnn.init(xs.shape[1:-1])
    for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(have, want)


def test_flags_change_the_gradient():
    xs, ys = data()
    model, everywhere = net("eprop", "leaky"), jnp.ones_like(MASK)
    all_of = flagged(model, xs, ys, None, everywhere)[1]
    assert distance(flagged(model, xs, ys, DONE, everywhere)[1], all_of) > 1e-2
    assert distance(flagged(model, xs, ys, None, MASK)[1], all_of) > 1e-2
    nothing = flagged(model, xs, ys, jnp.zeros_like(MASK), everywhere)
    assert_close(nothing, flagged(model, xs, ys, None, everywhere))


@pytest.mark.parametrize("name", ["leaky_taus", "refractory", "filtered_adaptive", "function"])
def test_values(name):
    """Masked steps emit 0 and leave the state; the state after an end is the initial one."""
    c, (xs, _) = cell(name), padded()
    state = c.init(xs.shape[1:-1])
    last, zs = jit(lambda: mpj.scan(c, state, xs, done=DONE, valid=MASK, chunk=4))()
    kept, seen = state, jnp.nan_to_num(xs)
    for t in range(len(xs)):
        moved = c.step(kept, seen[t])
        for b in range(2):
            expected = np.asarray(c.emit(moved))[b] * bool(ORDER[b, t])
            np.testing.assert_allclose(zs[t, b], expected, atol=1e-13)
        pick = lambda flag, a, b: jax.tree.map(  # noqa: E731
            lambda a, b: jnp.where(flag.reshape(2, *(1,) * (a.ndim - 1)), a, b), a, b
        )
        kept = pick(DONE[t], state, pick(MASK[t], moved, kept))
    assert_close(last, kept, 1e-12)


@pytest.mark.parametrize("cell_name", ["leaky", "adaptive"])
def test_credit_on_the_outgoing_state_finds_the_last_step(cell_name):
    """It is direct credit on the step that made the state, across padding and chunks."""
    xs, _ = data(steps=9)
    mask = jnp.asarray(np.arange(9)[:, None] < np.array([6, 9]))

    @eqx.filter_grad
    def gradient(c, rule, xs, mask=None, chunk=None):
        state, _ = mpj.scan(c, c.init(xs.shape[1:-1]), xs, valid=mask, rule=rule, chunk=chunk)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state))

    c, rules = cell(cell_name), (mpj.MDGL(TYPES), mpj.ModProp(0.5, TYPES))
    together = jit(lambda: [gradient(c, rule, xs, mask, 2) for rule in rules])()
    for rule, found in zip(rules, together):
        each = jit(lambda rule=rule: (gradient(c, rule, xs[:6, :1]), gradient(c, rule, xs[:, 1:])))
        assert_close(found, jax.tree.map(jnp.add, *each()))


@pytest.mark.parametrize("name", ["done", "valid"])
@pytest.mark.parametrize("flag", [np.ones((11, 3), bool), np.ones((11, 2))])
def test_errors(name, flag):
    c, (xs, _) = cell("leaky"), data()
    options: Any = {name: jnp.asarray(flag)}
    with pytest.raises(ValueError, match=rf"{name} must be boolean of shape .* = \(11, 2\), but"):
        mpj.scan(c, c.init((2,)), xs, **options)


def test_taps_do_not_stream_with_flags():
    model, (xs, _) = net("modprop_taps", "leaky"), data()
    with pytest.raises(ValueError, match="does not stream with done= or valid="):
        model.rnn(xs, model.rnn.init((2,)), valid=MASK)

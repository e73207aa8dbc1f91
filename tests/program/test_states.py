"""All states of a segment: a loss on them is one on an emission that shows them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    AdaptiveCell,
    assert_close,
    BATCH,
    cell,
    data,
    generic,
    jit,
    M,
    N,
    rule,
    TYPES,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


STEPS = 5
MASK = jnp.asarray(np.array([[1, 1, 1, 0, 1], [1, 0, 1, 1, 0]]).T, bool)
DONE = jnp.asarray(np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).T, bool)
OWN: dict[str, Any] = {
    "snap": lambda: mpj.SnAp(2),
    "uoro": lambda: mpj.UORO(),
    "dni": lambda: mpj.DNI(learn=optax.sgd(0.1)),
    "future_bptt": lambda: mpj.FutureBPTT(3),
}
FAST = ("eprop", "snap")
SLOW = ("rtrl", "mdgl_types", "modprop_types", "uoro", "dni")


class Showing(AdaptiveCell):
    """Its emission shows membrane and adaptation too."""

    def emit(self, state):
        return jnp.concatenate([AdaptiveCell.emit(self, state), *state], axis=-1)


def rule_of(name):
    return OWN[name]() if name in OWN else rule(name)


def pair(filtered):
    """A cell of two variables, and the same cell with an emission that shows them."""
    plain = generic(AdaptiveCell(M, N, use_bias=True, key=jr.key(6)), 3.0)
    showing: Any = Showing(M, N, use_bias=True, key=jr.key(6))  # pyright: ignore
    showing = generic(showing, 3.0)
    if not filtered:
        return plain, showing
    leaks = np.concatenate([np.full(N, 0.7), np.zeros(2 * N)])
    return mpj.Filtered(plain, 0.7), mpj.Filtered(showing, leaks)


def penalty(zs, v, a):
    return jnp.sum(0.5 * zs**2 + 0.1 * zs**3) + jnp.sum(v**3 + 0.4 * v * a + jnp.abs(a))


def everything(c, rule, split):
    """Gradients offline with padding, streamed, and by the inputs of one streamed step."""
    rnn, xs = mpj.RNN(c, rule=rule), data(steps=STEPS)[0]
    bare = c.init(BATCH) if not rule.needs_key else rnn.init(BATCH, key=jr.key(2))

    def loss(both):
        rnn, xs = both
        return penalty(*split(rnn, xs, bare, done=DONE, valid=MASK)[1])

    def segment_loss(rnn, carry, xs, _):
        carry, seen = split(rnn, xs, carry)
        return penalty(*seen), carry

    carry = rnn.init(BATCH, key=jr.key(2))
    stream = mpj.online_value_and_grad(segment_loss, segment=2)
    (value, _), gradients = stream(rnn, carry, xs, xs)
    by_inputs = jax.grad(lambda xs: penalty(*split(rnn, xs, carry)[1]))(xs[:1])
    return mpj.value_and_grad(loss)((rnn, xs)), value, gradients, by_inputs


CASES = [(name, False) for name in FAST]
CASES += [pytest.param(name, False, marks=pytest.mark.slow) for name in SLOW]
CASES += [
    pytest.param(name, True, marks=pytest.mark.slow) for name in ("eprop", "rtrl", "mdgl_types")
]


@pytest.mark.parametrize("name, filtered", CASES)
def test_a_penalty_on_states_is_one_on_an_emission_that_shows_them(name, filtered):
    rule, (plain, showing) = rule_of(name), pair(filtered)

    def by_states(rnn, xs, carry, **flags):
        carry, zs, states = rnn(xs, carry, states=True, **flags)
        return carry, (zs, *(states[0] if filtered else states))

    def by_emission(rnn, xs, carry, **flags):
        carry, zs = rnn(xs, carry, **flags)
        return carry, jnp.split(zs, 3, axis=-1)

    actual = jit(lambda c: everything(c, rule, by_states))(plain)
    expected = jit(lambda c: everything(c, rule, by_emission))(showing)
    for have, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(have, want)


def test_it_streams_as_offline_and_is_no_other_program_without():
    """What stays local is the same however a sequence is cut; unused states cost nothing."""
    c, xs = pair(False)[0], data(steps=STEPS)[0]
    rnn = mpj.RNN(c, rule=mpj.ModProp(0.5, TYPES))

    def segment_loss(rnn, carry, xs, _):
        carry, zs, states = rnn(xs, carry, states=True)
        return penalty(zs, *states), carry

    def gradients(rnn):
        for segment in (1, 3, STEPS):
            stream = mpj.online_value_and_grad(segment_loss, segment=segment)
            yield stream(rnn, rnn.init(BATCH), xs, xs)[1]

    one, three, whole = jit(lambda rnn: list(gradients(rnn)))(rnn)
    assert_close(one, whole)
    assert_close(three, whole)

    def program(**options):
        return str(jax.make_jaxpr(eqx.filter_grad(lambda rnn: jnp.sum(rnn(xs, **options))))(rnn))

    assert program() == program(states=False)


@pytest.mark.parametrize("name", ["refractory", "function", "filtered_function"])
def test_values_and_exact_credit(name):
    """States with integers, of cells without structure, and in a filter's memory; against JAX."""
    c, xs = cell(name), data(steps=STEPS)[0]

    def read(states):
        leaves = [a for a in jax.tree.leaves(states) if eqx.is_inexact_array(a)]
        return sum(jnp.sum((0.7 + i) * leaf**2 + leaf) for i, leaf in enumerate(leaves))

    def plain(c):
        def step(state, x):
            state = c.step(state, x)
            return state, state

        states = jax.lax.scan(step, c.init(BATCH), xs)[1]
        return read(states), states

    def scanned(c):
        zs, states = mpj.RNN(c)(xs, states=True)
        return read(states) + 0 * zs.sum(), states

    def streamed(c):
        rnn = mpj.RNN(c, rule=mpj.RTRL())
        carry, _, first = rnn(xs[:3], rnn.init(BATCH), states=True)
        _, _, last = rnn(xs[3:], carry, states=True)
        states = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)
        return read(states), states

    def both(function):
        return eqx.filter_value_and_grad(function, has_aux=True)

    actual, other, expected = jit(lambda c: [both(f)(c) for f in (scanned, streamed, plain)])(c)
    assert_close(actual, expected)
    assert_close(other, expected)


def test_padding_and_ends():
    c, xs = pair(False)[0], data(steps=STEPS)[0]
    last, zs, states = mpj.scan(c, c.init(BATCH), xs, done=DONE, valid=MASK, states=True)
    for leaf in jax.tree.leaves(states):
        assert leaf.shape == (STEPS, *BATCH, N)
        assert not np.asarray(leaf)[~np.asarray(MASK)].any()
    assert np.asarray(states[0])[np.asarray(MASK)].all()
    assert_close(jax.vmap(c.emit)(states)[MASK], zs[MASK], 1e-13)
    assert_close(jax.tree.map(lambda a: a[-1, 0], states), jax.tree.map(lambda a: a[0], last))


def test_errors_of_gle_begin_at_the_emission():
    c = mpj.GLECell([M, 4, N], tau_m=2.0, tau_r=1.0, dt=0.5, activations=jnp.tanh, key=jr.key(0))
    rnn, xs = mpj.RNN(c, rule=mpj.GLE()), data(steps=STEPS)[0]

    def gradient(read):
        return eqx.filter_grad(lambda rnn: read(rnn(xs, states=True)))(rnn)

    shown = gradient(lambda out: jnp.sum(out[1].out ** 2))
    assert_close(shown, gradient(lambda out: jnp.sum(out[0] ** 2)))
    with pytest.raises(ValueError, match="begin at the emission"):
        gradient(lambda out: jnp.sum(out[1].u[0] ** 2))

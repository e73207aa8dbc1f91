"""Learnt starts: whenever a sequence begins, the parameters that `cell.init` reads are charged."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import AdaptiveCell, assert_close, data, generic, jit, M, N, Net, OUT, TYPES

import modprop_jax as mpj


pytestmark = pytest.mark.slow


# two examples of two sequences each, of four steps; 0 is padding, in which one of them ends late
ORDER = np.array([[1, 1, 1, 1, 0, 0, 2, 2, 2, 2, 0], [0, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0]])
MASK = jnp.asarray((ORDER > 0).T)
ENDS = np.array([[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]], bool)
DONE = jnp.asarray(ENDS.T)


class Neurons(mpj.NeuronCell):
    """Leaky neurons that start from v0, one value a neuron."""

    v0: jax.Array

    def __init__(self, key):
        mpj.NeuronCell.__init__(self, M, N, use_bias=True, key=key)
        self.v0 = jnp.linspace(-0.7, 0.9, N)

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(jnp.sin(2 * self.v0), (*batch_shape, N))

    def integrate(self, state, drive):
        return 0.7 * state + 0.3 * drive

    def emit(self, state):
        return jnp.tanh(state)

    @property
    def gain(self):
        return 0.3


class Adaptive(AdaptiveCell):
    """Two variables: v starts from the bias, a from one value for all neurons, times `rho`."""

    a0: jax.Array

    def __init__(self, key):
        AdaptiveCell.__init__(self, M, N, use_bias=True, key=key)
        self.a0 = jnp.asarray(0.6)

    def init(self, batch_shape: Any = ()):
        assert self.bias is not None
        each = jnp.tanh(self.bias), self.a0 * self.rho
        v, a = (jnp.broadcast_to(part, (*batch_shape, N)) for part in each)
        return v, a


class Gated(mpj.GRUCell):
    """A GRU that starts from h0."""

    h0: jax.Array

    def __init__(self, key):
        mpj.GRUCell.__init__(self, M, N, key=key)
        self.h0 = jnp.linspace(-0.5, 0.5, N)

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(self.h0, (*batch_shape, N))


class Linear(mpj.LRUCell):
    """An LRU that starts from a learnt h, and no input yet."""

    start: jax.Array

    def __init__(self, key):
        mpj.LRUCell.__init__(self, M, N, r_min=0.5, key=key)
        self.start = jnp.linspace(0.5, 1.0, 2 * N)

    def init(self, batch_shape: Any = ()):
        parts = *jnp.split(self.start, 2), jnp.zeros(M)
        re, im, x = (jnp.broadcast_to(part, (*batch_shape, *part.shape)) for part in parts)
        return re, im, x


class Mixed(mpj.AbstractCell):
    """No neurons: variables of different size, and a start that mixes its parameters."""

    weight: jax.Array
    start: jax.Array

    def __init__(self, key):
        self.weight = jr.normal(key, (N, N + M)) / 2
        self.start = jnp.linspace(-1.0, 1.0, N)

    def init(self, batch_shape: Any = ()):
        h = jnp.broadcast_to(jnp.tanh(self.weight[:, :N] @ self.start), (*batch_shape, N))
        return h, h[..., :2]

    def step(self, state, x):
        h, c = state
        h = jnp.tanh(jnp.concatenate([h, x], axis=-1) @ self.weight.T)
        return h + 0.1 * c[..., :1], 0.5 * c + h[..., :2]

    def emit(self, state):
        return state[0]


class Leaky(mpj.LeakyCell):
    """The neurons of the presynaptic traces, with a start of their own."""

    v0: jax.Array

    def __init__(self, key):
        mpj.LeakyCell.__init__(self, M, N, tau=4.0, activation=jnp.tanh, use_bias=True, key=key)
        self.v0 = jnp.linspace(-0.7, 0.9, N)

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(self.v0, (*batch_shape, N))


CELLS: dict[str, Any] = {
    "leaky": lambda: generic(Leaky(jr.key(6))),
    "neurons": lambda: generic(Neurons(jr.key(1))),
    "adaptive": lambda: generic(Adaptive(jr.key(2)), 3.0),
    "filtered": lambda: mpj.Filtered(cell("adaptive"), 0.7, scale=True),
    "gated": lambda: Gated(jr.key(3)),
    "linear": lambda: Linear(jr.key(4)),
    "mixed": lambda: Mixed(jr.key(5)),
}
MU = np.linspace(0.2, 0.8, N)
RULES: dict[str, Any] = {
    "bptt": mpj.BPTT(),
    "rtrl": mpj.RTRL(),
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(TYPES),
    "mdgl_online": mpj.MDGL(TYPES, online=True),
    "modprop": mpj.ModProp(MU),
    "modprop_types": mpj.ModProp(0.5, TYPES),
    "modprop_auto": mpj.ModProp("auto", TYPES),
    "quasi_static": mpj.QuasiStatic(),
    "future_bptt": mpj.FutureBPTT(3),
    "snap1": mpj.SnAp(1),
    "snap2": mpj.SnAp(2),
    "diagonal_rtrl": mpj.DiagonalRTRL(),
}


@functools.cache
def cell(name):
    return CELLS[name]()


def net(rule, cell_name):
    size = M if cell_name == "linear" else N
    rnn = mpj.RNN(cell(cell_name), rule=RULES[rule])
    return Net(rnn, mpj.Readout(size, OUT, key=jr.key(7)))


def loss_of(outputs, ys, mask):
    return jnp.sum(jnp.where(mask[..., None], 0.5 * (outputs - ys) ** 2 + 0.1 * outputs**3, 0))


@jit
def flagged(model, xs, ys, done, mask):
    def loss(model):
        return loss_of(model.readout(model.rnn(xs, done=done, valid=mask)), ys, mask)

    return mpj.value_and_grad(loss)(model)


@functools.cache
def apart(rule, cell_name):
    """The gradient of four sequences on their own, side by side."""
    xs, ys = data()
    pieces = [(np.asarray(ORDER[b] == i), b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]
    xs, ys = (jnp.stack([a[where, b] for where, b in pieces], 1) for a in (xs, ys))
    return flagged(net(rule, cell_name), xs, ys, None, jnp.ones((4, 4), bool))


def padded():
    """The data, with padding that must not be read."""
    xs, ys = data()
    return jnp.where(MASK[..., None], xs, jnp.nan), ys


CASES = [
    ("bptt", "mixed"),
    ("bptt", "gated"),
    ("rtrl", "adaptive"),
    ("eprop", "neurons"),
    ("eprop", "gated"),
    ("mdgl", "neurons"),
    ("mdgl_online", "filtered"),
    ("modprop", "adaptive"),
    ("modprop_types", "filtered"),
    ("modprop_auto", "adaptive"),
    ("quasi_static", "neurons"),
    ("future_bptt", "adaptive"),
    ("snap1", "neurons"),
    ("snap2", "neurons"),
    ("diagonal_rtrl", "linear"),
]


@pytest.mark.parametrize("rule, cell_name", CASES)
def test_end_to_end_as_side_by_side(rule, cell_name):
    found = flagged(net(rule, cell_name), *padded(), DONE, MASK)
    assert_close(found, apart(rule, cell_name))


@functools.cache
def stream(segment):
    def segment_loss(model, carry, xs, ys):
        xs, done, mask = xs
        carry, zs = model.rnn(xs, carry, done=done, valid=mask)
        return loss_of(model.readout(zs), ys, mask), carry

    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


NO_TRACE = "bptt", "snap2"


STREAMED = [(*case, 3) for case in CASES if case[0] not in NO_TRACE]
STREAMED += [("rtrl", "adaptive", 1), ("modprop_types", "filtered", 1)]
STREAMED += [("modprop_types", "leaky", 3), ("modprop_types", "leaky", 1)]
# one of each trace, and a rule that observes
SLOW = "modprop", "quasi_static", "snap1", "mdgl_online"
TWICE = ("rtrl", "adaptive", 1), ("modprop_types", "filtered", 3), ("modprop_types", "leaky", 3)


def marked(case):
    slow = case[0] in SLOW or case in TWICE
    return pytest.param(*case, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("rule, cell_name, segment", [marked(case) for case in STREAMED])
def test_streamed_as_side_by_side(rule, cell_name, segment):
    model, (xs, ys) = net(rule, cell_name), padded()
    carry = model.rnn.init((2,))
    (loss, carry), gradients = stream(segment)(model, carry, (xs, DONE, MASK), ys)
    assert_close((loss, gradients), apart(rule, cell_name))
    # both examples have ended: the past is that of the start
    fresh = jit(model.rnn.init)((2,))
    for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-13)


def read_state(state):
    leaves = [leaf for leaf in jax.tree.leaves(state) if eqx.is_inexact_array(leaf)]
    return sum(jnp.sum((0.7 + i) * leaf**2 + leaf) for i, leaf in enumerate(leaves))


@pytest.mark.parametrize(
    "rule, cell_name", [("eprop", "neurons"), ("future_bptt", "adaptive"), ("rtrl", "mixed")]
)
@pytest.mark.slow
def test_a_chain_whose_loss_reads_states_is_offline(rule, cell_name):
    """One gradient over single steps and segments; nothing counts twice, sequences end between."""
    model, (xs, _) = net(rule, cell_name), data()
    done = jnp.zeros((len(xs), 2), bool).at[3, 0].set(True).at[6].set(True).at[10, 1].set(True)

    def whole(model):
        state, zs = mpj.scan(
            model.rnn.cell, model.rnn.cell.init((2,)), xs, rule=model.rnn.rule, done=done
        )
        return jnp.sum(zs**2) + read_state(state)

    def chained(model):
        total, carry = 0.0, model.rnn.init((2,))
        for start, stop in ((0, 1), (1, 7), (7, 8), (8, 11)):
            flags = None if start == 0 else done[start:stop]
            carry, zs = model.rnn(xs[start:stop], carry, done=flags)
            total = total + jnp.sum(zs**2)
        return total + read_state(carry.state)

    value, expected = jit(eqx.filter_value_and_grad(whole))(model)
    total, actual = jit(eqx.filter_value_and_grad(chained))(model)
    assert_close(actual, expected)
    np.testing.assert_allclose(total, value, rtol=1e-12)


def test_credit_on_a_state_that_no_step_has_left():
    """A sequence ends, and padding follows: the state that a loss reads is the start itself."""
    c, (xs, _) = cell("adaptive"), data(steps=5)
    done, mask = jnp.zeros((5, 2), bool).at[2].set(True), jnp.ones((5, 2), bool).at[3:].set(False)

    @eqx.filter_grad
    def found(c, rule):
        state, zs = mpj.scan(c, c.init((2,)), xs, rule=rule, done=done, valid=mask, chunk=2)
        return jnp.sum(zs**3) + read_state(state)

    @eqx.filter_grad
    def expected(c, rule):
        _, zs = mpj.scan(c, c.init((2,)), xs[:3], rule=rule)
        return jnp.sum(zs**3) + read_state(c.init((2,)))

    for rule in (mpj.EProp(), mpj.ModProp(0.5, TYPES)):
        each = jit(lambda c, rule=rule: (found(c, rule), expected(c, rule)))(c)
        assert_close(*each)


def test_only_the_own_start_of_an_example_learns():
    """A state that was given is a constant, where it is not the start."""
    c, (xs, _) = cell("adaptive"), data()
    own = c.init(())
    given = jax.tree.map(lambda s: jnp.stack([s, s + 0.1]), own)

    def streamed(c):
        carry = mpj.EProp().init(c, jax.tree.map(jnp.asarray, given))
        return jnp.sum(mpj.scan(c, carry, xs, rule=mpj.EProp())[1] ** 2)

    def offline(c):
        start = jax.tree.map(lambda s, g: jnp.stack([s, g[1]]), c.init(()), given)
        return jnp.sum(mpj.scan(c, start, xs, rule=mpj.EProp())[1] ** 2)

    assert_close(*jit(lambda c: (eqx.filter_grad(streamed)(c), eqx.filter_grad(offline)(c)))(c))


@pytest.mark.slow
def test_uoro_is_unbiased():
    """Over 2,000 keys, for a start that is all that the gradient is of, twice."""
    c, (xs, _) = cell("neurons"), data((), steps=4)
    done = jnp.zeros(4, bool).at[1].set(True)

    def gradient(rule, key):
        def loss(c):
            carry = rule.init(c, c.init(()), key=key)
            total = 0.0
            for part in (slice(0, 2), slice(2, 4)):
                carry, zs = mpj.scan(c, carry, xs[part], rule=rule, done=done[part])
                total = total + jnp.sum(zs @ jnp.linspace(0.5, 1.0, N))
            return total

        return eqx.filter_grad(loss)(c).v0

    keys = jr.split(jr.key(0), 2000)
    exact = gradient(mpj.RTRL(), None)
    found = np.asarray(jit(jax.vmap(lambda key: gradient(mpj.UORO(), key)))(keys))
    spread = found.std(0) / np.sqrt(len(found))
    assert (spread > 0).all()
    assert (np.abs(found.mean(0) - exact) < 4.5 * spread).all()
    assert (np.abs(exact) > 10 * spread).any()


class Crossed(Neurons):
    """Neurons whose start is made from other neurons' parameters."""

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(self.v0 - self.v0.mean(), (*batch_shape, N))


class FromWeights(mpj.LeakyCell):
    """A start that reads what only weights can hold."""

    def init(self, batch_shape: Any = ()):
        assert self.bias is not None
        return jnp.broadcast_to(self.bias, (*batch_shape, N))


class Silenced(Neurons):
    """A start that reads a parameter, but does not learn."""

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(jax.lax.stop_gradient(self.v0), (*batch_shape, N))


def test_what_a_trace_cannot_hold_is_refused():
    # pyright takes a cell without a constructor of its own for a plain dataclass
    crossed, silent = Crossed(jr.key(1)), Silenced(jr.key(1))  # pyright: ignore
    weights: Any = FromWeights(M, N, tau=4.0, use_bias=True, key=jr.key(2))  # pyright: ignore
    xs, _ = data()
    message = r"init reads {}, which trains, but what {} carries .* can't hold"
    for rule in (mpj.EProp(), mpj.MDGL(), mpj.SnAp(2)):
        with pytest.raises(ValueError, match=message.format("v0", type(rule).__name__)):
            rule.init(crossed, crossed.init((2,)))
    for rule in (mpj.EProp(), mpj.KeRNL(), mpj.KFRTRL(), mpj.RKFRTRL()):
        with pytest.raises(ValueError, match=message.format("bias", type(rule).__name__)):
            rule.init(weights, weights.init((2,)), key=jr.key(0))
    learn = optax.sgd(0.1)
    for rule in (mpj.DNI(learn=learn), mpj.KeRNL(noise=np.ones((11, N)))):
        with pytest.raises(ValueError, match=f"{type(rule).__name__} has no credit for the start"):
            carry = weights.init((2,))
            if rule.needs_key:
                carry = rule.init(weights, carry, key=jr.key(0))
            mpj.scan(weights, carry, xs, rule=rule)
    # what is stopped is a constant
    assert not eqx.filter_grad(
        lambda c: jnp.sum(mpj.scan(c, mpj.EProp().init(c, c.init((2,))), xs, rule=mpj.EProp())[1])
    )(silent).v0.any()

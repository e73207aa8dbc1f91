"""Learnt starts: whenever a sequence begins, the parameters that `cell.init` reads are charged."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import AdaptiveCell, assert_close, data, generic, jit, M, N, Net, OUT, TYPES

import modprop_jax as mpj


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

    def init(self, batch_shape=()):
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

    def init(self, batch_shape=()):
        assert self.bias is not None
        each = jnp.tanh(self.bias), self.a0 * self.rho
        return tuple(jnp.broadcast_to(part, (*batch_shape, N)) for part in each)


class Gated(mpj.GRUCell):
    """A GRU that starts from h0."""

    h0: jax.Array

    def __init__(self, key):
        mpj.GRUCell.__init__(self, M, N, key=key)
        self.h0 = jnp.linspace(-0.5, 0.5, N)

    def init(self, batch_shape=()):
        return jnp.broadcast_to(self.h0, (*batch_shape, N))


class Linear(mpj.LRUCell):
    """An LRU that starts from a learnt h, and no input yet."""

    start: jax.Array

    def __init__(self, key):
        mpj.LRUCell.__init__(self, M, N, r_min=0.5, key=key)
        self.start = jnp.linspace(0.5, 1.0, 2 * N)

    def init(self, batch_shape=()):
        parts = *jnp.split(self.start, 2), jnp.zeros(M)
        return tuple(jnp.broadcast_to(part, (*batch_shape, *part.shape)) for part in parts)


class Mixed(mpj.AbstractCell):
    """No neurons: variables of different size, and a start that mixes its parameters."""

    weight: jax.Array
    start: jax.Array

    def __init__(self, key):
        self.weight = jr.normal(key, (N, N + M)) / 2
        self.start = jnp.linspace(-1.0, 1.0, N)

    def init(self, batch_shape=()):
        h = jnp.broadcast_to(jnp.tanh(self.weight[:, :N] @ self.start), (*batch_shape, N))
        return h, h[..., :2]

    def step(self, state, x):
        h, c = state
        h = jnp.tanh(jnp.concatenate([h, x], axis=-1) @ self.weight.T)
        return h + 0.1 * c[..., :1], 0.5 * c + h[..., :2]

    def emit(self, state):
        return state[0]


CELLS: dict[str, Any] = {
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
        return loss_of(model.readout(model.rnn(xs, done=done, mask=mask)), ys, mask)

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
        carry, zs = model.rnn(xs, carry, done=done, mask=mask)
        return loss_of(model.readout(zs), ys, mask), carry

    return jit(mpj.online_value_and_grad(segment_loss, segment=segment))


NO_TRACE = "bptt", "future_bptt", "snap2"


@pytest.mark.parametrize("segment", [1, 3])
@pytest.mark.parametrize("rule, cell_name", [c for c in CASES if c[0] not in NO_TRACE])
def test_streamed_as_side_by_side(rule, cell_name, segment):
    model, (xs, ys) = net(rule, cell_name), padded()
    carry = model.rnn.init((2,))
    (loss, carry), gradients = stream(segment)(model, carry, (xs, DONE, MASK), ys)
    assert_close((loss, gradients), apart(rule, cell_name))
    # both examples have ended: the past is that of the start
    fresh = jit(model.rnn.init)((2,))
    assert_close(carry, fresh, 1e-13)

"""A neuron of your own, in about ten lines: every neuron rule serves it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    distance,
    error,
    jit,
    M,
    N,
    Net,
    OUT,
    plain_loss,
    segment_loss,
    TYPES,
    weights,
)

import modprop_jax as mpj


class AdExCell(mpj.NeuronCell):
    """Adaptive exponential integrate-and-fire neurons: rest at v = 0, threshold at v = 1."""

    def init(self, batch_shape=()):
        zero = jnp.zeros((*batch_shape, self.hidden_size))
        return zero, zero

    def integrate(self, state, drive):
        v, w = state
        z = self.emit(state)
        v = v - v * jax.lax.stop_gradient(z)  # a spike resets v, without credit
        upswing = 0.2 * jnp.exp((v - 1) / 0.2)
        return v + self.gain * (drive - v + upswing - w), 0.98 * w + 0.01 * v + 0.2 * z

    def emit(self, state):
        return mpj.spike(state[0] - 1)

    def membrane(self, state):  # for ModProp: where the drive enters,
        return state[0]

    @property
    def gain(self):  # and how strongly
        return 0.2


T = 24
RULES = {
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(TYPES),
    "modprop": mpj.ModProp(0.1, TYPES),
    "bptt": mpj.BPTT(),
    "rtrl": mpj.RTRL(),
}


@functools.cache
def net(rule="bptt"):
    cell = AdExCell(M, N, key=jr.key(0))  # pyright: ignore
    cell = eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), cell, replace_fn=lambda w: 3 * w)
    rnn = mpj.RNN(mpj.Filtered(cell, 0.8), rule=RULES[rule])
    return Net(rnn, mpj.Readout(N, OUT, key=jr.key(1)))


@functools.cache
def data():
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(T, 2, M)), rng.normal(size=(T, 2, OUT))
    return jnp.asarray(np.abs(xs)), jnp.asarray(ys)


@functools.cache
def offline(rule):
    loss = mpj.value_and_grad(lambda model, xs, ys: error(model(xs), ys))
    return weights(jit(loss)(net(rule), *data())[1])


def test_spikes_come_at_longer_and_longer_intervals():
    cell = AdExCell(1, 1, key=jr.key(0))  # pyright: ignore
    cell = eqx.tree_at(lambda c: c.weight_in, cell, jnp.array([[1.5]]))
    _, zs = mpj.scan(cell, cell.init(), jnp.ones((150, 1)))
    assert set(np.unique(zs)) == {0, 1}
    intervals = np.diff(np.flatnonzero(zs[:, 0]))
    assert (np.diff(intervals) >= 0).all() and intervals[-1] > 3 * intervals[0]


def test_bptt_is_the_derivative_of_a_plain_scan():
    assert_close(offline("bptt"), weights(jit(eqx.filter_grad(plain_loss))(net(), *data())))


def test_eprop_is_that_derivative_with_the_message_stopped():
    class Stopped(AdExCell):
        def message(self, state):
            return jax.lax.stop_gradient(self.emit(state))

    def stopped_loss(model, xs, ys):
        cell = model.rnn.cell.cell
        stopped = Stopped(M, N, key=jr.key(0))  # pyright: ignore
        leaves = lambda c: (c.weight_rec, c.weight_in)  # noqa: E731
        stopped = eqx.tree_at(leaves, stopped, leaves(cell))
        return plain_loss(eqx.tree_at(lambda m: m.rnn.cell.cell, model, stopped), xs, ys)

    assert_close(offline("eprop"), weights(jit(eqx.filter_grad(stopped_loss))(net(), *data())))


def test_the_rules_differ():
    names = ("eprop", "mdgl", "modprop", "bptt")
    for i, name in enumerate(names):
        for other in names[:i]:
            assert distance(offline(name)[0], offline(other)[0]) > 1e-2, (name, other)


@pytest.mark.parametrize("segment", [1, 4, T])
@pytest.mark.parametrize("rule", ["eprop", "mdgl", "modprop"])
def test_streams(rule, segment):
    stream = mpj.online_value_and_grad(segment_loss, segment=segment)
    model = net(rule)
    _, found = jit(stream)(model, model.rnn.init((2,)), *data())
    assert_close(weights(found), offline(rule), 1e-9)


@pytest.mark.slow
def test_rtrl_streams_the_exact_gradient():
    stream = mpj.online_value_and_grad(segment_loss, segment=4)
    model = net("rtrl")
    _, found = jit(stream)(model, model.rnn.init((2,)), *data())
    assert_close(weights(found), offline("bptt"), 1e-9)

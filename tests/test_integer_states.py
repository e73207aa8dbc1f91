"""A neuron with an integer variable (a refractory counter) streams like any other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import modprop_jax as mpj


class Refractory(mpj.NeuronCell):
    gain = 1.0

    def init(self, batch_shape=()):
        v = jnp.zeros((*batch_shape, self.hidden_size))
        return {"v": v, "count": jnp.zeros(v.shape, jnp.int32)}

    def integrate(self, state, drive):
        free = state["count"] == 0
        v = 0.8 * state["v"] + jnp.where(free, drive, 0.0)
        resting = jnp.maximum(state["count"] - 1, 0)
        return {"v": v, "count": jnp.where(free & (v > 0.5), 2, resting).astype(jnp.int32)}

    def emit(self, state):
        return jnp.tanh(state["v"])

    def membrane(self, state):
        return state["v"]


def _segment_loss(rnn, carry, xs, ys):
    carry, zs = rnn(xs, carry)
    return jnp.sum((zs - ys) ** 2), carry


@pytest.mark.parametrize(
    "rule",
    [mpj.RTRL(), mpj.EProp(), mpj.ModProp(0.3, (0, 1, 0, 1))],
    ids=["rtrl", "eprop", "modprop"],
)
def test_integer_states_stream(rule):
    cell = mpj.Filtered(Refractory(3, 4, key=jr.key(0)), 0.5)
    rnn = mpj.RNN(cell, rule=rule)
    xs, ys = jr.normal(jr.key(1), (9, 2, 3)), jr.normal(jr.key(2), (9, 2, 4))
    want = eqx.filter_jit(mpj.value_and_grad(lambda rnn: jnp.sum((rnn(xs) - ys) ** 2)))(rnn)[1]
    for segment in (1, 4):
        online = eqx.filter_jit(mpj.online_value_and_grad(_segment_loss, segment=segment))
        (_, carry), have = online(rnn, rnn.init((2,)), xs, ys)
        assert carry.state[0]["count"].max() > 0
        for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_bare_integer_states_chain():
    cell = Refractory(3, 4, key=jr.key(0))
    xs = jr.normal(jr.key(1), (8, 2, 3))

    def chained(cell, xs):
        state, zs = mpj.scan(cell, cell.init((2,)), xs[:5])
        return jnp.sum(zs**2) + jnp.sum(mpj.scan(cell, state, xs[5:])[1] ** 2)

    def whole(cell, xs):
        return jnp.sum(mpj.scan(cell, cell.init((2,)), xs)[1] ** 2)

    have, want = (eqx.filter_jit(eqx.filter_grad(f))(cell, xs) for f in (chained, whole))
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)

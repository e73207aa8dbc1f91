"""A fixed recurrent network: zeros for it and all below, the exact gradient for what reads it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    error,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    segment_loss,
    streamed_gradient,
)

import modprop_jax as mpj


def net_of(c, rule, features=N):
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(features, OUT, key=jr.key(7)))


CELLS = {
    "leaky_tau": lambda: cell("leaky_tau"),
    "function": lambda: cell("function"),
    "filtered_rate": lambda: cell("filtered_rate"),
    "gru": lambda: mpj.GRUCell(M, N, key=jr.key(1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_only_the_readout_learns(name):
    c = CELLS[name]()
    model, (xs, ys) = net_of(c, mpj.ReadoutOnly()), data()
    loss, found = gradient(model, xs, ys)
    _, exact = gradient(net_of(c, mpj.BPTT()), xs, ys)
    assert_close(found.readout, exact.readout, 1e-12)
    assert np.abs(exact.readout.weight).max() > 0.1
    zeros = jax.tree.map(jnp.zeros_like, eqx.filter(c, eqx.is_inexact_array))
    assert_close(found.rnn.cell, zeros, 0.0)
    (total, carry), streamed = streamed_gradient(5)(model, xs, ys)
    assert_close((total, streamed), (loss, found), 1e-12)
    assert not jax.tree.leaves(carry.trace)


@pytest.mark.slow
def test_nothing_below_learns():
    """Not even by what an input does in its own step, and no initial state."""
    c, (xs, ys) = cell("leaky"), data()
    readout = mpj.Readout(N, OUT, key=jr.key(7))

    def loss(xs, state, rule):
        state, zs = mpj.scan(c, state, xs, rule=rule)
        return error(readout(zs), ys) + jnp.sum(state**2)

    take = jit(jax.grad(loss, (0, 1)))
    state = 0.2 * jr.normal(jr.key(0), (*BATCH, N))
    assert not any(np.asarray(g).any() for g in take(xs, state, mpj.ReadoutOnly()))
    assert all(np.asarray(g).all() for g in take(xs, state, mpj.BPTT()))


def test_output_weights_of_a_cell_are_read_out():
    c = mpj.LRUCell(M, N, r_min=0.8, max_phase=1.0, key=jr.key(3))
    own = ("C_re", "C_im", "D")
    found = gradient(net_of(c, mpj.ReadoutOnly(), M), *data())[1].rnn.cell
    exact = gradient(net_of(c, mpj.BPTT(), M), *data())[1].rnn.cell
    for name in ("nu", "theta", "gamma_log", "B_re", "B_im", *own):
        have, want = np.asarray(getattr(found, name)), np.asarray(getattr(exact, name))
        assert np.abs(want).max() > 1e-3
        assert_close(have, want if name in own else np.zeros_like(want), 1e-12, name)


@pytest.mark.slow
def test_nothing_is_cut_by_segments():
    """So their length may be chosen by memory, which is refused to rules that lose the past."""
    stream = mpj.online_value_and_grad(segment_loss, segment="auto")
    model, (xs, ys) = net_of(cell("leaky"), mpj.ReadoutOnly()), data()
    (_, carry), found = jit(stream)(model, model.rnn.init(BATCH), xs, ys)
    assert_close(found, gradient(model, xs, ys)[1], 1e-12)
    flags = jnp.ones((1, *BATCH), bool)
    ended, _ = mpj.scan(model.rnn.cell, carry, xs[:1], rule=model.rnn.rule, done=flags)
    assert not np.asarray(ended.state).any()


def test_its_step_has_no_derivative():
    c, rule, state = cell("adaptive"), mpj.ReadoutOnly(), cell("adaptive").init(BATCH)
    x = data()[0][0]
    primal, tangent = jax.jvp(lambda x: rule.step(c, state, x), (x,), (jnp.ones_like(x),))
    assert_close(primal, c.step(state, x), 0.0)
    assert not any(np.asarray(leaf).any() for leaf in tangent)

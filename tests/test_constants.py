"""Numeric hyper-parameters of cells: each trains where it is given as an array."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    data,
    generic,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    plain_loss,
    streamed_gradient,
)

import modprop_jax as mpj


EACH = jnp.linspace(0.8, 1.2, N)


def spiking(cls, **options):
    made = cls(M, N, dampening=0.5, use_bias=True, key=jr.key(2), **options)
    return mpj.Filtered(generic(made, 3.0), 0.6)


# every constant that trains, as one value and as one a neuron, raw and constrained
CELLS = {
    "leaky": lambda: generic(
        mpj.LeakyCell(*(M, N), tau=jnp.asarray(4.0), dt=EACH, activation=jnp.tanh, key=jr.key(1))
    ),
    "leaky_positive": lambda: generic(
        mpj.LeakyCell(
            M,
            N,
            tau=mpj.Positive(4 * EACH),
            dt=mpj.Positive(1.5),
            activation=jnp.tanh,
            use_bias=True,
            key=jr.key(1),
        )
    ),
    "rate": lambda: generic(mpj.RateCell(M, N, alpha=0.5 * EACH, key=jr.key(4))),
    "rate_between": lambda: generic(
        mpj.RateCell(M, N, alpha=mpj.Between(0.6, 0.0, 1.0), key=jr.key(4))
    ),
    "lif": lambda: spiking(
        mpj.LIFCell, tau=mpj.Positive(4.0), threshold=0.4 * EACH, dt=jnp.asarray(1.0)
    ),
    "alif": lambda: spiking(
        mpj.ALIFCell,
        tau=4 * EACH,
        threshold=mpj.Positive(0.4),
        dt=EACH,
        tau_adaptation=jnp.asarray(6.0),
        beta=mpj.Positive(0.3 * EACH),
        divide_by_adaptive=True,
        scale_input=True,
        reset_gradient=True,
    ),
}


def net(cell_name, rule):
    return Net(mpj.RNN(made(cell_name), rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


made = functools.cache(lambda name: CELLS[name]())
plain = jit(eqx.filter_grad(plain_loss))


def constants(gradients):
    """The gradients of all that is no weight."""
    cell = gradients.rnn.cell
    cell = cell.cell if isinstance(cell, mpj.Filtered) else cell
    return eqx.tree_at(lambda c: (c.weight_rec, c.weight_in), cell, (None, None))


@pytest.mark.parametrize("cell_name", CELLS)
def test_constants_train(cell_name):
    """BPTT and streamed RTRL are JAX's own derivative, of each constant; none is zero."""
    found = gradient(net(cell_name, mpj.BPTT()), *data())[1]
    exact = plain(net(cell_name, mpj.BPTT()), *data())
    assert_close(found, exact, 1e-9)
    # a neuron that stays silent has none
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(constants(found)))
    rtrl = streamed_gradient(3)(net(cell_name, mpj.RTRL()), *data())[1]
    assert_close(constants(rtrl), constants(exact), 1e-9)


@pytest.mark.parametrize(
    "rule, cell_name",
    [(mpj.EProp(), name) for name in CELLS]
    + [(mpj.SnAp(1), "leaky"), (mpj.SnAp(1), "alif"), (mpj.ModProp(0.5), "rate_between")],
)
@pytest.mark.slow
def test_constants_stream(rule, cell_name):
    model = net(cell_name, rule)
    offline = gradient(model, *data())[1]
    assert_close(streamed_gradient(3)(model, *data())[1], offline, 1e-9)

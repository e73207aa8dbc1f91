"""The derivative of `scan` is one in reverse mode; second derivatives go forward over reverse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, cell, data, jit, net, offline_loss, plain_loss

import modprop_jax as mpj


def parts(name, cell_name):
    """A loss of the parameters alone, and the parameters."""
    model, (xs, ys) = net(name, cell_name), data(steps=3)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, loss=offline_loss: loss(eqx.combine(params, static), xs, ys), params


MODES = {
    "jvp": lambda loss, p: jax.jvp(loss, (p,), (p,)),
    "jacfwd": lambda loss, p: jax.jacfwd(loss)(p),
    "jacfwd, jitted": lambda loss, p: jax.jit(jax.jacfwd(loss))(p),
    "filter_jvp": lambda loss, p: eqx.filter_jvp(loss, (p,), (p,)),
    "by inputs": lambda loss, p: jax.jvp(
        lambda xs: mpj.RNN(cell("leaky"))(xs), (data()[0],), (data()[0],)
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_forward_mode_is_refused(mode):
    for name, cell_name in (("bptt", "leaky"), ("rtrl", "filtered_adaptive")):
        with pytest.raises(ValueError, match=r"reverse mode alone.*rule\.step.*jax\.hessian"):
            MODES[mode](*parts(name, cell_name))


def test_a_type_error_of_ones_own_stays():
    def step(params, state, x):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        mpj.RNN(mpj.FunctionCell(step, jnp.ones(()), np.zeros(3)))(data()[0])


def test_the_hessian():
    loss, params = parts("bptt", "leaky_tau")
    tau = params.rnn.cell.tau

    def of_tau(tau, of=offline_loss):
        return loss(eqx.tree_at(lambda m: m.rnn.cell.tau, params, tau), of)

    expected = jit(jax.hessian(lambda tau: of_tau(tau, plain_loss)))(tau)
    assert_close(jit(jax.hessian(of_tau))(tau), expected)
    assert np.abs(expected) > 1e-4


@pytest.mark.parametrize("name", ["eprop", "rtrl", "modprop_types"])
def test_forward_over_reverse_is_reverse_over_reverse(name):
    """Of the rule's gradient, whatever it is."""
    loss, params = parts(name, "leaky")
    direction = jax.tree.map(lambda p: jr.normal(jr.key(0), p.shape), params)
    along = jit(lambda p: jax.jvp(jax.grad(loss), (p,), (direction,))[1])(params)

    # as a matrix: the Jacobian of an approximate gradient is not symmetric
    other = jax.tree.map(lambda p: jr.normal(jr.key(1), p.shape), params)
    across = jit(lambda p: jax.vjp(jax.grad(loss), p)[1](other)[0])(params)

    def dot(a, b):
        return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))

    np.testing.assert_allclose(dot(along, other), dot(across, direction), rtol=1e-9)

"""Complex numbers: BPTT is JAX's own derivative, every other rule refuses them."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, BATCH, jit, M, meeting, N, plain_scan, rule, T

import modprop_jax as mpj


RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(0.6 * (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)))


def mixing(z):
    """Elementwise, and not holomorphic."""
    return jnp.tanh(z.real) + 1j * jnp.tanh(0.5 * z.imag + 0.2 * z.real)


class Own(mpj.AbstractCell):
    """A step that needs the conjugate of the state; its decay is real, its weights complex."""

    weight: jax.Array
    into: jax.Array
    decay: jax.Array

    def __init__(self):
        self.weight, self.into = normal(N, N), normal(N, M)
        self.decay = jnp.asarray(0.3)

    def init(self, batch_shape: Any = ()):
        return jnp.zeros((*batch_shape, N), complex)

    def step(self, state, x):
        return mixing(state @ self.weight.T + x @ self.into.T) + self.decay * jnp.conj(state)

    def emit(self, state):
        return state


def phases(params, state, x):
    """Real parameters and inputs, a complex state."""
    turn = jnp.broadcast_to(jnp.exp(1j * params["phase"]), state.shape)
    return 0.9 * turn * state + x @ params["into"].T


RATE: dict[str, Any] = {"activation": mixing, "dtype": complex, "key": jr.key(0)}
TURNS = {"phase": jnp.linspace(0.1, 1.0, N), "into": jnp.ones((N, M))}
CELLS = {
    "own": Own,
    "rate": lambda: mpj.RateCell(M, N, alpha=0.6, **RATE),
    "leaky": lambda: mpj.LeakyCell(M, N, tau=jnp.linspace(2.0, 4.0, N), **RATE),
    "filtered": lambda: mpj.Filtered(cell("rate"), 0.7),
    "real parameters": lambda: mpj.FunctionCell(phases, TURNS, np.zeros(N, complex)),
}
# the annotations of neurons are those of real ones
pytestmark = pytest.mark.usefixtures("without_type_checks", "promotion")


@pytest.fixture
def promotion():
    """Real numbers meet complex ones."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def cell(name: str) -> Any:
    return CELLS[name]()


XS = normal(T, *BATCH, M)


def energy(zs):
    return jnp.sum(jnp.abs(zs) ** 2 + 0.3 * zs.real * zs.imag + 0.2 * zs.real)


@pytest.mark.parametrize("came", [XS, XS.real], ids=["complex", "real"])
@pytest.mark.parametrize("name", CELLS)
def test_bptt_is_jaxs_derivative(name, came):
    c = cell(name)

    def ours(both):
        c, start = both
        return energy(mpj.scan(c, start, came)[1])

    def plain(both):
        c, start = both
        return energy(plain_scan(c, start, came.astype(complex))[1])

    both = c, jax.tree.map(lambda s: s + 0.1j, c.init(BATCH))
    actual = jit(eqx.filter_value_and_grad(ours))(both)
    assert_close(actual, jit(eqx.filter_value_and_grad(plain))(both), 1e-12)


def test_finite_differences_with_sequences_that_end():
    """Of real and imaginary parts: the convention is JAX's, ∂/∂re - i ∂/∂im."""
    rnn = mpj.RNN(cell("rate"))
    flags = {"done": RNG.random((T, *BATCH)) < 0.3, "valid": RNG.random((T, *BATCH)) < 0.8}

    def loss(rnn):
        return energy(rnn(XS, **flags))

    gradient = jit(eqx.filter_grad(loss))(rnn)
    tangent = jax.tree.map(lambda g: normal(*g.shape), gradient)
    inner = jax.tree.map(lambda g, t: jnp.sum(g * t).real, gradient, tangent)
    value = jit(lambda h: loss(eqx.apply_updates(rnn, jax.tree.map(lambda t: h * t, tangent))))
    h = jnp.asarray(1e-5)
    slope = (value(h) - value(-h)) / (2 * h)
    np.testing.assert_allclose(sum(jax.tree.leaves(inner)), slope, rtol=1e-7)


def test_segments_of_bptt_are_cut():
    rnn = mpj.RNN(cell("rate"))

    def segment_loss(rnn, carry, xs, _):
        carry, zs = rnn(xs, carry)
        return energy(zs), carry

    def cut(rnn):
        state, zs = plain_scan(rnn.cell, rnn.cell.init(BATCH), XS[:6])
        return energy(zs) + energy(plain_scan(rnn.cell, jax.lax.stop_gradient(state), XS[6:])[1])

    stream = mpj.online_value_and_grad(segment_loss, segment=6)
    (loss, _), gradient = jit(stream)(rnn, rnn.init(BATCH), XS, XS)
    assert_close((loss, gradient), jit(eqx.filter_value_and_grad(cut))(rnn))


@pytest.mark.parametrize("name", meeting("complex"))
def test_other_rules_refuse_them(name):
    message = rf"{type(rule(name)).__name__} keeps credit in real numbers, but complex128.*BPTT"
    for c in (cell("rate"), cell("filtered"), cell("own")):
        state = c.init(BATCH)
        with pytest.raises(ValueError, match=message):
            mpj.scan(c, state, XS, rule=rule(name))
        with pytest.raises(ValueError, match=message):
            rule(name).init(c, state, key=jr.key(0))


def test_a_complex_state_alone():
    with pytest.raises(ValueError, match="RTRL keeps credit in real numbers, but complex128"):
        mpj.RNN(cell("real parameters"), rule=mpj.RTRL())(XS.real)
    c = mpj.RateCell(M, N, key=jr.key(0))
    for made, state in ((c, c.init(BATCH) + 0j), (cell("rate"), c.init(BATCH))):
        with pytest.raises(ValueError, match=r"The state is .*RateCell\.init makes it"):
            mpj.scan(made, state, XS.real)
    with pytest.raises(ValueError, match="complex128.*real and imaginary parts as features"):
        mpj.RNN(c)(XS)

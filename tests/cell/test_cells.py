"""The cells alone: their equations, their first weights, their constants."""

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
    inner,
    jit,
    M,
    MASK,
    N,
    Net,
    offline_loss,
    OUT,
    plain_loss,
    plain_scan,
    segment_loss,
    T,
    weights,
)

import modprop_jax as mpj


SIGNS = [1, 1, -1, 1, -1, 1]


def test_rate_cell_equation():
    c, xs = cell("rate"), np.array(data()[0])
    W, W_in, b = (np.array(a) for a in (c.weight_rec, c.weight_in, c.bias))
    a, expected = np.zeros((*BATCH, N)), []
    for x in xs:
        a = 0.4 * a + 0.6 * np.tanh(a @ W.T + x @ W_in.T + b)
        expected.append(a)
    actual = jit(lambda: mpj.scan(c, c.init(BATCH), data()[0]))()[1]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert (c.leak, c.gain) == (0.4, 0.6)


@pytest.mark.parametrize("scale, gain", [(False, 1.0), (True, 0.3)])
def test_filtered_emission(scale, gain):
    c, xs = mpj.Filtered(cell("rate"), 0.7, scale=scale), data()[0]
    zs = np.array(plain_scan(cell("rate"), cell("rate").init(BATCH), xs)[1])
    memory, expected = np.zeros_like(zs[0]), []
    for z in zs:
        memory = 0.7 * memory + gain * z
        expected.append(memory)
    (state, last), actual = jit(lambda: mpj.scan(c, c.init(BATCH), xs))()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-12)
    # the recurrent drive still sees the unfiltered rate
    np.testing.assert_allclose(state, zs[-1], rtol=1e-12)


def test_leak_of_leaky_neurons():
    one, each = cell("leaky"), cell("leaky_taus")
    np.testing.assert_allclose(one.leak, np.exp(-1 / 4), rtol=1e-15)
    np.testing.assert_allclose(each.leak, np.exp(-1 / np.linspace(2, 8, N)), rtol=1e-15)
    for c in (one, each):
        np.testing.assert_allclose(c.gain, 1 - np.asarray(c.leak), rtol=1e-15)
    halved = mpj.LeakyCell(M, N, tau=4.0, dt=0.5, key=jr.key(0))
    np.testing.assert_allclose(halved.leak, np.exp(-1 / 8), rtol=1e-15)


@pytest.mark.parametrize("name, leak", [("adaptive", 0.8), ("refractory", 0.7)])
def test_the_nominal_leak_of_a_users_neuron_is_found(name, leak):
    # the derivative of the membrane by itself, at rest
    np.testing.assert_allclose(cell(name).leak, np.full(N, leak), rtol=1e-15)


def test_first_weights_have_the_variance_of_their_fan_in(getkey):
    c = mpj.LeakyCell(50, 400, tau=4.0, use_bias=True, key=getkey())
    assert abs(np.std(c.weight_rec) * np.sqrt(400) - 1) < 0.02
    assert abs(np.std(c.weight_in) * np.sqrt(50) - 1) < 0.03
    assert (np.asarray(c.bias) == 0).all()


def test_dale_recipe(getkey):
    signs = np.where(np.arange(40) < 30, 1, -1)
    W = np.array(jit(lambda key: mpj.balanced_dale(key, signs))(getkey()))
    assert (W * signs[None] >= 0).all(), "one sign for each presynaptic neuron"
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(W)).max(), 1, rtol=1e-9)
    # every neuron's incoming weights sum to zero
    assert np.abs(W.sum(1)).max() < 1e-12


def test_a_cell_with_signs_starts_from_the_dale_recipe():
    c = mpj.LeakyCell(M, N, tau=4.0, signs=SIGNS, key=jr.key(0))
    key, _ = jr.split(jr.key(0))
    mask = ~np.eye(N, dtype=bool)
    np.testing.assert_array_equal(c.weight_rec, mpj.balanced_dale(key, SIGNS, mask=mask))
    assert c.signs == tuple(SIGNS)
    assert (np.asarray(c.effective().weight_rec) * np.array(SIGNS) >= 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("signs", [None, SIGNS])
def test_parameters_have_the_dtype_asked_for(dtype, signs):
    for make in (
        lambda **o: mpj.LeakyCell(M, N, tau=4.0, **o),
        lambda **o: mpj.RateCell(M, N, **o),
    ):
        if signs is None or dtype == jnp.float32:
            c = make(dtype=dtype, signs=signs, key=jr.key(0))
            leaves = jax.tree.leaves(eqx.filter(c, eqx.is_inexact_array))
            assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
            assert c.init((2,)).dtype == jnp.float32, "states are float32 at least"


def test_masks_and_autapses_shape_the_drive():
    c, sent = inner("leaky_taus"), jnp.ones((N,))
    W = np.array(c.weight_rec)
    expected = (W * MASK).sum(1) + np.array(c.bias)
    np.testing.assert_allclose(c.drive(sent, jnp.zeros(M)), expected, rtol=1e-12)
    c = cell("leaky")
    W = np.array(c.weight_rec) * (1 - np.eye(N))
    expected = W.sum(1) + np.array(c.bias)
    np.testing.assert_allclose(c.drive(sent, jnp.zeros(M)), expected, rtol=1e-12)


def test_a_function_cell_starts_from_its_state():
    start = {"h": np.array([0.1, 0.2]), "count": np.array(3, np.int32)}
    c = mpj.FunctionCell(lambda p, s, x: s, (), start, lambda s: s["h"])
    state = c.init((4,))
    np.testing.assert_array_equal(state["h"], np.tile([0.1, 0.2], (4, 1)))
    assert state["count"].shape == (4,) and state["count"].dtype == jnp.int32
    assert not jax.tree.leaves(c), "the initial state is a constant"
    _, zs = mpj.scan(c, state, jnp.ones((T, 4, 1)))
    assert zs.shape == (T, 4, 2)


@pytest.mark.parametrize("leak", [None, 0.6])
def test_a_function_cell_may_emit_with_its_parameters(leak):
    """JAX's own gradient under BPTT, and the same streamed under RTRL and SnAp."""
    rng = np.random.default_rng(0)
    sizes = {"w": 2, "u": M, "o": 2}
    params = {name: jnp.asarray(rng.normal(size=(2, k))) for name, k in sizes.items()}

    def step(params, state, x):
        return jnp.tanh(state @ params["w"].T + x @ params["u"].T)

    def emit(params, state):
        return jnp.sin(state @ params["o"].T)

    c = mpj.FunctionCell(step, params, np.zeros(2), emit, emit_params=True)
    c = c if leak is None else mpj.Filtered(c, leak)
    model, (xs, ys) = Net(mpj.RNN(c), mpj.Readout(2, OUT, key=jr.key(7))), data(steps=6)

    def streamed(model, rule, xs, ys):
        model = mpj.with_rule(model, rule)
        stream = mpj.online_value_and_grad(segment_loss, segment=4)
        return stream(model, model.rnn.init(BATCH), xs, ys)[1]

    @jit
    def run(model, xs, ys):
        rules = mpj.RTRL(), mpj.SnAp(3, inputs=M)
        expected = eqx.filter_grad(plain_loss)(model, xs, ys)
        found = [mpj.value_and_grad(offline_loss)(model, xs, ys)[1]]
        return expected, found + [streamed(model, rule, xs, ys) for rule in rules]

    expected, found = run(model, xs, ys)
    for each in found:
        assert_close(weights(each), weights(expected), 1e-10)

"""Equal to the rules' equations, written again in NumPy loops and as surrogate models."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    error,
    inner,
    jit,
    MU_BY_NEURON,
    MU_BY_TYPE,
    N,
    net,
    offline,
    serves,
    T,
    TYPES,
    weights,
)

import modprop_jax as mpj


# what the loops and surrogates need to know of a row of the table
OPTIONS = {
    "mdgl_types": {"types": TYPES},
    "mdgl_diffuse": {"types": TYPES},
    "modprop": {"mu": 0.5},
    "modprop_types": {"mu": 0.5, "types": TYPES},
    "modprop_mu_by_type": {"mu": MU_BY_TYPE[list(TYPES)], "types": TYPES},
    "modprop_mu_by_neuron": {"mu": MU_BY_NEURON, "types": TYPES},
}
LOOPS = ["bptt", "eprop", "mdgl", "mdgl_types", "mdgl_diffuse", "modprop", "modprop_types"]
LOOPS += ["modprop_mu_by_type", "modprop_mu_by_neuron"]


def without_variant(name):
    return "modprop_types" if "_mu_by_" in name else name


@functools.cache
def leaky_run():
    c = cell("leaky")
    W = np.array(c.weight_rec) * (1 - np.eye(N))
    eta = float(np.exp(-1 / 4))
    return oracles.run_leaky(W, np.array(c.weight_in), np.array(c.bias), eta, np.array(data()[0]))


@functools.cache
def leaky_credit():
    """dE/dz at every step, and the readout's gradients, of the suites' loss."""
    readout, ys = net("bptt", "leaky").readout, np.array(data()[1])
    outputs = leaky_run().z @ np.array(readout.weight).T + np.array(readout.bias)
    err = (outputs - ys + 0.3 * outputs**2) / BATCH[0]
    loss = np.sum(0.5 * (outputs - ys) ** 2 + 0.1 * outputs**3) / BATCH[0]
    d_weight = np.einsum("tbo,tbi->oi", err, leaky_run().z)
    return loss, err @ np.array(readout.weight), d_weight, err.sum((0, 1))


def assert_gradients(gradients, expected):
    c = gradients.rnn.cell
    actual = {"weight_rec": c.weight_rec, "weight_in": c.weight_in, "bias": c.bias}
    assert_close(jax.tree.map(np.asarray, actual), expected, 1e-12)


@pytest.mark.parametrize("name", LOOPS)
def test_leaky_neurons_equal_the_loop_of_credit(name):
    loss, ell, d_weight, d_bias = leaky_credit()
    value, gradients = offline(name, "leaky")
    expected = oracles.leaky_reverse(
        without_variant(name), leaky_run(), ell, **OPTIONS.get(name, {})
    )
    np.testing.assert_allclose(value, loss, rtol=1e-13)
    assert_gradients(gradients, expected)
    assert_close(np.asarray(gradients.readout.weight), d_weight, 1e-12)
    assert_close(np.asarray(gradients.readout.bias), d_bias, 1e-12)


@pytest.mark.parametrize("name", LOOPS)
def test_leaky_neurons_equal_the_textbook_traces(name):
    _, ell, _, _ = leaky_credit()
    expected = oracles.leaky_causal(
        without_variant(name), leaky_run(), ell, **OPTIONS.get(name, {})
    )
    assert_gradients(offline(name, "leaky")[1], expected)


@pytest.mark.parametrize("name", LOOPS[-3:])
def test_type_specific_modprop_equals_its_presynaptic_channels(name):
    _, ell, _, _ = leaky_credit()
    expected = oracles.modprop_channels(leaky_run(), ell, **OPTIONS[name])
    assert_gradients(offline(name, "leaky")[1], expected)


def test_eprop_on_rate_neurons_is_rflo():
    c, readout = cell("rate"), net("eprop", "rate").readout
    xs, ys = map(np.array, data())

    def signal(t, a):
        outputs = a @ np.array(readout.weight).T + np.array(readout.bias)
        return (outputs - ys[t] + 0.3 * outputs**2) / BATCH[0] @ np.array(readout.weight)

    W, W_in, b = (np.array(a) for a in (c.weight_rec, c.weight_in, c.bias))
    _, expected = oracles.rflo(W, W_in, b, float(c.alpha), xs, signal)
    assert_gradients(offline("eprop", "rate")[1], expected)


def nominal(cell_name):
    """Leak and gain by hand: what ModProp's filters know of a cell."""
    name = cell_name.removeprefix("filtered_")
    if name == "rate":
        return 0.4, 0.6
    if name == "adaptive":
        return 0.8, 0.2
    eta = np.exp(-1 / (np.linspace(2.0, 8.0, N) if name == "leaky_taus" else 4.0))
    return eta, 1 - eta


KINDS = "leaky_tau leaky_taus rate adaptive filtered_leaky_taus filtered_adaptive".split()
SURROGATES = [
    (rule, cell_name)
    for cell_name in KINDS
    for rule in ("eprop", "mdgl", "mdgl_types", "mdgl_diffuse", "modprop", "modprop_types")
    if serves(rule, cell_name)
]


@pytest.mark.parametrize("name, cell_name", SURROGATES)
def test_neuron_cells_equal_the_surrogate_of_the_rule(name, cell_name):
    leak, gain = nominal(cell_name)
    options = OPTIONS.get(name, {}) | {"leak": leak, "gain": gain}
    kept = oracles.paths(name, inner(cell_name), **options)
    xs, ys = data()

    def loss(model):
        c = model.rnn.cell
        zs = oracles.surrogate_emissions(name, kept, c, c.init(BATCH), xs)
        return error(model.readout(zs), ys)

    value, expected = jit(eqx.filter_value_and_grad(loss))(net(name, cell_name))
    actual_value, actual = offline(name, cell_name)
    np.testing.assert_allclose(actual_value, value, rtol=1e-13)
    assert_close(weights(actual), weights(expected), 1e-11)


@pytest.mark.parametrize("name", ["eprop", "modprop_types", "mdgl_types"])
def test_credit_on_the_initial_state_and_on_the_inputs_is_the_rules(name):
    c = cell("leaky_tau")
    leak, gain = nominal("leaky_tau")
    options = OPTIONS.get(name, {}) | {"leak": leak, "gain": gain}
    kept = oracles.paths(name, c, **options)
    xs, ys = data()
    start = 0.5 * jnp.asarray(np.random.default_rng(5).normal(size=(*BATCH, N)))
    readout, rule = net(name, "leaky_tau").readout, net(name, "leaky_tau").rnn.rule

    def by_rule(start, xs):
        return error(readout(mpj.scan(c, start, xs, rule=rule)[1]), ys)

    def by_surrogate(start, xs):
        return error(readout(oracles.surrogate_emissions(name, kept, c, start, xs)), ys)

    actual = jit(jax.grad(by_rule, (0, 1)))(start, xs)
    assert_close(actual, jit(jax.grad(by_surrogate, (0, 1)))(start, xs), 1e-12)
    assert actual[1].shape == (T, *BATCH, xs.shape[-1])

"""The exact rules: JAX's own derivative, finite differences, and forward mode."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    CELLS,
    data,
    error,
    flat,
    inner,
    jit,
    net,
    offline,
    offline_loss,
    plain_loss,
    plain_scan,
    rule,
    TYPES,
    weights,
)

import modprop_jax as mpj


@pytest.mark.parametrize("cell_name", CELLS)
def test_bptt_and_rtrl_equal_jax(cell_name):
    loss, expected = jit(eqx.filter_value_and_grad(plain_loss))(net("bptt", cell_name), *data())
    for name in ("bptt", "rtrl"):
        value, actual = offline(name, cell_name)
        np.testing.assert_allclose(value, loss, rtol=1e-13)
        assert_close(weights(actual), weights(expected), 1e-11, name)


@pytest.mark.parametrize("cell_name", ["leaky_tau", "filtered_adaptive", "function"])
def test_initial_state_and_inputs_get_exact_credit(cell_name):
    c, model, (xs, ys) = cell(cell_name), net("bptt", cell_name), data()
    rng = np.random.default_rng(1)
    start = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape)), c.init(BATCH))

    def loss(run):
        def value(start, xs):
            last, zs = run(c, start, xs)
            reads_state = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))
            return error(model.readout(zs), ys) + reads_state

        return jit(jax.grad(value, (0, 1)))(start, xs)

    assert_close(loss(mpj.scan), loss(plain_scan), 1e-11)


def test_a_loss_on_the_last_state_alone():
    # no cotangent reaches the emissions
    c, xs = cell("leaky_tau"), data()[0]

    def loss(run):
        return jit(eqx.filter_grad(lambda c: jnp.sum(run(c, c.init(BATCH), xs)[0] ** 2)))(c)

    assert_close(loss(mpj.scan), loss(plain_scan), 1e-11)


def test_bptt_equals_finite_differences():
    model, (xs, ys) = net("bptt", "leaky_taus"), data(steps=5)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    loss = jit(lambda params: offline_loss(eqx.combine(params, static), xs, ys))
    gradient = jax.tree.leaves(jit(mpj.value_and_grad(offline_loss))(model, xs, ys)[1])
    for i, leaf in enumerate(leaves):
        direction = rng.normal(size=leaf.shape)

        def at(h):
            moved = [*leaves[:i], leaf + h * direction, *leaves[i + 1 :]]
            return float(loss(jax.tree.unflatten(structure, moved)))

        h = 1e-4
        # fourth order
        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        np.testing.assert_allclose(np.sum(gradient[i] * direction), slope, rtol=1e-8)


# --- forward mode ---


def emissions_by_step(one, c, xs):
    def body(state, x):
        state = one.step(c, state, x)
        return state, c.emit(state)

    return jax.lax.scan(body, c.init(BATCH), xs)[1]


@pytest.mark.parametrize(
    "name, cell_name",
    [
        ("bptt", "leaky_tau"),
        ("rtrl", "leaky"),
        ("eprop", "leaky_tau"),
        ("eprop", "adaptive"),
        ("modprop", "leaky_taus"),
        ("modprop_types", "leaky"),
        ("modprop_types", "leaky_tau"),
        ("modprop_mu_by_neuron", "leaky"),
    ],
)
def test_forward_mode_through_the_rules_step(name, cell_name):
    """The directional derivative by `jax.jvp` is <reverse gradient, direction>."""
    one, model, (xs, ys) = rule(name), net(name, cell_name), data()
    params, static = eqx.partition(inner(cell_name), eqx.is_inexact_array)
    rng = np.random.default_rng(4)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)

    def loss(params):
        zs = emissions_by_step(one, eqx.combine(params, static), xs)
        return error(model.readout(zs), ys)

    value, slope = jit(lambda p, d: jax.jvp(loss, (p,), (d,)))(params, direction)
    expected, gradients = offline(name, cell_name)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(slope, flat(gradients.rnn.cell) @ flat(direction), rtol=1e-10)
    # and backwards through the same steps
    backwards = jit(jax.grad(loss))(params)
    assert_close(flat(backwards), flat(gradients.rnn.cell), 1e-11)


@pytest.mark.parametrize("name", ["bptt", "eprop", "modprop", "modprop_types"])
def test_the_value_of_a_rules_step_is_the_cells(name):
    c, xs = cell("leaky"), data()[0]
    zs = jit(lambda xs: emissions_by_step(rule(name), c, xs))(xs)
    np.testing.assert_allclose(zs, plain_scan(c, c.init(BATCH), xs)[1], rtol=1e-13)


def test_step_and_back_exist_where_they_mean_something():
    rules = [v for v in vars(mpj).values() if isinstance(v, type) and "card" in vars(v)]
    steps = {mpj.BPTT, mpj.RTRL, mpj.DiagonalRTRL, mpj.EProp, mpj.EICredit, mpj.ReadoutOnly}
    steps |= {mpj.EqProp}
    assert {r for r in rules if hasattr(r, "step")} == steps | {mpj.ModProp}
    assert {r for r in rules if issubclass(r, mpj.AbstractSurrogateRule)} == steps
    back = {mpj.MDGL, mpj.FutureBPTT, mpj.QuasiStatic, mpj.TypeFilter}
    assert {r for r in rules if hasattr(r, "back")} == steps | back


@pytest.mark.parametrize("cell_name", ["rate", "adaptive", "leaky_taus"])
def test_modprop_has_a_step_on_leaky_cells_of_one_tau(cell_name):
    c = cell(cell_name)
    with pytest.raises(ValueError, match="one-step derivative on LeakyCell.*Use scan"):
        mpj.ModProp(0.5, TYPES).step(c, c.init(BATCH), data()[0][0])


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", ["eprop", "modprop"])
@pytest.mark.parametrize("cell_name", ["function", "filtered_leaky"])
def test_local_rules_have_a_step_on_neuron_cells_only(name, cell_name):
    c = cell(cell_name)
    with pytest.raises(ValueError, match="EProp needs a NeuronCell|ModProp has a one-step"):
        rule(name).step(c, c.init(BATCH), data()[0][0])


def test_scan_has_no_forward_mode():
    # a custom reverse rule: rule.step is the form for jax.jvp
    c, xs = cell("leaky"), data()[0]
    with pytest.raises(ValueError, match="reverse mode alone.*rule.step"):
        jax.jvp(lambda xs: mpj.scan(c, c.init(BATCH), xs)[1], (xs,), (xs,))

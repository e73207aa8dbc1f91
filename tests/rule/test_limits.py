"""Where rules must coincide: no recurrence, no gain, one step, one type a neuron, linear units."""

from typing import Any

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
    distance,
    error,
    gradient,
    inner,
    jit,
    M,
    marked,
    MASK,
    meeting,
    N,
    Net,
    net,
    NEURONS,
    offline,
    OUT,
    rule,
    RULES,
    streamed_gradient,
    SUITES,
    TYPES,
    weights,
)

import modprop_jax as mpj


def under(rule: Any, c: Any) -> Any:
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def without_recurrence(model):
    return eqx.tree_at(lambda m: inner_of(m.rnn.cell).weight_rec, model, replace_fn=jnp.zeros_like)


def inner_of(c: Any) -> Any:
    return c.cell if isinstance(c, mpj.Filtered) else c


def cells_of(suite):
    """Those that a suite names, the last for rules that serve no other, which is slow."""
    *many, last = SUITES[suite].cells
    return [*many, pytest.param(last, marks=pytest.mark.slow)]


def meeting_first(suite, cell_name):
    """The rules that meet a suite on a cell; on the last one those that serve no other."""
    *many, last = SUITES[suite].cells
    elsewhere = {name for other in many for name in meeting(suite, other)}
    return [n for n in meeting(suite, cell_name) if cell_name != last or n not in elsewhere]


@pytest.mark.parametrize("cell_name", cells_of("no recurrence"))
def test_without_recurrent_weights_every_rule_is_exact(cell_name):
    expected = weights(gradient(without_recurrence(net("bptt", cell_name)), *data())[1])
    assert np.abs(inner_of(expected[0]).weight_rec).max() > 1e-3
    for name in meeting_first("no recurrence", cell_name):
        model = without_recurrence(net(name, cell_name))
        assert_close(weights(gradient(model, *data())[1]), expected, what=name)


@pytest.mark.parametrize("cell_name", SUITES["one step"].cells)
@pytest.mark.slow
def test_in_one_step_every_rule_is_exact(cell_name):
    xs, ys = data(steps=1)
    state = jax.tree.map(
        lambda s: s + 0.3 * jr.normal(jr.key(4), s.shape), cell(cell_name).init(BATCH)
    )

    def loss(model, state):
        return error(model(xs, state)[1], ys)

    def gradients(name):
        found = weights(take(net(name, cell_name), state))
        if cell_name != "adaptive":
            return found
        # what a neuron sends from its first state reads `strength`: that is transport already
        return eqx.tree_at(lambda g: g[0].strength, found, None)

    take = jit(eqx.filter_grad(loss))
    expected = gradients("bptt")
    for name in meeting_first("one step", cell_name):
        assert_close(gradients(name), expected, what=name)


@pytest.mark.parametrize("cell_name", NEURONS)
def test_modprop_with_mu_0_is_eprop(cell_name):
    expected = weights(offline("eprop", cell_name)[1])
    for types in (None, TYPES):
        model = under(mpj.ModProp(0.0, types), cell(cell_name))
        assert_close(weights(gradient(model, *data())[1]), expected, what=f"types={types}")


@pytest.mark.parametrize("cell_name", ["leaky", "rate", "filtered_adaptive"])
@pytest.mark.slow
def test_one_type_a_neuron_is_cell_specific(cell_name):
    each = np.random.default_rng(0).permutation(N)
    for name, typed in (("modprop", mpj.ModProp(0.5, each)), ("mdgl", mpj.MDGL(each))):
        expected = weights(offline(name, cell_name)[1])
        model = under(typed, cell(cell_name))
        assert_close(weights(gradient(model, *data())[1]), expected, what=name)
        _, actual = streamed_gradient(5)(model, *data())
        assert_close(weights(actual), expected, what=f"{name} streamed ")


def test_a_type_of_mu_equals_its_neurons_mu():
    by_type = np.array([0.4, 0.7, 0.2])
    expected = weights(offline("modprop_mu_by_type", "leaky")[1])
    model = under(mpj.ModProp(by_type[list(TYPES)], TYPES), cell("leaky"))
    assert_close(weights(gradient(model, *data())[1]), expected)


def block_constant(seed):
    """Weights that are alike within every pair of types, so that means lose nothing."""
    index = np.asarray(TYPES)
    blocks = np.random.default_rng(seed).normal(size=(3, 3)) / np.sqrt(N)
    return jnp.asarray(blocks[index[:, None], index[None, :]])


@pytest.mark.parametrize("cell_name", ["leaky_tau", "rate", "adaptive"])
def test_types_of_equal_weights_lose_nothing(cell_name):
    c = cell(cell_name)
    c = eqx.tree_at(lambda c: c.weight_rec, c, block_constant(1))
    pairs = [(mpj.MDGL(TYPES), mpj.MDGL())]
    if c.autapses:
        pairs += [(mpj.ModProp(0.5, TYPES), mpj.ModProp(0.5))]
        pairs += [(mpj.MDGL(TYPES, diffuse=True), mpj.MDGL())]
    for typed, specific in pairs:
        actual = weights(gradient(under(typed, c), *data())[1])
        expected = weights(gradient(under(specific, c), *data())[1])
        assert_close(actual, expected, what=type(typed).__name__)


def linear(x):
    return x


@pytest.mark.parametrize("autapses", [False, True])
def test_on_linear_neurons_modprop_with_mu_1_is_exact(autapses):
    leaky = mpj.LeakyCell(
        M, N, tau=jnp.linspace(2.0, 8.0, N), activation=linear, autapses=autapses, key=jr.key(1)
    )
    rate = mpj.RateCell(M, N, alpha=0.5, activation=linear, autapses=autapses, key=jr.key(2))
    for c in (leaky, rate):
        expected = weights(gradient(under(mpj.BPTT(), c), *data())[1])
        assert_close(weights(gradient(under(mpj.ModProp(1.0), c), *data())[1]), expected)
        half = gradient(under(mpj.ModProp(0.5), c), *data())[1]
        assert distance(weights(half), expected) > 1e-3


@pytest.mark.parametrize("cell_name", ["leaky_taus", "adaptive", "rate"])
def test_in_two_steps_cell_specific_mdgl_is_exact(cell_name):
    # one hop is all that two steps have room for
    xs, ys = data(steps=2)
    expected = weights(gradient(net("bptt", cell_name), xs, ys)[1])
    assert_close(weights(gradient(net("mdgl", cell_name), xs, ys)[1]), expected)
    xs, ys = data(steps=3)
    three = weights(gradient(net("bptt", cell_name), xs, ys)[1])
    assert distance(weights(gradient(net("mdgl", cell_name), xs, ys)[1]), three) > 1e-4


def test_eprop_without_leak_sees_one_step():
    """On an Elman network e-prop is the immediate part of the gradient, step by step."""
    c = mpj.RateCell(M, N, alpha=1.0, key=jr.key(3))
    model, (xs, ys) = under(mpj.EProp(), c), data()
    _, gradients = gradient(model, xs, ys)

    def immediate(model):
        _, states = jax.lax.scan(
            lambda s, x: (model.rnn.cell.step(s, x),) * 2, model.rnn.cell.init(BATCH), xs
        )
        before = jnp.concatenate([jnp.zeros((1, *BATCH, N)), states[:-1]])
        after = model.rnn.cell.step(jax.lax.stop_gradient(before), xs)
        return error(model.readout(after), ys)

    assert_close(gradients, jit(eqx.filter_grad(immediate))(model))


@pytest.mark.parametrize(
    "name", [marked(name, slow=RULES[name].cells is not None) for name in meeting("missing")]
)
def test_what_is_stored_at_missing_synapses_does_not_matter(name):
    missing = ~MASK | np.eye(N, dtype=bool)
    c: Any = mpj.LeakyCell(
        M, N, tau=4.0, activation=jnp.tanh, use_bias=True, mask=MASK, key=jr.key(3)
    )

    def stored(value):
        weight = jnp.where(missing, value, 1.5 * c.weight_rec)
        return under(rule(name), eqx.tree_at(lambda c: c.weight_rec, c, weight))

    def gradients(value):
        loss, offline = gradient(stored(value), *data())
        if "streams" in RULES[name].opts_out:
            return loss, offline, None
        (total, _), streamed = streamed_gradient(5)(stored(value), *data())
        np.testing.assert_allclose(total, loss, rtol=1e-12)
        assert_close(streamed, offline)
        return loss, offline, streamed

    expected = gradients(0.0)
    for garbage in (1e3, np.nan):
        assert_close(gradients(garbage), expected, 0.0, f"garbage={garbage} ")
    for found in filter(None, expected[1:]):
        of_weights = np.asarray(found.rnn.cell.weight_rec)
        assert (of_weights[missing] == 0).all()
        assert (of_weights[~missing] != 0).all()


def test_the_effective_cell_has_its_mask_applied():
    c = eqx.tree_at(lambda c: c.weight_rec, inner("leaky_taus"), jnp.full((N, N), 2.0))
    np.testing.assert_array_equal(c.effective().weight_rec, 2.0 * MASK)
    assert c.autapses and c.mask is not None, "the cell itself is unchanged"
    c = cell("leaky")
    np.testing.assert_array_equal(np.diag(c.effective().weight_rec), np.zeros(N))
    assert c.effective().autapses and not c.autapses


@pytest.mark.parametrize("name", ["eprop", "modprop_types", "mdgl_types"])
def test_an_unfiltered_filter_is_no_filter(name):
    expected = offline(name, "adaptive")[1]
    for scale in (False, True):
        model = under(rule(name), mpj.Filtered(cell("adaptive"), 0.0, scale=scale))
        actual = gradient(model, *data())[1]
        assert_close(actual.rnn.cell.cell, expected.rnn.cell)


def test_a_scaled_filter_is_an_unscaled_one_of_a_smaller_readout():
    def losses(scale):
        model = under(mpj.EProp(), mpj.Filtered(cell("adaptive"), 0.75, scale=scale))
        if not scale:
            model = eqx.tree_at(lambda m: m.readout.weight, model, replace_fn=lambda w: 0.25 * w)
        return jit(mpj.value_and_grad(lambda m: error(m(data()[0]), data()[1])))(model)

    (one, first), (two, second) = losses(True), losses(False)
    np.testing.assert_allclose(one, two, rtol=1e-12)
    assert_close(first.rnn.cell.cell, second.rnn.cell.cell)

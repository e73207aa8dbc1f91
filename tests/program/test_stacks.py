"""Stacks of recurrent layers: what the layers below receive under every rule.

The oracles are JAX's own derivative of surrogate models, layer by layer.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import oracles
import pytest
from helpers import (
    assert_close,
    BATCH,
    data,
    distance,
    error,
    generic,
    gradient,
    jit,
    M,
    MU_BY_TYPE,
    N,
    OUT,
    TYPES,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


TAU, STEPS = 4.0, 8
RULES = {
    "bptt": mpj.BPTT(),
    "rtrl": mpj.RTRL(),
    "eprop": mpj.EProp(),
    "mdgl": mpj.MDGL(),
    "mdgl_types": mpj.MDGL(TYPES),
    "mdgl_diffuse": mpj.MDGL(TYPES, diffuse=True),
    "modprop": mpj.ModProp(0.5),
    "modprop_types": mpj.ModProp(MU_BY_TYPE, TYPES),
    "diagonal": mpj.DiagonalRTRL(),
}


class Stack(eqx.Module):
    """Recurrent layers with a linear map and tanh after each."""

    layers: list[mpj.RNN]
    links: list[mpj.Readout]

    def __call__(self, xs):
        for layer, link in zip(self.layers, self.links, strict=True):
            xs = self.between(link, layer(xs))
        return xs

    def stream(self, xs, carries):
        after = []
        for layer, link, carry in zip(self.layers, self.links, carries, strict=True):
            carry, zs = layer(xs, carry)
            xs = self.between(link, zs)
            after.append(carry)
        return after, xs

    def between(self, link, zs):
        return jnp.tanh(link(zs))


def leaky(key):
    options = {"activation": jnp.tanh, "use_bias": True}
    return generic(mpj.LeakyCell(M, N, tau=TAU, key=jr.key(key), **options))


def lru(key):
    return mpj.LRUCell(M, N, r_min=0.8, max_phase=1.0, key=jr.key(key))


@functools.cache
def stack(rule, make=leaky):
    """Two layers; weights do not depend on the rule."""
    cells, features = [make(20), make(21)], M if make is lru else N
    links = [mpj.Readout(features, k, key=jr.key(22 + k)) for k in (M, OUT)]
    return Stack([mpj.RNN(c, rule=RULES[rule]) for c in cells], links)


@functools.cache
def offline(rule, make=leaky):
    return gradient(stack(rule, make), *data(steps=STEPS))


@functools.cache
def streamed(rule, segment, make=leaky):
    def segment_loss(model, carries, xs, ys):
        carries, outputs = model.stream(xs, carries)
        return error(outputs, ys), carries

    model = stack(rule, make)
    run = jit(mpj.online_value_and_grad(segment_loss, segment=segment))
    (loss, _), gradients = run(
        model, [layer.init(BATCH) for layer in model.layers], *data(steps=STEPS)
    )
    return loss, gradients


def surrogate(emissions, model):
    """(loss, gradients) by JAX where `emissions(cell, xs, is_top)` runs a layer."""
    xs, ys = data(steps=STEPS)

    def loss(model):
        zs, top = xs, len(model.layers) - 1
        for i, (layer, link) in enumerate(zip(model.layers, model.links)):
            zs = model.between(link, emissions(layer.cell, zs, i == top))
        return error(zs, ys)

    return jit(eqx.filter_value_and_grad(loss))(model)


def stop(tree):
    return jax.tree.map(jax.lax.stop_gradient, tree)


def local_emissions(cell, xs):
    """e-prop's layer: messages, if there are any, have no derivative."""

    def step(state, x):
        state = cell.integrate(state, cell.drive(stop(cell.message(state)), x))
        return state, cell.emit(state)

    return jax.lax.scan(step, cell.init(BATCH), xs)[1]


def instantaneous_emissions(cell, xs, is_top):
    """As `local_emissions`, but an input has a derivative in its own step's emission alone."""
    del is_top
    frozen = stop(cell)

    def step(state, x):
        after = cell.integrate(state, cell.drive(stop(cell.message(state)), stop(x)))
        at_once = frozen.emit(frozen.step(stop(state), x))
        return after, cell.emit(after) + at_once - stop(at_once)

    return jax.lax.scan(step, cell.init(BATCH), xs)[1]


def parts(gradients):
    """The gradients without the rules: of what is below the top layer's cell, and from it on."""
    lower, upper = (layer.cell for layer in gradients.layers)
    return (lower, gradients.links[0]), (upper, gradients.links[1])


def layer_distances(actual, expected):
    """Relative distance of the gradients of each layer's cell."""
    pairs = zip(actual.layers, expected.layers, strict=True)
    return [distance(a.cell, e.cell) for a, e in pairs]


# --- offline: the surrogate of the rule, in each layer ---


@pytest.mark.parametrize("rule", [name for name in RULES if name not in ("rtrl", "diagonal")])
def test_offline_each_layer_is_the_rules_surrogate(rule):
    """What reaches a lower layer is, to its rule, direct credit: MDGL's hop starts from it."""
    gain = 1 - np.exp(-1 / TAU)
    options = {"types": TYPES, "mu": 0.5, "leak": np.exp(-1 / TAU), "gain": gain}
    if rule in ("mdgl", "modprop"):
        options["types"] = None
    if rule == "modprop_types":
        options["mu"] = MU_BY_TYPE[np.asarray(TYPES)]

    def emissions(c, xs, is_top):
        # the paths of each layer's own weights
        kept = kept_of[is_top]
        return oracles.surrogate_emissions(rule, kept, c, c.init(BATCH), xs)

    model = stack(rule)
    kept_of = [oracles.paths(rule, layer.cell, **options) for layer in model.layers]
    value, expected = surrogate(emissions, model)
    found_value, found = offline(rule)
    np.testing.assert_allclose(found_value, value, rtol=1e-13)
    assert_close(found, expected, 1e-11)
    for leaf in jax.tree.leaves(found):
        assert np.abs(leaf).max() > 1e-4
    # neither layer learns by BPTT, and the maps above the recurrence learn exactly
    exact = offline("bptt")[1]
    if rule != "bptt":
        assert min(layer_distances(found, exact)) > 1e-2
    assert_close(found.links[1], exact.links[1], 1e-12)


def test_rules_of_two_layers_are_their_own():
    """Exact credit through an upper layer reaches a lower layer that learns by e-prop."""
    model = eqx.tree_at(lambda m: m.layers[0], stack("bptt"), stack("eprop").layers[0])

    def emissions(c, xs, is_top):
        rule = "bptt" if is_top else "eprop"
        return oracles.surrogate_emissions(rule, oracles.Paths(), c, c.init(BATCH), xs)

    assert_close(gradient(model, *data(steps=STEPS))[1], surrogate(emissions, model)[1], 1e-11)


# --- streamed: the top layer is exact, below it credit is cut at segment boundaries ---


@pytest.mark.parametrize("rule", ["rtrl", "eprop", "mdgl_types", "modprop_types"])
def test_streamed_top_layer_equals_offline_and_lower_does_not(rule):
    loss, expected = offline(rule)
    value, found = streamed(rule, 4)
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    (below, top), (expected_below, expected_top) = parts(found), parts(expected)
    assert_close(top, expected_top)
    # the cell and the map above it
    for one, other in zip(below, expected_below):
        assert 1e-2 < distance(one, other) < 1


def test_longer_segments_bring_more_of_the_credit():
    expected = offline("eprop")[1]
    off = [layer_distances(streamed("eprop", k)[1], expected)[0] for k in (1, 4, STEPS)]
    assert off[0] > off[1] > 1e-2 and off[2] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("rule, make", [("eprop", leaky), ("diagonal", lru)])
def test_step_by_step_is_instantaneous_below_the_top(rule, make):
    _, expected = surrogate(instantaneous_emissions, stack(rule, make))
    assert_close(streamed(rule, 1, make)[1], expected, 1e-10)


# --- DiagonalRTRL: instantaneous by definition, so that a stack streams exactly ---


def test_diagonal_rtrl_sends_error_down_instantaneously():
    value, expected = surrogate(instantaneous_emissions, stack("diagonal", lru))
    found_value, found = offline("diagonal", lru)
    np.testing.assert_allclose(found_value, value, rtol=1e-13)
    assert_close(found, expected, 1e-11)
    exact = offline("bptt", lru)[1]
    assert_close(parts(found)[1], parts(exact)[1], 1e-11)
    lower, _ = layer_distances(found, exact)
    assert 1e-2 < lower < 1


@pytest.mark.parametrize("segment", [1, 4])
def test_a_stack_under_diagonal_rtrl_streams_exactly(segment):
    loss, expected = offline("diagonal", lru)
    value, found = streamed("diagonal", segment, lru)
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    assert_close(found, expected)


def test_eprop_is_exact_on_a_stack_of_units_that_send_nothing():
    """Offline; streamed it is exact in the top layer only."""
    exact = offline("bptt", lru)[1]
    assert_close(parts(offline("eprop", lru)[1]), parts(exact), 1e-11)
    lower, upper = layer_distances(streamed("eprop", 4, lru)[1], exact)
    assert upper < 1e-9 and 1e-2 < lower < 1

"""Filters fitted to exact credit: recovered where it has that form, and judged elsewhere."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import data, error, jit, M, OUT

import modprop_jax as mpj


TYPES = (0, 1, 0, 1, 1)
N = len(TYPES)
STEPS = 9


def loss(model, xs, ys):
    rnn, readout = model
    return error(readout(rnn(xs)), ys)


def batches(count: int, steps: int = STEPS) -> list:
    return [data(steps=steps, seed=seed) for seed in range(count)]


def model_of(cell: Any) -> Any:
    return mpj.RNN(cell), mpj.Readout(N, OUT, key=jr.key(7))


def identity(x: Any) -> Any:
    return x


def by_type(means: Any, **options: Any) -> mpj.LeakyCell:
    """Leaky neurons whose weights depend on the types of both neurons alone."""
    cell = mpj.LeakyCell(M, N, tau=3.0, key=jr.key(1), **options)
    U = np.eye(2)[list(TYPES)]
    return eqx.tree_at(lambda c: c.weight_rec, cell, jnp.asarray(U @ np.asarray(means) @ U.T))


LINEAR = by_type([[0.2, -0.3], [-0.2, -0.1]], activation=identity, autapses=True, use_bias=True)


@pytest.fixture(scope="module")
def exact() -> mpj.TypeFilter:
    """Of the linear network: ModProp with μ = 1 is exact there."""
    return mpj.TypeFilter.of_modprop(mpj.ModProp(1.0, TYPES), LINEAR)


@pytest.mark.parametrize("gated", [True, False])
def test_exponentials_of_a_linear_network_are_recovered(exact, gated):
    rates = exact.filters[0].numpy()
    assert not np.iscomplexobj(rates)
    # one rate more than there is, which gets no weight
    fit = mpj.fit_filters(
        loss, model_of(LINEAR), batches(4), types=TYPES, rates=[*rates, 0.3], gated=gated, ridge=0
    )
    found = fit.rule.filters[1].numpy()
    np.testing.assert_allclose(found[:2], exact.filters[1].numpy(), atol=1e-6)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)
    assert fit.cosine.shape == (3,) and fit.held_out_cosine.shape == (1,)
    np.testing.assert_allclose([*fit.cosine, *fit.held_out_cosine], 1, atol=1e-12)
    assert fit.held_out_residual < 1e-12 and fit.ridge == 0
    assert fit.condition.shape == (2,) and (fit.condition < 1e8).all()


def test_taps_of_a_linear_network_are_recovered(exact):
    options: dict[str, Any] = dict(types=TYPES, taps=STEPS - 1, ridge=0, held_out=1)
    fit = mpj.fit_filters(loss, model_of(LINEAR), batches(4), **options)
    np.testing.assert_allclose(fit.rule.taps(STEPS - 1), exact.taps(STEPS - 1), atol=1e-6)


def chain() -> mpj.LeakyCell:
    """Type 1 sends to type 0 and nowhere else: gated, one hop is exact with any activation."""
    mask = np.array(TYPES)[:, None] < np.array(TYPES)[None]
    return by_type([[0, 0.9], [0, 0]], activation=jnp.tanh, mask=mask)


def test_a_gated_filter_of_a_nonlinear_chain_is_recovered():
    cell = chain()
    rates = [float(cell.leak), 0.5]
    options: dict[str, Any] = dict(types=TYPES, rates=rates, ridge=0)
    fit = mpj.fit_filters(loss, model_of(cell), batches(4), **options)
    expected = np.zeros((2, 2, 2))
    expected[0, 0, 1] = 0.9 * float(cell.gain)
    # neurons that nobody hears have no column that could be told from none
    np.testing.assert_allclose(fit.rule.filters[1].numpy(), expected, atol=1e-6)
    plain = mpj.fit_filters(loss, model_of(cell), batches(4), **options, gated=False)
    assert plain.residual > 1e3 * max(fit.residual, 1e-12)


def generic() -> Any:
    cell = mpj.LeakyCell(M, N, tau=3.0, activation=jnp.tanh, use_bias=True, key=jr.key(3))
    return model_of(eqx.tree_at(lambda c: c.weight_rec, cell, 2 * cell.weight_rec))


def flat(gradients: Any) -> np.ndarray:
    c = gradients[0].cell
    return np.concatenate([np.ravel(a) for a in (c.weight_rec, c.weight_in, c.bias)])


def test_the_fit_is_that_of_the_gradients_themselves():
    """Least squares on gradients of rules with one weight each, none grouped by type."""
    model, each = generic(), batches(3)
    rates = [0.9, 0.4]
    fit = mpj.fit_filters(loss, model, each, types=TYPES, rates=rates, ridge=0.0, held_out=1)

    @jit
    def of(weights, xs, ys):
        rule = mpj.TypeFilter((rates, weights), TYPES)
        return mpj.value_and_grad(loss, rule)(model, xs, ys)[1]

    def column(k):
        weights = jnp.zeros(8).at[k].set(1.0).reshape(2, 2, 2)
        return np.concatenate([flat(of(weights, *batch)) for batch in each[:2]])

    zero = np.concatenate([flat(of(jnp.zeros((2, 2, 2)), *batch)) for batch in each[:2]])
    target = np.concatenate([by_rule(mpj.BPTT(), model, batch) for batch in each[:2]])
    X = np.stack([column(k) - zero for k in range(8)], axis=1)
    expected = np.linalg.lstsq(X, target - zero, rcond=None)[0].reshape(2, 2, 2)
    np.testing.assert_allclose(fit.rule.filters[1].numpy(), expected, rtol=1e-6)
    left = target - zero - X @ expected.ravel()
    np.testing.assert_allclose(fit.residual, left @ left / (target @ target), rtol=1e-8)
    # and what it says of a batch is what its rule does there
    held, truth = flat(of(jnp.asarray(expected), *each[2])), by_rule(mpj.BPTT(), model, each[2])
    np.testing.assert_allclose(fit.held_out_cosine[0], cosine(held, truth), rtol=1e-6)
    assert fit.residual > 1e-3


@jit
def gradient(rule, model, batch):
    return mpj.value_and_grad(loss, rule)(model, *batch)[1]


def by_rule(rule: Any, model: Any, batch: Any) -> np.ndarray:
    return flat(gradient(rule, model, batch))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("basis", [dict(rates=[0.95, 0.3]), dict(taps=3)], ids=["rates", "taps"])
def test_towards_modprop_a_large_ridge_leaves_modprop(basis):
    model, modprop = generic(), mpj.ModProp(0.4, TYPES)
    options: dict[str, Any] = dict(types=TYPES, gated=False, **basis)
    each = batches(3)
    fit = mpj.fit_filters(loss, model, each, ridge=1e9, towards=modprop, **options)
    taps = basis.get("taps")
    start = mpj.TypeFilter.of_modprop(modprop, model[0].cell, taps)
    np.testing.assert_allclose(fit.rule.taps(6), start.taps(6), atol=1e-6)
    # the fitted rule does what the products say
    best = mpj.fit_filters(loss, model, each, towards=modprop, **options)
    assert best.residual < fit.residual
    truth = by_rule(mpj.BPTT(), model, each[2])
    aligned = by_rule(best.rule, model, each[2])
    np.testing.assert_allclose(best.held_out_cosine[0], cosine(aligned, truth), rtol=1e-8)


def test_a_ridge_is_chosen_by_what_is_left_of_a_batch_that_was_left_out():
    ridges = [0.0, 1e-3, 1e6]
    options: dict[str, Any] = dict(types=TYPES, rates=[0.9, 0.6, 0.3])
    fit = mpj.fit_filters(loss, generic(), batches(4), ridge=ridges, **options)
    assert fit.ridge in ridges[:2]
    nothing = mpj.fit_filters(loss, generic(), batches(4), ridge=1e12, **options)
    eprop, truth = (by_rule(r, generic(), batches(4)[3]) for r in (mpj.EProp(), mpj.BPTT()))
    np.testing.assert_allclose(nothing.held_out_cosine[0], cosine(eprop, truth), rtol=1e-6)
    assert fit.residual < nothing.residual


def test_in_float32_rounding_is_not_taken_for_credit():
    """Exponentials that are nearly one: products of them differ by little more than rounding."""
    model, *each = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32) if eqx.is_inexact_array(a) else a,
        [generic(), *batches(6)],
    )
    rates = [0.9, 0.9001, 0.9002, 0.9003, 0.9004, 0.5]
    for ridge in (None, 0.0):
        fit = mpj.fit_filters(loss, model, each, types=TYPES, rates=rates, ridge=ridge)
        one = mpj.fit_filters(loss, model, each, types=TYPES, rates=[0.9, 0.5], ridge=1e-4)
        cosines = np.array([*fit.cosine, *fit.held_out_cosine])
        assert (cosines <= 1 + 1e-6).all() and 0 < fit.residual
        # as good as two of them, or a little better
        assert abs(fit.residual - one.residual) < 0.02
        ours, theirs = (np.abs(f.rule.filters[1].numpy()).max() for f in (fit, one))
        assert ours < 10 * theirs, "large weights that cancel"
        truth, aligned = (by_rule(r, model, each[-1]) for r in (mpj.BPTT(), fit.rule))
        np.testing.assert_allclose(fit.held_out_cosine[-1], cosine(aligned, truth), rtol=1e-4)


BAD: Any = "rates"
WRONG = [
    (dict(), "pass one of them"),
    (dict(rates=[0.5], taps=2), "pass one of them"),
    (dict(rates=BAD), "vector of known numbers"),
    (dict(rates=[0.5, 0.5]), "must differ from each other"),
    (dict(rates=[1.5]), "at most 1 in absolute value"),
    (dict(rates=[0.5], held_out=3), "at least one to fit"),
    (dict(rates=[0.5], ridge=[]), "ridge is empty"),
    (dict(rates=[0.5], held_out=2), "there is one: pass more"),
    (dict(rates=[0.5], towards=mpj.ModProp("auto", TYPES)), "running_mu"),
    (dict(rates=[0.5], towards=mpj.TypeFilter(np.zeros((1, 2, 2)), TYPES)), "taps and 2 types"),
]


@pytest.mark.parametrize("options, message", WRONG)
def test_errors_name_the_fix(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        mpj.fit_filters(loss, generic(), batches(3), types=TYPES, **options)


def test_models_and_batches_that_do_not_fit_are_refused(without_type_checks):
    rates: Any = dict(types=TYPES, rates=[0.5])
    two = (mpj.RNN(LINEAR), mpj.RNN(LINEAR))
    with pytest.raises(ValueError, match="one recurrent layer, but the model has 2"):
        mpj.fit_filters(loss, two, batches(2), **rates)
    with pytest.raises(ValueError, match="same shapes"):
        mpj.fit_filters(loss, generic(), [*batches(1), *batches(1, 5)], **rates)
    gru = mpj.RNN(mpj.GRUCell(M, N, key=jr.key(0))), generic()[1]
    with pytest.raises(ValueError, match="needs a NeuronCell"):
        mpj.fit_filters(loss, gru, batches(2), **rates)
    rank_two = mpj.LowRank(jnp.ones((N, 2)), jnp.ones((N, 2)))
    low = mpj.LeakyCell(M, N, tau=3.0, recurrent=rank_two, key=jr.key(1))
    with pytest.raises(ValueError, match="whose parameters serve many neurons"):
        mpj.fit_filters(loss, model_of(low), batches(2), **rates)


def test_sparse_synapses_and_parameters_of_neurons_take_part():
    exists = np.random.default_rng(0).random((N, N)) < 0.7
    cell = mpj.LeakyCell(M, N, tau=jnp.linspace(2.0, 5.0, N), mask=exists, key=jr.key(3))
    masked = cell.effective()
    synapses = mpj.Sparse.from_dense(masked.weight_rec, exists & ~np.eye(N, dtype=bool))
    listed = mpj.LeakyCell(
        M, N, tau=jnp.linspace(2.0, 5.0, N), recurrent=synapses, inputs=None, key=jr.key(3)
    )
    listed = eqx.tree_at(lambda c: c.weight_in, listed, cell.weight_in)
    options: dict[str, Any] = dict(types=TYPES, rates=[0.9], ridge=0.0)
    one, other = (mpj.fit_filters(loss, model_of(c), batches(2), **options) for c in (cell, listed))
    expected = one.rule.filters[1].numpy()
    np.testing.assert_allclose(other.rule.filters[1].numpy(), expected, rtol=1e-8)
    assert np.abs(expected).max() > 1e-3 and jax.tree.leaves(one.rule) == []

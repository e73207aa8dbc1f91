"""Diagnostics against NumPy, dense Hessians and identities."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    cell,
    data,
    error,
    flat,
    gradient,
    inner,
    jit,
    M,
    MU_BY_TYPE,
    N,
    Net,
    net,
    offline_loss,
    OUT,
    plain_loss,
    rule,
    T,
    TYPES,
)
from jax.flatten_util import ravel_pytree
from oracles import leaky_transport, run_leaky

import modprop_jax as mpj
from modprop_jax.diagnostics._pairs import cosine, norm_ratio


NAMES = ("eprop", "mdgl_types", "modprop_mu_by_type", "bptt")
RULES = {name: rule(name) for name in NAMES}


def _cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


# --- alignment ---


@pytest.mark.slow
def test_alignment_matrix_is_that_of_the_gradients():
    """Two data sets at once, under jit and vmap, against NumPy on each rule's own gradient."""
    sets = [data(seed=0), data(seed=1)]
    stacked = [jnp.stack(parts) for parts in zip(*sets)]
    model = net("bptt", "leaky")

    def of_one(xs, ys):
        return mpj.alignment_matrix(offline_loss, model, xs, ys, rules=RULES)

    found = jit(jax.vmap(of_one))(*stacked)
    assert found.names == NAMES
    for which, (xs, ys) in enumerate(sets):
        each = [gradient(net(name, "leaky"), xs, ys)[1] for name in NAMES]
        for i, g in enumerate(map(flat, each)):
            for j, r in enumerate(map(flat, each)):
                at = which, i, j
                np.testing.assert_allclose(found.cosine[at], _cosine(g, r))
                np.testing.assert_allclose(found.projection[at], g @ r / (r @ r))
                ratio = np.linalg.norm(g) / np.linalg.norm(r)
                np.testing.assert_allclose(found.norm_ratio[at], ratio)
                agree = np.mean(np.sign(g) == np.sign(r))
                np.testing.assert_allclose(found.sign_agreement[at], agree)
        bias = [np.asarray(g.rnn.cell.bias) for g in each]
        leaf = found.leaf_cosine.rnn.cell.bias[which, 0, 2]
        np.testing.assert_allclose(leaf, _cosine(bias[0], bias[2]))
    assert jax.tree.structure(found.leaf_cosine) == jax.tree.structure(
        eqx.filter(model, eqx.is_inexact_array)
    )


def test_alignment_has_the_row_of_the_matrix():
    """`alignment` is one entry of the matrix; its projection splits g into ρ r and the rest."""
    model, (xs, ys) = net("bptt", "leaky"), data()
    found = jit(lambda m: mpj.alignment(offline_loss, m, xs, ys, rule=RULES["eprop"]))(model)
    g, r = (gradient(net(name, "leaky"), xs, ys)[1] for name in ("eprop", "bptt"))
    rest = flat(g) - float(found.projection) * flat(r)
    assert abs(rest @ flat(r)) < 1e-12 * (flat(r) @ flat(r))
    weight, exact = (np.ravel(tree.rnn.cell.weight_rec) for tree in (g, r))
    leaf = found.leaf_projection.rnn.cell.weight_rec
    np.testing.assert_allclose(leaf, weight @ exact / (exact @ exact))


def test_rules_without_names_go_by_their_class():
    model, (xs, ys) = net("bptt", "leaky"), data(steps=2)
    rules = [mpj.EProp(), mpj.ModProp(0.1), mpj.ModProp(0.2)]
    found = jax.eval_shape(lambda: mpj.alignment_matrix(offline_loss, model, xs, ys, rules=rules))
    assert found.names == ("EProp", "ModProp", "ModProp") and found.cosine.shape == (3, 3)
    with pytest.raises(ValueError, match="rules is empty"):
        mpj.alignment_matrix(offline_loss, model, xs, ys, rules={})


def test_faint_gradients_keep_their_angle():
    """Squares of credit that faded to 1e-30 underflow in float32."""
    g, r = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    faint = jnp.float32(1e-30)
    np.testing.assert_allclose(cosine(faint * g, faint * r), _cosine(g, r), rtol=1e-4)
    np.testing.assert_allclose(norm_ratio(faint * g, jnp.asarray(r)), faint * np.linalg.norm(g)
                               / np.linalg.norm(r), rtol=1e-5)  # fmt: skip
    nothing = jnp.zeros(50, jnp.float32)
    assert cosine(nothing, jnp.asarray(r)) == 0 and norm_ratio(nothing, nothing) == 1


# --- credit by lag ---


def _drive_credit(name, run, ell, autapses=False):
    """Credit on the drive of leaky neurons, (T, batch, n), by the NumPy reverse loop."""
    mu = MU_BY_TYPE[list(TYPES)]
    kind = "modprop_types" if name.startswith("modprop") else name
    A = leaky_transport(kind, run.W, TYPES, mu, autapses)
    later = later_direct = np.zeros_like(ell[0])
    lam = np.zeros_like(ell)
    for t in reversed(range(len(ell))):
        direct = run.h[t] * ell[t]
        crossed = (later_direct if name.startswith("mdgl") else later) @ A
        if not name.startswith("modprop"):
            crossed = run.h[t] * crossed
        lam[t] = direct + run.eta * later + (1 - run.eta) * crossed
        later, later_direct = lam[t], direct
    return (1 - run.eta) * lam


def test_credit_profile_is_the_reverse_loop():
    model, (xs, ys) = net("bptt", "leaky"), data()
    found = jit(lambda m: mpj.credit_profile(offline_loss, m, xs, ys, rules=RULES))(model)
    leaky = inner("leaky")
    W = np.array(leaky.weight_rec) * (1 - np.eye(N))
    run = run_leaky(W, np.array(leaky.weight_in), np.array(leaky.bias), leaky.leak, np.array(xs))
    outputs = jnp.asarray(run.z) @ model.readout.weight.T
    ell = np.array(jax.grad(error)(outputs, ys)) @ np.array(model.readout.weight)
    credit = {name: _drive_credit(name, run, ell) for name in NAMES}
    assert found.names == NAMES
    for row, name in enumerate(NAMES):
        for lag in range(T):
            ours, exact = (credit[n][T - 1 - lag].ravel() for n in (name, "bptt"))
            size, exact_size = np.linalg.norm(ours), np.linalg.norm(exact)
            np.testing.assert_allclose(found.norm[row, lag], size)
            np.testing.assert_allclose(found.ratio[row, lag], size / exact_size)
            np.testing.assert_allclose(found.cosine[row, lag], _cosine(ours, exact))
            np.testing.assert_allclose(found.reference_norm[lag], exact_size)
    # the rules do differ here
    assert len({round(float(value), 6) for value in found.norm[:, -1]}) == len(NAMES)


def _last(model, xs):
    return jnp.sum(jnp.sin(model.readout(model.rnn(xs)[-1])))


def test_eprop_forgets_by_the_leak_alone():
    """With a loss at the end e-prop's credit is leak^lag; with a carry's start it is the same."""
    model, (xs, _) = net("bptt", "leaky"), data()

    def with_carry(model, xs):
        _, zs = model.rnn(xs, model.rnn.init(xs.shape[1:-1]))
        return jnp.sum(jnp.sin(model.readout(zs[-1])))

    def profile(loss):
        rules = {"eprop": mpj.EProp(), "modprop": mpj.ModProp(0.5, TYPES)}
        return jit(lambda m: mpj.credit_profile(loss, m, xs, rules=rules))(model)

    found, carried = profile(_last), profile(with_carry)
    faded = np.asarray(found.norm / found.norm[:, :1])
    np.testing.assert_allclose(faded[0], inner("leaky").leak ** np.arange(T))
    assert np.abs(faded[1] - faded[0])[1:].min() > 1e-3
    np.testing.assert_allclose(carried.norm, found.norm, rtol=1e-12)


@pytest.mark.parametrize("name", ["filtered_adaptive", "filtered_leaky_taus"])
@pytest.mark.slow
def test_credit_profile_is_the_input_gradient_under_unit_weights(name):
    """A second variable, masks and filtered emissions, of two nets in one vmap."""
    unit = eqx.tree_at(lambda c: c.cell.weight_in, cell(name), jnp.eye(N))
    model = eqx.tree_at(lambda m: m.rnn.cell, net("bptt", name), unit)
    xs = jr.normal(jr.key(3), (2, T, 2, N))
    rules = {"modprop": mpj.ModProp(0.5, TYPES), "mdgl": mpj.MDGL()}

    def both(xs):
        def by_input(rule):
            return jax.grad(lambda x: _last(mpj.with_rule(model, rule), x))(xs)

        found = mpj.credit_profile(_last, model, xs, rules=rules, reference=rules["mdgl"])
        return found, jnp.stack([by_input(rule) for rule in rules.values()])

    found, by_input = jit(jax.vmap(both))(xs)
    expected = np.linalg.norm(by_input[:, :, ::-1], axis=(3, 4))
    np.testing.assert_allclose(found.norm, expected)
    np.testing.assert_allclose(found.ratio[:, 1], 1)
    assert np.abs(found.cosine[:, 0] - 1).max() > 1e-3


class Stack(eqx.Module):
    first: mpj.RNN
    rnn: mpj.RNN


def test_credit_profile_says_what_it_needs():
    model, (xs, _) = net("bptt", "leaky"), data()
    options: Any = {"rules": [mpj.BPTT()]}
    two = Stack(model.rnn, model.rnn)
    with pytest.raises(ValueError, match="one RNN layer, but Stack has 2"):
        mpj.credit_profile(_last, two, xs, **options)
    with pytest.raises(ValueError, match="one RNN layer, but Readout has 0"):
        mpj.credit_profile(_last, model.readout, xs, **options)
    with pytest.raises(ValueError, match="NeuronCell.*FunctionCell"):
        mpj.credit_profile(_last, net("bptt", "function"), xs, **options)
    with pytest.raises(ValueError, match="calls it 0 times"):
        mpj.credit_profile(lambda m: jnp.sum(m.readout.weight), model, **options)
    with pytest.raises(ValueError, match="calls it 2 times"):
        mpj.credit_profile(lambda m: _last(m, xs) + _last(m, xs), model, **options)


# --- curvature ---


def _weight_rec(model):
    return model.rnn.cell.weight_rec


def _signed_loss(model, sign):
    return sign * offline_loss(model, *data())


@pytest.mark.parametrize("where", [_weight_rec, None])
@pytest.mark.slow
def test_hessian_top_is_that_of_the_dense_hessian(where):
    """Whatever the rule and the feedback of the model; both signs of the loss in one vmap."""
    random = mpj.Readout(N, OUT, feedback="random", key=jr.key(7))
    model = Net(mpj.RNN(cell("leaky"), rule=mpj.EProp()), random)
    exact = eqx.tree_at(lambda m: m.readout.feedback_weight, model, None)

    def top(sign):
        return mpj.hessian_top(
            _signed_loss, model, sign, where=where, key=jr.key(0), iterations=200, tol=1e-10
        )

    found = jit(jax.vmap(top))(jnp.asarray([1.0, -1.0]))
    params, rest = eqx.partition(exact if where is None else where(exact), eqx.is_inexact_array)
    start, unravel = ravel_pytree(params)

    def plain(values):
        new = eqx.combine(unravel(values), rest)
        return plain_loss(eqx.tree_at(where, exact, new) if where else new, *data())

    dense = np.asarray(jit(jax.hessian(plain))(start))
    values = np.linalg.eigvalsh(dense)
    assert values[0] < 0 < values[-1]
    np.testing.assert_allclose(found.eigenvalue, [values[-1], -values[0]], rtol=1e-9)
    scale = np.abs(values).max()
    np.testing.assert_allclose(found.lowest, [values[0], -values[-1]], atol=1e-9 * scale)
    largest = values[np.argmax(np.abs(values))]
    np.testing.assert_allclose(found.dominant, [largest, -largest], rtol=1e-9)
    assert sorted(np.sign(found.dominant)) == [-1, 1]
    for which, sign in enumerate((1, -1)):
        v = flat(jax.tree.map(lambda leaf: leaf[which], found.vector))
        image, value = sign * dense @ v, float(found.eigenvalue[which])
        np.testing.assert_allclose(v @ v, 1)
        np.testing.assert_allclose(v @ image, value)
        assert float(found.residual[which]) < 1e-9
        np.testing.assert_allclose(image, value * v, atol=1e-8 * abs(value))
        assert 1 < found.iterations[which] <= len(values)


@pytest.mark.slow
def test_hessian_top_stopped_early_tells_its_residual():
    model, (xs, ys) = net("bptt", "leaky"), data()

    def top(iterations):
        return mpj.hessian_top(
            offline_loss, model, xs, ys, where=_weight_rec, key=jr.key(1), iterations=iterations
        )

    def product(v):
        def slope(w):
            at = eqx.tree_at(_weight_rec, model, w)
            return jnp.sum(v * jax.grad(lambda w: plain_loss(
                eqx.tree_at(_weight_rec, at, w), xs, ys))(w))  # fmt: skip

        return jax.grad(slope)(_weight_rec(model))

    early, late = jit(lambda: (top(2), top(30)))()
    assert early.iterations == 2 and 2 < late.iterations < 30
    rest = jit(product)(early.vector) - early.eigenvalue * early.vector
    found = np.linalg.norm(rest) / abs(early.eigenvalue)
    np.testing.assert_allclose(early.residual, found)
    # an eigenvalue lies within the residual, and a subspace's value is below the whole's
    assert late.residual < 1e-3 < early.residual
    assert early.eigenvalue < late.eigenvalue < early.eigenvalue * (1 + early.residual)


def test_hessian_top_of_a_multiple_of_the_identity_and_of_nothing():
    """The Krylov space is exhausted after one step: no division by zero, no spurious pair."""
    model, (xs, ys) = net("bptt", "leaky"), data()

    def top(quadratic, bad):
        def loss(model):
            outputs = model(xs)
            return bad * jnp.sum(quadratic * (outputs - ys) ** 2 + outputs)

        return mpj.hessian_top(loss, model, where=lambda m: m.readout.bias, key=jr.key(0))

    found = jit(jax.vmap(top))(jnp.asarray([1.0, -1.0, 0.0, 1.0]), jnp.asarray([1, 1, 1, jnp.nan]))
    curvature = 2.0 * T * xs.shape[1]
    np.testing.assert_allclose(found.eigenvalue[:3], [curvature, -curvature, 0])
    np.testing.assert_allclose(found.lowest[:3], found.eigenvalue[:3])
    assert (found.residual[:3] < 1e-12).all() and (found.iterations <= OUT).all()
    assert np.isnan(found.eigenvalue[3])
    with pytest.raises(ValueError, match="selects no inexact array"):
        mpj.hessian_top(offline_loss, model, xs, ys, where=lambda m: m.rnn.rule, key=jr.key(0))
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 1"):
        mpj.hessian_top(offline_loss, model, xs, ys, key=jr.key(0), iterations=0)


# --- generalisation, learning rates ---


def test_generalisation_gap_by_moments():
    """A "loss" and an "accuracy" of which the noise's moments are known."""
    keys = jr.split(jr.key(4), 2)
    train, xs = (jr.uniform(key, (20, 400, M)) for key in keys)

    def moments(model, xs, ys):
        return model * jnp.mean(xs), jnp.mean((xs - ys) ** 2)

    def of_model(model):
        return mpj.generalisation_gap(
            moments, model, (train, train), (xs, xs), key=jr.key(5), sd=0.3, draws=40
        )

    gap = jit(jax.vmap(of_model))(jnp.asarray([1.0, 3.0]))
    assert gap.noisy_loss.shape == (2, 40)
    means = np.asarray([1, 3]) * float(train.mean() - xs.mean())
    np.testing.assert_allclose(gap.loss_gap, means)
    np.testing.assert_allclose(gap.accuracy_gap, 0, atol=1e-15)
    # noise adds nothing on average to a mean and sd² to a mean square
    size, draws = xs.size, 40
    error = 0.3 * np.asarray([1.0, 3.0]) / np.sqrt(size)
    assert (np.abs(gap.noisy_loss_gap - gap.loss_gap) < 5 * error / np.sqrt(draws)).all()
    np.testing.assert_allclose(gap.noisy_loss_sd, error, rtol=0.5)
    spread = 0.09 * np.sqrt(2 / size)
    np.testing.assert_allclose(gap.noisy_accuracy_gap, -0.09, atol=5 * spread / np.sqrt(draws))
    np.testing.assert_allclose(gap.noisy_accuracy_sd, spread, rtol=0.5)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 2"):
        mpj.generalisation_gap(moments, 1.0, (xs, xs), (xs, xs), key=jr.key(0), draws=1)


def test_input_noise_is_clipped_to_its_bounds():
    xs = jnp.full((100, 10), 0.9, jnp.float32)
    free = mpj.input_noise(jr.key(0), xs)
    clipped = mpj.input_noise(jr.key(0), xs, bounds=(0.0, 1.0))
    assert free.dtype == xs.dtype and free.max() > 1
    np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))
    np.testing.assert_allclose(free.std(), 0.2, rtol=0.1)


def test_bound_is_where_gradient_descent_turns_unstable():
    """On a parabola with the gradient scaled by ρ; matched rates have the exact gradient's."""
    rate, projection = 0.1, np.asarray([0.25, 1.0, 2.0])
    bound = np.asarray(mpj.curvature_bound(rate, projection))
    for curvature, stays in ((0.99 * bound, True), (1.01 * bound, False)):
        w = np.ones(3)
        for _ in range(200):
            w = w - rate * projection * curvature * w
        assert ((np.abs(w) < 1) == stays).all()
    matched = mpj.matched_rates(rate, projection)
    np.testing.assert_allclose(mpj.curvature_bound(matched), bound)
    assert np.isnan(mpj.curvature_bound(rate, -0.1)) and mpj.curvature_bound(rate, 0.0) == np.inf

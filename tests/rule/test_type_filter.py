"""Type filters: the formula in NumPy, ModProp as a case, streaming, and filters that would grow."""

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
    N,
    Net,
    OUT,
    streamed_gradient,
    T,
    TYPES,
    weights,
)
from oracles import run_leaky

import modprop_jax as mpj


RNG = np.random.default_rng(4)
WEIGHTS = 0.1 * RNG.normal(size=(3, 3, 3))
# one of them an oscillation
EXPONENTIALS = np.array([0.9, 0.6 + 0.5j, 0.2]), WEIGHTS + 0.05j * RNG.normal(size=(3, 3, 3))
TAPS = 0.1 * RNG.normal(size=(4, 3, 3))
OWN = np.array([0.1, 0.3, -0.05])


def under(rule: Any, c: Any) -> Any:
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def tap(filters: Any, s: int) -> np.ndarray:
    """F_s, s = 1, 2, ..."""
    if isinstance(filters, tuple):
        rates, each = filters
        return np.einsum("k,kab->ab", rates ** (s - 1), each).real
    return filters[s - 1] if s <= len(filters) else np.zeros((3, 3))


def by_hand(filters: Any, gated: bool, own: Any) -> dict[str, np.ndarray]:
    """The gradient on the table's leaky cell, each pair of steps on its own."""
    c, (xs, ys) = cell("leaky"), map(np.array, data())
    eta = float(np.exp(-1 / 4))
    recurrent = np.array(c.weight_rec) * (1 - np.eye(N))
    run = run_leaky(recurrent, np.array(c.weight_in), np.array(c.bias), eta, xs)
    readout = under(mpj.BPTT(), c).readout
    outputs = run.z @ np.array(readout.weight).T + np.array(readout.bias)
    direct = run.h * ((outputs - ys + 0.3 * outputs**2) / BATCH[0] @ np.array(readout.weight))
    own = np.zeros(3) if own is None else own
    U, lam, later = np.eye(3)[list(TYPES)], np.zeros_like(direct), np.zeros_like(direct[0])
    for t in reversed(range(T)):
        arrives = -(U @ own) * later
        for u in range(t + 1, T):
            arrives = arrives + direct[u] @ U @ tap(filters, u - t) @ U.T
        lam[t] = later = direct[t] + eta * later + (run.h[t] if gated else 1) * arrives
    return {
        "weight_rec": (1 - np.eye(N)) * (1 - eta) * np.einsum("tbj,tbi->ji", lam, run.before),
        "weight_in": (1 - eta) * np.einsum("tbj,tbi->ji", lam, run.xs),
        "bias": (1 - eta) * lam.sum((0, 1)),
    }


FORMS = [
    pytest.param(filters, gated, own, id=f"{kind}-{'gated' if gated else 'open'}-{what}")
    for kind, filters in (("exponentials", EXPONENTIALS), ("taps", TAPS))
    for gated in (True, False)
    for what, own in (("others", None), ("own", OWN))
]


@pytest.mark.parametrize("filters, gated, own", FORMS)
def test_credit_is_what_the_formula_says(filters, gated, own):
    rule = mpj.TypeFilter(filters, TYPES, gated=gated, own=own)
    model = under(rule, cell("leaky"))
    gradients = gradient(model, *data())[1]
    c = gradients.rnn.cell
    found = {"weight_rec": c.weight_rec, "weight_in": c.weight_in, "bias": c.bias}
    assert_close(jax.tree.map(np.asarray, found), by_hand(filters, gated, own), 1e-12)
    for segment in (1, 7):
        assert_close(streamed_gradient(segment)(model, *data())[1], gradients)


# others are as these, and each is three programs and more
EACH = [
    pytest.param(name, marks=() if name in ("leaky", "adaptive") else pytest.mark.slow)
    for name in ("leaky", "adaptive", "leaky_taus", "leaky_tau", "rate", "refractory")
]


@pytest.mark.parametrize("taps", [None, T], ids=["exponentials", "taps"])
@pytest.mark.parametrize("cell_name", EACH)
def test_modprop_is_a_case(cell_name, taps):
    """Also where its filter oscillates, as on the leaky cell, and without autapses."""
    c, modprop = cell(cell_name), mpj.ModProp(0.5, TYPES)
    rule = mpj.TypeFilter.of_modprop(modprop, c, taps)
    expected = weights(gradient(under(modprop, c), *data())[1])
    model = under(rule, c)
    assert_close(weights(gradient(model, *data())[1]), expected, 1e-10)
    for segment in (1, 7, T):
        _, found = streamed_gradient(segment)(model, *data())
        assert_close(weights(found), expected, 1e-10, f"segment={segment} ")


def test_the_filter_of_the_leaky_cell_oscillates_and_has_an_own_part():
    rule = mpj.TypeFilter.of_modprop(mpj.ModProp(0.5, TYPES), cell("leaky"))
    assert np.iscomplexobj(rule.filters[0].numpy()) and len(rule.filters[0].numpy()) == 2
    assert rule.own is not None and inner("leaky_tau").autapses
    assert mpj.TypeFilter.of_modprop(mpj.ModProp(0.5, TYPES), cell("leaky_tau")).own is None


def test_cell_specific_modprop_is_a_case_of_as_many_types():
    c = cell("leaky_taus")
    rule = mpj.TypeFilter.of_modprop(mpj.ModProp(0.5), c, T)
    expected = weights(gradient(under(mpj.ModProp(0.5), c), *data())[1])
    assert rule.types == tuple(range(N))
    assert_close(weights(gradient(under(rule, c), *data())[1]), expected, 1e-10)


def identity(x: Any) -> Any:
    return x


def test_gated_is_exact_where_one_neuron_sends_through_its_own_derivative():
    """Two neurons of a type each, no way back, linear sending: one hop is all that there is."""
    mask = np.array([[False, False], [True, False]])
    c = mpj.LeakyCell(M, 2, tau=3.0, activation=jnp.tanh, mask=mask, key=jr.key(2))
    gain, weight = float(c.gain), float(c.weight_rec[1, 0])
    hop = np.array([[[0.0, 0.0], [gain * weight, 0.0]]])
    # credit of neuron 1 decays there before it goes on: e^(-dt/tau) a step
    rule = mpj.TypeFilter(([float(c.leak)], hop), [0, 1])
    readout = mpj.Readout(2, OUT, key=jr.key(7))
    exact = weights(gradient(Net(mpj.RNN(c), readout), *data())[1])
    assert_close(weights(gradient(Net(mpj.RNN(c, rule=rule), readout), *data())[1]), exact)
    ungated = Net(mpj.RNN(c, rule=mpj.TypeFilter(rule.filters, [0, 1], gated=False)), readout)
    assert distance(weights(gradient(ungated, *data())[1]), exact) > 1e-3


def test_nothing_arrives_from_a_filter_of_zeros():
    eprop = weights(gradient(under(mpj.EProp(), cell("adaptive")), *data())[1])
    for zeros in (np.zeros((2, 3, 3)), ([0.9], np.zeros((1, 3, 3)))):
        model = under(mpj.TypeFilter(zeros, TYPES), cell("adaptive"))
        assert_close(weights(gradient(model, *data())[1]), eprop)


def test_the_gradient_is_linear_in_the_weights_and_has_a_derivative_by_them():
    xs, ys = data()

    @jit
    def of(weight):
        rule = mpj.TypeFilter((jnp.array([0.9, 0.4]), weight), TYPES)
        return weights(mpj.value_and_grad(lambda m: error(m(xs), ys), rule)(model)[1])

    model = under(mpj.BPTT(), cell("leaky"))
    one, other = jnp.asarray(WEIGHTS[:2]), jnp.asarray(WEIGHTS[1:])
    zero = of(jnp.zeros_like(one))
    both = jax.tree.map(lambda a, b, z: a + b - z, of(one), of(other), zero)
    assert_close(of(one + other), both, 1e-12)
    _, moved = jax.jvp(of, (one,), (other,))
    assert_close(moved, jax.tree.map(lambda a, z: a - z, of(other), zero), 1e-12)


def test_taps_are_the_filter():
    for filters in (EXPONENTIALS, TAPS):
        expected = np.stack([tap(filters, s) for s in range(1, 8)])
        found = mpj.TypeFilter(filters, TYPES).taps(7)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_float32_stays_float32():
    c = jax.tree.map(lambda a: a.astype(jnp.float32), cell("leaky"))
    rule = mpj.TypeFilter(EXPONENTIALS, TYPES, gated=False)
    carry = rule.init(c, c.init(BATCH))
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype(jnp.float32)}


def test_a_filter_that_grows_is_refused_or_found_by_check():
    growing = [1.01, 0.5], np.ones((2, 3, 3))
    with pytest.raises(ValueError, match="at most 1 in absolute value, but the largest is 1.01"):
        mpj.TypeFilter(growing, TYPES)
    with pytest.raises(ValueError, match="largest is 1.1"):
        mpj.TypeFilter((jnp.array([1.1]), jnp.ones((1, 3, 3))), TYPES)
    with pytest.raises(ValueError, match=r"unstable on this LeakyCell: leak - own is 1.7"):
        mpj.TypeFilter(TAPS, TYPES, gated=False, own=[0, 0, -1.0]).check(cell("leaky"))
    # a filter that ends can't grow
    mpj.TypeFilter(100 * TAPS, TYPES).check(cell("leaky"))
    xs, ys = data()
    model = under(mpj.BPTT(), cell("leaky"))

    @eqx.filter_jit
    def take(rates):
        rule = mpj.TypeFilter((rates, jnp.asarray(WEIGHTS[:2])), TYPES)
        return mpj.value_and_grad(lambda m: error(m(xs), ys), rule, check=True)(model)

    loss, _ = take(jnp.array([0.9, 1.0]))
    assert np.isfinite(loss)
    with pytest.raises(Exception, match="TypeFilter: rates must be at most 1 in absolute value"):
        jax.block_until_ready(take(jnp.array([0.9, 1.01])))


BAD: Any = "filters"
WRONG = [
    (lambda: mpj.TypeFilter(np.ones((3, 3)), TYPES), r"\[lag or exponential, secreting type"),
    (lambda: mpj.TypeFilter(np.ones((2, 3, 2)), TYPES), "the shape is (2, 3, 2)"),
    (lambda: mpj.TypeFilter(BAD, TYPES), "filters must be taps"),
    (lambda: mpj.TypeFilter(1j * TAPS, TYPES), "filters must be taps"),
    (lambda: mpj.TypeFilter(np.nan * TAPS, TYPES), "of finite numbers"),
    (lambda: mpj.TypeFilter(([0.5], np.ones((2, 3, 3))), TYPES), "(1,) and (2, 3, 3)"),
    (lambda: mpj.TypeFilter(TAPS, [0, 1]), "are for 3 cell types, but types has 2"),
    (lambda: mpj.TypeFilter(TAPS, TYPES, own=[0.1]), "own must have one number a cell type"),
    (lambda: mpj.TypeFilter(TAPS, [0, 1, 2]).check(cell("leaky")), "has types for 3 neurons"),
    (lambda: mpj.TypeFilter(TAPS, TYPES).check(cell("function")), "needs a NeuronCell"),
    (
        lambda: mpj.TypeFilter.of_modprop(mpj.ModProp("auto", TYPES), cell("leaky")),
        "measure mu with running_mu",
    ),
]


@pytest.mark.parametrize("call, message", WRONG)
def test_errors_name_the_fix(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        call()


def test_a_carry_of_another_filter_does_not_fit():
    c = cell("leaky")
    carry = mpj.TypeFilter(TAPS, TYPES).init(c, c.init(BATCH))
    with pytest.raises(ValueError, match="does not fit rule=TypeFilter"):
        mpj.scan(c, carry, data()[0], rule=mpj.TypeFilter(EXPONENTIALS, TYPES))

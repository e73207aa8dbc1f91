"""Filters fitted while a network learns: the same least squares, in a compiled loop."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import jit
from test_fit_filters import batches, by_rule, cosine, generic, LINEAR, loss, model_of, TYPES

import modprop_jax as mpj
from modprop_jax.diagnostics._filter_basis import told


RATES = [0.9, 0.4]
ZERO = mpj.TypeFilter((RATES, np.zeros((2, 2, 2))), TYPES)
SOME = mpj.TypeFilter((RATES, 0.1 * np.arange(8.0).reshape(2, 2, 2)), TYPES)


@jit
def of_batch(model: Any, rule: Any, batch: Any) -> mpj.FilterEquations:
    return mpj.filter_equations(loss, model, *batch, rule=rule)


def summed(model: Any, rule: Any, count: int = 2) -> mpj.FilterEquations:
    each = [of_batch(model, rule, batch) for batch in batches(count)]
    return jax.tree.map(lambda *leaves: sum(leaves), *each)


def weights(rule: mpj.TypeFilter) -> np.ndarray:
    return np.asarray(rule.filters[1] if isinstance(rule.filters, tuple) else rule.filters)


def weights_in(rule: mpj.TypeFilter) -> np.ndarray:
    return rule.filters[1].numpy()


@pytest.mark.parametrize("gated", [True, False])
def test_filters_of_a_linear_network_are_recovered(gated):
    exact = mpj.TypeFilter.of_modprop(mpj.ModProp(1.0, TYPES), LINEAR)
    rates = exact.filters[0].numpy()
    rule = mpj.TypeFilter((rates, np.ones((len(rates), 2, 2))), TYPES, gated=gated)
    equations = summed(model_of(LINEAR), rule, 3)
    found = mpj.refit(rule, equations, ridge=1e-13)
    np.testing.assert_allclose(weights(found), exact.filters[1].numpy(), atol=1e-6)
    np.testing.assert_allclose(equations.cosine(found), 1, atol=1e-7)
    assert found.types == TYPES and found.gated == gated


@pytest.mark.parametrize("basis", [dict(rates=RATES), dict(taps=3)], ids=["rates", "taps"])
def test_it_is_the_fit_of_fit_filters(basis):
    options: dict[str, Any] = dict(types=TYPES, ridge=1e-3, held_out=1)
    fit = mpj.fit_filters(loss, generic(), batches(3), **basis, **options)
    filters: Any = np.ones((3, 2, 2)) if "taps" in basis else (RATES, np.ones((2, 2, 2)))
    rule = mpj.TypeFilter(filters, TYPES)
    found = mpj.refit(rule, summed(generic(), rule), ridge=1e-3)
    expected = fit.rule.filters[1] if "rates" in basis else fit.rule.filters
    np.testing.assert_allclose(weights(found), expected.numpy(), rtol=1e-8)
    # neither exact, nor without credit between neurons
    assert 1e-4 < fit.residual < 1 and np.abs(weights(found)).max() > 1e-3


def test_equations_are_of_the_gradients():
    (batch,), model = batches(1), generic()
    equations = of_batch(model, ZERO, batch)
    exact, zero, some = (by_rule(r, model, batch) for r in (mpj.BPTT(), ZERO, SOME))
    products = np.asarray(equations.products)
    np.testing.assert_allclose(products[:, 0, 0].sum(), exact @ exact, rtol=1e-10)
    w = weights_in(SOME).reshape(-1, 2).T
    np.testing.assert_allclose(np.sum(equations.right * w), (some - zero) @ (exact - zero))
    square = np.einsum("ck,ckl,cl->", w, np.asarray(equations.gram), w)
    np.testing.assert_allclose(square, (some - zero) @ (some - zero), rtol=1e-10)
    np.testing.assert_allclose(equations.cosine(SOME), cosine(some, exact), rtol=1e-8)


def test_of_no_equations_what_the_ridge_pulls_to_is_left():
    nothing = mpj.FilterEquations(jnp.zeros((2, 6, 6)))
    np.testing.assert_array_equal(weights(mpj.refit(SOME, nothing, towards=SOME)), weights_in(SOME))
    assert not weights(mpj.refit(SOME, nothing)).any()


def test_the_ridge_pulls_to_the_last_filters():
    """The minimum of what the docstring says, by a solver that knows nothing of the scaling."""
    equations = summed(generic(), ZERO)
    found = mpj.refit(SOME, equations, ridge=0.3, towards=SOME)
    gram, right = (np.asarray(a) for a in (equations.gram, equations.right))
    last = weights_in(SOME).reshape(-1, 2).T
    for b in range(2):
        pull = 0.3 * np.diag(np.diag(gram[b]))
        expected = np.linalg.solve(gram[b] + pull, right[b] + pull @ last[b])
        np.testing.assert_allclose(weights(found).reshape(-1, 2).T[b], expected, rtol=1e-8)
    stiff = mpj.refit(SOME, equations, ridge=1e12, towards=SOME)
    np.testing.assert_allclose(weights(stiff), weights_in(SOME), atol=1e-8)


def test_a_step_changes_the_gradient_by_no_more_than_the_trust():
    (batch,), model = batches(1), generic()
    equations = of_batch(model, ZERO, batch)
    free, bound = (mpj.refit(SOME, equations, trust=trust) for trust in (None, 0.05))
    exact, last, whole, part = (
        by_rule(r, model, batch) for r in (mpj.BPTT(), SOME, free, bound)
    )  # fmt: skip
    step = np.linalg.norm(part - last)
    np.testing.assert_allclose(step, 0.05 * np.linalg.norm(exact), rtol=1e-8)
    assert np.linalg.norm(whole - last) > 2 * step
    np.testing.assert_allclose(cosine(part - last, whole - last), 1, rtol=1e-10)
    loose = mpj.refit(SOME, equations, trust=1e6)
    np.testing.assert_array_equal(weights(loose), weights(free))


def test_a_loop_refits_by_a_running_average_in_one_program():
    model = generic()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches(3))

    @jit
    def run(model, rule):
        start = jax.tree.map(
            jnp.zeros_like, mpj.filter_equations(loss, model, *batches(1)[0], rule=rule)
        )

        def body(carry, batch):
            equations, weights = carry
            now = mpj.TypeFilter((RATES, weights), TYPES)
            new = mpj.filter_equations(loss, model, *batch, rule=now)
            equations = equations.averaged(new, 0.5)
            now = mpj.refit(now, equations, ridge=1e-2, towards=now, trust=0.5)
            return (equations, now.filters[1]), equations.cosine(now)

        return jax.lax.scan(body, (start, jnp.zeros((2, 2, 2))), stacked)

    (equations, found), cosines = run(model, ZERO)
    average, rule = mpj.FilterEquations(jnp.zeros((2, 6, 6))), ZERO
    for batch in batches(3):
        new = of_batch(model, ZERO, batch)
        average = mpj.FilterEquations(0.5 * average.products + 0.5 * new.products)
        rule = mpj.refit(rule, average, ridge=1e-2, towards=rule, trust=0.5)
    np.testing.assert_allclose(found, weights(rule), rtol=1e-10)
    np.testing.assert_allclose(equations.products, average.products, rtol=1e-10)
    assert cosines.shape == (3,) and (np.abs(cosines) <= 1).all()
    # of which nothing depends on the scale
    larger = mpj.FilterEquations(1e3 * average.products)
    again = (mpj.refit(SOME, e, ridge=1e-2, trust=0.5) for e in (average, larger))
    np.testing.assert_allclose(*map(weights, again), rtol=1e-9)


def test_float32_stays_float32_and_a_ridge_below_its_rounding_is_refused():
    rule = mpj.TypeFilter(
        (jnp.asarray(RATES, jnp.float32), jnp.ones((2, 2, 2), jnp.float32)), TYPES
    )
    equations = mpj.FilterEquations(jnp.eye(6, dtype=jnp.float32)[None].repeat(2, 0))
    assert mpj.refit(rule, equations).filters[1].dtype == jnp.float32
    with pytest.raises(
        ValueError, match=r"ridge must be at least 4.8e-07, what rounding in float32"
    ):
        mpj.refit(rule, equations, ridge=1e-8)


def test_equations_of_another_filter_are_refused():
    equations = mpj.FilterEquations(jnp.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="equations are of another filter"):
        mpj.refit(ZERO, equations)
    with pytest.raises(ValueError, match="new is of another filter"):
        mpj.FilterEquations(jnp.zeros((2, 6, 6))).averaged(equations, 0.5)
    equations = mpj.FilterEquations(jnp.zeros((2, 6, 6)))
    weights = np.zeros((2, 2, 2))
    for other in (
        mpj.TypeFilter(([0.5], weights[:1]), TYPES),
        mpj.TypeFilter(([0.9, 0.5], weights), TYPES),
        mpj.TypeFilter((RATES, weights), TYPES[::-1]),
        mpj.TypeFilter((RATES, weights), TYPES, gated=False),
        mpj.TypeFilter(weights, TYPES),
    ):
        with pytest.raises(ValueError, match="towards must be a filter as rule is"):
            mpj.refit(ZERO, equations, towards=other)


UNLIKE = 0.1 * np.arange(8.0).reshape(2, 2, 2)
FORMS: dict[str, Any] = {
    "exponentials": dict(filters=(np.array([0.9, 0.6 + 0.5j]), UNLIKE)),
    "taps": dict(filters=0.1 * np.arange(12.0).reshape(3, 2, 2), gated=False),
    "own": dict(filters=UNLIKE[:1], own=[0.1, 0.3], gated=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_types_as_an_array_are_types(form):
    """What lets one program judge filters of any types."""
    rule = mpj.TypeFilter(types=TYPES, **FORMS[form])
    (batch,) = batches(1)
    expected = by_rule(rule, generic(), batch)
    np.testing.assert_allclose(by_rule(told(rule), generic(), batch), expected, rtol=1e-12)
    others = mpj.TypeFilter(types=TYPES[::-1], **FORMS[form])
    assert not np.allclose(by_rule(others, generic(), batch), expected, rtol=1e-3)


def test_one_program_judges_filters_of_any_types():
    taken = eqx.debug.assert_max_traces(by_program, max_traces=1)
    run = eqx.filter_jit(taken)
    for types in (TYPES, TYPES[::-1]):
        run(told(mpj.TypeFilter((RATES, np.ones((2, 2, 2))), types)), generic(), batches(1)[0])


def by_program(rule: Any, model: Any, batch: Any) -> Any:
    return mpj.value_and_grad(loss, rule)(model, *batch)[0]

"""The best that filters can do: types found, memory taken up, and what stands beside it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from test_fit_filters import batches, by_rule, cosine, generic, LINEAR, loss, model_of, TYPES

import modprop_jax as mpj
from modprop_jax import _figures as figures
from modprop_jax.diagnostics._clusters import clustered


def planted(groups: list[int], seed: int = 0) -> np.ndarray:
    """Products of neurons whose exact gradient is one response of their group, and some noise."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(max(groups) + 1, 3))
    found = []
    for group in groups:
        X, base = rng.normal(size=(3, 20)), rng.normal(size=20)
        exact = base + weights[group] @ X + 0.05 * rng.normal(size=20)
        rows = np.stack([exact, base, *X])
        found.append(rows @ rows.T)
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_planted_groups_are_found(seed):
    groups = [0, 1, 0, 2, 2, 1, 0, 2, 1, 1]
    assert clustered(planted(groups, seed), range(2, 5), 1, [0] * 10, 3) == tuple(groups)


def test_groups_stay_within_the_types_given():
    groups, given = [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1]
    found = clustered(planted(groups), range(2, 5), 1, given, 4)
    assert found == (0, 1, 0, 1, 2, 3)
    # alike but of two types: they stay two
    assert clustered(planted([0] * 6), range(2, 5), 1, given, 2) == tuple(given)


def test_as_many_groups_as_neurons():
    found = clustered(planted([0, 0, 0, 1]), range(2, 5), 1, [0] * 4, 4)
    assert sorted(found) == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def linear() -> mpj.CreditLimit:
    """Of a network whose credit is that of two types and two exponentials; types not told."""
    rule = mpj.TypeFilter.of_modprop(mpj.ModProp(1.0, TYPES), LINEAR)
    return mpj.credit_limit(
        loss,
        model_of(LINEAR),
        batches(4),
        counts=(1, 2),
        rates=[0.2, *rule.filters[0].numpy()],
        gated=(False,),
        ridge=0,
        rules={"e-prop": mpj.EProp(), "BPTT again": mpj.BPTT()},
    )


def test_the_types_and_exponentials_of_a_linear_network_are_found(linear):
    assert linear.types[0][1] == TYPES and linear.types[0][0] == (0,) * 5
    rates = mpj.TypeFilter.of_modprop(mpj.ModProp(1.0, TYPES), LINEAR).filters[0].numpy()
    assert set(linear.rates[0][1][:2]) == set(rates.tolist())
    assert linear.residual.shape == (1, 2, 3)
    assert linear.residual[0, 1, 1] < 1e-12 < 1e-4 < linear.residual[0, 0, 2]
    np.testing.assert_allclose(linear.held_out_cosine[0, 1, 1:], 1, atol=1e-10)
    np.testing.assert_allclose(linear.rule_cosine[1], 1, atol=1e-10)
    eprop, truth = (by_rule(r, model_of(LINEAR), batches(4)[3]) for r in (mpj.EProp(), mpj.BPTT()))
    np.testing.assert_allclose(linear.rule_cosine[0], cosine(eprop, truth), rtol=1e-8)


def test_with_given_types_it_is_the_fit():
    options: dict[str, Any] = dict(types=TYPES, rates=[0.9, 0.5], ridge=1e-3)
    limit = mpj.credit_limit(
        loss,
        generic(),
        batches(4),
        counts=(2,),
        memory=(2,),
        gated=(True,),
        rules=mpj.EProp(),
        **options,
    )
    fit = mpj.fit_filters(loss, generic(), batches(4), **options)
    for ours, theirs in (
        (limit.cosine, fit.cosine.mean()),
        (limit.held_out_cosine, fit.held_out_cosine.mean()),
        (limit.residual, fit.residual),
        (limit.held_out_residual, fit.held_out_residual),
    ):
        np.testing.assert_allclose(ours[0, 0, 0], theirs, rtol=1e-8)
    assert limit.types == ((TYPES,),) and set(limit.rates[0][0]) == {0.9, 0.5}
    assert limit.names == ("EProp",)


@pytest.mark.slow
def test_more_types_and_more_memory_leave_less():
    limit = mpj.credit_limit(
        loss, generic(), batches(6), types=TYPES, counts=(2, 5), rates=[0.95, 0.8, 0.4], ridge=1e-8
    )
    assert (np.diff(limit.residual, axis=2) <= 1e-9).all()
    assert (limit.residual[:, 1, 2] < limit.residual[:, 0, 2]).all()
    assert limit.names == ("e-prop", "MDGL", "ModProp") and limit.rule_cosine.shape == (3,)
    for types in limit.types[0]:
        # within the types given
        pairs = set(zip(types, TYPES))
        assert len(pairs) == max(types) + 1


def test_the_figure_has_a_line_for_each_memory_and_a_mark_for_each_rule(linear):
    figure = mpj.plot_credit_limit(linear)
    (axes,) = figure.axes
    # marks have no markers
    lines = [line for line in axes.lines if line.get_marker() in figures.MARKERS]
    assert len(lines) == 3
    np.testing.assert_array_equal(lines[1].get_ydata(), linear.held_out_cosine[0, :, 1])
    assert {text.get_text() for text in axes.texts} == {"e-prop", "BPTT again", "BPTT"}


WRONG = [
    (dict(types=TYPES, counts=(1,)), "numbers of types from the 2 given to the 5 neurons"),
    (dict(counts=(6,)), "to the 5 neurons"),
    (dict(counts=3), "counts must be numbers of types"),
    (dict(memory=(6,)), "at most the 5 rates"),
    (dict(gated=()), "gated must be False, True or both"),
    (dict(held_out=0), "held_out must be at least 1"),
    (dict(rules=[]), "rules is empty"),
]


@pytest.mark.parametrize("options, message", WRONG)
def test_errors_name_the_fix(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        mpj.credit_limit(loss, generic(), batches(3), **options)


def test_plots_only_limits(without_type_checks):
    with pytest.raises(ValueError, match="what credit_limit returns"):
        mpj.plot_credit_limit(jnp.ones(3))  # pyright: ignore

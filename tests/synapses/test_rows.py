"""A list of synapses in parts learns as the list does; over devices: `sharded.py`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import jit
from parts import CASES, gradient, IDS, matrices, N, network, PARTS, RECURRENT, same, STEPS, TYPES

import modprop_jax as mpj


# on eight devices all of them are compared with the list
HERE = [case for case in zip(CASES, IDS) if case[1] in ("leaky ModProp 4", "alif EProp 4")]


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for case, name in HERE])
def test_parts_learn_as_their_list(case):
    cell, rule, segment = case
    plain, parts = network(cell, rule, None), network(cell, rule, PARTS)
    ((value, _), gradients), ((want, _), expected) = (gradient(m, segment) for m in (parts, plain))
    np.testing.assert_allclose(value, want, rtol=1e-12)
    same(gradients, parts, expected, plain)
    if not isinstance(rule, mpj.BPTT):
        (_, exact) = gradient(network(cell, mpj.BPTT(), None), STEPS)
        exact = matrices(exact, plain)[0]
        assert np.abs(matrices(gradients, parts)[0] - exact).max() > 1e-2 * np.abs(exact).max()


def test_a_hub_is_cut_into_pieces():
    """Lines of more than 64 synapses, in one part alone, and parts of different sizes."""
    counts = np.where(np.arange(150) == 3, 140, 2)
    synapses = mpj.Sparse.random(jr.key(0), (150, 150), fan_in=counts)
    rows = mpj.SparseRows(synapses, 3)
    pre, post = jr.normal(jr.key(1), (2, 150)), jr.normal(jr.key(2), (2, 150))

    @jit
    def all_of(synapses):
        gradient = eqx.combine(synapses.gradient(post, pre), synapses)
        return synapses(pre), synapses.back(post), gradient.as_matrix()

    for found, expected in zip(all_of(rows), all_of(synapses), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_fills_a_part_counts_for_nothing():
    rows = mpj.SparseRows(RECURRENT, PARTS)
    assert not rows.exists.all()
    filled = eqx.tree_at(lambda r: r.weight, rows, jnp.where(rows.exists, rows.weight, 1e9))
    pre = jr.normal(jr.key(1), (N,))

    @jit
    def all_of(rows):
        sums = rows.type_counts(TYPES), rows.type_sums(TYPES)
        return rows(pre), rows.back(pre), rows.as_matrix(), sums, rows.gradient(pre, pre).weight

    found = all_of(filled)
    jax.tree.map(np.testing.assert_array_equal, found, all_of(rows))
    assert not jnp.any(jnp.where(rows.exists, 0, found[-1]))


def test_refusals():
    mesh = jax.make_mesh((1,), ("neurons",), (jax.sharding.AxisType.Explicit,))
    model = network("leaky", mpj.EProp(), PARTS)
    with pytest.raises(ValueError, match="axis must be an Auto one"):
        mpj.over_neurons(model, mesh, model)
    with pytest.raises(ValueError, match="parts must divide the 24 post"):
        mpj.SparseRows(RECURRENT, 5)
    with pytest.raises(ValueError, match="outside of transformed functions"):
        jax.eval_shape(lambda w: mpj.SparseRows(eqx.tree_at(lambda s: s.weight, RECURRENT, w), 2),
                       RECURRENT.weight)  # fmt: skip

"""A list of synapses in parts learns as the list does; over devices: `sharded.py`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from parts import CASES, gradient, IDS, matrices, N, network, PARTS, RECURRENT, same, STEPS, TYPES

import modprop_jax as mpj


@pytest.mark.parametrize("cell, rule, segment", CASES, ids=IDS)
def test_parts_learn_as_their_list(cell, rule, segment):
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
    np.testing.assert_allclose(rows(pre), synapses(pre), atol=1e-12)
    np.testing.assert_allclose(rows.back(post), synapses.back(post), atol=1e-12)
    found = eqx.combine(rows.gradient(post, pre), rows).as_matrix()
    expected = eqx.combine(synapses.gradient(post, pre), synapses).as_matrix()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_fills_a_part_counts_for_nothing():
    rows = mpj.SparseRows(RECURRENT, PARTS)
    assert not rows.exists.all()
    filled = eqx.tree_at(lambda r: r.weight, rows, jnp.where(rows.exists, rows.weight, 1e9))
    pre = jr.normal(jr.key(1), (N,))
    np.testing.assert_array_equal(filled(pre), rows(pre))
    np.testing.assert_array_equal(filled.back(pre), rows.back(pre))
    np.testing.assert_array_equal(filled.as_matrix(), rows.as_matrix())
    np.testing.assert_array_equal(filled.type_counts(TYPES), rows.type_counts(TYPES))
    assert not jnp.any(jnp.where(rows.exists, 0, rows.gradient(pre, pre).weight))


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

"""Maps whose parameters act on many synapses learn as the matrices that they stand for."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import BATCH, data, M, MASK, N, OUT, T, TYPES
from learning import FLAGS, Net, taken

import modprop_jax as mpj


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def layer() -> mpj.Layer:
    kernel = eqx.nn.Conv1d(2, 2, 3, padding=1, use_bias=False, key=jr.key(3))
    return mpj.Layer(kernel, (2, N // 2))


def low_rank(plus: mpj.AbstractSynapses | None = None) -> mpj.LowRank:
    return mpj.LowRank(0.5 * normal(N, 2), 0.5 * normal(N, 2, seed=1), plus)


MAPS = {
    "low rank": low_rank,
    "and list": lambda: low_rank(mpj.Sparse.from_dense(0.3 * normal(N, N), MASK)),
    "and layer": lambda: low_rank(layer()),
    "and matrix": lambda: low_rank(mpj.Dense(0.3 * normal(N, N))),
    "layer": layer,
    "linear": lambda: mpj.Layer(eqx.nn.Linear(N, N, use_bias=False, key=jr.key(4))),
}
RULES = {
    "bptt": lambda cell: mpj.BPTT(),
    "eprop": lambda cell: mpj.EProp(),
    "mdgl": lambda cell: mpj.MDGL(),
    "mdgl types": lambda cell: mpj.MDGL(TYPES),
    "modprop types": lambda cell: mpj.ModProp(0.1, TYPES),
    # a parameter of all neurons keeps all rows: a matrix does so where n is above the diameter
    "snap": lambda cell: mpj.SnAp(N, like=cell),
    "rtrl": lambda cell: mpj.RTRL(),
    "readout": lambda cell: mpj.ReadoutOnly(),
}


def leaky(**options: Any) -> mpj.LeakyCell:
    fixed: dict[str, Any] = dict(tau=3.0, activation=jnp.tanh, use_bias=True, key=jr.key(0))
    return mpj.LeakyCell(M, N, **fixed | options)


def net(cell: Any, rule: mpj.AbstractRule) -> Net:
    return Net(mpj.RNN(cell, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def compare(maps: str, rule: str, segment: int | None) -> None:
    """With the matrix, offline."""
    synapses, flags = MAPS[maps](), FLAGS if segment == 7 else {}
    made, dense = leaky(recurrent=synapses), leaky(autapses=True)
    dense = eqx.tree_at(lambda c: c.weight_rec, dense, synapses.as_matrix())
    credit = RULES["bptt" if rule == "rtrl" else rule](dense)
    if maps == "layer" and rule == "mdgl types":
        # a layer has all synapses, also those that its kernel does not reach
        credit = mpj.MDGL(TYPES, diffuse=True)
    value, expected = taken(None)(net(dense, credit), *data(), flags)
    found, actual = taken(segment)(net(made, RULES[rule](made)), *data(), flags)
    np.testing.assert_allclose(found, value, rtol=1e-12)
    params, rest = eqx.partition(synapses, eqx.is_inexact_array)
    pull = jax.vjp(lambda p: eqx.combine(p, rest).as_matrix(), params)[1]
    (due,) = pull(expected.rnn.cell.weight_rec)
    mine, theirs = actual.rnn.cell, expected.rnn.cell
    mine = (mine.weight_rec, mine.weight_in, mine.bias, actual.readout)
    theirs = (due, theirs.weight_in, theirs.bias, expected.readout)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        assert np.abs(one - other).max() <= 1e-10 * np.abs(other).max()
    assert rule == "readout" or all(np.abs(a).max() > 0 for a in jax.tree.leaves(mine))


# every rule on a map of several kinds, every map under a local rule and one that sends credit back
OFFLINE = [("and list", rule) for rule in RULES]
OFFLINE += [(maps, rule) for maps in MAPS for rule in ("eprop", "modprop types")]
OFFLINE += [("layer", "mdgl types"), ("layer", "rtrl")]


def quick(cases: Any, *fast: tuple) -> list:
    """All others in the slow suite."""
    once = dict.fromkeys(cases)
    return [pytest.param(*c, marks=() if c in fast else pytest.mark.slow) for c in once]


@pytest.mark.parametrize("maps, rule", quick(OFFLINE, ("and list", "modprop types")))
def test_a_map_learns_as_its_matrix_offline(maps, rule):
    compare(maps, rule, None)


CUT = [rule for rule in RULES if rule not in ("bptt", "mdgl")]
STREAMED = [("and list", rule, 7) for rule in CUT]
STREAMED += [(maps, "eprop", 7) for maps in MAPS if maps != "and list"]
STREAMED += [("and list", "modprop types", 1), ("and list", "eprop", T)]
STREAMED += [("layer", "modprop types", 7), ("and layer", "mdgl types", 1)]


@pytest.mark.parametrize("maps, rule, segment", quick(STREAMED, ("and list", "eprop", 7)))
def test_a_map_learns_as_its_matrix_streamed(maps, rule, segment):
    compare(maps, rule, segment)


ALIF: dict[str, Any] = dict(tau=5.0, tau_adaptation=9.0, beta=0.3, threshold=0.2, key=jr.key(0))
REFUSED = {
    "alif": lambda synapses: mpj.ALIFCell(M, N, recurrent=synapses, **ALIF),
    "taus": lambda synapses: leaky(tau=jnp.linspace(2.0, 4.0, N), recurrent=synapses),
    "filtered": lambda synapses: mpj.Filtered(leaky(recurrent=synapses), 0.8),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("maps", ["and list", "layer"])
def test_no_trace_of_a_synapse_for_them(maps, name):
    made = REFUSED[name](MAPS[maps]())
    for rule in (mpj.EProp(), mpj.MDGL(TYPES), mpj.ModProp(0.1, TYPES)):
        with pytest.raises(ValueError, match="weight_rec is a L.* whose parameters act on many"):
            rule.init(made, made.init(BATCH))


def test_snap_does_not_see_through_a_convolution():
    made = leaky(recurrent=layer())
    with pytest.raises(ValueError, match="sparsity of this cell can't be detected .* use RTRL"):
        jax.eval_shape(lambda: mpj.SnAp(2, like=made).init(made, made.init(BATCH)))

"""Gated cells whose gates are maps learn as the matrices that these are, under every rule."""

import functools
import math
import re
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
from modprop_jax._synapses import Gates


GATES = {"gru": 3, "lstm": 4}
CELLS = {"gru": mpj.GRUCell, "lstm": mpj.LSTMCell}
ALONE = ~np.eye(N, dtype=bool)
RULES = {
    "bptt": lambda cell: mpj.BPTT(),
    "eprop": lambda cell: mpj.EProp(),
    "snap1": lambda cell: mpj.SnAp(1, like=cell),
    "snap2": lambda cell: mpj.SnAp(2, like=cell),
    "future": lambda cell: mpj.FutureBPTT(3),
    "readout": lambda cell: mpj.ReadoutOnly(),
    "rtrl": lambda cell: mpj.RTRL(),
}


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def exists(gate: int, pre: int = N) -> np.ndarray:
    """Another connectivity for each gate."""
    return np.random.default_rng([7, gate]).random((N, pre)) < 0.6


def listed(gate: int, pre: int = N) -> mpj.Sparse:
    """In no order."""
    there = exists(gate, pre)
    order = np.random.default_rng(gate).permutation(there.sum())
    post, sender = (ends[order] for ends in np.nonzero(there))
    return mpj.Sparse(post, sender, normal(there.sum(), seed=gate), (N, pre))


def mixed(gate: int, pre: int = N) -> mpj.AbstractSynapses:
    """A map of another kind for each gate, all of which have a parameter a synapse."""
    weight = normal(N, pre, seed=gate)
    masked = mpj.Masked(weight, exists(gate, pre))
    return [masked, listed(gate, pre), mpj.Dense(weight), listed(gate, pre)][gate]


def shared_parameters(gate: int) -> mpj.AbstractSynapses:
    """Maps whose parameters act on many synapses, beside a list."""
    kernel = eqx.nn.Conv1d(2, 2, 3, padding=1, use_bias=False, key=jr.key(gate))
    factors = normal(N, 2, seed=gate), normal(N, 2, seed=9 + gate)
    low_rank = mpj.LowRank(*factors, plus=listed(gate))
    return [low_rank, mpj.Layer(kernel, (2, N // 2)), listed(gate), mpj.LowRank(*factors)][gate]


def each(make: Any, kind: str, *args: int) -> tuple:
    return tuple(make(gate, *args) for gate in range(GATES[kind]))


MAPS = {
    "lists": lambda kind: {"recurrent": each(listed, kind), "inputs": listed(5, M)},
    "one list": lambda kind: {"recurrent": listed(1)},
    "mixed": lambda kind: {"recurrent": each(mixed, kind), "inputs": each(mixed, kind, M)},
    "low rank": lambda kind: {"recurrent": each(shared_parameters, kind)},
    "inputs": lambda kind: {"inputs": each(listed, kind, M)},
}


@functools.cache
def cell(kind: str, maps: str) -> Any:
    return CELLS[kind](M, N, key=jr.key(2), **MAPS[maps](kind))


def matrix(weights: Any) -> Any:
    return weights.as_matrix() if isinstance(weights, mpj.AbstractSynapses) else weights


def with_matrices(cell: Any, mask: np.ndarray | None) -> Any:
    """The same cell, of matrices."""
    dense: Any = type(cell)(M, N, mask=mask, key=jr.key(2))
    names = [name for name in dense.drive_parameters if getattr(dense, name) is not None]
    arrays = [matrix(getattr(cell, name)) for name in names]
    return eqx.tree_at(lambda c: [getattr(c, name) for name in names], dense, arrays)


def net(cell: Any, rule: str) -> Net:
    return Net(mpj.RNN(cell, rule=RULES[rule](cell)), mpj.Readout(N, OUT, key=jr.key(7)))


@functools.cache
def expected(kind: str, maps: str, rule: str, flagged: bool) -> Any:
    """Of the matrices, offline. What is missing is masked for SnAp alone, which asks for it: the
    gradient there is not looked at."""
    made = cell(kind, maps)
    mask = np.asarray(matrix(made.weight_hh) != 0) if rule.startswith("snap") else None
    return taken(None)(net(with_matrices(made, mask), rule), *data(), FLAGS if flagged else {})


def compare(kind: str, maps: str, rule: str, segment: int | None, flagged: bool) -> None:
    made = cell(kind, maps)
    value, right = expected(kind, maps, "bptt" if rule == "rtrl" else rule, flagged)
    found, actual = taken(segment)(net(made, rule), *data(), FLAGS if flagged else {})
    np.testing.assert_allclose(found, value, rtol=1e-12)
    for name in made.drive_parameters:
        weights, gradient = getattr(made, name), getattr(actual.rnn.cell, name)
        due = getattr(right.rnn.cell, name)
        if isinstance(weights, mpj.AbstractSynapses):
            params, rest = eqx.partition(weights, eqx.is_inexact_array)
            pull = jax.vjp(lambda p, rest=rest: eqx.combine(p, rest).as_matrix(), params)[1]
            (due,) = pull(due)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(due), strict=True)
        for mine, theirs in pairs:
            assert np.abs(mine - theirs).max() <= 1e-10 * np.abs(theirs).max(), name
            assert rule == "readout" or np.abs(mine).max() > 0


# rules that go by connectivity meet no shared parameters, which act on more than a matrix says
OFFLINE = [("gru", "lists", rule) for rule in RULES]
OFFLINE += [("gru", "mixed", "eprop"), ("gru", "mixed", "snap2"), ("gru", "inputs", "eprop")]
OFFLINE += [("gru", "low rank", "bptt"), ("gru", "low rank", "eprop"), ("gru", "one list", "snap1")]
OFFLINE += [("lstm", "lists", "eprop"), ("lstm", "lists", "snap1"), ("lstm", "one list", "eprop")]


def quick(cases: list[tuple], *fast: tuple) -> list:
    """All others in the slow suite."""
    return [pytest.param(*c, marks=() if c in fast else pytest.mark.slow) for c in cases]


@pytest.mark.parametrize("kind, maps, rule", quick(OFFLINE, ("gru", "low rank", "eprop")))
def test_maps_learn_as_matrices_offline(kind, maps, rule):
    compare(kind, maps, rule, None, False)


STREAMED = [("gru", "lists", "eprop", segment) for segment in (1, 7, T)]
STREAMED += [("gru", "lists", rule, 7) for rule in ("snap2", "rtrl", "readout")]
STREAMED += [("gru", "mixed", "eprop", 7), ("gru", "inputs", "eprop", 7)]
STREAMED += [("gru", "low rank", "rtrl", 7), ("lstm", "mixed", "eprop", 7)]
STREAMED += [("lstm", "one list", "snap1", 7)]


@pytest.mark.parametrize(
    "kind, maps, rule, segment",
    quick(STREAMED, ("gru", "mixed", "eprop", 7)),
)
def test_maps_learn_as_matrices_streamed(kind, maps, rule, segment):
    compare(kind, maps, rule, segment, segment == 7)


@pytest.mark.parametrize("maps", MAPS)
def test_the_maps_of_all_gates_are_one(maps):
    for weights in (cell("lstm", maps).weight_hh, cell("lstm", maps).weight_ih):
        if not isinstance(weights, Gates):
            continue
        dense = np.asarray(weights.as_matrix())
        post, pre = normal(2, 3, len(dense)), normal(2, 3, dense.shape[1])
        assert weights.shape == dense.shape
        np.testing.assert_allclose(weights(pre), pre @ dense.T, atol=1e-12)
        np.testing.assert_allclose(weights.back(post), post @ dense, atol=1e-12)
        np.testing.assert_allclose(weights.resolved().as_matrix(), dense, atol=1e-12)
        if dense.shape[1] == N:
            own = np.concatenate([np.diag(gate) for gate in np.split(dense, 4)])
            np.testing.assert_allclose(weights.own(), own, atol=1e-12)


def test_a_map_is_kept_as_it_came():
    made, plain = cell("gru", "lists"), mpj.GRUCell(M, N, key=jr.key(2))
    assert [type(s) for s in made.weight_hh.maps] == [mpj.Sparse] * 3
    np.testing.assert_array_equal(made.weight_ih.maps[0].weight, listed(5, M).weight)
    for name in ("bias", "bias_n"):
        np.testing.assert_allclose(getattr(made, name), getattr(plain, name), rtol=1e-15)
    assert (made.in_size, made.hidden_size, made.mask) == (M, N, None)
    assert isinstance(plain.weight_hh, jax.Array) and isinstance(plain.weight_ih, jax.Array)


def lists(count: int, *shape: int) -> tuple:
    return tuple(mpj.Dense(normal(*shape)) for _ in range(count))


BAD: dict[str, dict[str, Any]] = {
    "recurrent came with a mask": {"recurrent": lists(3, N, N), "mask": MASK},
    "recurrent must be a map of shape .6, 6. .* Dense of shape .6, 3.": {
        "recurrent": mpj.Dense(normal(N, M))
    },
    r"recurrent.2. must be a map of shape .6, 6.": {
        "recurrent": (*lists(2, N, N), *lists(1, 3 * N, N))
    },
    "recurrent must be one map .* or 3 of them, one a gate, but 4 came": {
        "recurrent": lists(4, N, N)
    },
    "inputs must be one map .* but 0 came": {"inputs": ()},
    "inputs must be a map of shape .6, 3.": {"inputs": mpj.Dense(normal(N, N))},
    "recurrent must be a map of synapses .* or 3 of them": {"recurrent": normal(3 * N, N)},
    "inputs.1. must be a map of synapses": {"inputs": (*lists(1, N, M), 3, *lists(1, N, M))},
}


@pytest.mark.parametrize("words", BAD)
def test_what_are_no_maps_of_gates_is_refused(words, without_type_checks):
    with pytest.raises(ValueError, match=words):
        mpj.GRUCell(M, N, key=jr.key(0), **BAD[words])


class Louder(mpj.GRUCell):
    """A cell of one's own, of which the package knows less."""

    def emit(self, state):
        return 2 * state


def test_what_a_rule_can_not_serve_is_refused():
    made = cell("gru", "low rank")
    with pytest.raises(ValueError, match="weight_hh holds a LowRank of shape .* or stream with RT"):
        mpj.EProp().init(made, made.init(BATCH))
    made = cell("gru", "lists")
    for rule in (mpj.MDGL(TYPES), mpj.ModProp(0.5, TYPES)):
        with pytest.raises(ValueError, match="needs a NeuronCell"):
            rule.init(made, made.init(BATCH))
    # pyright takes a cell without a constructor of its own for a plain dataclass
    own: Any = Louder(M, N, recurrent=each(listed, "gru"), key=jr.key(0))  # pyright: ignore
    with pytest.raises(ValueError, match="weight_hh"):
        mpj.EProp().init(own, own.init(BATCH))


@pytest.mark.parametrize("rule", ["eprop", "bptt"])
def test_nothing_dense_is_made(rule):
    """Of 20,000 units a matrix would be 400 million numbers a gate."""
    n = 20_000
    with jax.enable_x64(False):
        recurrent = mpj.Sparse.random(jr.key(0), (n, n), fan_in=3)
        inputs = mpj.Sparse.random(jr.key(1), (n, 2), fan_in=1)
        made = mpj.GRUCell(2, n, recurrent=(recurrent,) * 3, inputs=inputs, key=jr.key(2))
        rnn = mpj.RNN(made, rule=RULES[rule](made))

        def run(rnn, xs):
            if rule == "bptt":
                return eqx.filter_grad(lambda r: jnp.sum(r(xs) ** 2))(rnn)
            streamed = mpj.online_value_and_grad(
                lambda r, carry, xs, ys: (jnp.sum(r(xs, carry)[1] ** 2), r(xs, carry)[0]), segment=2
            )
            return streamed(rnn, rnn.init(), xs, xs)

        text = jax.jit(run).lower(rnn, jnp.ones((2, 2))).as_text()
    sizes = re.findall(r"tensor<([0-9x]+)x[a-z]", text)
    assert max(math.prod(map(int, size.split("x"))) for size in sizes) < 40 * n

"""A list of synapses learns as the matrix that it is, under every rule; and what is no list."""

import math
import re
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, data, M, MASK, N, OUT, T, TYPES
from learning import FLAGS, Net, taken

import modprop_jax as mpj
from modprop_jax._radius import radius_of
from modprop_jax._rule.modprop import _filter
from modprop_jax._synapses._lines import in_order, Lines


# without autapses, in no order, and a neuron that none sends to, another that sends to none
EXISTS = MASK & ~np.eye(N, dtype=bool)
EXISTS[4] = False
EXISTS[:, 2] = False
ORDER = np.random.default_rng(1).permutation(EXISTS.sum())
POST, PRE = (ends[ORDER] for ends in np.nonzero(EXISTS))
WEIGHT = np.random.default_rng(0).normal(size=(N, N)) * EXISTS

CELLS = {
    "leaky": lambda **options: mpj.LeakyCell(
        M, N, tau=3.0, activation=jnp.tanh, use_bias=True, key=jr.key(0), **options
    ),
    "leaky taus": lambda **options: mpj.LeakyCell(
        M, N, tau=jnp.linspace(2.0, 4.0, N), activation=jnp.tanh, key=jr.key(0), **options
    ),
    "alif": lambda **options: mpj.ALIFCell(
        M, N, tau=5.0, tau_adaptation=9.0, beta=0.3, threshold=0.2, key=jr.key(0), **options
    ),
    "filtered": lambda **options: mpj.LIFCell(
        M, N, tau=5.0, threshold=0.2, key=jr.key(0), **options
    ),
}
RULES = {
    "bptt": lambda cell: mpj.BPTT(),
    "eprop": lambda cell: mpj.EProp(),
    "mdgl": lambda cell: mpj.MDGL(),
    "mdgl types": lambda cell: mpj.MDGL(TYPES),
    "modprop types": lambda cell: mpj.ModProp(0.2, TYPES),
    "modprop": lambda cell: mpj.ModProp(0.2),
    "snap": lambda cell: mpj.SnAp(2, like=cell),
    "future": lambda cell: mpj.FutureBPTT(3),
    "readout": lambda cell: mpj.ReadoutOnly(),
    "rtrl": lambda cell: mpj.RTRL(),
}
STREAMS = ("eprop", "mdgl types", "modprop types", "modprop", "snap", "rtrl", "readout")


def net(rule: str, cell: str, **options: Any) -> Net:
    made = CELLS[cell](**options)
    if "mask" in options:
        made = eqx.tree_at(lambda c: c.weight_rec, made, jnp.asarray(WEIGHT))
    if cell == "filtered":
        made = mpj.Filtered(made, 0.8)
    return Net(mpj.RNN(made, rule=RULES[rule](made)), mpj.Readout(N, OUT, key=jr.key(7)))


def listed() -> mpj.Sparse:
    return mpj.Sparse(POST, PRE, jnp.asarray(WEIGHT[POST, PRE]), (N, N))


def normal_vector(n):
    return jnp.asarray(np.random.default_rng(n).normal(size=n))


def compare(rule: str, cell: str, segment: int | None, flags: dict) -> None:
    dense, sparse = net(rule, cell, mask=EXISTS), net(rule, cell, recurrent=listed())
    value, expected = taken(segment)(dense, *data(), flags)
    found, actual = taken(segment)(sparse, *data(), flags)
    np.testing.assert_allclose(found, value, rtol=1e-12)
    dense, sparse = (g.rnn.cell.parts()[0] for g in (expected, actual))
    matrix, each = np.asarray(dense.weight_rec), np.asarray(sparse.weight_rec.weight)
    scale = max(np.abs(matrix).max(), 1e-300)
    assert np.abs(each - matrix[POST, PRE]).max() <= 1e-10 * scale
    assert (matrix[~EXISTS] == 0).all()
    if rule != "readout":
        assert np.abs(each).max() > 0
    assert_close(sparse.weight_in, dense.weight_in, 1e-10)
    assert_close(actual.readout, expected.readout, 1e-10)


# every rule on one cell, and one of each kind of trace on the others
OTHERS = [(rule, cell) for cell in list(CELLS)[1:] for rule in ("eprop", "modprop types", "snap")]


@pytest.mark.parametrize("rule, cell", [(rule, "leaky") for rule in RULES] + OTHERS)
def test_a_list_learns_as_its_matrix_offline(rule, cell):
    compare(rule, cell, None, {})


CUT = [(rule, "leaky", segment) for rule in STREAMS for segment in (1, 7)]
CUT += [(rule, cell, 7) for rule, cell in OTHERS] + [("eprop", "alif", 1), ("eprop", "alif", T)]


@pytest.mark.parametrize("rule, cell, segment", CUT)
def test_a_list_learns_as_its_matrix_streamed(rule, cell, segment):
    compare(rule, cell, segment, FLAGS if segment == 7 else {})


@pytest.mark.parametrize("rule, cell", [("eprop", "alif"), ("modprop types", "leaky")])
@pytest.mark.parametrize("segment", [None, 7])
@pytest.mark.parametrize("own_lists", [False, True])
def test_an_ensemble_is_its_members(rule, cell, segment, own_lists):
    drawn = mpj.Sparse.random(jr.key(0), (N, N), fan_in=2)
    free = eqx.tree_at(lambda s: s.weight, drawn, 0 * drawn.weight)
    second = free.rewired(jr.key(5)) if own_lists else free
    assert bool((second.pre != free.pre).any()) == own_lists
    weights = drawn.weight, 0.3 * normal_vector(drawn.weight.size)
    lists = [eqx.tree_at(lambda s: s.weight, s, w) for s, w in zip((free, second), weights)]
    models = eqx.filter_vmap(lambda s: net(rule, cell, recurrent=s))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *lists)
    )
    together = eqx.filter_vmap(lambda m: taken(segment)(m, *data(), {}))(models)
    for i, one in enumerate(lists):
        alone = taken(segment)(net(rule, cell, recurrent=one), *data(), {})
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, 1e-10)
    with pytest.raises(ValueError, match="scan runs one .* of an ensemble"):
        models.rnn(data()[0])
    credit = mpj.ModProp(0.2, TYPES)
    radii = [mpj.spectral_radius(credit, net(rule, cell, recurrent=s).rnn.cell) for s in lists]
    np.testing.assert_allclose(mpj.spectral_radius(credit, models.rnn.cell), radii, rtol=1e-10)


def test_a_permuted_list_has_the_permuted_gradient():
    order = np.random.default_rng(2).permutation(POST.size)
    one = net("eprop", "alif", recurrent=listed())
    other = net(
        "eprop",
        "alif",
        recurrent=mpj.Sparse(POST[order], PRE[order], listed().weight[order], (N, N)),
    )
    gradients = [taken(None)(model, *data(), {})[1] for model in (one, other)]
    mine, theirs = (np.asarray(g.rnn.cell.weight_rec.weight) for g in gradients)
    np.testing.assert_allclose(theirs, mine[order], rtol=1e-10, atol=1e-12 * np.abs(mine).max())


@pytest.mark.parametrize(
    "longest", [np.full(9, 3), np.array([0, 1, 63, 64, 65, 127, 128, 129, 200])]
)
def test_lines_of_any_length(longest):
    rng = np.random.default_rng(0)
    owners = rng.permutation(np.repeat(np.arange(9), longest))
    lines, terms = Lines(owners, 9), rng.normal(size=(owners.size, 2))
    expected = np.stack([terms[owners == j].sum(0) for j in range(9)])
    ordered = terms if lines.order is None else terms[np.asarray(lines.order)]
    np.testing.assert_allclose(lines(jnp.asarray(ordered)), expected, atol=1e-12)
    placed = in_order(owners, np.arange(owners.size), 9)[0]
    assert Lines(placed, 9).order is None


BAD: dict[str, Callable[[Any], Any]] = {
    "post must hold neurons 0 ... 5": lambda s: mpj.Sparse([0, 6], [0, 1], s(2), (6, 6)),
    "pre must hold neurons 0 ... 5": lambda s: mpj.Sparse([0, 1], [-1, 1], s(2), (6, 6)),
    "post must hold an integer": lambda s: mpj.Sparse([0.0, 1.0], [0, 1], s(2), (6, 6)),
    "1 synapses come twice, the first of them 1 to 2": lambda s: mpj.Sparse(
        [2, 0, 2], [1, 1, 1], s(3), (6, 6)
    ),
    "one entry a synapse, but have 2, 2 and 3": lambda s: mpj.Sparse([0, 1], [0, 1], s(3), (6, 6)),
    "weight must be a jax.Array": lambda s: mpj.Sparse(
        [0, 1], [0, 1], cast(Any, np.ones(2)), (6, 6)
    ),
    "shape must be .postsynaptic": lambda s: mpj.Sparse([0, 1], [0, 1], s(2), cast(Any, 6)),
    "known when the map is made": lambda s: jax.jit(
        lambda post: mpj.Sparse(post, [0, 1], s(2), (6, 6))(s(6))
    )(jnp.arange(2)),
    "a map says itself which synapses": lambda s: mpj.LeakyCell(
        M, N, tau=2.0, mask=EXISTS, recurrent=listed(), key=jr.key(0)
    ),
    "recurrent must be a map of shape": lambda s: mpj.LeakyCell(
        M, N + 1, tau=2.0, recurrent=listed(), key=jr.key(0)
    ),
    "mask must be boolean of the shape": lambda s: mpj.Sparse.from_dense(jnp.eye(3), np.eye(3)),
    "needs to know which synapses": lambda s: jax.jit(lambda w: mpj.Sparse.from_dense(w)(s(3)))(
        jnp.eye(3)
    ),
    "needs fan_in": lambda s: mpj.Sparse.random(jr.key(0), (4, 4)),
    "fan_in must be 0 ... 3": lambda s: mpj.Sparse.random(jr.key(0), (4, 4), fan_in=4),
    "fan_in must be a whole number": lambda s: mpj.Sparse.random(jr.key(0), (4, 4), fan_in=1.5),
    "probability must be in .0, 1.": lambda s: mpj.Sparse.random(
        jr.key(0), (4, 4), probability=1.5
    ),
    "excitatory and inhibitory": lambda s: mpj.Sparse.random(
        jr.key(0), (4, 4), fan_in=2, signs=[1, 1, 1, 1]
    ),
    "left and right must be of one rank": lambda s: mpj.LowRank(jnp.ones((3, 2)), jnp.ones((3, 1))),
    "plus must be a map of shape": lambda s: mpj.LowRank(
        jnp.ones((3, 2)), jnp.ones((3, 2)), mpj.Dense(jnp.ones((2, 3)))
    ),
    "has a bias": lambda s: mpj.Layer(eqx.nn.Linear(3, 3, key=jr.key(0))),
    "sheet must be the shape": lambda s: mpj.Layer(
        eqx.nn.Conv1d(1, 1, 3, use_bias=False, key=jr.key(0))
    ),
    "layer must take an array": lambda s: mpj.Layer(
        eqx.nn.Conv1d(1, 1, 3, use_bias=False, key=jr.key(0)), (2, 5)
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_no_map_is_refused(words, without_type_checks):
    with pytest.raises(ValueError, match=words):
        BAD[words](jnp.ones)


@pytest.mark.parametrize("options", [{"fan_in": 5}, {"fan_in": 28}, {"probability": 0.3}])
@pytest.mark.parametrize("autapses", [False, True])
def test_drawn_lists(options, autapses):
    n = 30
    made = mpj.Sparse.random(jr.key(3), (n, n), autapses=autapses, **options)
    matrix = np.asarray(made.as_matrix())
    assert made.onto.order is None and made.has_autapses == bool(np.diag(matrix).any())
    assert autapses or not np.diag(matrix).any()
    if "fan_in" in options:
        assert ((matrix != 0).sum(1) == options["fan_in"]).all()
    assert abs(np.sqrt((matrix**2).sum(1)).mean() - 1) < 0.15
    again = mpj.Sparse.random(jr.key(3), (n, n), autapses=autapses, **options)
    np.testing.assert_array_equal(again.as_matrix(), matrix)


def test_drawn_lists_by_dales_law():
    n = 40
    signs = np.where(np.arange(n) % 5, 1, -1)
    counts = np.random.default_rng(0).integers(8, 30, n)
    made = mpj.Sparse.random(jr.key(3), (n, n), fan_in=counts, signs=signs)
    matrix = np.asarray(made.as_matrix())
    assert (matrix * signs >= 0).all() and ((matrix != 0).sum(1) <= counts).all()
    both = (matrix > 0).any(1) & (matrix < 0).any(1)
    assert both.sum() > n / 2 and np.abs(matrix.sum(1))[both].max() < 1e-12
    assert abs(np.abs(np.linalg.eigvals(matrix)).max() - 1) < 1e-3


def test_lognormal_degrees():
    draw = mpj.lognormal_degrees(jr.key(0), 20_000, mean=20, spread=0.8)
    logs = np.log(draw)
    assert draw.dtype == np.int64 and draw.min() >= 1 and abs(draw.mean() - 20) < 0.5
    assert abs(logs.std() - 0.8) < 0.02 and abs(logs.mean() - np.log(20) + 0.32) < 0.02
    np.testing.assert_array_equal(
        draw, mpj.lognormal_degrees(jr.key(0), 20_000, mean=20, spread=0.8)
    )
    assert mpj.lognormal_degrees(jr.key(1), 1000, mean=20, most=40).max() == 40
    assert mpj.lognormal_degrees(jr.key(1), 30, mean=20, spread=3.0).max() == 29
    assert (mpj.lognormal_degrees(jr.key(1), 30, mean=7, spread=0) == 7).all()
    with pytest.raises(ValueError, match="its key must not be traced"):
        jax.jit(lambda key: jnp.asarray(mpj.lognormal_degrees(key, 9, mean=2)))(jr.key(0))
    with pytest.raises(ValueError, match=r"mean must be in \[1, 8\]"):
        mpj.lognormal_degrees(jr.key(0), 9, mean=9)


def test_rewiring_moves_what_is_free_and_compiles_nothing():
    n, traces = 60, []
    signs = np.where(np.arange(n) % 4, 1, -1)
    made = mpj.Sparse.random(jr.key(0), (n, n), fan_in=8, signs=signs)
    free = np.arange(made.weight.size) % 3 == 0
    made = eqx.tree_at(lambda s: s.weight, made, jnp.where(free, 0, made.weight))

    @jax.jit
    def received(synapses, x):
        traces.append(1)
        return synapses(x), synapses.back(x)

    moved, x = made.rewired(jr.key(1)), normal_vector(n)
    for each in (made, moved):
        matrix = np.asarray(each.as_matrix())
        np.testing.assert_allclose(received(each, x)[0], matrix @ x, atol=1e-12)
        np.testing.assert_allclose(received(each, x)[1], matrix.T @ x, atol=1e-12)
    assert len(traces) == 1
    np.testing.assert_array_equal(moved.post, made.post)
    assert np.asarray(moved.pre != made.pre)[~free].sum() == 0
    assert np.asarray(moved.pre != made.pre)[free].mean() > 0.7
    assert (np.bincount(moved.pre, minlength=n) == np.bincount(made.pre, minlength=n)).all()
    assert not (moved.post == moved.pre).any() and not moved.has_autapses
    with pytest.raises(ValueError, match="outside of the transformed"):
        jax.jit(lambda key: made.rewired(key)(x))(jr.key(0))


def test_dales_law_and_revival_on_a_list():
    by_neuron = np.where(np.arange(20) % 4, 1, -1)
    made = mpj.Sparse.random(jr.key(0), (20, 20), fan_in=5, signs=by_neuron)
    signs, weight = by_neuron[np.asarray(made.pre)], made.weight

    def after(optimizer, gradient):
        updates, _ = optimizer.update(gradient, optimizer.init(weight), weight)
        return np.asarray(optax.apply_updates(weight, updates))

    across = optax.chain(optax.sgd(1.0), mpj.optim.dale(signs))
    half = np.arange(weight.size) % 2 == 0
    found = after(across, jnp.where(half, 4 * weight, 0))
    assert (found[half] == 0).all() and np.array_equal(found[~half], np.asarray(weight)[~half])
    left = after(mpj.optim.rewire(signs, shrink=10.0, connectivity=0.9), 0 * weight)
    assert (left != 0).sum() == round(0.9 * left.size) and (left * signs >= 0).all()


@pytest.mark.parametrize("n, tolerance, of_ring", [(30, 1e-9, 1e-6), (300, 0.02, 0.05)])
def test_the_radius_without_a_matrix(n, tolerance, of_ring):
    made = mpj.Sparse.random(jr.key(n), (n, n), fan_in=10)
    expected = np.abs(np.linalg.eigvals(np.asarray(made.as_matrix()))).max()
    assert abs(radius_of(made, n, made.dtype) / expected - 1) < tolerance
    chain = mpj.Sparse(np.arange(1, 30), np.arange(29), jnp.ones(29), (n, n))
    assert radius_of(chain, n, chain.dtype) == 0
    ring = mpj.Sparse(np.arange(n), (np.arange(n) + 1) % n, jnp.full(n, 0.7), (n, n))
    assert abs(radius_of(ring, n, ring.dtype) - 0.7) < of_ring


@pytest.mark.parametrize("rule", ["eprop", "modprop types", "mdgl types", "bptt"])
def test_nothing_dense_is_compiled(rule):
    """Of 20,000 neurons a matrix would be 400 million numbers."""
    n = 20_000
    types = tuple(int(i) for i in np.arange(n) % 2)
    rules = {
        "eprop": mpj.EProp(),
        "modprop types": mpj.ModProp(0.2, types),
        "mdgl types": mpj.MDGL(types),
        "bptt": mpj.BPTT(),
    }
    with jax.enable_x64(False):
        recurrent = mpj.Sparse.random(jr.key(0), (n, n), fan_in=3)
        inputs = mpj.Sparse.random(jr.key(1), (n, 2), fan_in=1)
        cell = mpj.LeakyCell(2, n, tau=5.0, recurrent=recurrent, inputs=inputs, key=jr.key(2))
        rnn = mpj.RNN(cell, rule=rules[rule])

        def loss(rnn, carry, xs):
            carry, zs = rnn(xs, carry)
            return jnp.sum(zs**2), carry

        def run(rnn, xs):
            if rule == "bptt":
                return eqx.filter_grad(lambda r: jnp.sum(r(xs) ** 2))(rnn)
            take = eqx.filter_value_and_grad(loss, has_aux=True)
            return take(rnn, rnn.init(), xs)

        text = jax.jit(run).lower(rnn, jnp.ones((2, 2))).as_text()
    sizes = re.findall(r"tensor<([0-9x]+)x[a-z]", text)
    largest = max(math.prod(map(int, size.split("x"))) for size in sizes)
    assert largest < 40 * n


def test_the_stability_of_a_cell_specific_rule_needs_no_matrix(monkeypatch):
    """Within a percent of the matrix's; a list too large for a matrix is checked all the same."""
    monkeypatch.setattr(_filter, "LARGEST", 100)
    n = 300
    synapses = mpj.Sparse.random(jr.key(0), (n, n), fan_in=20)
    cell = mpj.LeakyCell(2, n, tau=4.0, recurrent=synapses, key=jr.key(1))
    found = mpj.spectral_radius(mpj.ModProp(0.5), cell)
    leak = float(cell.leak)
    matrix = leak * np.eye(n) + (1 - leak) * 0.5 * np.asarray(synapses.as_matrix())
    expected = np.abs(np.linalg.eigvals(matrix)).max()
    np.testing.assert_allclose(found, expected, rtol=0.01)
    strong = eqx.tree_at(lambda s: s.weight, synapses, 20 * synapses.weight)
    unstable = mpj.LeakyCell(2, n, tau=4.0, recurrent=strong, key=jr.key(1))
    mpj.ModProp(0.5).check(cell)
    with pytest.raises(ValueError, match="ModProp is unstable on these weights"):
        mpj.ModProp(0.5).check(unstable)

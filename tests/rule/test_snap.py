"""SnAp: equal to the figures of golden/README.md, and to a dense masked influence matrix."""

import functools
import pathlib
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
    cell as table_cell,
    data,
    distance,
    flat,
    gradient,
    jit,
    M,
    N,
    Net,
    net,
    offline,
    offline_loss,
    OUT,
    streamed_gradient,
    weights,
)
from jax.flatten_util import ravel_pytree

import modprop_jax as mpj
from modprop_jax._program._influence import Influence
from modprop_jax._program._transport import Transport
from modprop_jax._rule import AbstractInfluenceRule
from modprop_jax._rule.snap import _sparsity
from modprop_jax._rule.snap._pattern import pattern_of
from modprop_jax._rule.snap._rule import _is_plain
from modprop_jax._rule.snap._structure import within_units


pytestmark = pytest.mark.slow


FIGURES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "eprop_mdgl_snap.npz")
FAR = 20

# i <- i - 1, a ring: everything is reached after N - 1 connections, one more unit at each
RING = np.roll(np.eye(N, dtype=bool), 1, axis=0)
SPARSE = np.random.default_rng(7).random((N, N)) < 0.3
OTHERS = SPARSE & ~np.eye(N, dtype=bool)


# --- figures ---


class _Forward(mpj.SnAp):
    """The same, never by the reverse form."""

    def on(self, cell, in_size=None, *, streams=True):
        return AbstractInfluenceRule.on(self, cell, in_size, streams=streams)


Forward: Any = _Forward  # with the constructor of SnAp


def figures(name):
    return jnp.asarray(FIGURES[name])


def tanh_cell():
    """h' = tanh(W h + U x + b), W masked."""
    cell = mpj.RateCell(3, 6, mask=FIGURES["tanh/mask"] != 0, key=jr.key(0))
    where = lambda c: (c.weight_rec, c.weight_in, c.bias)  # noqa: E731
    return eqx.tree_at(where, cell, tuple(figures(f"tanh/{k}") for k in "WUb"))


def gru_step(params, h, x):
    """The reset gate acts after the recurrent weights."""
    into = x @ params["Wi"].T + jnp.broadcast_to(params["b"], (*x.shape[:-1], 18))
    back = h @ jnp.where(FIGURES["gru/mask_h"] != 0, params["Wh"], 0).T
    r, z = (jax.nn.sigmoid((into + back)[..., k : k + 6]) for k in (0, 6))
    bn = jnp.broadcast_to(params["bn"], h.shape)
    c = jnp.tanh(into[..., 12:] + r * (back[..., 12:] + bn))
    return z * h + (1 - z) * c


def gru_cell():
    params = {name: figures(f"gru/{name}") for name in ("Wi", "Wh", "b", "bn")}
    return mpj.FunctionCell(gru_step, params, np.zeros(6))


@functools.cache
def figure_gradients(name):
    """Loss and gradients of the cell and the readout, of SnAp(1), SnAp(2), SnAp(20)."""
    cell = {"tanh": tanh_cell, "gru": gru_cell}[name]()
    xs, ys = (jnp.swapaxes(figures(f"{name}/{k}"), 0, 1) for k in ("x", "target"))

    @eqx.filter_value_and_grad
    def loss(trained, rule):
        cell, C = trained
        _, zs = mpj.scan(cell, cell.init((2,)), xs, rule=rule)
        return 0.5 * jnp.sum((zs @ C.T - ys) ** 2) / 2

    rules = [mpj.SnAp(n, like=cell) for n in (1, 2, FAR)]
    return jit(lambda model: [loss(model, rule) for rule in rules])((cell, figures(f"{name}/C")))


@pytest.mark.parametrize("index, case", [(0, "snap1"), (1, "snap2"), (2, "rtrl")])
def test_tanh_figures(index, case):
    value, (cell, readout) = figure_gradients("tanh")[index]
    found = {"dW": cell.weight_rec, "dU": cell.weight_in, "db": cell.bias}
    assert_close(found, {key: figures(f"tanh/{case}/{key}") for key in found}, 1e-10)
    assert_close((value, readout), (figures("tanh/loss"), figures("tanh/dC")), 1e-10)


@pytest.mark.parametrize("index, case", [(0, "snap1"), (2, "rtrl")])
def test_gru_figures(index, case):
    value, (cell, readout) = figure_gradients("gru")[index]
    found = {f"d{key}": gradient for key, gradient in cell.params.items()}
    assert_close(found, {key: figures(f"gru/{case}/{key}") for key in found}, 1e-10)
    assert_close((value, readout), (figures("gru/loss"), figures("gru/dC")), 1e-10)


@pytest.mark.parametrize("name, cases", [("tanh", (1, 2)), ("gru", (1,))])
def test_density_of_figures(name, cases):
    """Kept pairs of all pairs of a unit and an existing parameter."""
    cell = {"tanh": tanh_cell, "gru": gru_cell}[name]()
    mask = FIGURES["tanh/mask" if name == "tanh" else "gru/mask_h"] != 0
    parameters = sum(leaf.size for leaf in jax.tree.leaves(cell)) - (~mask).sum()
    for n in cases:
        kept, _ = pairs(pattern_of(cell, 3, n))
        density = FIGURES[f"{name}/snap{n}/influence_density"]
        np.testing.assert_allclose(len(kept) / (6 * parameters), density, rtol=1e-12)


def test_each_gate_may_have_a_mask_of_its_own():
    """Two steps of a GRUCell are those of its equations, read off a step function."""
    like = eqx.nn.GRUCell(3, 6, key=jr.key(0))
    arrays = tuple(figures(f"gru/{key}") for key in ("Wi", "Wh", "b", "bn"))
    like = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n), like, arrays)
    cell = mpj.GRUCell.from_equinox(like, mask=FIGURES["gru/mask_h"] != 0)
    near, far = (len(pairs(pattern_of(cell, 3, n))[0]) for n in (1, 2))
    parameters = (
        sum(leaf.size for leaf in jax.tree.leaves(cell)) - (FIGURES["gru/mask_h"] == 0).sum()
    )
    density = FIGURES["gru/snap1/influence_density"]
    np.testing.assert_allclose(near / (6 * parameters), density, rtol=1e-12)
    assert near < far
    xs = jnp.swapaxes(figures("gru/x"), 0, 1)

    @eqx.filter_value_and_grad
    def loss(cell, xs):
        return jnp.sum(jnp.sin(3.0 * mpj.scan(cell, cell.init((2,)), xs, rule=mpj.SnAp(2))[1]))

    run = jit(lambda cells, xs: [loss(cell, xs) for cell in cells])
    (value, found), (expected, step) = run((cell, gru_cell()), xs)
    assert_close(value, expected, 1e-12)
    found = found.weight_ih, found.weight_hh, found.bias, found.bias_n
    assert_close(found, tuple(step.params[key] for key in ("Wi", "Wh", "b", "bn")), 1e-11)


# --- a dense oracle ---


def adaptive():
    """Spiking, two variables a neuron, credit through the reset, refractory; sparse."""
    options = {"tau": 5.0, "tau_adaptation": 12.0, "beta": 0.4, "dampening": 0.9, "refractory": 3}
    cell = mpj.ALIFCell(
        M, N, mask=SPARSE, reset_gradient=True, use_bias=True, key=jr.key(3), **options
    )
    return eqx.tree_at(lambda c: c.weight_rec, cell, 2.0 * cell.weight_rec)


def sparse_rate():
    return eqx.tree_at(
        lambda c: c.weight_rec,
        mpj.RateCell(M, N, alpha=0.7, mask=SPARSE, key=jr.key(4)),
        1.3 * jr.normal(jr.key(5), (N, N)),
    )


def lstm_step(params, state, x):
    """A gate that reads what others send, and two variables of different meaning a unit."""
    h, c = state
    W = jnp.where(SPARSE, params["W"], 0)
    gate = jax.nn.sigmoid(h @ W.T + x @ params["U"].T)
    c = gate * c + (1 - gate) * jnp.tanh(x @ params["V"].T)
    return gate * jnp.tanh(c), c


def lstm_like():
    keys = jr.split(jr.key(9), 3)
    shapes = {"W": (N, N), "U": (N, M), "V": (N, M)}
    params = {name: jr.normal(key, shapes[name]) for name, key in zip(shapes, keys)}
    # the emission mixes units
    mix = np.random.default_rng(1).normal(size=(2, N)) * (np.arange(2 * N).reshape(2, N) % 3 == 0)
    return mpj.FunctionCell(
        lstm_step, params, (np.zeros(N), np.zeros(N)), lambda s: s[0] @ jnp.asarray(mix).T
    )


# cell, connections between units, mask of the recurrent weights
CELLS = {
    "rate": (sparse_rate, SPARSE, SPARSE),
    "adaptive": (adaptive, OTHERS, OTHERS),
    "gru": (gru_cell, FIGURES["gru/mask_h"].reshape(3, N, N).any(0), FIGURES["gru/mask_h"] != 0),
    "two_variables": (lstm_like, SPARSE, SPARSE),
}


def owners(name, cell):
    """For each parameter entry the unit that it belongs to, -1 for those that are masked."""
    found = []
    for leaf in jax.tree.leaves(eqx.filter(cell, eqx.is_inexact_array)):
        own = (np.arange(len(leaf)) % N).reshape(-1, *(1,) * (leaf.ndim - 1))
        mask = CELLS[name][2] if leaf.shape[1:] == (N,) else True
        found.append(np.where(mask, np.broadcast_to(own, leaf.shape), -1))
    return np.concatenate([own.ravel() for own in found])


def kept_units(name, cell, n):
    """(units, parameters): reached by at most n - 1 connections from the owner."""
    own = owners(name, cell)
    reached = np.arange(N)[:, None] == own
    for _ in range(n - 1):
        reached |= CELLS[name][1] @ reached
    return reached


def as_vector(state):
    return jnp.concatenate(jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array)))


@functools.cache
def dense(name):
    """`(keep, keep_start, xs) -> Σ_t c_t M_t` of one example, by the whole influence matrix.

    M is of the rows of the state and of all parameters, and of the rows of the initial state.
    """
    cell = CELLS[name][0]()
    differentiable, rest = eqx.partition(cell, eqx.is_inexact_array)
    theta, rebuild = ravel_pytree(differentiable)
    start = cell.init()
    rows = len(as_vector(start))

    def with_vector(vector, state):
        parts = iter(jnp.split(vector, rows // N))
        return jax.tree.map(lambda a: next(parts) if eqx.is_inexact_array(a) else a, state)

    def step(theta, vector, state, x):
        after = eqx.combine(rebuild(theta), rest).step(with_vector(vector, state), x)
        return as_vector(after), after

    def example(keep, keep_start, xs):
        def body(carry, x):
            state, m, from_start = carry
            at = theta, as_vector(state), state, x
            (f, j), after = jax.jacrev(step, argnums=(0, 1), has_aux=True)(*at)
            m = keep * (f + j @ m)
            from_start = keep_start * (j @ from_start)
            return (after, m, from_start), (after, m, from_start)

        carry = start, jnp.zeros((rows, len(theta))), jnp.eye(rows)
        _, (states, m, from_start) = jax.lax.scan(body, carry, xs)
        vectors = jax.vmap(as_vector)(states)

        def emitted(vectors):
            return jax.vmap(lambda v, s: cell.emit(with_vector(v, s)))(vectors, states)

        credit = jax.grad(lambda vectors: weigh(emitted(vectors)))(vectors)
        return jnp.einsum("tr,trp->p", credit, m), jnp.einsum("tr,trq->q", credit, from_start)

    return jit(example)


def oracle(name, n, xs):
    """Gradient of the parameters, and of the initial state (batch, rows)."""
    cell = CELLS[name][0]()
    variables = len(as_vector(cell.init())) // N
    steps = np.eye(N, dtype=bool)
    for _ in range(n - 1):
        steps |= CELLS[name][1] @ steps
    keep = np.tile(kept_units(name, cell, n), (variables, 1)), np.tile(steps, (variables,) * 2)
    keep = [jnp.asarray(pattern, xs.dtype) for pattern in keep]
    each = [dense(name)(*keep, xs[:, b]) for b in range(xs.shape[1])]
    return sum(gradient for gradient, _ in each), jnp.stack([start for _, start in each])


def weigh(z):
    """Generic, and different at every step."""
    t = jnp.arange(len(z), dtype=z.dtype).reshape(-1, *(1,) * (z.ndim - 1))
    return jnp.sum(jnp.sin(3.0 * z + t) + z**2)


@pytest.mark.parametrize("name", CELLS)
def test_equals_dense(name):
    """Parameters and a bare initial state, at every n up to the diameter."""
    xs, _ = data(steps=9)
    cell = CELLS[name][0]()
    start = cell.init((2,))

    @eqx.filter_grad
    def gradient(model, rule, xs):
        cell, start = model
        _, zs = mpj.scan(cell, start, xs, rule=rule)
        return weigh(zs)

    rules = [mpj.SnAp(n, like=cell) for n in (1, 2, 3)]
    found = jit(lambda model, xs: [gradient(model, rule, xs) for rule in rules])((cell, start), xs)
    for n, (of_cell, of_start) in enumerate(found, start=1):
        expected, expected_start = oracle(name, n, xs)
        assert_close(jnp.asarray(flat(of_cell)), expected, 1e-10)
        assert_close(jnp.concatenate(jax.tree.leaves(of_start), axis=-1), expected_start, 1e-10)
    assert distance(found[0][0], found[1][0]) > 1e-3


# --- limits and identities ---


def after(rule, cell, xs, state=None):
    """Gradient by the cell, the initial state and the inputs, of emissions and last state."""
    state = cell.init(xs.shape[1:-1]) if state is None else state

    @eqx.filter_grad
    def gradient(model, rule):
        cell, state, xs = model
        last, zs = mpj.scan(cell, state, xs, rule=rule)
        ends = jax.tree.leaves(eqx.filter(last, eqx.is_inexact_array))
        return weigh(zs) + sum(jnp.sum(leaf**3) for leaf in ends)

    return gradient((cell, state, xs), rule)


def ring(mask: Any = RING):
    cell = mpj.LeakyCell(M, N, tau=3.0, activation=jnp.tanh, mask=mask, key=jr.key(2))
    return eqx.tree_at(lambda c: c.weight_rec, cell, 4.0 * cell.weight_rec)


@pytest.mark.slow
def test_more_steps_keep_more_until_rtrl():
    """On a ring, n = N reaches everything: then SnAp is exact, by the initial state too."""
    cell, (xs, _) = ring(), data()
    start = 0.3 * jr.normal(jr.key(1), (*BATCH, N))
    rules = [mpj.SnAp(n, like=cell) for n in (1, 2, N - 1, N, FAR)] + [mpj.BPTT()]
    found = jit(lambda *model: [after(rule, *model)[:2] for rule in rules])(cell, xs, start)
    *approximate, _, _, exact = found
    off = [distance(gradient, exact) for gradient in approximate]
    assert off == sorted(off, reverse=True) and off[-1] > 1e-8, off
    assert_close(found[-2], exact, 1e-10)
    assert_close(found[-3], exact, 1e-10)


@pytest.mark.parametrize("name", ["leaky_tau", "filtered_adaptive", "function"])
@pytest.mark.slow
def test_two_steps_of_an_unmasked_recurrence_are_rtrl(name):
    """Parameters that all neurons share, or that only the emission reads, among them."""
    model, (xs, ys) = net("rtrl", name), data()
    exact = offline("rtrl", name)
    rules = mpj.SnAp(1), mpj.SnAp(2, inputs=M)
    near, far = jit(lambda m: [mpj.value_and_grad(offline_loss, r)(m, xs, ys)[1] for r in rules])(
        model
    )
    assert_close(far.rnn.cell, exact[1].rnn.cell, 1e-10)
    assert distance(near.rnn.cell, exact[1].rnn.cell) > 1e-2


def test_no_connection_is_bptt():
    cell, (xs, _) = ring(np.zeros((N, N), bool)), data()
    near, exact = jit(lambda c: [after(r, c, xs)[0] for r in (mpj.SnAp(1, like=cell), mpj.BPTT())])(
        cell
    )
    assert_close(near, exact, 1e-10)


def test_one_step_is_eprop_without_autapses():
    """Credit through the reset: both keep all that happens within a neuron."""
    cell, (xs, _) = adaptive(), data()
    rules = mpj.SnAp(1, like=cell), mpj.EProp(), mpj.BPTT()
    snap, eprop, bptt = jit(lambda c, xs: [after(rule, c, xs)[0] for rule in rules])(cell, xs)
    assert_close(snap, eprop, 1e-10)
    assert distance(snap, bptt) > 1e-2


@pytest.mark.slow
def test_the_reverse_form_of_one_step_is_the_forward_one():
    cell = mpj.Filtered(adaptive(), (0.7, 1.0))
    readout = mpj.Readout(2 * N, OUT, key=jr.key(7))
    rules = mpj.SnAp(1, like=cell), Forward(1, like=cell)
    assert [type(rule.on(cell)) for rule in rules] == [Transport, Influence]
    for take in (gradient, streamed_gradient(4)):
        back, ahead = (take(Net(mpj.RNN(cell, rule=rule), readout), *data())[1] for rule in rules)
        assert_close(weights(back), weights(ahead), 1e-10)


def taus(shape=(N,)):
    return jnp.full(shape, 5.0)


PLAIN = {
    "rate": (lambda: mpj.RateCell(M, N, mask=SPARSE, key=jr.key(0)), True),
    "leaky": (lambda: mpj.LeakyCell(M, N, tau=taus(), use_bias=True, key=jr.key(0)), True),
    "adaptive": (adaptive, True),
    "one tau that learns": (lambda: mpj.LeakyCell(M, N, tau=taus(()), key=jr.key(0)), False),
    "low rank": (
        lambda: mpj.RateCell(
            M, N, recurrent=mpj.LowRank(jnp.ones((N, 2)), jnp.ones((N, 2))), key=jr.key(0)
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_known_of_plain_neurons_is_what_is_found(name):
    make, plain = PLAIN[name]
    assert _is_plain(make()) == plain == within_units(make(), M)


def test_one_step_on_plain_neurons_needs_no_library(monkeypatch):
    def missing():
        raise ImportError("asdex")

    monkeypatch.setattr(_sparsity, "_asdex", missing)
    # of sizes that no other test has found the structure of
    cell = mpj.RateCell(M + 1, N + 1, alpha=0.5, key=jr.key(0))
    xs = jr.normal(jr.key(1), (3, M + 1))
    rnn = mpj.RNN(cell, rule=mpj.SnAp(1))
    found, _ = rnn(xs, rnn.init())
    assert found.trace is not None
    jax.grad(lambda xs: jnp.sum(rnn(xs)))(xs)
    with pytest.raises(ImportError, match="asdex"):
        mpj.RNN(cell, rule=mpj.SnAp(2)).init()


@pytest.mark.parametrize("kind, n", [(mpj.GRUCell, 2), (mpj.LSTMCell, 1)])
def test_separable_cells_are_cells(kind, n):
    """A drive of several gates: as the same step, of which no structure is known."""
    cell, (xs, _) = kind(M, N, mask=SPARSE, key=jr.key(3)), data()
    cell = eqx.tree_at(lambda c: c.weight_hh, cell, 2.0 * cell.weight_hh)
    start = jax.tree.map(np.asarray, cell.init())
    h = lambda state: jax.tree.leaves(state)[0]  # noqa: E731
    plain = mpj.FunctionCell(lambda params, s, x: params.step(s, x), cell, start, h)

    rules = mpj.SnAp(n, like=cell), mpj.SnAp(n, like=plain), mpj.BPTT()

    @jit
    def found(*cells):
        return [after(rule, cell, xs)[:2] for rule, cell in zip(rules, cells, strict=True)]

    (of_cell, of_start), (of_plain, of_plain_start), (exact, _) = found(cell, plain, cell)
    assert_close((of_cell, of_start), (of_plain.params, of_plain_start), 1e-10)
    assert distance(of_cell, exact) > 1e-3


def test_units_that_never_meet_are_exact():
    """Two variables a unit, and a state that holds more than units."""
    cell, (xs, _) = mpj.LRUCell(M, N, key=jr.key(3)), data()
    near, exact = jit(lambda c: [after(r, c, xs)[:2] for r in (mpj.SnAp(1), mpj.BPTT())])(cell)
    assert_close(near, exact, 1e-10)


def test_inputs_get_the_credit_of_their_own_step():
    cell, (xs, _) = ring(), data()
    state = cell.init(BATCH)

    def of_step(x, before, t):
        z = cell.emit(cell.step(before, x))
        return jnp.sum(jnp.sin(3.0 * z + t) + z**2)

    def own_steps(xs):
        last, before, expected = state, state, []
        for t, x in enumerate(xs):
            expected.append(jax.grad(of_step)(x, before, float(t)))
            last, before = before, cell.step(before, x)
        ends = jax.grad(lambda x: jnp.sum(cell.step(last, x) ** 3))(xs[-1])
        return jnp.stack([*expected[:-1], expected[-1] + ends])

    rule = mpj.SnAp(2, like=cell)
    found, expected = jit(lambda xs: (after(rule, cell, xs)[2], own_steps(xs)))(xs[:4])
    assert_close(found, expected, 1e-10)


# --- the pattern ---


def pairs(pattern):
    """The kept pairs (row, parameter), and how many numbers are stored for them."""
    kept, stored = set(), 0
    size = pattern.step.state.shape[0]
    for block in pattern.blocks:
        stored += block.rows.shape[0] * block.members.size
        for rows, members in zip(block.rows.T, block.members):
            rows = rows[rows < size]
            kept |= {(r, p) for r in rows for p in members[members < len(pattern.places)]}
    return kept, stored


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_pattern(name, n):
    """What is found in a cell's step is what its connectivity says."""
    cell = CELLS[name][0]()
    kept, stored = pairs(pattern_of(cell, M, n))
    expected = np.argwhere(kept_units(name, cell, n))
    rows = len(as_vector(cell.init())) // N
    assert kept == {(u + k * N, p) for u, p in expected.tolist() for k in range(rows)}
    assert len(kept) <= stored


@pytest.mark.parametrize("n, kept", [(1, 1), (2, 2), (3, 3)])
def test_trace_holds_the_kept_pairs_alone(n, kept):
    """One synapse and M inputs a neuron, of which each unit that is kept holds a number."""
    cell = ring()
    trace = Forward(n).init(cell, cell.init((5, 2))).trace
    assert sum(leaf.size for leaf in jax.tree.leaves(trace)) == 5 * 2 * kept * N * (1 + M)
    # the memory of a leaky emission as much again
    leaky = mpj.Filtered(cell, 0.5)
    trace = Forward(n).init(leaky, leaky.init((5, 2))).trace
    assert sum(leaf.size for leaf in jax.tree.leaves(trace)) == 5 * 2 * 2 * kept * N * (1 + M)


def test_one_step_holds_a_number_a_parameter():
    cell = mpj.LeakyCell(M, N, tau=3.0, use_bias=True, key=jr.key(2))
    trace = Forward(1).init(cell, cell.init()).trace
    parameters = N * (N - 1) + N * M + N
    assert sum(leaf.size for leaf in jax.tree.leaves(trace)) == parameters


def test_a_surrogate_is_a_connection_and_what_is_stopped_is_not():
    def step(params, v, x):
        del x
        sent = triangular_step(v) if params["send"].size == 1 else jax.lax.stop_gradient(v)
        return 0.9 * v + sent @ params["W"].T

    @jax.custom_jvp
    def triangular_step(v):
        return jnp.where(v > 0, jnp.ones_like(v), 0)

    triangular_step.defjvp(lambda at, by: (triangular_step(at[0]), by[0] / (1 + at[0] ** 2)))

    def kept(send):
        params = {"W": jnp.ones((N, N)), "send": jnp.ones(send)}
        return len(pairs(pattern_of(mpj.FunctionCell(step, params, np.zeros(N)), M, 2))[0])

    assert kept(1) == N**3
    assert kept(2) == N**2


@pytest.mark.parametrize("used", [jnp.abs, jax.nn.relu, lambda w: -jax.nn.relu(-w), jnp.exp])
def test_weights_of_any_value_are_connections(used):
    def step(params, v, x):
        del x
        return 0.9 * v + v @ used(params).T

    cell = mpj.FunctionCell(step, jnp.zeros((N, N)), np.zeros(N))
    assert len(pairs(pattern_of(cell, M, 2))[0]) == N**3


# --- streaming ---


def mixed():
    """Memory of an emission that reads units of which some are not kept."""
    return mpj.Filtered(lstm_like(), 0.6, scale=True)


def counted():
    return mpj.Filtered(adaptive(), (0.7, 1.0), scale=True)


# cell, n, steps of a segment
STREAMED = {
    "tanh": (tanh_cell, 2, (1, 4, 11)),
    "gru": (gru_cell, 2, (4,)),
    "spikes": (counted, 2, (1, 4)),
    "mixed": (mixed, 1, (1,)),
    "emission": (lambda: table_cell("filtered_adaptive"), 1, (4,)),
}


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.slow
def test_streamed_equals_offline(name):
    make, n, segments = STREAMED[name]
    cell, (xs, ys) = make(), data()
    size = jax.eval_shape(lambda: cell.emit(cell.init())).shape[0]
    rule = mpj.SnAp(n, like=cell, inputs=M)
    model = Net(mpj.RNN(cell, rule=rule), mpj.Readout(size, OUT, key=jr.key(7)))
    loss, expected = gradient(model, xs, ys)
    for segment in segments:
        (streamed_loss, _), found = streamed_gradient(segment)(model, xs, ys)
        assert_close((streamed_loss, found), (loss, expected), 1e-10)


def test_sequences_that_end_and_pause():
    """As the pieces run apart, offline and streamed."""
    cell, (xs, _) = ring(), data(steps=9)
    done = jnp.zeros((9, 2), bool).at[3].set(True)
    keep = jnp.ones((9, 2), bool).at[6:, 1].set(False).at[1].set(False)
    rule = mpj.SnAp(2, like=cell)

    def piece(cell, xs):
        return weigh_all(mpj.scan(cell, cell.init(xs.shape[1:-1]), xs, rule=rule)[1])

    def apart(cell):
        first = jnp.concatenate([xs[:1], xs[2:4]])
        return piece(cell, first) + piece(cell, xs[4:, :1]) + piece(cell, xs[4:6, 1:])

    def offline(cell):
        start = cell.init((2,))
        return weigh_all(mpj.scan(cell, start, xs, rule=rule, done=done, valid=keep)[1])

    def streamed(cell):
        carry, total = rule.init(cell, cell.init((2,))), 0.0
        for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
            seen, ends, takes_place = xs[part], done[part], keep[part]
            carry, zs = mpj.scan(cell, carry, seen, rule=rule, done=ends, valid=takes_place)
            total = total + weigh_all(zs)
        return total

    runs = apart, offline, streamed
    expected, *found = jit(lambda cell: [eqx.filter_grad(run)(cell) for run in runs])(cell)
    for each in found:
        assert_close(each, expected, 1e-10)


def weigh_all(z):
    """Alike at every step, and 0 for no emission."""
    return jnp.sum(jnp.sin(3.0 * z) + z**2)


# --- errors ---


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"])
def test_steps_are_a_number(n, without_type_checks):
    del without_type_checks
    with pytest.raises(ValueError, match=f"^n must be a whole number of at least 1, but is {n!r}"):
        mpj.SnAp(n)


def run(cell, rule, xs):
    return mpj.scan(cell, cell.init(xs.shape[1:-1]), xs, rule=rule)[1]


def test_a_mask_is_known_unless_it_is_traced():
    cell, (xs, _) = ring(), data()
    expected = mpj.scan(cell, cell.init(BATCH), xs)[1]
    found = eqx.filter_jit(run)(cell, mpj.SnAp(2), xs)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="a constant mask, the same for all members of an ens"):
        eqx.filter_eval_shape(lambda mask: run(ring(mask), mpj.SnAp(2), xs), jnp.asarray(RING))
    # an array of the cell: known, or kept
    made = eqx.filter_jit(ring)(jnp.asarray(RING))
    with pytest.raises(ValueError, match=r"pass SnAp\(2, like=cell\), which keeps it"):
        eqx.filter_eval_shape(run, made, mpj.SnAp(2), xs)
    with pytest.raises(ValueError, match="it is traced: make the rule outside"):
        eqx.filter_eval_shape(lambda cell: run(cell, mpj.SnAp(2, like=cell), xs), made)
    np.testing.assert_allclose(run(made, mpj.SnAp(2), xs), expected, rtol=1e-12)
    kept = eqx.filter_jit(run)(made, mpj.SnAp(2, like=made), xs)
    np.testing.assert_allclose(kept, expected, rtol=1e-12)


def test_like_is_a_cell_with_these_arrays(without_type_checks):
    del without_type_checks
    xs, _ = data()
    with pytest.raises(ValueError, match=r"like must be a cell .* but is \[1\]"):
        mpj.SnAp(2, like=[1])  # pyright: ignore[reportArgumentType]
    made, other = (eqx.filter_jit(ring)(jnp.asarray(mask)) for mask in (RING, SPARSE))
    for like in (other, ring()):
        with pytest.raises(ValueError, match="made for another mask than that of this LeakyCell"):
            run(made, mpj.SnAp(2, like=like), xs)


def test_a_carry_needs_the_number_of_inputs():
    cell = gru_cell()
    with pytest.raises(ValueError, match=r"pass SnAp\(1, inputs=m\)"):
        mpj.SnAp(1).init(cell, cell.init())


def test_a_step_that_cannot_be_read():
    def step(params, state, x):
        del x
        return jnp.fft.fft(state).real * jnp.broadcast_to(params, state.shape)

    cell, (xs, _) = mpj.FunctionCell(step, jnp.ones(()), np.zeros(N)), data()
    with pytest.raises(ValueError, match="can't be detected .* primitive 'fft'.: use RTRL"):
        run(cell, mpj.SnAp(1), xs)


def showing(params, state, x, show):
    """What is shown stands in the step, in a branch and in a function of its own."""
    if show:
        jax.debug.print("sum {}", state.sum())

    def halved(state):
        if show:
            jax.debug.callback(lambda _: None, state)
        return 0.5 * state

    state = jax.lax.cond(params["a"][0] > 0, halved, lambda state: state, state)
    state = jax.jit(halved)(state) * jnp.broadcast_to(params["a"], state.shape)
    return jnp.tanh(state + x @ params["into"].T)


def test_what_is_only_shown(capfd):
    """It is no part of the pattern, and is still shown when the step runs."""
    params = {"a": jnp.linspace(0.5, 1.5, N), "into": jr.normal(jr.key(0), (N, M))}

    def take(show):
        step = functools.partial(showing, show=show)
        rnn = mpj.RNN(mpj.FunctionCell(step, params, np.zeros(N)), rule=mpj.SnAp(1, inputs=M))
        loss = lambda rnn: jnp.sum(rnn(data()[0]) ** 2)  # noqa: E731
        return jit(mpj.value_and_grad(loss))(rnn)

    assert_close(take(True)[1].cell.params, take(False)[1].cell.params)
    jax.effects_barrier()
    assert "sum " in capfd.readouterr().out

"""SKRTRL: the original program's figures, its ends SnAp(1) and RTRL, and the certificate."""

import functools
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    distance,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    streamed_gradient,
    weights,
)
from jax.flatten_util import ravel_pytree

import modprop_jax as mpj
from modprop_jax._rule.sketch._bound import growth
from modprop_jax._rule.sketch._linear import linearised
from modprop_jax._rule.sketch._orthonormal import orthonormal
from modprop_jax._rule.sketch._weights import at_most, weights_of


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "more_rules.npz")


# --- the original program's figures ---


def golden(name):
    return jnp.asarray(GOLDEN[f"sk/{name}"])


@functools.cache
def golden_cell(weights="data/W", inputs="data/U", bias="data/b"):
    made = mpj.RateCell(2, 6, key=jr.key(0))
    given = [golden(name) for name in (weights, inputs, bias)]
    return eqx.tree_at(lambda c: (c.weight_rec, c.weight_in, c.bias), made, given)


def golden_loss(model, carry, xs, credit):
    carry, zs = model(xs, carry)
    return jnp.sum(credit * zs), carry


def rows_of(gradient):
    return np.concatenate([gradient.weight_rec, gradient.weight_in, gradient.bias[:, None]], 1)


@functools.cache
def run(rule):
    """By steps: the gradient (n, p), and the carry."""
    model, found = mpj.RNN(golden_cell(), rule=rule), []
    stream, carry = jit(mpj.online_value_and_grad(golden_loss, segment=1)), model.init((1,))
    for x, c in zip(golden("data/xs"), golden("data/delta"), strict=True):
        (_, carry), by = stream(model, carry, x[None, None], c[None, None])
        found.append((rows_of(by.cell), carry))
    return found


def held(carry):
    """S, and the product of the sketch: leaves of one example."""
    sketch = jax.tree.map(lambda a: a[0, 0], carry.trace.state)
    rank = len(sketch.rest)
    return sketch.own[0], jnp.einsum("sa,aip->sip", sketch.basis[:, :rank], sketch.rest), sketch


@pytest.mark.parametrize(
    "case, rule",
    [
        ("full_c", mpj.SKRTRL(2, iterations=None)),
        ("full_c", mpj.SKRTRL(2, extra=4)),
        ("fast_q1", mpj.SKRTRL(2)),
        ("fast_q2", mpj.SKRTRL(2, 2)),
        ("exact", mpj.SKRTRL(6)),
        ("snap1", mpj.SKRTRL(0)),
    ],
)
def test_golden(case, rule):
    """The original run without its pre-projection (`full_c`), and the fast form."""
    found = run(rule)
    assert_close(np.stack([g for g, _ in found]), GOLDEN[f"sk/{case}/grad"], 1e-10)
    have = {
        "S": np.stack([held(carry)[0] for _, carry in found]),
        "LR": np.stack([held(carry)[1] for _, carry in found]),
        "eta": np.stack([rule.certificate(carry).lost[0] for _, carry in found]),
    }
    compared = [name for name in have if f"sk/{case}/{name}" in GOLDEN]
    assert compared or case == "exact"
    for name in compared:
        assert_close(have[name], GOLDEN[f"sk/{case}/{name}"], 1e-10, name)


def test_growth_and_the_bound_of_the_published_program():
    """Its ρ at each step; e by its ρ and our η; and ours, which is the least of three."""
    model, rule = golden_cell(), mpj.SKRTRL(2, iterations=None)
    made = weights_of(model, certificate=True)
    state, xs = model.init(), golden("data/xs")
    published, e, mine = golden("full_c/rho_bar"), 0.0, 0.0
    third_is_less = 0
    for t, (_, carry) in enumerate(run(rule)):
        first, third = growth(linearised(model, state, xs[t], None), made)
        state = model.step(state, xs[t])
        np.testing.assert_allclose(first, published[t], rtol=1e-10)
        exact = np.max(1 - state**2) * np.linalg.norm(model.weight_rec, 2)
        np.testing.assert_allclose(third, exact, rtol=0.02)
        assert third >= exact
        third_is_less += int(third < first)
        lost = float(rule.certificate(carry).lost[0])
        e, mine = published[t] * e + lost, min(first, third) * mine + lost
        np.testing.assert_allclose(e, golden("full_c/e")[t], rtol=1e-10)
        np.testing.assert_allclose(rule.certificate(carry).bound[0], mine, rtol=1e-10)
        assert mine >= golden("full_c/true_E")[t] - 1e-12
    assert 0 < third_is_less < 24


class Online(eqx.Module):
    rnn: mpj.RNN
    readout: mpj.Readout


def test_an_online_run_is_the_original_one():
    """30 steps of Adam; its recurrent gradients are divided by the batch once more."""
    case = {name: golden(f"train_full/{name}") for name in ("xs", "ys", "reset", "lr", "loss")}
    names = [f"train_full/{name}0" for name in ("W", "U", "b")]
    rule = mpj.SKRTRL(int(GOLDEN["sk/train_full/rank"]), iterations=None)
    readout = mpj.Readout(6, 2, key=jr.key(0))
    given = golden("train_full/Wout0"), golden("train_full/bout0")
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), readout, given)
    model = Online(mpj.RNN(golden_cell(*names), rule=rule), readout)
    optimizer = optax.adam(float(case["lr"]))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model, carry, xs, ys):
        xs, done = xs
        carry, zs = model.rnn(xs, carry, done=done)
        return jnp.mean((model.readout(zs) - ys) ** 2), carry

    @jit
    def step(model, carry, state, x, done, y):
        run = mpj.online_value_and_grad(loss, segment=1)
        (value, carry), found = run(model, carry, (x[None], done[None]), y[None])
        found = eqx.tree_at(
            lambda m: m.rnn.cell, found, jax.tree.map(lambda g: g / 2, found.rnn.cell)
        )
        updates, state = optimizer.update(found, state, model)
        return eqx.apply_updates(model, updates), carry, state, value

    carry, losses = model.rnn.init((2,)), []
    # the program resets before a step, `done` ends one
    done = jnp.concatenate([case["reset"][1:], jnp.zeros((1, 2), bool)])
    assert done.any()
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction
        for x, ends, y in zip(case["xs"], done, case["ys"], strict=True):
            model, carry, state, value = step(model, carry, state, x, ends, y)
            losses.append(float(value))
    np.testing.assert_allclose(losses, case["loss"], rtol=1e-9)
    found: Any = (model.rnn.cell, model.readout)
    have = [found[0].weight_rec, found[0].weight_in, found[0].bias, found[1].weight, found[1].bias]
    for array, name in zip(have, ("W1", "U1", "b1", "Wout1", "bout1"), strict=True):
        assert_close(array, golden(f"train_full/{name}"), 1e-9, name)


# --- from SnAp(1) to RTRL ---


def masked_gru():
    return mpj.GRUCell(M, N, mask=np.random.default_rng(3).random((N, N)) < 0.7, key=jr.key(2))


CELLS: dict[str, Any] = {
    "leaky_taus": lambda: cell("leaky_taus"),
    "leaky": lambda: cell("leaky"),
    "gru": masked_gru,
    "lstm": lambda: mpj.LSTMCell(M, N, key=jr.key(2)),
    "alif": lambda: mpj.ALIFCell(
        M, N, tau=5.0, tau_adaptation=20.0, beta=1.0, threshold=0.2, key=jr.key(2)
    ),
}


def variables(made):
    leaves = jax.tree.leaves(eqx.filter(made.init(), eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves) // N


@functools.cache
def made(name):
    return CELLS[name]()


def net(name, rule):
    return Net(mpj.RNN(made(name), rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def streamed(name, rule, segment=4):
    return weights(streamed_gradient(segment)(net(name, rule), *data())[1])


@functools.cache
def exact(name):
    return weights(gradient(net(name, mpj.BPTT()), *data())[1])


@pytest.mark.parametrize("name", CELLS)
def test_a_full_rank_is_rtrl(name):
    found = streamed(name, mpj.SKRTRL(N * variables(made(name))))
    assert_close(found, exact(name), 1e-11)


@pytest.mark.parametrize("name", ["leaky_taus", "gru", "alif"])
def test_no_rank_is_snap(name):
    found = streamed(name, mpj.SKRTRL(0))
    assert_close(found, streamed(name, mpj.SnAp(1)), 1e-11)
    assert distance(found, exact(name)) > 0.02


@pytest.mark.parametrize("name", ["leaky_taus", pytest.param("gru", marks=pytest.mark.slow)])
def test_rank_is_worth_something(name):
    """Between: neither of both, and nearer to RTRL with more of it."""
    rules = mpj.SKRTRL(0), mpj.SKRTRL(2), mpj.SKRTRL(N - 1, iterations=None)
    away = [distance(streamed(name, rule), exact(name)) for rule in rules]
    assert away[0] > 1.1 * away[1] and away[1] > 1.1 * away[2] and away[2] > 1e-3


@pytest.mark.parametrize("rank", [2, N])
def test_a_bare_start_and_a_start_that_learns(rank):
    """By a sketch of their own; at full rank exact."""
    c, (xs, ys) = made("leaky"), data()
    start = 0.5 * jr.normal(jr.key(4), (*BATCH, N))

    def loss(start, rule):
        return jnp.sum(mpj.scan(c, start, xs, rule=rule)[1][..., :OUT] * ys)

    found, wanted = (
        jit(jax.grad(lambda s, rule=rule: loss(s, rule)))(start)
        for rule in (mpj.SKRTRL(rank), mpj.BPTT())
    )
    if rank == N:
        assert_close(found, wanted, 1e-11)
    else:
        snap = jit(jax.grad(lambda s: loss(s, mpj.SnAp(1))))(start)
        assert 0 < distance(found, wanted) < distance(snap, wanted)


class Begins(mpj.LeakyCell):
    """A start of one value a neuron, which trains."""

    first: jax.Array

    def __init__(self):
        mpj.LeakyCell.__init__(self, M, N, tau=4.0, activation=jnp.tanh, key=jr.key(1))
        self.first = jnp.linspace(-1.0, 1.0, N)

    def init(self, batch_shape: Any = ()):
        return jnp.broadcast_to(self.first, (*batch_shape, N)) + 0.0


def test_a_learnt_start_streams():
    def found(rule, stream):
        model = Net(mpj.RNN(Begins(), rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))
        run = streamed_gradient(3) if stream else gradient
        return weights(run(model, *data())[1])

    expected = found(mpj.BPTT(), False)
    assert np.abs(expected[0].first).max() > 1e-3
    assert_close(found(mpj.SKRTRL(N), True), expected, 1e-11)
    assert_close(found(mpj.SKRTRL(N), False), expected, 1e-11)


# --- the certificate ---


def spun(scale, key=3):
    """A tanh network whose largest singular value is `scale`."""
    c = mpj.RateCell(M, N, key=jr.key(key))
    weight = c.weight_rec / jnp.linalg.norm(c.weight_rec, 2) * scale
    return eqx.tree_at(lambda c: c.weight_rec, c, weight)


@functools.cache
def long_run(scale, rank, iterations, dtype=jnp.float64, learning_rate=0.0):
    """(bound, truth, size) at 400 steps; the truth is by a sketch of full rank, beside it."""
    c: Any = jax.tree.map(lambda a: a.astype(dtype), spun(scale))
    rules = mpj.SKRTRL(rank, iterations), mpj.SKRTRL(N)
    xs = jr.normal(jr.key(5), (400, 1, M), jnp.float64).astype(dtype)

    def influence(held):
        own = jnp.einsum("knp,nm->knmp", held.own, jnp.eye(N, dtype=dtype))
        rest = jnp.einsum("sa,amp->smp", held.basis[:, : len(held.rest)], held.rest)
        return own.reshape(N, N, -1) + rest

    def loss(model, carry, xs, ys):
        carry, zs = model(xs, carry)
        return jnp.sum(jnp.sin(zs)), carry

    @jit
    def step(both, c, x):
        steps = [
            mpj.online_value_and_grad(loss, segment=1)(
                mpj.RNN(c, rule=rule), carry, x[None], x[None]
            )
            for rule, carry in zip(rules, both)
        ]
        both = [carry for (_, carry), _ in steps]
        held = [jax.tree.map(lambda a: a[0, 0], carry.trace.state) for carry in both]
        truth = jnp.linalg.norm(influence(held[0]) - influence(held[1]))
        moved = jax.tree.map(lambda p, g: p - learning_rate * g, c, steps[0][1].cell)
        return both, eqx.combine(moved, c), (rules[0].certificate(both[0]), truth)

    both, found = [rule.init(c, c.init((1,))) for rule in rules], []
    for x in xs:
        both, c, one = step(both, c, x)
        found.append(one)
    bound = np.array([float(cert.bound[0]) for cert, _ in found])
    size = np.array([float(cert.size[0]) for cert, _ in found])
    return bound, np.array([float(truth) for _, truth in found]), size


@pytest.mark.parametrize("rank, iterations", [(0, 1), (1, 1), (2, 1), (2, None), (4, 2)])
def test_the_bound_is_never_violated(rank, iterations):
    bound, truth, _ = long_run(0.9, rank, iterations)
    assert truth[50:].min() > 1e-3
    assert (bound >= truth - 1e-9).all()
    # and says something
    assert np.median(bound[200:] / truth[200:]) < 12


def test_nor_where_weights_move():
    bound, truth, _ = long_run(0.9, 2, 1, learning_rate=1e-2)
    assert truth[50:].min() > 1e-4 and (bound >= truth - 1e-9).all()


def test_it_grows_where_the_weights_are_large():
    bound, truth, size = long_run(1.6, 2, 1)
    assert (bound >= truth - 1e-9).all() and (truth < size).all()
    assert bound[-1] > 1e3 * truth[-1]


def test_in_float32_up_to_rounding():
    bound, truth, size = long_run(0.9, 2, 1, jnp.float32)
    exact_bound, exact_truth, _ = long_run(0.9, 2, 1)
    assert (bound >= truth - 3e-4 * size).all()
    np.testing.assert_allclose(bound[-50:], exact_bound[-50:], rtol=1e-2)
    np.testing.assert_allclose(truth[-50:], exact_truth[-50:], rtol=1e-2)


def test_at_full_rank_nothing_is_lost():
    rule, c = mpj.SKRTRL(N), spun(0.9)
    carry, _ = mpj.scan(c, rule.init(c, c.init(BATCH)), data()[0], rule=rule)
    found = rule.certificate(carry)
    assert not found.bound.any() and not found.lost.any()
    assert found.size.shape == BATCH and (found.size > 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_largest_singular_value_from_above(dtype):
    rng = np.random.default_rng(0)
    for shape in ((4, 4), (64, 64), (192, 64)):
        for scale in (1e-12, 1.0, 1e12):
            matrix = jnp.asarray(scale * rng.normal(size=shape), dtype)
            found = float(at_most(matrix))
            truth = np.linalg.norm(np.asarray(matrix, float), 2)
            assert truth <= found <= 1.04 * truth
    assert at_most(jnp.zeros((3, 3), dtype)) == 0
    same = at_most(jnp.eye(64, dtype=dtype))
    assert 1 <= same <= 64 ** (1 / 128) * 1.01


@pytest.mark.parametrize("name", CELLS)
def test_growth_is_at_least_the_norm_of_the_jacobian(name):
    c, x = made(name).effective(), data()[0][0, 0]
    flatten = ravel_pytree
    moving, rest = eqx.partition(c.step(c.init(), x), eqx.is_inexact_array)
    flat, shaped = flatten(moving)

    def step(flat):
        after = c.step(eqx.combine(shaped(flat), rest), x)
        return flatten(eqx.filter(after, eqx.is_inexact_array))[0]

    jacobian = np.asarray(jax.jacobian(step)(flat))
    before = eqx.combine(shaped(flat), rest)
    linear, made_of = linearised(c, before, x, None), weights_of(made(name), certificate=True)
    first, third = growth(linear, made_of)
    norm = np.linalg.norm(jacobian, 2)
    assert norm <= first * (1 + 1e-12) and norm <= third * (1 + 1e-12)
    # and the step, as linear maps of units, is its Jacobian
    unit = jnp.eye(len(flat)).reshape(variables(c), N, len(flat))
    np.testing.assert_allclose(
        linear.push(made_of, unit).reshape(len(flat), -1), jacobian, atol=1e-12
    )
    entries = np.abs(jacobian) @ np.ones(len(flat)), np.ones(len(flat)) @ np.abs(jacobian)
    published = min(np.linalg.norm(jacobian), np.sqrt(entries[0].max() * entries[1].max()))
    if name in ("leaky", "leaky_taus"):
        np.testing.assert_allclose(first, published, rtol=1e-12)
    assert first >= published * (1 - 1e-12)


@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-22, 1e-30, 1e-38, 1e-42, 0.0])
def test_columns_of_any_size_are_made_orthonormal(size):
    """What is left of a dependent column is so small that its square is no number."""
    columns = jr.normal(jr.key(0), (N, 3), jnp.float32)
    columns = columns.at[:, 1].multiply(size).at[:, 2].multiply(size**2)
    found = orthonormal(columns.astype(jnp.float32))
    assert_close(found.T @ found, np.eye(3, dtype=np.float32), 1e-6)
    dependent = columns.at[:, 1].set(columns[:, 0] * (1 + size))
    found = orthonormal(dependent.astype(jnp.float32))
    assert_close(found.T @ found, np.eye(3, dtype=np.float32), 1e-6)


def test_silent_units_and_an_empty_past():
    """Of rank-deficient products QR still makes orthonormal columns."""
    c = mpj.RateCell(M, N, activation=jax.nn.relu, key=jr.key(1))
    c = eqx.tree_at(lambda c: c.bias, c, jnp.asarray([-50.0] * 4 + [0.5] * 2))
    rule = mpj.SKRTRL(3)
    carry, _ = mpj.scan(c, rule.init(c, c.init(BATCH)), data()[0], rule=rule)
    basis = np.asarray(carry.trace.state.basis[0])
    same = np.einsum("bsa,bsc->bac", basis, basis)
    np.testing.assert_allclose(same, np.broadcast_to(np.eye(3), same.shape), atol=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(carry.trace))


# --- errors ---


class Shared(mpj.RateCell):
    """A value for all that trains."""

    def __init__(self):
        mpj.RateCell.__init__(self, M, N, alpha=jnp.asarray(0.5), key=jr.key(0))


REFUSED = {
    "LRUCell send nothing: use DiagonalRTRL": lambda: mpj.LRUCell(M, N, key=jr.key(0)),
    "alpha, which trains, is of shape .. and": Shared,
    "weight_rec of this RateCell holds a Sparse": lambda: mpj.RateCell(
        M, N, recurrent=mpj.Sparse.random(jr.key(0), (N, N), fan_in=2), key=jr.key(0)
    ),
    "does not stream a Filtered LeakyCell: filter its readout": lambda: cell("filtered_leaky"),
    "needs a cell whose units are coupled only through drives": lambda: cell("function"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_cells_that_it_does_not_serve(message):
    c = REFUSED[message]()
    with pytest.raises(ValueError, match=message):
        mpj.SKRTRL(2).init(c, c.init(BATCH))


def test_a_filtered_emission_learns_offline():
    c, xs = cell("filtered_leaky"), data()[0]

    def loss(c, rule):
        return jnp.sum(mpj.RNN(c, rule=rule)(xs) ** 3)

    found = jit(eqx.filter_grad(loss))
    assert_close(found(c, mpj.SKRTRL(N)), found(c, mpj.BPTT()), 1e-11)


def test_errors_of_the_certificate():
    rule, other, c = mpj.SKRTRL(1), mpj.SKRTRL(1, certificate=False), cell("rate")
    with pytest.raises(ValueError, match="keeps no certificate: make it with SKRTRL"):
        other.certificate(other.init(c, c.init()))
    with pytest.raises(ValueError, match="carry comes from an SKRTRL.certificate=False."):
        rule.certificate(other.init(c, c.init()))
    with pytest.raises(ValueError, match="but is a carry of EProp"):
        rule.certificate(mpj.EProp().init(c, c.init()))
    with pytest.raises(ValueError, match="carry must be one that SKRTRL has made"):
        rule.certificate(c)  # pyright: ignore
    # what it does not keep changes nothing else
    found = [weights(streamed_gradient(4)(_rate(r), *data())[1]) for r in (rule, other)]
    assert_close(found[0], found[1], 1e-14)


def _rate(rule):
    return Net(mpj.RNN(cell("rate"), rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))

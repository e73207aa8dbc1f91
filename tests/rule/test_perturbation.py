"""Forward gradients and node perturbation: golden figures, and RTRL in the mean over all noise."""

import functools
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import AdaptiveCell, assert_close, distance, jit, plain_scan
from perturbing import CASES, golden, rate_cell, side_by_side
from scipy.linalg import hadamard

import modprop_jax as mpj


KEY = jr.key(3)


@functools.cache
def streamed(case: str, segment: int):
    def of_segment(model, carry, xs, ys):
        cell, rule = model
        carry, zs = mpj.scan(cell, carry, xs, rule=rule)
        return 0.5 * jnp.sum((zs @ golden(case, "Wo").T - ys) ** 2), carry

    return jit(mpj.online_value_and_grad(of_segment, segment=segment))


def estimate(case: str, rule: Any, segment: int | None = None, count: int | None = None) -> Any:
    """One draw's gradient, in the layout of the figures; of a batch, the sum."""
    cell, xs, ys = rate_cell(case), golden(case, "xs"), golden(case, "ys")
    if count is not None:
        xs, ys = (np.repeat(a[:, None], count, 1) for a in (xs, ys))
    batch = () if count is None else (count,)
    carry = rule.init(cell, cell.init(batch), key=KEY)
    run = streamed(case, segment or len(xs))
    return side_by_side(run((cell, rule), carry, jnp.asarray(xs), jnp.asarray(ys))[1][0])


def direction(case: str) -> np.ndarray:
    """The golden v as a row of noise: the leaves of the cell in their order."""
    cell = rate_cell(case)
    n, m = cell.hidden_size, cell.in_size
    v = golden(case, "v")
    parts = v[:, :n], v[:, n : n + m], v[:, -1]
    where = lambda c: (c.weight_rec, c.weight_in, c.bias)  # noqa: E731
    shaped = eqx.tree_at(where, eqx.filter(cell, eqx.is_inexact_array), parts)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(shaped)])


FAST = [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])]


@pytest.mark.parametrize("segment", [None, 1])
@pytest.mark.parametrize("case", FAST)
def test_forward_gradient_meets_the_figures(case, segment):
    found = estimate(case, mpj.ForwardGradient(noise=direction(case)[None]), segment)
    assert_close(found, golden(case, "forward_gradient"), 1e-10)
    assert_close(found, golden(case, "directional") * golden(case, "v"), 1e-10)


@pytest.mark.parametrize("name, key", [("xi", "node_causal"), ("xi_normal", "node_causal_normal")])
@pytest.mark.parametrize("case", FAST)
def test_node_perturbation_meets_the_figures(case, name, key):
    found = estimate(case, mpj.NodePerturbation(noise=golden(case, name)))
    assert_close(found, golden(case, key), 1e-10)
    assert distance(found, golden(case, key.replace("_causal", ""))) > 0.1


# --- the mean over all noise, and the variance of one draw ---


def patterns(size: int) -> np.ndarray:
    """All ±1 rows of this many numbers."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=size)))


@functools.cache
def of_each(case: str, kind: str) -> np.ndarray:
    """The gradient of each ±1 pattern, as one example of a batch has it."""
    n, steps = len(golden(case, "W")), len(golden(case, "xs"))
    if kind == "forward":
        noise = patterns(golden(case, "W").size)[None]
    else:
        noise = np.moveaxis(patterns(n * steps).reshape(-1, steps, n), 1, 0)
    cell, count = rate_cell(case), noise.shape[1]
    rules = {"forward": mpj.ForwardGradient, "node": mpj.NodePerturbation}
    rule = rules[kind](noise=noise)
    carry = rule.init(cell, cell.init((count,)), key=KEY)
    xs = jnp.asarray(np.repeat(golden(case, "xs")[:, None], count, 1))

    def scores(weights, at):
        cell, rule, carry, xs = at
        carry, zs = mpj.scan(eqx.combine(weights, cell), carry, xs, rule=rule)
        ys = golden(case, "ys")[:, None]
        return 0.5 * jnp.sum((zs @ golden(case, "Wo").T - ys) ** 2, (0, 2))

    # one example's gradient is the whole's where the cotangent is that example's alone
    @jit
    def run(cell, rule, carry, xs):
        weights, rest = eqx.partition(cell, eqx.is_inexact_array)
        _, pull = jax.vjp(lambda w: scores(w, (rest, rule, carry, xs)), weights)
        return jax.vmap(lambda one: pull(one)[0])(jnp.eye(count))

    return side_by_side(run(cell, rule, carry, xs))


@pytest.mark.parametrize("kind", ["forward", "node"])
def test_mean_and_variance_over_all_patterns(kind):
    each, exact = of_each("tiny", kind), golden("tiny", "grad")
    assert_close(each.mean(0), exact, 1e-10)
    variance = ((each - exact) ** 2).sum((1, 2)).mean()
    key = {"forward": "var_forward", "node": "var_node_causal"}[kind]
    assert_close(variance, golden("tiny", key), 1e-10)
    if kind == "forward":
        assert_close(variance, (exact.size - 1) * np.sum(exact**2), 1e-10)


def test_variance_of_the_last_sum():
    """The closed form of the docstring is that without causality."""
    exact, credit = golden("tiny", "grad"), golden("tiny", "dL_dh")
    seen = golden("tiny", "presynaptic")
    by_step = (credit**2).sum(1), (seen**2).sum(1)
    whole = len(exact) * by_step[0].sum() * by_step[1].sum()
    whole += np.sum(exact**2) - 2 * np.sum(by_step[0] * by_step[1])
    assert_close(whole, golden("tiny", "var_node"), 1e-10)
    assert golden("tiny", "var_node_causal") < 0.8 * whole


class Learnt(mpj.NeuronCell):
    """A leaky neuron that starts from where it learns to."""

    start: jax.Array

    def __init__(self, in_size, hidden_size, **kwargs):
        mpj.NeuronCell.__init__(self, in_size, hidden_size, **kwargs)
        self.start = jnp.linspace(-0.5, 0.5, hidden_size)

    def init(self, batch_shape=()):
        return jnp.broadcast_to(self.start, (*batch_shape, self.hidden_size))

    def integrate(self, state, drive):
        return 0.6 * state + drive

    def emit(self, state):
        return jnp.tanh(state)


MASK = np.array([[1, 1], [0, 1]], bool)
SMALL: dict[str, Any] = {
    "rate": lambda: mpj.RateCell(2, 2, alpha=0.6, mask=MASK, key=jr.key(4)),
    "leaky_tau": lambda: mpj.LeakyCell(
        2, 2, tau=jnp.array([2.0, 5.0]), activation=jnp.tanh, autapses=True, key=jr.key(2)
    ),
    "adaptive": lambda: AdaptiveCell(2, 2, use_bias=True, autapses=True, key=jr.key(6)),
    "gru": lambda: mpj.GRUCell(2, 2, key=jr.key(5)),
    "lru": lambda: mpj.LRUCell(2, 2, key=jr.key(5)),
    "filtered_rate": lambda: mpj.Filtered(SMALL["rate"](), (0.7, 1.0)),
    "filtered_adaptive": lambda: mpj.Filtered(SMALL["adaptive"](), 0.7),
    "learnt": lambda: Learnt(2, 2, key=jr.key(7)),
}


def small_loss(zs):
    ws = jnp.asarray(np.random.default_rng(0).normal(size=(3, *(1,) * (zs.ndim - 2), zs.shape[-1])))
    return jnp.sum(ws * (zs + 0.3 * zs**3))


def in_the_mean(rule, cell, xs, segment):
    """The gradient in the mean over rows of noise that are uncorrelated as all ±1 are."""

    def of_segment(model, carry, xs, ws):
        cell, rule = model
        carry, zs = mpj.scan(cell, carry, xs, rule=rule)
        return jnp.sum(ws * (zs + 0.3 * zs**3)), carry

    count = rule.noise.table.shape[1]
    xs = jnp.asarray(np.repeat(xs[:, None], count, 1))
    features = jax.eval_shape(lambda: cell.emit(cell.init())).shape[-1]
    ws = np.random.default_rng(0).normal(size=(3, 1, features))
    ws = jnp.asarray(np.repeat(ws, count, 1) / count)
    carry = rule.init(cell, cell.init((count,)), key=KEY)
    run = jit(mpj.online_value_and_grad(of_segment, segment=segment))
    return run((cell, rule), carry, xs, ws)[1][0]


def by_jax(cell, xs):
    @jit
    @eqx.filter_grad
    def run(cell, xs):
        return small_loss(plain_scan(cell, cell.init(), xs)[1])

    return run(cell, jnp.asarray(xs))


def uncorrelated(steps: int, size: int) -> np.ndarray:
    """±1 rows (steps, count, size) any two of whose numbers are uncorrelated: as good as all
    patterns for what is quadratic in the noise."""
    count = 2 ** int(np.ceil(np.log2(steps * size + 1)))
    # the first column is constant
    table = hadamard(count)[:, 1 : steps * size + 1].astype(float)
    return np.moveaxis(table.reshape(count, steps, size), 1, 0)


CASES_IN_THE_MEAN = [
    ("forward", "leaky_tau", 3),
    ("forward", "gru", 3),
    ("forward", "lru", 1),
    ("forward", "filtered_adaptive", 1),
    ("node", "rate", 3),
    ("node", "gru", 3),
    ("node", "filtered_rate", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind, name, segment", CASES_IN_THE_MEAN)
def test_the_mean_is_rtrl(kind, name, segment):
    cell, xs = SMALL[name](), 1.5 * np.random.default_rng(1).normal(size=(3, 2))
    inner, emission = cell.parts()
    made = {"forward": mpj.ForwardGradient, "node": mpj.NodePerturbation}[kind]
    size = made().draws(inner, emission)
    noise = uncorrelated(1 if kind == "forward" else len(xs), size)
    found = in_the_mean(made(noise=noise), cell, xs, segment)
    assert_close(found, by_jax(cell, xs), 1e-9)


@jit
def of_keys(keys, xs):
    """(keys,) -> (keys, parameters): the gradient of a cell whose start learns, one a key."""
    cell, rule = SMALL["learnt"](), mpj.ForwardGradient()

    def one(key):
        def of_cell(cell):
            carry = rule.init(cell, cell.init(), key=key)
            return small_loss(mpj.scan(cell, carry, xs, rule=rule)[1])

        return flat(eqx.filter_grad(of_cell)(cell))

    return jax.vmap(one)(keys)


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_a_start_that_learns():
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))
    each = np.asarray(of_keys(jr.split(KEY, 4000), xs))
    want = np.asarray(flat(by_jax(SMALL["learnt"](), xs)))
    free = want != 0
    assert free[-2:].all() and (each[:, ~free] == 0).all()
    off = (each.mean(0) - want)[free] / (each.std(0)[free] / np.sqrt(len(each)))
    assert np.abs(off).max() < 4


# --- draws ---


def test_a_direction_is_kept_until_the_sequence_ends():
    cell, rule = SMALL["leaky_tau"](), mpj.ForwardGradient(probes=2)
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 2)))
    start = rule.init(cell, cell.init((3,)), key=KEY)
    done = np.zeros((4, 3), bool)
    done[1, 1] = True
    run = jit(lambda carry, xs, done: mpj.scan(cell, carry, xs, rule=rule, done=done)[0])
    half = run(start, xs[:2], jnp.asarray(done[:2]))
    ends = start, run(half, xs[2:], jnp.asarray(done[2:])), run(start, xs, jnp.asarray(done))
    before, after, at_once = (np.asarray(c.trace.state.factor.weight_rec) for c in ends)
    np.testing.assert_array_equal(after, at_once)
    assert (np.abs(after) == 1).all()
    assert (before[:, [0, 2]] == after[:, [0, 2]]).all() and (before[:, 1] != after[:, 1]).any()
    # examples and probes have directions of their own
    rows = after.reshape(6, -1)
    assert len(np.unique(rows, axis=0)) > 4


def test_only_what_exists_and_moves_the_state_is_perturbed():
    cell = mpj.RateCell(2, 2, alpha=0.6, mask=MASK, key=jr.key(4))
    rule = mpj.ForwardGradient()
    carry = rule.init(cell, cell.init(), key=KEY)
    held = mpj.scan(cell, carry, jnp.ones((2, 2)), rule=rule)[0].trace.state.factor
    np.testing.assert_array_equal(np.abs(held.weight_rec[0]), MASK)
    lru = mpj.LRUCell(2, 2, key=jr.key(5))
    carry = rule.init(lru, lru.init(), key=KEY)
    held = mpj.scan(lru, carry, jnp.ones((2, 2)), rule=rule)[0].trace.state.factor
    assert (held.C_re == 0).all() and (np.abs(held.B_re) == 1).all()


def test_what_else_trains_is_refused():
    with pytest.raises(ValueError, match="NodePerturbation sees.*tau.*use UORO or Forward"):
        cell = SMALL["leaky_tau"]()
        mpj.NodePerturbation().init(cell, cell.init(), key=KEY)
    with pytest.raises(ValueError, match="NodePerturbation needs.*FunctionCell"):
        cell: Any = mpj.FunctionCell(lambda p, s, x: p * s, jnp.ones(2), jnp.ones(2))
        mpj.NodePerturbation().init(cell, cell.init(), key=KEY)

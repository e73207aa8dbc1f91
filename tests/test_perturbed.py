"""Gradients by runs with noise: golden figures, the mean over all noise, and what is perturbed."""

import contextlib
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import perturbing
import pytest
from helpers import assert_close, distance, jit
from perturbing import golden, side_by_side
from scipy.linalg import hadamard

import modprop_jax as mpj
from modprop_jax._direction import drawn
from modprop_jax._rule._noise import LAWS


KEY = jr.key(2)
TINY, *OTHERS = perturbing.CASES
FAST = [TINY, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)]


def loss_of(case):
    """Of the golden network, whose readout is a constant."""

    def loss(model, xs):
        zs = model(xs)
        return 0.5 * jnp.sum((zs @ golden(case, "Wo").T - golden(case, "ys")) ** 2)

    return loss


@contextlib.contextmanager
def given(draw):
    """`draw(shape)` in place of random numbers."""
    laws: Any = LAWS
    law = laws["rademacher"]
    laws["rademacher"] = lambda key, shape, dtype: draw(shape)
    try:
        yield
    finally:
        laws["rademacher"] = law


def estimate(case, kind, noise, **options):
    """One draw's gradient with this noise: (T, n) of drives, or (n, m) of weights."""
    model = mpj.RNN(perturbing.rate_cell(case))
    n, m = len(golden(case, "W")), golden(case, "xs").shape[1]

    def draw(shape):
        if kind != "weight":
            return jnp.reshape(noise, shape)
        parts = noise[:, :n], noise[:, n : n + m], noise[:, -1]
        (part,) = (p for p in parts if p.shape == shape)
        return jnp.asarray(part)

    with given(draw):
        run = mpj.perturbed_value_and_grad(loss_of(case), kind, key=KEY, **options)
        return run(model, jnp.asarray(golden(case, "xs")))


@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
@pytest.mark.parametrize("case", FAST)
def test_nodes_meet_the_figures(case, antithetic, key):
    options = {"sigma": float(golden(case, "sigma")), "antithetic": antithetic}
    value, gradient = estimate(case, "node", golden(case, "xi"), **options)
    assert_close(side_by_side(gradient.cell), golden(case, f"node_finite_{key}"), 1e-8)


@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
@pytest.mark.parametrize("case", FAST)
def test_weights_meet_the_figures(case, antithetic, key):
    options = {"sigma": float(golden(case, "sigma")), "antithetic": antithetic}
    value, gradient = estimate(case, "weight", golden(case, "v"), **options)
    assert_close(side_by_side(gradient.cell), golden(case, f"weight_finite_{key}"), 1e-8)


def patterns(*shape: int) -> Any:
    """All ±1 arrays of a shape."""
    rows = itertools.product((-1.0, 1.0), repeat=int(np.prod(shape)))
    return jnp.asarray(np.array(list(rows)).reshape(-1, *shape))


@pytest.mark.parametrize("kind", ["node", "weight"])
@pytest.mark.parametrize("antithetic, key", [(False, "one"), (True, "anti")])
def test_the_mean_over_all_patterns(kind, antithetic, key):
    sigma, n = float(golden("tiny", "sigma")), len(golden("tiny", "W"))
    shape = {"node": (len(golden("tiny", "xs")), n), "weight": golden("tiny", "W").shape}[kind]

    @jit
    def mean(noise, sigma):
        def one(noise):
            return estimate("tiny", kind, noise, sigma=sigma, antithetic=antithetic)[1].cell

        return jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(noise))

    found = side_by_side(mean(patterns(*shape), sigma))
    assert_close(found, golden("tiny", f"mean_{kind}_finite_{key}"), 1e-8)
    exact = golden("tiny", "grad")
    assert 1e-6 < distance(found, exact) < 1e-2
    coarse = distance(side_by_side(mean(patterns(*shape), 10 * sigma)), exact)
    assert 80 < coarse / distance(found, exact) < 120  # of second order


def test_activity_is_what_the_noise_did():
    """As a loop over steps; its mean is neither the gradient nor in its direction."""
    weight, out = golden("tiny", "W"), golden("tiny", "Wo")
    xs, ys, alpha = (golden("tiny", name) for name in ("xs", "ys", "alpha"))
    n, sigma = len(weight), 0.05

    def run(noise):
        state, loss, drives, seen = np.zeros(n), 0.0, [], []
        for x, y, xi in zip(xs, ys, noise):
            seen.append(np.concatenate([state, x, [1.0]]))
            drives.append(weight @ seen[-1] + sigma * xi)
            state = (1 - alpha) * state + alpha * np.tanh(drives[-1])
            loss += 0.5 * np.sum((out @ state - y) ** 2)
        return loss, np.array(drives), np.array(seen)

    def formula(xi):
        loss, drives, seen = run(0 * xi)
        noisy, moved, _ = run(xi)
        away = moved - drives
        return away.size * (noisy - loss) / np.sum(away**2) * away.T @ seen

    xi = golden("tiny", "xi")
    found = estimate("tiny", "activity", xi, sigma=sigma)[1].cell
    assert_close(side_by_side(found), formula(xi), 1e-9)
    mean = np.mean([formula(np.asarray(p)) for p in patterns(*xi.shape)], axis=0)
    exact = golden("tiny", "grad")
    assert distance(mean, exact) > 0.1
    cosine = np.sum(mean * exact) / np.linalg.norm(mean) / np.linalg.norm(exact)
    assert cosine == pytest.approx(0.964, abs=1e-3)


# --- any model: the mean over noise that is as good as all of it ---


class Stack(eqx.Module):
    """Layers and a readout; `rest`: what no layer reads."""

    layers: list
    readout: mpj.Readout
    rest: jax.Array

    def __init__(self, cells, **options):
        self.layers = [mpj.RNN(cell) for cell in cells]
        size = jax.eval_shape(lambda: cells[-1].emit(cells[-1].init())).shape[-1]
        self.readout = mpj.Readout(size, 1, key=jr.key(4), **options)
        self.rest = jnp.asarray(0.7, jnp.result_type(float))

    def __call__(self, xs, **flags):
        for layer in self.layers:
            xs = layer(xs, **flags)
        return self.rest * self.readout(xs)


def squared(model, xs, flags):
    ys = model(xs, **flags)
    keep = flags.get("valid", jnp.ones(ys.shape[:-1], bool))
    return jnp.sum(jnp.where(keep[..., None], ys + 0.5 * ys**2, 0))


STACKS: dict[str, Any] = {
    "taus": lambda: [
        mpj.LeakyCell(2, 2, tau=jnp.array([2.0, 5.0]), activation=jnp.tanh, key=jr.key(1))
    ],
    "gru": lambda: [mpj.GRUCell(2, 2, key=jr.key(1))],
    "lru": lambda: [mpj.LRUCell(2, 2, key=jr.key(1))],
    "two": lambda: [
        mpj.Filtered(mpj.RateCell(2, 2, alpha=0.6, key=jr.key(1)), 0.5),
        mpj.RateCell(2, 2, alpha=0.6, mask=np.array([[1, 1], [0, 1]], bool), key=jr.key(2)),
    ],
}


def mean_over_noise(model, kind, xs, flags, sigma=1e-5):
    """Over ±1 rows of which no two numbers, and no three, are correlated."""
    shapes = []

    def log(shape):
        shapes.append(shape)
        return jnp.ones(shape)

    def run(xs):
        found = mpj.perturbed_value_and_grad(squared, kind, key=KEY, sigma=sigma)
        return found(model, xs, flags)[1]

    with given(log):
        jax.eval_shape(run, xs)
    sizes = [int(np.prod(shape)) for shape in shapes]
    weights = len(jax.tree.leaves(drawn("rademacher", KEY, model, kind == "weight")))
    # drives draw alike with and without noise
    drives = (len(sizes) - weights) // 2
    start, size = sum(sizes[:weights]), sum(sizes[: weights + drives])
    table = hadamard(2 ** int(np.ceil(np.log2(size + 1))))[:, 1 : size + 1].astype(float)

    def one(row):
        at = 0

        def take(shape):
            nonlocal at
            at = start if at == size else at
            at += int(np.prod(shape))
            return row[at - int(np.prod(shape)) : at].reshape(shape)

        with given(take):
            return run(xs)

    @jit
    def mean(rows):
        return jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(rows))

    return mean(jnp.asarray(np.concatenate([table, -table])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["node", "weight"])
@pytest.mark.parametrize("name", STACKS)
def test_the_mean_is_the_gradient(name, kind):
    model = Stack(STACKS[name]())
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)))
    want = jit(mpj.value_and_grad(squared))(model, xs, {})[1]
    assert_close(mean_over_noise(model, kind, xs, {}), want, 1e-6)


@pytest.mark.slow
def test_the_mean_with_sequences_that_end_and_pause():
    model = Stack(STACKS["taus"]())
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2)))
    done = jnp.asarray(np.array([[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]], bool).T)
    valid = jnp.asarray(np.array([[1, 1, 1, 0, 1], [1, 0, 0, 1, 1]], bool).T)
    flags = {"done": done, "valid": valid}
    want = jit(mpj.value_and_grad(squared))(model, xs, flags)[1]
    assert_close(mean_over_noise(model, "node", xs, flags), want, 1e-6)


# --- what is perturbed, and what is not ---


def small(**options):
    model = Stack(STACKS["two"](), **options)
    return model, jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)))


@pytest.mark.parametrize("kind", ["node", "weight", "activity"])
def test_what_the_loss_does_not_depend_on_gets_nothing(kind):
    model, xs = small(feedback="random")
    rule = mpj.ModProp(jnp.asarray(0.5), (0, 1))
    model = mpj.with_rule(model, rule, where=lambda m: m.layers[1])
    value, grads = mpj.perturbed_value_and_grad(squared, kind, key=KEY)(model, xs, {})
    assert_close(value, squared(model, xs, {}), 1e-12)
    want = mpj.value_and_grad(squared)(model, xs, {})[1]
    assert jax.tree.structure(grads) == jax.tree.structure(want)
    assert (grads.readout.feedback_weight == 0).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.layers[1].own_rule))
    assert grads.layers[1].cell.weight_rec[1, 0] == 0 != grads.layers[1].cell.weight_rec[0, 1]
    for leaf in (grads.readout.weight, grads.rest, grads.layers[0].cell.cell.weight_in):
        assert (leaf != 0).all()


@pytest.mark.slow
def test_keys_and_other_options():
    model, xs = small()

    def loss(model, xs, flags):
        return squared(model, xs, flags), xs.shape

    def run(key, kind: Any = "node", **options):
        return mpj.perturbed_value_and_grad(squared, kind, key=key, **options)(model, xs, {})[1]

    assert_close(run(KEY), run(KEY), 0)
    assert distance(run(KEY), run(jr.key(3))) > 0.1
    assert distance(run(KEY), run(KEY, noise="normal")) > 0.1
    assert distance(run(KEY), run(KEY, kind="activity", antithetic=True)) > 0.01
    (_, aux), found = mpj.perturbed_value_and_grad(loss, key=KEY, has_aux=True)(model, xs, {})
    assert aux == xs.shape
    assert_close(found, run(KEY), 0)
    jitted = jit(lambda key: run(key, check=True))
    assert_close(jitted(KEY), run(KEY), 1e-6)
    with pytest.raises(Exception, match="NaN or infinite"):
        jax.block_until_ready(
            jit(
                lambda model, key: mpj.perturbed_value_and_grad(squared, key=key, check=True)(
                    model, xs * jnp.nan, {}
                )
            )(model, KEY)
        )


def test_a_reward_without_a_derivative():
    model, xs = small()

    def reward(model, xs):
        return jnp.mean((model(xs) > 0.1).astype(jnp.int32))

    found = mpj.perturbed_value_and_grad(reward, key=KEY, sigma=1.0)(model, xs)[1]
    assert np.isfinite(np.concatenate([np.ravel(a) for a in jax.tree.leaves(found)])).all()
    assert (found.layers[0].cell.cell.weight_in != 0).all()


@pytest.mark.slow
def test_examples_pair_with_their_own_noise_under_vmap():
    model, xs = small()

    @jit
    def each(xs, keys):
        def one(x, key):
            return mpj.perturbed_value_and_grad(squared, key=key)(model, x, {})

        return jax.vmap(one, in_axes=(1, 0))(xs, keys)

    keys = jr.split(KEY, 2)
    values, grads = each(xs, keys)
    assert values.shape == (2,)
    alone = mpj.perturbed_value_and_grad(squared, key=keys[1])(model, xs[:, 1], {})[1]
    assert_close(jax.tree.map(lambda g: g[1], grads), alone, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes(dtype):
    model, xs = small()

    def cast(tree):
        return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, tree)

    wide = jax.tree.map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, cast(model)
    )
    xs = xs.astype(jnp.float32)
    run = mpj.perturbed_value_and_grad(squared, key=KEY, sigma=0.1)
    (value, found), (_, want) = run(cast(model), xs, {}), run(wide, xs, {})
    assert value.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert distance(jax.tree.map(lambda g: g.astype(jnp.float32), found), want) < 1e-2


# --- refusals ---


@pytest.mark.parametrize(
    "around",
    [jax.jit, "vmap", *(pytest.param(a, marks=pytest.mark.slow) for a in (jax.checkpoint, "scan"))],
)
def test_a_layer_inside_of_a_transformation_is_refused(around):
    model, xs = small()
    layer = model.layers[0]
    wrap: Any = {
        "vmap": lambda f: lambda xs: jax.vmap(f, 1, 1)(xs),
        "scan": lambda f: lambda xs: jax.lax.scan(lambda c, x: (c, f(x)), 0, xs[None])[1],
    }.get(around, around)
    inner = wrap(lambda xs: layer(xs))
    inner(xs)  # it is known to JAX's caches

    def loss(model, xs):
        return jnp.sum(inner(xs)) + jnp.sum(model(xs))

    for _ in range(2):
        with pytest.raises(ValueError, match="inside of a jit, vmap, scan"):
            mpj.perturbed_value_and_grad(loss, key=KEY)(model, xs)


def test_what_can_not_be_perturbed_is_refused():
    cell: Any = mpj.FunctionCell(lambda p, s, x: jnp.tanh(p * s + x), jnp.ones(2), jnp.zeros(2))
    model, xs = mpj.RNN(cell), jnp.ones((3, 2))

    def loss(model, xs):
        return jnp.sum(model(xs))

    with pytest.raises(ValueError, match='FunctionCell: perturb weights.*"weight"'):
        mpj.perturbed_value_and_grad(loss, key=KEY)(model, xs)
    found = mpj.perturbed_value_and_grad(loss, "weight", key=KEY)(model, xs)[1]
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(found))
    with pytest.raises(ValueError, match="does not run a RateCell.*use out of the model"):
        one, seen = small()
        both = [one, mpj.RateCell(2, 2, alpha=0.5, key=KEY)]
        mpj.perturbed_value_and_grad(lambda m, xs: squared(m[0], xs, {}), key=KEY)(both, seen)
    with pytest.raises(ValueError, match='the loss runs none.*take "weight"'):
        mpj.perturbed_value_and_grad(lambda m: jnp.sum(m), key=KEY)(jnp.ones(2))
    with pytest.raises(ValueError, match="loss must return a scalar.*shape \\(3,"):
        mpj.perturbed_value_and_grad(lambda m, xs: m(xs), "weight", key=KEY)(
            model, jnp.ones((3, 2))
        )
    with pytest.raises(ValueError, match="complex128: keep real and imaginary"):
        mpj.perturbed_value_and_grad(lambda m: jnp.abs(m), "weight", key=KEY)(jnp.asarray(1j))

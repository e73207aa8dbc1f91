"""Equilibrium propagation: golden figures, the order of its error, and where it is biased."""

import functools
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optimistix
import pytest
from helpers import assert_close, distance, jit

import modprop_jax as mpj


pytestmark = pytest.mark.slow


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "equilibrium_propagation.npz")
# as far as rounding lets it settle
TIGHT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
CASES = ("tanh", "sigmoid", "layered", "asymmetric")


def golden(case: str, name: str) -> np.ndarray:
    return GOLDEN[f"{case}/{name}"]


def network(case: str, **options: Any) -> Any:
    weight = golden(case, "W")
    activation = jax.nn.sigmoid if case == "sigmoid" else jnp.tanh
    ends = {"inputs": golden(case, "inp"), "outputs": golden(case, "out")}
    options = {**TIGHT, **ends, "activation": activation, "key": jr.key(0), **options}
    cell = mpj.EquilibriumCell(len(weight), **options)
    parts = jnp.asarray(weight), jnp.asarray(golden(case, "b"))
    return eqx.tree_at(lambda c: (c.weight, c.bias), cell, parts)


@functools.cache
def settled(case: str) -> Any:
    cell, x = network(case), jnp.asarray(golden(case, "x"))
    return jit(lambda cell, x: cell.step(cell.init(), x))(cell, x)


def size_of(case: str) -> float:
    """The largest error, by which the figures' β is to be multiplied."""
    return float(np.abs(golden(case, "e")).max())


@jit
def gradients(cell, x, y, rule):
    """Of the squared error of the outputs, by weights and inputs."""

    def loss(pair):
        cell, x = pair
        _, rates = mpj.scan(cell, cell.init(x.shape[:-1]), x[None], rule=rule)
        away = jnp.where(jnp.asarray(cell.outputs.numpy()), rates[0] - y, 0)
        return 0.5 * jnp.sum(away**2)

    return eqx.filter_grad(loss)((cell, x))


def targets(case: str) -> Any:
    """Of all units."""
    y = np.zeros(len(golden(case, "b")))
    y[golden(case, "out")] = golden(case, "y")
    return jnp.asarray(y)


def of_case(case: str, rule: Any, **options: Any) -> Any:
    return gradients(network(case, **options), jnp.asarray(golden(case, "x")), targets(case), rule)


@pytest.mark.parametrize("symmetric, key", [(True, "sym"), (False, "one")])
@pytest.mark.parametrize("beta", [0.1, 0.01])
@pytest.mark.parametrize("case", CASES)
def test_golden_figures(case, beta, symmetric, key):
    rule = mpj.EqProp(beta * size_of(case), symmetric=symmetric)
    found, of_x = of_case(case, rule)
    figure = f"beta{beta}/linear/"
    # rounding enters as 1e-16 / beta
    assert_close(found.weight, golden(case, f"{figure}W_{key}"), 1e-10)
    free = ~golden(case, "inp")
    credit = golden(case, f"{figure}credit_{key}")
    np.testing.assert_allclose(np.asarray(found.bias)[free], credit[free], rtol=0, atol=1e-11)
    into = (golden(case, "W").T @ np.where(free, credit, 0) + golden(case, "e"))[~free]
    assert_close(of_x, into, 1e-10)


def errors(case: str, symmetric: bool) -> np.ndarray:
    """Relative errors by the implicit gradient, at two sizes of the nudge."""
    exact = golden(case, "grad_W")
    found = [of_case(case, mpj.EqProp(b, symmetric=symmetric))[0].weight for b in (0.05, 0.01)]
    return np.array([distance(weight, exact) for weight in found])


@pytest.mark.parametrize("case", ["tanh", "sigmoid", "layered"])
def test_the_order_of_the_error_where_weights_are_symmetric(case):
    """A fifth of the nudge: a 25th of the error; one-sided, a fifth."""
    both, one = errors(case, True), errors(case, False)
    assert np.log(both[0] / both[1]) / np.log(5) == pytest.approx(2, abs=0.1)
    assert np.log(one[0] / one[1]) / np.log(5) == pytest.approx(1, abs=0.1)
    assert both[1] < 2e-3


def test_it_is_biased_where_weights_are_not_symmetric():
    found = of_case("asymmetric", mpj.EqProp(1e-3))[0]
    assert_close(found.weight, golden("asymmetric", "limit_W"), 1e-5)
    assert distance(found.weight, golden("asymmetric", "grad_W")) > 0.1
    exact = of_case("asymmetric", mpj.EICredit(**TIGHT))[0]
    assert_close(exact.weight, golden("asymmetric", "grad_W"), 1e-9)


def test_layers_without_feedback_synapses_get_no_credit_below_the_outputs():
    cell = mpj.EquilibriumCell.layered([2, 3, 2], activation=jnp.tanh, key=jr.key(1), **TIGHT)
    found, _ = gradients(cell, jnp.ones(2), jnp.zeros(7), mpj.EqProp())
    assert (found.weight[:5] == 0).all() and (found.weight[5:, 2:5] != 0).all()
    exact, _ = gradients(cell, jnp.ones(2), jnp.zeros(7), mpj.BPTT())
    assert (exact.weight[2:5, :2] != 0).all()


@pytest.mark.parametrize("case", ["tanh", "sigmoid"])
def test_the_published_products_are_the_sum_over_both_directions(case):
    """Products of rates of the nudged phases, of the tied weight: up to the order of the error."""
    free, existing = ~golden(case, "inp"), golden(case, "W") != 0

    def off(beta):
        found = np.asarray(of_case(case, mpj.EqProp(beta * size_of(case)))[0].weight)
        both = np.where(free[:, None] & free[None], found + found.T, found)
        pair = golden(case, f"beta{beta}/linear/pair_sym")
        return np.linalg.norm((both - pair)[existing]) / np.linalg.norm(pair[existing])

    assert off(0.01) < 1e-3 and off(0.1) / off(0.01) == pytest.approx(100, rel=0.1)


def test_the_scale_of_the_loss_does_not_matter():
    """Also that of a mean over many examples, whose nudge rounding would else swallow."""
    cell = network("tanh")
    rule, y = mpj.EqProp(), targets("tanh")

    @jit
    def run(cell, xs, scale):
        def loss(cell):
            rates = mpj.scan(cell, cell.init((3,)), xs[None], rule=rule)[1]
            return scale * jnp.sum((rates[0] - y[None]) ** 2)

        return eqx.filter_grad(loss)(cell)

    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    one, small = run(cell, xs, 1.0), run(cell, xs, 1e-12)
    assert_close(jax.tree.map(lambda g: 1e12 * g, small), one, 1e-9)
    alone = [run(cell, jnp.repeat(xs[k : k + 1], 3, 0), 1 / 3) for k in range(3)]
    assert_close(jax.tree.map(lambda *g: sum(g), *alone), one, 1e-9)


def test_what_relaxes_is_the_cell():
    """With its damping, its solver, and its number of sweeps."""
    want = of_case("tanh", mpj.EqProp())[0].weight
    damped = of_case("tanh", mpj.EqProp(), damping=0.5)[0].weight
    assert_close(damped, want, 1e-9)
    newton = optimistix.Newton(1e-14, 1e-14)
    solved = of_case("tanh", mpj.EqProp(), solver=newton, rtol=1e-12, atol=1e-12)[0].weight
    assert_close(solved, want, 1e-9)
    cut = of_case("tanh", mpj.EqProp(), max_steps=2)[0].weight
    assert np.isnan(cut).any()


def test_what_the_phases_found():
    rule, state = mpj.EqProp(), settled("tanh")
    direct = jnp.asarray(golden("tanh", "e"))
    found = jit(lambda cell, state, direct: rule.relax(cell, state, direct))(
        network("tanh"), state, direct
    )
    assert found.converged and found.sweeps > 2
    np.testing.assert_array_equal(found.balance, 1.0 - golden("tanh", "inp"))
    silent = jit(lambda cell, state: rule.relax(cell, state, jnp.zeros_like(state.rates)))(
        network("tanh"), state
    )
    assert (silent.credit == 0).all() and silent.converged


def test_symmetric_ties_weights_of_free_units():
    inputs = np.array([True, False, False])
    optimizer = optax.chain(optax.sgd(0.1), mpj.optim.symmetric(inputs))
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    updates, _ = optimizer.update(gradient, optimizer.init(weight), weight)
    after = np.asarray(optax.apply_updates(weight, updates))
    plain = np.asarray(weight - 0.1 * gradient)
    np.testing.assert_allclose(after[1:, 1:], (plain + plain.T)[1:, 1:] / 2, rtol=1e-12)
    np.testing.assert_allclose(after[:, 0], plain[:, 0], rtol=1e-12)
    with pytest.raises(ValueError, match="weights of 3 units.*shape \\(3,\\)"):
        optimizer.update(gradient[0], optimizer.init(weight[0]), weight[0])
    with pytest.raises(ValueError, match="inputs must be boolean"):
        mpj.optim.symmetric(np.ones(3))


def test_it_learns_with_tied_weights():
    """A regression of three layers, as well as by implicit differentiation of the tied weights."""
    cell = mpj.EquilibriumCell.layered(
        [2, 8, 1], recurrent=True, activation=jnp.tanh, gain=0.5, damping=0.5, key=jr.key(2)
    )
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(1, 32, 2)))
    ys = 0.5 * jnp.tanh(xs[..., :1] - xs[..., 1:])

    def loss(model, xs, ys):
        return jnp.mean((model(xs)[..., -1:] - ys) ** 2)

    bias = lambda tree: jax.tree.map(lambda a: a.ndim > 1, tree)  # noqa: E731
    optimizer = optax.chain(
        optax.sgd(0.2), optax.masked(mpj.optim.symmetric(cell.inputs.numpy()), bias)
    )

    @jit
    def train(model):
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def step(carry, _):
            params, state = carry
            model = eqx.combine(params, static)
            value, grads = mpj.value_and_grad(loss)(model, xs, ys)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=100)[1]

    found = {rule: train(mpj.RNN(cell, rule=rule)) for rule in (mpj.EqProp(), mpj.BPTT())}.values()
    by_nudge, exact = (np.asarray(values) for values in found)
    assert by_nudge[-1] < 0.2 * by_nudge[0]
    assert by_nudge[-1] == pytest.approx(exact[-1], rel=0.2)


def test_what_it_can_not_serve_is_refused():
    cell = mpj.LeakyCell(2, 3, tau=2.0, key=jr.key(0))
    with pytest.raises(ValueError, match="EqProp needs an EquilibriumCell.*LeakyCell"):
        mpj.EqProp().check(cell)
    filtered = mpj.Filtered(network("tanh"), 0.5)
    with pytest.raises(ValueError, match="EqProp carries nothing.*Filtered"):
        mpj.EqProp().init(filtered, filtered.init())

"""What a trained network does, on cases whose answer is known."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import optimize

import modprop_jax as mpj
from modprop_jax.diagnostics._eigenvalues import step_jacobian


ETA = np.exp(-1 / 4)


def leaky(weight, bias=None, activation=jnp.tanh, **options):
    """A LeakyCell of one input with these recurrent weights, autapses among them."""
    weight = np.asarray(weight, float)
    cell = mpj.LeakyCell(
        1,
        len(weight),
        tau=4.0,
        activation=activation,
        use_bias=bias is not None,
        autapses=True,
        key=jr.key(0),
        **options,
    )
    cell = eqx.tree_at(lambda c: c.weight_rec, cell, jnp.asarray(weight))
    return cell if bias is None else eqx.tree_at(lambda c: c.bias, cell, jnp.asarray(bias))


# --- activity ---


def test_rates_and_regularity_of_a_clock_and_of_a_poisson_process():
    """Spikes at every fifth step of a millisecond are 200 Hz."""
    rng, steps = np.random.default_rng(0), 20_000
    zs = np.zeros((steps, 2, 3))
    zs[::5, :, 0] = 1
    zs[..., 1] = rng.random((steps, 2)) < 0.02
    found = mpj.firing_rates(jnp.asarray(zs), dt=1e-3)
    np.testing.assert_allclose(found.neuron[[0, 2]], [200, 0], rtol=1e-12)
    assert abs(found.neuron[1] - 20) < 1.5 and found.silent == 1 / 3
    # of steps, not of time: geometric, a little below the 1 of Poisson
    assert found.cv[0] == 0 and abs(found.cv[1] - np.sqrt(0.98)) < 0.06 and np.isnan(found.cv[2])
    np.testing.assert_allclose(found.example.mean(0), found.neuron)
    np.testing.assert_allclose(found.population[0], 1e3 * zs[0].mean())
    assert isinstance(mpj.plot_raster(zs[:200], example=1, types=[0, 0, 1]), Figure)


def test_graded_rates_have_no_intervals():
    zs = np.linspace(0, 1, 60).reshape(10, 2, 3)
    found = mpj.firing_rates(zs)
    np.testing.assert_allclose(found.neuron, zs.mean((0, 1)))
    assert np.isnan(found.cv).all() and found.silent == 0
    assert isinstance(mpj.plot_raster(zs), Figure)


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_participation_ratio_of_directions_that_are_all_alike(dimensions):
    """Activity of the same variance along some orthogonal directions, whichever they are."""
    rng = np.random.default_rng(1)
    along = np.linalg.qr(rng.normal(size=(8, 8)))[0][:dimensions]
    course = np.linalg.qr(rng.normal(size=(100, dimensions + 1)))[0]
    course = np.linalg.qr(np.column_stack([np.ones(100), course]))[0][:, 1 : dimensions + 1]
    found = mpj.participation_ratio(7 * course.reshape(50, 2, -1) @ along + 3)
    np.testing.assert_allclose(found.value, dimensions, rtol=1e-10)
    np.testing.assert_allclose(found.variances[:dimensions], 49 / 99)
    np.testing.assert_allclose(found.variances[dimensions:], 0, atol=1e-12)
    assert isinstance(mpj.plot_participation_ratio(found), Figure)


def test_participation_ratio_by_hand():
    """Variances 4 and 1: 25 / 17; of a constant it is not defined."""
    zs = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    np.testing.assert_allclose(mpj.participation_ratio(zs).value, 25 / 17)
    assert np.isnan(mpj.participation_ratio(np.full((5, 3), 0.1)).value)


# --- eigenvalues ---


def test_eigenvalues_of_known_matrices():
    """A rotation has a pair a ± bi; of a triangular matrix they are the diagonal."""
    found = mpj.recurrent_eigenvalues(leaky([[0.3, -0.4], [0.4, 0.3]]))
    np.testing.assert_allclose(sorted(found, key=np.imag), [0.3 - 0.4j, 0.3 + 0.4j])
    found: Any = mpj.recurrent_eigenvalues(leaky([[0.5, 9, 9], [0, -0.2, 9], [0, 0, 0.1]]))
    np.testing.assert_allclose(sorted(found.real), [-0.2, 0.1, 0.5])
    assert isinstance(mpj.plot_eigenvalues(found), Figure)


def test_eigenvalues_are_those_of_the_weights_that_the_cell_uses():
    """Not of what is stored where there is no synapse; and of each member of an ensemble."""
    mask = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    cell = mpj.LeakyCell(1, 3, tau=4.0, mask=mask, autapses=True, key=jr.key(1))
    cell = eqx.tree_at(lambda c: c.weight_rec, cell, jnp.full((3, 3), 0.5))
    np.testing.assert_allclose(mpj.recurrent_eigenvalues(cell), 0.5)
    assert np.abs(np.linalg.eigvals(np.full((3, 3), 0.5))).max() > 1
    no_autapses = mpj.LeakyCell(1, 3, tau=4.0, key=jr.key(1))
    np.testing.assert_allclose(mpj.recurrent_eigenvalues(no_autapses).sum(), 0, atol=1e-12)

    make = eqx.filter_vmap(lambda key: mpj.LeakyCell(1, 4, tau=4.0, key=key))
    several = make(jr.split(jr.key(2), 3))
    found = mpj.recurrent_eigenvalues(mpj.Filtered(several, 0.5))
    alone = mpj.LeakyCell(1, 4, tau=4.0, key=jr.split(jr.key(2), 3)[1])
    assert found.shape == (3, 4)
    np.testing.assert_allclose(np.sort(found[1]), np.sort(mpj.recurrent_eigenvalues(alone)))


def test_the_step_of_a_linear_network_has_its_leak_and_its_weights():
    """η + (1 - η) λ, whatever the state; and of any cell that has no matrix of weights."""
    cell = leaky([[0.3, -0.4], [0.4, 0.3]], activation=jax.nn.identity)
    found = mpj.recurrent_eigenvalues(cell, jnp.array([1.0, -2.0]), jnp.ones(1))
    expected = ETA + (1 - ETA) * np.array([0.3 - 0.4j, 0.3 + 0.4j])
    np.testing.assert_allclose(sorted(found, key=np.imag), expected)
    gated = mpj.GRUCell(1, 3, key=jr.key(3))
    with pytest.raises(ValueError, match="GRUCell has no one matrix"):
        mpj.recurrent_eigenvalues(gated)
    assert mpj.recurrent_eigenvalues(gated, gated.init()).shape == (3,)
    with pytest.raises(ValueError, match="no batch axes"):
        mpj.recurrent_eigenvalues(cell, jnp.zeros((5, 2)))


# --- fixed points ---


def test_fixed_points_of_a_bistable_neuron():
    """v = 2 tanh(v): 0, which is unstable, and two that are stable."""
    cell = leaky([[2.0]])
    root: Any = optimize.brentq(lambda v: 2 * np.tanh(v) - v, 0.5, 3)
    starts = jnp.linspace(-2.5, 2.5, 21).reshape(7, 3, 1)
    found = mpj.fixed_points(cell, starts)
    order = np.argsort(found.states[:, 0])
    np.testing.assert_allclose(found.states[order, 0], [-root, 0, root], atol=1e-9)
    assert found.fixed.all() and found.stable[order].tolist() == [True, False, True]
    slope = ETA + (1 - ETA) * 2 / np.cosh([root, 0, root]) ** 2
    np.testing.assert_allclose(found.eigenvalues[order, 0], slope, rtol=1e-8)
    assert found.starts.sum() + found.lost == 21 and found.starts.min() > 0
    assert found.unravel(found.states[0]).shape == (1,)
    assert isinstance(mpj.plot_fixed_points(found, starts), Figure)


def test_a_slow_point_is_what_is_left_of_two_fixed_ones():
    """Beyond the saddle-node bifurcation of v = 2 tanh(v) + b one fixed point is left; where the
    two others met the step is slow, and its slope is 1."""
    meet = -np.arccosh(np.sqrt(2))
    bias = 0.01 - (2 * np.tanh(meet) - meet)
    found = mpj.fixed_points(leaky([[2.0]], bias=[bias]), jnp.linspace(-2, 3, 12)[:, None])
    assert found.fixed.tolist() == [True, False] and found.stable[0]
    np.testing.assert_allclose(found.states[1, 0], meet, atol=2e-3)
    np.testing.assert_allclose(found.speed[1], 0.01 * (1 - ETA), rtol=1e-3)
    np.testing.assert_allclose(found.eigenvalues[1, 0], 1, atol=1e-3)
    none = mpj.fixed_points(leaky([[2.0]], bias=[bias]), jnp.full((4, 1), meet), slow=1e-4)
    assert none.lost == 4 and len(none.states) == 0
    assert isinstance(mpj.plot_fixed_points(found), Figure)


def test_the_fixed_point_of_a_linear_network_under_an_input():
    """(1 - W)^-1 W_in x, and the eigenvalues of the step."""
    weight = 0.5 * np.random.default_rng(2).normal(size=(5, 5)) / np.sqrt(5)
    cell, x = leaky(weight, activation=jax.nn.identity), jnp.array([1.5])
    wrapped = mpj.Filtered(cell, 0.9)
    _, states = mpj.RNN(wrapped)(jr.normal(jr.key(4), (6, 2, 1)), states=True)
    found = mpj.fixed_points(wrapped, states, x)
    expected = np.linalg.solve(np.eye(5) - weight, np.asarray(cell.weight_in) @ x)
    np.testing.assert_allclose(found.states, expected[None], rtol=1e-7)
    assert found.starts.tolist() == [12] and found.stable.all() and found.lost == 0
    step = step_jacobian(cell, cell.init())
    np.testing.assert_allclose(np.sort(found.eigenvalues[0]), np.sort(np.linalg.eigvals(step)))


def test_spiking_neurons_have_no_fixed_points_to_look_for(without_type_checks):
    cell = mpj.LIFCell(1, 3, tau=4.0, key=jr.key(5))
    with pytest.raises(ValueError, match="smooth step"):
        mpj.fixed_points(cell, cell.init((4,)))
    with pytest.raises(ValueError, match=r"starts must have the shape \(..., 2\)"):
        mpj.fixed_points(leaky(np.eye(2)), jnp.zeros((4, 3)))


# --- weights ---


def test_weight_change_by_hand():
    """Two neurons of each type; onto type 0 from type 1 weights double, from 0 nothing changes."""
    before = np.array([[0, 1.0, 3, -4], [2, 0, 0, 0], [1, 1, 0, 1], [1, -1, 1, 0]])
    after = before.copy()
    after[:2, 2:] *= 2
    after[3, 1] = 1.0  # flips
    found = mpj.weight_change(before, after, [0, 0, 1, 1])
    np.testing.assert_allclose(found.relative, [[0, 1], [1, 0]])
    np.testing.assert_allclose(found.mean, [[0, -0.5], [0.5, 0]])
    np.testing.assert_allclose(found.before, [[1.5, -0.5], [0.5, 1]])
    np.testing.assert_allclose(found.after, [[1.5, -1], [1, 1]])
    np.testing.assert_allclose(found.flipped, [[0, 0], [0.25, 0]])
    np.testing.assert_allclose(found.correlation[0], [1, 1])
    assert np.isnan(found.correlation[1]).all()  # all alike, after or before
    assert isinstance(mpj.plot_weight_change(found, names=["E", "I"]), Figure)


def test_weight_change_of_cells_and_of_ensembles():
    """By the weights that exist; leading axes are kept."""
    cell = mpj.LeakyCell(1, 4, tau=4.0, key=jr.key(6))
    other = eqx.tree_at(lambda c: c.weight_rec, cell, cell.weight_rec + 3 * jnp.eye(4))
    assert mpj.weight_change(cell, other).relative == 0  # there are no autapses
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=(2, 5, 4, 3))
    found = mpj.weight_change(before, after, [0, 0, 1, 1], presynaptic=[0, 1, 1])
    assert found.relative.shape == (5, 2, 2)
    part = after[2, 2:, 1:] - before[2, 2:, 1:]
    expected = np.linalg.norm(part) / np.linalg.norm(before[2, 2:, 1:])
    np.testing.assert_allclose(found.relative[2, 1, 1], expected)
    with pytest.raises(ValueError, match="presynaptic must be one a neuron, 3"):
        mpj.weight_change(before, after, [0, 0, 1, 1], presynaptic=[0, 1, 1, 1])
    with pytest.raises(ValueError, match="differ in shape"):
        mpj.weight_change(before, after[0])

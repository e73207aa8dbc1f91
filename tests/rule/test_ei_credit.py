"""Equilibria and the credit that relaxes over them: against goldens, backpropagation, solves."""

import itertools
import math
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
from modprop_jax._static import FrozenArray
from modprop_jax._tree import with_fields


pytestmark = pytest.mark.slow


GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "ei_credit.npz")
# as far as rounding lets it settle
TIGHT: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
SOURCE = mpj.EICredit(**TIGHT)
CLAMP = mpj.EICredit(output="clamp", **TIGHT)
BPTT = mpj.BPTT()


def ends(n: int, first: int, last: int) -> dict[str, np.ndarray]:
    """The first units are inputs, the last ones outputs."""
    return {"inputs": np.arange(n) < first, "outputs": np.arange(n) >= n - last}


def make(n: int, first: int, last: int, activation: Any = jnp.tanh, **options: Any) -> Any:
    options = {"key": jr.key(0), **TIGHT, **ends(n, first, last), **options}
    return mpj.EquilibriumCell(n, activation=activation, **options)


def with_weights(cell: Any, weight: Any, bias: Any = None) -> Any:
    cell = eqx.tree_at(lambda c: c.weight, cell, jnp.asarray(weight))
    return cell if bias is None else eqx.tree_at(lambda c: c.bias, cell, jnp.asarray(bias))


def recurrent(**options: Any) -> Any:
    """9 units, 2 of them inputs and 2 outputs, with all synapses unless there is a mask."""
    cell = make(9, 2, 2, **{"gain": 0.8, **options})
    return with_weights(cell, cell.weight, 0.3 * jr.normal(jr.key(1), (9,), cell.weight.dtype))


def layers(sizes: tuple[int, ...]) -> np.ndarray:
    """The mask of a layered network."""
    layer = np.repeat(np.arange(len(sizes)), sizes)
    return layer[:, None] == layer[None] + 1


def quadratic(cell, xs, ys, rule):
    """½ Σ (z - y)² over the output units, and the state after."""
    state, zs = mpj.scan(cell, cell.init(xs.shape[1:-1]), xs, rule=rule)
    error = jnp.where(cell.outputs.numpy(), zs - ys, 0)
    return 0.5 * jnp.sum(error**2), state


def _gradients(cell, xs, ys, rule):
    """((loss, state), gradient of the cell, gradient of the inputs)."""

    @eqx.filter_value_and_grad(has_aux=True)
    def take(both):
        cell, xs = both
        return quadratic(cell, xs, ys, rule)

    value, (of_cell, of_xs) = take((cell, xs))
    return value, of_cell, of_xs


gradients = jit(_gradients)


# jitted, as each operation on its own is compiled too
step = jit(lambda cell, state, x: cell.step(state, x))
relax = jit(lambda rule, cell, state, direct: rule.relax(cell, state, direct))
balance = jit(mpj.ei_balance)


def problem(cell: Any, batch: tuple[int, ...] = (), steps: int = 1, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(steps, *batch, cell.in_size))
    ys = rng.normal(size=(steps, *batch, cell.hidden_size))
    return jnp.asarray(xs), jnp.asarray(ys)


# --- goldens ---


def golden(name: str, activation: Any, **options: Any) -> tuple:
    """The cell, inputs and targets of a case, and its figures."""
    of = {key.removeprefix(f"{name}_"): GOLDEN[key] for key in GOLDEN if key.startswith(name)}
    n, first, last = len(of["W"]), len(of["x_in"]), len(of["y"])
    cell = make(n, first, last, activation, use_bias="b" in of, mask=of.get("mask"), **options)
    cell = with_weights(cell, of["W"], of.get("b"))
    target = np.zeros(n)
    target[n - last :] = of["y"]
    return cell, jnp.asarray(of["x_in"])[None], jnp.asarray(target)[None], of


LAYERED = [("layered_tanh", jnp.tanh), ("dale_layered", jax.nn.sigmoid)]


@pytest.mark.parametrize("rule", [BPTT, mpj.EICredit(), mpj.EICredit(output="clamp")])
@pytest.mark.parametrize("name, activation", LAYERED)
def test_layered_golden(name, activation, rule):
    # the default tolerances: layered, both equilibria are met exactly
    cell, xs, ys, of = golden(name, activation, rtol=1e-6, atol=1e-6)
    (loss, state), gradient, _ = gradients(cell, xs, ys, rule)
    assert_close((loss, state.rates), (of["loss"], of["x_eq"]), 1e-12)
    backpropagated = of.get("bp_grad", of.get("bp_grad_W"))
    assert_close(gradient.weight, backpropagated, 1e-12)
    assert_close(gradient.weight, -of["dW"], 1e-12)
    assert not np.asarray(gradient.weight)[~of["mask"]].any()
    # one sweep a layer, and one that moves nothing
    assert state.converged and state.sweeps == len(of["sizes"]) + 1


def test_layered_golden_credit():
    cell, xs, ys, of = golden("layered_tanh", jnp.tanh)
    (_, state), _, _ = gradients(cell, xs, ys, SOURCE)
    direct = jnp.where(cell.outputs.numpy(), state.rates - ys[0], 0)
    found = relax(SOURCE, cell, state, direct)
    free = ~cell.inputs.numpy()
    assert_close(found.credit, -of["credit"], 1e-12)
    assert_close(found.balance[free], of["balance"][free], 1e-12)
    assert_close(cell.drive(state.rates)[free], of["s_eq"][free], 1e-12)


def test_dale_golden_currents_and_magnitudes():
    cell, xs, ys, of = golden("dale_layered", jax.nn.sigmoid)
    (_, state), gradient, _ = gradients(cell, xs, ys, SOURCE)
    assert_close(cell.currents(state), (of["sE"], of["sI"]), 1e-12)
    # excitation onto credited neurons grows, inhibition shrinks
    assert_close(-gradient.weight * of["sign"][None], of["dA"], 1e-12)


@pytest.mark.parametrize("rule", [BPTT, SOURCE, CLAMP])
def test_recurrent_golden(rule):
    cell, xs, ys, of = golden("rec_tanh", jnp.tanh)
    (loss, state), gradient, _ = gradients(cell, xs, ys, rule)
    assert_close((loss, state.rates), (of["loss"], of["x_eq"]), 1e-10)
    assert_close(gradient.weight, -of["dW_clamp" if rule is CLAMP else "dW_source"], 1e-10)
    assert not np.asarray(gradient.weight)[of["inp"]].any()
    if rule is not CLAMP:
        assert_close(gradient.weight, of["implicit_grad"], 1e-10)
        assert_close(gradient.bias, -of["db"], 1e-10)
    if rule is BPTT:
        assert_close(balance(cell, state).radius, of["rho_DW"], 1e-10)
    else:
        found = relax(rule, cell, state, -jnp.asarray(of["e_out"]))
        assert_close(found.credit, -of[f"credit_{rule.output}"], 1e-10)
        free = ~of["inp"]
        assert_close(found.balance[free], of["balance"][free], 1e-10)


# --- exactness ---


def test_layered_is_backpropagation():
    """Any batch and several steps, biases and inputs too, at the default tolerances."""
    sizes = (3, 4, 3, 2)
    cell = make(12, 3, 2, jax.nn.softplus, mask=layers(sizes), rtol=1e-6, atol=1e-6)
    cell = with_weights(cell, cell.weight, 0.3 * jr.normal(jr.key(2), (12,)))
    xs, ys = problem(cell, (3, 2), steps=2)

    def layered(both):
        cell, xs = both
        at = np.cumsum((0, *sizes))
        rates = xs
        for k in range(1, len(sizes)):
            post, pre = slice(at[k], at[k + 1]), slice(at[k - 1], at[k])
            drive = rates @ cell.weight[post, pre].T
            rates = jax.nn.softplus(drive + jnp.broadcast_to(cell.bias[post], drive.shape))
        return 0.5 * jnp.sum((rates - ys[..., -2:]) ** 2)

    of_cell, of_xs = jit(eqx.filter_grad(layered))((cell, xs))
    for rule in (mpj.EICredit(), BPTT):
        (loss, _), *found = gradients(cell, xs, ys, rule)
        assert_close(loss, layered((cell, xs)), 1e-12)
        assert_close(found, [of_cell, of_xs], 1e-12)


def test_recurrent_is_the_implicit_gradient():
    """Against finite differences of the equilibrium, along a direction in all arguments."""
    cell = recurrent()
    xs, ys = problem(cell, (2,))
    direction = jax.tree.map(
        lambda p: jr.normal(jr.key(p.size), p.shape), eqx.filter((cell, xs), eqx.is_inexact_array)
    )

    @jit
    def loss(step):
        moved, still = eqx.apply_updates((cell, xs), jax.tree.map(lambda d: step * d, direction))
        return quadratic(moved, still, ys, BPTT)[0]

    size = 1e-5
    slope = (loss(jnp.asarray(size)) - loss(jnp.asarray(-size))) / (2 * size)
    for rule in (BPTT, SOURCE):
        _, *found = gradients(cell, xs, ys, rule)
        products = jax.tree.map(jnp.vdot, tuple(found), direction)
        assert_close(sum(jax.tree.leaves(products)), slope, 1e-8)
    assert_close(gradients(cell, xs, ys, SOURCE)[1:], gradients(cell, xs, ys, BPTT)[1:], 1e-11)


def inhibited() -> Any:
    """A network that settles only if damped: all free units inhibit each other."""
    cell = recurrent(damping=0.3)
    return with_weights(cell, cell.weight - 0.5)


@pytest.mark.slow
def test_damped_credit_is_the_implicit_gradient():
    """Against linear solves at the equilibrium, of a batch; without damping it does not settle."""
    cell = inhibited()
    xs, ys = problem(cell, (2,))
    (_, state), gradient, of_xs = gradients(cell, xs, ys, mpj.EICredit(damping=0.3, **TIGHT))
    assert state.converged.all()
    weight, inputs = np.asarray(cell.weight), cell.inputs.numpy()
    rates = np.asarray(state.rates)
    np.testing.assert_allclose(rates[:, :2], xs[0], rtol=0, atol=1e-15)
    free = np.tanh(rates @ weight.T + np.asarray(cell.bias))
    np.testing.assert_allclose(rates[:, 2:], free[:, 2:], rtol=0, atol=1e-12)
    slopes = np.where(inputs, 0, 1 - rates**2)
    errors = np.where(cell.outputs.numpy(), rates - np.asarray(ys[0]), 0)
    credit = np.stack(
        [np.linalg.solve(np.eye(9) - weight.T * d, e) for d, e in zip(slopes, errors)]
    )
    onto = credit * slopes
    assert_close((gradient.weight, gradient.bias), (onto.T @ rates, onto.sum(0)), 1e-11)
    assert_close(of_xs[0], credit[:, :2], 1e-11)
    undamped = with_weights(recurrent(max_steps=1000), cell.weight, cell.bias)
    assert not gradients(undamped, xs, ys, BPTT)[0][1].converged.any()
    lost = relax(mpj.EICredit(max_steps=1000), cell, state, jnp.asarray(errors))
    assert not lost.converged.any()


def relaxed_by_hand(cell: Any, xs: Any, ys: Any, stop: bool) -> Any:
    """Gradient by differentiating through 400 sweeps, outputs without derivative when they send."""
    inputs, outputs = cell.inputs.numpy(), cell.outputs.numpy()

    def loss(cell):
        def sweep(rates, _):
            sent = jnp.where(outputs & stop, jax.lax.stop_gradient(rates), rates)
            drive = jnp.where(cell.mask, cell.weight, 0) @ sent + cell.bias
            held = jnp.zeros(len(inputs)).at[: cell.in_size].set(xs[0])
            return jnp.where(inputs, held, jnp.tanh(drive)), None

        rates, _ = jax.lax.scan(sweep, jnp.zeros(len(inputs)), None, 400)
        return 0.5 * jnp.sum(jnp.where(outputs, rates - ys[0], 0) ** 2)

    return jit(eqx.filter_grad(loss))(cell)


@pytest.mark.slow
def test_clamped_credit_is_a_stopped_feedback():
    rng = np.random.default_rng(5)
    cell = recurrent(mask=rng.random((9, 9)) < 0.8)
    xs, ys = problem(cell)
    for rule, stop in ((SOURCE, False), (CLAMP, True)):
        found = gradients(cell, xs, ys, rule)[1]
        assert_close(found, relaxed_by_hand(cell, xs, ys, stop), 1e-11)
    apart = distance(*(gradients(cell, xs, ys, rule)[1] for rule in (CLAMP, SOURCE)))
    assert apart > 1e-2


@pytest.mark.slow
def test_clamped_credit_is_exact_if_outputs_send_nothing():
    mask = np.ones((9, 9), bool)
    mask[:, -2:] = False
    cell = recurrent(mask=mask)
    xs, ys = problem(cell)
    assert_close(gradients(cell, xs, ys, CLAMP)[1:], gradients(cell, xs, ys, BPTT)[1:], 1e-11)


def test_two_units_whose_clamped_credit_diverges():
    """Firing settles, at a radius of 0.63; held credit grows by 1.2 a sweep, and is reported."""
    cell = make(2, 0, 1, use_bias=False)
    cell = with_weights(cell, [[1.2, -1.0], [1.0, -0.5]])
    xs, ys = jnp.zeros((1, 0)), jnp.ones((1, 2))
    (_, state), gradient, _ = gradients(cell, xs, ys, mpj.EICredit())
    assert state.converged and not np.asarray(state.rates).any()
    assert_close(balance(cell, state).radius, np.sqrt(0.4), 1e-12)
    direct = jnp.array([0.0, -1.0])
    source = relax(SOURCE, cell, state, direct)
    assert_close(source.credit, np.linalg.solve(np.eye(2) - cell.weight.T, direct), 1e-12)
    assert source.converged and np.isfinite(gradient.weight).all()

    rule = mpj.EICredit(output="clamp", max_steps=50)
    clamped = relax(rule, cell, state, direct)
    assert not clamped.converged and clamped.sweeps == 50
    # h <- 1.2 h - 1 from h = 0
    assert_close(clamped.credit, np.array([-(1.2**50 - 1) / 0.2, -1.0]), 1e-12)
    assert np.isnan(gradients(cell, xs, ys, rule)[1].weight).all()
    loss = mpj.value_and_grad(lambda c: quadratic(c, xs, ys, rule)[0], check=True)
    with pytest.raises(Exception, match="gradient is NaN"):
        jax.block_until_ready(jit(loss)(cell))


@pytest.mark.slow
def test_truncation():
    """Each sweep brings credit one synapse further; the rest falls as ρ to the number of sweeps."""
    cell, xs, ys, of = golden("rec_tanh", jnp.tanh)
    exact = gradients(cell, xs, ys, BPTT)[1]
    errors = []
    for sweeps in (0, 20, 100):
        rule = mpj.EICredit(sweeps=sweeps)
        found = gradients(cell, xs, ys, rule)[1]
        if sweeps == 0:
            onto = np.asarray(found.weight).any(1)
            assert (onto == cell.outputs.numpy()).all()
        errors.append(distance(found, exact))
    rate = (errors[2] / errors[1]) ** (1 / 80)
    assert rate == pytest.approx(float(of["rho_DW"]), rel=0.01)


@pytest.mark.slow
def test_layered_truncation_is_exact_after_one_sweep_a_layer():
    cell, xs, ys, of = golden("layered_tanh", jnp.tanh)
    for sweeps in (1, 2):
        found = gradients(cell, xs, ys, mpj.EICredit(sweeps=sweeps))[1].weight
        assert (distance(found, of["bp_grad"]) < 1e-12) == (sweeps == 2)


# --- the rule's own laws ---


@pytest.mark.slow
def test_ratio_law():
    """Plasticity to retrograde signal of a synapse is presynaptic rate to weight."""
    cell = recurrent()
    xs, ys = problem(cell)
    (_, state), gradient, of_xs = gradients(cell, xs, ys, SOURCE)
    direct = jnp.where(cell.outputs.numpy(), state.rates - ys[0], 0)
    found = relax(SOURCE, cell, state, direct)
    signal = (found.credit * found.balance)[:, None] * cell.weight
    ratio = (gradient.weight / signal)[2:]
    assert_close(ratio, (state.rates[None] / cell.weight)[2:], 1e-11)
    assert_close(of_xs[0], found.credit[:2], 1e-12)


def bump(drive):
    return jnp.exp(-3 * drive**2)


@jax.custom_jvp
def bumpy_tanh(drive):
    return jnp.tanh(drive)


@bumpy_tanh.defjvp
def _(primals, tangents):
    return jnp.tanh(*primals), bump(*primals) * tangents[0]


@pytest.mark.slow
def test_any_balance_is_a_surrogate_derivative():
    cell = recurrent()
    xs, ys = problem(cell)
    found = gradients(cell, xs, ys, mpj.EICredit(balance=bump, **TIGHT))[1:]
    surrogate = recurrent(activation=bumpy_tanh)
    # all but the activation, which is part of the structure
    leaves = jax.tree.leaves(gradients(surrogate, xs, ys, BPTT)[1:])
    assert_close(jax.tree.leaves(found), leaves, 1e-11)
    assert distance(found, gradients(cell, xs, ys, SOURCE)[1:]) > 1e-2


SIGNS = (1, 1, -1, 1, -1, 1, 1, -1, 1, -1, 1, 1)


@pytest.mark.slow
def test_signs_are_kept_while_it_learns():
    sizes = (3, 6, 3)
    cell = make(12, 3, 3, jax.nn.sigmoid, mask=layers(sizes), signs=SIGNS)
    keep = optax.masked(mpj.optim.dale(SIGNS), lambda tree: jax.tree.map(_is_matrix, tree))
    optimizer = optax.chain(optax.sgd(2.0), keep)
    xs, ys = problem(cell, (4,))
    xs, ys = jax.nn.sigmoid(xs), jax.nn.sigmoid(2 * ys)

    @jit
    def train(cell):
        params, static = eqx.partition(cell, eqx.is_inexact_array)

        def step(carry, _):
            params, memory = carry
            value = eqx.filter_value_and_grad(quadratic, has_aux=True)
            (loss, _), gradient = value(eqx.combine(params, static), xs, ys, mpj.EICredit())
            updates, memory = optimizer.update(gradient, memory, params)
            return (eqx.apply_updates(params, updates), memory), loss

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), None, 200)
        return eqx.combine(params, static), losses

    learnt, losses = train(cell)
    assert losses[-1] < 0.2 * losses[0]
    weight, mask = np.asarray(learnt.weight), layers(sizes)
    assert (weight * np.array(SIGNS)[None] >= 0).all() and not weight[~mask].any()
    # the law did bind, and was not kept by standing still
    bound = (weight == 0) & mask
    assert 0 < bound.sum() < 0.7 * mask.sum()


def _is_matrix(leaf):
    return leaf.ndim == 2


def test_initial_weights():
    n = 200
    inputs = {**ends(n, 50, 10), "key": jr.key(3), "activation": jnp.tanh}
    mask = np.random.default_rng(0).random((n, n)) < 0.5
    free = np.asarray(mpj.EquilibriumCell(n, mask=mask, **inputs).weight)
    assert not free[~mask].any() and not free[:50].any()
    assert np.std(free[50:][mask[50:]]) == pytest.approx(0.7 / np.sqrt(n / 2), rel=0.03)
    signs = np.where(np.arange(n) % 4 == 0, -1, 1)
    signed = np.asarray(mpj.EquilibriumCell(n, mask=mask, signs=signs, **inputs).weight)
    assert (signed * signs[None] >= 0).all() and not signed[~mask].any()
    assert_close(np.linalg.norm(signed[50:], axis=1), np.full(n - 50, 0.7), 1e-12)
    assert np.abs(signed.sum(1)).max() < 1e-12


def test_layers_one_after_the_other():
    options: dict[str, Any] = {"activation": jnp.tanh, "key": jr.key(0)}
    cell: Any = mpj.EquilibriumCell.layered([3, 2, 4], **options)
    assert np.array_equal(cell.mask, layers((3, 2, 4)))
    assert np.flatnonzero(cell.inputs.numpy()).tolist() == [0, 1, 2]
    assert np.flatnonzero(cell.outputs.numpy()).tolist() == [5, 6, 7, 8]
    settled = step(cell, cell.init(), jnp.array([0.3, -0.2, 0.5]))
    hidden = np.tanh(cell.weight[3:5, :3] @ settled.rates[:3])
    assert_close(settled.rates[5:], np.tanh(cell.weight[5:, 3:5] @ hidden), 1e-12)
    full = np.asarray(mpj.EquilibriumCell.layered([3, 2, 4], recurrent=True, **options).mask)
    assert np.array_equal(full[3:, 3:], np.ones((6, 6))) and not np.any(full[:3])
    assert np.array_equal(full[3:, :3], layers((3, 2, 4))[3:, :3])
    with pytest.raises(ValueError, match=r"sizes holds the units of the input layer.*is \[3\]"):
        mpj.EquilibriumCell.layered([3], **options)
    with pytest.raises(ValueError, match="entry of sizes must be a whole .* at least 1, but is 0"):
        mpj.EquilibriumCell.layered([3, 0, 2], **options)


def test_no_batch_of_solves_on_cpus():
    """Two of LAPACK's batches in one program can wait for each other's threads for ever."""
    cell = recurrent()
    x = jr.normal(jr.key(0), (1, 5, 2))
    program = jax.jit(lambda xs: _gradients(cell, xs, jnp.zeros((1, 5, 9)), BPTT)[2])
    compiled = program.lower(x).compile().as_text() or ""
    solves = [line for line in compiled.splitlines() if "getrf" in line]
    assert solves and all("f64[1,9,9]" in line or "f64[9,9]" in line for line in solves)


# --- reports ---


OSCILLATING = [[0.0, 0.0], [1.0, -3.0]]


def oscillating(**options: Any) -> Any:
    """One free unit that inhibits itself: sweeps go on for ever between two rates."""
    return with_weights(make(2, 1, 1, **options), OSCILLATING)


def test_an_equilibrium_that_was_not_reached():
    cell = oscillating(max_steps=100)
    xs, ys = jnp.array([[0.1], [0.2]]), jnp.ones((2, 2))
    for rule in (BPTT, mpj.EICredit()):
        (_, state), gradient, _ = gradients(cell, xs, ys, rule)
        assert not state.converged and state.sweeps == 200
        assert np.isnan(gradient.weight).all() and np.isnan(gradient.bias).all()

    with pytest.raises(Exception, match="equilibrium was not reached in 100 sweeps"):
        jax.block_until_ready(gradients(oscillating(max_steps=100, check=True), xs, ys, BPTT))
    loss = mpj.value_and_grad(lambda c: quadratic(c, xs, ys, BPTT)[0], check=True)
    with pytest.raises(Exception, match="gradient is NaN"):
        jax.block_until_ready(jit(loss)(cell))


@pytest.mark.slow
def test_one_example_reports_for_itself():
    """And later equilibria do not make up for one that was missed."""
    cell = oscillating(max_steps=100)
    # strong input saturates the unit, which then settles
    xs, ys = jnp.array([[[0.1], [5.0]], [[5.0], [5.0]]]), jnp.ones((2, 2, 2))
    (_, state), _, _ = gradients(cell, xs, ys, BPTT)
    assert state.converged.tolist() == [False, True]
    found = [gradients(cell, xs[:, [k]], ys[:, [k]], mpj.EICredit()) for k in (0, 1)]
    assert np.isnan(found[0][1].weight).any() and np.isfinite(found[1][1].weight).all()
    assert found[1][0][1].sweeps < 100


@pytest.mark.slow
def test_padding_asks_nothing_of_an_equilibrium():
    """Inputs are erased in padding, and with this bias the unit oscillates there."""
    made = [oscillating(max_steps=100, check=check) for check in (False, True)]
    biased = [with_weights(cell, OSCILLATING, [0.0, 0.1]) for cell in made]
    xs = jnp.array([[5.0], [7.0]])

    def loss(cell, xs, rule, mask=None):
        state, zs = mpj.scan(cell, cell.init(), xs, rule=rule, valid=mask)
        return jnp.sum(zs**2), state

    take = jit(eqx.filter_grad(loss, has_aux=True))
    for cell, rule in itertools.product(biased, (BPTT, mpj.EICredit())):
        padded, state = take(cell, xs, rule, jnp.array([True, False]))
        alone, want = take(cell, xs[:1], rule)
        assert_close((padded.weight, state.rates), (alone.weight, want.rates), 1e-12)
        assert state.converged and state.sweeps == want.sweeps
    with pytest.raises(Exception, match="equilibrium was not reached in 100 sweeps"):
        jax.block_until_ready(take(biased[1], jnp.zeros((1, 1)), BPTT))


@pytest.mark.slow
def test_nan_ends_the_loop_and_the_next_input_starts_anew():
    cell = recurrent()
    xs, _ = problem(cell, steps=2)
    lost = step(cell, cell.init(), xs[0].at[0].set(jnp.nan))
    assert not lost.converged and lost.sweeps <= 2
    anew = step(cell, cell.init(), xs[1])
    assert anew.converged
    assert_close(step(cell, lost, xs[1]).rates, anew.rates, 1e-12)
    exploding = with_weights(make(3, 1, 1, jnp.exp), 3 * np.ones((3, 3)))
    state = step(exploding, exploding.init(), jnp.ones(1))
    assert not state.converged and state.sweeps < 20


@pytest.mark.slow
def test_a_warm_start_saves_sweeps_and_changes_nothing():
    cell = recurrent()
    xs, _ = problem(cell)
    near = jnp.concatenate([xs, xs, xs + 1e-6])

    @jit
    def run(cell, near):
        def body(state, x):
            state = cell.step(state, x)
            return state, state

        return jax.lax.scan(body, cell.init(), near)[1]

    states = run(cell, near)
    cold, same, warm = np.diff(states.sweeps, prepend=0)
    assert same == 1 and 1 < warm < 0.7 * cold
    assert_close(states.rates[2], step(cell, cell.init(), near[2]).rates, 1e-12)

    def of_start(rates):
        state = cell.init()._replace(rates=rates)
        return jnp.sum(cell.step(state, xs[0]).rates ** 2)

    assert not np.asarray(jit(jax.grad(of_start))(jnp.ones(9))).any()


# --- solvers ---


@pytest.mark.slow
def test_damping_settles_what_sweeps_do_not():
    cell, xs = oscillating(damping=0.4), jnp.array([[0.3]])
    rule = mpj.EICredit(damping=0.4, **TIGHT)
    (_, state), gradient, _ = gradients(cell, xs, jnp.ones((1, 2)), rule)
    rate = float(state.rates[1])
    assert state.converged and rate == pytest.approx(math.tanh(0.3 - 3 * rate), rel=1e-12)
    slope = 1 - rate**2
    assert_close(gradient.bias[1], (rate - 1) * slope / (1 + 3 * slope), 1e-12)
    exact = gradients(cell, xs, jnp.ones((1, 2)), BPTT)[1]
    assert_close(gradient, exact, 1e-12)
    assert np.isnan(gradients(cell, xs, jnp.ones((1, 2)), mpj.EICredit())[1].weight).any()


@pytest.mark.slow
def test_an_accelerated_solver():
    solver = optimistix.Newton(rtol=1e-12, atol=1e-12)
    quick = {"solver": solver, "rtol": 1e-12, "atol": 1e-12}
    cell, fast = recurrent(), recurrent(**quick)
    xs, ys = problem(cell, (3,))
    (loss, state), *found = gradients(fast, xs, ys, BPTT)
    (want, slow), *exact = gradients(cell, xs, ys, BPTT)
    assert_close((loss, state.rates), (want, slow.rates), 1e-11)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(exact), 1e-10)
    assert state.converged.all() and (state.sweeps < 12).all() and (slow.sweeps > 40).all()
    # also where sweeps oscillate; and too few steps are reported
    for options, reached in ((quick, True), ({**quick, "max_steps": 2}, False)):
        cell = oscillating(**options)
        assert step(cell, cell.init(), jnp.array([0.3])).converged == reached


@pytest.mark.slow
def test_tolerance_of_credit_does_not_depend_on_the_scale_of_the_loss():
    cell = recurrent()
    state = step(cell, cell.init(), problem(cell)[0][0])
    rule, direct = mpj.EICredit(), jnp.where(cell.outputs.numpy(), 1.0, 0)
    large, small = (relax(rule, cell, state, scale * direct) for scale in (1.0, 2.0**-40))
    assert small.sweeps == large.sweeps > 10
    assert_close(2.0**40 * small.credit, large.credit, 0.0)
    assert relax(rule, cell, state, 0 * direct).sweeps == 1


# --- one rule among others ---


class Net(eqx.Module):
    rnn: mpj.RNN
    readout: mpj.Readout


def net(rule: Any) -> Net:
    return Net(mpj.RNN(recurrent(), rule=rule), mpj.Readout(9, 2, key=jr.key(4)))


def segment_loss(model, carry, xs, ys):
    carry, zs = model.rnn(xs, carry)
    return jnp.sum((model.readout(zs) - ys) ** 2), carry


@pytest.mark.parametrize(
    "rule",
    [pytest.param(CLAMP, id="ei"), pytest.param(mpj.RTRL(), id="rtrl", marks=pytest.mark.slow)],
)
def test_streamed_is_offline(rule):
    model = net(rule)
    xs, ys = problem(model.rnn.cell, (2,), steps=5)
    ys = ys[..., :2]

    def loss(model):
        return segment_loss(model, model.rnn.cell.init((2,)), xs, ys)[0]

    offline = jit(mpj.value_and_grad(loss))(model)
    for segment in (1, 2):
        stream = mpj.online_value_and_grad(segment_loss, segment=segment)
        (total, carry), gradient = jit(stream)(model, model.rnn.init((2,)), xs, ys)
        assert_close((total, gradient), offline, 1e-12)
        assert carry.state.converged.all()
    if rule is CLAMP:
        assert not jax.tree.leaves(carry.trace)
    else:
        exact = jit(mpj.value_and_grad(loss, BPTT))(model)[1]
        assert_close(offline[1].rnn.cell, exact.rnn.cell, 1e-11)


@pytest.mark.slow
def test_vmap_and_batch():
    """Each example on its own: it stops its own sweeps, and gradients add up."""
    cell = recurrent()
    xs, ys = problem(cell, (3,), steps=2)
    (loss, state), gradient, of_xs = gradients(cell, xs, ys, CLAMP)
    single = jit(jax.vmap(lambda x, y: _gradients(cell, x, y, CLAMP), in_axes=1))
    (losses, states), each, each_xs = single(xs, ys)
    assert_close(losses.sum(), loss, 1e-12)
    assert_close(states.rates, state.rates, 1e-12)
    assert (states.sweeps == state.sweeps).all()
    assert len(set(state.sweeps.tolist())) > 1
    assert_close(jax.tree.map(lambda g: g.sum(0), each), gradient, 1e-11)
    assert_close(jnp.moveaxis(each_xs, 0, 1), of_xs, 1e-11)


@pytest.mark.slow
def test_emission_that_is_filtered():
    """Offline the filter's credit is exact; a stream would lose it, and is refused."""
    cell = mpj.Filtered(recurrent(), 0.6)
    xs = problem(cell.cell, steps=3)[0]

    def loss(cell, rule):
        return jnp.sum(mpj.scan(cell, cell.init(), xs, rule=rule)[1] ** 2)

    exact, found = (jit(eqx.filter_grad(loss))(cell, rule) for rule in (BPTT, SOURCE))
    assert_close(found, exact, 1e-11)
    with pytest.raises(ValueError, match="EICredit carries nothing.*Filtered.*learn offline"):
        SOURCE.init(cell, cell.init())


@pytest.mark.slow
def test_second_derivatives():
    cell = recurrent()
    xs, ys = problem(cell)
    direction = jr.normal(jr.key(6), (9, 9))

    def slope(weight, rule):
        def loss(weight):
            return quadratic(with_weights(cell, weight), xs, ys, rule)[0]

        return jnp.vdot(jax.grad(loss)(weight), direction)

    curved = jit(jax.grad(slope))
    plain, size = jit(jax.grad(lambda w: quadratic(with_weights(cell, w), xs, ys, BPTT)[0])), 1e-5
    around = [plain(cell.weight + s * size * direction) for s in (1, -1)]
    expected = (around[0] - around[1]) / (2 * size)
    assert distance(curved(cell.weight, BPTT), expected) < 1e-7
    assert distance(curved(cell.weight, mpj.EICredit(sweeps=200)), expected) < 1e-7


@pytest.mark.slow
def test_single_precision():
    options: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
    cell = recurrent(dtype=jnp.float32, **options)
    xs, ys = (a.astype(jnp.float32) for a in problem(cell, (4,)))
    value, *found = gradients(cell, xs, ys, mpj.EICredit())
    assert {leaf.dtype.name for leaf in jax.tree.leaves((value[0], found))} == {"float32"}
    assert value[1].converged.all()
    wide = [a.astype(jnp.float64) for a in (xs, ys)]
    same = with_weights(recurrent(), *(p.astype(float) for p in (cell.weight, cell.bias)))
    exact = gradients(same, *wide, BPTT)[1]
    assert distance(found[0], exact) < 1e-4


@pytest.mark.slow
def test_programs_export_for_every_platform():
    model = net(mpj.EICredit())
    xs, ys = problem(model.rnn.cell, (2,))
    arrays, static = eqx.partition(model, eqx.is_array)
    for rule in (BPTT, mpj.EICredit()):

        @jax.jit
        def gradient(arrays, rule=rule):
            def loss(model):
                return jnp.sum((model.readout(model.rnn(xs)) - ys[..., :2]) ** 2)

            taken = mpj.value_and_grad(loss, rule)(eqx.combine(arrays, static))
            return jax.tree.leaves(taken)

        exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(arrays)
        assert_close(exported.call(arrays), gradient(arrays), 1e-12)


# --- telemetry ---


@pytest.mark.slow
def test_balance_telemetry():
    cell, xs, ys, of = golden("dale_layered", jax.nn.sigmoid)
    cell = with_weights(cell, cell.weight.at[-1].set(0.0))
    state = jit(lambda x: cell.step(cell.init((2,)), x))(jnp.stack([xs[0], 0 * xs[0]]))
    seen = balance(cell, state)
    excitatory, inhibitory = cell.currents(state)
    rates, sign = np.asarray(state.rates), of["sign"]
    weight = np.where(of["mask"], np.asarray(cell.weight), 0)
    want = [(rates @ np.where(sign == s, s * weight, 0).T) for s in (1, -1)]
    assert_close((excitatory, inhibitory), tuple(want), 1e-12)
    total = want[0] + want[1]
    mismatch = np.divide(abs(want[0] - want[1]), total, np.zeros_like(total), where=total > 0)
    assert_close(seen.mismatch, mismatch, 1e-12)
    assert not np.asarray(seen.mismatch)[:, -1].any() and (mismatch <= 1).all()
    # a layered network has no loops
    assert not np.asarray(seen.radius).any()
    slope = rates[:, 6:] * (1 - rates[:, 6:])
    assert_close(seen.set_point, slope.mean(1) / 0.25, 1e-12)


@pytest.mark.slow
def test_three_timescales():
    """Running together, the error is the transient: 1/duration, or exponentially little later."""
    cell, xs, ys, _ = golden("rec_tanh", jnp.tanh)
    mask = np.ones((12, 12), bool)
    mask[5, 6] = False
    cell = with_fields(cell, connectivity=FrozenArray(mask))

    def loss(rates):
        return 0.5 * jnp.sum(jnp.where(cell.outputs.numpy(), rates - ys[0], 0) ** 2)

    @jit
    def run(duration, plastic_from, rule):
        return mpj.three_timescales(
            cell, xs[0], loss, rule=rule, duration=duration, plastic_from=plastic_from, dt=0.2
        )

    exact = gradients(cell, xs, ys, BPTT)[1]
    short, long = (run(duration, 0.0, SOURCE).gradient for duration in (100.0, 400.0))
    assert distance(short, exact) > 0.1
    assert distance(short, exact) / distance(long, exact) == pytest.approx(4, rel=0.02)
    late = run(800.0, 0.5, SOURCE)
    assert_close(late.gradient, exact, 1e-8)
    assert late.rates.shape == late.credit.shape == (4000, 12) and late.time[-1] == 800
    (_, state), *_ = gradients(cell, xs, ys, SOURCE)
    assert_close(late.rates[-1], state.rates, 1e-10)
    # credit is slow: still on its way when firing has settled
    firing, credit = (np.abs(a[75] - a[-1]).max() for a in (late.rates, late.credit))
    assert firing < 0.1 * credit
    clamped = run(800.0, 0.5, CLAMP)
    assert_close(clamped.gradient, gradients(cell, xs, ys, CLAMP)[1], 1e-8)
    # the last step is plastic however late plasticity starts
    last = mpj.three_timescales(cell, xs[0], loss, duration=1.0, dt=1.0, plastic_from=0.96)
    assert np.isfinite(last.gradient.weight).all()
    with pytest.raises(ValueError, match=r"plastic_from must be in \[0, 1\), but is 1\.0"):
        mpj.three_timescales(cell, xs[0], loss, plastic_from=1.0)


# --- errors ---


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inputs": np.ones(3)}, r"inputs must be boolean of shape \(9,\).*float64"),
        ({"outputs": np.ones(3, bool)}, r"outputs must be boolean of shape \(9,\).*\(3,\)"),
        ({"outputs": np.arange(9) < 4}, "both clamped input and output.*share 2 units"),
        ({"damping": 0.0}, r"damping must be in \(0, 1\], but is 0\.0"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, but is 0"),
        ({"damping": 0.5, "solver": optimistix.Newton(1e-6, 1e-6)}, "solver=Newton"),
        ({"signs": (1, -1)}, r"signs must hold .* 9 neurons, but has 2"),
        ({"mask": np.ones((2, 2), bool)}, r"mask must be boolean of shape \(9, 9\)"),
    ],
)
def test_cells_that_can_not_be(options, message):
    with pytest.raises(ValueError, match=message):
        make(9, 2, 2, **options)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "options, message",
    [
        ({"output": "hold"}, "output must be .source. or .clamp., but is 'hold'"),
        ({"sweeps": -1}, "sweeps must be a whole number of at least 0, but is -1"),
        ({"rtol": -1.0}, r"rtol must be 0 or more, and finite, but is -1\.0"),
    ],
)
def test_rules_that_can_not_be(options, message):
    with pytest.raises(ValueError, match=message):
        mpj.EICredit(**options)


def test_other_cells_and_inputs():
    cell = recurrent()
    with pytest.raises(ValueError, match="EICredit needs an EquilibriumCell.*LeakyCell"):
        mpj.RNN(mpj.LeakyCell(2, 3, tau=2.0, key=jr.key(0)), rule=SOURCE).init()
    with pytest.raises(ValueError, match="EProp needs.*EquilibriumCell"):
        mpj.EProp().init(cell, cell.init())
    with pytest.raises(ValueError, match="xs has 3 features.*2 input units"):
        mpj.scan(cell, cell.init(), jnp.ones((1, 3)))

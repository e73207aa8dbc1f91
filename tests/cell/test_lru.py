"""LRUCell, and DiagonalRTRL: exact wherever units send nothing to each other."""

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
from flagged import DONE, MASK, ORDER
from helpers import (
    assert_close,
    BATCH,
    cell,
    data,
    distance,
    error,
    flat,
    gradient,
    jit,
    M,
    N,
    Net,
    offline_loss,
    OUT,
    segment_loss,
    streamed_gradient,
    T,
)

import modprop_jax as mpj


pytestmark = pytest.mark.slow


NAMES = ("nu", "theta", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
FIGURES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "lru.npz")
RULES = {
    "bptt": mpj.BPTT(),
    "rtrl": mpj.RTRL(),
    "eprop": mpj.EProp(),
    "diagonal": mpj.DiagonalRTRL(),
}


class MinimalGRU(mpj.SeparableCell):
    """Gates of the input and of the unit's own state; the emission scales each unit."""

    weight_gate: jax.Array
    weight_new: jax.Array
    peephole: jax.Array
    scale: jax.Array

    def __init__(self, key):
        gate, new = jr.split(key)
        self.weight_gate = jr.normal(gate, (N, M))
        self.weight_new = jr.normal(new, (N, M))
        self.peephole = jnp.linspace(-1.0, 2.0, N)
        self.scale = jnp.linspace(0.5, 1.5, N)

    @property
    def in_size(self):
        return M

    @property
    def hidden_size(self):
        return N

    @property
    def drive_parameters(self):
        return "weight_gate", "weight_new"

    @property
    def unit_parameters(self):
        return "weight_gate", "weight_new", "peephole"

    def init(self, batch_shape=()):
        return jnp.zeros((*batch_shape, N))

    def message(self, state):
        return None

    def drive(self, message, x):
        return x @ self.weight_gate.T, x @ self.weight_new.T

    def integrate(self, state, drive):
        gate, new = drive
        gate = jax.nn.sigmoid(gate + jnp.broadcast_to(self.peephole, state.shape) * state)
        return gate * state + (1 - gate) * jnp.tanh(new)

    def emit(self, state):
        return jnp.broadcast_to(self.scale, state.shape) * state


def lru(m=M, n=N, **options):
    return mpj.LRUCell(m, n, key=jr.key(2), **options)


CELLS = {"lru": lru, "square": lambda: lru(M, M), "minimal": lambda: MinimalGRU(jr.key(1))}


@functools.cache
def net(rule, name="lru") -> Any:
    made = CELLS[name]()
    features = made.emit(made.init()).shape[-1]
    return Net(mpj.RNN(made, rule=RULES[rule]), mpj.Readout(features, OUT, key=jr.key(3)))


@functools.cache
def exact(name):
    """JAX's own derivative."""

    def loss(model, xs, ys):
        c = model.rnn.cell

        def step(state, x):
            state = c.step(state, x)
            return state, c.emit(state)

        return error(model.readout(jax.lax.scan(step, c.init(BATCH), xs)[1]), ys)

    return jit(eqx.filter_value_and_grad(loss))(net("bptt", name), *data())


def parameters(gradients):
    return gradients.rnn.cell, gradients.readout


# --- published figures ---


def golden_model(rule):
    c = eqx.tree_at(
        lambda c: [getattr(c, name) for name in NAMES],
        lru(),
        [jnp.asarray(FIGURES[name]) for name in NAMES],
    )
    return mpj.RNN(c, rule=RULES[rule])


def golden_loss(model, carry, xs, ys):
    carry, zs = model(xs, carry)
    return 0.5 * jnp.sum((zs - ys) ** 2) / 2, carry


OFFLINE = [("bptt", None), ("eprop", None), ("diagonal", None)]
STREAMED = [("rtrl", 4), ("eprop", 4), ("diagonal", 1), ("diagonal", 4), ("diagonal", 15)]


@pytest.mark.parametrize("rule, segment", OFFLINE + STREAMED)
def test_golden(rule, segment):
    model = golden_model(rule)
    xs, ys = (jnp.asarray(FIGURES[name]).swapaxes(0, 1) for name in ("x", "target"))
    if segment is None:
        run, carry = eqx.filter_value_and_grad(golden_loss, has_aux=True), model.cell.init((2,))
    else:
        run, carry = mpj.online_value_and_grad(golden_loss, segment=segment), model.init((2,))
    (loss, _), gradients = jit(run)(model, carry, xs, ys)
    np.testing.assert_allclose(loss, FIGURES["loss"], rtol=1e-12)
    for name in NAMES:
        expected = FIGURES[f"d{name}"]
        off = np.abs(getattr(gradients.cell, name) - expected).max()
        assert off <= 1e-10 * np.abs(expected).max(), name


# --- exact for one layer, however it is cut ---


@pytest.mark.parametrize("rule", ["eprop", "diagonal"])
@pytest.mark.parametrize("name", CELLS)
def test_exact_offline(name, rule):
    value, gradients = gradient(net(rule, name), *data())
    expected = exact(name)
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    assert_close(parameters(gradients), parameters(expected[1]), 1e-11)


@pytest.mark.parametrize(
    "rule, segment", [("diagonal", 1), ("diagonal", 4), ("diagonal", T), ("eprop", 4), ("rtrl", 4)]
)
@pytest.mark.parametrize("name", ["square", "minimal"])
@pytest.mark.slow
def test_exact_streamed(name, rule, segment):
    """`square` has as many inputs as units: the input in the state is none of them."""
    (value, _), gradients = streamed_gradient(segment)(net(rule, name), *data())
    np.testing.assert_allclose(value, exact(name)[0], rtol=1e-12)
    assert_close(parameters(gradients), parameters(exact(name)[1]), 1e-11)


def test_finite_differences():
    model, (xs, ys) = net("diagonal"), data(steps=6)
    loss = jit(offline_loss)
    found = gradient(model, xs, ys)[1].rnn.cell
    rng = np.random.default_rng(0)
    for name in NAMES:
        value = getattr(model.rnn.cell, name)
        direction = rng.normal(size=value.shape)

        def at(h):
            moved = eqx.tree_at(lambda m: getattr(m.rnn.cell, name), model, value + h * direction)
            return float(loss(moved, xs, ys))

        h = 1e-3
        # fourth order
        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        np.testing.assert_allclose(np.sum(getattr(found, name) * direction), slope, rtol=1e-7)


def test_forward_mode_through_the_rules_step():
    model, (xs, ys) = net("diagonal"), data()
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), model.rnn.cell)

    def loss(c):
        def body(state, x):
            state = model.rnn.rule.step(c, state, x)
            return state, c.emit(state)

        return error(model.readout(jax.lax.scan(body, c.init(BATCH), xs)[1]), ys)

    _, slope = jit(lambda c, d: jax.jvp(loss, (c,), (d,)))(model.rnn.cell, direction)
    np.testing.assert_allclose(slope, flat(exact("lru")[1].rnn.cell) @ flat(direction), rtol=1e-10)


# --- what goes down is of the step alone ---


def test_inputs_get_instantaneous_credit():
    """∂y_t/∂x_t = Re(C e^γ B) + D, with the error of step t and no other; e-prop's is exact."""
    model, (xs, ys) = net("diagonal"), data()
    c, readout = model.rnn.cell, model.readout

    def inputs_credit(rule):
        def loss(xs):
            return error(readout(mpj.RNN(c, rule=rule)(xs)), ys)

        return jit(jax.grad(loss))(xs)

    zs = mpj.RNN(c)(xs)
    ell = jax.grad(lambda zs: error(readout(zs), ys))(zs)
    B, C = (np.array(a) + 1j * np.array(b) for a, b in ((c.B_re, c.B_im), (c.C_re, c.C_im)))
    through = ((C * np.exp(np.array(c.gamma_log))) @ B).real + np.diag(c.D)
    expected = np.asarray(ell) @ through
    assert_close(inputs_credit(RULES["diagonal"]), jnp.asarray(expected), 1e-12)
    exact = inputs_credit(RULES["bptt"])
    assert_close(inputs_credit(RULES["eprop"]), exact, 1e-12)
    assert distance(expected[:-1], exact[:-1]) > 0.1
    # the last step has no future
    assert_close(jnp.asarray(expected[-1]), exact[-1], 1e-12)


def test_a_loss_on_the_outgoing_state():
    """Its credit reaches all parameters but those of the emission, and the last input."""
    model, (xs, _) = net("diagonal"), data()

    def loss(c, xs, rule):
        (h_re, h_im, x), _ = mpj.scan(c, c.init(BATCH), xs, rule=rule)
        return jnp.sum(h_re**2) + jnp.sum(0.5 * h_im**3) + jnp.sum(x**2)

    @jit
    def both(c, xs, rule):
        return jax.grad(lambda pack: loss(pack[0], pack[1], rule))((c, xs))

    found, inputs = both(model.rnn.cell, xs, RULES["diagonal"])
    expected, exact_inputs = both(model.rnn.cell, xs, RULES["bptt"])
    assert_close(found, expected, 1e-12)
    assert np.abs(found.nu).max() > 1e-3 and not found.C_re.any()
    assert_close(inputs[-1], exact_inputs[-1], 1e-12)
    assert not inputs[:-1].any() and exact_inputs[:-1].any()


# --- flags, dtypes, optimizers ---


@pytest.mark.parametrize("segment", [3, T])
@pytest.mark.slow
def test_done_and_mask_as_sequences_apart(segment):
    model, (xs, ys) = net("diagonal"), data()

    def of(model, carry, xs, ys):
        xs, done, mask = xs
        carry, zs = model.rnn(xs, carry, done=done, valid=mask)
        outputs = model.readout(zs)
        each = 0.5 * (outputs - ys) ** 2 + 0.1 * outputs**3
        return jnp.sum(jnp.where(mask[..., None], each, 0)), carry

    padded = jnp.where(MASK[..., None], xs, jnp.nan)
    stream = jit(mpj.online_value_and_grad(of, segment=segment))
    (value, carry), found = stream(model, model.rnn.init(BATCH), (padded, DONE, MASK), ys)

    pieces = [(ORDER[b] == i, b) for b, i in ((0, 1), (0, 2), (1, 3), (1, 4))]
    xs, ys = (jnp.stack([a[where, b] for where, b in pieces], 1) for a in (xs, ys))
    everywhere = xs, jnp.zeros((4, 4), bool), jnp.ones((4, 4), bool)
    apart = jit(eqx.filter_value_and_grad(of, has_aux=True))
    (expected_value, _), expected = apart(model, model.rnn.cell.init((4,)), everywhere, ys)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    assert_close(parameters(found), parameters(expected))
    # both examples end before the last step: nothing of the past is left
    fresh = model.rnn.init(BATCH)
    for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_array_equal(have, want)


@pytest.mark.slow
def test_float32_stays_float32_and_real():
    model = net("diagonal")
    small, (xs, ys) = jax.tree.map(lambda a: a.astype(jnp.float32), (model, data()))
    (value, carry), found = streamed_gradient(4)(small, xs, ys)
    leaves = jax.tree.leaves(eqx.filter((value, carry, found), eqx.is_array))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), parameters(found))
    assert distance(wide, parameters(exact("lru")[1])) < 1e-5
    made = jax.tree.leaves((lru(dtype=jnp.float32), lru(dtype=jnp.float32).init(BATCH)))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}


def test_adamw_learns_and_leaves_everything_real():
    model, (xs, ys) = net("diagonal"), data()
    optimizer = optax.adamw(1e-2, weight_decay=1e-3)
    stream = mpj.online_value_and_grad(segment_loss, segment=4)

    @jit
    def step(model, state):
        (loss, _), gradients = stream(model, model.rnn.init(BATCH), xs, ys)
        updates, state = optimizer.update(gradients, state, model)
        return eqx.apply_updates(model, updates), state, loss

    trained, state = model, optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction
        for _ in range(20):
            trained, state, loss = step(trained, state)
            losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    assert jax.tree.structure(trained) == jax.tree.structure(model)
    for name in NAMES:
        before, after = getattr(model.rnn.cell, name), getattr(trained.rnn.cell, name)
        assert after.dtype == before.dtype == jnp.float64
        # adam moves every parameter by about the learning rate
        assert (np.abs(after - before) > 1e-4).all(), name


# --- initial values, and errors ---


def test_initial_values():
    r_min, r_max, phase = 0.6, 0.95, 0.7
    c = jit(lambda: lru(4, 4000, r_min=r_min, r_max=r_max, max_phase=phase))()
    squared = np.exp(-2 * np.exp(np.array(c.nu)))
    assert squared.min() >= r_min**2 and squared.max() <= r_max**2
    # uniform on the ring: so is the squared radius
    fractions = (squared - r_min**2) / (r_max**2 - r_min**2)
    np.testing.assert_allclose(
        np.quantile(fractions, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04
    )
    angles = np.exp(np.array(c.theta)) / phase
    assert angles.min() > 0 and angles.max() <= 1
    np.testing.assert_allclose(angles.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(np.exp(2 * np.array(c.gamma_log)), 1 - squared, rtol=1e-9)
    variance = np.mean(np.array(c.B_re) ** 2 + np.array(c.B_im) ** 2)
    np.testing.assert_allclose(variance, 1 / 4, rtol=0.05)
    # to the unit circle and to zero, in single precision
    edges = jit(lambda: lru(1, 4000, dtype=jnp.float32))()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(edges))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "options, message",
    [
        ({"r_min": 0.9, "r_max": 0.5}, r"r_min must be at most r_max=0\.5, but is 0\.9"),
        ({"r_max": 1.1}, r"r_max must be in \[0, 1\], but is 1\.1"),
        ({"max_phase": 0.0}, r"max_phase must be positive and finite, but is 0\.0"),
        ({"dtype": jnp.complex64}, "dtype must be a real float .* but is .*complex64"),
    ],
)
def test_errors_of_the_cell(options, message):
    with pytest.raises(ValueError, match=message):
        lru(**options)


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match="this LRUCell was made for in_size=3"):
        mpj.RNN(lru())(jnp.ones((2, 4)))


@pytest.mark.parametrize("name", ["leaky", "filtered_leaky"])
def test_diagonal_rtrl_needs_units_that_send_nothing(name):
    c, xs = cell(name), data()[0]
    rule = RULES["diagonal"]
    message = "send nothing to each other .* those of LeakyCell send messages: use EProp"
    with pytest.raises(ValueError, match=message):
        mpj.scan(c, c.init(BATCH), xs, rule=rule)
    with pytest.raises(ValueError, match=message):
        rule.init(c, c.init(BATCH))
    with pytest.raises(ValueError, match=message):
        mpj.with_rule(mpj.RNN(c), rule)
    with pytest.raises(ValueError, match="the cell is a FunctionCell"):
        rule.check(cell("function"))


@pytest.mark.parametrize("rule", [mpj.MDGL(), mpj.ModProp(0.5)])
def test_rules_of_neurons_do_not_serve_it(rule):
    with pytest.raises(ValueError, match="needs a NeuronCell.* but the cell is a LRUCell"):
        rule.check(lru())


def test_a_filtered_emission_learns_offline():
    c, xs = mpj.Filtered(lru(), 0.7), data()[0]

    def loss(c, rule):
        return jnp.sum(mpj.RNN(c, rule=rule)(xs) ** 3)

    found = jit(eqx.filter_grad(loss))
    assert_close(found(c, RULES["diagonal"]), found(c, RULES["bptt"]), 1e-12)
    with pytest.raises(ValueError, match="does not stream a Filtered LRUCell"):
        RULES["diagonal"].init(c, c.init(BATCH))

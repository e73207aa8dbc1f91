"""RTUCell, linear and not: exact under DiagonalRTRL, and beside the public program's figures."""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import (
    assert_close,
    BATCH,
    data,
    distance,
    error,
    gradient,
    jit,
    M,
    N,
    Net,
    OUT,
    plain_scan,
    streamed_gradient,
)

import modprop_jax as mpj


NAMES = ("nu", "theta", "W1", "W2")
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "more_rules.npz")
FORMS = {
    "linear_tanh": {"nonlinear": False, "activation": jnp.tanh},
    "nonlinear_relu": {"nonlinear": True, "activation": jax.nn.relu},
}
FORM = pytest.mark.parametrize("form", FORMS)
RULES = {
    "bptt": mpj.BPTT(),
    "rtrl": mpj.RTRL(),
    "eprop": mpj.EProp(),
    "snap": mpj.SnAp(1),
    "diagonal": mpj.DiagonalRTRL(),
}


def rtu(m=M, n=N, form="linear_tanh", **options):
    return mpj.RTUCell(m, n, key=jr.key(2), **FORMS[form], **options)


# --- published figures ---


def golden(form, name):
    return jnp.asarray(GOLDEN[f"rtu/{form}/{name}"])


@functools.cache
def golden_cell(form):
    made = rtu(3, 5, form)
    return eqx.tree_at(
        lambda c: [getattr(c, name) for name in NAMES], made, [golden(form, n) for n in NAMES]
    )


def golden_loss(model, carry, xs, credit):
    carry, zs = model(xs, carry)
    return jnp.sum(credit * zs), carry


@functools.cache
def golden_stream(rule, segment):
    return jit(mpj.online_value_and_grad(golden_loss, segment=segment))


@pytest.mark.parametrize("rule, segment", [("diagonal", 1), ("diagonal", 7), ("snap", 7)])
@FORM
def test_golden(form, rule, segment):
    model, xs, credit = mpj.RNN(golden_cell(form), rule=RULES[rule]), *inputs(form)
    _, found = golden_stream(rule, segment)(model, model.init((2,)), xs, credit)
    for name in NAMES:
        expected = golden(form, f"eps0_{name}")
        assert_close(getattr(found.cell, name), expected, 1e-10, name)
    np.testing.assert_allclose(model(xs), golden(form, "h"), rtol=1e-6)


def inputs(form):
    return golden(form, "xs"), golden(form, "c")


@FORM
def test_the_public_programs_gradient_lacks_a_factor(form):
    """At each step, all but that by `theta` are its own, to the 1e-8 that it adds to γ; that one
    is after times e^θ."""
    model, (xs, credit) = mpj.RNN(golden_cell(form), rule=RULES["diagonal"]), inputs(form)
    stream, carry, steps = golden_stream("diagonal", 1), model.init((2,)), []
    for x, c in zip(xs, credit, strict=True):
        (_, carry), found = stream(model, carry, x[None], c[None])
        steps.append(found.cell)
    each = {name: jnp.stack([getattr(step, name) for step in steps]) for name in NAMES}
    factor = jnp.exp(golden_cell(form).theta)
    assert_close(each["theta"], golden(form, "g_theta") * factor[None], 1e-6)
    assert distance(golden(form, "g_theta"), each["theta"]) > 0.1
    for name in ("nu", "W1", "W2"):
        assert_close(each[name], golden(form, f"g_{name}"), 1e-6, name)


@FORM
def test_inputs_get_the_credit_of_their_own_step(form):
    model, (xs, credit) = mpj.RNN(golden_cell(form), rule=RULES["diagonal"]), inputs(form)
    found = jit(jax.grad(lambda xs: jnp.sum(credit * model(xs))))(xs)
    assert_close(found, golden(form, "g_x"), 1e-6)


# --- formulas ---


@FORM
def test_formula(form):
    c, (xs, _) = rtu(form=form), data()
    nu, theta, W1, W2 = (np.asarray(getattr(c, name)) for name in NAMES)
    r = np.exp(-np.exp(nu))
    g, phi, gamma = r * np.cos(np.exp(theta)), r * np.sin(np.exp(theta)), np.sqrt(1 - r**2)
    f = FORMS[form]["activation"]
    a = b = np.zeros((*BATCH, N))
    expected = []
    for x in np.asarray(xs):
        a, b = g * a - phi * b + gamma * (x @ W1.T), g * b + phi * a + gamma * (x @ W2.T)
        if form.startswith("nonlinear"):
            a, b = (np.asarray(f(jnp.asarray(v))) for v in (a, b))
            expected.append(np.concatenate([a, b], -1))
        else:
            expected.append(np.asarray(f(jnp.concatenate([a, b], -1))))
    np.testing.assert_allclose(mpj.RNN(c)(xs), np.stack(expected), rtol=1e-10)


@pytest.mark.parametrize("rule, segment", [("diagonal", 4), ("eprop", 4), ("snap", 4), ("rtrl", 4)])
@FORM
def test_exact_as_jax_has_it(form, rule, segment):
    """For one layer, however it is cut."""
    c = rtu(form=form)
    readout = mpj.Readout(2 * N, OUT, key=jr.key(3))
    net = Net(mpj.RNN(c, rule=RULES[rule]), readout)

    def loss(model, xs, ys):
        return error(model.readout(plain_scan(model.rnn.cell, c.init(BATCH), xs)[1]), ys)

    value, expected = jit(eqx.filter_value_and_grad(loss))(net, *data())
    expected = expected.rnn.cell, expected.readout
    found_value, found = gradient(net, *data())
    np.testing.assert_allclose(found_value, value, rtol=1e-12)
    if rule != "rtrl":
        assert_close((found.rnn.cell, found.readout), expected, 1e-11)
    (_, _), found = streamed_gradient(segment)(net, *data())
    assert_close((found.rnn.cell, found.readout), expected, 1e-11)


def test_near_the_unit_circle_the_gain_keeps_its_digits():
    """γ = √(1 - r²) in float32, where r is one rounding from 1."""
    nu = np.log(np.array([1e-7, 1e-6, 1e-3]))
    c = rtu(1, 3, dtype=jnp.float32)
    one = jnp.ones((3, 1), jnp.float32)
    c = eqx.tree_at(lambda c: (c.nu, c.W1), c, (jnp.asarray(nu, jnp.float32), one))
    a, _ = c.step(c.init(), jnp.ones(1, jnp.float32))
    np.testing.assert_allclose(a, np.sqrt(-np.expm1(-2 * np.exp(nu))), rtol=1e-5)


# --- initial values, and errors ---


def test_initial_values():
    r_min, r_max, phase = 0.6, 0.95, 0.7
    c = jit(lambda: rtu(4, 4000, r_min=r_min, r_max=r_max, max_phase=phase))()
    squared = np.exp(-2 * np.exp(np.array(c.nu)))
    assert squared.min() >= r_min**2 and squared.max() <= r_max**2
    fractions = (squared - r_min**2) / (r_max**2 - r_min**2)
    np.testing.assert_allclose(np.quantile(fractions, [0.25, 0.75]), [0.25, 0.75], atol=0.04)
    angles = np.exp(np.array(c.theta)) / phase
    assert angles.min() > 0 and angles.max() <= 1
    for weight in (c.W1, c.W2):
        np.testing.assert_allclose(np.var(np.array(weight)), 1 / 4, rtol=0.05)
    assert distance(c.W1, c.W2) > 1
    edges = jit(lambda: rtu(1, 4000, dtype=jnp.float32))()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(edges))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "options, message",
    [
        ({"r_min": 0.9, "r_max": 0.5}, r"r_min must be at most r_max=0\.5, but is 0\.9"),
        ({"dtype": jnp.complex64}, "dtype must be a real float .* but is .*complex64"),
    ],
)
def test_errors_of_the_cell(options, message):
    with pytest.raises(ValueError, match=message):
        rtu(**options)


def test_a_filtered_emission_learns_offline():
    c, xs = mpj.Filtered(rtu(), 0.7), data()[0]

    def loss(c, rule):
        return jnp.sum(mpj.RNN(c, rule=rule)(xs) ** 3)

    found = jit(eqx.filter_grad(loss))
    assert_close(found(c, RULES["diagonal"]), found(c, RULES["bptt"]), 1e-12)
    with pytest.raises(ValueError, match="a Filtered RTUCell, which emits 12 features of 6 units"):
        RULES["diagonal"].init(c, c.init(BATCH))


@pytest.mark.parametrize("rule", [mpj.MDGL(), mpj.ModProp(0.5)])
def test_rules_of_neurons_do_not_serve_it(rule):
    with pytest.raises(ValueError, match="needs a NeuronCell.* but the cell is a RTUCell"):
        rule.check(rtu())

"""Spiking neurons: equal to the figures described in golden/README.md."""

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
from helpers import assert_close, data, gradient, jit, M, N, Net, OUT, streamed_gradient, TYPES

import modprop_jax as mpj


pytestmark = pytest.mark.slow


FIGURES = np.load(pathlib.Path(__file__).parents[1] / "golden" / "eprop_mdgl_snap.npz")
TOL = 1e-10

SPIKING = ["lif/resetgrad0", "lif/resetgrad1", "alif/resetgrad0", "alif/resetgrad1"]
SPIKING += ["alif/resetgrad0/ref2"]
CASES = [key.removesuffix("/dW_in") for key in FIGURES if key.endswith("/dW_in")]
EPROP = [case for case in CASES if case.startswith(("eprop/", "bptt/"))]
MDGL = [case for case in CASES if case.startswith("mdgl/")]


def tau(decay):
    return -1 / np.log(float(decay))


def weighted(cell, prefix, readout):
    """The cell and readout with the figures' weights, under a leaky emission."""
    figures = {
        name: jnp.asarray(FIGURES[f"{prefix}/{name}"]) for name in ("W_rec", "W_in", "W_out")
    }
    cell = eqx.tree_at(
        lambda c: (c.weight_rec, c.weight_in), cell, (figures["W_rec"], figures["W_in"])
    )
    return cell, eqx.tree_at(lambda r: r.weight, readout, figures["W_out"])


@functools.cache
def spiking_cell(name):
    """`lif` or `alif`, with or without credit through the reset, and refractory steps."""
    alpha, rho, _, threshold, dampening = FIGURES["spk/scalars(alpha,rho,kappa,vth,gamma)"]
    options = {
        "tau": tau(alpha),
        "threshold": float(threshold),
        "dampening": float(dampening),
        "reset_gradient": "resetgrad1" in name,
        "refractory": 2 if name.endswith("ref2") else 0,
        # the figures hold the gradient of the diagonal, whose weights are 0
        "autapses": True,
        "key": jr.key(0),
    }
    if name.startswith("lif"):
        return mpj.LIFCell(3, 6, **options)
    beta = FIGURES["spk/beta_alif"]
    return mpj.ALIFCell(3, 6, tau_adaptation=tau(rho), beta=beta, **options)


def time_first(array):
    return jnp.moveaxis(jnp.asarray(array), 0, 1)


def error(outputs, prefix, kind):
    """Summed over time, mean over the batch."""
    if kind == "mse":
        target = time_first(FIGURES[f"{prefix}/target_mse"])
        return 0.5 * jnp.sum((outputs - target) ** 2) / 2
    labels = time_first(FIGURES[f"{prefix}/labels_ce"])
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return jnp.sum(losses) / 2


def gradients(model, rule, prefix, kind, segment=None):
    xs = time_first(FIGURES[f"{prefix}/x"])
    if segment is None:
        loss = lambda m: error(m(xs), prefix, kind)  # noqa: E731
        return jit(mpj.value_and_grad(loss, rule))(model)
    model = mpj.with_rule(model, rule)

    def segment_loss(model, carry, xs, ys):
        carry, outputs = model(xs, carry)
        return 0.5 * jnp.sum((outputs - ys) ** 2) / 2, carry

    online = mpj.online_value_and_grad(segment_loss, segment=segment)
    carry = model.rnn.init(xs.shape[1:-1])
    ys = time_first(FIGURES[f"{prefix}/target_mse"])
    (loss, _), found = jit(online)(model, carry, xs, ys)
    return loss, found


def spiking_net(name, feedback):
    kappa = FIGURES["spk/scalars(alpha,rho,kappa,vth,gamma)"][2]
    kind = "random" if feedback == "rand" else "symmetric"
    readout = mpj.Readout(6, 2, feedback=kind, use_bias=False, key=jr.key(0))
    cell, readout = weighted(spiking_cell(name), "spk", readout)
    if kind == "random":
        fixed = jnp.asarray(FIGURES["spk/B_random"]).T
        readout = eqx.tree_at(lambda r: r.feedback_weight, readout, fixed)
    return Net(mpj.RNN(mpj.Filtered(cell, float(kappa))), readout)


def parts(case):
    """(rule, cell, loss, feedback) of a case such as eprop/lif/resetgrad0/mse/rand."""
    rule, *name, kind = case.split("/")
    feedback = "sym"
    if kind in ("sym", "rand"):
        *name, kind, feedback = *name, kind
    return rule, "/".join(name), kind, feedback


def assert_figures(found, case):
    cell = found.rnn.cell.cell
    assert_close(np.asarray(cell.weight_in), FIGURES[f"{case}/dW_in"], TOL)
    assert_close(np.asarray(cell.weight_rec), FIGURES[f"{case}/dW_rec"], TOL)


@pytest.mark.parametrize("name", SPIKING)
def test_membrane_adaptation_and_spikes(name):
    cell, _ = weighted(spiking_cell(name), "spk", mpj.Readout(6, 2, key=jr.key(0)))

    def step(state, x):
        state = cell.step(state, x)
        return state, (state, cell.emit(state))

    xs = time_first(FIGURES["spk/x"])
    _, (states, spikes) = jax.lax.scan(step, cell.init((2,)), xs)
    expected = {v: np.moveaxis(FIGURES[f"traj/{name}/{v}"], 0, 1) for v in "vaz"}
    np.testing.assert_array_equal(spikes, expected["z"])
    assert 10 < spikes.sum() < 150
    assert_close(np.asarray(states[0]), expected["v"], TOL)
    if name.startswith("alif"):
        assert_close(np.asarray(states[1]), expected["a"], TOL)
    _, zs = mpj.scan(cell, cell.init((2,)), xs, rule=mpj.EProp())
    np.testing.assert_array_equal(zs, spikes)


@pytest.mark.parametrize("case", EPROP)
def test_eprop_and_bptt(case):
    rule, name, kind, feedback = parts(case)
    model = spiking_net(name, feedback)
    loss, found = gradients(model, {"eprop": mpj.EProp(), "bptt": mpj.BPTT()}[rule], "spk", kind)
    assert_figures(found, case)
    if rule == "eprop":
        np.testing.assert_allclose(loss, FIGURES[f"{case}/loss"], rtol=TOL)
        assert_close(np.asarray(found.readout.weight), FIGURES[f"{case}/dW_out"], TOL)
    if feedback == "rand":
        np.testing.assert_array_equal(found.readout.feedback_weight, np.zeros((2, 6)))


@pytest.mark.parametrize("segment", [1, 7, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [c for c in EPROP if c.startswith("eprop") and "mse/sym" in c])
def test_streamed_eprop(case, segment):
    _, name, kind, feedback = parts(case)
    _, found = gradients(spiking_net(name, feedback), mpj.EProp(), "spk", kind, segment)
    assert_figures(found, case)


@functools.cache
def mdgl_net():
    scalars = FIGURES["mdgl/scalars(alpha,rho,kappa,vth,gamma,s_in,s_a,s_out)"]
    alpha, rho, kappa, threshold, dampening, s_in, s_a, s_out = map(float, scalars)
    np.testing.assert_allclose((s_in, s_a, s_out), (1 - alpha, 1 - rho, 1 - kappa))
    cell = mpj.ALIFCell(
        3,
        6,
        tau=tau(alpha),
        tau_adaptation=tau(rho),
        beta=FIGURES["mdgl/beta"],
        threshold=threshold,
        dampening=dampening,
        scale_input=True,
        scale_adaptation=True,
        reset_gradient=True,
        autapses=True,
        key=jr.key(0),
    )
    cell, readout = weighted(cell, "mdgl", mpj.Readout(6, 2, use_bias=False, key=jr.key(0)))
    return Net(mpj.RNN(mpj.Filtered(cell, kappa, scale=True)), readout)


MDGL_RULES = {
    "eprop": mpj.EProp(),
    "cell": mpj.MDGL(),
    "type": mpj.MDGL(FIGURES["mdgl/types"]),
    "nl": mpj.MDGL(FIGURES["mdgl/types"], diffuse=True),
    "online": mpj.MDGL(FIGURES["mdgl/types"], online=True),
}


@pytest.mark.parametrize("segment", [None, 1, 7, pytest.param(15, marks=pytest.mark.slow)])
# in segments BPTT is truncated
@pytest.mark.parametrize("case", [case for case in MDGL if not case.endswith("bptt")])
def test_mdgl(case, segment):
    _, kind, name = case.split("/")
    loss, found = gradients(mdgl_net(), MDGL_RULES[name], "mdgl", kind, segment)
    np.testing.assert_allclose(loss, FIGURES[f"mdgl/{kind}/loss"], rtol=TOL)
    assert_figures(found, case)


def test_bptt_of_the_mdgl_network():
    assert_figures(gradients(mdgl_net(), mpj.BPTT(), "mdgl", "mse")[1], "mdgl/mse/bptt")


def test_the_figures_are_those_of_different_rules():
    names = ("eprop", "cell", "type", "nl", "online", "bptt")
    all_of = [FIGURES[f"mdgl/mse/{name}/dW_rec"] for name in names]
    scale = np.linalg.norm(all_of[-1])
    for i, one in enumerate(all_of):
        for other in all_of[:i]:
            assert np.linalg.norm(one - other) > 1e-2 * scale


def test_the_pseudo_derivative_is_the_surrogates():
    """At each u, also while refractory: z is exact forward, and ψ(u) γ / v_th backward."""
    cell = mpj.LIFCell(
        1, 5, tau=5.0, threshold=0.5, dampening=0.4, surrogate=jnp.exp, key=jr.key(0)
    )
    v, blocked = jnp.array([0.2, 0.5, 0.6, 0.9, 0.9]), jnp.array([0, 0, 0, 0, 2], jnp.int32)
    spikes, slopes = jax.jvp(lambda v: cell.emit((v, blocked)), (v,), (jnp.ones(5),))
    np.testing.assert_array_equal(spikes, [0, 0, 1, 1, 0])
    expected = 0.4 / 0.5 * np.exp((np.array(v) - 0.5) / 0.5) * (np.array(blocked) == 0)
    np.testing.assert_allclose(slopes, expected, rtol=1e-14)


def test_refractory_steps():
    """With n_ref = 3 a neuron that is driven all the time spikes at every third step."""
    cell = mpj.LIFCell(1, 2, tau=5.0, refractory=3, key=jr.key(0))
    cell = eqx.tree_at(lambda c: c.weight_in, cell, jnp.array([[9.0], [0.0]]))
    _, zs = mpj.scan(cell, cell.init(), jnp.ones((9, 1)))
    np.testing.assert_array_equal(zs[:, 0], [1, 0, 0, 1, 0, 0, 1, 0, 0])
    assert not zs[:, 1].any()


@pytest.mark.slow
def test_modprop_serves_spiking_neurons():
    """It differs from e-prop, streams as offline, and its nominal leak and gain are α and s_in."""
    model: Any = mdgl_net()
    cell = model.rnn.cell.cell
    np.testing.assert_allclose(cell.leak + cell.gain, 1.0)
    rule = mpj.ModProp(0.5, FIGURES["mdgl/types"])
    loss, offline = gradients(model, rule, "mdgl", "mse")
    np.testing.assert_allclose(loss, FIGURES["mdgl/mse/loss"], rtol=TOL)
    for segment in (1, 7):
        _, streamed = gradients(model, rule, "mdgl", "mse", segment)
        assert_close(streamed.rnn.cell, offline.rnn.cell, 1e-9)
    eprop = FIGURES["mdgl/mse/eprop/dW_rec"]
    apart = np.linalg.norm(offline.rnn.cell.cell.weight_rec - eprop)
    assert apart > 1e-2 * np.linalg.norm(eprop)


@pytest.mark.slow
def test_trainable_constants_get_gradients_that_stream():
    """τ, τ_a and β as arrays: what only the emission reads, and what the dynamics read."""
    model = spiking_net("alif/resetgrad0", "sym")
    arrays = (jnp.full(6, 7.0), jnp.asarray(20.0), jnp.linspace(0.1, 0.6, 6))
    where = lambda m: (m.rnn.cell.cell.tau, m.rnn.cell.cell.tau_adaptation, m.rnn.cell.cell.beta)  # noqa: E731
    model = eqx.tree_at(where, model, arrays)
    _, offline = gradients(model, mpj.EProp(), "spk", "mse")
    assert all(np.abs(leaf).max() > 1e-6 for leaf in where(offline))
    _, streamed = gradients(model, mpj.EProp(), "spk", "mse", 4)
    assert_close(streamed.rnn.cell, offline.rnn.cell, 1e-9)


SMOOTH = {
    "triangular": lambda u: u - u * jnp.abs(u) / 2 if abs(u) < 1 else 0 * u,
    "fast_sigmoid": lambda u: u / (1 + jnp.abs(u)),
    "gaussian": lambda u: jnp.sqrt(jnp.pi / 2) * jax.scipy.special.erf(u / jnp.sqrt(2.0)),
    "exponential": lambda u: jnp.sign(u) * (1 - jnp.exp(-jnp.abs(u))),
    "arctan": lambda u: jnp.arctan(jnp.pi * u) / jnp.pi,
    "boxcar": lambda u: jnp.clip(u, -0.5, 0.5),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_a_surrogate_is_the_derivative_of_a_smooth_step(name):
    surrogate = getattr(mpj.surrogate, name)
    us = [-1.7, -0.9, -0.3, 0.2, 0.6, 2.5]
    expected = [float(jax.grad(SMOOTH[name])(u)) for u in us]
    np.testing.assert_allclose(surrogate(jnp.array(us)), expected, rtol=1e-14)
    assert surrogate(jnp.zeros(())) == 1


def test_a_bad_input_does_not_fall_silent():
    """NaN is not above threshold: a network must not take it for rest."""
    cell, xs = spiking_cell("lif/resetgrad0"), time_first(FIGURES["spk/x"])
    _, zs = mpj.scan(cell, cell.init((2,)), xs.at[3, 1, 0].set(np.nan))
    assert np.isfinite(zs[:3]).all() and np.isfinite(zs[:, 0]).all()
    assert np.isnan(zs[3:, 1]).all()


@pytest.mark.parametrize("surrogate", ["triangular", "boxcar"])
def test_check_reports_a_bad_input(surrogate):
    cell = mpj.LIFCell(3, 6, tau=5.0, surrogate=getattr(mpj.surrogate, surrogate), key=jr.key(0))
    model = Net(mpj.RNN(mpj.Filtered(cell, 0.7)), mpj.Readout(6, 2, key=jr.key(0)))
    xs = time_first(FIGURES["spk/x"])
    take = jit(mpj.value_and_grad(lambda m, xs: jnp.sum(m(xs) ** 2), mpj.EProp(), check=True))
    take(model, xs)
    for value in (np.nan, np.inf):
        with pytest.raises(RuntimeError, match="NaN or infinite"):
            jax.block_until_ready(take(model, xs.at[3, 1, 0].set(value)))


@pytest.mark.parametrize("rule", [mpj.MDGL((0, 1, 0)), mpj.ModProp(0.5, (0, 1, 0))])
def test_types_of_another_length(rule):
    cell = spiking_net("alif/resetgrad0", "sym").rnn.cell
    with pytest.raises(ValueError, match="types for 3 neurons, but the cell has 6"):
        mpj.scan(cell, cell.init((2,)), time_first(FIGURES["spk/x"]), rule=rule)


@pytest.mark.usefixtures("without_type_checks")
def test_options_of_a_wrong_type():
    with pytest.raises(ValueError, match="surrogate must be an elementwise .*is 'triangular'"):
        mpj.LIFCell(3, 6, tau=5.0, surrogate="triangular", key=jr.key(0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": 0.0}, r"threshold must be positive and finite, but is 0\.0"),
        ({"refractory": -1}, "refractory must be a whole number of at least 0, but is -1"),
        ({"tau": -1.0}, "tau must be positive"),
        ({"tau": np.ones(3)}, "tau must be one value or one for each of the 6 neurons"),
        ({"beta": np.ones((6, 1))}, r"beta must be one value .* has shape \(6, 1\)"),
        ({"tau_adaptation": 0.0}, "tau_adaptation must be positive"),
        ({"beta": -0.1, "divide_by_adaptive": True}, r"beta must be 0 or more, .* is -0\.1"),
        ({"mask": np.ones((6, 5), bool)}, r"mask must be boolean of shape \(6, 6\)"),
    ],
)
def test_errors(options, message):
    made = {"tau": 5.0, "tau_adaptation": 50.0, "beta": 0.2} | options
    with pytest.raises(ValueError, match=message):
        mpj.ALIFCell(3, 6, key=jr.key(0), **made)


@pytest.mark.parametrize(
    "options, trace",
    [
        ({"tau": 5.0}, "Presynaptic"),
        ({"tau": 5.0, "refractory": 3, "scale_input": True}, "Presynaptic"),
        ({"tau": 5.0, "reset_gradient": True}, "PerSynapse"),
        ({"tau": np.linspace(4.0, 6.0, N)}, "PerSynapse"),
    ],
)
def test_one_leak_without_credit_through_the_reset_keeps_presynaptic_activity(options, trace):
    c = mpj.LIFCell(M, N, threshold=0.3, use_bias=True, key=jr.key(2), **options)
    rules = mpj.EProp(), mpj.MDGL(), mpj.ModProp(0.3, TYPES)
    assert {type(rule.on(c).trace).__name__ for rule in rules} == {trace}
    xs, ys = data()
    for rule in rules:
        model = Net(mpj.RNN(c, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))
        _, expected = gradient(model, xs, ys)
        assert np.abs(expected.rnn.cell.weight_rec).max() > 0
        for segment in (1, 4):
            assert_close(streamed_gradient(segment)(model, xs, ys)[1], expected, 1e-10)

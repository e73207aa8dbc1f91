"""ModProp beyond its table rows: taps, measured μ, stability, and the filters themselves."""

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
    cell,
    data,
    distance,
    error,
    gradient,
    inner,
    jit,
    M,
    N,
    Net,
    OUT,
    streamed_gradient,
    T,
    TYPES,
    weights,
)
from oracles import block_means, run_leaky

import modprop_jax as mpj


def under(rule, c):
    return Net(mpj.RNN(c, rule=rule), mpj.Readout(N, OUT, key=jr.key(7)))


def leaky():
    """The table's leaky cell as NumPy arrays, and its run: (W, eta, run, dE/dv at every step)."""
    c, (xs, ys) = cell("leaky"), map(np.array, data())
    W = np.array(c.weight_rec) * (1 - np.eye(N))
    eta = float(np.exp(-1 / 4))
    run = run_leaky(W, np.array(c.weight_in), np.array(c.bias), eta, xs)
    readout = under(mpj.BPTT(), c).readout
    outputs = run.z @ np.array(readout.weight).T + np.array(readout.bias)
    err = (outputs - ys + 0.3 * outputs**2) / BATCH[0]
    return W, eta, run, run.h * (err @ np.array(readout.weight))


def from_credit(lam, run, eta):
    return {
        "weight_rec": (1 - np.eye(N)) * (1 - eta) * np.einsum("tbj,tbi->ji", lam, run.before),
        "weight_in": (1 - eta) * np.einsum("tbj,tbi->ji", lam, run.xs),
        "bias": (1 - eta) * lam.sum((0, 1)),
    }


def assert_cell_gradients(gradients, expected):
    c = gradients.rnn.cell
    actual = {"weight_rec": c.weight_rec, "weight_in": c.weight_in, "bias": c.bias}
    assert_close(jax.tree.map(np.asarray, actual), expected, 1e-12)


def means(W, types):
    return W if types is None else block_means(W, types, "all") * (1 - np.eye(N))


# --- taps ---


@pytest.mark.parametrize("types", [None, TYPES], ids=["cell", "types"])
@pytest.mark.parametrize("taps", [0, 1, 3, T + 2])
def test_taps_are_counted_from_each_loss_step(taps, types):
    """Each pair of a step and a later loss on its own: Ĵ^min(s, S) η^max(0, s - S)."""
    W, eta, run, direct = leaky()
    J = eta * np.eye(N) + (1 - eta) * 0.5 * means(W, types)
    lam = np.zeros_like(direct)
    for t in range(T):
        for u in range(t, T):
            s = u - t
            power = np.linalg.matrix_power(J, min(s, taps))
            lam[t] += eta ** max(0, s - taps) * direct[u] @ power
    model = under(mpj.ModProp(0.5, types, taps=taps), cell("leaky"))
    assert_cell_gradients(gradient(model, *data())[1], from_credit(lam, run, eta))


def test_taps_between_none_and_all():
    def of(rule):
        return weights(gradient(under(rule, cell("leaky")), *data())[1])

    assert_close(of(mpj.ModProp(0.5, taps=0)), of(mpj.EProp()))
    assert_close(of(mpj.ModProp(0.5, taps=T - 1)), of(mpj.ModProp(0.5)))
    few, more = of(mpj.ModProp(0.5, taps=2)), of(mpj.ModProp(0.5, taps=4))
    assert distance(few, more) > 1e-2
    assert distance(more, of(mpj.ModProp(0.5))) > 1e-4


@pytest.mark.parametrize("segment", [1, 2, 7])
def test_taps_stream_with_any_window(segment):
    """Segments shorter and longer than the window of S = 3 presynaptic vectors."""
    for types in (None, TYPES):
        model = under(mpj.ModProp(0.5, types, taps=3), cell("leaky"))
        _, expected = gradient(model, *data())
        assert_close(streamed_gradient(segment)(model, *data())[1], expected)


# --- mu measured ---


@pytest.mark.parametrize("types", [None, TYPES], ids=["cell", "types"])
def test_measured_mu_is_the_running_mean_by_type(types):
    W, eta, run, direct = leaky()
    groups = np.arange(N) if types is None else np.array(types)
    mu = np.zeros((T, *BATCH, N))
    for t in range(T):
        for b in range(BATCH[0]):
            for i in range(N):
                mu[t, b, i] = run.h[: t + 1, b, groups == groups[i]].mean()
    lam, later = np.zeros_like(direct), np.zeros_like(direct[0])
    for t in reversed(range(T)):
        crossed = (later @ means(W, types)) * mu[t]
        lam[t] = later = direct[t] + eta * later + (1 - eta) * crossed
    model = under(mpj.ModProp("auto", types), cell("leaky"))
    assert_cell_gradients(gradient(model, *data())[1], from_credit(lam, run, eta))
    seen = mpj.running_mu(cell("leaky"), data()[0], types)
    np.testing.assert_allclose(seen[..., groups], mu, rtol=1e-12)


# the other cells' segments are in test_segments.py
@pytest.mark.parametrize("cell_name", ["leaky"])
@pytest.mark.slow
def test_measured_mu_in_parts(cell_name):
    """Segments, the order of a batch and its division leave the gradient as it is."""
    model = under(mpj.ModProp("auto", TYPES), cell(cell_name))
    xs, ys = data()
    _, expected = gradient(model, xs, ys)
    for segment in (1, 7, T):
        (_, carry), found = streamed_gradient(segment)(model, xs, ys)
        assert_close(found, expected, what=f"segment={segment} ")
        steps, mu = carry.observed
        np.testing.assert_array_equal(steps, T)
        np.testing.assert_allclose(mu, mpj.running_mu(cell(cell_name), xs, TYPES)[-1], rtol=1e-12)
    assert_close(gradient(model, xs[:, ::-1], ys[:, ::-1])[1], expected)
    halves = [gradient(model, xs[:, b : b + 1], ys[:, b : b + 1])[1] for b in range(BATCH[0])]
    # the loss divides by BATCH[0], whatever came
    assert_close(jax.tree.map(jnp.add, *halves), expected)


def test_measured_mu_on_rate_neurons_is_the_slope_at_the_drive():
    c, xs = cell("rate"), np.array(data()[0])
    W, W_in, b = (np.array(a) for a in (c.weight_rec, c.weight_in, c.bias))
    a, slopes, alpha = np.zeros((*BATCH, N)), [], float(c.alpha)
    for x in xs:
        drive = a @ W.T + x @ W_in.T + b
        a = (1 - alpha) * a + alpha * np.tanh(drive)
        slopes.append(1 - np.tanh(drive) ** 2)
    expected = np.cumsum(slopes, axis=0) / np.arange(1, T + 1)[:, None, None]
    np.testing.assert_allclose(mpj.running_mu(c, data()[0]), expected, rtol=1e-12)


def linear(x):
    return x


def test_on_linear_neurons_measured_mu_is_exact():
    for c in (
        mpj.LeakyCell(M, N, tau=3.0, activation=linear, key=jr.key(1)),
        mpj.RateCell(M, N, alpha=0.5, activation=linear, key=jr.key(2)),
    ):
        expected = weights(gradient(under(mpj.BPTT(), c), *data())[1])
        assert_close(weights(gradient(under(mpj.ModProp("auto"), c), *data())[1]), expected)


def test_measured_mu_differs_from_its_own_last_value():
    mu = np.asarray(mpj.running_mu(cell("leaky"), data()[0], TYPES)[-1].mean(0))
    auto = weights(gradient(under(mpj.ModProp("auto", TYPES), cell("leaky")), *data())[1])
    fixed = weights(gradient(under(mpj.ModProp(mu, TYPES), cell("leaky")), *data())[1])
    assert 1e-3 < distance(auto, fixed) < 0.3


# --- stability, and the filters ---


def transport(rule, c, mu, types):
    """Ĵ as a matrix, by NumPy."""
    W = np.array(c.weight_rec) * (1.0 if c.autapses else 1 - np.eye(len(c.weight_rec)))
    leak, gain = float(c.leak), float(c.gain)
    n = len(W)
    W = W * np.broadcast_to(mu, (n,))[None]
    if types is not None:
        W = block_means(W, types, "all") * (1.0 if c.autapses else 1 - np.eye(n))
    return leak * np.eye(n) + gain * W


CASES = [
    (0.5, None, "leaky"),
    (0.5, TYPES, "leaky"),
    (0.9, TYPES, "leaky_tau"),
    (np.linspace(0.2, 0.8, N), TYPES, "leaky"),
    (0.5, tuple(range(N)), "leaky"),
]


@pytest.mark.parametrize("mu, types, cell_name", CASES)
def test_filter_taps_and_radius_are_those_of_the_transport(mu, types, cell_name):
    c, rule = cell(cell_name), mpj.ModProp(mu, types)
    J = transport(rule, c, mu, types)
    modulated, local = mpj.filter_taps(rule, c, 7)
    U = np.eye(N) if types is None else np.eye(max(types) + 1)[list(types)]
    assert modulated.shape == (7, U.shape[1], U.shape[1]) and local.shape == (7, U.shape[1])
    for s in range(7):
        power = np.diag(U @ local[s]) + U @ modulated[s] @ U.T
        np.testing.assert_allclose(power, np.linalg.matrix_power(J, s), atol=1e-14)
    expected = np.abs(np.linalg.eigvals(J)).max()
    np.testing.assert_allclose(mpj.spectral_radius(rule, c), expected, rtol=1e-10)


@pytest.mark.slow
def test_radius_at_the_published_size_is_not_that_of_the_type_sums_alone():
    signs = np.repeat([1, -1], [97, 23])
    types = tuple(int(s > 0) for s in signs)
    c = mpj.LeakyCell(2, 120, tau=100.0, signs=signs, key=jr.key(0))
    rule = mpj.ModProp(0.25, types)
    J = transport(rule, c, 0.25, types)
    found = mpj.spectral_radius(rule, c)
    np.testing.assert_allclose(found, np.abs(np.linalg.eigvals(J)).max(), rtol=1e-10)
    filters = rule.filter(c)
    shared = (
        np.diag(filters.leak - filters.self_kappa) + filters.kappa.as_matrix() * filters.count[None]
    )
    assert np.abs(np.linalg.eigvals(shared)).max() < found - 1e-4


@pytest.mark.parametrize("types", [None, TYPES], ids=["cell", "types"])
def test_an_unstable_rule_is_refused_and_a_safe_mu_named(types):
    c = eqx.tree_at(lambda c: c.weight_rec, cell("leaky"), 2 + jnp.abs(inner("leaky").weight_rec))
    rule = mpj.ModProp(0.5, types)
    radius = float(mpj.spectral_radius(rule, c))
    assert radius > 1
    model, (xs, ys) = under(rule, c), data()
    calls = [
        lambda: mpj.scan(c, c.init(BATCH), xs, rule=rule),
        lambda: rule.init(c, c.init(BATCH)),
        lambda: mpj.value_and_grad(lambda m: error(m(xs), ys), rule)(under(mpj.BPTT(), c)),
        lambda: mpj.value_and_grad(lambda m: error(m(xs), ys))(model),
        lambda: mpj.with_rule(model, rule),
    ]
    message = ""
    for call in calls:
        with pytest.raises(ValueError, match=f"radius {radius:.4f} > 1.*mu=0.* is safe") as raised:
            call()
        message = str(raised.value)
    safe = float(message.split("mu=")[1].split(" ")[0])
    assert 0.99 < mpj.spectral_radius(mpj.ModProp(safe, types), c) <= 1
    mpj.ModProp(safe, types).check(c)
    for fine in (mpj.ModProp("auto", types), mpj.ModProp(0.5, types, taps=4)):
        loss, gradients = gradient(under(fine, c), xs, ys)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradients)))
    # traced weights can't be judged
    jit(lambda m: rule.init(m.rnn.cell, c.init(BATCH)).state)(model)


def test_plot_of_the_taps_shows_each_pair_of_types():
    rule = mpj.ModProp(0.5, TYPES)
    modulated, local = mpj.filter_taps(rule, cell("leaky"), 12)
    figure = mpj.plot_filter_taps(rule, cell("leaky"), 12, names=["a", "b", "c"])
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert len(panels) == 9
    line = panels["a → b"].lines[-1]
    np.testing.assert_array_equal(line.get_ydata(), modulated[:, 0, 1])
    with pytest.raises(ValueError, match="at most 6 types with one name each"):
        mpj.plot_filter_taps(rule, cell("leaky"), names=["one"])


WORD: Any = "automatic"
WRONG = [
    (lambda: mpj.ModProp(WORD), "or \"auto\", but is 'automatic'"),
    (lambda: mpj.ModProp("auto", taps=3), "taps must be a number of steps"),
    (lambda: mpj.ModProp(0.5, taps=-1), "taps must be a whole number of at least 0, but is -1"),
    (lambda: mpj.ModProp(0.5, taps=3).check(inner("rate")), "needs a LeakyCell with one tau"),
    (lambda: mpj.ModProp(0.5, taps=3).check(inner("leaky_taus")), "needs a LeakyCell with one tau"),
    (
        lambda: mpj.ModProp(0.5, taps=3).init(inner("leaky_tau"), inner("leaky_tau").init()),
        "make tau a float",
    ),
    (
        lambda: mpj.ModProp("auto").step(inner("leaky"), inner("leaky").init(), jnp.zeros(M)),
        "mu that is not measured",
    ),
    (lambda: mpj.spectral_radius(mpj.ModProp("auto"), inner("leaky")), "given mu and no taps"),
    (lambda: mpj.spectral_radius(mpj.EProp(), inner("leaky")), "given mu and no taps"),
    (lambda: mpj.filter_taps(mpj.ModProp("auto"), inner("leaky"), 3), "running_mu"),
]


@pytest.mark.parametrize("call, message", WRONG)
def test_errors_name_the_fix(call, message, without_type_checks):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


def test_a_carry_of_a_given_mu_does_not_fit_a_measured_one():
    c = cell("leaky")
    carry = mpj.ModProp(0.5, TYPES).init(c, c.init(BATCH))
    with pytest.raises(ValueError, match="does not fit rule=ModProp"):
        mpj.scan(c, carry, data()[0], rule=mpj.ModProp("auto", TYPES))


def test_a_large_trace_of_all_pairs_does_not_come_without_a_word():
    cell = mpj.RateCell(3, 51, key=jr.key(0))
    with pytest.warns(UserWarning, match="143,055 numbers an example, as slowly as RTRL"):
        mpj.RNN(cell, rule=mpj.ModProp("auto")).init()
    mpj.RNN(cell, rule=mpj.ModProp("auto", [0] * 51)).init()

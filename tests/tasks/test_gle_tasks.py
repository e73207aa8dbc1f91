"""The lag line against NumPy, MNIST-1D against the package that makes it."""

import functools
import random
import socket
import sys

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from sklearn.linear_model import RidgeClassifier

import modprop_jax as mpj
from modprop_jax.tasks import (
    lag_line,
    lag_line_cell,
    mnist1d,
    mnist1d_split,
    summed_cross_entropy,
    TASKS,
)
from modprop_jax.tasks._mnist1d import _made


pytestmark = pytest.mark.slow


STEPS = 72  # as in the preset "small": the data are made once
SHORT = {"steps": 90, "dt": 0.1, "half_period": 1.5, "smoothing": 0.2}


@functools.cache
def _lag_line(batch, seed=0, **options):
    draw = helpers.jit(lambda key: lag_line(key, batch, **options))
    return jax.tree.map(np.asarray, draw(jr.key(seed)))


# --- lag line ---


def test_lag_line_is_a_smooth_square_wave():
    xs, ys = _lag_line(50, **SHORT)
    assert xs.shape == ys.shape == (90, 50, 1)
    assert xs.dtype == ys.dtype == np.float64
    # one period beside its neighbours, smoothed by a Gaussian of two steps out to four deviations
    offsets = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (offsets / 2) ** 2)
    square = np.tile(np.repeat([-1.0, 1.0], 15), 3)
    wave = np.convolve(square, kernel / kernel.sum(), "same")[30:60]
    begins = set()
    for line in xs[..., 0].T:
        (begin,) = (
            b for b in range(30) if np.allclose(line, wave[(np.arange(90) + b) % 30], atol=1e-12)
        )
        begins.add(begin)
    assert begins <= set(range(15)) and len(begins) > 10


def test_lag_line_teacher_against_numpy():
    weights, tau_m = (0.7, -1.3), (0.5, 0.9)
    xs, ys = _lag_line(3, weights=weights, tau_m=tau_m, tau_r=0.2, **SHORT)
    u, rates = np.zeros((2, 3, 1)), np.zeros((2, 3, 1))
    for x, y in zip(xs, ys):
        np.testing.assert_allclose(y, rates[1], rtol=0, atol=1e-12)
        # both neurons at once, from the rates of before
        drives = weights[0] * x, weights[1] * rates[0]
        for l in range(2):
            change = (drives[l] - u[l]) / tau_m[l]
            rates[l] = np.log1p(np.exp(u[l] + 0.2 * change))
            u[l] = u[l] + 0.1 * change
    assert np.ptp(ys[30:]) > 0.05


@pytest.mark.slow
def test_lag_line_as_published():
    """Time constants in units of time, not steps: half a period is 200 steps of 0.01."""
    xs, ys = _lag_line(4, steps=1000)
    np.testing.assert_allclose(xs[400:], xs[:-400])
    np.testing.assert_allclose(xs[200:], -xs[:-200], atol=1e-12)
    _, given = _lag_line(4, steps=1000, weights=(1.0, 2.0), tau_m=(1.0, 2.0), tau_r=0.1, dt=0.01)
    np.testing.assert_array_equal(ys, given)
    _, other = _lag_line(4, seed=1, steps=1000)
    assert np.abs(other - ys).max() > 0.01


def test_lag_line_cell():
    cell = lag_line_cell((0.3, 0.4, 0.5), (1.0, 2.0, 3.0), gamma=0.5, learn_tau=True)
    assert [layer.weight.item() for layer in cell.layers] == [0.3, 0.4, 0.5]
    assert [jnp.asarray(layer.tau_m).item() for layer in cell.layers] == [1.0, 2.0, 3.0]
    assert len(jax.tree.leaves(cell)) == 6  # no biases
    assert (cell.order, cell.gamma, float(cell.dt)) == ("sync", 0.5, 0.01)


def test_lag_line_in_single_precision():
    xs, ys = _lag_line(2, dtype=jnp.float32, **SHORT)
    _, double = _lag_line(2, **SHORT)
    assert xs.dtype == ys.dtype == np.float32
    np.testing.assert_allclose(ys, double, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, but is 0"),
        ({"half_period": 0.004}, r"half_period must be at least dt=0\.01, but is 0\.004"),
        ({"smoothing": 0.0}, r"smoothing must be positive and finite, but is 0\.0"),
    ],
)
def test_lag_line_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        lag_line(jr.key(0), 2, **options)


def _learnt(rule, xs, ys):
    """Two weights and two τ_m after each step of a stream, from 15 to 20 % off the teacher's."""

    def loss(model, carry, x, y):
        carry, z = model(x, carry)
        return 0.005 * jnp.sum((z - y) ** 2), carry

    stream = mpj.online_value_and_grad(loss, segment=1)
    learn = optax.adam(3e-4)
    cell = lag_line_cell((0.85, 1.7), (1.2, 1.6), gamma=1.0, learn_tau=True)
    model = mpj.RNN(cell, rule=rule)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def taus(params):
        return [layer.tau_m for layer in params.cell.layers]

    def body(before, at):
        params, carry, memory = before
        x, y = (a[None] for a in at)
        (_, carry), gradients = stream(eqx.combine(params, static), carry, x, y)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            updates, memory = learn.update(gradients, memory, params)
        params = eqx.apply_updates(params, updates)
        above = [jnp.maximum(tau, 0.1) for tau in taus(params)]
        params = eqx.tree_at(taus, params, above)
        numbers = [layer.weight.reshape(1) for layer in params.cell.layers] + above
        return (params, carry, memory), jnp.concatenate(numbers)

    start = params, model.init(xs.shape[1:-1]), learn.init(params)
    return jax.lax.scan(body, start, (xs, ys))[1]


@pytest.mark.slow
def test_lag_line_is_recovered_by_errors_that_look_ahead():
    """Published: GLE finds all four numbers, instantaneous errors move τ_m to its floor."""
    xs, ys = map(jnp.asarray, _lag_line(4, steps=40_000))
    learnt = helpers.jit(_learnt)
    teacher, start = np.array([1.0, 2.0, 1.0, 2.0]), np.array([0.85, 1.7, 1.2, 1.6])
    found = np.asarray(learnt(mpj.GLE(), xs, ys))[-1]
    assert (np.abs(found - teacher) < 0.1 * np.abs(start - teacher)).all()
    lost = np.asarray(learnt(mpj.GLE(prospective_errors=False), xs, ys))[-1]
    np.testing.assert_allclose(lost[2:], 0.1)


# --- MNIST-1D ---


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection")

    # of the class, which packages inherit from
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.slow
def test_mnist1d_is_the_packages(no_network, tmp_path, monkeypatch):
    """Made in place: no connection, no file, no trace in the global generators."""
    monkeypatch.chdir(tmp_path)
    _made.cache_clear()
    random.seed(7)
    np.random.seed(7)
    made = _made(STEPS)
    drawn = random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    assert drawn == (random.random(), np.random.random())
    assert not list(tmp_path.iterdir())

    for split, suffix, count in (("train", "", 4000), ("test", "_test", 1000)):
        lines, ys = mnist1d_split(split, steps=STEPS)
        assert lines.shape == (STEPS, count, 1) and ys.shape == (count,)
        assert lines.dtype == jnp.float64 and ys.dtype == jnp.int32
        np.testing.assert_array_equal(lines[..., 0].T, made["x" + suffix])
        np.testing.assert_array_equal(ys, made["y" + suffix])


@pytest.mark.slow
def test_mnist1d_lines_and_labels_belong_together():
    """Mean 0, deviation 1, five hundred of a class; a linear readout of them beats chance by far.

    Greydanus & Kobak report 32 % for logistic regression of forty points.
    """
    splits = [mnist1d_split(split, steps=STEPS) for split in ("train", "test")]
    lines, labels = (np.concatenate(parts, axis=-1) for parts in zip(*_flat(splits)))
    assert abs(lines.mean()) < 1e-12 and abs(lines.std() - 1) < 1e-12
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 500))
    linear = RidgeClassifier().fit(lines[:, :4000].T, labels[:4000])
    assert 0.25 < linear.score(lines[:, 4000:].T, labels[4000:]) < 0.4


def _flat(splits):
    return [(np.asarray(lines)[..., 0], np.asarray(labels)) for lines, labels in splits]


@pytest.mark.slow
def test_mnist1d_batches():
    draw = helpers.jit(lambda key: mnist1d(key, 6, steps=STEPS, dtype=jnp.float32))
    xs, ys = draw(jr.key(0))
    assert xs.shape == (STEPS, 6, 1) and xs.dtype == jnp.float32
    lines, labels = (np.asarray(a) for a in mnist1d_split("train", steps=STEPS))
    for x, y in zip(np.asarray(xs)[..., 0].T, np.asarray(ys)):
        (index,) = np.flatnonzero((lines[..., 0].T.astype(np.float32) == x).all(axis=1))
        assert labels[index] == y
    again, _ = draw(jr.key(0))
    other, _ = draw(jr.key(1))
    np.testing.assert_array_equal(again, xs)
    assert not np.array_equal(other, xs)


def test_mnist1d_refuses(monkeypatch):
    with pytest.raises(
        ValueError, match='split must be "train", "test", "fit" or "validation", but is .valid.'
    ):
        mnist1d_split("valid")
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, but is 0"):
        mnist1d(jr.key(0), 2, steps=0)
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[mnist1d\]"'):
        _made.__wrapped__(STEPS)


def test_summed_cross_entropy_against_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5, 3)), rng.integers(3, size=5)
    # no step of its own is right about this one, their sum is
    logits[:, 0] = [[3, 2, 0], [0, 2, 3], [3, 2, 0], [0, 2, 3]]
    labels[0] = 1
    loss, accuracy = helpers.jit(summed_cross_entropy)(
        jnp.asarray(logits), jnp.asarray(labels, jnp.int32)
    )
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(loss, -np.mean(np.log(p[:, np.arange(5), labels])), rtol=1e-12)
    right = logits.sum(0).argmax(-1) == labels
    assert right[0] and accuracy == right.mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lag_line", "mnist1d"])
def test_evaluation_is_held_out(name):
    """64 fresh streams; and all of the test set, whatever the key."""
    task = TASKS[name]
    evaluation = helpers.jit(lambda key: task.evaluation(key, **task.presets["small"].data))
    (xs, _), (again, _) = (evaluation(jr.key(seed)) for seed in (0, 1))
    assert xs.shape[1] == (64 if name == "lag_line" else 1000)
    assert np.array_equal(xs, again) == (name == "mnist1d")

"""Tasks: the published waveforms, fixed splits, records that experiments can run."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import r2_score

from modprop_jax.experiments import _schema as schema, build_network
from modprop_jax.experiments._compare._plots import learning_curves
from modprop_jax.experiments._config import Config
from modprop_jax.experiments._summary import headers
from modprop_jax.tasks import (
    cross_entropy,
    delayed_xor,
    digits,
    digits_split,
    pattern_generation,
    Preset,
    sequential_digits,
    sequential_digits_split,
    squared_error,
    TASKS,
)
from modprop_jax.tasks._digits import _images_of as _arrays
from modprop_jax.tasks._pattern_generation import _waveform
from modprop_jax.tasks._sources import MissingData


pytestmark = pytest.mark.slow


FIRST_TEST_DIGITS = [3, 7, 3, 9, 0, 8, 7, 0, 8, 0]


def test_delayed_xor_waveform_and_labels():
    xs, ys = jax.jit(lambda key: delayed_xor(key, 64, noise=0.0))(jr.key(0))
    xs, ys = np.asarray(xs), np.asarray(ys)
    assert xs.shape == (900, 64, 2) and ys.shape == (64,)
    # The published bump, written from its equation.
    s = np.linspace(-50, 50, 100)
    bump = 0.02 + 2 * np.exp(-(s**2) / (2 * 25**2))
    shown = xs.max(axis=0) > 1  # (trial, channel)
    for channel, window in ((0, slice(0, 100)), (1, slice(800, 900))):
        on, off = shown[:, channel], ~shown[:, channel]
        assert on.any() and off.any()
        expected = np.full((900, 1), 0.02)
        expected[window, 0] = bump
        np.testing.assert_allclose(xs[:, on, channel], np.repeat(expected, on.sum(), 1), rtol=1e-5)
        np.testing.assert_allclose(xs[:, off, channel], 0.02, rtol=1e-5)
    np.testing.assert_array_equal(ys, shown[:, 0] == shown[:, 1])


def test_delayed_xor_noise_sizes_and_key():
    @jax.jit
    def three(key, other):
        quiet, _ = delayed_xor(key, 40, noise=0.0)
        return quiet, delayed_xor(key, 40), delayed_xor(key, 40), delayed_xor(other, 40)

    quiet, (xs, ys), (again, labels), (others, _) = three(jr.key(3), jr.key(4))
    noise = np.asarray(xs - quiet)
    assert (noise != 0).mean() > 0.999
    assert abs(noise.std() - 0.01) < 2e-4 and abs(noise.mean()) < 2e-4
    np.testing.assert_array_equal(xs, again)
    np.testing.assert_array_equal(ys, labels)
    assert not np.array_equal(xs, others)
    small, _ = jax.eval_shape(
        lambda key: delayed_xor(key, 5, cue=7, delay=3, dtype=jnp.float32), jr.key(0)
    )
    assert small.shape == (17, 5, 2) and small.dtype == jnp.float32
    with pytest.raises(ValueError, match="cue must be a whole number of at least 1, but is 0"):
        delayed_xor(jr.key(0), cue=0)


def test_pattern_generation_against_numpy():
    """Spikes and waveform, written out with the same draws; the published sizes by default."""
    periods = (1000, 500, 333, 200)
    xs, ys = jax.jit(lambda key: pattern_generation(key, pattern=3))(jr.key(0))
    draws = jr.split(jr.key(3), 3)
    spikes = np.asarray(jr.uniform(draws[0], (1000, 100), jnp.float32)) < np.float32(0.05)
    spikes[0] = False
    np.testing.assert_array_equal(xs[:, 0], spikes)
    amplitudes = np.asarray(jr.uniform(draws[1], (4,), jnp.float32, 0.5, 2.0))
    phases = np.asarray(jr.uniform(draws[2], (4,), jnp.float32, 0.0, 2 * np.pi))
    target = np.zeros(1000)
    for a, phase, period in zip(amplitudes, phases, periods):
        target += a * np.sin(np.linspace(0, 2 * np.pi * (1000 // period), 1000) + phase)
    target -= target[0]
    target /= np.abs(target).max()
    np.testing.assert_allclose(ys[:, 0, 0], target, atol=2e-6)
    assert xs.shape == (1000, 1, 100) and ys.shape == (1000, 1, 1)
    assert np.ptp(amplitudes) > 0.1 and np.ptp(phases) > 0.5


def test_pattern_generation_waveform_gives_the_published_loss():
    """The published spiking network before training, in NumPy, with this waveform as target."""
    draw = np.random.RandomState(1)
    weight_in, weight_rec, weight_out, _ = (
        (draw.randn(100, n) / 10).astype(np.float32).astype(float).T for n in (100, 100, 1, 1)
    )
    np.fill_diagonal(weight_rec, 0)
    spikes = draw.rand(1000, 100) < 0.05
    spikes[0] = False
    amplitudes, phases = draw.uniform(0.5, 2, 4), draw.uniform(0, 2 * np.pi, 4)
    target = _waveform(jnp.asarray(amplitudes), jnp.asarray(phases), (1000, 500, 333, 200), 1000)
    v, z, y, leak, threshold = np.zeros(100), np.zeros(100), np.zeros(1), np.exp(-1 / 30), 0.03
    outputs = []
    for x in spikes:
        v = leak * v + (1 - leak) * (weight_rec @ z + weight_in @ x) - threshold * z
        z = (v > threshold).astype(float)
        y = leak * y + (1 - leak) * weight_out @ z
        outputs.append(y)
    loss, _ = squared_error(jnp.asarray(outputs)[:, None], target[:, None, None])
    # published by the NEST simulator's regression test; the authors' program has 101.964363
    np.testing.assert_allclose(loss, 101.964356999041, rtol=1e-9)


def test_pattern_generation_freezes_the_pattern_and_draws_the_noise():
    @jax.jit
    def draw(key):
        small = functools.partial(pattern_generation, steps=40, in_size=30, periods=(40, 10))
        quiet, ys = small(key, 2)
        narrow = small(key, 2, dtype=jnp.bfloat16)
        return quiet, ys, small(key, 2, noise=0.1)[0] - quiet, narrow, small(key, 2, pattern=1)

    first, second = draw(jr.key(0)), draw(jr.key(1))
    for a, b in zip(first[:2] + first[3:], second[:2] + second[3:]):
        chex.assert_trees_all_equal(a, b)  # whatever the key
    quiet, ys, noise, (xs, narrow), (other_xs, other_ys) = first
    assert abs(noise.std() - 0.1) < 0.01 and (noise[:, 0] != noise[:, 1]).all()
    assert (noise != second[2]).all()
    # trials share the pattern, precisions too, and another pattern differs
    np.testing.assert_array_equal(quiet[:, 0], quiet[:, 1])
    np.testing.assert_array_equal(quiet, xs.astype(quiet.dtype))
    assert xs.dtype == narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(ys, narrow.astype(ys.dtype), atol=4e-3)
    assert (other_xs != quiet).any() and np.abs(other_ys - ys).max() > 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 2}, "steps must be a whole number of at least 3, but is 2"),
        ({"steps": 50}, r"periods must hold one of at most steps=50, but is \(1000, 500,"),
        ({"periods": (0, 5)}, "entry of periods must be a whole number of at least 1, but is 0"),
    ],
)
def test_pattern_generation_errors(options, message):
    with pytest.raises(ValueError, match=message):
        pattern_generation(jr.key(0), **options)


def test_digits_split_is_fixed_disjoint_complete_and_stratified():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    before = {split: _arrays(split) for split in ("train", "test")}
    _arrays.cache_clear()
    for split, (x, y) in before.items():
        np.testing.assert_array_equal(_arrays(split)[0], x)
        np.testing.assert_array_equal(_arrays(split)[1], y)
    # Frozen: results of different years are comparable only if this never moves.
    assert before["test"][1][:10].tolist() == FIRST_TEST_DIGITS

    def rows(x, y):
        return sorted(map(tuple, np.column_stack([x, y]).astype(int).tolist()))

    (x0, y0), (x1, y1) = before["train"], before["test"]
    assert len(set(map(tuple, images))) == len(images)  # so that equal means the same
    assert not set(map(tuple, x0.tolist())) & set(map(tuple, x1.tolist()))
    assert rows(np.concatenate([x0, x1]), np.concatenate([y0, y1])) == rows(images, labels)
    share = np.bincount(y1) / np.bincount(labels)
    np.testing.assert_allclose(share, 0.2, atol=0.004)


def test_digits_sequences():
    rows, labels = sequential_digits_split("test")
    pixels, _ = sequential_digits_split("test", by="pixels")
    held, _ = sequential_digits_split("test", hold=3)
    images, expected = _arrays("test")
    n = len(expected)
    assert rows.shape == (8, n, 8) and pixels.shape == (64, n, 1)
    np.testing.assert_array_equal(labels, expected)
    picture = images[5].reshape(8, 8) / 16
    np.testing.assert_allclose(rows[:, 5], picture)
    np.testing.assert_allclose(pixels[:, 5, 0], picture.ravel())
    np.testing.assert_array_equal(held[::3], rows)
    np.testing.assert_array_equal(held[2::3], rows)
    assert float(rows.min()) == 0 and float(rows.max()) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_minibatch_comes_from_its_split(split):
    xs, ys = jax.jit(lambda key: sequential_digits(key, 50, split=split))(jr.key(1))
    whole, labels = sequential_digits_split(split)
    known = {
        (tuple(x.ravel().tolist()), y)
        for x, y in zip(np.moveaxis(np.asarray(whole), 1, 0), np.asarray(labels).tolist())
    }
    drawn = [
        (tuple(x.ravel().tolist()), y)
        for x, y in zip(np.moveaxis(np.asarray(xs), 1, 0), np.asarray(ys).tolist())
    ]
    assert set(drawn) <= known and len(set(drawn)) > 30


def test_digits_shown_whole():
    """The same images in the same order, and twice where afferents are paired."""
    whole, labels = digits_split("test")
    pixels, expected = sequential_digits_split("test", by="pixels")
    np.testing.assert_array_equal(whole[0], pixels[:, :, 0].T)
    np.testing.assert_array_equal(labels, expected)
    paired, _ = digits_split("test", paired=True)
    np.testing.assert_array_equal(paired, np.tile(whole, 2))
    xs, ys = jax.jit(lambda key: digits(key, 9, paired=True))(jr.key(3))
    rows, drawn = jax.jit(lambda key: sequential_digits(key, 9))(jr.key(3))
    np.testing.assert_array_equal(xs[0, :, 64:], np.moveaxis(rows, 1, 0).reshape(9, 64))
    np.testing.assert_array_equal(ys, drawn)


def test_digits_errors():
    with pytest.raises(ValueError, match='by must be "rows" or "pixels", but is .columns.'):
        sequential_digits_split("test", by="columns")
    with pytest.raises(
        ValueError, match='split must be "train", "test", "fit" or "validation", but is .all.'
    ):
        sequential_digits_split("all")


def test_squared_error_and_its_score():
    rng = np.random.default_rng(0)
    outputs, ys = rng.normal(size=(2, 7, 3, 2))
    loss, score = squared_error(jnp.asarray(outputs), jnp.asarray(ys))
    np.testing.assert_allclose(loss, ((outputs - ys) ** 2).sum() / 2 / 3, rtol=1e-6)
    expected = r2_score(ys.reshape(-1, 2), outputs.reshape(-1, 2), multioutput="variance_weighted")
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_cross_entropy_of_last_step_and_of_every_step():
    logits = jnp.log(jnp.asarray([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    loss, accuracy = cross_entropy(logits, jnp.asarray([0, 1]))
    np.testing.assert_allclose(loss, -(np.log(0.7) + np.log(0.1)) / 2, rtol=1e-6)
    assert float(accuracy) == 0.5
    steps, labels = jnp.stack([logits, logits]), jnp.asarray([[0, 2], [0, 1]])
    loss, accuracy = cross_entropy(steps, labels)
    expected = -(2 * np.log(0.7) + np.log(0.8) + np.log(0.1)) / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert float(accuracy) == 0.75


def test_tables_and_figures_name_the_tasks_score(monkeypatch):
    """A share in per cent, R² by its name; its axis shows values below 0, but not all of them."""
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k))
    )
    found = {}
    for task, worst in (("pattern_generation", -7.0), ("delayed_xor", 0.25)):
        config = Config.make(task, "small", ["bptt"], 2, criterion=0.9)
        lines = [
            {"rule": "bptt", "iteration": i, "loss": [2.0, 1.0], "accuracy": [score, 0.5]}
            for i, score in enumerate((worst, 0.9))
        ]
        learning_curves(config, lines)
        right = drawn[-1].axes[1]
        found[task] = (*headers(config)[1:4:2], right.get_ylabel(), *right.get_ylim())
    assert found == {
        "pattern_generation": ("R²", "iterations\nto R² 0.9", "validation R²", -1.02, 1.02),
        "delayed_xor": ("accuracy", "iterations\nto 90 %", "validation accuracy", -0.02, 1.02),
    }


@pytest.mark.parametrize(
    "name, preset",
    [
        pytest.param(name, preset, marks=[] if preset == "small" else pytest.mark.slow)
        for name, task in TASKS.items()
        for preset in task.presets
    ],
)
def test_every_task_record_fits_together(name, preset):
    task = TASKS[name]
    settings = task.presets[preset]
    assert task.name == name and task.description.endswith(".")

    def outline(key):
        network = build_network(task, settings, key)
        batches = (
            task.batch(key, settings.schedule.batch, **settings.data),
            task.evaluation(key, **settings.data),
        )
        return [task.loss(network(xs), ys) for xs, ys in batches]

    try:
        found = jax.eval_shape(outline, jr.key(0))
    except MissingData as missing:
        pytest.skip(str(missing))
    for loss, accuracy in found:
        assert loss.shape == accuracy.shape == ()
    # a run's config.json can hold it, and has all of it
    text = schema.as_text(settings)
    assert schema.as_text(schema.read(Preset, json.loads(text))) == text

"""Tasks: the published waveforms, fixed splits, records that experiments can run."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from modprop_jax.experiments import build_network
from modprop_jax.tasks import (
    cross_entropy,
    delayed_xor,
    sequential_digits,
    sequential_digits_split,
    TASKS,
)
from modprop_jax.tasks._digits import _arrays


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
    with pytest.raises(ValueError, match="cue=0"):
        delayed_xor(jr.key(0), cue=0)


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


def test_digits_errors():
    with pytest.raises(ValueError, match="by='columns'"):
        sequential_digits_split("test", by="columns")
    with pytest.raises(ValueError, match="'all'"):
        sequential_digits_split("all")


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


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("preset", ["small", "published"])
def test_every_task_record_fits_together(name, preset):
    task = TASKS[name]
    settings = task.presets[preset]
    assert task.name == name and task.description.endswith(".")

    def outline(key):
        network = build_network(task, settings, key)
        batches = (
            task.batch(key, settings.batch, **settings.data),
            task.evaluation(key, **settings.data),
        )
        return [task.loss(network(xs), ys) for xs, ys in batches]

    for loss, accuracy in jax.eval_shape(outline, jr.key(0)):
        assert loss.shape == accuracy.shape == ()
    replaced = dataclasses.replace(settings, iterations=1)
    assert type(settings)(**dataclasses.asdict(replaced)) == replaced

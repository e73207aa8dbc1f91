"""Delayed match, copy memory, flip-flop: targets recomputed from inputs, statistics, losses."""

import functools

import chex
import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from modprop_jax.tasks import copy_memory, cross_entropy, delayed_match, flip_flop, TASKS


pytestmark = pytest.mark.slow


MATCH = {"categories": 3, "stimulus": 4, "delay": 5, "amplitude": 1.5}
COPY = {"length": 4, "symbols": 5, "delay": 6}
FLIP = {"bits": 2, "steps": 30, "rate": 0.3}


@functools.cache
def _draw(task, batch, seed=0, **options):
    """A batch in NumPy; each set of options compiles once."""
    return jax.tree.map(np.asarray, _compiled(task, batch, **options)(jr.key(seed)))


@functools.cache
def _compiled(task, batch, **options):
    return helpers.jit(lambda key: task(key, batch, **options))


def _assert_rate(hits, expected):
    """A share of independent draws, within five standard deviations."""
    hits = np.asarray(hits)
    spread = np.sqrt(expected * (1 - expected) / hits.size)
    assert abs(hits.mean() - expected) < 5 * spread


def test_delayed_match_labels_from_inputs():
    xs, ys = _draw(delayed_match, 3000, noise=0.0, **MATCH)
    assert xs.shape == (13, 3000, 3) and ys.shape == (3000,) and ys.dtype == np.int32
    sample, test = xs[0].argmax(-1), xs[-1].argmax(-1)
    expected = np.zeros_like(xs)
    for trial, (first, second) in enumerate(zip(sample, test)):
        expected[:4, trial, first] = 1.5
        expected[9:, trial, second] = 1.5
    np.testing.assert_array_equal(xs, expected)
    np.testing.assert_array_equal(ys, sample == test)
    # every pair as often as it should be, so that neither stimulus alone tells the label
    for first in range(3):
        for second in range(3):
            share = 1 / 6 if first == second else 1 / 12
            _assert_rate((sample == first) & (test == second), share)


def test_delayed_match_noise():
    quiet, labels = _draw(delayed_match, 3000, noise=0.0, **MATCH)
    xs, ys = _draw(delayed_match, 3000, noise=0.2, **MATCH)
    noise = xs - quiet
    np.testing.assert_array_equal(ys, labels)
    assert abs(noise.std() - 0.2) < 0.003 and abs(noise.mean()) < 0.003
    across = [noise[0], noise[1], noise[0, :, [1, 2, 0]].T]  # in time, over channels
    correlation = np.corrcoef([a.ravel() for a in across])
    assert np.abs(correlation - np.eye(3)).max() < 0.06


def test_copy_memory_targets_from_inputs():
    xs, ys = _draw(copy_memory, 2000, **COPY)
    assert xs.shape == (14, 2000, 7) and ys.shape == (14, 2000)
    tokens = xs.argmax(-1)
    np.testing.assert_array_equal(xs, np.eye(7)[tokens])  # one-hot
    blank, cue = 0, 6
    for t in range(14):
        if t < 4:
            assert tokens[t].min() == 1 and tokens[t].max() == 5
        else:
            assert (tokens[t] == (cue if t == 9 else blank)).all()
        np.testing.assert_array_equal(ys[t], tokens[t - 10] if t >= 10 else blank)
    for symbol in range(1, 6):
        _assert_rate(tokens[:4] == symbol, 1 / 5)
    _assert_rate(tokens[:3] == tokens[1:4], 1 / 5)  # with replacement, position by position
    _assert_rate(tokens[:4, :-1] == tokens[:4, 1:], 1 / 5)


def test_copy_memory_has_the_published_length():
    """S symbols, delay − 1 blanks, the cue, S blanks; a delay of one step has no blank."""
    xs, ys = jax.eval_shape(copy_memory, jr.key(0))
    assert xs.shape == (120, 20, 10) and ys.shape == (120, 20)
    xs, ys = _draw(copy_memory, 7, length=2, symbols=3, delay=1)
    assert (xs.argmax(-1)[2] == 4).all() and (ys[:3] == 0).all() and (ys[3:] > 0).all()
    assert xs.shape == (5, 7, 5)


def test_flip_flop_targets_from_inputs():
    xs, ys = _draw(flip_flop, 800, **FLIP)
    assert xs.shape == ys.shape == (30, 800, 2)
    assert set(np.unique(xs)) == {-1, 0, 1}
    held = np.zeros((800, 2))
    for x, y in zip(xs, ys):
        held = np.where(x == 0, held, x)
        np.testing.assert_array_equal(y, held)
    assert (xs[0] != 0).all()
    pulses = xs[1:] != 0
    _assert_rate(pulses, 0.3)
    _assert_rate(xs[xs != 0] > 0, 0.5)
    _assert_rate(pulses[..., 0] & pulses[..., 1], 0.09)  # channels and steps on their own
    _assert_rate(pulses[:-1] & pulses[1:], 0.09)
    _assert_rate(xs[0, :, 0] == xs[0, :, 1], 0.5)


def test_flip_flop_extreme_rates():
    xs, ys = _draw(flip_flop, 9, bits=1, steps=5, rate=0.0)
    assert (xs[1:] == 0).all()
    np.testing.assert_array_equal(ys, np.repeat(xs[:1], 5, axis=0))
    xs, ys = _draw(flip_flop, 9, bits=1, steps=5, rate=1.0)
    np.testing.assert_array_equal(ys, xs)
    assert (xs != 0).all()


@pytest.mark.parametrize(
    "task, batch, options",
    [
        (delayed_match, 3000, MATCH | {"noise": 0.2}),
        (copy_memory, 2000, COPY),
        (flip_flop, 800, FLIP),
    ],
)
def test_the_key_decides_and_dtype_is_kept(task, batch, options):
    first = _draw(task, batch, **options)
    again = jax.tree.map(np.asarray, _compiled(task, batch, **options)(jr.key(0)))
    chex.assert_trees_all_equal(first, again)
    for a, b in zip(first, _draw(task, batch, seed=1, **options)):
        assert (a != b).any()
    narrow = jax.eval_shape(lambda key: task(key, 2, dtype=jnp.bfloat16), jr.key(0))
    assert narrow[0].dtype == jnp.bfloat16
    assert narrow[1].dtype == (jnp.bfloat16 if task is flip_flop else jnp.int32)
    assert first[0].dtype == jnp.result_type(float)


@pytest.mark.parametrize("task, fine", [(copy_memory, COPY), (flip_flop, FLIP)])
def test_dtype_leaves_the_trials_alone(task, fine):
    wide = _draw(task, 50, **fine)
    for a, b in zip(wide, _draw(task, 50, dtype=jnp.float32, **fine)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "task, options, bound",
    [
        (delayed_match, {"categories": 1}, "a whole number of at least 2"),
        (delayed_match, {"stimulus": 0}, "a whole number of at least 1"),
        (delayed_match, {"delay": -1}, "a whole number of at least 0"),
        (copy_memory, {"length": 0}, "a whole number of at least 1"),
        (copy_memory, {"symbols": 1}, "a whole number of at least 2"),
        (copy_memory, {"delay": 0}, "a whole number of at least 1"),
        (flip_flop, {"bits": 0}, "a whole number of at least 1"),
        (flip_flop, {"steps": 0}, "a whole number of at least 1"),
        (flip_flop, {"rate": 1.5}, r"in \[0, 1\]"),
        (flip_flop, {"rate": float("nan")}, r"in \[0, 1\]"),
    ],
)
def test_impossible_options(task, options, bound):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{name} must be {bound}, but is {value}"):
        task(jr.key(0), 2, **options)


def test_delayed_match_record():
    evaluate = helpers.jit(TASKS["delayed_match"].loss)
    _, ys = _draw(delayed_match, 3000, noise=0.0, **MATCH)
    perfect = jnp.asarray(60.0 * np.eye(2)[ys])
    loss, accuracy = evaluate(perfect, jnp.asarray(ys))
    assert loss < 1e-20 and accuracy == 1
    loss, accuracy = evaluate(jnp.zeros((3000, 2)), jnp.asarray(ys))  # always "non-match"
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-12)
    np.testing.assert_allclose(accuracy, 1 - ys.mean(), rtol=1e-12)


def test_copy_memory_record_scores_the_recall_steps_alone():
    evaluate = helpers.jit(TASKS["copy_memory"].loss)
    _, ys = _draw(copy_memory, 2000, **COPY)
    ys = jnp.asarray(ys[:, :6])
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(14, 6, 9))
    slope_of = helpers.jit(jax.value_and_grad(TASKS["copy_memory"].loss, has_aux=True))
    (loss, accuracy), slopes = slope_of(jnp.asarray(logits), ys)
    total, hits = 0.0, 0
    for t in range(10, 14):
        for trial in range(6):
            z, y = logits[t, trial], int(ys[t, trial])
            total += np.log(np.exp(z).sum()) - z[y]
            hits += z.argmax() == y
    np.testing.assert_allclose(loss, total / 24, rtol=1e-12)
    np.testing.assert_allclose(accuracy, hits / 24, rtol=1e-12)
    assert (slopes[:10] == 0).all() and (slopes[10:] != 0).all()
    # whatever comes before recall, all right is the best score and all wrong the worst
    right = jnp.asarray(60.0 * np.eye(9)[ys])
    loss, accuracy = evaluate(jnp.asarray(logits).at[10:].set(right[10:]), ys)
    assert loss < 1e-20 and accuracy == 1
    assert evaluate(-right, ys)[1] == 0


def test_copy_memory_without_memory():
    """The two baselines that the docstring gives: ln K at recall, S ln K / T over all steps."""
    _, ys = _draw(copy_memory, 2000, **COPY)
    ys = jnp.asarray(ys)
    guess = np.full((14, 2000, 6), -60.0)
    guess[:10, :, 0] = 0  # blank until recall, then any symbol
    guess[10:, :, 1:] = 0
    recall = TASKS["copy_memory"].loss
    losses = helpers.jit(lambda z: (recall(z, ys)[0], cross_entropy(z, ys)[0]))(jnp.asarray(guess))
    np.testing.assert_allclose(losses, (np.log(5), 4 * np.log(5) / 14), rtol=1e-12)


def test_flip_flop_record():
    evaluate = helpers.jit(TASKS["flip_flop"].loss)
    _, ys = _draw(flip_flop, 800, **FLIP)
    ys = jnp.asarray(ys)
    assert evaluate(ys, ys) == (0, 1)
    # all outputs at half their height: ½ Σ (½)² over 30 steps and 2 channels
    loss, r2 = evaluate(0.5 * ys, ys)
    np.testing.assert_allclose(loss, 30 * 2 / 8, rtol=1e-12)
    means = np.asarray(ys).mean((0, 1))
    np.testing.assert_allclose(r2, 1 - 0.25 / (1 - (means**2).mean()), rtol=1e-12)
    mean = jnp.broadcast_to(means, ys.shape)
    np.testing.assert_allclose(evaluate(mean, ys)[1], 0, atol=1e-12)


@pytest.mark.parametrize("name", ["delayed_match", "copy_memory", "flip_flop"])
def test_evaluation_draws_trials_of_its_key(name):
    task = TASKS[name]
    options = task.presets["small"].data
    trials = jax.eval_shape(lambda key: task.evaluation(key, **options)[0], jr.key(0)).shape[1]

    @helpers.jit
    def both(key):
        return task.evaluation(key, **options), task.batch(key, trials, **options)

    chex.assert_trees_all_equal(*both(jr.key(5)))
    assert trials > 100

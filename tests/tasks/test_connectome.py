"""Connectome: its stream of trials as a loop, and its loss."""

from typing import Any

import chex
import helpers
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from modprop_jax.tasks import connectome, cross_entropy, TASKS


SIZES: dict[str, Any] = {"categories": 3, "cue": 2, "delay": 3, "answer": 2}


@helpers.jit
def drawn(key):
    return connectome(key, 500, steps=31, noise=0.0, **SIZES)


def test_trials_as_a_loop():
    """Stimuli read off the inputs; what is asked, and the answer, by hand. The fourth is cut."""
    xs, ys = map(np.asarray, drawn(jr.key(0)))
    assert xs.shape == (31, 500, 4) and ys.shape == (31, 500, 2)
    assert set(np.unique(xs)) == {0, 1}
    matches = []
    for t in range(31):
        start, at = t - t % 9, t % 9
        shown = xs[t].argmax(-1)
        np.testing.assert_array_equal(xs[t].sum(-1), 0 if 2 <= at < 5 else 1)
        if at in (1, 6):
            np.testing.assert_array_equal(xs[t], xs[t - 1])
        if at < 2 or 5 <= at < 7:
            assert (shown < 3).all() and len(np.unique(shown)) == 3
        if at < 7:
            np.testing.assert_array_equal(ys[t], 0)
            continue
        assert (shown == 3).all()
        same = xs[start].argmax(-1) == xs[start + 5].argmax(-1)
        np.testing.assert_array_equal(ys[t], 9 / 2 * np.stack([~same, same], -1))
        matches.append(same)
    assert abs(np.mean(matches) - 0.5) < 5 * 0.5 / np.sqrt(1500)
    assert abs(ys[:27].sum(-1).mean() - 1) < 1e-6


def test_key_dtype_and_noise():
    make = helpers.jit(lambda key: (connectome(key, 2), connectome(key, 2, dtype=jnp.bfloat16)))
    (xs, ys), (narrow, labels) = make(jr.key(1))
    chex.assert_trees_all_equal((xs, ys), make(jr.key(1))[0])
    assert not np.array_equal(xs, make(jr.key(2))[0][0])
    assert xs.dtype == jnp.result_type(float) and narrow.dtype == labels.dtype == jnp.bfloat16
    assert xs.shape == (1000, 2, 4) and (xs[:, 0] != xs[:, 1]).any()
    silent = np.asarray(xs)[np.arange(1000) % 25 // 5 == 1]
    assert abs(silent.std() - 0.1) < 0.01 and abs(silent.mean()) < 0.01


def test_the_loss_is_that_of_the_answers():
    _, ys = drawn(jr.key(3))
    logits = jnp.asarray(np.random.default_rng(0).normal(size=ys.shape))
    evaluate = helpers.jit(TASKS["connectome"].loss)
    loss, score = evaluate(logits[:27], ys[:27])
    asked = np.flatnonzero(np.asarray(ys[:27]).sum((1, 2)))
    expected = cross_entropy(logits[asked], jnp.argmax(ys[asked], -1))
    np.testing.assert_allclose([loss, score], expected, rtol=1e-10)
    np.testing.assert_allclose(evaluate(0 * logits[:27], ys[:27])[0], np.log(2), rtol=1e-10)
    assert evaluate(logits[:5], ys[:5]) == (0, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"categories": 1}, "categories must be a whole number of at least 2, but is 1"),
        ({"delay": -1}, "delay must be a whole number of at least 0, but is -1"),
        ({"answer": 0}, "answer must be a whole number of at least 1, but is 0"),
        ({"noise": float("nan")}, "noise must be finite, but is nan"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        connectome(jr.key(0), **options)

"""Eligibility traces over parameters: TD(λ) by its known answers, ends of episodes, many lives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import jit

from modprop_jax import optim


STATES, GAMMA = 5, 0.9
# whose states and updates have attributes and signs
transform_of: Any = optim.eligibility_traces


def walk(seed: int, episodes: int = 30) -> list[tuple[list[int], float]]:
    """Of the random walk of the textbook: the states of each episode, and its reward, at the end.

    From the middle one step to either side, until it leaves: on the right with a reward of 1.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(episodes):
        seen = [STATES // 2]
        while 0 <= (after := seen[-1] + int(rng.choice([-1, 1]))) < STATES:
            seen.append(after)
        found.append((seen, float(after == STATES)))
    return found


def steps(episodes: list[tuple[list[int], float]]) -> tuple[np.ndarray, ...]:
    """One after the other: state, next state (its own if there is none), reward, end."""
    rows = [
        (at, seen[i + 1] if i + 1 < len(seen) else at, 0.0 if i + 1 < len(seen) else reward, last)
        for seen, reward in episodes
        for i, at in enumerate(seen)
        for last in [i + 1 == len(seen)]
    ]
    states, after, rewards, ends = map(np.array, zip(*rows))
    return states, after, rewards, ends


@functools.cache
def learner(rate: float, decay: float, gamma: float) -> Any:
    """TD(λ) of a table of values, at a rate: the table after all steps, and each step's update."""
    optimizer = optax.chain(transform_of(decay), optax.sgd(rate))

    def step(now, seen):
        values, table, state = now
        at, after, reward, end = seen
        value, gradient = jax.value_and_grad(lambda v: -v[at])(values)
        ahead = jnp.where(end, 0.0, values[after])
        error = reward + gamma * ahead + value
        updates, state = optimizer.update(gradient, state, values, td_error=error, done=end)
        return (values if rate == 1 else values + updates, table + updates, state), updates

    def run(values, *seen):
        start = values, jnp.zeros(STATES), optimizer.init(values)
        (values, summed, _), each = jax.lax.scan(step, start, seen)
        return values, summed, each

    return jit(run)


def summed(values, episodes, lam, gamma=GAMMA):
    """Updates at fixed values: a rate of 1 in `learner`."""
    seen = map(jnp.asarray, steps(episodes))
    return np.array(learner(1.0, gamma * lam, gamma)(jnp.asarray(values), *seen)[1])


# --- known answers ---


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_at_fixed_values_the_updates_sum_to_the_forward_view(lam):
    """Σ_t (G_t − V(s_t)) ∇V(s_t), with the λ-return as a mean of n-step returns."""
    values, episodes = np.random.default_rng(0).normal(size=STATES), walk(1)
    expected = np.zeros(STATES)
    for seen, reward in episodes:
        for t, at in enumerate(seen):
            left = len(seen) - t
            whole = GAMMA ** (left - 1) * reward
            returns = [GAMMA**n * values[seen[t + n]] for n in range(1, left)]
            weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)]
            expected[at] += np.dot(weights, returns) + lam ** (left - 1) * whole - values[at]
    np.testing.assert_allclose(summed(values, episodes, lam), expected, rtol=0, atol=1e-10)


def test_without_memory_they_vanish_at_the_values_of_the_chain_that_was_seen():
    """TD(0): the certainty-equivalence estimate, of the transitions as they were counted."""
    episodes = walk(2)
    states, after, rewards, ends = steps(episodes)
    counts, gained = np.zeros((STATES, STATES)), np.zeros(STATES)
    np.add.at(counts, (states[~ends], after[~ends]), 1)
    np.add.at(gained, states, rewards)
    visits = np.bincount(states, minlength=STATES)[:, None]
    values = np.linalg.solve(np.eye(STATES) - GAMMA * counts / visits, gained / visits[:, 0])
    np.testing.assert_allclose(summed(values, episodes, 0.0), 0, atol=1e-10)
    assert np.abs(summed(values, episodes, 0.8)).max() > 0.1


def test_with_all_memory_they_vanish_at_the_mean_return_of_each_state():
    """TD(1) is Monte Carlo."""
    episodes, returns = walk(3), [[] for _ in range(STATES)]
    for seen, reward in episodes:
        for t, at in enumerate(seen):
            returns[at].append(GAMMA ** (len(seen) - t - 1) * reward)
    values = np.array([np.mean(r) for r in returns])
    np.testing.assert_allclose(summed(values, episodes, 1.0), 0, atol=1e-10)
    assert np.abs(summed(values, episodes, 0.8)).max() > 0.1


def test_learning_at_each_step_is_the_textbooks_program():
    """TD(λ) with values that move, in a plain loop, by its own order."""
    lam, rate = 0.8, 0.1
    seen = steps(walk(4))
    values, z = np.full(STATES, 0.5), np.zeros(STATES)
    for at, after, reward, end in zip(*seen):
        z = GAMMA * lam * z + np.eye(STATES)[at]
        error = reward + GAMMA * (0.0 if end else values[after]) - values[at]
        values = values + rate * error * z
        z = np.zeros(STATES) if end else z
    start = jnp.full(STATES, 0.5)
    found, _, _ = learner(rate, GAMMA * lam, GAMMA)(start, *map(jnp.asarray, seen))
    np.testing.assert_allclose(found, values, rtol=0, atol=1e-12)
    truth = np.linalg.solve(
        np.eye(STATES) - GAMMA / 2 * (np.eye(STATES, k=1) + np.eye(STATES, k=-1)),
        np.eye(STATES)[-1] / 2,
    )
    assert np.abs(values - truth).max() < np.abs(0.5 - truth).max() / 2


# --- ends, lives, types ---


def test_the_error_of_the_last_step_reaches_a_trace_that_is_then_erased():
    transform = transform_of(0.5)
    g, state = jnp.asarray([1.0, -2.0]), transform.init(jnp.zeros(2))
    for error, done, expected, left in [(1.0, False, 1.0, 1.0), (2.0, True, 3.0, 0.0)]:
        updates, state = transform.update(g, state, td_error=error, done=done)
        np.testing.assert_allclose(updates, expected * g, atol=1e-15)
        np.testing.assert_allclose(state.traces, left * g, atol=1e-15)
    updates, state = transform.update(g, state, td_error=jnp.asarray(1.0))
    np.testing.assert_allclose(updates, g, atol=1e-15)


def test_several_lives_of_one_network_are_those_of_each_and_their_mean():
    lives, time = 3, 7
    rng = np.random.default_rng(5)
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    drawn = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=(time, lives, *w.shape))), params)
    errors = jnp.asarray(rng.normal(size=(time, lives)))
    ends = jnp.asarray(rng.random((time, lives)) < 0.3)
    assert ends.any() and not (ends == ends[:, :1]).all()

    def run(transform, start, *seen):
        def step(state, at):
            g, error, end = at
            updates, state = transform.update(g, state, td_error=error, done=end)
            return state, updates

        return jax.lax.scan(step, start, seen)

    together = transform_of(0.9, agents=lives)
    state, updates = jit(run)(together, together.init(params), drawn, errors, ends)
    alone = transform_of(0.9)

    def one(g, error, end):
        return run(alone, alone.init(params), g, error, end)

    # as many networks, each with its own trace
    states, each = jit(jax.vmap(one, in_axes=1, out_axes=(0, 1)))(drawn, errors, ends)
    for name in params:
        np.testing.assert_allclose(state.traces[name], states.traces[name], atol=1e-14)
        np.testing.assert_allclose(updates[name], each[name].mean(1), atol=1e-14)


def test_what_follows_in_a_chain_sees_the_update():
    transform = transform_of(0.5)
    chain: Any = optax.chain(transform, optax.scale_by_adam(), optax.scale_by_learning_rate(0.1))
    adam: Any = optax.scale_by_adam()
    g = jnp.asarray([3.0, -1.0])
    state, own, moments = chain.init(g), transform.init(g), adam.init(g)
    for error in (1.0, -0.5, 2.0):
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            found, state = chain.update(g, state, g, td_error=error, done=False)
            u, own = transform.update(g, own, td_error=error, done=False)
            u, moments = adam.update(u, moments)
        np.testing.assert_allclose(found, -0.1 * u, atol=1e-15)


def test_a_decay_may_be_traced_and_narrow_gradients_have_wide_traces():
    g = jnp.ones(2, jnp.bfloat16)

    def run(decay):
        transform = transform_of(decay)
        updates, state = g, transform.init(g)
        for _ in range(3):
            updates, state = transform.update(g, state, td_error=jnp.asarray(1.0))
        return updates, state

    updates, state = jit(run)(jnp.asarray(0.5, jnp.float32))
    assert (updates.dtype, state.traces.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(state.traces, 1.75)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "needs td_error: call optimizer.update"),
        ({"td_error": jnp.ones(3)}, r"td_error of .* floats of shape \(\), .* shape \(3,\)"),
        ({"td_error": jnp.asarray(1)}, "td_error of .* floats of shape .* but is int"),
        ({"td_error": "1"}, "td_error must be an array, one number"),
        ({"td_error": 1.0, "done": 1.0}, "done of .* booleans of shape .* but is float"),
        ({"td_error": 1.0, "done": jnp.ones(2, bool)}, r"done of .* bool of shape \(2,\)"),
        ({"td_error": 1.0, "grads": jnp.ones((4, 2))}, r"trace of shape \(2,\), .* \(4, 2\)"),
    ],
)
def test_errors(given, message):
    transform = transform_of(0.9)
    grads = given.get("grads", jnp.ones(2))
    rest = {name: value for name, value in given.items() if name != "grads"}
    with pytest.raises(ValueError, match=message):
        transform.update(grads, transform.init(jnp.zeros(2)), **rest)

"""The worlds of `reproductions/closed_loop.py`, and the gradients of lives in them."""

import functools
import importlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import jit

import modprop_jax as mpj
from modprop_jax import optim


REPRODUCTIONS = Path(__file__).parents[1] / "reproductions"


@pytest.fixture(autouse=True)
def reproductions(monkeypatch):
    """As when a script of that folder is run."""
    monkeypatch.syspath_prepend(str(REPRODUCTIONS))


def module(name: str) -> Any:
    return importlib.import_module(f"closed_loop_{name}")


# --- worlds ---


def test_the_memory_chain_shows_a_bit_and_asks_for_it():
    """Of length 3, as bsuite's program has it, its four steps written out."""
    world, key = module("worlds").MemoryChain(3), jr.key(0)
    step = jit(world.step)
    for seed, right in [(0, True), (1, True), (2, False), (3, False)]:
        place, sight = world.begin(jr.key(seed))
        bit = int(place.cue)
        shown = [[1, 0, 2 * bit - 1], [1, 0, 2 * bit - 1], [2 / 3, 0, 0], [1 / 3, 0, 0]]
        for t in range(4):
            np.testing.assert_allclose(sight, shown[t], atol=1e-6)
            # before the end any action will do
            action = (bit if right else 1 - bit) if t == 3 else t % 2
            place, sight, reward, done = step(place, jnp.asarray(action, jnp.int32), key)
            assert bool(done) == (t == 3)
            assert float(reward) == ((1 if right else -1) if t == 3 else 0)
        assert int(place.at) == 0 and float(sight[0]) == 1


def test_the_maze_pays_for_the_right_turn_and_ends_in_time():
    world, key = module("worlds").TMaze(2), jr.key(1)
    step = jit(world.step)

    def walked(actions):
        place, sight = world.begin(jr.key(3))
        rows = []
        for action in actions(int(place.cue)):
            place, after, reward, done = step(place, jnp.asarray(action, jnp.int32), key)
            rows.append((int(jnp.argmax(sight)), round(float(reward), 6), bool(done)))
            sight = after
        return rows, int(place.at)

    def right(cue):
        return 0, 2, 0, 1 + cue  # against a wall once

    cue = int(world.begin(jr.key(3))[0].cue)
    steps = [(cue, -0.1, False), (2, -0.1, False), (2, -0.1, False)]
    assert walked(right) == ([*steps, (3, 4.0, True)], 0)
    assert walked(lambda cue: (0, 0, 2 - cue))[0][-1] == (3, -0.4, True)
    assert walked(lambda cue: (1, 0, 0, 0))[0][-1] == (3, -0.1, True)  # out of time


def test_both_bits_are_drawn():
    for world in (module("worlds").MemoryChain(2), module("worlds").TMaze(2)):
        cues = jax.vmap(lambda key: world.begin(key)[0].cue)(jr.split(jr.key(0), 400))
        assert set(np.unique(cues)) == {0, 1} and 0.4 < float(cues.mean()) < 0.6


@pytest.mark.parametrize("length", [2, 5, 128])
def test_the_memory_chain_is_that_of_gymnax(length):
    gymnax = pytest.importorskip("gymnax")
    world = module("worlds").MemoryChain(length)
    theirs, params = gymnax.make("MemoryChain-bsuite")
    params = params.replace(memory_length=length)
    step, their_step = jit(world.step), jit(theirs.step_env)
    for seed in range(4):
        with jax.numpy_dtype_promotion("standard"):
            sight, state = theirs.reset_env(jr.key(seed), params)
        place, _ = world.begin(jr.key(0))
        place = place._replace(cue=jnp.asarray(state.context, jnp.int32).reshape(()))
        np.testing.assert_array_equal(world.sight(place), jnp.ravel(sight))
        done = False
        for t in range(length + 1):
            action = jnp.asarray((t + seed) % 2, jnp.int32)
            with jax.numpy_dtype_promotion("standard"):
                sight, state, *rest = their_step(jr.key(t), state, action, params)
            place, ours, reward, done = step(place, action, jr.key(t))
            assert (float(reward), bool(done)) == (float(rest[0]), bool(rest[1]))
            if not done:
                np.testing.assert_allclose(ours, jnp.ravel(sight), atol=1e-7)
        assert done


# --- lives ---

STEPS = 40


@functools.cache
def lived(name: str, length: int) -> Any:
    """An agent at fixed weights, its updates in a chain, summed, and its steps and gradients."""
    agents, world = module("agents"), module("worlds").MemoryChain(length)
    agent = agents.agent(name, world.sights, world.actions, jr.key(2))
    params, static = eqx.partition(agent, eqx.is_inexact_array)
    transform = optim.eligibility_traces(agents.GAMMA * agents.LAMBDA)

    def step(before, key):
        state, now, total = before
        now, gradient, seen = agents.live(params, static, world, now, key)
        updates, state = transform.update(gradient, state, td_error=seen.error, done=seen.done)
        return (state, now, jax.tree.map(jnp.add, total, updates)), (seen, gradient)

    def run():
        zeros = jax.tree.map(jnp.zeros_like, params)
        start = transform.init(params), (agent.core.begin(), *world.begin(jr.key(3))), zeros
        (_, _, total), each = jax.lax.scan(step, start, jr.split(jr.key(4), STEPS))
        return total, *each

    return agent, *jit(run)()


def apart(found: Any, expected: Any) -> float:
    """The largest difference, by the largest entry of its array."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize("name, same", [("RTU, diagonal RTRL", True), ("GRU, e-prop", False)])
def test_the_updates_of_a_life_are_bptts_gradient_of_the_forward_view(name, same):
    """Σ_t A_t ∇ℓ_t at fixed weights, with A_t the discounted sum of the TD errors that follow.

    The rule's trace carries the past of the network, that of the optimizer waits for rewards.
    """
    agents = module("agents")
    agent, total, seen, _ = lived(name, 4)
    errors, ends = np.array(seen.error), np.array(seen.done)
    assert ends.sum() == STEPS // 5 and np.abs(errors).min() > 0
    advantages, ahead = np.zeros(STEPS), 0.0
    for t in reversed(range(STEPS)):
        ahead = errors[t] + (0.0 if ends[t] else agents.GAMMA * agents.LAMBDA * ahead)
        advantages[t] = ahead

    def forward(agent):
        features = mpj.with_rule(agent.core.rnn, mpj.BPTT())(seen.sight, done=seen.done)
        outputs = agent.actor(features), agent.critic(features)[:, 0]
        each = jax.vmap(agents.aim)(outputs, seen.action, seen.error)
        return jnp.sum(jnp.asarray(advantages) * each)

    error = apart(total, jit(eqx.filter_grad(forward))(agent))
    assert (error < 1e-10) if same else (error > 1e-3)


def test_a_window_is_bptt_over_the_last_sights_alone():
    agents = module("agents")
    window = agents.WINDOW
    agent, _, seen, gradients = lived(f"GRU, BPTT of {window} steps", 12)
    begun, t = 13, 24  # the second episode, and its twelfth sight
    assert np.flatnonzero(seen.done)[:2].tolist() == [begun - 1, 25] and t - begun >= window

    def last(agent, cut):
        state = agent.core.rnn.cell.init()
        state, _ = agent.core.rnn(seen.sight[begun : t + 1 - window], state)
        state = jax.lax.stop_gradient(state) if cut else state
        _, features = agent.core.rnn(seen.sight[t + 1 - window : t + 1], state)
        outputs = agent.actor(features[-1]), agent.critic(features[-1])[0]
        return agents.aim(outputs, seen.action[t], seen.error[t])

    found = jax.tree.map(lambda g: g[t], gradients)
    for cut in (True, False):
        error = apart(found, jit(eqx.filter_grad(functools.partial(last, cut=cut)))(agent))
        assert (error < 1e-10) if cut else (error > 1e-6)


@pytest.mark.slow
def test_an_agent_that_remembers_learns_and_one_that_does_not_stays_at_chance():
    """The whole loop, two seeds each, in a chain of two steps."""
    agents, world = module("agents"), module("worlds").MemoryChain(2)

    def run(name):
        one = functools.partial(agents.life, name, world, 3e-3, records=5, every=1200)
        with jax.numpy_dtype_promotion("standard"):  # optax knows no strict mode
            ended, well = jit(jax.vmap(one))(jr.split(jr.key(0)))
        return np.array(well[:, -1] / ended[:, -1])

    assert (run("RTU, diagonal RTRL") > 0.9).all()
    assert (np.abs(run("memoryless") - 0.5) < 0.12).all()


# --- rows ---


def test_a_row_is_run_once_at_the_rate_of_most_success_and_the_page_shows_it(
    tmp_path, monkeypatch, capsys
):
    script = importlib.import_module("closed_loop")
    ran = []

    def measured(row):
        ran.append(row)
        right = 3 if row["rate"] == 1e-3 else 2
        counts = {"episodes": 4, "successes": right}
        full = {name: np.full((script.SEEDS, script.RECORDS), n) for name, n in counts.items()}
        return row | {name: array.tolist() for name, array in full.items()} | {"seconds": 1.0}

    monkeypatch.setattr(script, "measured", measured)
    options = dict(worlds=("maze",), agents=("memoryless",))
    script.run(script.Run(tmp_path, minutes=0, **options))
    assert not ran
    script.run(script.Run(tmp_path, **options))
    tuning, reported = ran[:6], ran[6:]
    assert [(row["rate"], row["tuning"]) for row in tuning] == [(r, True) for r in script.RATES] * 2
    assert [(row["length"], row["rate"]) for row in reported] == [(n, 1e-3) for n in (10, 20, 40)]
    script.run(script.Run(tmp_path, **options))
    assert len(ran) == 9
    capsys.readouterr()
    script.report(script.Report(tmp_path, tmp_path / "page"))
    assert "| memoryless | 0.75 ± 0.00 | 0.75 ± 0.00 |" in capsys.readouterr().out
    names = {path.name for path in tmp_path.rglob("success.*")}
    assert names == {"success.png", "success.pdf", "success.csv"}
    lines = (tmp_path / "success.csv").read_text().splitlines()
    assert lines[:2] == ["world,agent,length,seed,success", "maze,memoryless,10,0,0.75"]
    assert len(lines) == 1 + 3 * script.SEEDS

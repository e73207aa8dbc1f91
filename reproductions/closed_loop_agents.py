"""Agents that learn at every step: a core that remembers, an actor and a critic that read it.

`closed_loop.py` says what they are put into. A core has `begin() -> memory`, is called as
`(memory, sight) -> (memory, features)`, and `forget(memory, done)`s an episode.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import modprop_jax as mpj
from modprop_jax import optim


FEATURES, WINDOW = 32, 8
GAMMA, LAMBDA, ENTROPY = 0.99, 0.95, 0.01


class Streamed(eqx.Module):
    """A recurrent layer, the past of which comes through its rule's trace."""

    rnn: mpj.RNN

    def begin(self) -> Any:
        """A carry with no past."""
        return self.rnn.init()

    def __call__(self, memory: Any, sight: Any) -> tuple[Any, Any]:
        """A segment of one step."""
        memory, zs = self.rnn(sight[None], memory)
        return memory, zs[0]

    def forget(self, memory: Any, done: Any) -> Any:
        """State and trace of no past."""
        return mpj.reset(self.rnn, memory, done)


class Windowed(eqx.Module):
    """Truncated BPTT with an update at every step: credit goes back over the last `window` sights.

    These are kept, with the state before them, and run again at each step, at the weights of then.
    """

    rnn: mpj.RNN
    sights: int = eqx.field(static=True)
    window: int = eqx.field(static=True)

    def begin(self) -> Any:
        """A state, and no sights yet."""
        sights = jnp.zeros((self.window, self.sights))
        return self.rnn.cell.init(), sights, jnp.zeros(self.window, bool)

    def __call__(self, memory: Any, sight: Any) -> tuple[Any, Any]:
        """The oldest sight goes into the state, as a constant."""
        state, sights, seen = memory
        state, _ = self.rnn(sights[:1], state, valid=seen[:1])
        state = jax.lax.stop_gradient(state)
        sights = jnp.concatenate([sights[1:], sight[None]])
        seen = jnp.concatenate([seen[1:], jnp.ones(1, bool)])
        _, zs = self.rnn(sights, state, valid=seen)
        return (state, sights, seen), zs[-1]

    def forget(self, memory: Any, done: Any) -> Any:
        """As at the beginning."""
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), self.begin(), memory)


class Memoryless(eqx.Module):
    """A layer that sees the present alone."""

    layer: mpj.Readout

    def begin(self) -> Any:
        """Nothing."""
        return ()

    def __call__(self, memory: Any, sight: Any) -> tuple[Any, Any]:
        """tanh."""
        return memory, jnp.tanh(self.layer(sight))

    def forget(self, memory: Any, done: Any) -> Any:
        """Nothing."""
        del done
        return memory


class Agent(eqx.Module):
    """A core, and what reads it: logits of actions, and the return that is expected."""

    core: Any
    actor: mpj.Readout
    critic: mpj.Readout

    def __call__(self, memory: Any, sight: Any) -> tuple[tuple[Any, Any], Any]:
        """((logits, value), memory)."""
        memory, features = self.core(memory, sight)
        return (self.actor(features), self.critic(features)[0]), memory


def rtu(sights: int, key: Any) -> mpj.RTUCell:
    """Half as many units as features, with memories from 10 to 1,000 steps."""
    units, phase = FEATURES // 2, math.pi / 10
    return mpj.RTUCell(sights, units, r_min=0.9, r_max=0.999, max_phase=phase, key=key)


def gru(sights: int, key: Any) -> mpj.GRUCell:
    """As equinox makes it: units begin with memories of a few steps."""
    return mpj.GRUCell(sights, FEATURES, key=key)


def leaky(sights: int, key: Any) -> mpj.LeakyCell:
    """Time constants from 2 to 200, and inputs as large as an RTU has them, √(1 - η²)."""
    tau = np.geomspace(2, 200, FEATURES)
    cell = mpj.LeakyCell(sights, FEATURES, tau=tau, activation=jnp.tanh, use_bias=True, key=key)
    leak = np.exp(-1 / tau)
    gain = jnp.asarray(np.sqrt(1 - leak**2) / (1 - leak), cell.weight_in.dtype)
    scaled = cell.weight_in * gain[:, None] / math.sqrt(sights)
    return eqx.tree_at(lambda c: c.weight_in, cell, scaled)


def streamed(cell: Callable, rule: mpj.AbstractRule) -> Callable:
    """A core of this cell under this rule."""
    return lambda sights, key: Streamed(mpj.RNN(cell(sights, key), rule=rule))


def windowed(cell: Callable, window: int) -> Callable:
    """A core of this cell under truncated BPTT."""
    return lambda sights, key: Windowed(mpj.RNN(cell(sights, key)), sights, window)


CORES: dict[str, Callable] = {
    "RTU, diagonal RTRL": streamed(rtu, mpj.DiagonalRTRL()),
    "RTU, BPTT of 1 step": windowed(rtu, 1),
    "GRU, SnAp-1": streamed(gru, mpj.SnAp(1)),
    "GRU, e-prop": streamed(gru, mpj.EProp()),
    f"GRU, BPTT of {WINDOW} steps": windowed(gru, WINDOW),
    "leaky, e-prop": streamed(leaky, mpj.EProp()),
    "memoryless": lambda sights, key: Memoryless(mpj.Readout(sights, FEATURES, key=key)),
}


def agent(name: str, sights: int, actions: int, key: Any) -> Agent:
    """One of `CORES` with its readouts."""
    core, actor, critic = jr.split(key, 3)
    return Agent(
        CORES[name](sights, core),
        mpj.Readout(FEATURES, actions, key=actor),
        mpj.Readout(FEATURES, 1, key=critic),
    )


def aim(outputs: tuple[Any, Any], action: Any, error: Any) -> Any:
    """What descends: -log π - V, and the entropy H by the sign of the TD error.

    As the trace is multiplied by the error δ, the step's own part is -δ log π - δ V - β |δ| H. That
    is how Elsayed, Vasan & Mahmood (arXiv 2410.14606) put H into a trace.
    """
    logits, value = outputs
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p)
    return -(log_p[action] + value + ENTROPY * jnp.sign(error) * entropy)


class Seen(eqx.Module):
    """A step of a life: what was seen and done, and what it led to."""

    sight: Any
    action: Any
    reward: Any
    done: Any
    error: Any


def live(params: Any, static: Any, world: Any, now: Any, key: Any) -> tuple[Any, Any, Seen]:
    """Act, see what comes of it, and take the gradient of `aim`: one forward pass with a gradient,
    and one, of what comes next, for its value."""
    memory, place, sight = now
    act, outside = jr.split(key)

    def look(params, memory, sight):
        return eqx.combine(params, static)(memory, sight)

    outputs, pull, memory = jax.vjp(lambda p: look(p, memory, sight), params, has_aux=True)
    logits, value = outputs
    action = jr.categorical(act, logits).astype(jnp.int32)
    turn = world.step(place, action, outside)
    memory = eqx.combine(params, static).core.forget(memory, turn.done)
    ahead = look(params, memory, turn.sight)[0][1]
    error = turn.reward + GAMMA * jnp.where(turn.done, 0.0, ahead) - value
    (gradient,) = pull(jax.grad(aim)(outputs, action, error))
    seen = Seen(sight, action, turn.reward, turn.done, error)
    return (memory, turn.place, turn.sight), gradient, seen


def life(name: str, world: Any, rate: Any, key: Any, records: int, every: int) -> tuple[Any, Any]:
    """Of one agent, from its birth: how many episodes ended, and ended well, by record."""
    born, placed, on = jr.split(key, 3)
    params, static = eqx.partition(
        agent(name, world.sights, world.actions, born), eqx.is_inexact_array
    )
    optimizer = optax.chain(
        optim.eligibility_traces(GAMMA * LAMBDA),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(rate),
    )

    def step(before, key):
        params, state, now = before
        now, gradient, seen = live(params, static, world, now, key)
        updates, state = optimizer.update(
            gradient, state, params, td_error=seen.error, done=seen.done
        )
        ended = jnp.stack([seen.done, seen.done & (seen.reward > 0)])
        return (optax.apply_updates(params, updates), state, now), ended

    def record(before, key):
        after, ended = jax.lax.scan(step, before, jr.split(key, every))
        return after, ended.sum(0)

    memory = eqx.combine(params, static).core.begin()
    start = params, optimizer.init(params), (memory, *world.begin(placed))
    counts = jax.lax.scan(record, start, jr.split(on, records))[1]
    return counts[:, 0], counts[:, 1]

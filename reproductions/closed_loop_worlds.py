"""Two worlds in which an agent has to remember, in pure JAX: what `closed_loop.py` puts agents in.

A world begins an episode by `begin(key)` and goes on by `step(place, action, key)`; where an
episode ends, the next one begins in the same step. A length may be traced, so that one program
serves all lengths.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


class Place(NamedTuple):
    """Where an episode is, what was shown at its start (0 or 1), and how many steps it has had."""

    at: Any
    cue: Any
    steps: Any


class Turn(NamedTuple):
    """What a step leads to: the place, what is seen there, the reward, and if this was the end."""

    place: Place
    sight: Any
    reward: Any
    done: Any


def _placed(key: Any) -> Place:
    start = jnp.zeros((), jnp.int32)
    return Place(start, jr.bernoulli(key).astype(jnp.int32), start)


def _turn(done: Any, fresh: tuple[Place, Any], place: Place, sight: Any, reward: Any) -> Turn:
    """The next episode's beginning where this one is done."""
    place, sight = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, (place, sight))
    return Turn(place, sight, reward, done)


class MemoryChain(eqx.Module):
    """bsuite's memory chain, of one bit: it is shown at the start, and asked for at the end.

    Sights: the share of time that is left; which bit is asked for, always 0; the bit as ±1, at time
    0 alone. As in bsuite a step returns what was there before it, so the bit is seen twice: an
    episode has length + 1 actions, and between the last sight of the bit and the action that counts
    there are length - 1 sights. Reward: ±1 for the last action, 0 for all others.
    """

    length: Any
    sights: int = eqx.field(default=3, static=True)
    actions: int = eqx.field(default=2, static=True)

    def sight(self, place: Place) -> Any:
        """Of a place."""
        at, length = (jnp.asarray(n, jnp.result_type(float)) for n in (place.at, self.length))
        left = 1 - at / length
        shown = jnp.where(place.at == 0, 2 * place.cue - 1, 0).astype(left.dtype)
        return jnp.stack([left, jnp.zeros_like(left), shown])

    def begin(self, key: Any) -> tuple[Place, Any]:
        """A place and its sight."""
        place = _placed(key)
        return place, self.sight(place)

    def step(self, place: Place, action: Any, key: Any) -> Turn:
        """One action on."""
        sight, done = self.sight(place), place.at == self.length
        reward = jnp.where(done, jnp.where(action == place.cue, 1.0, -1.0), 0.0)
        after = Place(place.at + 1, place.cue, place.steps + 1)
        return _turn(done, self.begin(key), after, sight, reward)


class TMaze(eqx.Module):
    """A corridor whose start shows on which side of its end the goal is.

    That of SK-RTRL's public program, after Bakker's: sights are the start with the goal left, with
    the goal right, corridor, junction (one of four is 1); actions are forward, left, right. A turn
    at the junction ends the episode, with 4 at the goal and -0.4 at the other side; any other step
    costs 0.1, against a wall too. It also ends after 2 · length steps. Bakker's has four actions,
    two sights that overlap, no end of time and another reward at walls.
    """

    length: Any
    sights: int = eqx.field(default=4, static=True)
    actions: int = eqx.field(default=3, static=True)

    def sight(self, place: Place) -> Any:
        """Of a place."""
        inside = jnp.where(place.at >= self.length, 3, 2)
        return jax.nn.one_hot(jnp.where(place.at == 0, place.cue, inside), 4)

    def begin(self, key: Any) -> tuple[Place, Any]:
        """A place and its sight."""
        place = _placed(key)
        return place, self.sight(place)

    def step(self, place: Place, action: Any, key: Any) -> Turn:
        """One action on."""
        turned = (place.at >= self.length) & (action > 0)
        forward = (place.at < self.length) & (action == 0)
        reward = jnp.where(turned, jnp.where(action - 1 == place.cue, 4.0, -0.4), -0.1)
        after = Place(place.at + forward.astype(place.at.dtype), place.cue, place.steps + 1)
        done = turned | (after.steps >= 2 * self.length)
        return _turn(done, self.begin(key), after, self.sight(after), reward)

"""Synapses onto units of several gates: a map for each gate, or one that all of them share."""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arguments import shown
from ._base import AbstractSynapses
from ._dense import as_map


Maps = AbstractSynapses | Sequence[AbstractSynapses]
"""What takes the place of the weights of all gates, as it is given."""


class Gates(AbstractSynapses):
    r"""The maps of the gates one below the other, (gates · post, pre).

    `maps`: one a gate, which trains on its own; or a single one, of which each of `copies` gates
    hears the same. Time and memory are those of the maps.
    """

    maps: tuple[AbstractSynapses, ...]
    copies: int = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """Of all gates."""
        post, pre = self.maps[0].shape
        return self.copies * len(self.maps) * post, pre

    def resolved(self) -> "Gates":
        """Of each map."""
        return Gates(tuple(synapses.resolved() for synapses in self.maps), self.copies)

    def __call__(self, pre: Float[Array, "*axes pre"]) -> Float[Array, "*axes gates"]:
        """Of each map, gates side by side."""
        return self._side_by_side([synapses(pre) for synapses in self.maps])

    def back(self, post: Float[Array, "*axes gates"]) -> Float[Array, "*axes pre"]:
        """Credit of all gates together: a map meets that of those which share it as one."""
        each = self._apart(post)
        sent = [synapses.back(credit) for synapses, credit in zip(self.maps, each, strict=True)]
        return functools.reduce(jnp.add, sent)

    def own(self) -> Float[Array, " gates"]:
        """The autapses of each map, gates side by side."""
        return self._side_by_side([synapses.own() for synapses in self.maps])

    def _side_by_side(self, each: list[Array]) -> Array:
        return jnp.concatenate(each * self.copies, axis=-1)

    def _apart(self, post: Array) -> list[Array]:
        shared = post.reshape(*post.shape[:-1], self.copies, -1).sum(-2)
        return jnp.split(shared, len(self.maps), axis=-1)


def as_gates(name: str, value: object, gates: int, shape: tuple[int, int]) -> Gates:
    """The maps, if they are linear and of this shape [post, pre], one for all gates or one for each
    of them; else a ValueError."""
    if isinstance(value, AbstractSynapses):
        return Gates((as_map(name, value, shape),), gates)
    if not isinstance(value, tuple | list):
        raise ValueError(
            f"{name} must be a map of synapses of shape {shape} [post, pre], such as "
            f"Dense(weights), or {gates} of them, one a gate, but is {shown(value)}."
        )
    if len(value) != gates:
        raise ValueError(
            f"{name} must be one map of synapses, which all gates share, or {gates} of them, one a "
            f"gate, but {len(value)} came."
        )
    return Gates(tuple(as_map(f"{name}[{k}]", one, shape) for k, one in enumerate(value)), 1)

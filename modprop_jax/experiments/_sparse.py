"""Initial weights of networks most of whose synapses do not exist."""

from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._cell._init import balanced_dale


def sparse_dale(key: PRNGKeyArray, signs: Sequence[int], density: float) -> Float[Array, "n n"]:
    """`balanced_dale` on a random share of the synapses `[post, pre]`, without autapses.

    **Arguments:** `density`: the share, of all n² entries. `signs`: ±1 for each presynaptic neuron.
    """
    weight_key, place_key = jr.split(key)
    exists = _places(place_key, len(signs), len(signs), density, autapses=False)
    return balanced_dale(weight_key, signs, mask=exists)


def sparse_signed(
    key: PRNGKeyArray, signs: Sequence[int], rows: int, density: float
) -> Float[Array, "rows n"]:
    """Weights |N(0, 1)| with these presynaptic signs, at a random share of the synapses."""
    weight_key, place_key = jr.split(key)
    magnitude = jnp.abs(jr.normal(weight_key, (rows, len(signs))))
    exists = _places(place_key, rows, len(signs), density)
    return jnp.where(exists, magnitude * jnp.asarray(signs, magnitude.dtype)[None], 0)


def _places(
    key: PRNGKeyArray, rows: int, columns: int, density: float, autapses: bool = True
) -> Bool[Array, "rows columns"]:
    """That share of all entries, to the next whole number, at random."""
    ticket = jr.uniform(key, (rows, columns))
    available = rows * columns
    if not autapses:
        ticket = jnp.where(jnp.eye(rows, dtype=bool), jnp.inf, ticket)
        available -= rows
    last = min(max(round(density * rows * columns), 1), available) - 1
    return ticket <= jnp.sort(ticket, axis=None)[last]

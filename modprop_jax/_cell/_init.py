"""Initial weights."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._radius import radius
from .._synapses._random import balancing
from ._constants import as_mask, connectivity, Exists


def balanced_dale(
    key: PRNGKeyArray,
    signs: Sequence[int] | np.ndarray,
    dtype: DTypeLike | None = None,
    *,
    mask: Numbers | None = None,
) -> Float[Array, "n n"]:
    """Dale-signed recurrent weights `[post, pre]`, balanced neuron by neuron, of radius 1.

    Magnitudes `|N(0, 1)|` at the synapses that exist, 0 elsewhere; inhibition is scaled to balance
    excitation in total; then each neuron's incoming weights are brought to a zero sum by adding a
    constant to its excitatory entries (if the sum is negative) or to its inhibitory magnitudes (if
    positive); last, all is divided by the spectral radius of the result.

    A neuron that has no inputs of one sign stays unbalanced. Connections without a cycle have
    radius 0 whatever their weights: these get the size of random weights of radius 1, where the
    squares of a neuron's incoming weights sum to 1 on average.

    Cost: O(n³), of the radius: 32 products of two (n, n) matrices in float32 and 50 in float64, at
    n = 5,000 some 10^13 operations.

    **Arguments:** `signs`: ±1 for each presynaptic neuron, both present. `key`: PRNG key. `mask`:
    boolean (n, n), the synapses that exist; all, autapses among them, if None.

    Source: the network of Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022
    (arXiv 2206.01338), which masks its autapses after the last step.
    """
    signs = np.asarray(arguments.signs("signs", signs))
    dtype = arguments.dtype("dtype", dtype)
    excitatory, inhibitory = signs > 0, signs < 0
    arguments.both_signs(signs)
    n = signs.size
    draw = jr.normal(arguments.key("key", key), (n, n), dtype)
    magnitude = jnp.abs(draw.astype(wide(dtype)))
    sign = jnp.asarray(signs, magnitude.dtype)[None]
    exists = as_mask(connectivity(mask, n))
    if exists is not None:
        magnitude = jnp.where(exists, magnitude, 0)
    total = magnitude.sum(0)
    balance = balancing(jnp.sum(total, where=excitatory), jnp.sum(total, where=inhibitory))
    magnitude = magnitude * jnp.where(inhibitory, balance, 1)[None]
    excess = jnp.sum(magnitude * sign, axis=1)
    lift, lifted = _shared(-excess, excitatory, exists)
    sink, sunk = _shared(excess, inhibitory, exists)
    magnitude = magnitude + jnp.where(lifted, lift, jnp.where(sunk, sink, 0))
    weights = magnitude * sign
    cyclic, acyclic = radius(weights), jnp.linalg.norm(weights) / math.sqrt(n)
    scale = jnp.where(cyclic > 0, cyclic, jnp.where(acyclic > 0, acyclic, 1))
    return (weights / scale).astype(dtype)


def scaled_normal(
    key: PRNGKeyArray,
    shape: tuple[int, int],
    dtype: DTypeLike | None = None,
    exists: Exists | None = None,
) -> Float[Array, "post pre"]:
    """Weights of variance 1 / (number of presynaptic neurons), of those that exist [post, pre]."""
    draw = jr.normal(key, shape, dtype or jnp.result_type(float))
    if exists is None:
        return draw / math.sqrt(max(shape[1], 1))
    count = jnp.maximum(exists.sum(1), 1).astype(draw.dtype)
    return jnp.where(exists, draw, 0) / jnp.sqrt(count)[:, None]


def _shared(
    lacking: Float[Array, " n"],
    members: np.ndarray,
    exists: Exists | None,
) -> tuple[Array, np.ndarray | Array]:
    """What each neuron lacks, if anything, shared among its synapses from `members`; and these."""
    if exists is None:
        synapses, count = members[None], int(members.sum())
    else:
        synapses = exists & members[None]
        count = jnp.maximum(synapses.sum(1), 1).astype(lacking.dtype)
    return jnp.where(lacking > 0, lacking / count, 0)[:, None], synapses

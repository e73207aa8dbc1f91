"""Sparse weights drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._radius import radius_of
from ._lines import in_order


def drawn(
    key: PRNGKeyArray,
    shape: tuple[int, int],
    fan_in: Any,
    probability: float | None,
    signs: Numbers | None,
    autapses: bool,
    dtype: np.dtype,
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Postsynaptic and presynaptic neurons, and weights; see `Sparse.random`."""
    post, pre = shape
    if arguments.is_traced(key):
        raise ValueError(
            "Sparse.random draws which synapses there are, so its key must not be traced: make the "
            "map outside of the transformed function."
        )
    key_where, key_weight = jr.split(arguments.key("key", key))
    rng = generator(key_where)
    counts = _counts(rng, post, pre - (not autapses), fan_in, probability)
    onto, out_of = in_order(*_distinct(rng, counts, pre, autapses), post)
    return onto, out_of, weights_of(key_weight, onto, out_of, shape, signs, dtype)


def weights_of(
    key: PRNGKeyArray,
    onto: np.ndarray | Int[Array, " nnz"],
    out_of: np.ndarray | Int[Array, " nnz"],
    shape: tuple[int, int],
    signs: Numbers | None,
    dtype: DTypeLike,
) -> Float[Array, " nnz"]:
    """Random weights of synapses that are there, which may be traced; see `Sparse.random`."""
    post, pre = shape
    draw = jr.normal(key, onto.shape, wide(dtype))
    if signs is not None:
        given = arguments.signs("signs", signs, pre)
        sign = jnp.asarray(given, draw.dtype)[out_of]
        if post == pre:
            arguments.both_signs(np.asarray(given))
            return _balanced(onto, out_of, jnp.abs(draw), sign, post).astype(dtype)
        draw = jnp.abs(draw) * sign
    heard = jnp.zeros(post, draw.dtype).at[onto].add(1)
    return (draw / jnp.sqrt(heard[onto])).astype(dtype)


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's, from a key: which synapses there are is known when a map is made."""
    data = jr.key_data(arguments.key("key", key))
    return np.random.default_rng(np.asarray(data).ravel().tolist())


def exchanged(
    rng: np.random.Generator,
    post: np.ndarray,
    pre: np.ndarray,
    free: np.ndarray,
    shape: tuple[int, int],
    autapses: bool,
) -> np.ndarray:
    """The presynaptic neurons, after pairs of free synapses have exchanged theirs, where the new
    pairs of neurons are not connected yet."""
    post, pre = post.astype(np.int64), pre.astype(np.int64)
    for _ in range(4):  # most find a place in the first
        one, other = rng.permutation(free)[: free.size // 2 * 2].reshape(2, -1)
        new = np.stack([post[one] * shape[1] + pre[other], post[other] * shape[1] + pre[one]])
        exists = np.isin(new, post * shape[1] + pre)
        _, index, count = np.unique(new, return_inverse=True, return_counts=True)
        wrong = exists | (count[index.reshape(new.shape)] > 1)
        if not autapses:
            wrong |= np.stack([post[one] == pre[other], post[other] == pre[one]])
        fits = ~wrong.any(0)
        one, other = one[fits], other[fits]
        pre[one], pre[other] = pre[other].copy(), pre[one].copy()
    return pre


def _counts(
    rng: np.random.Generator, post: int, most: int, fan_in: Any, probability: float | None
) -> np.ndarray:
    """Synapses onto each neuron."""
    if (fan_in is None) == (probability is None):
        raise ValueError(
            "Sparse.random needs fan_in, the synapses onto each neuron, or the probability of one, "
            f"but got fan_in={fan_in!r} and probability={probability!r}."
        )
    if probability is not None:
        within = arguments.Range("in (0, 1]", 0, 1, with_high=True)
        return rng.binomial(most, arguments.number("probability", probability, within), post)
    known = arguments.is_real(fan_in) and not arguments.is_traced(fan_in)
    counts = np.asarray(fan_in if known else None)
    if counts.dtype.kind not in "iu" or counts.shape not in ((), (post,)):
        raise ValueError(
            "fan_in must be a whole number, or one for each postsynaptic neuron, known when the "
            f"map is made, but is {arguments.shown(fan_in)}."
        )
    if counts.min() < 0 or counts.max() > most:
        raise ValueError(
            f"fan_in must be 0 ... {most}, as there are so many neurons to hear, but holds "
            f"{counts.min()} ... {counts.max()}."
        )
    return np.broadcast_to(counts, (post,)).astype(np.int64)


def _distinct(
    rng: np.random.Generator, counts: np.ndarray, pre: int, autapses: bool
) -> tuple[np.ndarray, np.ndarray]:
    """So many different presynaptic neurons for each postsynaptic one."""
    most = pre - (not autapses)
    many = counts > most // 2
    found = [np.zeros(0, np.int64)]
    for j in np.flatnonzero(many):
        found.append(j * most + rng.permutation(most)[: counts[j]])
    lacking, sparse = np.where(many, 0, counts), np.zeros(0, np.int64)
    while lacking.any():
        # pairs that came twice count once, and as many are drawn anew
        drawn = np.repeat(np.arange(counts.size), lacking) * most
        drawn = drawn + rng.integers(0, most, drawn.size)
        sparse = np.sort(np.concatenate([sparse, drawn]))
        sparse = sparse[np.append(True, sparse[1:] != sparse[:-1])]
        lacking = np.where(many, 0, counts) - np.bincount(sparse // most, minlength=counts.size)
    post, other = np.divmod(np.sort(np.concatenate([*found, sparse])), most)
    # without autapses the neuron itself is left out of the count
    return post, other if autapses else other + (other >= post)


def _balanced(
    post: np.ndarray | Int[Array, " nnz"],
    pre: np.ndarray | Int[Array, " nnz"],
    magnitude: Array,
    sign: Float[Array, " nnz"],
    n: int,
) -> Float[Array, " nnz"]:
    """As `balanced_dale`: sums of zero, neuron by neuron, and a spectral radius of 1."""
    excitation, inhibition = (jnp.sum(magnitude, where=side * sign > 0) for side in (1, -1))
    magnitude = magnitude * jnp.where(sign < 0, balancing(excitation, inhibition), 1)

    def by_neuron(values):
        return jax.ops.segment_sum(values, post, n)

    excess = by_neuron(magnitude * sign)
    for side in (1.0, -1.0):
        lacking = jnp.maximum(-side * excess, 0)
        count = by_neuron((sign == side).astype(sign.dtype))
        magnitude += jnp.where(sign == side, (lacking / jnp.maximum(count, 1))[post], 0)
    weight = magnitude * sign
    cyclic = radius_of(lambda v: by_neuron(weight * v[pre]), n, weight.dtype)
    # a network without a cycle has no radius, but a size
    acyclic = jnp.linalg.norm(weight) / np.sqrt(n)
    scale = jnp.where(cyclic > 1e-6 * acyclic, cyclic, acyclic)
    return weight / jnp.where(scale > 0, scale, 1)


def balancing(excitation: Float[Array, "*rows"], inhibition: Float[Array, "*rows"]) -> Array:
    """By what to multiply inhibition to balance excitation; 1 where there are not both."""
    both = (excitation > 0) & (inhibition > 0)
    return jnp.where(both, excitation / jnp.where(both, inhibition, 1), 1)

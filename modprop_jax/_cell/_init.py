"""Initial weights."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .. import _arguments as arguments
from .._arguments import Numbers
from .._precision import wide
from .._sharding import alike
from ._constants import as_mask, connectivity, Exists


def radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Spectral radius by Gelfand's formula, `ρ(A) = lim ‖A^k‖^(1/k)`.

    Normalised squarings reach k = 2^50, in float32 2^32: what later ones would add is below
    rounding. The rounding error of squaring i enters divided by 2^i, so the result is good to a few
    units in the last place. Only matmuls: it runs under `vmap` and on every backend, where a
    general eigensolver does not. O(n³) time, O(n²) memory.
    """
    zero = jnp.zeros((), matrix.dtype)
    start = alike((matrix, zero))
    power, log_scale = jax.lax.fori_loop(0, _squarings(matrix), _square, start)
    return jnp.where(jnp.linalg.norm(power) > 0, jnp.exp(log_scale), 0)


def radius_at_most(matrix: Float[Array, "n n"], limit: float) -> Bool[Array, ""]:
    r"""Whether the spectral radius is at most `limit`, by as few squarings as it takes to tell.

    \[ (|\mathrm{tr} A^k| / n)^{1/k} \le \rho(A) \le \|A^k\|^{1/k} \]

    Under ten where the radius is some percent off. Cost and kind of operations as of `radius`.
    """
    n, limit, steps = matrix.shape[-1], math.log(limit), _squarings(matrix)

    def bounds(state):
        step, power, log_scale = state
        share = 1 / 2.0**step
        lower = log_scale + share * jnp.log(jnp.abs(jnp.trace(power)) / n)
        return lower, log_scale + share * jnp.log(jnp.linalg.norm(power))

    def undecided(state):
        lower, upper = bounds(state)
        return (lower <= limit) & (upper > limit) & (state[0] < steps)

    def further(state):
        step, *carry = state
        return step + 1, *_square(step, carry)

    start = 0, matrix, jnp.zeros((), matrix.dtype)
    _, upper = bounds(jax.lax.while_loop(undecided, further, alike(start)))
    return upper <= limit


def _squarings(matrix: Float[Array, "n n"]) -> int:
    return min(50, jnp.finfo(matrix.dtype).nmant + 9)


def _square(step: Int[ArrayLike, ""], carry: Sequence[Array]) -> tuple[Array, Array]:
    """A^2k, normalised, and the logarithm of the norms so far, of A^k, k = 2^step."""
    power, log_scale = carry
    norm = jnp.linalg.norm(power)
    safe = jnp.where(norm > 0, norm, 1)
    power = power / safe
    log_scale = log_scale + jnp.log(safe) / 2.0**step
    return jnp.matmul(power, power, precision="highest"), log_scale


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
    if not (excitatory.any() and inhibitory.any()):
        raise ValueError(
            "signs must have excitatory and inhibitory neurons to balance, but all "
            f"{signs.size} entries of signs have the same sign; mix +1 and -1 or pass signs=None."
        )
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


def balancing(excitation: Float[Array, "*rows"], inhibition: Float[Array, "*rows"]) -> Array:
    """By what to multiply inhibition to balance excitation; 1 where there are not both."""
    both = (excitation > 0) & (inhibition > 0)
    return jnp.where(both, excitation / jnp.where(both, inhibition, 1), 1)

"""Initial weights."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._sharding import alike


def radius(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Spectral radius by Gelfand's formula, `ρ(A) = lim ‖A^k‖^(1/k)`.

    Fifty normalised squarings reach k = 2^50; the rounding error of squaring i enters divided by
    2^i, so the result is good to a few units in the last place. Only matmuls: it runs under `vmap`
    and on every backend, where a general eigensolver does not. O(n³) time, O(n²) memory.
    """

    def square(step, carry):
        power, log_scale = carry
        norm = jnp.linalg.norm(power)
        safe = jnp.where(norm > 0, norm, 1)
        power = power / safe
        log_scale = log_scale + jnp.log(safe) / 2.0**step
        return jnp.matmul(power, power, precision="highest"), log_scale

    zero = jnp.zeros((), matrix.dtype)
    power, log_scale = jax.lax.fori_loop(0, 50, square, alike((matrix, zero)))
    return jnp.where(jnp.linalg.norm(power) > 0, jnp.exp(log_scale), 0)


def balanced_dale(
    key: PRNGKeyArray, signs: Sequence[int] | np.ndarray, dtype: Any = None
) -> Float[Array, "n n"]:
    """Dale-signed recurrent weights `[post, pre]`, balanced neuron by neuron, of radius 1.

    Magnitudes `|N(0, 1)|`; inhibition is scaled to balance excitation in total; then each
    neuron's incoming weights are brought to a zero sum by adding a constant to its excitatory
    entries (if the sum is negative) or to its inhibitory magnitudes (if positive); last, all is
    divided by the spectral radius, diagonal included.

    **Arguments:** `signs`: ±1 for each presynaptic neuron, both present. `key`: PRNG key.

    Source: the network of Liu, Smith, Mihalas, Shea-Brown & Sümbül, NeurIPS 2022
    (arXiv 2206.01338).
    """
    signs = np.asarray(signs)
    excitatory, inhibitory = signs > 0, signs < 0
    if not (excitatory.any() and inhibitory.any()):
        raise ValueError(
            "balanced_dale needs excitatory and inhibitory neurons to balance, but all "
            f"{signs.size} entries of signs have the same sign; mix +1 and -1 or pass signs=None."
        )
    n = signs.size
    magnitude = jnp.abs(jr.normal(key, (n, n), dtype or jnp.result_type(float)))
    total = magnitude.sum(0)
    balance = jnp.sum(total, where=excitatory) / jnp.sum(total, where=inhibitory)
    magnitude = magnitude * jnp.where(inhibitory, balance, 1)[None]
    excess = jnp.sum(magnitude * jnp.asarray(signs, magnitude.dtype)[None], axis=1)
    lift = jnp.where(excess < 0, -excess / int(excitatory.sum()), 0)[:, None]
    sink = jnp.where(excess > 0, excess / int(inhibitory.sum()), 0)[:, None]
    magnitude = magnitude + jnp.where(excitatory[None], lift, sink)
    weights = magnitude * jnp.asarray(signs, magnitude.dtype)[None]
    return weights / radius(weights)


def scaled_normal(
    key: PRNGKeyArray, shape: tuple[int, int], dtype: Any = None
) -> Float[Array, "post pre"]:
    """Weights of variance 1 / (number of presynaptic neurons)."""
    draw = jr.normal(key, shape, dtype or jnp.result_type(float))
    return draw / math.sqrt(max(shape[1], 1))

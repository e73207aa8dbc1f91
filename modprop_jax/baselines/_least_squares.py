"""Ridge regression, at once and step by step, such that float32 will do."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._sharding import over_steps
from ._stream import known, predicted_from


def ridge_forecast(
    regressors: Float[Array, "T m"],
    targets: Float[Array, "T outputs"],
    ridge: Float[Array, ""],
    lag: Array,
    fit: int,
    first: int,
) -> Float[Array, "T outputs"]:
    """Predictions by the ridge solution of pairs `first` ... `fit` - 1; NaN until it is known."""
    with jax.default_matmul_precision("highest"):
        weights = solution(regressors[first:fit], targets[first:fit], ridge)
        return predicted_from(regressors @ weights, fit - 1 + lag)


def solution(
    regressors: Float[Array, "T m"], targets: Float[Array, "T outputs"], ridge: Float[Array, ""]
) -> Float[Array, "m outputs"]:
    """argmin |Φ W − Y|² + ridge |W|², by QR of Φ above √ridge I: the condition is not squared."""
    size = regressors.shape[1]
    below = jnp.sqrt(ridge) * jnp.eye(size, dtype=regressors.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([regressors, below]))
    # the rows of q that meet the zeros below the targets are left out
    rotated = q[: len(regressors)].T @ targets
    return lax.linalg.triangular_solve(r, rotated, left_side=True)


def recursive_forecast(
    regressors: Float[Array, "T m"],
    targets: Float[Array, "T outputs"],
    ridge: Float[Array, ""],
    forgetting: Float[Array, ""],
    lag: Array,
    first: int,
) -> Float[Array, "T outputs"]:
    """Predictions by the ridge solution of all pairs that are known, in one scan.

    Potter's form: what is kept is not P, the inverse of the weighted correlation, but a square
    root S, P = S Sᵀ, in which rounding can't make P lose its sign, and which has the square root of
    P's condition.
    """
    size, dtype = regressors.shape[1], regressors.dtype
    weights = jnp.zeros((size, targets.shape[1]), dtype)
    root = jnp.eye(size, dtype=dtype) / jnp.sqrt(ridge)

    def step(carry, seen):
        weights, root = carry
        (z, y, is_pair), now = seen
        kept = jnp.where(is_pair, forgetting, 1)  # without a pair z = 0: nothing changes
        a = z @ root
        power = kept + a @ a
        # what has overflown has to be seen: with β = 0 nothing would be learnt, without a word
        beta = 1 / jnp.where(jnp.isfinite(power), power, jnp.nan)
        gain = beta * (root @ a)
        weights = weights + jnp.outer(gain, y - z @ weights)
        root = (root - jnp.outer(gain, a) / (1 + jnp.sqrt(kept * beta))) / jnp.sqrt(kept)
        return (weights, root), now @ weights

    with jax.default_matmul_precision("highest"):
        pairs = known(regressors, targets, lag, first)
        return over_steps(step, (weights, root), (pairs, regressors))[1]

"""Spectral radii, by products alone."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ._sharding import alike


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


def radius_of(
    product: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    n: int,
    dtype: DTypeLike,
    *,
    steps: int = 256,
    directions: int = 32,
) -> Float[Array, ""]:
    r"""max |λ(W)| of a map of n neurons that is too large for its matrix, by Arnoldi's method.

    `steps` products leave a vector on which the outermost eigenvalues have come out; those of
    \( H = Q^T W Q \), with Q the orthonormal directions that W opens up from there, are near
    them. Of independent weights, which have many eigenvalues near the edge, good to about a
    percent; a chain of more neurons than products looks like a cycle.
    Time: `steps` + `directions` products; memory O(n · directions).
    """
    size = min(directions, n)

    def unit(vector):
        length = jnp.linalg.norm(vector)
        return jnp.where(length > 0, vector / jnp.where(length > 0, length, 1), 0)

    def extend(k, carry):
        basis, small = carry
        after = product(basis[k])
        parts = basis @ after
        left = after - parts @ basis
        # a second time, for what rounding left of the first
        again = basis @ left
        left = left - again @ basis
        # where W opens up nothing new, what is left is rounding
        left = jnp.where(jnp.linalg.norm(left) > tiny * jnp.linalg.norm(after), left, 0)
        small = small.at[:, k].set((parts + again)[:size])
        small = small.at[k + 1, k].set(jnp.linalg.norm(left), mode="drop")
        return basis.at[k + 1].set(unit(left)), small

    tiny = 100 * jnp.finfo(dtype).eps
    start = unit(jr.normal(jr.key(0), (n,), dtype))
    start = jax.lax.fori_loop(0, steps, lambda _, v: unit(product(v)), start)
    empty = jnp.zeros((size + 1, n), dtype).at[0].set(start), jnp.zeros((size, size), dtype)
    return radius(jax.lax.fori_loop(0, size, extend, alike(empty))[1])

"""Relaxation to a fixed point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Relaxed(NamedTuple):
    """Where each example has come to, after how many sweeps, and whether it is a fixed point."""

    value: Float[Array, "*batch n"]
    sweeps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]


def relax(
    sweep: Callable[[Array], Array],
    start: Float[Array, "*batch n"],
    *,
    rtol: float,
    atol: float | Array,
    max_steps: int,
    damping: float | None,
) -> Relaxed:
    """Iterate `v <- v + damping (sweep(v) - v)`, each example until that moves nothing any more.

    Nothing beyond tolerance: `atol` is a number, or one an example.
    """

    def unsettled(count, left):
        # a NaN compares False, and so ends the loop
        return (left > 0) & (count < max_steps)

    def body(carry):
        value, count, left = carry
        on = unsettled(count, left)
        swept = sweep(value)
        further = swept if damping is None else value + damping * (swept - value)
        left = jnp.where(on, excess(swept, value, rtol, atol), left)
        return jnp.where(on[..., None], further, value), count + on.astype(jnp.int32), left

    far = jnp.full_like(start.max(-1), jnp.inf)
    carry = start, jnp.zeros_like(far, jnp.int32), far
    value, count, left = lax.while_loop(lambda c: unsettled(*c[1:]).any(), body, carry)
    return Relaxed(value, count, left <= 0)


def excess(new: Array, old: Array, rtol: float, atol: float | Array) -> Float[Array, "*batch"]:
    """By how much the largest change is beyond tolerance; NaN if there is one."""
    # what rounding moves for ever: a finer tolerance would never be met
    rounding = 8 * jnp.finfo(new.dtype).eps * jnp.abs(new).max(-1)
    return (jnp.abs(new - old) - rtol * jnp.abs(new)).max(-1) - jnp.maximum(atol, rounding)


def solved(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution of a linear system; not finite if it is singular."""
    fixed = lax.stop_gradient(matrix)
    return lax.custom_linear_solve(
        lambda vector: matrix @ vector,
        right,
        lambda _, right: _lu(fixed, right),
        lambda _, right: _lu(fixed.T, right),
    )


def _lu(matrix: Array, right: Array) -> Array:
    """On CPUs one matrix after the other.

    There LAPACK's batches wait in XLA's threads for these same threads: two such batches in one
    program can wait for each other for ever (jaxlib 0.10 on two cores).
    """
    return lax.platform_dependent(
        matrix, right, cpu=jax.custom_batching.sequential_vmap(_factorised), default=_factorised
    )


def _factorised(matrix: Array, right: Array) -> Array:
    # not by lineax, which knows no types of a jax.shard_map
    return jax.scipy.linalg.lu_solve(jax.scipy.linalg.lu_factor(matrix), right)


def accelerated(
    solver: Any,
    sweep: Callable[[Array], Array],
    start: Float[Array, " n"],
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Relaxed:
    """`relax` for one example by a solver of optimistix; one more sweep tells if it is there."""
    # imported here: few need it
    import optimistix

    found = optimistix.fixed_point(
        lambda value, _: sweep(value), solver, start, max_steps=max_steps, throw=False
    )
    swept = sweep(found.value)
    steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
    return Relaxed(swept, steps + 1, excess(swept, found.value, rtol, atol) <= 0)

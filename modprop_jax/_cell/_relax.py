"""Relaxation to a fixed point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Relaxed(NamedTuple):
    """Where a relaxation has come to, after how many sweeps, and whether it is a fixed point."""

    value: Float[Array, " n"]
    sweeps: Int[Array, ""]
    converged: Bool[Array, ""]


def relax(
    sweep: Callable[[Array], Array],
    start: Float[Array, " n"],
    *,
    rtol: float,
    atol: Any,
    max_steps: int,
    damping: float | None,
) -> Relaxed:
    """Iterate `v <- v + damping (sweep(v) - v)` until a sweep moves nothing beyond tolerance."""

    def unsettled(carry):
        _, count, left = carry
        # a NaN compares False, and so ends the loop
        return (left > 0) & (count < max_steps)

    def body(carry):
        value, count, _ = carry
        swept = sweep(value)
        further = swept if damping is None else value + damping * (swept - value)
        return further, count + 1, excess(swept, value, rtol, atol)

    first = jnp.full((), jnp.inf, start.dtype)
    value, count, left = lax.while_loop(unsettled, body, (start, jnp.zeros((), jnp.int32), first))
    return Relaxed(value, count, left <= 0)


def excess(new: Array, old: Array, rtol: float, atol: Any) -> Float[Array, ""]:
    """By how much the largest change is beyond tolerance; NaN if there is one."""
    return jnp.max(jnp.abs(new - old) - rtol * jnp.abs(new) - atol)


def solved(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution of a linear system; not finite if it is singular."""
    # imported here: few need it
    import lineax as lx

    return lx.linear_solve(lx.MatrixLinearOperator(matrix), right, lx.LU(), throw=False).value


def each(function: Callable, axes: int) -> Callable:
    """`function` of one example, over this many leading axes."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def accelerated(
    solver: Any,
    sweep: Callable[[Array], Array],
    start: Float[Array, " n"],
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Relaxed:
    """The fixed point of `sweep` by a solver of optimistix, and one more sweep to tell it is one."""
    # imported here: few need it
    import optimistix

    found = optimistix.fixed_point(
        lambda value, _: sweep(value), solver, start, max_steps=max_steps, throw=False
    )
    swept = sweep(found.value)
    steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
    return Relaxed(swept, steps + 1, excess(swept, found.value, rtol, atol) <= 0)

"""What depends on a cell's weights alone."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._cell import SeparableCell
from ..._precision import widened
from ..snap._jacobian import coupling
from ._units import existing


SQUARINGS = 6
"""The bound is a Schatten norm of the order 2^(SQUARINGS + 1): at most n^(1/128) too large."""


class Weights(NamedTuple):
    """What depends on the weights alone: made once a call.

    `all`: ∂drive/∂message (g, n, n), of g drives. `others`: the same without autapses, which are
    in `own` (g, n). `pairs`: products of two drives' `others` (g, g, n, n). `largest`: at least
    the largest singular value of all drives' weights (1 x n blocks, g of them), () if not needed.
    `exists`: (n, p), see `existing`.
    """

    all: Float[Array, "g n n"]
    others: Float[Array, "g n n"]
    own: Float[Array, "g n"]
    pairs: Float[Array, "g g n n"]
    largest: Any
    exists: Float[Array, "n p"] | None


def weights_of(cell: SeparableCell, *, certificate: bool) -> Weights:
    """Of the cell as it came, with its mask."""
    every = coupling(widened(cell))
    own = jnp.diagonal(every, axis1=1, axis2=2)
    n = cell.hidden_size
    others = jnp.where(jnp.eye(n, dtype=bool)[None], 0, every)
    pairs = others[:, None] * others[None]
    largest = at_most(every.reshape(-1, n)) if certificate else ()
    return Weights(every, others, own, pairs, largest, existing(cell))


def at_most(matrix: Float[Array, "rows n"]) -> Float[Array, ""]:
    r"""A bound of the largest singular value, \( \sigma_{max} \le (\sum_i \sigma_i^{q})^{1/q} \).

    q = 128, by squaring AᵀA: exact algebra, where a power iteration would be a bound from below,
    and without a decomposition, which takes accelerators long.
    """
    tiny = jnp.finfo(matrix.dtype).tiny
    scale = jnp.maximum(jnp.max(jnp.abs(matrix)), tiny)
    matrix = matrix / scale
    square = jnp.matmul(matrix.T, matrix, precision="highest")
    log, order = jnp.zeros((), matrix.dtype), 2.0
    for step in range(SQUARINGS):
        # scaled to one, so that no power overflows
        size = jnp.maximum(jnp.linalg.norm(square), tiny)
        log, square = log + jnp.log(size) / order, square / size
        if step < SQUARINGS - 1:
            square, order = jnp.matmul(square, square, precision="highest"), 2 * order
    # with room for rounding
    room = 1 + len(square) * jnp.finfo(matrix.dtype).eps
    return jnp.where(jnp.any(matrix != 0), scale * jnp.exp(log) * room, 0)

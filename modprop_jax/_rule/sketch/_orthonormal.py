"""Orthonormal columns and eigenvectors, of each example.

jaxlib's (0.10.2) QR of a batch holds one thread of XLA's CPU pool while it waits for the others: on
two cores, two of them at a time wait for ever. No decomposition of a batch is asked for here.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def orthonormal(columns: Float[Array, "m c"]) -> Float[Array, "m c"]:
    """Columns that span what these do, first ones first; by Householder's reflections, which give
    orthonormal columns of dependent ones, and of zeros, too."""
    m, count = columns.shape
    rows = jnp.arange(m)
    tiny = jnp.finfo(columns.dtype).tiny
    columns = columns / jnp.maximum(jnp.max(jnp.abs(columns)), tiny)

    def reflect(j, held):
        columns, mirrors = held
        x = jnp.where(rows >= j, columns[:, j], 0)
        # by its own size: squares of what is left of a dependent column are below all numbers
        size = jnp.max(jnp.abs(x))
        x = jnp.where(size > tiny, x / jnp.maximum(size, tiny), 0)
        length = jnp.linalg.norm(x)
        v = x + jnp.where(rows == j, jnp.where(x[j] < 0, -length, length), 0)
        v = v / jnp.maximum(jnp.linalg.norm(v), 1)
        columns = columns - 2 * jnp.outer(v, v @ columns)
        return columns, mirrors.at[j].set(v)

    def back(i, basis):
        v = mirrors[count - 1 - i]
        return basis - 2 * jnp.outer(v, v @ basis)

    none = jnp.zeros((count, m), columns.dtype)
    _, mirrors = lax.fori_loop(0, count, reflect, (columns, none))
    return lax.fori_loop(0, count, back, jnp.eye(m, count, dtype=columns.dtype))


@jax.custom_batching.sequential_vmap
def largest_first(matrix: Float[Array, "m m"]) -> tuple[Array, Array]:
    """Eigenvalues and vectors of a symmetric matrix; of a batch, one matrix after the other."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values[::-1], vectors[:, ::-1]

"""Narrow floats (bfloat16, float16): of parameters and of the operands of matmuls alone.

States, traces, filters, counts, credit, sums and losses are float32 at least. For parameters of
float32 or wider nothing here does anything.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree


@runtime_checkable
class Starting(Protocol):
    """What a state comes from: a cell, whatever else it is."""

    def init(self, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The state before the first step."""


def wide(dtype: DTypeLike) -> np.dtype:
    """float32 in place of a narrower float; any other dtype as it is."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32 if narrow else dtype)


def widened(tree: PyTree) -> PyTree:
    """The same values, floats as wide as what is computed with them."""

    def one(leaf):
        return leaf.astype(wide(leaf.dtype)) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(one, tree)


def start_of(cell: Starting, batch_shape: tuple[int, ...] = ()) -> PyTree:
    """The cell's initial state, wide, whatever its own `init` makes it in."""
    return widened(cell.init(batch_shape))


def times(a: Array, matrix: Array) -> Array:
    """`a @ matrix`; for a narrow matrix of narrow operands, summed and returned in float32."""
    return a @ matrix if matrix.dtype == wide(matrix.dtype) else _narrow(a, matrix)


def times_back(credit: Array, matrix: Array) -> Array:
    """As `times`; float16 has not the range for credit."""
    return times(credit, widened(matrix) if matrix.dtype == jnp.float16 else matrix)


def outer(credit: Array, sent: Array, matrix: Array) -> Array:
    """Σ credit ⊗ sent over all leading axes, the gradient of the matrix in `times`: of bfloat16 a
    product of such operands, as JAX's own has it."""
    credit, sent = (a.reshape(-1, a.shape[-1]) for a in (credit, sent))
    if matrix.dtype == jnp.bfloat16:
        credit, sent = credit.astype(matrix.dtype), sent.astype(matrix.dtype)
    return credit.T @ sent


@jax.custom_jvp
def _narrow(a: Array, matrix: Array) -> Array:
    return jnp.matmul(a.astype(matrix.dtype), matrix, preferred_element_type=jnp.float32)


@_narrow.defjvp
def _narrow_jvp(primals, tangents):
    (a, matrix), (d_a, d_matrix) = primals, tangents
    # credit goes the same way back; see `times_back`
    dtype = jnp.bfloat16 if matrix.dtype == jnp.bfloat16 else jnp.float32

    def product(a, matrix):
        return (a.astype(dtype) @ matrix.astype(dtype)).astype(jnp.float32)

    return _narrow(a, matrix), product(d_a, matrix) + product(a, d_matrix)

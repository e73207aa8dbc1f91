"""A state as one vector of rows, and credit on it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from .._tree import inexact


def to_rows(state: PyTree, lead: int = 0) -> Float[Array, "*batch rows"]:
    """The differentiable state variables as one vector, complex ones as two; `lead` batch axes."""
    parts = [part for leaf in jax.tree.leaves(inexact(state)) for part in _parts(leaf)]
    return jnp.concatenate([part.reshape(*part.shape[:lead], -1) for part in parts], axis=-1)


def from_rows(rows: Float[Array, "*batch rows"], like: PyTree) -> PyTree:
    """The inverse of `to_rows`, with the integer variables of `like`."""
    leaves, structure = jax.tree.flatten(inexact(like))
    sizes = [int(np.prod(leaf.shape[rows.ndim - 1 :])) for leaf in leaves for _ in _parts(leaf)]
    split = iter(jnp.split(rows, np.cumsum(sizes)[:-1], axis=-1))

    def one(leaf):
        parts = [next(split).reshape(leaf.shape) for _ in _parts(leaf)]
        return lax.complex(*parts) if len(parts) == 2 else parts[0]

    return eqx.combine(jax.tree.unflatten(structure, map(one, leaves)), like)


def credit_to_rows(credit: PyTree, lead: int = 0) -> Float[Array, "*batch rows"]:
    """Credit on a state, as credit on its rows."""
    return to_rows(jax.tree.map(jnp.conj, credit), lead)


def credit_from_rows(rows: Float[Array, "*batch rows"], like: PyTree) -> PyTree:
    """Credit on the rows of a state, as credit on the state."""
    return jax.tree.map(jnp.conj, inexact(from_rows(rows, like)))


def _parts(leaf: Array) -> list:
    return [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]

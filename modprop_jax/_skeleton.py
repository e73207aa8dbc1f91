"""A cell without the values of its parameters: what its structure alone decides is looked up by."""

from collections.abc import Hashable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._arguments import is_traced
from ._static import FrozenArray


class Skeleton(NamedTuple):
    """To hash and compare. `leaves`: shapes of parameters, and of what is traced or a key; other
    arrays frozen, as masks are, or shapes too."""

    structure: Hashable
    leaves: tuple


def skeleton(cell: PyTree, *, values: bool = True) -> Skeleton:
    """Of a cell. `values`: whether arrays that are no parameters count by theirs."""

    def one(leaf):
        if not eqx.is_array(leaf):
            return leaf
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if not values or eqx.is_inexact_array(leaf) or is_traced(leaf) or key:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return FrozenArray(leaf)

    leaves, structure = jax.tree.flatten(cell)
    return Skeleton(structure, tuple(map(one, leaves)))

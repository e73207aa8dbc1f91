"""Cell types, and the three block means of the type-specific rules side by side."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._arguments import Numbers
from .._synapses import AbstractSynapses


Types = tuple[int, ...] | None


def as_types(types: Numbers | None) -> Types:
    """Cell types as a static tuple of the integers 0 ... C - 1, each of them in use."""
    return None if types is None else arguments.cell_types("types", types)


def mean_over_all(
    synapses: AbstractSynapses, types: tuple[int, ...], gain: ArrayLike = 1.0, mu: ArrayLike = 1.0
) -> Float[Array, "C C"]:
    """Block means of gain · W · mu over all pairs of neurons, connected or not (ModProp)."""
    count = np.bincount(types)
    sums = synapses.type_sums(types, gain, mu)
    return sums / jnp.asarray(np.outer(count, count), sums.dtype)


def mean_over_synapses(synapses: AbstractSynapses, types: tuple[int, ...]) -> Float[Array, "C C"]:
    """Block means over the synapses that are formed (MDGL); 0 where a block has none."""
    count, sums = synapses.type_counts(types), synapses.type_sums(types)
    return jnp.where(count > 0, sums / jnp.where(count > 0, count, 1), 0)

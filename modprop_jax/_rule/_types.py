"""Cell types, and the three block means of the type-specific rules side by side."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._synapses import AbstractSynapses


Types = tuple[int, ...] | None


def as_types(types: Any) -> Types:
    """Cell types as a static tuple of the integers 0 ... C - 1, each of them in use."""
    if types is None:
        return None
    known = not isinstance(types, Tracer) and arguments.is_real(types)
    array = np.asarray(types) if known else np.zeros(0)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        came = f"{array.dtype} of shape {array.shape}" if known else arguments.shown(types)
        raise ValueError(
            f"types must be a vector with one integer cell type a neuron, but is {came}."
        )
    found = np.unique(array)
    if not np.array_equal(found, np.arange(found.size)):
        raise ValueError(
            f"types must number the cell types 0, 1, ... without gaps, but holds {found.tolist()}."
        )
    return tuple(int(t) for t in array)


def mean_over_all(
    synapses: AbstractSynapses, types: tuple[int, ...], gain: Any = 1.0, mu: Any = 1.0
) -> Float[Array, "C C"]:
    """Block means of gain · W · mu over all pairs of neurons, connected or not (ModProp)."""
    count = np.bincount(types)
    sums = synapses.type_sums(types, gain, mu)
    return sums / jnp.asarray(np.outer(count, count), sums.dtype)


def mean_over_synapses(synapses: AbstractSynapses, types: tuple[int, ...]) -> Float[Array, "C C"]:
    """Block means over the synapses that are formed (MDGL); 0 where a block has none."""
    count, sums = synapses.type_counts(types), synapses.type_sums(types)
    return jnp.where(count > 0, sums / jnp.where(count > 0, count, 1), 0)

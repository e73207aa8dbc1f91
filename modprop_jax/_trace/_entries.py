"""Whose the entries of a parameter are: how a trace of them meets credit on the units of a cell."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._cell import SeparableCell
from .._synapses import AbstractLocalSynapses, AbstractSynapses, Gates
from ._response import moved


# not registered with JAX: each is a leaf, in the place of a parameter
@dataclasses.dataclass(frozen=True, eq=False)
class ByGate:
    """An array whose first axis is (gates x units)."""

    shape: tuple[int, ...]
    units: int

    def summed(self, credit: Float[Array, "rows units"], trace: Array) -> Array:
        """Σ_row credit[row, unit] trace[row, ...]."""
        return jnp.einsum("ru,rgup->gup", credit, self._by_unit(trace, 1)).reshape(self.shape)

    def moved(self, credit: Float[Array, "to rows batch units"], trace: Array) -> Array:
        """Σ_row credit[to, row, batch, unit] trace[row, batch, ...]."""
        found = jnp.einsum("qrbu,rbgup->qbgup", credit, self._by_unit(trace, 2))
        return found.reshape(*found.shape[:2], *self.shape)

    def _by_unit(self, trace: Array, lead: int) -> Array:
        """(..., gates, units, the rest in one axis)."""
        return trace.reshape(*trace.shape[:lead], -1, self.units, math.prod(self.shape[1:]))


@dataclasses.dataclass(frozen=True, eq=False)
class BySynapse:
    """The weight of synapses onto the units."""

    synapses: AbstractLocalSynapses

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.synapses.weight.shape

    def summed(self, credit: Float[Array, "rows units"], trace: Array) -> Array:
        """Σ_row credit[row, unit of the synapse] trace[row, synapse]."""
        # one leading axis: XLA's CPU reduction over two is an order of magnitude slower
        return jnp.sum(self.synapses.spread(credit) * trace, axis=0)

    def moved(self, credit: Float[Array, "to rows batch units"], trace: Array) -> Array:
        """Σ_row credit[to, row, batch, unit of the synapse] trace[row, batch, synapse]."""
        return moved(self.synapses.spread(credit), trace)


def entries_of(cell: SeparableCell) -> PyTree:
    """In place of each parameter of a cell, whose its entries are, if they are of the units."""
    n = cell.hidden_size

    def onto_units(node):
        return isinstance(node, AbstractLocalSynapses) and node.shape[0] == n

    def one(node):
        if onto_units(node):
            return node.of_weight(BySynapse(node))
        return ByGate(node.shape, n) if eqx.is_inexact_array(node) else None

    return jax.tree.map(one, cell, is_leaf=onto_units)


def maps_in(weights: PyTree) -> list[AbstractSynapses]:
    """The maps that a field of a cell holds, those of each gate apart."""

    def is_map(node):
        return isinstance(node, AbstractSynapses) and not isinstance(node, Gates)

    return list(filter(is_map, jax.tree.leaves(weights, is_leaf=is_map)))

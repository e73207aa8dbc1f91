"""ModProp's transport without end: by a given μ; and what it shares with a measured one."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._cell import NeuronCell
from ..._credit import Back, Credit, Point
from ..._precision import wide
from ..._program._base import AbstractProgram
from ..._program._side_by_side import Among, Decay, leaks_alike
from ..._static import Constant
from ..._synapses._base import one_hot
from ..._trace import AbstractTrace, PerSynapse, Presynaptic
from ..._tree import add, pullback
from .._transport import AbstractTransportRule
from .._types import Types
from ._filter import counts, Filter, filter_of, matrix, sum_by_type, to_neurons


class AbstractFiltered(AbstractTransportRule):
    r"""Local for all credit; the filter for the type-summed direct credit G, `Credit.modulator`.

    \[ \lambda_t = c_t + (D_{t+1} - \kappa_{self}) \lambda_{t+1} + U \kappa^T G_{t+1} \]
    """

    types: eqx.AbstractVar[Types]

    @abc.abstractmethod
    def mu_at(self, point: Point) -> Array | None:
        """μ (*batch, C) by which credit crosses a step; None: it is in κ."""

    def modulator(self, cell: NeuronCell, batch_shape: tuple[int, ...]) -> Array:
        """No type-summed credit (*batch, C)."""
        count = counts(self.types, cell.hidden_size).size
        return jnp.zeros((*batch_shape, count), wide(cell.dtype))

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Presynaptic where the filters allow it; else a synapse's own and C more."""
        if self.types and Presynaptic.serves(on) and max(self.types) + 1 < len(self.types):
            return Presynaptic(self.types)
        return PerSynapse(filter_is_local=False)

    def receives(self, on: AbstractProgram) -> bool:
        """Credit on the membranes is all."""
        return True

    def receive(self, on: AbstractProgram, direct: Credit) -> Credit:
        """Direct credit also enters the type-summed credit."""
        summed = sum_by_type(on.cell.membrane(direct.state), self.types)
        return direct._replace(modulator=summed)

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """Own dynamics for all of it, κ for the type-summed credit."""
        cell, mu = on.cell, self.mu_at(point)
        total = add(credit.state, direct)
        summed = credit.modulator + self.receive(on, Credit(direct)).modulator
        (own,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        crossed, before = on.weights.back(summed, mu)
        received = to_neurons(crossed, self.types)
        if self.types is not None:
            self_kappa = to_neurons(on.weights.own(summed, mu), self.types)
            received -= self_kappa * cell.membrane(total)
        (modulated,) = pullback(cell.membrane, point.before)(received)
        return Back(total, Credit(add(own, modulated), before), None)


class Steady(AbstractFiltered):
    """By a given μ, which is part of κ."""

    mu: Array | Constant
    types: Types = eqx.field(static=True)

    def prepare(self, cell: NeuronCell) -> Filter:
        """κ and what goes with it."""
        return filter_of(self.mu, self.types, cell)

    def mu_at(self, point: Point) -> None:
        """None."""
        return None

    def decay(self, on: AbstractProgram) -> Decay | None:
        """Where one leak serves all neurons, and types are fewer."""
        types, filters = self.types, on.weights
        if types is None or len(filters.leak) == len(types) or not leaks_alike(on):
            return None
        kappa, summed = filters.kappa.as_matrix(), matrix(filters)
        assert summed is not None  # of types there is one
        own = to_neurons(filters.leak - filters.self_kappa, types)
        among = Among(one_hot(types, kappa.dtype), summed, to_neurons(kappa, types))
        return Decay(own, among)

"""ModProp's transport that ends: credit crosses between neurons in the last S steps alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._cell import NeuronCell
from ..._credit import Back, Credit, Point
from ..._precision import wide
from ..._program._base import AbstractProgram
from ..._static import Constant
from ..._trace import AbstractTrace
from .._transport import AbstractTransportRule
from .._types import Types
from ._filter import Filter, filter_of, Power, powers, sum_by_type, to_neurons
from ._window import Window


class Taps(AbstractTransportRule):
    r"""Young credit \(A_t\) crosses; what came S steps ago leaves it, \((\hat J^T)^S q\).

    \[ Y_t = A_t - (\hat J^T)^S q_{t+S}, \qquad A_{t-1} = q_{t-1} + \hat J^T Y_t, \qquad
       \lambda_{t-1} = q_{t-1} + \eta\lambda_t + (\hat J - \eta I)^T Y_t \]

    `Credit.modulator` is young credit, and the direct credit of the last S + 1 steps, newest first.
    """

    mu: Array | Constant
    types: Types = eqx.field(static=True)
    taps: int = eqx.field(static=True)

    def prepare(self, cell: NeuronCell) -> tuple[Filter, Power]:
        """The filter and its S-th power."""
        filters = filter_of(self.mu, self.types, cell)
        return filters, jax.tree.map(lambda p: p[-1], powers(filters, self.taps))

    def modulator(self, cell: NeuronCell, batch_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Zeros."""
        n, dtype = cell.hidden_size, wide(cell.dtype)
        young = jnp.zeros((*batch_shape, n), dtype)
        return young, jnp.zeros((*batch_shape, self.taps + 1, n), dtype)

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """The last S presynaptic vectors."""
        return Window(self.taps)

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """Young credit crosses; all of it leaks."""
        filters, power = on.weights

        def across(credit, modulated, local):
            by_type = sum_by_type(credit, self.types) @ modulated
            local = jnp.broadcast_to(to_neurons(local, self.types), credit.shape)
            return to_neurons(by_type, self.types) + local * credit

        young, recent = credit.modulator
        total, young = credit.state + direct, young + direct
        recent = jnp.concatenate([direct[..., None, :], recent[..., :-1, :]], axis=-2)
        young -= across(recent[..., -1, :], power.modulated, power.local)
        crossed = across(young, filters.kappa.as_matrix(), -filters.self_kappa)
        leak = on.cell.leak
        before = leak * total + crossed
        return Back(total, Credit(before, (leak * young + crossed, recent)), None)

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._cell import AbstractCell, NeuronCell
from .._credit import Back, Credit, Point
from .._trace import AbstractTrace, PerSynapse, Presynaptic
from .._tree import add, pullback, stop
from ._base import AbstractRule, require_neurons, require_types
from ._types import as_types, expand, mean_over_all, mean_over_synapses, Types


class MDGL(AbstractRule):
    r"""Multidigraph learning: e-prop, and one synaptic hop of direct credit.

    \[ \lambda_t = c_t + c_{t+1} \hat N_{t+1} + \lambda^{own}_{t+1} D_{t+1}, \qquad
       \hat N_t = \frac{\partial s_t}{\partial drive_t}\,\hat W\,
                  \frac{\partial message_{t-1}}{\partial s_{t-1}} \]

    \(\hat W\) is `W_rec` (`types=None`: cell-specific), or the mean over the existing synapses
    of each pair of cell types, at existing synapses (`types`, the published rule), or the mean over
    all entries, with every neuron broadcasting to all others (`diffuse`). Means are recomputed from
    the current weights at every call; no gradient passes through them.

    Exact: what is local to a neuron, and the first hop if cell-specific. Approximate: longer paths
    and, with types, the weights of the hop. After its hop credit stays local, so it streams with
    e-prop's trace. Time: one more matmul a step than e-prop; memory as e-prop. Locality: a synapse
    also knows the type-specific modulator that its neuron's targets secrete.

    Source: Liu, Smith, Mihalas, Shea-Brown & Sümbül, PNAS 118 (2021).
    """

    types: Types = eqx.field(static=True)
    diffuse: bool = eqx.field(static=True)

    def __init__(self, types: Any = None, *, diffuse: bool = False):
        """**Arguments:**

        - `types`: cell type 0 ... C-1 of each neuron, or None.
        - `diffuse`: the modulator reaches every neuron, connected or not; needs `types`.
        """
        self.types = as_types(types)
        if diffuse and types is None:
            raise ValueError(
                "MDGL(diffuse=True) averages over cell types, but types=None came: pass types."
            )
        self.diffuse = diffuse

    @property
    def cell_types(self) -> Types:
        """The cell types."""
        return self.types

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell, and one type a neuron."""
        require_types(self, self.types, require_neurons(self, cell).hidden_size)

    def prepare(self, cell: NeuronCell) -> Float[Array, "n n"]:
        """Ŵ."""
        weight = stop(cell.effective().weight_rec)
        if self.types is None:
            return weight
        if self.diffuse:
            return expand(mean_over_all(weight, self.types), self.types)
        means = expand(mean_over_synapses(weight, self.types), self.types)
        return jnp.where(weight != 0, means, 0)

    def trace(self, cell: AbstractCell) -> AbstractTrace:
        """e-prop's trace; a filtered emission's past reaches other neurons by the hop."""
        if Presynaptic.serves(cell):
            return Presynaptic()
        return PerSynapse(filter_is_local=False)

    def back(
        self,
        cell: NeuronCell,
        prepared: Float[Array, "n n"],
        point: Point,
        credit: Credit,
        direct: PyTree,
    ) -> Back:
        """Local for all credit; one hop for the direct part."""
        total = add(credit.state, direct)
        (own,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        (drive,) = pullback(lambda d: cell.integrate(point.before, d), point.drive)(direct)
        message = drive @ prepared
        (sent,) = pullback(cell.message, point.before)(message)
        return Back(total, Credit(add(own, sent)), message)

    def step(self, cell: NeuronCell, state: PyTree, x: Array) -> PyTree:
        """Not available: MDGL tells direct credit from transported credit."""
        raise ValueError(
            "MDGL has no one-step derivative: its hop applies to the emission's direct credit "
            "only. Use scan, or rule.step of BPTT, RTRL, EProp or ModProp."
        )

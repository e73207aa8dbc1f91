from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import _arguments as arguments
from .._cell import AbstractCell, SeparableCell
from .._cell._separable import stopped_message
from .._credit import Back, Credit, Point
from .._program._base import AbstractProgram
from .._program._side_by_side import Decay, leaks_alike
from .._trace import AbstractTrace, ByMembrane, PerSynapse, PerUnit, Presynaptic
from .._tree import add, pullback
from ._base import require_units
from ._card import Card, Named
from ._transport import AbstractSurrogateRule


class EProp(AbstractSurrogateRule):
    r"""e-prop: each synapse keeps its own neuron's history and ignores all other paths.

    \[ \lambda_t = c_t + \lambda_{t+1} D_{t+1}, \qquad
       \epsilon_t = D_t \epsilon_{t-1} + F_t, \qquad \nabla_W = \sum_t c_t\,\epsilon_t \]

    with \(D_t\) the own-neuron part of the state Jacobian, \(\epsilon_t\) the eligibility trace
    and \(c_t\) the learning signal times the pseudo-derivative. The message between neurons has
    no derivative. Also known as RFLO and as the three-factor rule (same transport).

    Exact: everything inside a neuron, and the emission's filter. Approximate: credit through other
    neurons is dropped. Exact where `W_rec` = 0. Time: forward and one weight matmul, no transposed
    recurrence; memory O(T·n) offline; streamed, an example takes O(n+m) where one leak serves all
    neurons, else O(n(n+m)) a state variable, other than a membrane of one leak.
    Locality: a synapse knows its presynaptic activity, its neuron's state and the learning signal.

    Sources: Bellec et al., Nature Communications 11 (2020); Murray, eLife 8 (2019).
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="δ_si B_ij",
        bias="biased",
        when="exact where W_rec = 0",
        memory="n*(n+m+1)",
        leaky="n+m+1",
        time="n*(n+m+1)",
        synapse="its presynaptic activity, its neuron's state and the learning signal",
        source="Bellec et al. 2020; Murray 2019",
        called="e-prop, RFLO, three-factor rule",
        credit="through its own neuron",
        use="the cheapest local rule",
        papers=("bellec2020eprop", "murray2019rflo"),
        place=40,
        names=(
            Named("eprop", "e-prop = RFLO = three-factor: credit stays in the neuron", place=60),
        ),
    )

    def check(self, cell: AbstractCell) -> None:
        """Needs a separable cell."""
        require_units(self, cell)

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """One eligibility trace a synapse and state variable, but for what all neurons share."""
        if Presynaptic.serves(on):
            return Presynaptic()
        if type(self).back is EProp.back and ByMembrane.serves(on):
            return ByMembrane()
        return PerSynapse(filter_is_local=True) if on.neurons else PerUnit()

    def decay(self, on: AbstractProgram) -> Decay | None:
        """The leak, where one serves all neurons; None for a subclass with another `back`."""
        if type(self).back is not EProp.back or not leaks_alike(on):
            return None
        return Decay(jnp.reshape(on.cell.leak, (1,)))

    def receives(self, on: AbstractProgram) -> bool:
        """All credit is alike."""
        return True

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """`λ = credit + direct`, then through the neuron's own dynamics."""
        total = add(credit.state, direct)
        (before,) = pullback(lambda s: on.cell.integrate(s, point.drive), point.before)(total)
        return Back(total, Credit(before), None)

    def step(self, cell: SeparableCell, state: PyTree, x: Array) -> PyTree:
        """The cell's step, with the message stopped."""
        arguments.require(
            cell,
            SeparableCell,
            "EProp needs a NeuronCell or another SeparableCell for its one-step derivative, "
            f"but the cell is a {type(cell).__name__}. Use scan.",
        )
        return cell.integrate(state, cell.drive(stopped_message(cell, state), x))


RFLO = EProp
ThreeFactor = EProp

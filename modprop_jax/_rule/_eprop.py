from jaxtyping import Array, PyTree

from .._cell import AbstractCell, NeuronCell
from .._cell._base import stopped_message
from .._credit import Back, Credit, Point
from .._trace import AbstractTrace, PerSynapse, Presynaptic
from .._tree import add, pullback
from ._base import AbstractRule, require_neurons


class EProp(AbstractRule):
    r"""e-prop: each synapse keeps its own neuron's history and ignores all other paths.

    \[ \lambda_t = c_t + \lambda_{t+1} D_{t+1}, \qquad
       \epsilon_t = D_t \epsilon_{t-1} + F_t, \qquad \nabla_W = \sum_t c_t\,\epsilon_t \]

    with \(D_t\) the own-neuron part of the state Jacobian, \(\epsilon_t\) the eligibility trace
    and \(c_t\) the learning signal times the pseudo-derivative. The message between neurons has
    no derivative. Also known as RFLO and as the three-factor rule (same transport).

    Exact: everything inside a neuron, and the emission's filter. Approximate: credit through other
    neurons is dropped. Exact where `W_rec` = 0. Time: forward and one weight matmul, no transposed
    recurrence; memory O(T·n) offline; streamed, an example takes O(n+m) where one leak serves all
    neurons, else O(n(n+m)) a state variable.
    Locality: a synapse knows its presynaptic activity, its neuron's state and the learning signal.

    Sources: Bellec et al., Nature Communications 11 (2020); Murray, eLife 8 (2019).
    """

    def check(self, cell: AbstractCell) -> None:
        """Needs a neuron cell."""
        require_neurons(self, cell)

    def trace(self, cell: AbstractCell) -> AbstractTrace:
        """One eligibility trace a synapse and state variable."""
        if Presynaptic.serves(cell):
            return Presynaptic()
        return PerSynapse(filter_is_local=True)

    def arrive(self, cell: NeuronCell, prepared: PyTree, direct: Credit) -> Credit:
        """All credit is alike."""
        del cell, prepared
        return direct

    def back(
        self, cell: NeuronCell, prepared: PyTree, point: Point, credit: Credit, direct: PyTree
    ) -> Back:
        """`λ = credit + direct`, then through the neuron's own dynamics."""
        del prepared
        total = add(credit.state, direct)
        (before,) = pullback(lambda s: cell.integrate(s, point.drive), point.before)(total)
        return Back(total, Credit(before), None)

    def step(self, cell: NeuronCell, state: PyTree, x: Array) -> PyTree:
        """The cell's step, with the message stopped."""
        if not isinstance(cell, NeuronCell):
            raise ValueError(
                "EProp needs a NeuronCell for its one-step derivative, but the cell is a "
                f"{type(cell).__name__}. Use scan."
            )
        return cell.integrate(state, cell.drive(stopped_message(cell, state), x))


RFLO = EProp
ThreeFactor = EProp

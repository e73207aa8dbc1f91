from typing import ClassVar

from jaxtyping import Array, PyTree

from .._cell import AbstractCell
from .._credit import Back, Credit, Point
from .._program._base import AbstractProgram
from .._trace import AbstractTrace, Dense
from .._tree import add, pullback
from ._card import Card, Named
from ._transport import AbstractSurrogateRule


class BPTT(AbstractSurrogateRule):
    r"""Backpropagation through time: exact credit, back to the start of the segment.

    \[ \lambda_t = c_t + \lambda_{t+1} J_{t+1}, \qquad \nabla_\theta = \sum_t \lambda_t F_t \]

    with \(c_t\) the direct credit of the emission, \(J_t = \partial s_t/\partial s_{t-1}\) and
    \(F_t = \partial s_t/\partial\theta\).

    Exact offline. It keeps no trace: in segments of K steps it is truncated BPTT, which cuts the
    past at each segment's start. Time 1 (the unit of the other rules), memory O(T·n) an example.
    Locality: none, a synapse must know the future of the whole network.

    Complex parameters, states and inputs are served by this rule alone. Their gradient is JAX's,
    whose conjugate is the direction of steepest ascent.

    Source: Werbos, Proc. IEEE 78 (1990).
    """

    card: ClassVar[Card] = Card(
        facing="future",
        structure="λ_i itself, within a segment",
        bias="exact",
        when="offline; segments are cut at their starts (truncated BPTT)",
        memory="0",
        time="n*(n+m+1)",
        synapse="the future of the whole network",
        source="Werbos 1990",
        called="BPTT, backpropagation through time",
        credit="all; exact",
        use="the exact gradient, offline; in less memory by `checkpointed_value_and_grad`",
        papers=("werbos1990bptt",),
        place=10,
        names=(Named("bptt", "backpropagation through time: the exact gradient", place=70),),
    )

    @property
    def complex_credit(self) -> bool:
        """Yes: nothing is carried between segments."""
        return True

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """`λ = credit + direct`, then through the cell's own Jacobian."""
        cell, total = on.cell, add(credit.state, direct)
        if not on.separable:
            (before,) = pullback(lambda s: cell.step(s, point.x), point.before)(total)
            return Back(total, Credit(before), None)
        before, drive = pullback(cell.integrate, point.before, point.drive)(total)
        like = cell.message(point.before)
        if like is None:
            return Back(total, Credit(before), None)
        message = cell.received(drive, like, point.x)
        (sent,) = pullback(cell.message, point.before)(message)
        return Back(total, Credit(add(before, sent)), message)

    def step(self, cell: AbstractCell, state: PyTree, x: Array) -> PyTree:
        """The cell's own step."""
        return cell.step(state, x)


class RTRL(AbstractSurrogateRule):
    r"""Real-time recurrent learning: exact credit, carried forward in time.

    \[ M_t = J_t M_{t-1} + F_t, \qquad \nabla_\theta = \sum_t c_t M_t \]

    `BPTT`'s derivative inside a segment, with the dense influence matrix \(M = ds/d\theta\) as
    the trace between segments: exact for any segmentation. Memory O(n·P) an example (P parameters;
    n³ for a fully connected net), time O(n·P) a step on neuron cells, and O(n²·P) a segment.
    Locality: none.

    Source: Williams & Zipser, Neural Computation 1 (1989).
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="M_sij itself",
        bias="exact",
        when="however a sequence is cut",
        memory="n**2*(n+m+1)",
        time="n**3*(n+m+1)",
        synapse="how its weight moves the whole network",
        source="Williams & Zipser 1989",
        called="RTRL, real-time recurrent learning",
        credit="all; exact",
        use="the exact gradient, online, of a small network",
        papers=("williams1989rtrl",),
        place=20,
        names=(
            Named(
                "rtrl",
                "real-time recurrent learning: the exact gradient, for small networks",
                place=240,
            ),
        ),
    )

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """The dense influence matrix."""
        return Dense()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """As BPTT."""
        return BPTT().back(on, point, credit, direct)

    def step(self, cell: AbstractCell, state: PyTree, x: Array) -> PyTree:
        """The cell's own step."""
        return cell.step(state, x)

from typing import ClassVar

import jax
from jaxtyping import Array, PyTree

from .._cell import AbstractCell, SeparableCell
from .._credit import Back, Credit, Point
from .._precision import start_of
from .._program._base import AbstractProgram
from .._trace import AbstractTrace, PerUnit
from ._base import require_units
from ._card import Card, Named
from ._eprop import EProp
from ._transport import AbstractSurrogateRule


class DiagonalRTRL(AbstractSurrogateRule):
    r"""Exact RTRL of an element-wise recurrence, at the cost of its parameters.

    \[ M_t = D_t M_{t-1} + F_t, \qquad \nabla_\theta = \sum_t c_t M_t, \qquad
       J_t = D_t = \frac{\partial\,\mathrm{integrate}(s_{t-1}, drive_t)}{\partial s_{t-1}} \]

    with \(c_t\) the direct credit of the emission. Where units send nothing to each other the state
    Jacobian has no part but the own-unit \(D_t\), and the influence of a parameter stays in its
    unit: one number a parameter and state variable, in place of n.

    Exact: all parameters of one recurrent layer, however a sequence is cut. Approximate: what
    layers below receive. Error goes down instantaneously: an input gets credit from the emission of
    its own step alone, never through this layer's memory. In exchange a stack too gives the same
    gradient streamed as offline (but for a `Filtered` emission, whose memory counts within a
    segment). For exact credit through a stack use `EProp` or `BPTT`, offline.

    Time: forward and the weight gradient. Memory O(T·n) offline; streamed, an example takes P
    numbers a state variable, for P parameters that act on the state. Locality: a parameter knows
    its unit's state, its own input, and the error at the layer's output.

    Errors: ValueError for a cell whose units send messages, or whose parameters do not belong to
    units.

    Sources: Zucchet, Meier, Schug, Mujika & Sacramento, NeurIPS 2023 (arXiv 2305.15947); the same
    structure in Elelimy, White, Bowling & White, NeurIPS 2024.
    """

    card: ClassVar[Card] = Card(
        facing="both",
        structure="δ_si B_ij, where units send nothing to each other",
        bias="exact",
        when="however a sequence is cut; costs are those of `LRUCell`",
        memory="2*n*(2*m+3)",
        time="4*n*(2*m+3)",
        synapse="its own input, its unit's state and the error at the layer's output",
        source="Zucchet et al. 2023",
        called="exact diagonal RTRL",
        credit="all, where units send nothing to each other; exact for one layer",
        use="the exact gradient, online, of a layer whose units send nothing to each other",
        papers=("zucchet2023online", "elelimy2024rtu"),
        place=30,
        names=(
            Named(
                "diagonal_rtrl",
                "exact RTRL of units that send nothing to each other: cell lru, rtu",
                place=80,
            ),
        ),
    )

    def check(self, cell: AbstractCell) -> None:
        """Needs a separable cell without messages."""
        inner = require_units(self, cell)
        if jax.eval_shape(lambda: inner.message(start_of(inner))) is not None:
            raise ValueError(
                "DiagonalRTRL needs units that send nothing to each other (LRUCell, RTUCell, or a "
                "SeparableCell whose message is None), but those of "
                f"{type(inner).__name__} send "
                "messages: use EProp (the same transport, approximate), RTRL or BPTT."
            )

    @property
    def instantaneous(self) -> bool:
        """True: nothing goes down through this layer's memory."""
        return True

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """One number a parameter and variable of its unit."""
        return PerUnit()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """As e-prop, which here misses nothing."""
        return EProp().back(on, point, credit, direct)

    def step(self, cell: SeparableCell, state: PyTree, x: Array) -> PyTree:
        """The cell's own step."""
        return cell.step(state, x)

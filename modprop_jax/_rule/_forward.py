"""A rule that only runs forward, its trace advanced at every step."""

import abc
from typing import Any

from jaxtyping import Array, PyTree

from .._cell import AbstractCell, SeparableCell
from .._credit import Back, Credit, Point
from .._reverse import inner_cell
from .._trace import AbstractTrace
from .._trace._influence import AbstractInfluence
from ._base import AbstractRule


class AbstractForwardRule(AbstractRule):
    r"""A rule whose gradient is \( \sum_t c_t M_t \), with M from step to step.

    It is its `influence`. Credit does not go back in time, so there is no `back`: inputs, and the
    layers below, get the instantaneous part, \( c_t\,\partial s_t/\partial x_t \).
    """

    @abc.abstractmethod
    def influence(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence:
        """M for this cell, filtered or not, and inputs of `in_size` features.

        None: not known yet. A `FunctionCell` does not say, and `init` meets no inputs.
        """

    def from_start(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence | None:
        """The influence of a bare initial state, whose gradient `contract` gives; None: it gets
        no credit."""
        del cell, in_size
        return None

    def runs_forward(self, cell: AbstractCell) -> bool:
        """Whether it does on this cell; if not, `back` and `trace` are those of a reverse form."""
        del cell
        return True

    @property
    def instantaneous(self) -> bool:
        """Always."""
        return True

    def trace(self, cell: AbstractCell) -> AbstractTrace:
        """The influence."""
        inner = inner_cell(cell)
        return self.influence(cell, inner.in_size if isinstance(inner, SeparableCell) else None)

    def back(
        self, cell: Any, prepared: PyTree, point: Point, credit: Credit, direct: PyTree
    ) -> Back:
        """A ValueError."""
        raise ValueError(
            f"{type(self).__name__} runs forward only, its credit does not go back in time: use "
            "scan, or RTRL for exact credit."
        )

    def step(self, cell: Any, state: PyTree, x: Array) -> PyTree:
        """A ValueError."""
        raise ValueError(
            f"{type(self).__name__} has no one-step derivative, its influence depends on all steps "
            "before: use scan."
        )

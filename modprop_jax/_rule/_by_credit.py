"""A rule that estimates credit on the spot, with a trace that the error advances."""

import abc
from typing import Any

from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell import AbstractCell, Filtered
from .._credit import Back, Credit, Point
from .._precision import start_of
from .._reverse import inner_cell
from .._trace import batch_shape
from .._trace._advanced import AbstractCreditTrace, Advanced
from ._base import AbstractRule


class AbstractCreditRule(AbstractRule):
    r"""A rule whose gradient is \( \sum_t \hat\lambda_t F_t \), with an estimate of the credit.

    The estimate \(\hat\lambda_t\) on the state at t comes from the past and the present, so it runs
    forward in time; its trace goes on with the errors. It is its trace.
    """

    @abc.abstractmethod
    def trace(self, cell: AbstractCell) -> AbstractCreditTrace:
        """What the estimate is made from."""

    @property
    def context_size(self) -> int | None:
        """How many features `context` must have; None: the rule reads none."""
        return None

    def begin(self, trace: Any, cell: Any, state: PyTree, key: PRNGKeyArray | None) -> PyTree:
        """The trace's value, marked as one that the error advances."""
        # of a filtered cell it is the estimate of credit on the memory too
        whole = start_of(cell, batch_shape(inner_cell(cell), state))
        state = (state, whole[1]) if isinstance(cell, Filtered) else state
        return Advanced(trace.init(self, cell, state, key))

    def back(
        self, cell: Any, prepared: PyTree, point: Point, credit: Credit, direct: PyTree
    ) -> Back:
        """A ValueError."""
        raise ValueError(
            f"{type(self).__name__} estimates credit as it goes forward and takes none back: use "
            "scan, or BPTT for exact credit."
        )

    def step(self, cell: Any, state: PyTree, x: Array) -> PyTree:
        """A ValueError."""
        raise ValueError(
            f"{type(self).__name__} has no one-step derivative, its estimate depends on all steps "
            "before: use scan."
        )

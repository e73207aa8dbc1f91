"""Rules that only run forward: each is the influence of the parameters on the state."""

import abc

from .._cell import AbstractCell, SeparableCell
from .._program._base import AbstractProgram
from .._program._influence import Influence
from .._trace._influence import AbstractInfluence
from ._base import AbstractRule


class AbstractInfluenceRule(AbstractRule):
    r"""A rule whose gradient is \( \sum_t c_t M_t \), with M from step to step.

    It is its `influence`. Credit does not go back in time: inputs, and the layers below, get the
    instantaneous part, \( c_t\,\partial s_t/\partial x_t \).
    """

    @abc.abstractmethod
    def influence(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence:
        """M for this cell, filtered or not, and inputs of `in_size` features.

        None: not known yet. A `FunctionCell` does not say, and `init` meets no inputs.
        """

    def from_start(self, cell: AbstractCell, in_size: int | None) -> AbstractInfluence | None:
        """The influence of a bare initial state, whose gradient `contract` gives; None: it gets
        no credit."""
        return None

    def prepare(self, cell: AbstractCell) -> object:
        """What depends on the weights alone; made once a call, from the dynamics."""
        return ()

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> AbstractProgram:
        """The program of the influence; of a bare state, that of the unfiltered cell."""
        inner, emission = cell.parts()
        if in_size is None and isinstance(inner, SeparableCell):
            in_size = inner.in_size
        # the cell as it came: its mask is the pattern of the influence
        trace = self.influence(cell if streams else inner, in_size)
        of_start = None if streams else self.from_start(inner, in_size)
        known = self.prepare(inner), trace, streams, type(self).__name__
        return Influence(self, inner.effective(), emission, *known, of_start)

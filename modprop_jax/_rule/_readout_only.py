from typing import ClassVar

from jaxtyping import Array, PyTree

from .._cell import AbstractCell
from .._credit import Back, Credit, Point
from .._program._base import AbstractProgram
from .._trace import AbstractTrace
from .._trace._nothing import Nothing
from .._tree import stop
from ._card import Card, Named
from ._transport import AbstractSurrogateRule


class ReadoutOnly(AbstractSurrogateRule):
    r"""No credit to the recurrent network: it stays as it is, and only what reads it learns.

    \[ \lambda_t = 0 \]

    Reservoir computing, and the baseline for rules that train the network: what follows the layer
    gets its exact gradient, the dynamics' parameters, the initial state and the inputs (and so all
    layers below) get zeros. What only a cell's emission reads belongs to the readout and learns:
    the output weights of `LRUCell`. Any cell; streamed as offline, with nothing to carry. An
    optimizer with weight decay shrinks weights without a gradient too: mask them.

    Source: the baseline of Marschall, Cho & Savin, JMLR 2020 (arXiv 1907.02649).
    """

    card: ClassVar[Card] = Card(
        facing="neither",
        structure="0",
        bias="biased",
        when="zero, but for what only the emission reads",
        memory="0",
        time="n*(n+m+1)",
        synapse="nothing: it stays as it is",
        source="the baseline of Marschall, Cho & Savin 2020",
        called="reservoir computing, fixed network",
        credit="none: the recurrent network stays as it is",
        use="the baseline: what a readout learns on a network that stays as it is",
        papers=("marschall2020unified",),
        place=180,
        names=(
            Named(
                "readout_only",
                "a fixed recurrent network, as in reservoir computing: the readout alone learns",
                place=220,
            ),
        ),
    )

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Nothing of the past is needed."""
        return Nothing()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """None."""
        return Back(None, credit, None)

    def step(self, cell: AbstractCell, state: PyTree, x: Array) -> PyTree:
        """The cell's step, without a derivative."""
        return stop(cell.step(state, x))

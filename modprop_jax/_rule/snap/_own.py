from jaxtyping import PyTree

from ..._credit import Back, Credit, Point
from ..._program._base import AbstractProgram
from ..._trace import AbstractTrace, PerSynapse, PerUnit
from ..._tree import add, pullback
from .._transport import AbstractTransportRule


class OwnUnit(AbstractTransportRule):
    r"""SnAp(1) in reverse: within each unit, its own dynamics and its message to itself.

    \[ \lambda_t = c_t + \lambda_{t+1} \left(D_{t+1} + \mathrm{diag}\,N_{t+1}\right) \]

    with \(c_t\) the emission's credit, \(D_t\) the own-unit part of the Jacobian and \(N_t\) the
    part through the drive, of which the blocks of a unit onto itself are kept. It is SnAp(1) where
    each parameter acts on one unit at a time.

    Source: Menick et al., ICLR 2021 (arXiv 2006.07232).
    """

    @property
    def instantaneous(self) -> bool:
        """As SnAp has it."""
        return True

    def trace(self, on: AbstractProgram) -> AbstractTrace:
        """Those of e-prop."""
        return PerSynapse(filter_is_local=True) if on.neurons else PerUnit()

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """The own part of the cell's Jacobian."""
        cell, total = on.cell, add(credit.state, direct)
        before, drive = pullback(cell.integrate, point.before, point.drive)(total)
        message = cell.received_own(drive, cell.message(point.before))
        if message is None:
            return Back(total, Credit(before), None)
        (sent,) = pullback(cell.message, point.before)(message)
        return Back(total, Credit(add(before, sent)), message)

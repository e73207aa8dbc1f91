from jaxtyping import PyTree

from .._cell import SeparableCell
from .._credit import Back, Credit, Point
from .._tree import add, pullback


def own_back(cell: SeparableCell, point: Point, credit: Credit, direct: PyTree) -> Back:
    r"""One step back within each unit: its own dynamics, and its message to itself.

    \[ \lambda_t = c_t + \lambda_{t+1} \left(D_{t+1} + \mathrm{diag}\,N_{t+1}\right) \]

    with \(c_t\) (`direct`) the emission's credit, \(D_t\) the own-unit part of the Jacobian and
    \(N_t\) the part through the drive, of which the blocks of a unit onto itself are kept. Where
    each parameter acts on one unit at a time, this is SnAp-1 in reverse. The cell is effective.

    Source: Menick et al., ICLR 2021 (arXiv 2006.07232).
    """
    total = add(credit.state, direct)
    before, drive = pullback(cell.integrate, point.before, point.drive)(total)
    message = cell.received_own(drive, cell.message(point.before))
    if message is None:
        return Back(total, Credit(before), None)
    (sent,) = pullback(cell.message, point.before)(message)
    return Back(total, Credit(add(before, sent)), message)

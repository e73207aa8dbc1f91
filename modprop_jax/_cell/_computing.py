"""A cell as it computes, where its parameters are of a narrow float."""

import equinox as eqx

from .._precision import widened
from ._base import AbstractCell
from ._filtered import Filtered


def computing(cell: AbstractCell) -> AbstractCell:
    """The cell with its parameters widened, but for those that only enter matmuls."""
    if isinstance(cell, Filtered):
        return eqx.tree_at(lambda f: f.cell, cell, computing(cell.cell))

    def operands(cell):
        return [getattr(cell, name) for name in cell.matmul_parameters]

    wide = widened(cell)
    return eqx.tree_at(operands, wide, operands(cell)) if cell.matmul_parameters else wide

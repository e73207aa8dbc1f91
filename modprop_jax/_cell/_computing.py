"""A cell as it computes, where its parameters are of a narrow float."""

import equinox as eqx

from .._precision import widened
from ._base import AbstractCell, dynamics


def computing(cell: AbstractCell) -> AbstractCell:
    """The cell with its parameters widened, but for those that only enter matmuls."""
    names, wide = dynamics(cell).matmul_parameters, widened(cell)

    def operands(cell):
        return [getattr(dynamics(cell), name) for name in names]

    return eqx.tree_at(operands, wide, operands(cell)) if names else wide

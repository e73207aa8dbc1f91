"""Type filters whose cell types are an array: one program serves all ways to group neurons."""

from typing import Any

import jax
from jaxtyping import Array, Int, PyTree

from .._cell import AbstractCell
from .._credit import Back, Credit, Point
from .._program._base import AbstractProgram
from .._rule import AbstractTransportRule, TypeFilter


class Assigned(AbstractTransportRule):
    """A `TypeFilter` with other types than its own, of which it needs only how many there are."""

    rule: TypeFilter
    types: Int[Array, " n"]

    def check(self, cell: AbstractCell) -> None:
        """As the filter."""
        self.rule.check(cell)

    def prepare(self, cell: Any) -> PyTree:
        """The filter's, for these types."""
        made = self.rule.prepare(cell)
        hot = jax.nn.one_hot(self.types, made.response.count, dtype=made.hot.dtype)
        return made._replace(hot=hot)

    def modulator(self, cell: Any, batch_shape: tuple[int, ...]) -> PyTree:
        """The filter's."""
        return self.rule.modulator(cell, batch_shape)

    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """The filter's, which reads the types from what was prepared."""
        return self.rule.back(on, point, credit, direct)

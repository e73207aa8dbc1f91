from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._cell import AbstractCell
from .._credit import Credit, Record
from .._tree import inexact
from ._base import AbstractTrace


class Nothing(AbstractTrace):
    """The trace of a rule for which the past has no credit: empty."""

    def init(self, rule: Any, cell: AbstractCell, state: PyTree) -> tuple[()]:
        """Empty."""
        return ()

    def of_start(self, rule: Any, cell: AbstractCell, batch: tuple[int, ...]) -> tuple[()]:
        """Empty."""
        return ()

    def contract(
        self, rule: Any, cell: Any, prepared: PyTree, trace: tuple[()], credit: Credit
    ) -> PyTree:
        """Zeros."""
        return jax.tree.map(jnp.zeros_like, inexact(cell))

    def extend(
        self, rule: Any, cell: AbstractCell, prepared: PyTree, record: Record, trace: tuple[()]
    ) -> tuple[()]:
        """Empty."""
        return ()

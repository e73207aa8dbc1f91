import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._credit import Credit, Record
from .._program._base import AbstractProgram
from .._tree import inexact
from ._base import AbstractTrace


class Nothing(AbstractTrace):
    """The trace of a rule for which the past has no credit: empty."""

    def init(self, on: AbstractProgram, state: PyTree) -> tuple[()]:
        """Empty."""
        return ()

    def of_start(self, on: AbstractProgram, batch: tuple[int, ...]) -> tuple[()]:
        """Empty."""
        return ()

    def contract(self, on: AbstractProgram, trace: tuple[()], credit: Credit) -> PyTree:
        """Zeros."""
        return jax.tree.map(jnp.zeros_like, inexact(on.cell))

    def extend(self, on: AbstractProgram, record: Record, trace: tuple[()]) -> tuple[()]:
        """Empty."""
        return ()

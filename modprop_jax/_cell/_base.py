"""What a cell is."""

import abc
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import equinox as eqx
from jaxtyping import Array, PyTree


# the shape of the batch axes; a number is one axis
BatchShape = SupportsIndex | Sequence[SupportsIndex]


def batch_axes(batch_shape: BatchShape) -> tuple[int, ...]:
    """The shape as a tuple; ValueError if it is none."""
    axes = batch_shape if isinstance(batch_shape, Sequence) else (batch_shape,)
    try:
        sizes = tuple(map(operator.index, axes))
    except TypeError:
        sizes = (-1,)
    if any(size < 0 for size in sizes):
        raise ValueError(
            f"batch_shape must be a number of examples or a tuple of sizes, but is {batch_shape!r}."
        )
    return sizes


class AbstractCell(eqx.Module):
    """The dynamics of one recurrent layer: `s_t = step(s_{t-1}, x_t)`, `z_t = emit(s_t)`.

    All methods take arrays with any number of leading batch axes, also none, and treat each
    example on its own. Only inexact `jax.Array` leaves are parameters.
    """

    @abc.abstractmethod
    def init(self, batch_shape: BatchShape = ()) -> PyTree:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, state: PyTree, x: Array) -> PyTree:
        """One time step."""

    @abc.abstractmethod
    def emit(self, state: PyTree) -> Array:
        """What the loss and the next layer see."""

    @property
    def matmul_parameters(self) -> tuple[str, ...]:
        """Names of the fields that only enter matmuls, and may stay as narrow as they are there.

        All other parameters of a narrow float compute in float32, as states do. By default all do,
        which is right for any cell.
        """
        return ()

    def effective(self) -> "AbstractCell":
        """The same cell with its constraints (masks) already applied to its weights."""
        return self

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        del features

"""What a cell is."""

import abc

import equinox as eqx
from jaxtyping import Array, PyTree


class AbstractCell(eqx.Module):
    """The dynamics of one recurrent layer: `s_t = step(s_{t-1}, x_t)`, `z_t = emit(s_t)`.

    All methods take arrays with any number of leading batch axes, also none, and treat each
    example on its own. Only inexact `jax.Array` leaves are parameters.
    """

    @abc.abstractmethod
    def init(self, batch_shape: tuple[int, ...] = ()) -> PyTree:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, state: PyTree, x: Array) -> PyTree:
        """One time step."""

    @abc.abstractmethod
    def emit(self, state: PyTree) -> Array:
        """What the loss and the next layer see."""

    def effective(self) -> "AbstractCell":
        """The same cell with its constraints (masks) already applied to its weights."""
        return self

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        del features

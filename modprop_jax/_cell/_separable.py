"""A cell whose units are coupled only through drives: the structure that local rules need."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, Float, PyTree

from .._inputs import drive_of, Inputs
from .._tree import pullback
from ._base import AbstractCell, Final


class SeparableCell(AbstractCell):
    r"""Base of cells of n units that are coupled only through drives.

    \[ s_t = \mathrm{integrate}(s_{t-1},\; \mathrm{drive}(\mathrm{message}(s_{t-1}), x_t)) \]

    `integrate` is elementwise over units; `drive` is linear in the message and may hold several
    arrays (*batch, n), the gates of a GRU for example. `NeuronCell` is the case of one drive with
    the weights `weight_rec` and `weight_in`; start from that for a neuron.

    What a cell of your own says of itself is verified where it is used, once for each structure:
    who reads which parameters, that examples and units do not mix, and that `unit_parameters`
    belong to their units. Derivatives count: what is stopped may come from anywhere.
    """

    _final: ClassVar[Final] = Final(
        ("step", "split", "check_input", "effective", "received"),
        "Define drive, integrate, message and emit, of which a step is made; for a step that is "
        "not made of them use a FunctionCell.",
    )

    @property
    @abc.abstractmethod
    def in_size(self) -> int:
        """Number of input features, m."""

    @property
    @abc.abstractmethod
    def hidden_size(self) -> int:
        """Number of units, n."""

    @property
    @abc.abstractmethod
    def drive_parameters(self) -> tuple[str, ...]:
        """Names of the fields that only `drive` reads."""

    @property
    def emission_parameters(self) -> tuple[str, ...]:
        """Names of the fields that only `emit` reads, where it mixes units; else none."""
        return ()

    @property
    def unit_parameters(self) -> tuple[str, ...]:
        """Names of the fields whose leading axis is (gates x units), and each of whose entries
        acts on the state of its own unit alone: the traces of local rules keep these.

        None by default; a cell with others learns offline, or streams under RTRL.
        """
        return ()

    @abc.abstractmethod
    def drive(self, message: PyTree, x: Float[Array, "*batch m"]) -> PyTree:
        """What each unit receives."""

    @abc.abstractmethod
    def integrate(self, state: PyTree, drive: PyTree) -> PyTree:
        """The elementwise part of a step."""

    def message(self, state: PyTree) -> Any:
        """What each unit sends, the emission by default; None if units send nothing."""
        return self.emit(state)

    def received(self, drive: PyTree, like: PyTree, x: Float[Array, "*batch m"]) -> PyTree:
        """Credit on the drive, as credit on the message; `like`: the message, beside the input."""
        (sent,) = pullback(lambda message: self.drive(message, x), like)(drive)
        return sent

    def received_own(self, drive: PyTree, like: PyTree) -> PyTree:
        """As `received`, through the autapses alone: credit on each unit's own message.

        Define it where units send something; None where they don't.
        """
        del drive
        if like is None:
            return None
        raise ValueError(
            f"{type(self).__name__} does not say what its units receive from themselves: define "
            "received_own(self, drive, like)."
        )

    def step(self, state: PyTree, x: Float[Array, "*batch m"] | Inputs) -> PyTree:
        """One time step."""
        return self.integrate(state, drive_of(self, self.message(state), x))

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        if features != self.in_size:
            raise ValueError(
                f"xs has {features} features, but this {type(self).__name__} was made for "
                f"in_size={self.in_size}: xs is (T, *batch, in_size)."
            )

    def split(self) -> tuple[PyTree, PyTree]:
        """The differentiable parameters that act unit by unit, and all the rest."""
        where = jax.tree.map(eqx.is_inexact_array, self)
        for name in self.drive_parameters:
            if getattr(self, name) is not None:
                where = eqx.tree_at(lambda c, name=name: getattr(c, name), where, False)
        return eqx.partition(self, where)


def stopped_message(cell: SeparableCell, state: PyTree) -> Any:
    """The message as the receiving side sees it: a number without a history."""
    message = cell.message(state)
    return None if message is None else lax.stop_gradient(message)

from typing import ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import _arguments as arguments
from .._constrained import AbstractConstrained
from .._static import Constant, frozen, Given
from ._base import AbstractCell, as_cell, batch_axes, BatchShape, Final
from ._emission import Leaky


class Filtered(AbstractCell):
    r"""A cell whose emission is leaky: \( \bar z_t = k \bar z_{t-1} + s_{out} z_t \).

    The readout of spiking networks: `leak` is k, \( s_{out} \) is 1, or 1 - k with `scale`. The
    recurrent drive still sees z. The memory is the emission's: every rule transports it exactly,
    and what MDGL and ModProp call direct credit has passed through it. State: `(state, z̄)`.

    A tuple of leaks makes one filtered copy of z after the other: the emission has their features
    side by side, and the state holds a tuple of memories. A leak of 1 is the plain sum of z since
    the start, never scaled: with `(k, 1.0)` the last half of the last emission counts each
    neuron's spikes, from which `rate_cost` makes a firing-rate regulariser that streams exactly.

    Streaming costs, for each leak: e-prop keeps one more trace a synapse; MDGL and ModProp keep n
    more, since one past emission reaches all neurons. A leak is a constant, scalar or one a neuron.
    """

    _final: ClassVar[Final] = Final(
        (
            "parts",
            "init",
            "step",
            "emit",
            "effective",
            "check_input",
        ),
        "For other dynamics write a FunctionCell.",
    )

    cell: AbstractCell
    leak: Constant | tuple[Constant, ...]
    scale: bool = eqx.field(static=True)

    def __init__(self, cell: AbstractCell, leak: Given | tuple[Given, ...], *, scale: bool = False):
        """**Arguments:**

        - `cell`: the cell whose emission is filtered.
        - `leak`: k in [0, 1]; scalar or one value for each emitted feature; or a tuple of these.
        - `scale`: multiply z by 1 - k, where k < 1.
        """
        self.cell = as_cell("cell", cell)
        if cell.parts()[1].remembers:
            raise ValueError(
                "cell is Filtered, and Filtered(Filtered(cell)) is not served: filter the emission "
                "once."
            )
        self.scale = arguments.boolean("scale", scale)
        if isinstance(leak, tuple):
            if not leak:
                raise ValueError("leak is an empty tuple, but must hold at least one k in [0, 1].")
            self.leak = tuple(_frozen(cell, each) for each in leak)
        else:
            self.leak = _frozen(cell, leak)

    def parts(self) -> tuple[AbstractCell, Leaky]:
        """The cell, and its filters."""
        return self.cell, Leaky(self.leak, self.scale)

    def init(self, batch_shape: BatchShape = ()) -> tuple[PyTree, PyTree]:
        """The cell's initial state and a silent filter."""
        cell, emission = self.parts()
        state = cell.init(batch_axes(batch_shape))
        return state, emission.silent(cell.emit(state))

    def step(self, state: tuple[PyTree, PyTree], x: Array) -> tuple[PyTree, PyTree]:
        """One time step."""
        cell, emission = self.parts()
        inner = cell.step(state[0], x)
        return inner, emission.filter(state[1], cell.emit(inner))

    def emit(self, state: tuple[PyTree, PyTree]) -> Array:
        """The filtered emission: the features of all filters side by side."""
        return self.parts()[1].beside(state[1])

    def effective(self) -> "Filtered":
        """The same cell with masked weights."""
        return eqx.tree_at(lambda f: f.cell, self, self.cell.effective())

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of the cell."""
        return self.cell.in_range()

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        self.cell.check_input(features)


def _frozen(cell: AbstractCell, leak: Given) -> Constant:
    if isinstance(leak, jax.Array | AbstractConstrained):
        raise ValueError(
            "leak of Filtered is a constant, but a jax.Array came, which would train "
            f"({arguments.shown(leak)}): pass a float or a NumPy array."
        )
    if not arguments.is_real(leak):
        raise ValueError(
            "leak must be a number in [0, 1], one for each emitted feature, or a tuple of these, "
            f"but is {arguments.shown(leak)}."
        )
    emitted = np.shape(leak) and jax.eval_shape(lambda: cell.emit(cell.init(()))).shape[-1:]
    if np.shape(leak) != emitted:
        raise ValueError(
            f"leak must be one value or one for each emitted feature, {emitted}, but has the shape "
            f"{np.shape(leak)}; for several filters side by side pass a tuple."
        )
    arguments.check_range("leak", leak, arguments.FRACTION)
    return frozen(leak)

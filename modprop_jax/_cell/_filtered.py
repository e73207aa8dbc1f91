import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .. import _arguments as arguments
from .._constrained import AbstractConstrained
from .._precision import wide
from .._static import Constant, constant, numeric
from ._base import AbstractCell, as_cell, batch_axes, BatchShape, Final


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
            "init",
            "step",
            "emit",
            "silent",
            "filter",
            "read",
            "back",
            "effective",
            "check_input",
            "_each",
            "_coefficients",
        ),
        "For other dynamics write a FunctionCell.",
    )

    cell: AbstractCell
    leak: Constant | tuple[Constant, ...]
    scale: bool = eqx.field(static=True)

    def __init__(self, cell: AbstractCell, leak: Any, *, scale: bool = False):
        """**Arguments:**

        - `cell`: the cell whose emission is filtered.
        - `leak`: k in [0, 1]; scalar or one value for each emitted feature; or a tuple of these.
        - `scale`: multiply z by 1 - k, where k < 1.
        """
        if isinstance(cell, Filtered):
            raise ValueError(
                "cell is Filtered, and Filtered(Filtered(cell)) is not served: filter the emission "
                "once."
            )
        self.cell = as_cell("cell", cell)
        self.scale = arguments.boolean("scale", scale)
        if isinstance(leak, tuple) and not leak:
            raise ValueError("leak is an empty tuple, but must hold at least one k in [0, 1].")
        if isinstance(leak, tuple):
            self.leak = tuple(_frozen(cell, each) for each in leak)
        else:
            self.leak = _frozen(cell, leak)

    def init(self, batch_shape: BatchShape = ()) -> tuple[PyTree, PyTree]:
        """The cell's initial state and a silent filter."""
        state = self.cell.init(batch_axes(batch_shape))
        return state, self.silent(self.cell.emit(state))

    def step(self, state: tuple[PyTree, PyTree], x: Array) -> tuple[PyTree, PyTree]:
        """One time step."""
        inner, memory = state
        inner = self.cell.step(inner, x)
        return inner, self.filter(memory, self.cell.emit(inner))

    def emit(self, state: tuple[PyTree, PyTree]) -> Array:
        """The filtered emission."""
        return self.read(state[1])

    def silent(self, z: Float[Array, "..."]) -> PyTree:
        """The memory before the first step, for emissions shaped as z."""
        return self._each(lambda k: jnp.zeros(z.shape, wide(z.dtype)))

    def filter(self, memory: PyTree, z: Float[Array, "*batch n"]) -> PyTree:
        """The memory after one more emission."""

        def one(k, memory):
            leak, gain = self._coefficients(k, memory)
            return leak * memory + gain * z.astype(memory.dtype)

        return self._each(one, memory)

    def read(self, memory: PyTree) -> Array:
        """The memory as an emission: the features of all filters side by side."""
        return jnp.concatenate(memory, axis=-1) if isinstance(memory, tuple) else memory

    def back(self, credit: PyTree) -> tuple[PyTree, Array]:
        """Credit on the memory after a step, as credit on the memory before it and on z."""

        def one(k, credit):
            leak, gain = self._coefficients(k, credit)
            return leak * credit, gain * credit

        both = self._each(one, credit)
        if not isinstance(self.leak, tuple):
            return both
        memory, emitted = zip(*both)
        return memory, functools.reduce(jnp.add, emitted)

    def effective(self) -> "Filtered":
        """The same cell with masked weights."""
        return eqx.tree_at(lambda f: f.cell, self, self.cell.effective())

    def in_range(self) -> dict[str, Bool[Array, ""]]:
        """Of the cell."""
        return self.cell.in_range()

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        self.cell.check_input(features)

    def _each(self, function: Callable, *trees: PyTree) -> Any:
        """`function(leak, ...)` of each filter, one or a tuple of them."""
        if not isinstance(self.leak, tuple):
            return function(self.leak, *trees)
        return tuple(function(k, *leaves) for k, *leaves in zip(self.leak, *trees, strict=True))

    def _coefficients(self, k: Constant, z: Array) -> tuple[Array, Array]:
        """`(k, s_out)`, each shaped as z."""
        leak = jnp.broadcast_to(jnp.asarray(numeric(k, z.dtype), z.dtype), z.shape)
        if not self.scale:
            return leak, jnp.ones_like(leak)
        # 1 - k of the number that was given: of one near 1, the rounded k has few digits left
        value = np.asarray(k)
        gain = jnp.asarray(np.where(value < 1, 1 - value, 1), z.dtype)
        return leak, jnp.broadcast_to(gain, z.shape)


def _frozen(cell: AbstractCell, leak: Any) -> Constant:
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
    frozen = constant(leak)
    assert isinstance(frozen, Constant)
    return frozen

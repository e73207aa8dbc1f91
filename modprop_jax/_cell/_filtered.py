from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._static import Constant, constant, numeric
from ._base import AbstractCell


class Filtered(AbstractCell):
    r"""A cell whose emission is leaky: \( \bar z_t = k \bar z_{t-1} + s_{out} z_t \).

    The readout of spiking networks: `leak` is k, \( s_{out} \) is 1, or 1 - k with `scale`. The
    recurrent drive still sees z. The memory is the emission's: every rule transports it exactly,
    and what MDGL and ModProp call direct credit has passed through it. State: `(state, z̄)`.

    Streaming costs: e-prop keeps one more trace a synapse; MDGL and ModProp keep n more, since
    one past emission reaches all neurons. `leak` is a constant, scalar or one a neuron.
    """

    cell: AbstractCell
    leak: Constant
    scale: bool = eqx.field(static=True)

    def __init__(self, cell: AbstractCell, leak: Any, *, scale: bool = False):
        """**Arguments:**

        - `cell`: the cell whose emission is filtered.
        - `leak`: k in [0, 1); scalar or one value for each emitted feature.
        - `scale`: multiply z by 1 - k.
        """
        if isinstance(cell, Filtered):
            raise ValueError("Filtered(Filtered(cell)) is not served: filter the emission once.")
        if isinstance(leak, jax.Array):
            raise ValueError(
                "Filtered's leak is a constant, but a jax.Array came, which would train: "
                "pass a float or a NumPy array."
            )
        if not np.all((0 <= np.asarray(leak)) & (np.asarray(leak) < 1)):
            raise ValueError(f"leak must be in [0, 1), but is {leak}.")
        self.cell = cell
        frozen = constant(leak)
        assert isinstance(frozen, Constant)
        self.leak = frozen
        self.scale = scale

    def init(self, batch_shape: tuple[int, ...] = ()) -> tuple[PyTree, Array]:
        """The cell's initial state and a silent filter."""
        state = self.cell.init(batch_shape)
        return state, jnp.zeros_like(self.cell.emit(state))

    def step(self, state: tuple[PyTree, Array], x: Array) -> tuple[PyTree, Array]:
        """One time step."""
        inner, trace = state
        inner = self.cell.step(inner, x)
        return inner, self.filter(trace, self.cell.emit(inner))

    def emit(self, state: tuple[PyTree, Array]) -> Array:
        """The filtered emission."""
        return state[1]

    def filter(
        self, trace: Float[Array, "*batch n"], z: Float[Array, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """One step of the leaky filter."""
        leak, gain = self.coefficients(z)
        return leak * trace + gain * z

    def coefficients(self, z: Float[Array, "..."]) -> tuple[Array, Array]:
        """`(k, s_out)`, each shaped as z."""
        leak = jnp.broadcast_to(jnp.asarray(numeric(self.leak, z.dtype), z.dtype), z.shape)
        return leak, 1 - leak if self.scale else jnp.ones_like(leak)

    def effective(self) -> "Filtered":
        """The same cell with masked weights."""
        return eqx.tree_at(lambda f: f.cell, self, self.cell.effective())

    def check_input(self, features: int) -> None:
        """Raise a ValueError if inputs of this many features do not fit."""
        self.cell.check_input(features)

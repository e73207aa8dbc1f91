"""How near a network at equilibrium is to its excitation-inhibition set-point."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _arguments as arguments
from .._cell import EquilibriumCell
from .._cell._equilibrium import Equilibrium
from .._radius import radius
from .._tree import each


class EIBalance(NamedTuple):
    r"""Balance of an equilibrium, for each example.

    - `set_point`: mean over neurons of f(s) / max f, f the slope of the activation at the net
        input: 1 if all are where they respond most, 0 if all are saturated. Input units do not
        count.
    - `mismatch`: \|s_E - s_I\| / (s_E + s_I) of each unit, with the currents onto it: 0 balanced,
        1 one-sided; 0 without any current.
    - `radius`: spectral radius of diag(f) W, at which firing and credit converge; at 1 or more,
        sweeps do not.
    """

    set_point: Float[Array, "*batch"]
    mismatch: Float[Array, "*batch n"]
    radius: Float[Array, "*batch"]


def ei_balance(cell: EquilibriumCell, state: Equilibrium) -> EIBalance:
    """Balance telemetry of a state of an `EquilibriumCell`.

    Training pushes the radius up, and credit grows before the loss shows it. max f is taken over
    net inputs from -10 to 10. Cost: O(n³) an example for the radius, by some 50 matmuls.
    """
    if not isinstance(cell, EquilibriumCell):
        raise ValueError(f"cell must be an EquilibriumCell, but is {arguments.shown(cell)}.")
    if not isinstance(state, Equilibrium):
        raise ValueError(
            f"state must be one of the cell, an Equilibrium, but is {arguments.shown(state)}."
        )
    cell = cell.effective()
    slope, free = cell.slope(cell.drive(state.rates)), ~cell.inputs.numpy()
    points = jnp.linspace(-10, 10, 2001, dtype=slope.dtype)[:, None]
    steepest = cell.slope(jnp.broadcast_to(points, (2001, len(free)))).max()
    set_point = slope.mean(-1, where=np.broadcast_to(free, slope.shape)) / steepest
    excitatory, inhibitory = cell.currents(state)
    both = jnp.abs(excitatory) + jnp.abs(inhibitory)
    mismatch = jnp.abs(excitatory - inhibitory) / jnp.where(both > 0, both, 1)

    def largest(slope):
        return radius(slope[:, None] * cell.weight)

    return EIBalance(set_point, mismatch, each(largest, slope.ndim - 1)(slope))

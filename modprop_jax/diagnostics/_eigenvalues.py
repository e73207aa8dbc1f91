"""Eigenvalues of recurrent weights, and of a step of the dynamics."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Complex, Float, PyTree

from .. import _arguments as arguments, _figures as figures
from .._cell import AbstractCell, EquilibriumCell, Filtered, NeuronCell
from .._cell._base import as_cell, dynamics
from .._rule._base import over_members
from .._tree import inexact


def recurrent_eigenvalues(
    cell: AbstractCell, state: PyTree = None, x: Float[Array, " m"] | None = None
) -> Complex[np.ndarray, "*members n"]:
    r"""Eigenvalues of the effective recurrent weights, or of a step linearised about a state.

    \[ \lambda(W_{rec}), \qquad \text{or, with a state,} \qquad
       \lambda\!\left(\frac{\partial s_t}{\partial s_{t-1}}\right) \]

    The weights are those that the cell computes with: masks applied, autapses left out where the
    cell has none. The second are what decides about stability: all inside the unit circle, and a
    small deviation from the state's course dies away.

    **Arguments:** `cell`: of a trained network, `rnn.cell` (a `Filtered` one is that inside);
    without a state, also an ensemble of them. `state`, `x`: of one example, without batch axes; x
    is zero if None.

    Exact up to rounding; of a spiking cell the step is linearised with its surrogate derivative.
    NumPy, outside of `jit`. Cost: O(n³) time, O(n²) memory, also for `Sparse` maps.

    **Errors:** ValueError for a cell without one matrix of recurrent weights (`GRUCell`, `LRUCell`)
    where no state came.

    Source: on the spectrum of networks with excitation and inhibition, Rajan & Abbott, Phys. Rev.
    Lett. 97 (2006).
    """
    if isinstance(as_cell("cell", cell), Filtered) and state is not None:
        state = state[0]
    cell = dynamics(cell)
    if state is not None:
        return np.linalg.eigvals(step_jacobian(cell, state, x))
    return np.linalg.eigvals(recurrent_matrix(cell))


def recurrent_matrix(cell: AbstractCell) -> Float[np.ndarray, "*members n n"]:
    """The weights [post, pre] that a cell computes with, or a ValueError."""
    cell = dynamics(cell)
    if isinstance(cell, NeuronCell):
        return np.asarray(over_members(lambda one: one.effective().recurrent.as_matrix(), cell))
    if isinstance(cell, EquilibriumCell):
        return np.asarray(cell.effective().weight)
    raise ValueError(
        f"{type(cell).__name__} has no one matrix of recurrent weights: its step, linearised about "
        "a state, is what recurrent_eigenvalues(cell, state) shows."
    )


def step_jacobian(
    cell: AbstractCell, state: PyTree, x: Float[Array, " m"] | None = None
) -> Float[np.ndarray, "n n"]:
    """∂s_t/∂s_{t-1} of one example, its state flattened."""
    state, rest = jax.tree.map(jnp.asarray, state), jax.eval_shape(lambda: cell.init(()))
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (state, rest)]
    if jax.tree.structure(state) != jax.tree.structure(rest) or shapes[0] != shapes[1]:
        raise ValueError(
            "state must be that of one example, with no batch axes, but is "
            f"{arguments.shown(state)}."
        )
    flat, unravel = ravel_pytree(inexact(state))
    rest = eqx.filter(state, eqx.is_inexact_array, inverse=True)
    x = still(cell) if x is None else jnp.asarray(x)

    def after(flat):
        return ravel_pytree(inexact(cell.step(eqx.combine(unravel(flat), rest), x)))[0]

    return np.asarray(eqx.filter_jit(jax.jacrev(after))(flat))


def still(cell: AbstractCell) -> Array:
    """An input of nothing."""
    size = getattr(cell, "in_size", None)
    if size is None:
        raise ValueError(f"x must be given, as {type(cell).__name__} does not tell its in_size.")
    return jnp.zeros(size)


def plot_eigenvalues(values: npt.ArrayLike, *, radius: float | None = 1.0) -> Any:
    """A matplotlib figure of eigenvalues in the complex plane, and the circle of this radius.

    `values`: as of `recurrent_eigenvalues` (all that there are, of all members of an ensemble).
    The circle is where a step of the dynamics turns unstable; `radius=None` leaves it out.
    """
    found: Any = np.asarray(values).ravel()
    with figures.styled():
        figure = figures.blank(figures.COLUMN, figures.COLUMN)
        axes = figure.subplots()
        if radius is not None:
            turn = np.linspace(0, 2 * np.pi, 200)
            axes.plot(radius * np.cos(turn), radius * np.sin(turn), color="grey", ls="--", lw=0.8)
        axes.plot(found.real, found.imag, "o", color=figures.COLOURS[1], ms=3, mew=0, alpha=0.8)
        axes.axhline(0, color="grey", lw=0.5)
        axes.axvline(0, color="grey", lw=0.5)
        axes.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    return figure

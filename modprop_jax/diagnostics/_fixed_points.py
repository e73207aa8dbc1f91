"""Where a network's dynamics stands still, or nearly so."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from .. import _arguments as arguments, _figures as figures
from .._cell import AbstractCell, Filtered
from .._cell._base import as_cell, dynamics
from .._cell._lif import AbstractLIF
from ._eigenvalues import still


class FixedPoints(NamedTuple):
    """k points that `fixed_points` found, slowest first.

    `states` (k, d): the state, flattened (`unravel` makes the cell's of a row). `speed` (k,): root
    mean square change of a variable in a step. `fixed` (k,): whether that is none, up to rounding;
    else a slow point. `eigenvalues` (k, d): of the step linearised there. `stable` (k,): whether
    all are inside the unit circle. `starts` (k,): how many starts ended there. `lost`: how many
    ended where it is not slow.
    """

    states: Float[np.ndarray, "k d"]
    speed: Float[np.ndarray, " k"]
    fixed: Bool[np.ndarray, " k"]
    eigenvalues: Complex[np.ndarray, "k d"]
    stable: Bool[np.ndarray, " k"]
    starts: Int[np.ndarray, " k"]
    lost: int
    unravel: Any


def fixed_points(
    cell: AbstractCell,
    starts: PyTree,
    x: Float[Array, " m"] | None = None,
    *,
    slow: float = 1e-2,
    apart: float = 1e-2,
    max_steps: int = 256,
) -> FixedPoints:
    r"""Fixed and slow points of a cell under a constant input, from many starts.

    \[ q(s) = \tfrac12 \lVert F(s, x) - s \rVert^2, \qquad speed = \sqrt{2 q / d} \]

    with F a step of the cell and d the variables of its state. Each start goes down q by
    Levenberg and Marquardt's method: to a fixed point, where q is zero, stable or not; or to a
    local minimum above, which the dynamics passes slowly if q is small.

    **Arguments:**

    - `cell`: of a trained network, `rnn.cell`; of a `Filtered` cell the one inside.
    - `starts`: states with leading axes, such as those of a run: `zs, starts = rnn(xs,
        states=True)`. A few hundred, drawn among these, are enough.
    - `x`: the input, (m,); zero if None.
    - `slow`: the speed above which an end is left out.
    - `apart`: how far apart, in units of the spread of the starts, two ends are two points.
    - `max_steps`: of the search, for each start.

    **Returns:** a `FixedPoints`. Which are found depends on the starts; none is made up: `speed`
    is computed at each. Fixed: a speed below 1e-9 of the states' size in float64, 3e-5 in float32.
    NumPy, outside of `jit`. Cost: about ten steps of O(d³) a start, one start after the other;
    memory O(d²).

    **Errors:** ValueError for spiking cells, whose step jumps, and states that are not all floats.

    Departures from the source: Levenberg and Marquardt's method in place of Hessian-free descent.
    Source: Sussillo & Barak, Neural Computation 25 (2013).
    """
    cell, starts = _inner(as_cell("cell", cell), starts)
    slow = arguments.number("slow", slow, arguments.POSITIVE)
    apart = arguments.number("apart", apart, arguments.POSITIVE)
    max_steps = arguments.size("max_steps", max_steps)
    x = still(cell) if x is None else jnp.asarray(x)
    example = cell.init(())
    flat, unravel = ravel_pytree(example)
    begin = jnp.asarray(_rows(starts, example), flat.dtype)
    found = _ends(cell, begin, x, unravel, max_steps)
    ends, change, jacobians = map(np.asarray, found)
    speed = np.sqrt((change**2).mean(-1))
    kept = np.flatnonzero(np.isfinite(speed) & (speed <= slow))
    kept = kept[np.argsort(speed[kept], kind="stable")]
    spread = float(np.asarray(begin).std(0).max()) or 1.0
    places, counts = _distinct(ends[kept], apart * spread)
    at = kept[places]
    size = max(1.0, float(np.abs(ends[kept]).max(initial=0)))
    still_at = 1e-9 if flat.dtype == jnp.float64 else 3e-5
    eigenvalues = np.linalg.eigvals(jacobians[at]).astype(complex)
    stable = np.asarray((np.abs(eigenvalues) < 1).all(-1))
    return FixedPoints(
        ends[at],
        speed[at],
        speed[at] <= still_at * size,
        eigenvalues,
        stable,
        counts,
        len(begin) - len(kept),
        unravel,
    )


@eqx.filter_jit
def _ends(cell: AbstractCell, begin: Array, x: Array, unravel: Any, max_steps: int) -> Any:
    # imported here: few need it
    import optimistix

    least = 1e-12 if begin.dtype == jnp.float64 else 1e-6
    solver = optimistix.LevenbergMarquardt(rtol=least, atol=least)

    def change(flat, _=None):
        return ravel_pytree(cell.step(unravel(flat), x))[0] - flat

    def one(start):
        # backwards: a cell may have a derivative of its own, which has no forward mode
        options = {"jac": "bwd"}
        found = optimistix.least_squares(
            change, solver, start, options=options, max_steps=max_steps, throw=False
        ).value
        jacobian = jax.jacrev(change)(found) + jnp.eye(len(start), dtype=start.dtype)
        return found, change(found), jacobian

    # one after the other: batches of solves would all take as long as the slowest
    return jax.lax.map(one, begin)


def _inner(cell: AbstractCell, starts: PyTree) -> tuple[AbstractCell, PyTree]:
    """The dynamics alone, and its part of the states."""
    if isinstance(cell, Filtered):
        starts = starts[0]
    cell = dynamics(cell)
    leaves = jax.tree.leaves(jax.eval_shape(lambda: cell.init(())))
    if isinstance(cell, AbstractLIF) or not all(
        jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    ):
        raise ValueError(
            f"fixed_points needs a cell with a smooth step and a state of floats, but is given a "
            f"{type(cell).__name__}: of spiking neurons, look at firing_rates."
        )
    return cell, starts


def _rows(starts: PyTree, example: PyTree) -> np.ndarray:
    """(starts, d): each start, flattened as `ravel_pytree` does it."""
    if jax.tree.structure(starts) != jax.tree.structure(example):
        raise ValueError(
            "starts must be states of the cell with leading axes, as of rnn(xs, states=True), but "
            f"is {arguments.shown(starts)}."
        )
    parts = []
    for leaf, one in zip(jax.tree.leaves(starts), jax.tree.leaves(example)):
        if np.shape(leaf)[np.ndim(leaf) - np.ndim(one) :] != np.shape(one) or np.ndim(leaf) == 0:
            raise ValueError(
                f"starts must have the shape (..., {', '.join(map(str, np.shape(one)))}), but has "
                f"{np.shape(leaf)}."
            )
        parts.append(np.asarray(leaf).reshape(-1, max(np.size(one), 1)))
    return np.concatenate(parts, axis=1)


def _distinct(ends: np.ndarray, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of ends that are apart, the first of each kind, and how many are of it."""
    places: list[int] = []
    counts: list[int] = []
    for place, end in enumerate(ends):
        away = np.abs(ends[places] - end).max(-1) if places else np.zeros(0)
        if (away <= apart).any():
            counts[int(away.argmin())] += 1
        else:
            places.append(place)
            counts.append(1)
    return np.array(places, int), np.array(counts, int)


def plot_fixed_points(found: FixedPoints, states: npt.ArrayLike | None = None) -> Any:
    """A matplotlib figure: the points in the plane of the states' first two components.

    Filled: stable; open: not; squares: slow, not fixed. `states` (T, *batch, d), drawn as lines:
    the run that the starts were of; of a cell whose state has several variables, side by side.
    """
    d = found.states.shape[-1]
    runs = found.states[None] if states is None else np.asarray(states)
    if runs.shape[-1] != d:
        raise ValueError(f"states must be (T, *batch, {d}), but has the shape {runs.shape}.")
    runs = runs.reshape(len(runs), -1, d)
    flat = runs.reshape(-1, d)
    middle = flat.mean(0)
    axes_of = np.linalg.svd(flat - middle, full_matrices=False)[2][:2]
    if len(axes_of) < 2:
        axes_of = np.concatenate([axes_of, np.zeros((2 - len(axes_of), d))])

    with figures.styled():
        figure = figures.blank(figures.COLUMN, 2.9)
        axes = figure.subplots()
        if states is not None:
            for run in np.moveaxis((runs - middle) @ axes_of.T, 1, 0)[:50]:
                axes.plot(*run.T, color="0.7", lw=0.6, zorder=1)
        points = (found.states - middle) @ axes_of.T
        names = {
            ("fixed", True): ("o", "stable fixed point"),
            ("fixed", False): ("o", "unstable fixed point"),
            ("slow", True): ("s", "slow point, contracting"),
            ("slow", False): ("s", "slow point"),
        }
        kinds = np.where(found.fixed, "fixed", "slow")
        for (kind, stable), (marker, name) in names.items():
            at = points[(kinds == kind) & (found.stable == stable)]
            colour = figures.COLOURS[1 if kind == "fixed" else 0]
            face = colour if stable else "white"
            if len(at):
                axes.plot(*at.T, marker, mfc=face, mec=colour, ls="", ms=5, label=name, zorder=3)
        axes.set(xlabel="first component", ylabel="second component")
        if len(points):
            figure.legend(loc="outside lower center", ncols=2)
    return figure

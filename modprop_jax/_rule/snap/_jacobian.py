"""The entries of a cell's Jacobians that an influence needs, for one example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..._cell import AbstractCell, SeparableCell
from ..._cell._claims import apart, linear_drive
from ..._inputs import drive_of, features, Inputs
from ..._precision import start_of
from ..._trace._rows import from_rows, to_rows
from ..._tree import inexact, pullback
from ._pattern import Pattern
from ._structure import Dependence, features_of, rows_after, with_parameter


def coupling(cell: AbstractCell) -> Any:
    """∂drive/∂message (drives, n, n) of a separable cell: it is the same at all steps.

    () where units send nothing, None for a cell without this structure.
    """
    if not isinstance(cell, SeparableCell) or not linear_drive(cell):
        return None
    if not apart(cell, "integrate", "message"):
        return None
    state = start_of(cell)
    message = cell.message(state)
    x = jnp.zeros(cell.in_size, to_rows(state).dtype)
    arrays = inexact((state, message, cell.drive(message, x)))
    if {leaf.shape for leaf in jax.tree.leaves(arrays)} != {(cell.hidden_size,)}:
        return None
    if message is None:
        return ()

    def drives(message):
        return to_rows(cell.drive(message, x)).reshape(-1, cell.hidden_size)

    rows = len(jax.tree.leaves(drives(message))[0])
    unit = jnp.eye(rows * cell.hidden_size, dtype=message.dtype)
    (found,) = jax.vmap(pullback(drives, message))(unit.reshape(-1, rows, cell.hidden_size))
    return found.reshape(rows, cell.hidden_size, cell.hidden_size)


def state_entries(
    pattern: Pattern, cell: Any, coupled: PyTree, before: PyTree, x: Array | Inputs
) -> Float[Array, " entries"]:
    """J at the pattern's entries.

    Of a separable cell, own part and coupling apart: one pullback of the elementwise step for each
    state variable, where the Jacobian of the whole step takes one for each colour of its rows, n if
    all are connected.
    """
    rows, cols, places = pattern.entries
    if coupled is None:
        return pattern.step.state.evaluate(
            lambda v: rows_after(cell, from_rows(v, before), x), to_rows(before)
        )[places]
    n = cell.hidden_size
    drive = drive_of(cell, cell.message(before), x)

    def integrate(v, d):
        state = cell.integrate(from_rows(v.ravel(), before), from_rows(d.ravel(), drive))
        return to_rows(state).reshape(-1, n)

    v, d = to_rows(before).reshape(-1, n), to_rows(drive).reshape(-1, n)
    each = jnp.broadcast_to(jnp.eye(len(v), dtype=v.dtype)[..., None], (len(v), *v.shape))
    own, received = jax.vmap(pullback(integrate, v, d))(each)
    (after, i), (earlier, j) = np.divmod(rows, n), np.divmod(cols, n)
    entries = jnp.where(i == j, own[after, earlier, i], 0)
    if isinstance(coupled, tuple):
        return entries
    (sent,) = pullback(lambda v: cell.message(from_rows(v.ravel(), before)), v)(jnp.ones_like(d[0]))
    across = jnp.sum(received[after, :, i] * coupled[:, i, j].T, axis=-1)
    return entries + across * sent[earlier, j]


def emission_entries(
    found: Dependence, cell: AbstractCell, state: PyTree, x: Array | Inputs
) -> Float[Array, " values"]:
    """Derivatives of the emission by the state."""
    return found.state.evaluate(lambda v: features_of(cell, from_rows(v, state), x), to_rows(state))


def parameter_entries(
    found: Dependence, function: Callable, cell: AbstractCell, state: PyTree, x: Array | Inputs
) -> Float[Array, " values"]:
    """Derivatives of `function(cell, state, x)` by all parameters, side by side."""

    def one(index, part, leaf):
        return part.evaluate(lambda p: function(with_parameter(cell, index, p), state, x), leaf)

    parts = zip(found.parameters, jax.tree.leaves(inexact(cell)), strict=True)
    values = [one(index, *both) for index, both in enumerate(parts)]
    return jnp.concatenate([jnp.zeros(0, features(x).dtype), *values])

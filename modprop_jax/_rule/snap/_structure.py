"""What depends on what in a cell, whatever the values of its parameters and states."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._cell import AbstractCell, SeparableCell
from ..._precision import start_of
from ..._skeleton import Skeleton, skeleton
from ..._static import thawed
from ..._trace._rows import from_rows, to_rows
from ..._tree import inexact, is_shape
from ._sparsity import detect, Sparse


class Dependence(NamedTuple):
    """Where a vector can depend on the state's rows, and on each parameter array."""

    state: Sparse
    parameters: tuple[Sparse, ...]


def rows_after(cell: AbstractCell, state: PyTree, x: PyTree) -> Array:
    """The rows after a step of one example."""
    return to_rows(cell.step(state, x))


def features_of(cell: AbstractCell, state: PyTree, x: PyTree) -> Array:
    """The emission of one example, which does not depend on the input."""
    del x
    return cell.emit(state).reshape(-1)


def with_parameter(cell: AbstractCell, index: int, value: Array) -> AbstractCell:
    """The cell with another value of one of its parameter arrays."""
    differentiable, rest = eqx.partition(cell, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(differentiable)
    leaves[index] = value
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


@functools.lru_cache(maxsize=64)
def dependence(bones: Skeleton, in_size: int, function: Callable) -> Dependence:
    """Of `function(cell, state, x)`, a vector: `rows_after` or `features_of`."""
    cells = _generic_cells(bones)
    state = _initial(cells[0])
    dtype = jax.eval_shape(to_rows, state).dtype
    x = np.zeros(in_size, dtype)

    def by_state():
        def of(cell):
            return lambda rows, state, x: function(cell, from_rows(rows, state), x)

        rows = np.zeros(len(units(bones)), dtype)
        return detect([of(cell) for cell in cells], rows, state, x)

    def by_parameter(index, leaf):
        def of(cell):
            return lambda value, state, x: function(with_parameter(cell, index, value), state, x)

        return detect([of(cell) for cell in cells], np.zeros(leaf.shape, leaf.dtype), state, x)

    parameters = list(filter(is_shape, bones.leaves))
    return Dependence(
        by_state(), tuple(by_parameter(index, leaf) for index, leaf in enumerate(parameters))
    )


@functools.lru_cache(maxsize=64)
def units(bones: Skeleton) -> np.ndarray:
    """The unit of each row: the position in state variables of n units, or of one shape; else its
    own.
    """
    cell = _generic_cells(bones)[0]
    leaves = jax.tree.leaves(inexact(_initial(cell)))
    shapes = {leaf.shape for leaf in leaves}
    shape = shapes.pop() if len(shapes) == 1 else None
    if isinstance(cell, SeparableCell):
        shape = (cell.hidden_size,)
    start, found = 0 if shape is None else math.prod(shape), []
    for leaf in leaves:
        unit = np.arange(leaf.size)
        if leaf.shape != shape:
            unit, start = start + unit, start + leaf.size
        found.append(np.tile(unit, 2 if np.iscomplexobj(leaf) else 1))
    return np.concatenate(found)


def within_units(cell: AbstractCell, in_size: int) -> bool:
    """Whether each parameter acts on the variables of one unit alone."""
    bones = skeleton(cell)
    unit = units(bones)
    for part in dependence(bones, in_size, rows_after).parameters:
        acts = np.unique(np.stack([part.cols, unit[part.rows]]), axis=1)
        if len(np.unique(acts[0])) < acts.shape[1]:
            return False
    return True


def _initial(cell: AbstractCell) -> PyTree:
    with jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, start_of(cell))


def _generic_cells(bones: Skeleton) -> list[AbstractCell]:
    """Cells with parameters of no particular value, so that zeros that come out are structure.

    Of both signs, since a weight may be rectified; concrete while something is traced.
    """

    def value(leaf, sign):
        if is_shape(leaf):
            values = sign * np.random.default_rng(0).uniform(0.5, 1.5, leaf.shape)
            return jnp.asarray(values, leaf.dtype)
        return thawed(leaf)

    with jax.ensure_compile_time_eval():
        return [
            jax.tree.unflatten(bones.structure, [value(leaf, sign) for leaf in bones.leaves])
            for sign in (1, -1)
        ]

"""A segment as it runs, forward in time."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, PyTree

from .._cell import AbstractCell, SeparableCell
from .._credit import Flags, Record
from .._flags import entering, where_valid
from .._inputs import drive_of, Inputs
from .._sharding import over_steps


def run(
    step: Callable[[PyTree, Any], tuple[PyTree, Any]],
    cell: AbstractCell,
    before: PyTree,
    inputs: Array | Inputs,
    flags: Flags | None = None,
    unroll: int = 1,
    start: PyTree = None,
) -> tuple[PyTree, Record]:
    """The last state and the record of a segment, by this step: the state after it, and its drive.

    `start`: the state that sequences inside begin with, if it learns; None: the cell's own.
    """

    def body(state, at):
        x, flags = at
        state = entering(cell, flags, state, start)
        after, drive = step(state, x)
        state = where_valid(flags, after, state)
        return state, (state, drive)

    last, (states, drives) = over_steps(body, before, (inputs, flags), unroll=unroll)
    return last, Record(before, states, drives, inputs, flags=flags, start=start)


def by_drive(cell: SeparableCell) -> Callable[[PyTree, Any], tuple[PyTree, Any]]:
    """A separable cell's step, which shows its drive."""

    def step(state, x):
        drive = drive_of(cell, cell.message(state), x)
        return cell.integrate(state, drive), drive

    return step


def whole(step: Callable[[PyTree, Any], PyTree]) -> Callable[[PyTree, Any], tuple[PyTree, None]]:
    """A step that shows no drive."""
    return lambda state, x: (step(state, x), None)

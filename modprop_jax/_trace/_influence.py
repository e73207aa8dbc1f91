"""The influence of parameters on the state, of rules that carry it forward step by step."""

import abc
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, PyTree

from .._cell import AbstractCell
from .._credit import Point, Record
from .._flags import select_trace
from .._precision import widened
from .._reverse import inner_cell, points_of
from .._sharding import over_steps
from ._base import AbstractTrace


class Influence(NamedTuple):
    """What an influence trace holds: of the state, and of a filtered emission's memory, else ()."""

    state: PyTree
    memory: PyTree = ()


class AbstractInfluence(AbstractTrace):
    r"""The trace of a rule that only runs forward: \( M_t \), advanced at every step.

    \[ \nabla_\theta = \sum_t c_t M_t \]

    with \(c_t\) the direct credit on the state at t. `forward_segment` makes the gradient of a
    segment from `advance` and `contract`, and `extend` is `advance` over the segment. Values are an
    `Influence`, leaves (_, *batch, ...). F_t = ∂step/∂θ at a fixed state; what only the emission
    reads, and what it does with the state, is not the trace's but for a `Filtered` memory.
    """

    @abc.abstractmethod
    def advance(
        self,
        rule: Any,
        cell: AbstractCell,
        prepared: PyTree,
        point: Point,
        after: PyTree,
        trace: Influence,
    ) -> Influence:
        """M after a step, from the state before it (in `point`) and after it.

        For a `Filtered` cell the memory's influence comes too; for its inner cell `trace.memory`
        is empty.
        """

    def extend(
        self, rule: Any, cell: AbstractCell, prepared: PyTree, record: Record, trace: Influence
    ) -> Influence:
        """The trace after all steps of a segment."""

        begins = record.start is not None

        def body(trace, at):
            point, after = at
            return onward(self, rule, cell, prepared, point, after, trace, begins), None

        steps = points_of(inner_cell(cell), record), record.states
        return over_steps(body, trace, steps)[0]

    def hold(self, keep: Bool[Array, "*batch"], further: PyTree, trace: PyTree) -> PyTree:
        """`further` where an example's step takes place, else the trace as it was."""
        return select_trace(keep, further, trace)


def onward(
    influence: AbstractInfluence,
    rule: Any,
    cell: AbstractCell,
    prepared: PyTree,
    point: Point,
    after: PyTree,
    trace: Influence,
    begins: bool = False,
) -> Influence:
    """`advance`, from nothing where a sequence begins, and not at all where no step takes place.

    `begins`: from what the influence has there of the start, in place of nothing.
    """
    cell = widened(cell)
    if point.flags is None:
        return influence.advance(rule, cell, prepared, point, after, trace)
    fresh = point.flags.fresh
    if begins:
        trace = influence.begin(rule, cell, fresh, trace)
    else:
        trace = influence.forget(fresh, trace)
    further = influence.advance(rule, cell, prepared, point, after, trace)
    return influence.hold(point.flags.keep, further, trace)

"""The influence of parameters on the state, of rules that carry it forward step by step."""

import abc
from typing import NamedTuple

from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .._credit import Point, Record
from .._flags import select_trace
from .._precision import widened
from .._program._base import AbstractProgram
from .._program._reverse import points_of
from .._sharding import over_steps
from .._tree import with_fields
from ._base import AbstractTrace


class Influence(NamedTuple):
    """What an influence trace holds: of the state, and of a filtered emission's memory, else ()."""

    state: PyTree
    memory: PyTree = ()


class AbstractInfluence(AbstractTrace):
    r"""The trace of a rule that only runs forward: \( M_t \), advanced at every step.

    \[ \nabla_\theta = \sum_t c_t M_t \]

    with \(c_t\) the direct credit on the state at t. The program makes the gradient of a
    segment from `advance` and `contract`, and `extend` is `advance` over the segment. Values are an
    `Influence`, leaves (_, *batch, ...). F_t = ∂step/∂θ at a fixed state; what only the emission
    reads, and what it does with the state, is not the trace's but for a `Filtered` memory.
    """

    @abc.abstractmethod
    def init(
        self, on: AbstractProgram, state: PyTree, key: PRNGKeyArray | None = None
    ) -> Influence:
        """Before the first step; `key`: of what is drawn."""

    @abc.abstractmethod
    def advance(
        self, on: AbstractProgram, point: Point, after: PyTree, trace: Influence
    ) -> Influence:
        """M after a step, from the state before it (in `point`) and after it.

        The influence of an emission's memory comes too; of an unfiltered program, `trace.memory` is
        empty.
        """

    def extend(self, on: AbstractProgram, record: Record, trace: Influence) -> Influence:
        """The trace after all steps of a segment."""

        begins = record.start is not None

        def body(trace, at):
            point, after = at
            return advance_or_begin(self, on, point, after, trace, begins), None

        steps = points_of(on.cell, record), record.states
        return over_steps(body, trace, steps)[0]

    def renews(self, on: AbstractProgram) -> bool:
        """Whether a sequence begins with something, also where its start does not learn."""
        return False

    def hold(self, keep: Bool[Array, "*batch"], further: PyTree, trace: PyTree) -> PyTree:
        """`further` where an example's step takes place, else the trace as it was."""
        return select_trace(keep, further, trace)


def advance_or_begin(
    influence: AbstractInfluence,
    on: AbstractProgram,
    point: Point,
    after: PyTree,
    trace: Influence,
    begins: bool = False,
) -> Influence:
    """`advance`, from nothing where a sequence begins, and not at all where no step takes place.

    `begins`: from what the influence has there of the start, in place of nothing.
    """
    on = with_fields(on, cell=widened(on.cell))
    if point.flags is None:
        return influence.advance(on, point, after, trace)
    fresh = point.flags.fresh
    if begins or influence.renews(on):
        trace = influence.begin(on, fresh, trace)
    else:
        trace = influence.forget(fresh, trace)
    further = influence.advance(on, point, after, trace)
    return influence.hold(point.flags.keep, further, trace)

"""A rule on a cell, bound once: what the segment primitive, traces and rules work with."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell import NeuronCell, SeparableCell
from .._cell._emission import AbstractEmission, Plain
from .._credit import Flags
from .._flags import erase, select
from .._inputs import features, Inputs
from .._precision import start_of
from .._start import start_learns
from .._tree import nothing, stop, with_fields


class Boundary(NamedTuple):
    """What holds between two segments: the layer's state, and, of a stream, the value of the trace
    and what the rule has observed of the run so far."""

    state: PyTree
    trace: PyTree = None
    observed: PyTree = None


class Steps(NamedTuple):
    """What comes at the steps of a segment, leaves (T, *batch, ...).

    `context`: what the rule alone reads, else None. `ended`: which examples end with the last step
    (*batch), else None.
    """

    inputs: Array | Inputs
    flags: Flags | None = None
    context: Array | None = None
    ended: Array | None = None

    @property
    def xs(self) -> Array:
        """The inputs, without what is added to the drive."""
        return features(self.inputs)

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes of the batch."""
        return self.xs.shape[1:-1]


class Loop(NamedTuple):
    """How to run: steps whose weight gradient is one matmul (None: by size), and `unroll`."""

    chunk: int | None
    unroll: int


class AbstractProgram(eqx.Module):
    """A rule on a cell: what `scan` runs, and all that a rule or a trace needs to know.

    `cell`: the dynamics, with their masks applied. `emission`: what is made of theirs. `weights`:
    what the rule makes of the weights alone, once a call. `trace`: what carries the past between
    segments; None: it is cut, or there is none. `streams`: whether a `Carry` brings the past; else
    the state is a bare one, which is differentiable. `name`: the rule's, for messages.
    """

    rule: Any
    cell: Any
    emission: AbstractEmission
    weights: PyTree
    trace: Any
    streams: bool = eqx.field(static=True)
    name: str = eqx.field(static=True)

    @property
    @abc.abstractmethod
    def credits_start(self) -> bool:
        """Whether credit comes to a start that learns."""

    @abc.abstractmethod
    def init(self, state: PyTree, key: PRNGKeyArray | None) -> Boundary:
        """Before the first step of a stream, from a layer's state."""

    @abc.abstractmethod
    def segment(self, start: Boundary, steps: Steps, loop: Loop) -> tuple[Boundary, Array, PyTree]:
        """The boundary after the steps, the emissions, and the layer's states after each step.

        Its derivative is the rule's. What comes where no step takes place is for `scan` to erase.
        """

    def begin(self, ended: Array, end: Boundary) -> Boundary:
        """The boundary, at a fresh start where an example has ended."""
        state = start_of(self.cell, ended.shape)
        state = self.emission.join(state, self.emission.silent(self.cell.emit(state)))
        trace = None if end.trace is None else stop(self.begin_trace(ended, end.trace))
        return Boundary(select(ended, state, end.state), trace, erase(ended, end.observed))

    def begin_trace(self, ended: Array, value: PyTree) -> PyTree:
        """The value of the trace, that of the cell's own start where an example has ended."""
        return self.trace.begin(self, ended, value)

    def batch_axes(self, value: PyTree) -> PyTree:
        """Where the axes of the batch begin in each leaf of the trace's value; None: it is shared
        by all examples."""
        return None if self.trace is None else self.trace.batch_axes(value)

    @property
    def separable(self) -> bool:
        """Whether units are coupled only through drives."""
        return isinstance(self.cell, SeparableCell)

    @property
    def neurons(self) -> bool:
        """Whether the drive is one sum over afferents."""
        return isinstance(self.cell, NeuronCell)

    def unfiltered(self) -> "AbstractProgram":
        """The same, of the cell's own emission."""
        return with_fields(self, emission=Plain())

    def gradient(self, cell: PyTree) -> "AbstractProgram":
        """The cotangent of a program: that of the cell, and none for the rest."""
        return with_fields(nothing(self), cell=cell)

    def first(self, flags: Flags | None) -> PyTree:
        """The state that sequences inside a segment begin with, if it learns; else None."""
        if flags is None or not start_learns(self.cell):
            return None
        return start_of(self.cell, flags.fresh.shape[1:])

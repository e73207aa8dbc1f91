"""Rules whose credit goes back in time: each is one linear step, `back`."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from .._cell import AbstractCell
from .._credit import Back, Credit, Point, Record
from .._program._base import AbstractProgram
from .._program._side_by_side import Decay
from .._program._transport import Transport
from .._trace import AbstractTrace
from .._tree import with_fields
from ._base import AbstractRule


class AbstractObserver(eqx.Module):
    """What a rule measures of a run, step by step; it is no part of the derivative."""

    @abc.abstractmethod
    def init(self, on: AbstractProgram, batch: tuple[int, ...]) -> PyTree:
        """Before the first step."""

    @abc.abstractmethod
    def steps(self, on: AbstractProgram, record: Record, seen: PyTree) -> tuple[PyTree, PyTree]:
        """For each step what `back` needs of the steps before it, arrays (T, *batch, ...), and what
        was observed after the last."""

    @abc.abstractmethod
    def on_memory(
        self, on: AbstractProgram, record: Record, before: PyTree, memories: PyTree, seen: PyTree
    ) -> tuple[PyTree, PyTree]:
        """What the rule makes of the error on a filtered emission, step by step: the memories after
        each step, their value unchanged and their derivative the rule's; and what was observed.
        `before`: the memory before the first step."""


class Blind(AbstractObserver):
    """Nothing is measured."""

    def init(self, on: AbstractProgram, batch: tuple[int, ...]) -> tuple[()]:
        """Nothing."""
        return ()

    def steps(self, on: AbstractProgram, record: Record, seen: PyTree) -> tuple[tuple[()], PyTree]:
        """Nothing."""
        return (), seen

    def on_memory(
        self, on: AbstractProgram, record: Record, before: PyTree, memories: PyTree, seen: PyTree
    ) -> tuple[PyTree, PyTree]:
        """As JAX has it."""
        return memories, seen


class AbstractTransportRule(AbstractRule):
    r"""A rule that is one linear function, `back`: credit one step back in time.

    From it follow the offline gradient of a segment, and streaming: the value of the trace at a
    segment's end is the segment's own reverse, started from unit credit.

    What rules and traces get as `on` is the rule on a cell: `on.cell` (the dynamics, masks
    applied), `on.emission`, and `on.weights`, which `prepare` has made.
    """

    @abc.abstractmethod
    def back(self, on: AbstractProgram, point: Point, credit: Credit, direct: PyTree) -> Back:
        """Credit one step back: `credit` from later steps, `direct` from the emission."""

    def on(
        self, cell: AbstractCell, in_size: int | None = None, *, streams: bool = True
    ) -> Transport:
        """The program of `back`; with the trace, if it streams."""
        return transported(self, self, cell, streams=streams)

    def prepare(self, cell: Any) -> PyTree:
        """What depends on the weights alone (type means); made once a call, from the dynamics."""
        return ()

    def trace(self, on: AbstractProgram) -> AbstractTrace | None:
        """The trace that carries the past between segments; None: the past is cut."""
        return None

    def modulator(self, cell: Any, batch_shape: tuple[int, ...]) -> PyTree:
        """Zeros shaped as `Credit.modulator`."""
        return ()

    @property
    def observer(self) -> AbstractObserver:
        """What it measures of a run."""
        return Blind()

    @property
    def instantaneous(self) -> bool:
        """Whether inputs get credit from the emission of their own step alone."""
        return False

    def decay(self, on: AbstractProgram) -> Decay | None:
        """All that `back` does, if that is the same at all steps, on neurons of one variable; else
        None."""
        return None

    def receives(self, on: AbstractProgram) -> bool:
        """Whether credit on a state is all that the trace must know of it: `receive` then says what
        that is."""
        return False

    def receive(self, on: AbstractProgram, direct: Credit) -> Credit:
        """Direct credit on a state, as what the trace takes."""
        return direct


class AbstractSurrogateRule(AbstractTransportRule):
    """A transport rule that is also the derivative of one step, whatever comes after."""

    @abc.abstractmethod
    def step(self, cell: Any, state: PyTree, x: Array) -> PyTree:
        """One step: the cell's value, the rule's derivative, in forward and reverse mode."""


def transported(
    rule: AbstractTransportRule, named: AbstractRule, cell: AbstractCell, *, streams: bool
) -> Transport:
    """A transport rule on a cell, in the name of a rule."""
    inner, emission = cell.parts()
    name = type(named).__name__
    weights = rule.prepare(inner)
    on = Transport(rule, inner.effective(), emission, weights, None, streams, name)
    return with_fields(on, trace=rule.trace(on)) if streams else on

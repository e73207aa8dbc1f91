"""The program of a rule whose credit goes back in time: `back` is all that it is made of."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell._base import batch_shape
from .._credit import Credit, Record
from .._inputs import drive_of, Inputs
from .._start import at_start, start_learns
from .._tree import add, inexact, materialise, nothing, pullback, stop
from .._vjp import with_derivative
from ._base import AbstractProgram, Boundary, Loop, Steps
from ._chunk import auto_chunk
from ._reverse import direct_credit, emitted, instantaneous, reverse
from ._run import by_drive, run, whole


class Transport(AbstractProgram):
    """A rule with `back`. From that alone: the derivative of a segment's steps (`through`), what a
    trace is extended by, and, where the trace knows all credit of a step, one step (`_one_step`).
    """

    @property
    def credits_start(self) -> bool:
        """Yes: it comes back to there."""
        return True

    def init(self, state: PyTree, key: PRNGKeyArray | None) -> Boundary:
        """An empty trace; of the cell's own start, where that learns and the state is it."""
        del key
        inner, _ = self.emission.split(state)
        batch, past = batch_shape(self.cell, inner), None
        if self.trace is not None:
            past = self.trace.init(self, inner)
            if start_learns(self.cell):
                past = self.trace.begin(self, at_start(self.cell, inner, batch), past)
            past = stop(past)
        return Boundary(state, past, self.rule.observer.init(self, batch))

    def segment(self, start: Boundary, steps: Steps, loop: Loop) -> tuple[Boundary, Array, PyTree]:
        """The past, the steps, and what is made of their emission."""
        at, value, seen = self._enter(start, steps.batch)
        if self._lands(steps):
            return self._one_step(at, value, seen, steps)
        if self.trace is not None:
            at = start_from_trace(Past(self, at, value))
        last, zs, record, seen = self._run(at, seen, steps, loop)
        memory, memories = self.emission.run(at.memory, zs, steps.flags, loop.unroll)
        observer = self.rule.observer
        memories, seen = observer.on_memory(self, record, at.memory, memories, seen)
        zs, states = self.emission.read(memories, zs), self.emission.join(record.states, memories)
        if self.trace is not None:
            value = stop(self.trace.extend(*stop((self, record, value))))
        # of a bare state nothing goes on but the state
        seen = stop(seen) if self.streams else None
        return Boundary(self.emission.join(last, memory), value, seen), zs, states

    def _enter(self, start: Boundary, batch: tuple[int, ...]) -> tuple[Credit, PyTree, PyTree]:
        """Where credit will come to, the past, and what was observed of it."""
        start = stop(start) if self.streams else start
        state, memory = self.emission.split(start.state)
        at = Credit(state, self.rule.modulator(self.cell, batch), memory)
        if self.streams:
            return at, start.trace, start.observed
        return at, None, self.rule.observer.init(self, batch)

    def _run(
        self, at: Credit, seen: PyTree, steps: Steps, loop: Loop
    ) -> tuple[PyTree, Array, Record, PyTree]:
        """Last state, emissions, record, and what is observed then."""
        if self.separable:
            segment = Segment(self, at.state, at.modulator, steps, self.first(steps.flags), seen)
            return through(segment, loop)
        # without units the derivative is JAX's own, of the rule's step
        step = whole(lambda state, x: self.rule.step(self.cell, state, x))
        how = steps.inputs, steps.flags, loop.unroll, self.first(steps.flags)
        last, record = run(step, self.cell, at.state, *how)
        return last, emitted(self.cell, record.states), record, seen

    def _lands(self, steps: Steps) -> bool:
        """Whether the trace, with a single step in it, knows all credit of that step."""
        single = self.trace is not None and len(steps.xs) == 1 and steps.flags is None
        return single and self.neurons and self.rule.receives(self)

    def _one_step(
        self, at: Credit, value: PyTree, seen: PyTree, steps: Steps
    ) -> tuple[Boundary, Array, PyTree]:
        cell, emission = self.cell, self.emission
        last, record = stop(run(by_drive(cell), cell, at.state, steps.inputs))
        known, seen = stop(self.rule.observer.steps(self, record, seen))
        record = record._replace(observed=known)
        value = stop(self.trace.extend(*stop((self, record, value))))
        memory = emission.filter(at.memory, cell.emit(last))
        end = Credit(last, at.modulator, memory)
        end = end_from_trace(Landing(self, end, steps.inputs, record, value))
        last = emission.join(end.state, end.memory)
        zs = emission.read(end.memory, cell.emit(end.state))[None]
        return Boundary(last, value, seen), zs, jax.tree.map(lambda a: a[None], last)


class Segment(NamedTuple):
    """The steps of a segment, from a state and no credit yet (`modulator`: zeros, whose cotangent
    is the rule's own credit at the start). `start`: see `run`. `seen`: what was observed before."""

    on: Transport
    before: PyTree
    modulator: PyTree
    steps: Steps
    start: PyTree
    seen: PyTree


def through(segment: Segment, loop: Loop) -> tuple[PyTree, Array, Record, PyTree]:
    """Last state, emissions, record and what is observed; the derivative is the rule's.

    What was observed has no cotangent, nor has the record but for its states, whose cotangent is
    direct credit on them.
    """
    batch = segment.steps.batch

    def forward(segment):
        on, before, _, steps, start, seen = segment
        step = by_drive(on.cell)
        last, record = run(step, on.cell, before, steps.inputs, steps.flags, loop.unroll, start)
        known, seen = on.rule.observer.steps(on, record, seen)
        record = record._replace(observed=known)
        return (last, on.cell.emit(record.states), record, seen), record

    def backward(segment, record, cotangents):
        on, before, modulator, steps, start, _ = segment
        ct_last, ct_zs, ct_record, _ = cotangents
        direct = direct_credit(on.cell, record, (ct_last, ct_zs, ct_record.states))
        zero = Credit(jax.tree.map(jnp.zeros_like, inexact(before)), modulator)
        if start is not None:
            zero = zero._replace(start=zero.state)
        chunk = loop.chunk or auto_chunk(math.prod(batch), on.cell.hidden_size)
        gradient, credit, inputs = reverse(on, record, direct, zero, chunk)
        if on.rule.instantaneous:
            inputs = instantaneous(on.cell, record, direct)
        return nothing(segment)._replace(
            on=on.gradient(gradient),
            before=credit.state,
            modulator=credit.modulator,
            steps=nothing(steps)._replace(inputs=inputs),
            start=None if start is None else credit.start,
        )

    return with_derivative(forward, backward)(segment)


class Past(NamedTuple):
    """The start of a segment, shaped as the credit that will come to it; and the trace's value."""

    on: AbstractProgram
    start: Credit
    value: PyTree


def start_from_trace(past: Past) -> Credit:
    """The start, whose derivative is the trace; no cotangent goes further back."""

    def backward(past, _, credit):
        credit = Credit(*materialise(credit, past.start))
        gradient = past.on.trace.contract(past.on, past.value, credit)
        return nothing(past)._replace(on=past.on.gradient(gradient))

    return with_derivative(lambda past: (past.start, ()), backward)(past)


class Landing(NamedTuple):
    """The end of a segment of one step, its record, and the trace's value that includes it."""

    on: Transport
    end: Credit
    inputs: Array | Inputs
    record: Record
    value: PyTree


def end_from_trace(landing: Landing) -> Credit:
    """The end, whose derivative is the trace."""

    def backward(landing, _, credit):
        on, end, inputs, record, value = landing
        credit = Credit(*materialise(credit, end))
        gradient = on.trace.contract(on, value, on.rule.receive(on, credit))
        total = credit.state
        _, emitted = on.emission.back(credit.memory)
        if emitted is not None:
            total = add(total, *pullback(on.cell.emit, end.state)(emitted))
        (drive,) = pullback(lambda d: on.cell.integrate(record.before, d), record.drives[0])(total)
        sent = on.cell.message(record.before)
        now = jax.tree.map(lambda a: a[0], inputs)
        (inputs,) = pullback(lambda x: drive_of(on.cell, sent, x), now)(drive)
        inputs = jax.tree.map(lambda a: a[None], inputs)
        return nothing(landing)._replace(on=on.gradient(gradient), inputs=inputs)

    return with_derivative(lambda landing: (landing.end, ()), backward)(landing)

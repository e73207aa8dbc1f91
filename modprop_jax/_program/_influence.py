"""The program of a rule that only runs forward: its influence is advanced at every step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cell._base import batch_shape
from .._credit import Credit, Record
from .._fold import fold
from .._precision import widened
from .._sharding import batch_groups
from .._start import at_start, start_learns
from .._trace._influence import AbstractInfluence, advance_or_begin
from .._tree import add, as_dtypes, at_step, nothing, stop, zeros_of
from .._vjp import with_derivative
from ._base import AbstractProgram, Boundary, Loop, Steps
from ._reverse import by_steps, direct_credit, emitted, instantaneous, points_of
from ._run import run, whole
from ._transport import Past, start_from_trace


class Influence(AbstractProgram):
    r"""A rule that is its influence M, `trace`: \( \nabla_\theta = \sum_t c_t M_t \).

    `of_start`: the influence of a bare state; None where it gets no credit, or in a stream.
    """

    of_start: AbstractInfluence | None

    @property
    def credits_start(self) -> bool:
        """Where the influence has it: in a stream, or of a bare state."""
        return self.streams or self.of_start is not None

    def init(self, state: PyTree, key: PRNGKeyArray | None) -> Boundary:
        """An influence of nothing; of the cell's own start, where the state is one that learns."""
        inner, _ = self.emission.split(state)
        value = self.trace.init(self, inner, key)
        if start_learns(self.cell):
            own = at_start(self.cell, inner, batch_shape(self.cell, inner))
            value = self.trace.begin(self, own, value)
        return Boundary(state, stop(value), ())

    def segment(self, start: Boundary, steps: Steps, loop: Loop) -> tuple[Boundary, Array, PyTree]:
        """The steps, and what is made of their emission, through whose memory the past is seen."""
        start = stop(start) if self.streams else start
        state, memory = self.emission.split(start.state)
        if self.streams and self.emission.remembers:
            past = start_from_trace(Past(self, Credit(state, (), memory), start.trace))
            state, memory = past.state, past.memory
        segment = Segment(self, state, steps, self.first(steps.flags), start.trace)
        last, zs, record, value = through(segment, loop)
        memory, memories = self.emission.run(memory, zs, steps.flags, loop.unroll)
        zs, states = self.emission.read(memories, zs), self.emission.join(record.states, memories)
        return Boundary(self.emission.join(last, memory), value, start.observed), zs, states


class Segment(NamedTuple):
    """The steps of a segment from a state, and the value of the influence (None: it is that of a
    bare state). `start`: see `run`."""

    on: Influence
    before: PyTree
    steps: Steps
    start: PyTree
    value: PyTree


def through(segment: Segment, loop: Loop) -> tuple[PyTree, Array, Record, PyTree]:
    r"""Last state, emissions, record and influence after a segment.

    The derivative: \(\sum_t c_t M_t\). With a value (streaming) the past is the influence's, and
    `before` has no cotangent; without, M starts from zeros, and `before` gets what `of_start` makes
    of it; so does `start`.

    Memory: the states of the segment, and M; the gradient takes one more pass over the segment to
    advance M, but for a segment of one step.
    """

    def forward(segment):
        on, before, steps, start, value = segment
        step = whole(on.cell.step)
        last, record = run(step, on.cell, before, steps.inputs, steps.flags, loop.unroll, start)
        if value is not None:
            value = on.trace.extend(on, record, value)
        landed = value if len(steps.xs) == 1 else None
        return (last, emitted(on.cell, record.states), record, value), (record, landed)

    def backward(segment, residuals, cotangents):
        on, before, steps, start, value = segment
        record, landed = residuals
        ct_last, ct_zs, ct_record, _ = cotangents
        direct = direct_credit(on.cell, record, (ct_last, ct_zs, ct_record.states))
        own, credit = by_steps(on.cell, record, direct)
        gradient, ct_before, ct_start = _charged(segment, record, landed, credit)
        return nothing(segment)._replace(
            on=on.gradient(add(*widened((own, gradient)))),
            before=ct_before,
            steps=nothing(steps)._replace(inputs=instantaneous(on.cell, record, direct)),
            start=ct_start,
        )

    return with_derivative(forward, backward)(segment)


def _charged(
    segment: Segment, record: Record, landed: PyTree, credit: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """Direct credit on each step's state, as a gradient of the cell, of a bare state before the
    segment and of the state that sequences inside begin with."""
    whole, before, steps, start, value = segment
    on = whole.unfiltered()

    def contract(of, value, direct):
        return of.contract(on, value, Credit(direct))

    def summed(of, value, of_step, like, lead=(), begins=False):
        at = points_of(on.cell, record), record.states, credit

        def step(index, value):
            point, after, direct = at_step(at, index)
            value = advance_or_begin(of, on, point, after, value, begins)
            return value, of_step(of, value, direct)

        return fold(step, value._replace(memory=()), zeros_of(like, lead), len(record.xs))[1]

    ct_before, ct_start = nothing((before, start))
    if landed is not None:
        first = jax.tree.map(lambda d: d[0], credit)
        gradient = contract(on.trace, landed._replace(memory=()), first)
    else:
        groups = batch_groups(steps.batch) if on.trace.by_example else 1
        begins = value is not None and start is not None
        value_then = on.trace.init(on, before, None) if value is None else value
        of_step = _by_group(contract, groups)
        by_group = summed(on.trace, value_then, of_step, on.cell, (groups,), begins)
        gradient = jax.tree.map(lambda s: s.sum(0), by_group)
    if value is None and whole.of_start is not None:
        identity = whole.of_start.init(on, before, None)
        ct_before = as_dtypes(summed(whole.of_start, identity, contract, before), before)
        if start is not None:
            none_yet = jax.tree.map(jnp.zeros_like, identity)
            ct_start = summed(whole.of_start, none_yet, contract, before, begins=True)
            ct_start = as_dtypes(ct_start, before)
    return gradient, ct_before, ct_start


def _by_group(contract: Callable, groups: int) -> Callable:
    """`contract`, summed over each of the groups of the batch on its own; see `batch_groups`."""

    def run(of, value, direct):
        if groups == 1:
            return jax.tree.map(lambda a: a[None], contract(of, value, direct))

        def split(axis):
            def one(a):
                size = a.shape[axis] // groups
                return a.reshape(*a.shape[:axis], groups, size, *a.shape[axis + 1 :])

            return one

        value, direct = jax.tree.map(split(1), value), jax.tree.map(split(0), direct)
        each = jax.vmap(lambda value, direct: contract(of, value, direct), in_axes=(1, 0))
        return each(value, direct)

    return run

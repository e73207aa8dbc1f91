"""The program of a rule that estimates credit on the spot: its trace goes on with the error."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._credit import Record
from .._flags import erase
from .._sharding import over_steps
from .._trace._by_error import AwaitingError, by_error, ByError, tokens
from .._tree import add, nothing, stop
from .._vjp import with_derivative
from ._base import AbstractProgram, Boundary, Loop, Steps
from ._reverse import by_steps, direct_credit, emitted, points_of
from ._run import run, whole


class Estimate(AbstractProgram):
    r"""A rule that is its trace, with an estimate of credit: \( \nabla_\theta = \sum_t
    \hat\lambda_t F_t \).

    `cell` is the layer: credit on an emission's memory is estimated as that on a state is.
    """

    @property
    def credits_start(self) -> bool:
        """No."""
        return False

    def init(self, state: PyTree, key: PRNGKeyArray | None) -> Boundary:
        """Before anything is learned, but for what the trace starts with."""
        return Boundary(state, stop(ByError(self.trace.init(self, state, key))), ())

    def segment(self, start: Boundary, steps: Steps, loop: Loop) -> tuple[Boundary, Array, PyTree]:
        """The steps; in place of the next trace comes what says that it awaits the error."""
        self._check(steps)
        state, value = start.state, start.trace
        if self.streams:
            state = stop(state)
        else:
            value = self.init(state, None).trace
        context, xs = steps.context, steps.xs
        context = jnp.zeros((*xs.shape[:-1], 0)) if context is None else context
        steps = steps._replace(context=context.astype(xs.dtype))
        state, zs, states, awaiting = through(Segment(self, value, state, steps), loop)
        value = awaiting if self.streams else None
        return Boundary(state, value, start.observed), zs, states

    def _check(self, steps: Steps) -> None:
        """A ValueError unless `context` is what the rule reads, and errors can move the state."""
        if self.trace.nudge(self) is not None and (len(steps.xs) > 1 or not self.streams):
            came = f"{len(steps.xs)} steps from a {'Carry' if self.streams else 'bare state'}"
            raise ValueError(
                f"The error of {self.name} nudges the state of this {type(self.cell).__name__} "
                f"after each step, but {came} came: stream it with online_value_and_grad(..., "
                "segment=1), or run it without errors under BPTT, as in with_rule(model, BPTT())."
            )
        want, context = self.rule.context_size, steps.context
        have = None if context is None else context.shape
        if want is None or have == (*steps.xs.shape[:-1], want) or not (want or have):
            return
        raise ValueError(
            f"{self.name} was made for context (T, *batch, k) = {(*steps.xs.shape[:-1], want)}, "
            f"such as one-hot labels, but context={have} came: pass context=, or make the "
            "rule with another number of labels."
        )

    def begin_trace(self, ended: Array, value: ByError | AwaitingError) -> ByError | AwaitingError:
        """No past, which the backward pass sees to where the value awaits the error."""
        if tokens(value):
            return value
        return ByError(self.trace.forget(ended, *by_error(value)))

    def batch_axes(self, value: ByError) -> ByError:
        """Those of what the value holds."""
        return ByError(self.trace.batch_axes(value.value))


class Segment(NamedTuple):
    """The steps of a segment from a state, and the value of the trace before them."""

    on: Estimate
    value: ByError
    before: PyTree
    steps: Steps


def through(segment: Segment, loop: Loop) -> tuple[PyTree, Array, PyTree, AwaitingError]:
    r"""Last state, emissions, states, and in place of the next trace what awaits it.

    The derivative: \(\sum_t \hat\lambda_t F_t\). The cotangent of the value is not a gradient, but
    the value after the segment.

    Memory: the states of the segment and the trace.
    """

    def forward(segment):
        on, _, before, steps = segment
        step = whole(on.cell.step)
        last, record = run(step, on.cell, before, steps.inputs, steps.flags, loop.unroll)
        zs = emitted(on.cell, record.states)
        awaiting = AwaitingError(jnp.zeros((), zs.dtype), on.trace.nudge(on))
        return (last, zs, record.states, awaiting), record

    def backward(segment, record, cotangents):
        on, value, _, steps = segment
        on.trace.check_states(on, cotangents[2])
        own, direct = by_steps(on.cell, record, direct_credit(on.cell, record, cotangents[:3]))
        credit, after = credits_of(on, record, direct, steps.context, value.value)
        if steps.ended is not None:
            after = on.trace.forget(steps.ended, after)
        gradient, inputs = on.trace.charge(on, points_of(on.cell, record), record.states, credit)
        return nothing(segment)._replace(
            on=on.gradient(add(own, gradient)),
            value=ByError(after),
            steps=nothing(steps)._replace(inputs=inputs),
        )

    return with_derivative(forward, backward)(segment)


def credits_of(
    on: AbstractProgram, record: Record, direct: PyTree, context: Array, value: PyTree
) -> tuple[PyTree, PyTree]:
    """The rule's credit on the state after each step of a segment, and the trace after it."""

    def body(value, at):
        point, after, direct, context = at
        if point.flags is not None:
            value = on.trace.forget(point.flags.fresh, value)
        credit, further = on.trace.advance(on, point, after, direct, context, value)
        if point.flags is not None:
            credit = erase(~point.flags.keep, credit)
            further = on.trace.hold(point.flags.keep, further, value)
        return further, credit

    steps = points_of(on.cell, record), record.states, direct, context
    value, credit = over_steps(body, value, steps)
    return credit, value

"""The three derivatives that make a segment: its steps, its past, and a single step's landing."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._cell import AbstractCell, Filtered, SeparableCell
from ._cell._inputs import drive_of, Inputs
from ._credit import Credit, Flags, Record
from ._flags import entering, settled
from ._precision import times_back
from ._reverse import instantaneous, on_states, reverse
from ._sharding import over_steps
from ._tree import add, inexact, materialise, nothing, pullback
from ._vjp import with_derivative


def forward(
    cell: SeparableCell,
    before: PyTree,
    xs: Array | Inputs,
    flags: Flags | None,
    unroll: int,
    start: PyTree = None,
) -> tuple[PyTree, Array, Record]:
    """Last state, emissions and record of a segment of a separable cell."""

    def body(state, at):
        x, flags = at
        state = entering(cell, flags, state, start)
        drive = drive_of(cell, cell.message(state), x)
        state = settled(flags, cell.integrate(state, drive), state)
        return state, (state, drive)

    last, (states, drives) = over_steps(body, before, (xs, flags), unroll=unroll)
    return last, cell.emit(states), Record(before, states, drives, xs, flags=flags, start=start)


def plain(
    rule: Any,
    cell: AbstractCell,
    before: PyTree,
    xs: Array,
    flags: Flags | None,
    unroll: int,
    start: PyTree = None,
) -> tuple[PyTree, Array, Record]:
    """As `forward`, for any cell: the derivative is JAX's own, of the rule's step."""

    def body(state, at):
        x, flags = at
        state = entering(cell, flags, state, start)
        state = settled(flags, rule.step(cell, state, x), state)
        return state, (state, cell.emit(state))

    last, (states, zs) = over_steps(body, before, (xs, flags), unroll=unroll)
    return last, zs, Record(before, states, None, xs, flags=flags, start=start)


def record_of(
    cell: AbstractCell,
    before: PyTree,
    xs: Array | Inputs,
    flags: Flags | None = None,
    unroll: int = 1,
    start: PyTree = None,
) -> Record:
    """A segment as it runs, of any cell that is effective, by the cell's own step."""

    def body(state, at):
        x, flags = at
        state = entering(cell, flags, state, start)
        state = settled(flags, cell.step(state, x), state)
        return state, state

    _, states = over_steps(body, before, (xs, flags), unroll=unroll)
    return Record(before, states, None, xs, flags=flags, start=start)


def observed(
    rule: Any, cell: SeparableCell, prepared: PyTree, record: Record, so_far: PyTree
) -> tuple[Record, PyTree]:
    """The record with what the rule observes in it, and what it has observed so far."""
    seen, so_far = rule.observe(cell, prepared, record, so_far)
    return record._replace(observed=seen), so_far


def segment(pack: tuple, *, chunk: int, unroll: int) -> tuple[PyTree, Array, Record, PyTree]:
    """`forward`, whose derivative is the rule's.

    pack = (cell, before, extra, xs, start, rule, prepared, so_far, flags). `extra` is zeros; its
    cotangent is the rule's extra credit at the start. `start`: the state that sequences inside
    begin with, if it depends on parameters, else None. `so_far`, what the rule has observed, has no
    cotangent, nor has the record but for its states, whose cotangent is direct credit on them.
    """

    def run(pack):
        cell, before, _, xs, start, rule, prepared, so_far, flags = pack
        last, zs, record = forward(cell, before, xs, flags, unroll, start)
        record, so_far = observed(rule, cell, prepared, record, so_far)
        return (last, zs, record, so_far), record

    def backward(pack, record, cotangents):
        cell, before, extra, _, start, rule, prepared, *rest = pack
        ct_last, ct_zs, ct_record, _ = cotangents
        ct_states = on_states(ct_record.states, record.states)
        if ct_zs is None:
            zs = jax.eval_shape(cell.emit, record.states)
            ct_zs = jnp.zeros(zs.shape, zs.dtype)
        ct_last = materialise(ct_last, before) if jax.tree.leaves(ct_last) else None
        zero = Credit(jax.tree.map(jnp.zeros_like, inexact(before)), extra)
        if start is not None:
            zero = zero._replace(start=zero.state)
        direct = ct_zs, ct_states, ct_last
        gradient, credit, ct_xs = reverse(rule, cell, prepared, record, *direct, zero, chunk)
        if rule.instantaneous:
            ct_xs = instantaneous(cell, record, *direct)
        ct_start = None if start is None else credit.start
        rest = nothing((rule, prepared, *rest))
        return gradient, credit.state, credit.extra, ct_xs, ct_start, *rest

    return with_derivative(run, backward)(pack)


def past(pack: tuple) -> Credit:
    """The start of a segment, whose derivative is the trace.

    pack = (cell, start, value, trace, rule, prepared); `start` is a `Credit`-shaped state; no
    cotangent goes further back.
    """

    def backward(pack, _, credit):
        cell, start, value, trace, rule, prepared = pack
        credit = Credit(*materialise(credit, start))
        gradient = trace.contract(rule, cell, prepared, value, credit)
        return gradient, *nothing((start, value, trace, rule, prepared))

    return with_derivative(lambda pack: (pack[1], ()), backward)(pack)


def landing(pack: tuple) -> Credit:
    """The end of a one-step segment, whose derivative is the trace that includes the step.

    pack = (cell, end, xs, (whole cell, record, value, trace, rule, prepared)).
    """

    def backward(pack, _, credit):
        cell, end, _, rest = pack
        whole, record, value, trace, rule, prepared = rest
        credit = Credit(*materialise(credit, end))
        arrived = rule.arrive(cell, prepared, credit)
        gradient = trace.contract(rule, cell, prepared, value, arrived)
        total = credit.state
        if isinstance(whole, Filtered):
            _, emitted = whole.back(credit.filter)
            (emitted,) = pullback(cell.emit, end.state)(emitted)
            total = add(total, emitted)
        (drive,) = pullback(lambda d: cell.integrate(record.before, d), record.drives[0])(total)
        ct_xs = times_back(drive, cell.weight_in)[None]
        if isinstance(record.inputs, Inputs):
            ct_xs = Inputs(ct_xs, drive[None])
        return gradient, nothing(end), ct_xs, nothing(rest)

    return with_derivative(lambda pack: (pack[1], ()), backward)(pack)

"""The derivative of a segment under a rule whose trace the error advances."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._cell import AbstractCell
from ._credit import Record
from ._flags import erase
from ._reverse import emitted, on_states, points_of
from ._rule import Carry
from ._segment import record_of
from ._sharding import over_steps
from ._trace._advanced import AbstractCreditTrace, Advanced, Pending
from ._tree import add, materialise, nothing, pullback
from ._vjp import with_derivative


def credited_segment(pack: tuple, unroll: int) -> tuple[PyTree, Array, PyTree, Pending]:
    r"""Last state, emissions and states;
    the derivative: \(\sum_t \hat\lambda_t F_t\), and the next trace.

    pack = (cell, value of the trace, before, xs, context, flags, ended, trace, rule). The cotangent
    of the value is not a gradient, but the value after the segment.

    Memory: the states of the segment and the trace.
    """

    def run(pack):
        cell, _, before, xs, _, flags, _, trace, _ = pack
        record = record_of(cell, before, xs, flags, unroll)
        last = jax.tree.map(lambda s: s[-1], record.states)
        zs = emitted(cell, record.states)
        pending = Pending(jnp.zeros((), zs.dtype), trace.settle(cell))
        return (last, zs, record.states, pending), record

    def backward(pack, record, cotangents):
        cell, value, before, xs, context, flags, ended, trace, rule = pack
        ct_last, ct_zs, ct_states, _ = cotangents
        trace.check_states(cell, ct_states)
        if ct_zs is None:
            zs = jax.eval_shape(lambda: emitted(cell, record.states))
            ct_zs = jnp.zeros(zs.shape, zs.dtype)
        ct_last = materialise(ct_last, before)
        gradient, direct = pullback(emitted, cell, record.states)(ct_zs)
        direct = jax.tree.map(lambda d, last: d.at[-1].add(last), direct, ct_last)
        direct = add(direct, on_states(ct_states, record.states))
        credit, after = credits_of(rule, trace, cell, record, direct, context, value.value)
        if ended is not None:
            after = trace.forget(ended, after)
        points = points_of(cell, record)
        fresh, ct_xs = trace.charge(rule, cell, points, record.states, credit)
        rest = nothing((context, flags, ended, trace, rule))
        return add(gradient, fresh), Advanced(after), nothing(before), ct_xs, *rest

    return with_derivative(run, backward)(pack)


def credits_of(
    rule: Any,
    trace: AbstractCreditTrace,
    cell: AbstractCell,
    record: Record,
    direct: PyTree,
    context: Array,
    value: PyTree,
) -> tuple[PyTree, PyTree]:
    """The rule's credit on the state after each step of a segment, and the trace after it."""

    def body(value, at):
        point, after, direct, context = at
        if point.flags is not None:
            value = trace.forget(point.flags.fresh, value)
        credit, further = trace.advance(rule, cell, point, after, direct, context, value)
        if point.flags is not None:
            credit = erase(~point.flags.keep, credit)
            further = trace.hold(point.flags.keep, further, value)
        return further, credit

    steps = points_of(cell, record), record.states, direct, context
    value, credit = over_steps(body, value, steps)
    return credit, value


def with_next(carry: PyTree, cotangents: list[PyTree]) -> PyTree:
    """The carry after a segment: the next values, and the states as the error leaves them.

    A trace that no `scan` took up stays as it is.
    """
    rest = iter(cotangents)

    def one(node):
        if not _went_on(node):
            next(rest)
            return node
        value, settle = next(rest), node.trace.settle
        state = node.state if settle is None else settle(node.state, value)
        return Carry(state, Advanced(value), node.observed, node.rule)

    def is_node(node):
        return isinstance(node, Advanced) or _went_on(node)

    return jax.tree.map(lambda node: one(node) if is_node(node) else node, carry, is_leaf=is_node)


def _went_on(node: Any) -> bool:
    return isinstance(node, Carry) and isinstance(node.trace, Pending)

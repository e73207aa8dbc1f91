"""The derivative of a segment under a rule that only runs forward."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._cell import AbstractCell
from ._credit import Credit, Record
from ._fold import fold
from ._precision import widened
from ._reverse import emitted, inner_cell, instantaneous, on_states, points_of
from ._rule._forward import AbstractForwardRule
from ._segment import record_of
from ._sharding import batch_groups
from ._trace._influence import AbstractInfluence, onward
from ._tree import add, as_dtypes, at_step, materialise, nothing, pullback, zeros_of
from ._vjp import with_derivative


def forward_segment(pack: tuple, unroll: int) -> tuple[PyTree, Array, Record, PyTree]:
    r"""Last state, emissions, record and trace after a segment; the derivative: \(\sum_t c_t M_t\).

    pack = (cell, before, xs, begin, flags, rest), rest = (whole cell, value of the trace,
    influence, influence of the start, rule, prepared); `cell` is the whole cell without the filter
    of its emission. With a value (streaming) the past is the trace's, and `before` has no
    cotangent; without, M starts from zeros, and `before` gets what `from_start` makes of it; so
    does `begin`, the state that sequences inside begin with, if it learns, else None.

    Memory: the states of the segment, and M; the gradient takes one more pass over the segment to
    advance M, but for a segment of one step.
    """

    def run(pack):
        cell, before, xs, begin, flags, (whole, value, influence, _, rule, prepared) = pack
        record = record_of(cell, before, xs, flags, unroll, begin)
        last = jax.tree.map(lambda s: s[-1], record.states)
        if value is not None:
            value = influence.extend(rule, whole, prepared, record, value)
        landed = value if len(record.xs) == 1 else None
        return (last, emitted(cell, record.states), record, value), (record, landed)

    def backward(pack, residuals, cotangents):
        cell, before, xs, begin, flags, rest = pack
        _, value, influence, from_start, rule, prepared = rest
        record, landed = residuals
        ct_last, ct_zs, ct_record, _ = cotangents
        ct_states = on_states(ct_record.states, record.states)
        if ct_zs is None:
            zs = jax.eval_shape(lambda: emitted(cell, record.states))
            ct_zs = jnp.zeros(zs.shape, zs.dtype)
        ct_last = materialise(ct_last, before)
        gradient, direct = pullback(emitted, cell, record.states)(ct_zs)
        direct = jax.tree.map(lambda d, last: d.at[-1].add(last), direct, ct_last)
        direct = add(direct, ct_states)
        ct_xs = instantaneous(cell, record, ct_zs, ct_states, ct_last)

        def contract(of, value, direct):
            return of.contract(rule, cell, prepared, value, Credit(direct))

        def summed(of, value, of_step, like, lead=(), begins=False):
            steps = points_of(cell, record), record.states, direct

            def step(index, value):
                point, after, direct = at_step(steps, index)
                value = onward(of, rule, cell, prepared, point, after, value, begins)
                return value, of_step(of, value, direct)

            start, zeros = value._replace(memory=()), zeros_of(like, lead)
            return fold(step, start, zeros, len(record.xs))[1]

        ct_before, ct_begin = nothing((before, begin))
        if landed is not None:
            first = jax.tree.map(lambda d: d[0], direct)
            more = contract(influence, landed._replace(memory=()), first)
        else:
            start = influence.init(rule, cell, before) if value is None else value
            groups = batch_groups(record.xs.shape[1:-1]) if influence.by_example else 1
            begins = value is not None and begin is not None
            of_step = _by_group(contract, groups)
            by_group = summed(influence, start, of_step, cell, (groups,), begins)
            more = jax.tree.map(lambda s: s.sum(0), by_group)
        if value is None and from_start is not None:
            start = from_start.init(rule, cell, before)
            ct_before = as_dtypes(summed(from_start, start, contract, before), before)
            if begin is not None:
                none_yet = jax.tree.map(jnp.zeros_like, start)
                ct_begin = summed(from_start, none_yet, contract, before, begins=True)
                ct_begin = as_dtypes(ct_begin, before)
        rest = nothing((flags, rest))
        return add(*widened((gradient, more))), ct_before, ct_xs, ct_begin, *rest

    return with_derivative(run, backward)(pack)


def influences(
    rule: AbstractForwardRule, cell: AbstractCell, in_size: int, *, streaming: bool
) -> tuple[AbstractInfluence, AbstractInfluence | None]:
    """M of a segment, and, where it starts from a bare state, that of the state."""
    if streaming:
        return rule.influence(cell, in_size), None
    inner = inner_cell(cell)
    return rule.influence(inner, in_size), rule.from_start(inner, in_size)


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

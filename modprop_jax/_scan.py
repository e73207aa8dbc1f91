"""`scan`: a cell over a segment of time, with a credit rule as its derivative."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from ._cell import AbstractCell, Filtered, NeuronCell
from ._check import check_scan
from ._credit import Credit, Record
from ._reverse import default_chunk, inner_cell, reverse
from ._rule import AbstractRule, BPTT, Carry
from ._tree import add, inexact, materialise, pullback, stop


def scan(
    cell: AbstractCell,
    carry: PyTree,
    xs: Array,
    *,
    rule: AbstractRule = BPTT(),
    context: Array | None = None,
    chunk: int | None = None,
    unroll: int = 1,
) -> tuple[PyTree, Array]:
    r"""`jax.lax.scan` of a cell, with the credit rule as its derivative.

    The value is the cell's whatever the rule: \(s_t = step(s_{t-1}, x_t)\), \(z_t = emit(s_t)\).
    """
    del context
    state = carry.state if isinstance(carry, Carry) else carry
    check_scan(cell, carry, xs, rule, chunk)
    batch = xs.shape[1:-1]
    prepared = stop(rule.prepare(inner_cell(cell)))
    cell = cell.effective()
    xs = xs.astype(_dtype(state)) if jnp.issubdtype(xs.dtype, jnp.inexact) else xs
    inner = inner_cell(cell)
    trace = rule.trace(cell) if isinstance(carry, Carry) else None
    start = _split(rule, cell, state, batch)
    if isinstance(carry, Carry):
        start = stop(start)
    if trace is not None and len(xs) == 1 and isinstance(inner, NeuronCell):
        if rule.arrive(inner, prepared, start) is not None:
            return _online(rule, cell, carry, start, prepared, xs, trace)
    if trace is not None:
        start = _past((inner, start, stop(carry.trace), trace))
    if isinstance(inner, NeuronCell):
        chunk = chunk or default_chunk(*_sizes(inner, batch))
        pack = inner, start.state, start.extra, xs, rule, prepared
        last, zs, record = _segment(pack, chunk=chunk, unroll=unroll)
    else:
        last, zs, record = _plain(rule, inner, start.state, xs, unroll)
    if isinstance(cell, Filtered):
        memory, zs = lax.scan(_twice(cell.filter), start.filter, zs, unroll=unroll)
        last = last, memory
    if not isinstance(carry, Carry):
        return last, zs
    if trace is None:
        return Carry(last, None, carry.made_by), zs
    constants = stop((rule, cell, prepared, record, carry.trace))
    return Carry(last, stop(trace.extend(*constants)), carry.made_by), zs


def _split(
    rule: AbstractRule, cell: AbstractCell, state: PyTree, batch: tuple[int, ...]
) -> Credit:
    """A state in the coordinates of credit: with a place for all that a rule transports."""
    extra = rule.extra(inner_cell(cell), batch)
    if isinstance(cell, Filtered):
        return Credit(state[0], extra, state[1])
    return Credit(state, extra)


def _online(rule, cell, carry, start, prepared, xs, trace):
    """A segment of one step: the trace already knows all credit, so nothing goes back."""
    inner = inner_cell(cell)
    last, z, record = lax.stop_gradient(_forward(inner, start.state, xs, 1))
    past = stop(trace.extend(rule, *stop((cell, prepared, record, carry.trace))))
    end = Credit(last, start.extra)
    if isinstance(cell, Filtered):
        end = Credit(last, start.extra, cell.filter(start.filter, z[0]))
    end = _landing((inner, cell, end, xs, record, past, trace, rule, prepared))
    if isinstance(cell, Filtered):
        return Carry((end.state, end.filter), past, carry.made_by), end.filter[None]
    return Carry(end.state, past, carry.made_by), inner.emit(end.state)[None]


@eqx.filter_custom_vjp
def _landing(pack):
    """The end of a one-step segment: its value, whose derivative is the trace."""
    return pack[2]


@_landing.def_fwd
def _landing_fwd(perturbed, pack):
    del perturbed
    return pack[2], None


@_landing.def_bwd
def _landing_bwd(residuals, credit, perturbed, pack):
    del residuals, perturbed
    inner, cell, end, xs, record, past, trace, rule, prepared = pack
    credit = Credit(*materialise(credit, end))
    gradient = trace.contract(inner, past, rule.arrive(inner, prepared, credit))
    total = credit.state
    if isinstance(cell, Filtered):
        _, gain = cell.coefficients(credit.filter)
        (emitted,) = pullback(inner.emit, end.state)(gain * credit.filter)
        total = add(total, emitted)
    (drive,) = pullback(lambda d: inner.integrate(record.before, d), record.drives[0])(total)
    ct_xs = (drive @ inner.weight_in)[None]
    none = jax.tree.map(lambda _: None, (cell, end, record, past, trace, rule, prepared))
    return gradient, none[0], none[1], ct_xs, *none[2:]


@eqx.filter_custom_vjp
def _past(pack):
    """The start of a segment: its value, whose derivative is the trace."""
    return pack[1]


@_past.def_fwd
def _past_fwd(perturbed, pack):
    del perturbed
    return pack[1], None


@_past.def_bwd
def _past_bwd(residuals, credit, perturbed, pack):
    del residuals, perturbed
    cell, start, past, trace = pack
    credit = Credit(*materialise(credit, start))
    gradient = trace.contract(cell, past, credit)
    return gradient, *jax.tree.map(lambda _: None, (start, past, trace))


@eqx.filter_custom_vjp
def _segment(pack, *, chunk, unroll):
    """States, emissions and record of a segment of a neuron cell."""
    del chunk
    cell, before, _, xs, _, _ = pack
    return _forward(cell, before, xs, unroll)


@_segment.def_fwd
def _segment_fwd(perturbed, pack, *, chunk, unroll):
    del perturbed
    out = _segment(pack, chunk=chunk, unroll=unroll)
    return out, out[2]


@_segment.def_bwd
def _segment_bwd(record, cotangents, perturbed, pack, *, chunk, unroll):
    del perturbed, unroll
    cell, before, extra, xs, rule, prepared = pack
    ct_last, ct_zs, _ = cotangents
    if ct_zs is None:
        ct_zs = jnp.zeros_like(jax.eval_shape(cell.emit, record.states))
    if not jax.tree.leaves(ct_last):
        ct_last = None
    else:
        ct_last = materialise(ct_last, before)
    zero = Credit(jax.tree.map(jnp.zeros_like, inexact(before)), extra)
    gradient, credit, ct_xs = reverse(
        rule, cell, prepared, record, ct_zs, ct_last, zero, chunk
    )
    none = jax.tree.map(lambda _: None, (rule, prepared))
    return gradient, credit.state, credit.extra, ct_xs, *none


def _forward(cell, before, xs, unroll):
    def body(state, x):
        drive = cell.drive(cell.message(state), x)
        state = cell.integrate(state, drive)
        return state, (state, drive)

    last, (states, drives) = lax.scan(body, before, xs, unroll=unroll)
    return last, cell.emit(states), Record(before, states, drives, xs)


def _plain(rule, cell, before, xs, unroll):
    """A cell without neuron structure: JAX's own derivative of the rule's step."""

    def body(state, x):
        state = rule.step(cell, state, x)
        return state, (state, cell.emit(state))

    last, (states, zs) = lax.scan(body, before, xs, unroll=unroll)
    return last, zs, Record(before, states, None, xs)


def _twice(step):
    def body(memory, z):
        memory = step(memory, z)
        return memory, memory

    return body


def _dtype(state: PyTree) -> Any:
    return jnp.result_type(*jax.tree.leaves(inexact(state)))


def _sizes(cell: NeuronCell, batch: tuple[int, ...]) -> tuple[int, int]:
    size = 1
    for axis in batch:
        size *= axis
    return size, cell.hidden_size

"""`scan`: a cell over a segment of time, with a credit rule as its derivative."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _arguments as arguments
from ._budget import auto_chunk
from ._by_credit import credited_segment
from ._cell import AbstractCell, computing, Filtered, NeuronCell, SeparableCell
from ._cell._inputs import features, Inputs
from ._check import (
    check_advanced,
    check_credited,
    check_drive,
    check_flags,
    check_mapped,
    check_scan,
    check_start,
)
from ._credit import Credit, Flags
from ._flags import as_flags, erase, select, settled
from ._forward import forward_segment, influences
from ._precision import start_of, widened
from ._reverse import inner_cell
from ._rule import AbstractCreditRule, AbstractForwardRule, AbstractRule, BPTT, Carry
from ._segment import forward, landing, observed, past, plain, segment
from ._sharding import explicit_batch, over_steps, vary, varying, with_auto_axes
from ._start import start_learns
from ._trace import AbstractCarrier
from ._trace._advanced import Advanced
from ._tree import as_array, as_arrays, as_sequences, Data, stop


def scan(
    cell: AbstractCell,
    carry: PyTree,
    xs: Data,
    *,
    rule: AbstractRule = BPTT(),
    drive: PyTree = None,
    context: Data = None,
    done: Data = None,
    mask: Data = None,
    states: bool = False,
    chunk: int | None = None,
    unroll: int = 1,
) -> tuple[PyTree, ...]:
    r"""`jax.lax.scan` of a cell, with the credit rule as its derivative.

    \[ s_t = \mathrm{step}(s_{t-1}, x_t), \qquad z_t = \mathrm{emit}(s_t), \qquad
       \nabla_\theta = \sum_t \lambda_t F_t \]

    The value is the cell's whatever the rule; the rule says how the credit \(\lambda_t\) comes
    about (\(F_t = \partial s_t / \partial\theta\) at fixed received activity).

    **Arguments:**

    - `cell`: the dynamics; its inexact array leaves get gradients.
    - `carry`: a bare state (no past; it is differentiable, a learnable initial state), or the
        `Carry` that `rule.init(cell, state)` makes and `scan` returns (streaming: the past comes
        through its trace, and it takes no cotangent).
    - `xs`: inputs (T, *batch, m), T ≥ 1. They get the rule's credit from within the segment.
        Booleans, integers and narrower floats are cast to the state's dtype. As all data here,
        an array, NumPy's or JAX's, or nested lists of numbers.
    - `rule`: the credit rule.
    - `drive`: added to what the units receive: noise, an injected current, top-down input. It is
        (T, *batch, n), or, where a cell has several drives, a dict of those that get an addition
        (`{"candidate": noise}` of a `GRUCell`), or what `cell.drive` returns with None for the
        others. It gets the credit on the drive, as inputs with weights of their own would.
    - `context`: (T, *batch, k) signals that only the rule reads, such as labels for `DNI`; no
        gradient goes into them.
    - `done`: boolean (T, *batch): a sequence ends with this step. Its emission is still the old
        sequence's; then state, trace and what the rule has observed are those of no past, and the
        state is `cell.init` again: what credit comes to it there goes to the parameters that
        `init` reads. A sequence also ends with a step that `mask` leaves out.
    - `mask`: boolean (T, *batch), False for padding: the step does not take place. State and trace
        stay as they are, the emission is 0 and carries no credit; the input may be anything.
    - `states`: whether to return all states too, for a plot or a penalty on the membrane.
    - `chunk`: steps whose weight gradient is one matmul; by default 8 to 32 on CPU, half a
        megabyte an operand, and more on accelerators.
    - `unroll`: as in `jax.lax.scan`, for the forward pass.

    **Returns:** `(carry, zs)`: a carry of the kind that came, and the emissions (T, *batch, k).
    With `states`, `(carry, zs, states)`: the states after each step, leaves (T, *batch, ...), 0
    where padding takes the step's place. What a loss makes of them is direct credit on the state,
    as what it makes of the emission is, under every rule.

    **Cost:** memory O(T · state) an example in the reverse pass; with a `Carry`, the trace on top
    (dead code if unused). Chained segments with a `Carry` give exactly the offline gradient
    at fixed weights, for one recurrent layer. The derivative is one in reverse mode: `jax.jvp` and
    `jax.jacfwd` raise (their form is `jax.lax.scan` of `rule.step`, where a rule has one), under
    `jax.jit` and in what `jax.linearize` returns with JAX's message. Second derivatives work,
    also forward over reverse: `jax.hessian`, `jax.jvp` of `jax.grad`.

    **Precision:** parameters may be bfloat16 or float16, and so are then the operands of matmuls
    (in float16 not those that hold credit, which is out of its range). States, emissions, traces,
    credit and sums are float32 at least, also of a start that came narrower; gradients come in the
    parameters' dtype, and sums of any length lose no digits. Of cells whose matmuls are not the
    package's (`FunctionCell`), of equilibria and of `GLECell` all is computed in float32.

    **Errors:** ValueError for shapes, dtypes, T = 0, a rule that can't serve the cell, a carry of
    another rule, and a cell that closes over traced arrays.
    """
    states = arguments.boolean("states", states)
    cell, carry = as_arrays((cell, carry))
    xs, context, done, mask = _as_data(xs, context, done, mask)
    xs = check_scan(cell, carry, xs, rule, chunk, unroll)
    cell, carry = computing(cell), widened(carry)
    check_start(rule, cell, carry, xs)
    check_flags(xs, done, mask)
    drive = check_drive(cell, xs, as_sequences("drive", drive))
    inputs = xs if drive is None else Inputs(xs, drive)
    if mask is not None:
        # NaN in padding would reach the weights
        inputs, context = erase(~mask, (inputs, context))
    flags, ended = as_flags(done, mask, xs)
    cell, rule, carry, inputs, flags, ended, context = _mapped(
        cell, rule, carry, inputs, flags, ended, context
    )
    spec = explicit_batch(xs)
    if isinstance(rule, AbstractCreditRule):
        check_credited(rule, cell, carry, xs, context, spec)
        out = _credited(cell, carry, inputs, rule, context, flags, ended, unroll)
        return out if states else out[:2]
    streaming = isinstance(carry, Carry)
    run = functools.partial(
        _scan, streaming=streaming, with_states=states, chunk=chunk, unroll=unroll
    )
    if spec is not None:
        run = functools.partial(with_auto_axes, run, spec, states)
    if isinstance(carry, Carry):
        before = carry.trace, carry.observed
        state, (trace, so_far), *out = run(carry.state, before, inputs, cell, rule, flags)
        if ended is not None:
            state = select(ended, start_of(cell, ended.shape), state)
            so_far = erase(ended, so_far)
            carrier = _trace(rule, cell, xs)
            if carrier is not None:
                trace = begun(carrier, rule, cell, ended, trace)
        return Carry(state, trace, so_far, carry.rule), *out
    state, _, *out = run(carry, None, inputs, cell, rule, flags)
    if ended is not None:
        state = select(ended, start_of(cell, ended.shape), state)
    return state, *out


def begun(
    carrier: AbstractCarrier, rule: AbstractRule, cell: AbstractCell, ended: Array, trace: PyTree
) -> PyTree:
    """The trace of a carry, that of the cell's own start where an example has ended."""
    return stop(carrier.begin(rule, cell.effective(), ended, trace))


def _as_data(xs: Data, context: Data, done: Data, mask: Data) -> list:
    """What comes as data, as arrays; only xs has to be there."""
    named = {"context": context, "done": done, "mask": mask}
    rest = [None if value is None else as_array(name, value) for name, value in named.items()]
    return [as_array("xs", xs), *rest]


def _mapped(cell: AbstractCell, rule: Any, carry: PyTree, inputs: Any, *rest: PyTree) -> tuple:
    """What `scan` got, inside of `jax.shard_map` all of one type; elsewhere as it is."""
    axes = varying((cell, rule, carry, inputs, rest))
    if axes:
        trace = _trace(rule, cell, features(inputs)) if isinstance(carry, Carry) else None
        check_mapped(rule, trace, axes - varying(cell))
        if isinstance(carry, Carry) and isinstance(carry.trace, Advanced):
            check_advanced(carry.trace, axes)
    return vary((cell, rule, carry, inputs, *rest), axes)


def _credited(
    cell: AbstractCell,
    carry: PyTree,
    inputs: Array | Inputs,
    rule: AbstractCreditRule,
    context: Array | None,
    flags: Flags | None,
    ended: Array | None,
    unroll: int,
) -> tuple[PyTree, Array, PyTree]:
    """`scan` with states, under a rule whose trace the error advances."""
    trace, cell = rule.trace(cell), cell.effective()
    if isinstance(carry, Carry):
        state, value = stop(carry.state), carry.trace
    else:
        inner = carry[0] if isinstance(cell, Filtered) else carry
        state, value = carry, stop(rule.begin(trace, cell, inner, None))
    xs = features(inputs)
    if context is None:
        context = jnp.zeros((*xs.shape[:-1], 0), xs.dtype)
    pack = cell, value, state, inputs, context.astype(xs.dtype), flags, ended, trace, rule
    state, zs, states, pending = credited_segment(pack, unroll)
    if flags is not None:
        zs, states = erase(~flags.keep, (zs, states))
    if ended is not None:
        state = select(ended, start_of(cell, ended.shape), state)
    if isinstance(carry, Carry):
        return Carry(state, pending, carry.observed, carry.rule), zs, states
    return state, zs, states


def _scan(
    state: PyTree,
    before: PyTree,
    inputs: Array | Inputs,
    cell: AbstractCell,
    rule: AbstractRule,
    flags: Flags | None,
    *,
    streaming: bool,
    with_states: bool,
    chunk: int | None,
    unroll: int,
) -> tuple[PyTree, ...]:
    """`(state, past, zs)` after the segment, with `with_states` also all states.

    The past is (trace, so far observed), or None.
    """
    xs = features(inputs)
    trace: Any = _trace(rule, cell, xs) if streaming else None
    prepared = rule.prepare(inner_cell(cell))
    carried = ()
    if isinstance(rule, AbstractForwardRule) and rule.runs_forward(cell):
        # the cell as it came: its mask is the pattern of the influence
        carried = influences(rule, cell, xs.shape[-1], streaming=streaming)
    begin = _beginning(inner_cell(cell), flags)
    cell = cell.effective()
    inner, batch = inner_cell(cell), xs.shape[1:-1]
    if streaming:
        state, (value, so_far) = stop((state, before))
    else:
        value, so_far = None, rule.unobserved(inner, batch)
    start = Credit(state, rule.extra(inner, batch))
    if isinstance(cell, Filtered):
        start = Credit(state[0], start.extra, state[1])
    if trace is not None:
        if len(xs) == 1 and flags is None and isinstance(inner, NeuronCell):
            if rule.arrive(inner, prepared, start) is not None:
                out = _one_step((value, so_far), inputs, cell, rule, start, prepared, trace)
                return out if with_states else out[:3]
        if not carried or isinstance(cell, Filtered):
            start = past((inner, start, value, trace, rule, prepared))
    if carried:
        rest = cell, value, *carried, rule, prepared
        pack = inner, start.state, inputs, begin, flags, rest
        last, zs, record, value = forward_segment(pack, unroll)
    elif isinstance(inner, SeparableCell):
        chunk = chunk or auto_chunk(math.prod(batch), inner.hidden_size)
        pack = inner, start.state, start.extra, inputs, begin, rule, prepared, so_far, flags
        last, zs, record, so_far = segment(pack, chunk=chunk, unroll=unroll)
    else:
        last, zs, record = plain(rule, inner, start.state, xs, flags, unroll, begin)
    states = record.states
    if isinstance(cell, Filtered):

        def body(memory, at):
            z, flags = at
            if flags is not None:
                memory = erase(flags.fresh, memory)
            memory = settled(flags, cell.filter(memory, z), memory)
            return memory, memory

        memory, memories = over_steps(body, start.filter, (zs, flags), unroll=unroll)
        memories, so_far = rule.broadcast(cell, prepared, record, start.filter, memories, so_far)
        last, zs, states = (last, memory), cell.read(memories), (states, memories)
    if flags is not None:
        zs, states = erase(~flags.keep, (zs, states))
    if trace is not None and not carried:
        value = stop(trace.extend(*stop((rule, cell, prepared, record, value))))
    out = last, (value, stop(so_far)) if streaming else None, zs
    return (*out, states) if with_states else out


def _beginning(cell: AbstractCell, flags: Flags | None) -> PyTree:
    """The state that sequences inside a segment begin with, if it learns; else None."""
    if flags is None or not start_learns(cell):
        return None
    return start_of(cell, flags.fresh.shape[1:])


def _trace(rule: AbstractRule, cell: AbstractCell, xs: Array) -> AbstractCarrier | None:
    if isinstance(rule, AbstractForwardRule) and rule.runs_forward(cell):
        return rule.influence(cell, xs.shape[-1])
    return rule.trace(cell)


def _one_step(
    before: PyTree,
    inputs: Array | Inputs,
    cell: AbstractCell,
    rule: Any,
    start: Credit,
    prepared: Any,
    trace: Any,
) -> tuple[PyTree, PyTree, Array, PyTree]:
    """`_scan`, with states, of one step: the trace includes it, and so knows all its credit."""
    inner = inner_cell(cell)
    assert isinstance(inner, NeuronCell)
    value, so_far = before
    last, z, record = stop(forward(inner, start.state, inputs, None, 1))
    record, so_far = stop(observed(rule, inner, prepared, record, so_far))
    value = stop(trace.extend(*stop((rule, cell, prepared, record, value))))
    end = Credit(last, start.extra)
    if isinstance(cell, Filtered):
        end = Credit(last, start.extra, cell.filter(start.filter, z[0]))
    end = landing((inner, end, inputs, (cell, record, value, trace, rule, prepared)))
    last, z = end.state, inner.emit
    if isinstance(cell, Filtered):
        last, z = (end.state, end.filter), cell.emit
    states = jax.tree.map(lambda a: a[None], last)
    return last, (value, so_far), z(last)[None], states

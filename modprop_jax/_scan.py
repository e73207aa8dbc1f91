"""`scan`: a cell over a segment of time, with a credit rule as its derivative."""

from jaxtyping import Array, PyTree

from . import _arguments as arguments
from ._cell import AbstractCell, computing
from ._check import (
    check_drive,
    check_explicit,
    check_flags,
    check_mapped,
    check_program,
    check_scan,
)
from ._flags import as_flags, erase
from ._inputs import Inputs
from ._noisy import current
from ._precision import widened
from ._program._base import AbstractProgram, Boundary, Loop, Steps
from ._rule import AbstractRule, BPTT, Carry
from ._rule._base import is_carry
from ._sharding import explicit_batch, vary, varying, with_auto_axes
from ._tree import as_array, as_arrays, as_sequences, Data


def scan(
    cell: AbstractCell,
    carry: PyTree,
    xs: Data,
    *,
    rule: AbstractRule = BPTT(),
    drive: PyTree = None,
    context: Data = None,
    done: Data = None,
    valid: Data = None,
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
        `init` reads. A sequence also ends with a step that is not `valid`.
    - `valid`: boolean (T, *batch), False for padding: the step does not take place. State and trace
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
    xs = check_scan(cell, carry, as_array("xs", xs), rule, chunk, unroll)
    cell, carry = computing(cell), widened(carry)
    steps = _steps(cell, xs, drive, context, done, valid)
    noisy = current()
    if noisy is not None:
        steps = noisy.push(cell, steps)
    came = cell, rule, carry, steps
    axes = varying(came)
    cell, rule, carry, steps = vary(came, axes)
    program = rule.on(cell, xs.shape[-1], streams=is_carry(carry))
    check_program(program)
    check_mapped(program, came, axes)
    end, zs, after = _run(program, enter(carry), steps, Loop(chunk, unroll))
    if steps.ended is not None:
        end = program.begin(steps.ended, end)
    out = leave(carry, end), zs
    return (*out, after) if states else out


def enter(carry: PyTree) -> Boundary:
    """Of what came to `scan`: a carry, or a bare state."""
    if is_carry(carry):
        return Boundary(carry.state, carry.trace, carry.observed)
    return Boundary(carry)


def leave(carry: PyTree, end: Boundary) -> PyTree:
    """What goes on from there, of the kind that came."""
    return Carry(*end, carry.rule) if is_carry(carry) else end.state


def _steps(
    cell: AbstractCell, xs: Array, drive: PyTree, context: Data, done: Data, valid: Data
) -> Steps:
    """The steps, with nothing in padding: NaN there would reach the weights."""
    named = {"context": context, "done": done, "valid": valid}
    context, done, valid = (v if v is None else as_array(n, v) for n, v in named.items())
    check_flags(xs, done, valid)
    drive = check_drive(cell, xs, as_sequences("drive", drive))
    inputs = xs if drive is None else Inputs(xs, drive)
    if valid is not None:
        inputs, context = erase(~valid, (inputs, context))
    flags, ended = as_flags(done, valid, xs)
    return Steps(inputs, flags, context, ended)


def _run(
    program: AbstractProgram, start: Boundary, steps: Steps, loop: Loop
) -> tuple[Boundary, Array, PyTree]:
    """The segment; where the type of the inputs says that a batch is sharded, with Auto axes."""

    def segment(program, start, steps):
        end, zs, after = program.segment(start, steps, loop)
        if (noisy := current()) is not None:
            noisy.meet(program, start.state, steps, after)
        if steps.flags is not None:
            zs, after = erase(~steps.flags.keep, (zs, after))
        return end, zs, after

    spec = explicit_batch(steps.xs)
    if spec is None:
        return segment(program, start, steps)
    check_explicit(program)
    return with_auto_axes(segment, spec, program, start, steps)

"""Examples of a carry: those that begin anew, and those that are selected."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._arguments import shown
from ._cell import AbstractCell, computing
from ._check import check_carry, check_ended, check_index
from ._flags import select
from ._precision import start_of, widened
from ._program._base import Boundary
from ._rnn import RNN
from ._rule import Carry
from ._scan import leave
from ._trace._by_error import ByError
from ._tree import as_array, as_arrays, Data, distinct


def reset(layer: AbstractCell | RNN, carry: PyTree, ended: Data) -> PyTree:
    """The carry with some examples back at a fresh start, all others as they are.

    Their state is `cell.init`, their trace that of no past, and nothing is observed of them: as if
    the step before had come with `done`. What all examples share, as the weights of `DNI` and
    `KeRNL`, stays, and so do streams of random numbers. For environments that end one by one
    between two segments. A `where` leaf by leaf over the carry is wrong: see `Carry`.

    **Arguments:**

    - `layer`: the `RNN`, or the cell.
    - `carry`: a `Carry` of it, or a bare state.
    - `ended`: boolean (*batch), which examples.

    **Errors:** ValueError for another shape or dtype, a carry of another layer, and, within a loss,
    a carry whose trace goes on with the error (`DNI`, `GLE`): reset that between two segments.
    """
    cell, carry = as_arrays((_cell_of(layer, carry, "reset"), carry))
    ended = as_array("ended", ended)
    state = carry.state if isinstance(carry, Carry) else carry
    check_ended(cell, state, ended)
    cell, state = computing(cell), widened(state)
    if not isinstance(carry, Carry):
        return select(ended, start_of(cell, ended.shape), state)
    end = Boundary(state, carry.trace, carry.observed)
    return leave(carry, carry.rule.on(cell).begin(ended, end))


def take_examples(layer: AbstractCell | RNN, carry: PyTree, index: Data) -> PyTree:
    """The carry of some examples of the batch: a selection, a shuffle, or repetitions.

    **Arguments:** `layer`: the `RNN`, or the cell. `carry`: a `Carry` of it, or a bare state.
    `index`: integers (k,), the new examples' places on the first axis of the batch.

    **Errors:** ValueError for another shape or dtype, a batch without axes, a carry of another
    layer, and a rule with a table of noise for each example.
    """
    cell, carry = as_arrays((_cell_of(layer, carry, "take_examples"), carry))
    index = as_array("index", index)
    state = carry.state if isinstance(carry, Carry) else carry
    check_index(cell, state, index)
    if isinstance(carry, Carry) and carry.rule.by_place:
        raise ValueError(
            f"take_examples can't take the noise of {carry.made_by}, a table (T, *batch, k) with a "
            "row for each place in the batch: pass (T, k), or let the rule draw it."
        )

    def take(tree, axis=0):
        return jax.tree.map(lambda a: jnp.take(a, index, axis=axis), tree)

    if not isinstance(carry, Carry):
        return take(carry)
    trace, value = carry.rule.on(computing(cell)).trace, carry.trace
    if trace is not None:

        def one(leaf, axis):
            return leaf if axis is None else take(leaf, axis)

        inner = value.value if isinstance(value, ByError) else value
        axes = trace.batch_axes(inner)
        inner = jax.tree.map(one, inner, axes)
        value = ByError(inner) if isinstance(value, ByError) else inner
    return distinct(Carry(take(state), value, take(carry.observed), carry.rule), carry)


def _cell_of(layer: object, carry: PyTree, name: str) -> AbstractCell:
    """The cell, where the carry is one of its own."""
    cell = layer.cell if isinstance(layer, RNN) else layer
    if not isinstance(cell, AbstractCell):
        raise ValueError(f"layer of {name} must be an RNN or a cell, but is {shown(layer)}.")
    if isinstance(carry, Carry):
        check_carry(cell, carry, layer.rule if isinstance(layer, RNN) else carry.rule)
    return cell
